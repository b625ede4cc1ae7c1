"""DINOv2's weights by the names that Hugging Face's files have, from either naming they come in.

A vision transformer whose blocks have an attention of heads of 64 channels, a two-layer MLP, and a
learnt scale behind each (Oquab et al. 2023, arXiv 2304.07193). Its sizes are read off its tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from overtone import storage
from overtone.errors import OvertoneError
from overtone.metrics.foreign import read_state
from overtone.networks.bounds import check_numbers

FILES = ("config.json", "model.safetensors")
"""what is taken of a directory in Hugging Face's format"""
HEAD = 64
"""channels of an attention head, in every size of DINOv2"""
PATCH = 14
"""pixels a side of a patch, in every size"""
SIZE = 224
"""pixels a side of the images that it sees"""
OFFSET = 0.1
"""what torch.hub's code adds to the number of patches before it interpolates"""
ADVICE = "name a file or a directory of DINOv2's weights, in torch.hub's naming or Hugging Face's"
WHOLE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
"""parts outside of the blocks: torch.hub's name, Hugging Face's"""
BLOCK = {
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "ls1": "layer_scale1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "ls2": "layer_scale2",
}
"""parts of a block: torch.hub's name, Hugging Face's"""
RENAMED = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
"""parts of a block in the modules of transformers 5, and in files"""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a vision transformer."""

    width: int
    depth: int
    hidden: int
    """The number of channels within the MLP."""
    side: int
    """The number of patches on each side that the model has positions for."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        own, both = (self.width,), (self.width, self.width)
        layer: dict[str, tuple[int, ...]]
        layer = {f"norm{n}.{kind}": own for n in (1, 2) for kind in ("weight", "bias")}
        layer |= {f"layer_scale{n}.lambda1": own for n in (1, 2)}
        for name in RENAMED.values():
            layer |= {f"{name}.weight": both, f"{name}.bias": own}
        layer |= {"mlp.fc1.weight": (self.hidden, self.width), "mlp.fc1.bias": (self.hidden,)}
        layer |= {"mlp.fc2.weight": (self.width, self.hidden), "mlp.fc2.bias": own}
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.cls_token": (1, 1, self.width),
            "embeddings.position_embeddings": (1, self.side**2 + 1, self.width),
            "embeddings.patch_embeddings.projection.weight": (self.width, 3, PATCH, PATCH),
            "embeddings.patch_embeddings.projection.bias": own,
            "layernorm.weight": own,
            "layernorm.bias": own,
        }
        for number in range(self.depth):
            shapes |= {f"encoder.layer.{number}.{name}": shape for name, shape in layer.items()}
        return shapes


def load_weights(place: str | Path) -> tuple[dict[str, Tensor], Sizes]:
    """The weights in a file, a directory or a repository of the Hub, float32, by the names of
    Hugging Face's files, and the sizes that they have.

    Nothing is executed, and memory is bounded by the file. Raises `OvertoneError` for weights that
    are not DINOv2's.
    """
    path, config = Path(place).expanduser(), None
    if path.is_file():
        state, where = read_state(path, "DINOv2", ADVICE), str(path)
    else:
        folder, where = _located(place), str(place)
        config = folder / FILES[0], storage.read_json(folder / FILES[0], dict)
        state = storage.load_tensors(folder / FILES[1])
        check_numbers(state, where)
    state = in_hub_names(state, where)
    sizes = _sizes(state, where)
    _check(state, sizes.shapes, where)
    if config is not None:
        _check_config(*config, sizes)
    return {name: tensor.float() for name, tensor in state.items()}, sizes


def _located(place: str | Path) -> Path:
    try:
        return storage.locate(place, patterns=FILES)
    except OvertoneError as error:
        raise OvertoneError(f"DINOv2's weights: {str(error).rstrip('.')}: {ADVICE}.") from None


def _check_config(file: Path, config: Mapping[str, Any], own: Sizes) -> None:
    """Raises `OvertoneError` for settings of another network than DINOv2 of these sizes."""
    wanted = {"hidden_act": "gelu", "use_swiglu_ffn": False, "qkv_bias": True}
    wanted |= {"layer_norm_eps": 1e-6, "hidden_size": own.width, "patch_size": PATCH}
    wanted |= {"num_hidden_layers": own.depth, "num_attention_heads": own.width // HEAD}
    wanted |= {"mlp_ratio": own.hidden // own.width}
    given = {
        "model_type": config.get("model_type"),
        **{k: config.get(k, wanted[k]) for k in wanted},
    }
    for key, value in {"model_type": "dinov2", **wanted}.items():
        if given[key] != value:
            raise OvertoneError(
                f"{file}: the {key} of these weights is {value!r}, not {str(given[key])[:40]!r}:"
                f" {ADVICE}."
            )


def in_hub_names(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors by the names of Hugging Face's files. The token that stands for masked patches is
    left out: nothing is masked."""
    if any("register" in name for name in state):
        raise OvertoneError(
            f"{where} holds a DINOv2 with registers, which is another network than the one that the"
            " distance is defined on: take the one without."
        )
    if any(re.search(r"\.mlp\.(w12|weights_in)\.", name) for name in state):
        raise OvertoneError(
            f"{where} holds a DINOv2 whose MLPs are gated (ViT-g), which is not read: take ViT-L,"
            " which the distance is defined on."
        )
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name not in ("mask_token", "embeddings.mask_token"):
            out |= _translated(name, tensor)
    return out


def _translated(name: str, tensor: Tensor) -> dict[str, Tensor]:
    block = re.fullmatch(r"blocks\.(\d{1,4})\.(.+)\.(weight|bias|gamma)", name)
    if block:
        layer, (number, part, kind) = "encoder.layer", block.groups()
        if part == "attn.qkv" and tensor.ndim and len(tensor) % 3 == 0:
            thirds = zip(list(RENAMED.values())[:3], tensor.chunk(3), strict=True)
            return {f"{layer}.{number}.{own}.{kind}": third for own, third in thirds}
        kind = "lambda1" if kind == "gamma" else kind
        own = f"{layer}.{number}.{BLOCK[part]}.{kind}" if part in BLOCK else name
        return {own: tensor}
    part, _, kind = name.rpartition(".")
    if name in WHOLE:
        return {WHOLE[name]: tensor}
    if part in WHOLE:
        return {f"{WHOLE[part]}.{kind}": tensor}
    for new, old in RENAMED.items():
        name = name.replace(f".{new}.", f".{old}.")
    return {name: tensor}


def _sizes(state: Mapping[str, Tensor], where: str) -> Sizes:
    names = ("embeddings.position_embeddings", "encoder.layer.0.mlp.fc1.weight")
    if missing := [name for name in names if name not in state]:
        raise OvertoneError(
            f"{where} holds other weights than DINOv2's ({missing[0]} is missing): {ADVICE}."
        )
    positions, mlp = (tuple(state[name].shape) for name in names)
    numbers = {match[1] for name in state if (match := re.match(r"encoder\.layer\.(\d+)\.", name))}
    if (len(positions), len(mlp)) == (3, 2):
        width, side = positions[2], math.isqrt(max(positions[1] - 1, 0))
        if side**2 + 1 != positions[1]:
            raise OvertoneError(
                f"{where} holds other weights than DINOv2's: {positions[1] - 1} positions fill no"
                " square."
            )
        if width and side and width % HEAD == 0 and mlp[0] and mlp[0] % width == 0:
            return Sizes(width, len(numbers), mlp[0], side)
    raise OvertoneError(
        f"{where} holds other weights than DINOv2's: a width in heads of {HEAD} channels and an MLP"
        f" some times as wide are needed, and its positions are {positions}, its MLP {mlp}."
    )


def _check(state: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing:
        raise OvertoneError(
            f"{where} holds other weights than DINOv2's: {', '.join(missing[:3])} are not in it."
        )
    if extra:
        raise OvertoneError(
            f"{where} holds other weights than DINOv2's: {', '.join(extra[:3])} are none of its."
        )
    for name, tensor in state.items():
        if tuple(tensor.shape) != wanted[name] or not tensor.is_floating_point():
            raise OvertoneError(
                f"{where}: the tensor '{name}' is {tuple(tensor.shape)} of {tensor.dtype}, and has"
                f" to be {wanted[name]} of floats."
            )


def positions_at(embedding: Tensor, side: int) -> Tensor:
    """Position embeddings for side x side patches, (1, 1 + side^2, width), from those for others.

    Bicubic, scaled by (side + 0.1) / sides as torch.hub's code does, which the published distances
    were computed with; transformers' own code scales by side / sides.
    """
    own = math.isqrt(embedding.shape[1] - 1)
    if own == side:
        return embedding
    grid = embedding[:, 1:].unflatten(1, (own, own)).permute(0, 3, 1, 2)
    scale = (side + OFFSET) / own
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat((embedding[:, :1], grid.flatten(2).transpose(1, 2)), dim=1)
