"""Several networks in the place of one, each for an interval of noise levels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from overtone import settings, storage
from overtone.networks.configs.experts import ExpertsConfig
from overtone.networks.network import CONFIG_FILE, Network


class Experts(Network):
    """Several networks of one image size. A denoiser calls the one whose interval holds the noise
    level.

    Saved as config.json and one directory each, 1 being nearest the clean image. It is not called:
    `overtone.denoisers.ExpertDenoiser` calls its networks.
    """

    config_class = ExpertsConfig
    config: ExpertsConfig

    def __init__(self, networks: Sequence[Network], boundaries: Sequence[float]) -> None:
        if not networks or any(network.experts is not None for network in networks):
            raise ValueError("experts are one network or more, and none of them experts itself")
        first: Any = networks[0].config
        super().__init__(
            ExpertsConfig(
                tuple(network.config.kind for network in networks),
                tuple(boundaries),
                first.resolution,
                first.channels,
                first.num_classes,
                first.learns_variance,
            )
        )
        self.networks = nn.ModuleList(networks)

    def _saved(self) -> Collection[str]:
        return CONFIG_FILE, *(str(number) for number in range(1, len(self.networks) + 1))

    def check_loads_again(self) -> None:
        for network in self.experts:
            network.check_loads_again()

    def write_into(self, folder: Path, dtype: Any = None) -> None:
        storage.write_json(folder / CONFIG_FILE, settings.dump(self.config))
        for number, network in enumerate(self.networks, 1):
            (folder / str(number)).mkdir()
            cast(Network, network).write_into(folder / str(number), dtype)

    @property
    def experts(self) -> Iterable[Network]:
        return cast(Iterable[Network], self.networks)

    def repeated_blocks(self) -> list[nn.Module]:
        """The networks themselves, but for those that have blocks of their own."""
        return [n for n in self.networks if not cast(Network, n).repeated_blocks()]
