"""Settings of several networks in the place of one."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from overtone import storage
from overtone.networks.configs.network import NetworkConfig
from overtone.ranges import Level, Size, SizeOrNone
from overtone.sizes import Resolution

MOST_EXPERTS = 1000


@dataclass(frozen=True)
class ExpertsConfig(NetworkConfig, kind="Experts"):
    """Settings of `Experts`, which follow from its networks but for the boundaries."""

    builds: ClassVar[str] = "overtone.networks.experts:Experts"

    networks: tuple[str, ...]
    """The kind of each expert's network, the expert nearest the clean image first."""
    boundaries: tuple[Level, ...]
    """The rising noise levels that separate one expert from the next."""
    resolution: Resolution
    """The height and width of images, in pixels."""
    channels: Size
    """The number of channels of an image."""
    num_classes: SizeOrNone = 0
    """The number of classes. 0 makes the networks unconditional."""
    learned_variance: bool = False
    """Whether the networks return the variance of the reverse step too."""

    @property
    def learns_variance(self) -> bool:
        return self.learned_variance

    def build(self) -> Any:
        raise ValueError("experts are made of their networks: Experts(networks, boundaries)")

    def restore(self, folder: Path) -> Any:
        if len(self.networks) > MOST_EXPERTS:
            raise ValueError(f"{len(self.networks):,} experts, and {MOST_EXPERTS} are the most")
        load = pkgutil.resolve_name("overtone.networks.network:load_network")
        numbers = range(1, len(self.networks) + 1)
        networks = [load(storage.below(folder, str(number))) for number in numbers]
        return pkgutil.resolve_name(self.builds)(networks, self.boundaries)
