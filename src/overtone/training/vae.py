"""Training the VAE of a data set whose latents are to be diffused, and finding it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro
from jaxtyping import Float, Int
from PIL.Image import Image
from torch import Tensor, nn

from overtone import settings
from overtone.data import ImageData, to_pixels
from overtone.denoisers.denoiser import Images
from overtone.errors import OvertoneError
from overtone.networks.vae import FOLDER, VAE, VAEConfig
from overtone.pipelines.base import grid
from overtone.processes import SeededNoise
from overtone.training.loop import Reporting, Trainer, Training
from overtone.training.objectives import Batch, Objective
from overtone.training.rundir import RUN_FILE, check_made, find_checkpoint

SCALE_IMAGES = 1024  # images whose latents' standard deviation makes the scaling factor
PICTURES = 40  # of the grid, above their reconstructions


@dataclass(frozen=True)
class VAERecipe:
    """Everything that decides what the training of a VAE makes. Each field is an option."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    about: Annotated[str, tyro.conf.Suppress]
    """what it is for, and what it needs"""
    network: VAEConfig
    data: str = ""
    """builtin:glyphs, fashion-mnist, a folder or zip of images, or hf:..."""
    skip_bad_images: bool = False
    """leave out images that can't be read or are too small, instead of stopping"""
    kl_weight: float = 1e-6
    """of the latents' divergence from N(0, 1), summed, against the error of the values, averaged"""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    reporting: Annotated[Reporting, tyro.conf.arg(name="")] = field(default_factory=Reporting)
    kind: Literal["vae"] = "vae"

    def identity(self) -> dict[str, Any]:
        """The settings that the weights depend on: a run goes on only with the same ones."""
        recipe = settings.dump(self) | {"training": self.training.identity()}
        for free in ("about", "kind", "reporting", "skip_bad_images"):
            del recipe[free]
        return recipe


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

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        made, mean, log_variance = (t.float() for t in model(batch["images"], batch["noise"]))
        divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3)) / 2
        error = (made - batch["images"]).square().mean(dim=(1, 2, 3))
        return error + self.kl_weight * divergence


def vae_trainer_of(
    recipe: VAERecipe, data: ImageData, test: ImageData | None, *, show: bool
) -> Trainer:
    """The trainer of a VAE. A checkpoint's folder `vae` is what diffusers saves, scaled."""
    config = recipe.network
    torch.manual_seed(recipe.training.seed)
    vae = VAE.build(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side = config.resolution // vae.factor
    objective = VAEObjective((config.latent_channels, side, side), recipe.kl_weight)

    def images(count: int) -> Tensor:
        pixels, _ = data.fetch(data.spread(min(count, len(data))))
        return data.clean(pixels, SeededNoise([]))

    def export(vae: Any, folder: Path) -> None:
        device = next(vae.parameters()).device
        with torch.no_grad():
            parts = [vae.encode(part.to(device))[0] for part in images(SCALE_IMAGES).split(64)]
        vae.scaling_factor = 1 / float(torch.cat(parts).std())
        (folder / FOLDER).mkdir()
        vae.write_into(folder / FOLDER)

    def picture(vae: Any) -> Image:
        """Rows of images, each above the row of their reconstructions."""
        shown = images(PICTURES).to(next(vae.parameters()).device)
        shown = shown[: len(shown) // 10 * 10] if len(shown) > 10 else shown
        with torch.no_grad():
            made = vae.model(shown).sample
        rows = [row for pair in zip(shown.split(10), made.split(10), strict=True) for row in pair]
        return grid(to_pixels(torch.cat(rows).float()).cpu(), 10, gap=1)

    return Trainer(
        model=vae,
        objective=objective,
        data=data,
        held_out=test,
        identity=recipe.identity(),
        recipe=settings.dump(recipe),
        training=recipe.training,
        reporting=recipe.reporting,
        export=export,
        picture=picture,
        show=show,
    )


def open_vae(name: str | Path, scaling_factor: float | None = None) -> VAE:
    """The VAE in a directory, in a run of a VAE's recipe or in a repository of the Hub."""
    check_made(name, "the VAE", "another --vae")
    if (Path(name).expanduser() / RUN_FILE).exists():
        folder = find_checkpoint(Path(name).expanduser())
        if not (folder / FOLDER).is_dir():
            raise OvertoneError(f"{name} is the run of another recipe: it has no VAE.")
        name = folder
    return VAE.from_pretrained(name, scaling_factor)
