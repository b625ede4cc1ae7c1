"""From a published state dictionary and its settings to one of our modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from overtone.convert import keys
from overtone.denoisers import Denoiser, EDMDenoiser
from overtone.errors import OvertoneError, unknown
from overtone.networks import ADMConfig, ADMUNet


def from_published(kind: str, state_dict: dict[str, Tensor], config: dict[str, Any]) -> Denoiser:
    """The published model `kind` with the given weights, in eval mode.

    | kind  | `config`                                        | returns         |
    |-------|-------------------------------------------------|-----------------|
    | "edm" | the constructor arguments of EDM's network, with | `EDMDenoiser`   |
    |       | `model_type`: "DhariwalUNet"                     |                 |

    Raises `OvertoneError` for an unknown kind or network, and for weights that do not fit.
    """
    if kind != "edm":
        raise unknown("kind of checkpoint", kind, ["edm"])
    if config["model_type"] != "DhariwalUNet":
        raise unknown("EDM network", config["model_type"], ["DhariwalUNet"])
    network = _adm(state_dict, config)
    return EDMDenoiser(network, config.get("sigma_data", 0.5)).eval()


def _adm(state_dict: dict[str, Tensor], config: dict[str, Any]) -> ADMUNet:
    width, mults = config["model_channels"], config["channel_mult"]
    network = ADMUNet(
        ADMConfig(
            resolution=config["img_resolution"],
            channels=config["img_channels"],
            num_classes=config["label_dim"],
            widths=tuple(width * mult for mult in mults),
            num_cells=config["num_blocks"],
            attention_resolutions=tuple(config["attn_resolutions"]),
            embedding_width=width * config.get("channel_mult_emb", 4),
            augment_channels=config["augment_dim"],
            dropout=config["dropout"],
        )
    )
    try:
        weights = keys.adm(
            state_dict, config["img_resolution"], len(mults), network.config.head_channels
        )
    except (KeyError, ValueError) as error:
        raise OvertoneError(f"not the weights of a DhariwalUNet: {error}") from None
    network.load_weights(weights, "DhariwalUNet")
    return network
