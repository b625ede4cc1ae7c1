"""A network of diffusers among ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone.networks.layers import Features, Output
from overtone.networks.network import Network


@dataclass(frozen=True)
class DiffusersUNetConfig:
    """Settings of `DiffusersUNet`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    resolution: int
    """image height and width in pixels"""
    channels: int
    """channels of the image"""
    model: dict[str, Any]
    """diffusers' settings of its UNet2DModel"""
    num_classes: int = 0
    """0: unconditional"""
    kind: Literal["DiffusersUNet"] = "DiffusersUNet"


class DiffusersUNet(Network):
    """A diffusers `UNet2DModel`, called as our networks are."""

    config_class = DiffusersUNetConfig
    config: DiffusersUNetConfig

    def __init__(self, config: DiffusersUNetConfig, model: nn.Module | None = None) -> None:
        super().__init__(config)
        if model is None:
            from diffusers import UNet2DModel

            model = UNet2DModel.from_config(config.model)
        self.model = model

    @classmethod
    def of(cls, model: Any) -> Self:
        """Around a model that is there."""
        named = {name: value for name, value in model.config.items() if not name.startswith("_")}
        named["_class_name"] = type(model).__name__
        size = model.config.sample_size
        return cls(
            DiffusersUNetConfig(
                size if isinstance(size, int) else size[0],
                model.config.in_channels,
                named,
                model.config.num_class_embeds or 0,
            ),
            model,
        )

    def forward(
        self,
        x: Features,
        time: Float[Tensor, " batch"],
        class_labels: Int[Tensor, " batch"] | None = None,
    ) -> Output:
        return self.model(x, time, class_labels, return_dict=False)[0]
