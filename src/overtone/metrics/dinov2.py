"""Features of DINOv2, for FD-DINOv2 (Stein et al. 2023, arXiv 2306.04675).

The class token behind the last norm of a vision transformer that was trained on images without
labels (Oquab et al. 2023, arXiv 2304.07193): 1024 numbers, of ViT-L/14. Images are resized to 224
px, bicubic, and normalised as ImageNet's. The network is transformers' `Dinov2Model`.
"""

from __future__ import annotations

import json
import pkgutil
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from overtone import precision, storage
from overtone.data.images import Pixels
from overtone.errors import OvertoneError
from overtone.metrics.features import Extractor, Features
from overtone.networks.network import digest_of

REPOSITORY = "facebook/dinov2-large"
SIZE = 224
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""of ImageNet's pixels in [0, 1]"""

_NAMES = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^mask_token$", "embeddings.mask_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"^blocks\.(\d+)\.ls([12])\.gamma$", r"encoder.layer.\1.layer_scale\2.lambda1"),
    (r"^blocks\.(\d+)\.(norm[12]|mlp\.fc[12])\.", r"encoder.layer.\1.\2."),
)
"""names of torch.hub's checkpoints -> those of transformers' repositories"""
_PACKED = re.compile(r"^blocks\.(\d+)\.attn\.qkv\.(weight|bias)$")


class DinoExtractor(Extractor):
    """The class token of DINOv2. Grey images become RGB.

    `weights` is a directory or a repository of transformers', or a file: safetensors with the names
    of transformers' repositories, or a checkpoint of torch.hub's (dinov2_vitl14_pretrain.pth). None
    is the repository of ViT-L/14. Needs the extra `dinov2`.

    Raises `OvertoneError` for what holds other weights.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        transformers = _transformers()
        source = str(weights or REPOSITORY)
        path = Path(source).expanduser()
        if path.is_file():
            network = _from_file(transformers, path)
        else:
            network = _opened(transformers, path if path.is_dir() else storage.locate(source))
        self.network = network.eval().to(precision.default_device())
        self.digest = digest_of(network)
        self.dims = network.config.hidden_size
        self.name = f"DINOv2, {self.dims} features"

    @torch.no_grad()
    def __call__(self, pixels: Pixels) -> Features:
        device = next(self.network.parameters()).device
        images = torch.stack([_prepared(image) for image in pixels.cpu()]).to(device)
        return Features(self.network(images).last_hidden_state[:, 0].float().cpu())


def _prepared(image: Tensor) -> Tensor:
    """A uint8 image as the network takes it. Pillow's bicubic filter widens as it makes smaller."""
    array = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
    picture = Image.fromarray(array).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
    return (values - mean) / deviation


def _transformers() -> Any:
    try:
        import transformers
    except (ImportError, RuntimeError) as error:
        raise OvertoneError(
            "DINOv2's features need an extra: in Overtone's source, pip install -c constraints.txt"
            f" '.[dinov2]' ({str(error).splitlines()[0]})."
        ) from None
    return transformers


def _from_file(transformers: Any, file: Path) -> Any:
    state: dict[str, Tensor] = pkgutil.resolve_name("overtone.convert.weights:read_weights")(
        file
    ).state
    if "pos_embed" in state:
        state = translated(state)
    try:
        config = _config_of(state)
    except (KeyError, ValueError, IndexError) as error:
        raise OvertoneError(
            f"{file} holds other weights than DINOv2's ({error}): a checkpoint of torch.hub's or"
            " safetensors of transformers' are wanted."
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        storage.save_tensors(Path(folder, "model.safetensors"), state, {"format": "pt"})
        return _opened(transformers, Path(folder), str(file))


def _opened(transformers: Any, folder: Path, where: str = "") -> Any:
    where = where or str(folder)
    try:
        network, found = transformers.Dinov2Model.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises almost anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OvertoneError(f"DINOv2 can't be read from {where} ({first}).") from None
    wrong = sorted({*found["missing_keys"], *map(str, found["mismatched_keys"])})
    if wrong:
        raise OvertoneError(
            f"{where} holds other weights than DINOv2's: {', '.join(wrong[:3])} are not in it, or"
            " of another shape."
        )
    return network


def translated(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a checkpoint of torch.hub's under the names of transformers' repositories."""
    out = {}
    for name, tensor in state.items():
        packed = _PACKED.match(name)
        if packed is not None:
            layer, kind = packed.groups()
            for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[f"encoder.layer.{layer}.attention.attention.{part}.{kind}"] = value
            continue
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        out[name] = tensor
    return out


def _config_of(state: dict[str, Tensor]) -> dict[str, Any]:
    """The settings that weights say. Raises `KeyError` and `ValueError` for others'."""
    patches = state["embeddings.patch_embeddings.projection.weight"]
    width, channels, patch, _ = patches.shape
    positions = state["embeddings.position_embeddings"].shape[1] - 1
    layers = {name.split(".")[2] for name in state if name.startswith("encoder.layer.")}
    if any(".mlp.w12." in name for name in state):
        raise ValueError("of ViT-g, whose gated MLP is not read from a file: name a repository")
    side = round(positions**0.5)
    if side**2 != positions or width % 64:
        raise ValueError(f"{positions} positions, {width} features")
    hidden = state["encoder.layer.0.mlp.fc1.weight"].shape[0]
    return {
        "model_type": "dinov2",
        "architectures": ["Dinov2Model"],
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": side * patch,
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // 64,
        "mlp_ratio": hidden // width,
        "use_swiglu_ffn": False,
    }
