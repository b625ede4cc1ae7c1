"""How published checkpoints name their tensors, and what those are called here.

EDM's networks number their cells by resolution (`enc.16x16_block0`, `dec.8x8_in0`); ours by level.
The functions return our state dictionary; a tensor that finds no place raises `KeyError`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Parts of a residual cell, in EDM's names and in ours.
CELL = {
    "norm0": "norm0",
    "conv0": "conv0",
    "affine": "affine",
    "norm1": "norm1",
    "conv1": "conv1",
    "skip": "skip",
    "norm2": "attention.norm",
    "qkv": "attention.qkv",
    "proj": "attention.proj",
}

EMBEDDING = {
    "map_layer0": "embedding.lin0",
    "map_layer1": "embedding.lin1",
    "map_augment": "embedding.augment",
}

HEAD = {"out_norm": "head_norm", "aux_norm": "head_norm", "out_conv": "head", "aux_conv": "head"}


def adm(
    state: dict[str, Tensor], resolution: int, depth: int, head_width: int
) -> dict[str, Tensor]:
    """The state of our `ADMUNet`, `depth` levels deep, from that of EDM's "DhariwalUNet"."""
    ours = _edm(state, resolution, depth, (-1, head_width, 3))
    if "embedding.classes.weight" in ours:
        # A bias-free linear layer on one-hot labels is a table of vectors.
        table = ours["embedding.classes.weight"].mT
        ours["embedding.classes.weight"] = table.contiguous()
    return ours


def song(state: dict[str, Tensor], resolution: int, depth: int) -> dict[str, Tensor]:
    """The state of our `SongUNet`, `depth` levels deep, from that of EDM's of the same name."""
    return _edm(state, resolution, depth, (1, -1, 3))


# The latent transformer of DiffiT.
TRANSFORMER = {
    "x_embedder.proj": "embed",
    "t_embedder.mlp.0": "token.mlp.0",
    "t_embedder.mlp.2": "token.mlp.2",
    "y_embedder.embedding_table": "token.classes",
    "final_layer.linear": "head",
}
BLOCK = {
    "attn.qkv": "attention.qkv",
    "attn.qkv_temb": "attention.qkv_time",
    "attn.proj": "attention.proj",
    "attn.relative_position_bias_table": "attention.bias.table",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}


def diffit_transformer(state: Iterable[str]) -> dict[str, str]:
    """Our name of each tensor of the published latent DiffiT; "" for what is constant."""
    names = {}
    for name in state:
        parts = name.split(".")
        if name == "pos_embed" or name.endswith("relative_position_index"):
            names[name] = ""
        elif name.endswith("relative_position_bias_table"):
            names[name] = f"blocks.{int(parts[1])}.{BLOCK['.'.join(parts[2:])]}"
        elif parts[0] == "blocks":
            names[name] = f"blocks.{int(parts[1])}.{BLOCK['.'.join(parts[2:-1])]}.{parts[-1]}"
        else:
            names[name] = f"{TRANSFORMER['.'.join(parts[:-1])]}.{parts[-1]}"
    return names


def _edm(
    state: dict[str, Tensor], resolution: int, depth: int, packing: tuple[int, int, int]
) -> dict[str, Tensor]:
    """`packing` is how qkv is packed: (heads, d, 3)."""
    ours = {}
    for name, tensor in state.items():
        name = name.removeprefix("model.")
        if name.endswith("resample_filter"):
            continue  # constant
        module, kind = name.rsplit(".", 1)
        if module == "map_label":
            ours[f"embedding.classes.{kind}"] = tensor
        elif module == "map_noise":
            ours["embedding.fourier.frequencies"] = tensor
        elif module in EMBEDDING:
            ours[f"{EMBEDDING[module]}.{kind}"] = tensor
        elif module in HEAD:
            ours[f"unet.{HEAD[module]}.{kind}"] = tensor
        else:
            place = _place(module, resolution, depth)
            ours[f"unet.{place}.{kind}"] = _packed(name, tensor, packing)
    return ours


def _place(module: str, resolution: int, depth: int) -> str:
    """'enc.16x16_block0.conv0' -> 'encoder.0.cells.0.conv0'."""
    stage, cell, *part = module.split(".")
    size, name = cell.split("_", 1)
    level = (resolution // int(size.split("x")[0])).bit_length() - 1
    if name == "conv":
        return "stem"
    if name in HEAD:
        return HEAD[name]
    if name == "aux_residual":
        return f"encoder.{level}.pyramid.conv"
    tail = CELL[part[0]]
    if name.startswith("in"):
        return f"middle.{name[2:]}.{tail}"
    # Our decoder counts its levels from the bottom.
    column = f"encoder.{level}" if stage == "enc" else f"decoder.{depth - 1 - level}"
    if name in ("down", "up"):
        return f"{column}.transition.{tail}"
    return f"{column}.cells.{name.removeprefix('block')}.{tail}"


def _packed(name: str, tensor: Tensor, packing: tuple[int, int, int]) -> Tensor:
    """Attention's 1x1 convolutions as linear layers, qkv from (head, d, 3) to (3, head, d)."""
    if ".qkv." in name:
        tensor = tensor.unflatten(0, packing).movedim(2, 0).flatten(0, 2)
    if ".qkv." in name or ".proj." in name:
        return tensor.flatten(1) if tensor.dim() == 4 else tensor
    return tensor


# Parts of the inception transformer's mixer and block, in the published names and in ours.
MIXER = {
    "high_mixer.conv1": "conv_in",
    "high_mixer.proj1": "conv",
    "high_mixer.proj2": "pool_in",
    "low_mixer.qkv": "qkv",
    "conv_fuse": "fuse",
    "proj": "proj",
}
INCEPTION = {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
} | {f"attn.{theirs}": f"mixer.{ours}" for theirs, ours in MIXER.items()}


def mixer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of our `InceptionMixer` from the published one's."""
    return _renamed(state, MIXER)


def inception(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of our `InceptionCell` from the published block's."""
    scales = [state[name] for name in LAYER_SCALES if name in state]
    out = _renamed({n: t for n, t in state.items() if n not in LAYER_SCALES}, INCEPTION)
    return out | ({"scales": torch.stack(scales)} if scales else {})


LAYER_SCALES = ("layer_scale_1", "layer_scale_2")


def _renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    out = {}
    for name, tensor in state.items():
        module, _, parameter = name.rpartition(".")
        out[f"{names[module]}.{parameter}"] = tensor
    return out
