"""Several networks in the place of one, each for an interval of noise levels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

from torch import nn

from overtone import settings, storage
from overtone.errors import OvertoneError, unknown
from overtone.networks.kinds import KINDS
from overtone.networks.network import CONFIG_FILE, Network


@dataclass(frozen=True)
class ExpertsConfig:
    """Settings of `Experts`, which follow from its networks but for the boundaries."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    networks: tuple[str, ...]
    """the kind of each, nearest the clean image first"""
    boundaries: tuple[float, ...]
    """noise levels between one expert and the next, rising"""
    resolution: int
    """image height and width in pixels"""
    channels: int
    """channels of the image"""
    num_classes: int = 0
    """0: unconditional"""
    learned_variance: bool = False
    """whether they return the reverse step's variance as well"""
    kind: Literal["Experts"] = "Experts"


class Experts(Network):
    """Networks of one image size, of which a denoiser asks that of its noise level.

    Saved as config.json and one directory each, 1 being nearest the clean image. It is not called:
    `overtone.denoisers.ExpertDenoiser` calls its networks.
    """

    config_class = ExpertsConfig
    config: ExpertsConfig

    def __init__(self, networks: Sequence[Network], boundaries: Sequence[float]) -> None:
        if not networks or any(isinstance(network, Experts) for network in networks):
            raise ValueError("experts are one network or more, and none of them experts itself")
        first: Any = networks[0].config
        super().__init__(
            ExpertsConfig(
                tuple(type(network).__name__ for network in networks),
                tuple(boundaries),
                first.resolution,
                first.channels,
                first.num_classes,
                getattr(first, "learned_variance", False),
            )
        )
        self.networks = nn.ModuleList(networks)

    def _saved(self) -> Collection[str]:
        return CONFIG_FILE, *(str(number) for number in range(1, len(self.networks) + 1))

    def write_into(self, folder: Path) -> None:
        storage.write_json(folder / CONFIG_FILE, settings.dump(self.config))
        for number, network in enumerate(self.networks, 1):
            (folder / str(number)).mkdir()
            cast(Network, network).write_into(folder / str(number))

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> Self:
        folder = storage.locate(name, revision)
        file = folder / CONFIG_FILE
        config = settings.load(ExpertsConfig, storage.read_json(file), str(file))
        networks = []
        for number, kind in enumerate(config.networks, 1):
            if kind not in KINDS:
                raise unknown("network", kind, KINDS)
            networks.append(KINDS[kind].from_pretrained(folder / str(number)))
        try:
            return cls(networks, config.boundaries).eval()
        except ValueError as error:
            raise OvertoneError(f"{file}: {error}.") from None

    def repeated_blocks(self) -> list[nn.Module]:
        """The networks themselves, but for those that have blocks of their own."""
        return [n for n in self.networks if not cast(Network, n).repeated_blocks()]
