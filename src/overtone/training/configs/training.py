"""How a run trains, and how it is watched and kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from overtone import settings

Precision = Literal["auto", "bf16", "fp32"]
TrackerName = Literal["tensorboard", "wandb"]


@dataclass(frozen=True)
class Training:
    """How the weights come about. All of it is fixed for a run, but `gradient_checkpointing` and,
    with no ramp-down, `total_images`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    seed: int = 0
    """decides the initial weights, the order of the images and all noise"""
    total_images: int = 100_000_000
    """length of the run, in images seen"""
    batch_size: int = 512
    """images a step, over all micro-batches"""
    micro_batch: int | None = None
    """images a forward pass, where memory is short; none: the whole batch"""
    lr: float = 1e-3
    """Adam's learning rate after the ramp"""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates"""
    lr_rampup_images: int = 10_000_000
    """the learning rate rises linearly over this many images"""
    lr_rampdown_images: int = 0
    """and falls linearly to 0 over the run's last ones; 0: stays constant, as in EDM"""
    lr_halved_images: tuple[int, ...] = ()
    """and is halved at each of these numbers of images"""
    clip_norm: float | None = 1.0
    """gradients are scaled down to this norm; none: never"""
    ema_halflife_images: int = 500_000
    """half-life of the weights' average, in images"""
    ema_rampup_ratio: float | None = 0.05
    """the half-life is at most this share of the images seen; none: no ramp-up"""
    precision: Precision = "auto"
    """auto: bf16 where the hardware has matrix units for it"""
    compile: bool = False
    """torch.compile the network; pays on a GPU"""
    gradient_checkpointing: bool = False
    """compute a transformer's blocks twice instead of keeping their features: less memory"""

    def __post_init__(self) -> None:
        for name in ("total_images", "batch_size", "lr", "ema_halflife_images"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("lr_rampup_images", "lr_rampdown_images"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in ("clip_norm", "ema_rampup_ratio"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, or none, not {value}")
        if any(images < 0 for images in self.lr_halved_images):
            raise ValueError(f"lr_halved_images must be at least 0, not {self.lr_halved_images}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision is auto, bf16 or fp32, not {self.precision!r}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), not {self.betas}")
        if self.micro_batch is not None and not 0 < self.micro_batch <= self.batch_size:
            raise ValueError(f"micro_batch {self.micro_batch} is not in [1, {self.batch_size}]")

    def identity(self) -> dict[str, Any]:
        """As JSON, without what the weights do not depend on."""
        kept = settings.dump(self)
        del kept["gradient_checkpointing"]
        if not self.lr_halved_images:
            del kept["lr_halved_images"]
        if not self.lr_rampdown_images:
            del kept["total_images"]  # a constant rate lets a run be made longer
        return kept


@dataclass(frozen=True)
class Reporting:
    """How a run is watched and kept. May change when it is resumed."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    report_images: int = 100_000
    """images between two lines of the log"""
    checkpoint_images: int = 1_000_000
    """images between two checkpoints, each with a grid of samples and the held-out loss"""
    held_out_images: int = 1024
    """draws of held-out images that the loss is averaged over"""
    keep: int = 2
    """checkpoints kept, besides the best"""
    workers: int = 0
    """processes that load images; 0: the training process itself"""
    trackers: tuple[TrackerName, ...] = ()
    """tensorboard and wandb, besides the log and the grids in the run's directory"""

    def __post_init__(self) -> None:
        for name in ("report_images", "checkpoint_images", "held_out_images", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, not {self.workers}")
