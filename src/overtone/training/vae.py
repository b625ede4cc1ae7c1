"""Training the VAE of a data set whose latents are to be diffused."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone.data.images import to_pixels
from overtone.denoisers.denoiser import Images
from overtone.errors import plain
from overtone.launch import processes
from overtone.networks.vae import FOLDER, VAE
from overtone.pipelines.pictures import grid
from overtone.processes.noise import SeededNoise
from overtone.sizes import divided, sides
from overtone.training.configs.vae import VAERecipe
from overtone.training.initial import begin_vae_with, open_initial_vae
from overtone.training.material import Material, material_of
from overtone.training.objectives import Batch, Objective
from overtone.training.progress import Progress
from overtone.training.task import Picture, Task

SCALE_IMAGES = 1024  # images whose latents' standard deviation makes the scaling factor
PICTURES = 40  # of the grid, above their reconstructions


@dataclass(frozen=True)
class VAEObjective(Objective):
    """Squared error of the reconstruction and, faintly, the divergence of the latents from N(0, 1):

        |x - decode(z)|^2 / values + w KL,   z ~ N(mean, std^2) = encode(x)
        KL = sum (mean^2 + std^2 - 1 - ln std^2) / 2

    (Kingma & Welling 2013; as weak as in latent diffusion, arXiv 2112.10752). `shape` is that of a
    latent.
    """

    shape: tuple[int, int, int]
    kl_weight: float

    def draw(self, x_0: Images, labels: Int[Tensor, " batch"], source: SeededNoise) -> Batch:
        return {"images": x_0, "noise": source.normal(x_0.new_empty(len(x_0), *self.shape))}

    def loss(
        self, model: nn.Module, batch: Batch, average: nn.Module | None = None
    ) -> Float[Tensor, " batch"]:
        made, mean, log_variance = (t.float() for t in model(batch["images"], batch["noise"]))
        divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3)) / 2
        error = (made - batch["images"]).square().mean(dim=(1, 2, 3))
        return error + self.kl_weight * divergence


class VAETask(Task):
    """Training a VAE. A checkpoint's folder `vae` is what diffusers saves, scaled."""

    def __init__(
        self,
        recipe: VAERecipe,
        *,
        material: Material | None = None,
        begun: dict[str, Any] | None = None,
        show: bool = True,
    ) -> None:
        self.data, self.held_out, _ = material or material_of(recipe, show=show)
        self.recipe = recipe
        config = recipe.network
        torch.manual_seed(recipe.training.seed)
        vae = config.build().to(memory_format=torch.channels_last)
        self.model = vae
        shape = (config.latent_channels, *sides(divided(config.resolution, vae.factor)))
        self.objective = VAEObjective(shape, recipe.kl_weight)
        self.identity = recipe.identity() | (begun or self._initialised(vae, show))

    def _initialised(self, vae: VAE, show: bool) -> dict[str, Any]:
        """Give the VAE the weights that the recipe begins with; what is written down of it."""
        if not self.recipe.init:
            return {}
        initial = open_initial_vae(self.recipe.init)
        copied = begin_vae_with(vae, initial)
        if show and processes().is_main:
            print(*map(plain, copied.told()), sep="\n", file=sys.stderr)
        return initial.facts(copied)

    @property
    def of(self) -> str:
        return f"images of {self.recipe.data}, for a VAE"

    def export(self, average: nn.Module, folder: Path, progress: Progress) -> None:
        vae: Any = average
        device = next(vae.parameters()).device
        with torch.no_grad():
            parts = [
                vae.encode(part.to(device))[0] for part in self._images(SCALE_IMAGES).split(64)
            ]
        vae.scaling_factor = 1 / float(torch.cat(parts).std())
        (folder / FOLDER).mkdir()
        vae.write_into(folder / FOLDER)

    def picture(self, average: nn.Module, progress: Progress) -> Picture:
        """Rows of images, each above the row of their reconstructions."""
        vae: Any = average
        shown = self._images(PICTURES).to(next(vae.parameters()).device)
        shown = shown[: len(shown) // 10 * 10] if len(shown) > 10 else shown
        with torch.no_grad():
            made = vae.model(shown).sample
        rows = [row for pair in zip(shown.split(10), made.split(10), strict=True) for row in pair]
        return Picture(grid(to_pixels(torch.cat(rows).float()).cpu(), 10, gap=1))

    def opened(self, checkpoint: Path) -> VAE:
        return VAE.from_pretrained(checkpoint)

    def _images(self, count: int) -> Tensor:
        pixels, _ = self.data.fetch(self.data.spread(min(count, len(self.data))))
        return self.data.clean(pixels, SeededNoise([]))
