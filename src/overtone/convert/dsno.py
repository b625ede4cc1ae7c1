"""DSNO's published network: its settings, its tensors, its checkpoints.

A checkpoint is a dictionary of state dictionaries; the settings are in a YAML file beside, of which
`SETTINGS` has the two that were published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overtone.convert.fitting import check_fits, without_memory
from overtone.convert.told import plain, whole, wholes
from overtone.convert.unpickle import check_owned, read_checkpoint
from overtone.digests import digest_of_file
from overtone.errors import OvertoneError, unknown
from overtone.networks.configs.dsno import DSNOConfig
from overtone.networks.dsno import DSNOUNet
from overtone.networks.network import digest_of
from overtone.networks.spectral import TemporalCell, TemporalConv
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.systems import DSNOPipeline
from overtone.processes.schedule import VPCosineSchedule
from overtone.processes.vp_frame import spaced
from overtone.regular import read_regular
from overtone.samplers.operator import OperatorSampler

# What the published code can be set to otherwise, and this is not.
_FIXED = {
    "conditional": True,
    "resblock_type": "biggan",
    "resamp_with_conv": False,
    "logsnr_type": "inv_cos",
    "time_conv": True,
    "with_nin": False,
    "pred_eps": False,
    "fourier_feature": False,
    "nonlinearity": "swish",
}

LARGEST_SETTINGS = 2**16
"""bytes of a file of settings"""
MOST_BRACKETS = 200
MOST_TIMES = 1000

_COMMON = {
    "logsnr_min": -20.0,
    "logsnr_max": 20.0,
    "num_res_blocks": 3,
    "num_modes": 2,
    "num_channels": 3,
    "num_times": 4,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "cifar10": _COMMON
    | {
        "image_size": 32,
        "nf": 256,
        "temb_dim": 1024,
        "ch_mult": [1, 1, 1],
        "attn_resolutions": [8, 16],
        "num_attn_heads": 1,
        "num_classes": 0,
        "dropout": 0.2,
        "time_step": "quad",
    },
    "imagenet64": _COMMON
    | {
        "image_size": 64,
        "nf": 192,
        "temb_dim": 768,
        "ch_mult": [1, 2, 3, 4],
        "attn_resolutions": [8, 16, 32],
        "head_dim": 64,
        "num_classes": 1000,
        "dropout": 0.1,
        "time_step": "uniform",
    },
}
"""The published networks, and the spacing of their times."""


def settings_of(name: str) -> dict[str, Any]:
    """Settings by name, or from a YAML file of the published code."""
    if name in SETTINGS:
        return SETTINGS[name]
    if not name.endswith((".yaml", ".yml")):
        raise unknown("settings of a DSNO", name, SETTINGS)
    import yaml

    try:
        text = read_regular(Path(name).expanduser(), LARGEST_SETTINGS).decode()
        if text.count("[") + text.count("{") > MOST_BRACKETS:
            raise ValueError("it is too deep")  # which takes as long as all pairs of brackets
        # An anchor may stand in another as often as one likes, and that in a third.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("it refers to itself")
        found = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise OvertoneError(f"{name} can't be read as YAML ({said}).") from None
    sections = found if isinstance(found, dict) else {}
    data, model = (sections.get(part) for part in ("data", "model"))
    if not isinstance(data, dict) or not isinstance(model, dict):
        raise OvertoneError(f"{name} has no sections 'data' and 'model', as DSNO's settings do.")
    names = ("image_size", "num_channels", "time_step")
    own = {key: data[key] for key in names if key in data}
    told = model | own | {"num_times": model.get("num_t", 4)}
    return {name: plain(value) for name, value in told.items() if isinstance(name, str)}


def pipeline_of(file: Path, settings: dict[str, Any]) -> tuple[Pipeline, dict[str, Any]]:
    """The operator in a published checkpoint, its averaged weights, and what the certificate says.

    Raises `OvertoneError` for a file that holds anything else; nothing in it is executed.
    """
    data = read_checkpoint(file)
    state = data.get("ema") if isinstance(data, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise OvertoneError(f"{file} holds no tensors under 'ema', as DSNO's checkpoints do.")
    check_owned(state, str(file))
    spacing, count = settings.get("time_step", "quad"), whole(settings, "num_times", 4)
    if spacing not in ("quad", "uniform"):
        raise OvertoneError(f"times spaced as '{spacing}' are not known: quad, or uniform.")
    if not 1 <= count <= MOST_TIMES:
        raise OvertoneError(f"a trajectory has from 1 to {MOST_TIMES} times, not {count}.")
    network = operator(state, settings)
    schedule = VPCosineSchedule(network.config.log_snr_min, network.config.log_snr_max)
    times = (1.0, *spaced(count, spacing)[:-1])
    sampler = OperatorSampler((*(schedule.sigma_at(t) for t in times), 0.0))
    proof = {
        "kind": "dsno",
        "file": file.name,
        "file_sha256": digest_of_file(file),
        "settings": settings,
        "parameters": network.num_parameters,
        "weights": digest_of(network),
    }
    return DSNOPipeline(network, sampler), proof


def operator(state: dict[str, Tensor], settings: dict[str, Any]) -> DSNOUNet:
    """The published operator with the given settings and weights, in eval mode."""
    for name, value in _FIXED.items():
        if settings.get(name, value) != value:
            raise OvertoneError(f"a DSNO with {name} {settings[name]} is not implemented.")
    needed = ("nf", "temb_dim", "ch_mult", "num_res_blocks", "attn_resolutions", "num_modes")
    lacking = [n for n in (*needed, "image_size", "num_channels") if n not in settings]
    if lacking:
        raise OvertoneError(f"the settings of a DSNO lack '{lacking[0]}'.")
    try:
        config = config_of(settings)
        with without_memory(state, "not the weights of a DSNO"):
            empty = DSNOUNet(config)
    except OvertoneError:
        raise
    except (KeyError, ValueError, RuntimeError, IndexError, TypeError) as error:
        raise OvertoneError(f"not the weights of a DSNO: {error}") from None
    check_fits(lambda given: _state(given, empty), state, empty, "DSNO")
    network = DSNOUNet(config)
    network.load_weights(_state(state, network), "DSNO")
    return network.eval()


def config_of(settings: dict[str, Any]) -> DSNOConfig:
    """Our settings from the published ones; `KeyError` or `ValueError` where they can't be."""
    width = whole(settings, "nf")
    return DSNOConfig(
        resolution=settings["image_size"],
        channels=settings["num_channels"],
        num_classes=settings.get("num_classes") or 0,
        widths=tuple(width * mult for mult in wholes(settings, "ch_mult")),
        num_cells=settings["num_res_blocks"],
        attention_resolutions=tuple(settings["attn_resolutions"]),
        heads=settings.get("num_attn_heads") or 1,
        head_channels=settings.get("head_dim") or 0,
        frequencies=width,
        embedding_width=settings["temb_dim"],
        modes=settings["num_modes"],
        log_snr_min=settings.get("logsnr_min", -20.0),
        log_snr_max=settings.get("logsnr_max", 20.0),
        dropout=settings.get("dropout", 0.0),
    )


def temporal_conv(state: dict[str, Tensor], settings: dict[str, Any]) -> TemporalConv:
    """The published temporal convolution by itself, from {"weights1": (in, out, mode, 2)}."""
    weights = state.get("weights1")
    if weights is None or weights.dim() != 4 or weights.shape[3] != 2:
        raise OvertoneError(
            "a temporal convolution has one tensor, weights1 (in, out, mode, 2), not"
            f" { ({name: tuple(t.shape) for name, t in state.items()}) }."
        )
    layer = TemporalConv(weights.shape[0], weights.shape[2])
    layer.load_state_dict({"weight": temporal_weight(weights)})
    return layer.eval()


# Parts of a cell. Modules are numbered in the order of construction.
_CELL = {
    "GroupNorm_0": "norm0",
    "Conv_0": "conv0",
    "Dense_0": "affine",
    "GroupNorm_1": "norm1",
    "Conv_1": "conv1",
    "NIN_0": "skip",
}
_ATTENTION = {"GroupNorm_0": "norm", "NINs": "qkv", "NIN_3": "proj"}


def temporal_weight(weights: Tensor) -> Tensor:
    """The weight of our `TemporalConv` from (in, out, mode, 2): what the constant has of an
    imaginary part does nothing, and goes."""
    parts = weights.permute(2, 3, 0, 1).flatten(0, 1)  # constant, imaginary; wave 1, imaginary; ...
    return torch.cat((parts[:1], parts[2:]))[:, None]


def _state(state: dict[str, Tensor], network: DSNOUNet) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    bias, places = None, _places(network)
    for name, given in state.items():
        if not given.is_floating_point():
            raise ValueError(f"{name} holds whole numbers, not floats")
        tensor = given.float()
        number, part = name.removeprefix("module.").removeprefix("all_modules.").split(".", 1)
        if not (number.isascii() and number.isdigit()):
            raise KeyError(name)
        place = places[int(number)]
        module, _, kind = part.rpartition(".")
        kind = {"W": "weight", "b": "bias"}.get(kind, kind)
        if module == "t_conv":
            ours[f"{place}.weight"] = temporal_weight(tensor)
        elif place == "classes":  # a linear layer on one-hot labels is a table of vectors
            bias = tensor if kind == "bias" else bias
            ours |= {} if kind == "bias" else {"classes.weight": tensor.mT}
        elif place.endswith("attention"):
            if module.startswith("NIN"):
                tensor = tensor.mT if kind == "weight" else tensor
            if module == "NINs":
                tensor = tensor.unflatten(
                    0, (network.get_submodule(f"{place}.attend").heads, 3, -1)
                )
                tensor = tensor.transpose(0, 1).flatten(0, 2)
            ours[f"{place}.{_ATTENTION[module]}.{kind}"] = tensor
        elif module:
            if module == "NIN_0" and kind == "weight":
                tensor = tensor.mT[:, :, None, None]
            ours[f"{place}.{_CELL[module]}.{kind}"] = tensor
        else:
            ours[f"{place}.{kind}"] = tensor
    if bias is not None:
        ours["classes.weight"] = ours["classes.weight"] + bias
    return {name: tensor.contiguous() for name, tensor in ours.items()}


def _places(network: DSNOUNet) -> list[str]:
    """Our modules in the order in which the published network makes its own."""
    places = ["lin0", "lin1", *(["classes"] if network.classes is not None else [])]
    unet: Any = network.unet

    def cell(place: str, cell: Any) -> list[str]:
        if not isinstance(cell, TemporalCell):
            return [place]
        inner: Any = cell.cell
        attends = [f"{place}.cell.attention"] if inner.attention is not None else []
        return [f"{place}.cell", *attends, f"{place}.temporal"]

    def column(name: str, level: Any) -> list[str]:
        return [p for n, c in enumerate(level.cells) for p in cell(f"{name}.cells.{n}", c)]

    places.append("unet.stem")
    for number, level in enumerate(unet.encoder):
        places += [f"unet.encoder.{number}.transition"] if number else []
        places += column(f"unet.encoder.{number}", level)
    places += [p for n, c in enumerate(unet.middle) for p in cell(f"unet.middle.{n}", c)]
    for number, level in enumerate(unet.decoder):
        places += [f"unet.decoder.{number}.transition"] if number else []
        places += column(f"unet.decoder.{number}", level)
    return [*places, "unet.head_norm", "unet.head"]
