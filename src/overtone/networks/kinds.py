"""The networks that a denoiser can stand around, by name, and their settings."""

from __future__ import annotations

from typing import Annotated

import pydantic

from overtone.networks.adm import ADMConfig, ADMUNet
from overtone.networks.diffit import (
    DiffiTConfig,
    DiffiTTransformer,
    DiffiTTransformerConfig,
    DiffiTUNet,
)
from overtone.networks.iunet import IUNet, IUNetConfig
from overtone.networks.network import Network
from overtone.networks.song import SongConfig, SongUNet

KINDS: dict[str, type[Network]] = {
    kind.__name__: kind for kind in (ADMUNet, DiffiTTransformer, DiffiTUNet, IUNet, SongUNet)
}

AnyNetwork = Annotated[
    DiffiTConfig | DiffiTTransformerConfig | ADMConfig | IUNetConfig | SongConfig,
    pydantic.Field(discriminator="kind"),
]
"""A network in settings."""
