"""From a published state dictionary and its settings to one of our modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from overtone.convert import dsno, keys
from overtone.convert.diffit import latent_transformer
from overtone.convert.fitting import check_fits, without_memory
from overtone.convert.told import whole, wholes
from overtone.denoisers.denoiser import Denoiser
from overtone.denoisers.network import EDMDenoiser
from overtone.denoisers.preconditioning import EDMPreconditioning
from overtone.errors import OvertoneError, unknown
from overtone.networks.adm import ADMUNet
from overtone.networks.configs.adm import ADMConfig
from overtone.networks.configs.song import SongConfig
from overtone.networks.inception import InceptionCell, InceptionMixer
from overtone.networks.network import Network
from overtone.networks.song import SongUNet

Rename = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def from_published(
    kind: str, state_dict: dict[str, Tensor], config: dict[str, Any] | None = None
) -> nn.Module:
    """The published model `kind` with the given weights, in eval mode.

    | kind            | `config`                                         | returns             |
    |-----------------|--------------------------------------------------|---------------------|
    | "edm"           | the constructor arguments of EDM's network, with | `EDMDenoiser`       |
    |                 | `model_type`: "DhariwalUNet" (ADM) or "SongUNet" |                     |
    |                 | (DDPM++ and NCSN++); EDM's defaults for the rest |                     |
    | "diffit-latent" | not needed: read off the tensors; what is given  | `DiffiTTransformer` |
    |                 | of the published arguments is compared           |                     |
    | "iformer-mixer" | `dim`, `num_heads`, `attention_head`,            | `InceptionMixer`    |
    |                 | `pool_size` (1)                                  |                     |
    | "iformer-block" | those, `mlp_ratio` (4), `layer_scale` (False)    | `InceptionCell`     |
    | "dsno"          | the published model's, with `image_size` and     | `DSNOUNet`          |
    |                 | `num_channels`                                   |                     |
    | "temporal-conv" | not needed: read off the tensor                  | `TemporalConv`      |

    Raises `OvertoneError` for an unknown kind or network, for settings that are not implemented,
    and for weights that do not fit.
    """
    if kind not in _KINDS:
        raise unknown("kind of checkpoint", kind, _KINDS)
    return _KINDS[kind](state_dict, config or {})


def _edm(state_dict: dict[str, Tensor], config: dict[str, Any]) -> Denoiser:
    model = config.get("model_type", "")
    if model not in _EDM:
        raise unknown("EDM network", model, _EDM)
    for key in ("img_resolution", "img_channels"):
        if key not in config:
            raise OvertoneError(f"the settings of a {model} lack '{key}'.")
    config = _DEFAULTS[model] | config
    try:
        preconditioning = EDMPreconditioning(config["sigma_data"])
        with without_memory(state_dict, model):
            empty, rename = _EDM[model](config)
    except OvertoneError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        raise OvertoneError(f"the settings of a {model} can't be: {error}.") from None
    check_fits(rename, state_dict, empty, model)
    network, _ = _EDM[model](config)
    network.load_weights(rename(state_dict), model)
    return EDMDenoiser(network, preconditioning).eval()


def _iformer_mixer(state_dict: dict[str, Tensor], config: dict[str, Any]) -> nn.Module:
    return _inception(InceptionMixer, keys.mixer, state_dict, config)


def _iformer_block(state_dict: dict[str, Tensor], config: dict[str, Any]) -> nn.Module:
    options = {
        "mlp_ratio": config.get("mlp_ratio", 4),
        "layer_scale": 1.0 if config.get("layer_scale") else None,
    }
    return _inception(InceptionCell, keys.inception, state_dict, config, **options)


def _inception(
    kind: type[nn.Module],
    rename: Rename,
    state: dict[str, Tensor],
    config: dict[str, Any],
    **options: Any,
) -> nn.Module:
    name = kind.__name__
    lacking = [key for key in ("dim", "num_heads", "attention_head") if key not in config]
    if lacking:
        raise OvertoneError(f"the settings of an {name} lack '{lacking[0]}'.")
    heads, low_heads = config["num_heads"], config["attention_head"]
    try:
        module = kind(config["dim"], heads, low_heads, config.get("pool_size", 1), **options)
        module.load_state_dict(rename(state))
    except (KeyError, ValueError, RuntimeError) as error:
        raise OvertoneError(f"not the weights of an {name}: {error}") from None
    return module.eval()


_KINDS: dict[str, Callable[[dict[str, Tensor], dict[str, Any]], nn.Module]] = {
    "edm": _edm,
    "diffit-latent": lambda state, config: latent_transformer(state, config).network,
    "iformer-mixer": _iformer_mixer,
    "iformer-block": _iformer_block,
    "dsno": dsno.operator,
    "temporal-conv": dsno.temporal_conv,
}

# What EDM's constructors take where nothing is said.
_COMMON: dict[str, Any] = {
    "sigma_data": 0.5,
    "label_dim": 0,
    "augment_dim": 0,
    "channel_mult_emb": 4,
    "dropout": 0.10,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "DhariwalUNet": _COMMON
    | {
        "model_channels": 192,
        "channel_mult": [1, 2, 3, 4],
        "num_blocks": 3,
        "attn_resolutions": [32, 16, 8],
    },
    "SongUNet": _COMMON
    | {
        "model_channels": 128,
        "channel_mult": [1, 2, 2, 2],
        "num_blocks": 4,
        "attn_resolutions": [16],
        "embedding_type": "positional",
        "channel_mult_noise": 1,
        "encoder_type": "standard",
        "decoder_type": "standard",
        "resample_filter": [1, 1],
    },
}


def _adm(config: dict[str, Any]) -> tuple[Network, Rename]:
    network = ADMUNet(
        ADMConfig(
            **_common(config),
            embedding_width=whole(config, "model_channels") * whole(config, "channel_mult_emb"),
        )
    )
    size, depth, head = config["img_resolution"], len(config["channel_mult"]), 64
    return network, lambda state: keys.adm(state, size, depth, head)


def _song(config: dict[str, Any]) -> tuple[Network, Rename]:
    encoder, decoder = config["encoder_type"], config["decoder_type"]
    if encoder not in ("standard", "residual") or decoder != "standard":
        raise OvertoneError(f"a SongUNet with encoder {encoder} and decoder {decoder} is unknown.")
    width = whole(config, "model_channels")
    network = SongUNet(
        SongConfig(
            **_common(config),
            stem_width=width,
            frequencies=width * whole(config, "channel_mult_noise"),
            embedding_width=width * whole(config, "channel_mult_emb"),
            time_embedding=config["embedding_type"],
            filter_taps=tuple(config["resample_filter"]),
            residual_encoder=encoder == "residual",
        )
    )
    size, depth = config["img_resolution"], len(config["channel_mult"])
    return network, lambda state: keys.song(state, size, depth)


_EDM: dict[str, Callable[[dict[str, Any]], tuple[Network, Rename]]] = {
    "DhariwalUNet": _adm,
    "SongUNet": _song,
}


def _common(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that EDM's networks share."""
    width = whole(config, "model_channels")
    return {
        "resolution": config["img_resolution"],
        "channels": config["img_channels"],
        "num_classes": config["label_dim"],
        "widths": tuple(width * mult for mult in wholes(config, "channel_mult")),
        "num_cells": config["num_blocks"],
        "attention_resolutions": tuple(config["attn_resolutions"]),
        "augment_channels": config["augment_dim"],
        "dropout": config["dropout"],
    }
