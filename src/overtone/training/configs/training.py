"""How a run trains, and how it is watched and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from overtone import settings
from overtone.ranges import (
    Count,
    Decay,
    Length,
    Positive,
    Seed,
    Share,
    Whole,
    Workers,
    check_fields,
)

Precision = Literal["auto", "bf16", "fp32"]
TrackerName = Literal["tensorboard", "wandb"]

BEST_BY_LOSS = "loss"

SNAPSHOTS = 32
"""snapshots of the power-function EMAs, by default"""
ROUNDING = ("micro_batch", "precision", "compile", "deterministic", "gradient_checkpointing")
"""settings that change how numbers are rounded, and what dropout drops: they may change when a run
goes on"""


def _switched(words: list[str]) -> bool:
    if words and words[0] not in ("True", "False"):
        raise ValueError(f"it is True or False, not {words[0]}")
    return words != ["False"]


SWITCH = PrimitiveConstructorSpec(
    nargs=(0, 1),
    metavar="[{True,False}]",
    instance_from_str=_switched,
    is_instance=lambda value: value in (None, True, False),
    str_from_instance=lambda value: [] if value is None else [str(value)],
)
"""How the command line reads a setting that may be left open: the option alone means yes."""


@dataclass(frozen=True)
class Training:
    """These settings decide the weights. They are fixed for a run, except `micro_batch`,
    `precision`, `compile`, `deterministic`, `gradient_checkpointing` and, with no ramp-down,
    `total_images`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    seed: Seed = 0
    """The seed of the initial weights, of the order of the images, and of all noise."""
    total_images: Count = 100_000_000
    """The length of the run, in images seen."""
    batch_size: Count = 512
    """The number of images in each training step, over all micro-batches and processes."""
    micro_batch: Count | None = None
    """The number of images in each forward pass, for devices with little memory. If it is not
    given, it is the whole batch."""
    lr: Positive = 1e-3
    """Adam's learning rate after the ramp-up."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Adam's decay rates."""
    lr_rampup_images: Whole = 10_000_000
    """The number of images over which the learning rate rises linearly at the start."""
    lr_rampdown_images: Whole = 0
    """The number of images over which the learning rate falls linearly to 0 at the end. With 0 it
    stays constant, as in EDM."""
    lr_halved_images: tuple[Whole, ...] = ()
    """The numbers of images seen at which the learning rate is halved."""
    clip_norm: Positive | None = 1.0
    """The largest norm of the gradients. Larger ones are scaled down to it; None turns that off."""
    ema_halflife_images: Count = 500_000
    """The half-life of the exponential moving average of the weights (EMA), in images."""
    ema_rampup_ratio: Positive | None = 0.05
    """The EMA half-life is at most this share of the images seen so far. None removes the limit."""
    ema_lengths: tuple[Length, ...] = ()
    """The relative lengths (sigma_rel) of the power-function EMAs that are kept, as shares of the
    images seen (EDM2, arXiv 2312.02696). EMAs of other lengths can be made from their snapshots
    after training (overtone ema). 0.05 and 0.1 are usual."""
    precision: Precision = "auto"
    """The precision of the computation: bf16, fp32, or bf16 where the hardware has matrix units for
    it (auto)."""
    compile: Annotated[bool | None, SWITCH] = None
    """Compile the network by torch.compile: --compile, or --compile False. If left out, it is
    compiled on a GPU, if there is a compiler."""
    deterministic: bool = False
    """Use deterministic algorithms, so that a run that was interrupted ends with the same bits on a
    GPU too. If left out, cuDNN picks the fastest algorithms by trial, and results differ by
    rounding from run to run. On a CPU they are the same either way."""
    gradient_checkpointing: bool = False
    """Compute transformer blocks twice instead of keeping their features, which needs less
    memory."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.micro_batch is not None and self.micro_batch > self.batch_size:
            raise ValueError(f"micro_batch {self.micro_batch} is not in [1, {self.batch_size}]")

    def identity(self) -> dict[str, Any]:
        """As JSON, without what the weights do not depend on, or by rounding only."""
        kept = {name: value for name, value in settings.dump(self).items() if name not in ROUNDING}
        if not self.lr_halved_images:
            del kept["lr_halved_images"]
        if not self.ema_lengths:
            del kept["ema_lengths"]
        if not self.lr_rampdown_images:
            del kept["total_images"]  # a constant rate lets a run be made longer
        return kept


@dataclass(frozen=True)
class Reporting:
    """These settings decide how a run is watched and kept. They may change when it is resumed."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    report_images: Count = 100_000
    """The number of images between two lines of the log."""
    checkpoint_images: Count = 1_000_000
    """The number of images between two checkpoints. Each checkpoint comes with a grid of samples
    and the held-out loss."""
    held_out_images: Count = 1024
    """The number of noisy held-out images that the held-out loss is averaged over, rounded down
    to whole batches. The images, their noise levels and their noise are the same at every
    checkpoint."""
    scored_images: Whole = 0
    """The number of seeds whose images are scored at each checkpoint; 0 scores none."""
    scores: tuple[str, ...] = ("frechet", "precision-recall", "class-accuracy")
    """The scores that a checkpoint's images get, as `overtone evaluate --scores` names them."""
    score_extractor: str = "classifier"
    """The network whose features the scores are computed on, as `overtone evaluate --extractor`
    names it."""
    score_share: Share = 0.1
    """The share of the run's time that scores may take. The first is always computed; later ones
    wait until the run has lasted long enough."""
    snapshot_images: Count | None = None
    """The number of images between two snapshots of the power-function EMAs, which are saved in
    half precision. If left out, it is 1/32 of the run."""
    best: str = BEST_BY_LOSS
    """How the best checkpoint is chosen: by loss, which is the held-out loss of the EMA weights, or
    by a score of the checkpoints, such as frechet-distance or class-accuracy, which needs
    --scored-images."""
    keep: Count = 2
    """The number of checkpoints that are kept besides the best."""
    workers: Workers | None = None
    """The number of processes that load images; with 0 the training process loads them itself. If
    left out, it is chosen from the machine, the device and whether images are stored as they are
    wanted."""
    trackers: tuple[TrackerName, ...] = ()
    """The trackers that the log and the grids are sent to: tensorboard, wandb, or both. The run's
    directory always has them."""

    def __post_init__(self) -> None:
        check_fields(self)

    def snapshots_every(self, total_images: int) -> int:
        """The images between two times that averages are written down in a run of a length."""
        return self.snapshot_images or max(1, total_images // SNAPSHOTS)


TrainingOptions = Annotated[Training, tyro.conf.arg(name="optimisation"), tyro.conf.OmitArgPrefixes]
ReportingOptions = Annotated[Reporting, tyro.conf.arg(name="reporting"), tyro.conf.OmitArgPrefixes]
"""The settings as groups of options whose names have no prefix."""
