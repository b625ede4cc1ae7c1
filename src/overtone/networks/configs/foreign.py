"""Settings of diffusers' networks among ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from overtone.networks.configs.network import NetworkConfig
from overtone.ranges import SizeOrNone
from overtone.registry import resolve
from overtone.sizes import Resolution, ResolutionOrNone


@dataclass(frozen=True)
class DiffusersConfig(NetworkConfig):
    """Settings of a `DiffusersNetwork`, which follow from the model in it.

    Those of a class without a `kind` can be computed with, but neither saved nor loaded.
    """

    resolution: ResolutionOrNone
    """The height and width of images, in pixels."""
    channels: SizeOrNone
    """The number of channels of an image."""
    model: dict[str, Any]
    """The settings of the model as diffusers writes them."""
    num_classes: SizeOrNone = 0
    """The number of classes. 0 makes the network unconditional."""
    null_class: bool = False
    """Whether the class behind the last one stands for no class."""
    learned_variance: bool = False
    """Whether the model returns the variance of the reverse step too."""

    builds: ClassVar[str] = "overtone.networks.foreign:DiffusersNetwork"
    model_class: ClassVar[str] = ""
    """The name of the model's class in diffusers."""

    @classmethod
    def fits(cls, model: Any) -> bool:
        """Whether a model is of this class of diffusers'."""
        import diffusers

        return isinstance(model, getattr(diffusers, cls.model_class))

    @property
    def is_foreign(self) -> bool:
        return True

    @property
    def learns_variance(self) -> bool:
        return self.learned_variance

    @property
    def knows_null_class(self) -> bool:
        return self.null_class

    def with_images(self, resolution: Resolution, channels: int) -> Any:
        # diffusers' settings stand in its own model, too.
        out = channels * (2 if self.learned_variance else 1)
        sizes = {"sample_size": resolution, "in_channels": channels, "out_channels": out}
        return replace(super().with_images(resolution, channels), model=self.model | sizes)

    def build(self) -> Any:
        import diffusers

        check_sizes(self.model)
        model = getattr(diffusers, self.model_class).from_config(self.model)
        return resolve(self.builds, self, "builds")(self, model)


MOST_POSITIONS = 2**25
"""numbers in a transformer's fixed embedding of positions"""


def check_sizes(model: Mapping[str, Any]) -> None:
    """Raises `ValueError` for settings of a model of diffusers' with numbers that no model has: it
    would take memory for them before anything can be compared."""
    check_whole_numbers(model)
    if "patch_size" in model:  # the positions of a transformer are computed, not read
        size, patch, heads, width = (
            model.get(key) or 1
            for key in ("sample_size", "patch_size", "num_attention_heads", "attention_head_dim")
        )
        if all(isinstance(number, int) for number in (size, patch, heads, width)):
            positions = (size // max(patch, 1)) ** 2 * heads * width
            if positions > MOST_POSITIONS:
                raise ValueError(
                    f"sample_size {size} in patches of {patch} has more positions than are taken"
                )


def check_whole_numbers(value: Any, most: int = 2**20) -> None:
    """Raises `ValueError` for an integer in JSON that is larger than `most`."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            try:
                check_whole_numbers(entry, most)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
    elif isinstance(value, list | tuple):
        for entry in value:
            check_whole_numbers(entry, most)
    elif isinstance(value, int) and abs(value) > most:
        raise ValueError(f"a number beyond {most:,}")


@dataclass(frozen=True)
class DiffusersUNetConfig(DiffusersConfig, kind="DiffusersUNet"):
    """Settings of a diffusers `UNet2DModel`."""

    model_class: ClassVar[str] = "UNet2DModel"

    def with_classes(self, num_classes: int) -> Any:
        """A model that embeds so many classes, and one more for no class."""
        if num_classes == self.num_classes and self.null_class == bool(num_classes):
            return self
        embedded = num_classes + 1 if num_classes else None
        return replace(
            self,
            model=self.model | {"num_class_embeds": embedded},
            num_classes=num_classes,
            null_class=bool(num_classes),
        )


@dataclass(frozen=True)
class DiffusersDiTConfig(DiffusersConfig, kind="DiffusersDiT"):
    """Settings of a diffusers `DiTTransformer2DModel`."""

    model_class: ClassVar[str] = "DiTTransformer2DModel"

    def with_classes(self, num_classes: int) -> Any:
        if num_classes == self.num_classes:
            return self
        if not num_classes:
            raise ValueError("diffusers' DiT always takes classes")
        return replace(
            self,
            model=self.model | {"num_embeds_ada_norm": num_classes},
            num_classes=num_classes,
            null_class=True,
        )


def foreign_config(model: Any, null_class: bool | None = None) -> DiffusersConfig:
    """The settings of a model of diffusers. `null_class` says that the last of a U-Net's class
    embeddings stands for "no class"; DiT has one by itself."""
    config = model.config
    transformer = getattr(config, "num_embeds_ada_norm", None)
    count = int(transformer or getattr(config, "num_class_embeds", None) or 0)
    # DiT embeds one class more than it names; a U-Net's last may have been trained as such.
    count = count - 1 if count and null_class and not transformer else count
    size = getattr(config, "sample_size", None) or 0
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    outputs = getattr(config, "out_channels", None)
    kinds: tuple[type[DiffusersConfig], ...] = DiffusersUNetConfig, DiffusersDiTConfig
    kind = next((kind for kind in kinds if kind.fits(model)), DiffusersConfig)
    return kind(
        size if isinstance(size, int) else size[0],
        int(getattr(config, "in_channels", 0)),
        settings | {"_class_name": type(model).__name__},
        count,
        bool(transformer) if null_class is None else null_class,
        outputs == 2 * int(getattr(config, "in_channels", 0)),
    )
