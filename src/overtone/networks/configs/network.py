"""What the settings of every network have in common."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from overtone.registry import Kind, resolve
from overtone.sizes import Resolution


class Building(Kind):
    """Settings that build a module."""

    builds: ClassVar[str] = ""
    """The class that is built, as PACKAGE.MODULE:NAME. It is imported when one is built."""

    @property
    def is_foreign(self) -> bool:
        """Whether the module is somebody else's code, which may fail in any way."""
        return bool(self.origin)

    def build(self) -> Any:
        """The module with random weights. Raises `ValueError` for settings that can't be."""
        return resolve(self.builds, self, "builds")(self)

    def restore(self, folder: Path) -> Any:
        """The module with the weights in a directory, of which nothing else is read."""
        return pkgutil.resolve_name("overtone.networks.network:read_network")(self, folder)


class NetworkConfig(Building, family="network", home="overtone.networks"):
    """Settings that a network is built from and saved with.

    A kind has at least the fields `resolution`, `channels` (of the image) and `num_classes` (0 for
    an unconditional network), and says what it builds, by `builds` or by a `build` of its own. What
    else others need to know of a network its settings say here: a kind that differs overrides it.
    """

    if TYPE_CHECKING:
        resolution: Resolution
        channels: int
        num_classes: int

    makes_trajectories: ClassVar[bool] = False
    """Whether the network returns whole trajectories at once, as DSNO's does, and not one output
    for each image."""

    @property
    def learns_variance(self) -> bool:
        """Whether it returns, behind its output, where the reverse step's variance lies."""
        return False

    @property
    def knows_null_class(self) -> bool:
        """Whether the label `num_classes`, "no class", means something to it."""
        return True

    def with_classes(self, num_classes: int) -> Any:
        """These settings for data with so many classes, 0 for none."""
        return replace(self, num_classes=num_classes)  # type: ignore[type-var]

    def with_images(self, resolution: Resolution, channels: int) -> Any:
        """These settings for images of another size, with as many levels that do the same. Raises
        `ValueError` for sizes that the network can't have."""
        changes: dict[str, Any] = {"resolution": resolution, "channels": channels}
        return replace(self, **changes)  # type: ignore[type-var]

    @property
    def log_snrs(self) -> tuple[float, float] | None:
        """The lowest and the highest log-SNR of the cosine schedule whose time a network has built
        in; None for those that take any time."""
        return None

    @property
    def augmentation_channels(self) -> int | None:
        """How many augmentation conditions it is told of; None for networks that take none."""
        return None

    def with_augmentation(self, channels: int) -> Any:
        """These settings with so many augmentation conditions."""
        raise ValueError(f"a {self.kind} takes no conditions of augmentation")

    def for_expert(self, number: int, count: int) -> Any:
        """These settings in the shape published for expert `number` of `count`, 1 the nearest to
        the clean image. Raises `ValueError` for networks that no such shapes were published of."""
        raise ValueError(
            "shapes were published for an IUNet alone, whose inception_heads they give"
        )

    @property
    def channel_split(self) -> str:
        """The channels that convolve and those that attend by level, where both do; else empty."""
        return ""


class WithAugmentation(NetworkConfig):
    """Settings of networks that may be told of EDM's augmentation: they have `augment_channels`."""

    if TYPE_CHECKING:
        augment_channels: int

    @property
    def augmentation_channels(self) -> int:
        return self.augment_channels

    def with_augmentation(self, channels: int) -> Any:
        return replace(self, augment_channels=channels)  # type: ignore[type-var]
