"""Settings of networks that return whole trajectories (DSNO, Zheng et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from overtone.networks.configs.network import NetworkConfig
from overtone.ranges import Depth, Dropout, LogSNR, Size, SizeOrNone
from overtone.sizes import Resolution


@dataclass(frozen=True)
class TemporalConfig(NetworkConfig, kind="TemporalNetwork"):
    """Settings of `TemporalNetwork`."""

    builds: ClassVar[str] = "overtone.networks.dsno:TemporalNetwork"

    network: NetworkConfig
    """The network that the temporal layers are put into."""
    modes: Size = 2
    """The number of frequencies over time that the temporal layers keep, the constant one
    included."""
    groups: Size = 1
    """The number of groups of channels. A temporal layer maps each group by itself."""

    makes_trajectories: ClassVar[bool] = True

    @property
    def resolution(self) -> Resolution:  # type: ignore[override]
        return self.network.resolution

    @property
    def channels(self) -> int:  # type: ignore[override]
        return self.network.channels

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return self.network.num_classes

    def with_classes(self, num_classes: int) -> Any:
        return replace(self, network=self.network.with_classes(num_classes))


@dataclass(frozen=True)
class DSNOConfig(NetworkConfig, kind="DSNOUNet"):
    """Settings of `DSNOUNet`; the defaults are a small CIFAR-10 network."""

    builds: ClassVar[str] = "overtone.networks.dsno:DSNOUNet"

    resolution: Resolution = 32
    """The height and width of images, in pixels."""
    channels: Size = 3
    """The number of channels of an image."""
    num_classes: SizeOrNone = 0
    """The number of classes. 0 makes the network unconditional."""
    widths: tuple[Size, ...] = (128, 256, 256)
    """The number of channels at each level, the full resolution first."""
    num_cells: Depth = 2
    """The number of residual cells at each level of the encoder. The decoder has one more at each
    level."""
    attention_resolutions: tuple[Size, ...] = (16, 8)
    """The levels whose cells have self-attention, each named by its resolution in pixels. The
    middle always has it."""
    heads: Size = 1
    """The number of attention heads, where head_channels is 0."""
    head_channels: SizeOrNone = 0
    """The number of channels of an attention head. With 0, the number of heads decides."""
    frequencies: Size = 128
    """The number of sinusoids that embed the time."""
    embedding_width: Size = 512
    """The width of the time embedding."""
    modes: Size = 2
    """The number of frequencies over time that the temporal layers keep, the constant one
    included."""
    log_snr_min: LogSNR = -20.0
    """The log-SNR, log(alpha^2 / sigma^2), at time 1."""
    log_snr_max: LogSNR = 20.0
    """The log-SNR, log(alpha^2 / sigma^2), at time 0."""
    dropout: Dropout = 0.0
    """The probability that a feature is dropped in training."""

    makes_trajectories: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frequencies < 4 or self.frequencies % 2:
            raise ValueError(f"frequencies must be even and at least 4, not {self.frequencies}")
        if not self.log_snr_min < self.log_snr_max:
            raise ValueError(
                f"log_snr_min < log_snr_max does not hold: {self.log_snr_min}, {self.log_snr_max}"
            )

    @property
    def log_snrs(self) -> tuple[float, float]:
        return self.log_snr_min, self.log_snr_max
