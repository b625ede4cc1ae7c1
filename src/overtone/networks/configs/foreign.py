"""Settings of diffusers' networks among ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from overtone.networks.configs.network import NetworkConfig
from overtone.ranges import SizeOrNone
from overtone.registry import resolve


@dataclass(frozen=True)
class DiffusersConfig(NetworkConfig):
    """Settings of a `DiffusersNetwork`, which follow from the model in it.

    Those of a class without a `kind` can be computed with, but neither saved nor loaded.
    """

    resolution: SizeOrNone
    """image height and width in pixels"""
    channels: SizeOrNone
    """channels of the image"""
    model: dict[str, Any]
    """diffusers' settings of its model"""
    num_classes: SizeOrNone = 0
    """0: unconditional"""
    null_class: bool = False
    """whether the class behind the last stands for no class"""
    learned_variance: bool = False
    """whether the model returns the reverse step's variance as well"""

    builds: ClassVar[str] = "overtone.networks.foreign:DiffusersNetwork"
    model_class: ClassVar[str] = ""
    """the name of the model's class in diffusers"""

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

    def build(self) -> Any:
        import diffusers

        model = getattr(diffusers, self.model_class).from_config(self.model)
        return resolve(self.builds, self, "builds")(self, model)


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
