"""Recipes for one's own images: their settings follow from the images and the machine by a table.

    | smaller side of a level, px       | 256 | 128 |  64 |  32 |  16 |   8 |
    |-----------------------------------|-----|-----|-----|-----|-----|-----|
    | width of the level, on CPU cores  |  16 |  16 |  24 |  32 |  64 | 128 |
    | width of the level, on a GPU      |  64 |  96 | 128 | 192 | 256 | 384 |

    | smaller side of the images, px    | 256 | 128 |  64 |  32 |  16 |
    |-----------------------------------|-----|-----|-----|-----|-----|
    | batch size, on CPU cores          |   8 |  16 |  32 |  64 |  64 |
    | batch size, on a GPU              |  32 |  64 | 128 | 256 | 256 |
    | thousands of images, CPU cores    |  50 | 100 | 300 | 600 | 900 |
    | millions of images, on a GPU      |   4 |   6 |  10 |  15 |  15 |

Sides in between take the nearest column. A level follows another of half its sides while both of
them divide and the smaller one is not below 6 px. The length is at most 400 times the number of
images, and at least 20,000. The learning rate is 0.001 on CPU cores, where networks are narrow, and
0.0005 on a GPU; it stays constant once it has risen, so that a run can be made longer.
`docs/images.md` says what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from overtone.denoisers.guidance import GuidanceSettings
from overtone.denoisers.preconditioning import EDMPreconditioning
from overtone.errors import OvertoneError
from overtone.networks.configs.adm import ADMConfig
from overtone.networks.configs.diffit import DiffiTTransformerConfig
from overtone.networks.configs.iunet import IUNetConfig
from overtone.networks.configs.vae import VAEConfig
from overtone.processes.discrete import step_shares
from overtone.processes.relay import RelayProcess
from overtone.processes.schedule import QuantileSchedule
from overtone.ranges import check_fields
from overtone.samplers.sampler import SECOND_STAGE, Sampler
from overtone.sizes import Resolution, divided, shown, sides
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.configs.training import Reporting, Training
from overtone.training.configs.vae import VAERecipe
from overtone.training.recipes.meme import with_experts

SMALLEST, LARGEST = 16, 256
"""pixels of the smaller side that the table is for"""
LOWEST_LEVEL = 6
"""no level of a network is smaller"""
LARGEST_LOWEST = 45
"""pixels of the smaller side of the lowest level, at most: each pixel of it attends to all"""
_WIDTHS = {"cpu": (16, 16, 24, 32, 64, 128), "gpu": (64, 96, 128, 192, 256, 384)}
_BATCHES = {"cpu": (8, 16, 32, 64, 64), "gpu": (32, 64, 128, 256, 256)}
_LENGTHS = {
    "cpu": (50_000, 100_000, 300_000, 600_000, 900_000),
    "gpu": (4_000_000, 6_000_000, 10_000_000, 15_000_000, 15_000_000),
}
MOST_EPOCHS, SHORTEST = 400, 20_000
EMA_LENGTHS = (0.05, 0.1)
"""of the averages from which any other is made afterwards, those that EDM2 keeps"""
_LATENT_LENGTHS = {"cpu": 200_000, "gpu": 20_000_000}


@dataclass(frozen=True)
class Facts:
    """What the settings follow from."""

    resolution: Resolution = 32
    """The resolution of the images."""
    channels: int = 3
    images: int | None = None
    """The number of images. None means that there is no end."""
    num_classes: int = 0
    sigma_data: float = 0.5
    """The standard deviation of the images' values in [-1, 1]."""
    gpu: bool = False

    first_resolution: Resolution = 8
    """The resolution of a relay's first stage, by default a quarter."""
    latent: tuple[Resolution, int] | None = None
    """The resolution and channels of the latents of the VAE that is given."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def machine(self) -> str:
        return "gpu" if self.gpu else "cpu"

    def row(self, table: Mapping[str, tuple[int, ...]], side: int | None = None) -> int:
        """The entry of a table for a side, that of the nearest column for one in between."""
        side = min(sides(self.resolution)) if side is None else side
        own = table[self.machine]
        place = round(math.log2(LARGEST / side))
        return own[min(max(place, 0), len(own) - 1)]


def levels_of(resolution: Resolution) -> list[int]:
    """The smaller sides of a network's levels, from the whole image on."""
    found = [min(sides(resolution))]
    while found[-1] // 2 >= LOWEST_LEVEL and not any(side % 2 for side in sides(resolution)):
        resolution = divided(resolution, 2)
        found.append(min(sides(resolution)))
    return found


def images(facts: Facts | None = None) -> DenoisingRecipe:
    """Images of one's own, by EDM's training of ADM's U-Net."""
    facts = facts or Facts()
    return DenoisingRecipe(
        about="ADM's U-Net makes images like your own, of 16 to 256 px. The settings follow"
        " from the images (docs/images.md).",
        network=ADMConfig(**_unet(facts)),
        preconditioning=EDMPreconditioning(sigma_data=facts.sigma_data),
        training=replace(_training(facts), ema_lengths=EMA_LENGTHS),
        reporting=_reporting(facts),
        **_labelled(facts),
    )


def relay_images(facts: Facts | None = None) -> DenoisingRecipe:
    """A relay's second stage: it continues images of `facts.first_resolution`."""
    facts = facts or Facts()
    (high, _), (low, _) = sides(facts.resolution), sides(facts.first_resolution)
    schedule = QuantileSchedule(prob_length=0.93, truncate_sigma=0.0075)
    return replace(
        images(facts),
        about="A relay makes images like your own at a higher resolution. Its first stage is"
        " trained first.",
        schedule=schedule,
        process=RelayProcess(patch=high // low, schedule=schedule),
        sampler=SECOND_STAGE,
        guidance=GuidanceSettings(),
    )


def meme_images(facts: Facts | None = None) -> DenoisingRecipe:
    """Four experts of the published shapes, which begin from one trunk."""
    facts = facts or Facts()
    recipe = meme_trunk(facts)
    plan = recipe.training
    return replace(
        with_experts(recipe, step_shares(Sampler().sigmas, 4)),
        about="Four experts make images like your own. They all begin from one trunk.",
        training=replace(
            plan, total_images=plan.total_images // 4, lr_rampup_images=0, ema_lengths=()
        ),
        reporting=_reporting(facts, plan.total_images // 4),
    )


def meme_trunk(facts: Facts) -> DenoisingRecipe:
    """The iU-Net that the experts begin from, half as long as a network by itself."""
    recipe = images(facts)
    unet = _unet(facts) | {"num_cells": 2, "head_channels": 8 if not facts.gpu else 16}
    length = recipe.training.total_images // 2
    return replace(
        recipe,
        network=IUNetConfig(**unet),
        training=_training(facts, length),
        reporting=_reporting(facts, length),
    )


def latent_images(facts: Facts | None = None) -> DenoisingRecipe:
    """DiffiT's transformer in the latents of a VAE."""
    facts = facts or Facts(resolution=64)
    resolution, channels = facts.latent or (divided(facts.resolution, vae_factor(facts)), 4)
    side = min(sides(resolution))
    patch = 2 if side >= 32 and not any(one % 2 for one in sides(resolution)) else 1
    size = {"width": 768, "depth": 12, "heads": 12} if facts.gpu else {
        "width": 256, "depth": 6, "heads": 8
    }  # fmt: skip
    length = _length(facts, _LATENT_LENGTHS[facts.machine])
    return DenoisingRecipe(
        about="DiffiT makes images like your own in the latents of a VAE, which is given or"
        " trained first.",
        network=DiffiTTransformerConfig(
            resolution=resolution, channels=channels, patch=patch, learned_variance=False, **size
        ),
        # Latents have unit variance.
        preconditioning=EDMPreconditioning(sigma_data=1.0),
        schedule=QuantileSchedule(P_mean=0.0),
        training=replace(
            _training(facts, length), batch_size=256 if facts.gpu else 32, ema_lengths=EMA_LENGTHS
        ),
        reporting=_reporting(facts, length),
        **_labelled(facts),
    )


def vae_factor(facts: Facts) -> int:
    """How many times smaller latents are than the images, with a VAE that is trained here."""
    return 8 if min(sides(facts.resolution)) >= 128 else 4


def vae_images(facts: Facts) -> VAERecipe:
    """The VAE of one's own images."""
    depth = vae_factor(facts).bit_length()
    narrow = (32, 64, 64, 64) if not facts.gpu else (64, 128, 256, 256)
    length = _length(facts, 2_000_000 if facts.gpu else 40_000)
    plan = _training(facts, length)
    return VAERecipe(
        about="A VAE encodes images like your own.",
        network=VAEConfig(
            resolution=facts.resolution, channels=facts.channels, widths=narrow[:depth]
        ),
        training=replace(plan, batch_size=min(plan.batch_size, 32), ema_halflife_images=2_000),
        reporting=_reporting(facts, length),
    )


def dsno_images(facts: Facts | None = None) -> DistillationRecipe:
    """A model of one's own images, given or trained first, in one evaluation."""
    facts = facts or Facts()
    length = _length(facts, 4_000_000 if facts.gpu else 60_000)
    return DistillationRecipe(
        about="An operator makes images like your own in one evaluation. The teacher is given"
        " or trained first.",
        solver="dpmpp_2m",
        steps=14,
        count=50_000 if facts.gpu else 4_000,
        training=replace(_training(facts, length), lr_rampdown_images=length // 2),
        reporting=replace(_reporting(facts, length), held_out_images=256),
    )


def _unet(facts: Facts) -> dict[str, Any]:
    levels = levels_of(facts.resolution)
    if levels[-1] > LARGEST_LOWEST:
        near = dict.fromkeys(max(8, round(side / 8) * 8) for side in sides(facts.resolution))
        raise OvertoneError(
            f"{shown(facts.resolution)} px can't be halved often enough for a U-Net, whose lowest"
            f" level has {LARGEST_LOWEST} px a side at most: choose multiples of 8,"
            f" --resolution {' '.join(map(str, near))} for example."
        )
    return {
        "resolution": facts.resolution,
        "channels": facts.channels,
        "widths": tuple(facts.row(_WIDTHS, side) for side in levels),
        "num_cells": 2 if facts.gpu else 1,
        "attention_resolutions": tuple(side for side in levels if side <= (16 if facts.gpu else 8)),
        "head_channels": 64 if facts.gpu else 32,
        "embedding_width": 512 if facts.gpu else 192,
        "dropout": 0.1 if facts.gpu else 0.0,
    }


def _labelled(facts: Facts) -> dict[str, Any]:
    if not facts.num_classes:
        return {}
    return {
        "class_conditional": True,
        "label_dropout": 0.1,
        "guidance": GuidanceSettings(scale=1.5),
    }


def _length(facts: Facts, most: int) -> int:
    longest = most if facts.images is None else MOST_EPOCHS * facts.images
    return max(SHORTEST, min(most, longest))


def _training(facts: Facts, length: int | None = None) -> Training:
    length = length or _length(facts, facts.row(_LENGTHS))
    return Training(
        total_images=length,
        batch_size=facts.row(_BATCHES),
        lr=5e-4 if facts.gpu else 1e-3,
        lr_rampup_images=length // 50,
        ema_halflife_images=max(2_000, length // 20),
        ema_rampup_ratio=0.1,
    )


def _reporting(facts: Facts, length: int | None = None) -> Reporting:
    length = length or _length(facts, facts.row(_LENGTHS))
    return Reporting(
        report_images=max(1_000, length // 100),
        checkpoint_images=max(2_000, length // 20),
    )
