"""The published latent DiffiT, its settings read off its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from overtone.convert import keys
from overtone.convert.published import LATENT_GUIDANCE
from overtone.digests import digest_of_file
from overtone.errors import OvertoneError
from overtone.networks.configs.diffit import DiffiTTransformerConfig
from overtone.networks.diffit import DiffiTTransformer, positions
from overtone.networks.network import digest_of
from overtone.networks.vae import VAE
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.systems import LatentDiffiTPipeline
from overtone.sizes import scaled

# What the published configuration calls the settings that are read off the tensors.
SETTINGS = {
    "input_size": "resolution",
    "patch_size": "patch",
    "in_channels": "channels",
    "hidden_size": "width",
    "depth": "depth",
    "num_heads": "heads",
    "num_classes": "num_classes",
}


class Converted(NamedTuple):
    """A published network made ours."""

    network: DiffiTTransformer
    names: dict[str, str]
    """Our name for each published tensor. It is "" for constants, which were checked and left
    out."""


def latent_transformer(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> Converted:
    """`DiffiTTransformer` from the published state dictionary, in eval mode.

    All settings are read off the tensors; those that `config` names under their published names are
    compared. Raises `OvertoneError` for tensors of another architecture and for settings that
    contradict them.
    """
    try:
        names = keys.diffit_transformer(state)
        settings = config_of(state)
    except (KeyError, ValueError, IndexError) as error:
        raise OvertoneError(
            f"these are not the weights of a latent DiffiT: {_shown(state, error)}."
        ) from None
    for published, ours in SETTINGS.items():
        asked, found = (config or {}).get(published), getattr(settings, ours)
        if asked not in (None, found):
            raise OvertoneError(f"{published} is {asked}, but the weights have {found}.")
    network = DiffiTTransformer(settings)
    weights = {ours: state[name].float() for name, ours in names.items() if ours}
    network.load_weights(weights, "latent DiffiT")
    _check_constants(state, network)
    return Converted(network.eval(), names)


def config_of(state: Mapping[str, Tensor]) -> DiffiTTransformerConfig:
    """The settings of the network that has these tensors, under their published names."""
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    rows, heads = state["blocks.0.attn.relative_position_bias_table"].shape
    size = (math.isqrt(rows) + 1) // 2
    table = state.get("y_embedder.embedding_table.weight")
    out = len(state["final_layer.linear.bias"])
    return DiffiTTransformerConfig(
        resolution=size * patch,
        channels=channels,
        num_classes=0 if table is None else len(table) - 1,  # the last row is the null class
        patch=patch,
        width=width,
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        heads=heads,
        mlp_ratio=len(state["blocks.0.mlp.fc1.bias"]) / width,
        time_features=state["t_embedder.mlp.0.weight"].shape[1],
        learned_variance=out == 2 * channels * patch**2,
    )


def pipeline_of(network: DiffiTTransformer, vae: VAE | None = None) -> Pipeline:
    """The published way to sample: ADM's diffusion in 250 steps, guidance by the size of the
    latents, images eight times as large."""
    size = network.config.resolution
    guidance = LATENT_GUIDANCE.get(size) if isinstance(size, int) else None
    return LatentDiffiTPipeline(
        network,
        guidance=guidance if network.config.num_classes else None,
        vae=vae,
        image_resolution=scaled(size, 8),
    )


def certificate(file: Path, converted: Converted) -> dict[str, Any]:
    """What was done with a file's tensors, and digests to hold it against."""
    network, names = converted
    return {
        "kind": "diffit-latent",
        "file": file.name,
        "file_sha256": digest_of_file(file),
        "parameters": network.num_parameters,
        "weights": digest_of(network),
        "keys_mapped": {name: ours for name, ours in names.items() if ours},
        "keys_left": {name: "constant, equal to ours" for name, ours in names.items() if not ours},
    }


def _check_constants(state: Mapping[str, Tensor], network: DiffiTTransformer) -> None:
    """The positions and the index of the bias table are computed here: theirs have to agree."""
    (size, _), width = network.size, network.config.width
    own = positions(width, (size, size), size)
    given = state.get("pos_embed")
    if given is not None and not (
        given.numel() == own.numel()
        and torch.allclose(given.float().view_as(own), own, atol=_rounding(given))
    ):
        raise OvertoneError("pos_embed is not the fixed sine-cosine embedding of a latent DiffiT.")
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    dy, dx = (c.flatten()[:, None] - c.flatten() + size - 1 for c in (y, x))
    index = dy * (2 * size - 1) + dx
    for name, tensor in state.items():
        if name.endswith("relative_position_index") and not torch.equal(tensor.long(), index):
            raise OvertoneError(f"{name} is not the index of a {size} x {size} window.")


def _rounding(tensor: Tensor) -> float:
    """How far numbers up to 1 may be off in the type of a tensor."""
    kind = tensor.dtype
    return max(1e-4, torch.finfo(kind).eps) if kind.is_floating_point else 1e-4


def _shown(state: Mapping[str, Tensor], error: Exception) -> str:
    if isinstance(error, KeyError):
        near = [name for name in state if str(error.args[0]) in name]
        return f"'{near[0]}' is none of its tensors" if near else f"they have no {error}"
    return str(error)
