"""What a relay is to be compared with: a cascade, whose second stage starts from noise and sees the
small image beside its input (Ho et al. 2021, arXiv 2106.15282).

`relay.py` trains it by the recipe of a relay: the same network but for its input's channels, the
same number of images. The small image is enlarged and, so that it forgives a first stage its
mistakes, noised: in training by a level uniform in [0, 0.4] of which the network is not told.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overtone import ADMConfig, ADMUNet, open_data, settings
from overtone.data import held_out
from overtone.denoisers import Denoiser, Estimate
from overtone.processes import SeededNoise
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.objectives import Batch, DenoisingObjective
from overtone.training.progress import Progress
from overtone.training.task import Task

NETWORK = "network"
LOW_NOISE = 0.4


class CascadeDenoiser(Denoiser):
    """EDM's preconditioning on the first half of the channels; the other half, the small image
    enlarged, is shown to the network as it is and comes back as it is."""

    def __init__(self, network: ADMUNet, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network, self.sigma_data = network, sigma_data
        self.num_classes = network.config.num_classes

    def forward(
        self, x: Tensor, sigma: float | Tensor, class_labels: Tensor | None = None
    ) -> Estimate:
        noisy, low = x.chunk(2, dim=1)
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        level = levels[:, None, None, None]
        variance = level**2 + self.sigma_data**2
        shown = torch.cat((noisy * variance**-0.5, low / self.sigma_data), dim=1)
        out = self.network(shown, levels.log() / 4, class_labels)[:, : noisy.shape[1]]
        estimate = self.sigma_data**2 / variance * noisy
        estimate = estimate + level * self.sigma_data * variance**-0.5 * out
        return Estimate(torch.cat((estimate, low), dim=1))


@dataclass(frozen=True)
class CascadeObjective(DenoisingObjective):
    """The loss on images beside their small ones; these are exact, which halves its value."""

    factor: int = 4

    def draw(self, x_0: Tensor, labels: Tensor, source: SeededNoise) -> Batch:
        batch = super().draw(x_0, labels, source)
        small = F.avg_pool2d(batch["x_0"], self.factor)
        level = LOW_NOISE * source.uniform().float()[:, None, None, None]
        low = enlarged(small + level * source.normal(small), self.factor)
        batch["x_0"] = torch.cat((batch["x_0"], low), dim=1)
        batch["noise"] = torch.cat((batch["noise"], torch.zeros_like(low)), dim=1)
        return batch


def enlarged(small: Tensor, factor: int) -> Tensor:
    return F.interpolate(small, scale_factor=factor, mode="nearest")


class CascadeTask(Task):
    """Training the second stage of a cascade on the images of a recipe."""

    def __init__(self, recipe: DenoisingRecipe) -> None:
        network = recipe.network
        assert isinstance(network, ADMConfig)
        size, channels = network.resolution, network.channels
        self.data = open_data(recipe.data, size, channels)
        self.held_out = held_out(recipe.data, size, channels)
        classes = self.data.num_classes
        config = dataclasses.replace(network, channels=2 * channels, num_classes=classes)
        torch.manual_seed(recipe.training.seed)
        self.model = CascadeDenoiser(ADMUNet(config).to_fast_layout())
        self.objective = CascadeObjective(
            num_classes=classes, label_dropout=0.1, mirror=recipe.mirror
        )
        self.identity = {
            "cascade": settings.dump(config),
            "training": recipe.training.identity(),
        }

    def export(self, average: nn.Module, folder: Path, progress: Progress) -> None:
        denoiser: Any = average
        (folder / NETWORK).mkdir()
        denoiser.network.write_into(folder / NETWORK)

    def opened(self, checkpoint: Path) -> CascadeDenoiser:
        return CascadeDenoiser(
            ADMUNet.from_pretrained(checkpoint / NETWORK).eval().to_fast_layout()
        )
