"""What several test modules need."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from overtone.denoisers import IdealDenoiser
from overtone.networks import (
    ADMConfig,
    ADMUNet,
    DiffiTConfig,
    DiffiTTransformer,
    DiffiTTransformerConfig,
    DiffiTUNet,
    DSNOConfig,
    IUNet,
    IUNetConfig,
    SongConfig,
    SongUNet,
)
from overtone.networks.vae import VAE, VAEConfig

GOLDEN = Path(__file__).parent / "golden"

# diffusers and NumPy 2 are not quite agreed on arrays.
DIFFUSERS_MARKS = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),
]

TINY_DIFFIT = DiffiTConfig(
    resolution=8,
    channels=1,
    num_classes=3,
    widths=(16, 32),
    num_cells=(1, 1),
    window=4,
    head_channels=8,
    token_width=32,
)
TINY_ADM = ADMConfig(
    resolution=8,
    channels=1,
    num_classes=3,
    widths=(16, 32),
    num_cells=1,
    attention_resolutions=(4,),
    head_channels=8,
    embedding_width=32,
    dropout=0.0,
)
TINY_IUNET = IUNetConfig(
    resolution=8,
    channels=1,
    num_classes=3,
    widths=(16, 32),
    num_cells=2,
    attention_resolutions=(4,),
    head_channels=8,
    embedding_width=32,
    dropout=0.0,
    inception_heads=(1, 3),
    pool_above=4,
)
TINY_SONG = SongConfig(
    resolution=8,
    channels=1,
    num_classes=3,
    widths=(16, 32),
    stem_width=8,
    num_cells=1,
    attention_resolutions=(4,),
    frequencies=16,
    embedding_width=32,
    dropout=0.0,
)
TINY_NCSN = dataclasses.replace(
    TINY_SONG,
    time_embedding="fourier",
    filter_taps=(1, 3, 3, 1),
    residual_encoder=True,
    attention="tmsa",
    window=2,
    heads=2,
)

TINY_DSNO = DSNOConfig(
    resolution=8,
    channels=1,
    num_classes=3,
    widths=(32, 64),
    num_cells=1,
    attention_resolutions=(4,),
    frequencies=16,
    embedding_width=32,
)
TINY_TRANSFORMER = DiffiTTransformerConfig(
    resolution=8, channels=4, num_classes=3, patch=2, width=24, depth=3, heads=2, time_features=16
)


def tiny_vae(**changes) -> VAE:
    """16 px RGB images, 8 px latents with 4 channels; random weights."""
    config = VAEConfig(resolution=16, widths=(8, 8), groups=4)
    return VAE.build(dataclasses.replace(config, **changes)).eval()


class Golden:
    """A file of reference numbers: `config`, the `state` under its published names, and tensors."""

    def __init__(self, name: str) -> None:
        self.file = safe_open(GOLDEN / f"{name}.safetensors", "pt")
        self.config = json.loads(self.file.metadata()["config"])

    def __getitem__(self, name: str) -> Tensor:
        return self.file.get_tensor(name)

    @property
    def state(self) -> dict[str, Tensor]:
        names = (n for n in self.file.keys() if n.startswith("state."))  # noqa: SIM118
        return {n.removeprefix("state."): self[n].float() for n in names}


def pixels(path):
    """The pixels of a picture on the disk, whatever else is in the file: a receipt, say."""
    with Image.open(path) as picture:
        return picture.mode, picture.size, picture.tobytes()


def deviation(out: Tensor, reference: Tensor) -> float:
    """max |out - reference| / max |reference|"""
    return float((out - reference).abs().max() / reference.abs().max())


def awake(network):
    """A network none of whose layers is zero, as it is after some training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return network


def tiny_networks():
    return [
        DiffiTUNet(TINY_DIFFIT),
        ADMUNet(TINY_ADM),
        SongUNet(TINY_SONG),
        SongUNet(TINY_NCSN),
        IUNet(TINY_IUNET),
        DiffiTTransformer(dataclasses.replace(TINY_TRANSFORMER, channels=1)),
    ]


def gaussian(dims: int = 4) -> tuple[IdealDenoiser, Tensor, Tensor]:
    """The ideal denoiser of a Gaussian on 1 x 1 x dims images in float64; its mean, covariance."""
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(1, 1, 1, dims, generator=generator, dtype=torch.float64) * 0.3
    factor = torch.randn(dims, dims, generator=generator, dtype=torch.float64) * 0.4
    covariance = factor @ factor.T + 0.01 * torch.eye(dims, dtype=torch.float64)
    return IdealDenoiser(mean, covariance), mean.flatten(), covariance
