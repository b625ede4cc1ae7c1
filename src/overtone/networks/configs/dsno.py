"""Settings of networks that return whole trajectories (DSNO, Zheng et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from overtone.networks.configs.network import NetworkConfig
from overtone.ranges import Depth, Dropout, LogSNR, Size, SizeOrNone
from overtone.sizes import Resolution


@dataclass(frozen=True)
class TemporalConfig(NetworkConfig, kind="TemporalNetwork"):
    """Settings of `TemporalNetwork`."""

    builds: ClassVar[str] = "overtone.networks.dsno:TemporalNetwork"

    network: NetworkConfig
    """the network that temporal layers are in"""
    modes: Size = 2
    """frequencies over time that they keep, the constant one included"""
    groups: Size = 1
    """of channels, each mapped by itself"""

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


@dataclass(frozen=True)
class DSNOConfig(NetworkConfig, kind="DSNOUNet"):
    """Settings of `DSNOUNet`; the defaults are a small CIFAR-10 network."""

    builds: ClassVar[str] = "overtone.networks.dsno:DSNOUNet"

    resolution: Resolution = 32
    """image height and width in pixels"""
    channels: Size = 3
    """channels of the image"""
    num_classes: SizeOrNone = 0
    """0: unconditional"""
    widths: tuple[Size, ...] = (128, 256, 256)
    """channels a level, full resolution first"""
    num_cells: Depth = 2
    """residual cells a level of the encoder; the decoder has one more"""
    attention_resolutions: tuple[Size, ...] = (16, 8)
    """levels, by their resolution, whose cells attend; the middle does"""
    heads: Size = 1
    """attention heads, if there are no head_channels"""
    head_channels: SizeOrNone = 0
    """width of an attention head; 0: as heads say"""
    frequencies: Size = 128
    """number of sinusoids that the time is embedded in"""
    embedding_width: Size = 512
    """width of the time embedding"""
    modes: Size = 2
    """frequencies over time that are kept, the constant one included"""
    log_snr_min: LogSNR = -20.0
    """log(alpha^2 / sigma^2) at time 1"""
    log_snr_max: LogSNR = 20.0
    """and at time 0"""
    dropout: Dropout = 0.0
    """probability of dropping a feature in training"""

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
