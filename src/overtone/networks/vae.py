"""The latent space: diffusers' `AutoencoderKL` or `VQModel`, and latents of unit scale."""

from __future__ import annotations

import copy
import hashlib
import math
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from overtone import storage
from overtone.errors import OvertoneError
from overtone.networks.configs.vae import VAEConfig
from overtone.networks.foreign import load_model
from overtone.networks.network import digest_of
from overtone.sizes import sides

FOLDER = "vae"
"""where a pipeline or a checkpoint keeps it"""
_FOLDERS = (FOLDER, "vqvae")  # the second is latent diffusion's
_HUB_FILES = [
    f"{where}{what}"
    for where in ("", *(f"{folder}/" for folder in _FOLDERS))
    for what in ("config.json", "diffusion_pytorch_model.safetensors")
]

DECODED_PIXELS = 2**22
"""decoded at a time: memory stays the same however many images are asked for"""


def usual_scale() -> float:
    """The scaling factor of an `AutoencoderKL` whose settings name none, 0.18215."""
    import inspect

    from diffusers import AutoencoderKL

    return float(inspect.signature(AutoencoderKL.__init__).parameters["scaling_factor"].default)


class VAE(nn.Module):
    """An `AutoencoderKL` or a `VQModel`, and the scale that its latents are diffused at.

    A latent z ~ N(mean, std^2) is stored as it comes and diffused as

        x = scaling_factor (z - shift_factor)

    which has about unit variance. A `VQModel`'s latents, taken before they are quantised, have no
    variance of their own, std = 0; decoding quantises them. Raises `OvertoneError` for a model
    without a scaling factor, unless one is given: Stable Diffusion's is 0.18215.
    """

    def __init__(self, model: nn.Module, scaling_factor: float | None = None) -> None:
        super().__init__()
        config: Any = model.config
        scale = config.get("scaling_factor") if scaling_factor is None else scaling_factor
        if not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise OvertoneError(
                f"the VAE's scaling_factor is {scale}: give it one that makes its latents' standard"
                " deviation 1, 0.18215 for Stable Diffusion's (--scaling-factor)."
            )
        self.model: Any = model
        self.scaling_factor = float(scale)
        self.shift_factor = float(config.get("shift_factor") or 0.0)
        self.image_channels = int(config.in_channels)
        self.channels = int(config.latent_channels)
        self.factor = 2 ** (len(config.block_out_channels) - 1)

    @classmethod
    def build(cls, config: VAEConfig) -> Self:
        """A VAE to train, with random weights."""
        from diffusers import AutoencoderKL

        depth = len(config.widths)
        model: Any = AutoencoderKL(
            in_channels=config.channels,
            out_channels=config.channels,
            down_block_types=("DownEncoderBlock2D",) * depth,
            up_block_types=("UpDecoderBlock2D",) * depth,
            block_out_channels=config.widths,
            layers_per_block=config.num_cells,
            latent_channels=config.latent_channels,
            norm_num_groups=config.groups,
            sample_size=max(sides(config.resolution)),
            mid_block_add_attention=config.attention,
            scaling_factor=1.0,
        )
        # A posterior as wide as the prior would drown what there is to learn from at first.
        nn.init.constant_(model.quant_conv.bias[config.latent_channels :], -6.0)
        return cls(model)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, scaling_factor: float | None = None, revision: str | None = None
    ) -> Self:
        """The VAE in a directory (or its sub-folder `vae`), or in a repository of the Hub, in eval
        mode. Reads JSON and safetensors only. `scaling_factor` is for a config.json without one.

        Raises `OvertoneError` if there is none, if it is neither an `AutoencoderKL` nor a
        `VQModel`, or if its config.json has no scaling_factor and none is given.
        """
        from diffusers import AutoencoderKL, VQModel

        folder = storage.locate(name, revision, _HUB_FILES)
        folder = next((folder / f for f in _FOLDERS if (folder / f).is_dir()), folder)
        file = folder / "config.json"
        config = storage.read_json(file, dict)
        kinds: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
        kind = config.get("_class_name", "AutoencoderKL")
        if kind not in kinds or "latent_channels" not in config:
            kind = config.get("_class_name") or config.get("kind") or "something else"
            raise OvertoneError(f"{folder} holds a {kind}, not an AutoencoderKL or VQModel.")
        scale = config.get("scaling_factor", scaling_factor)
        if scale is None:
            raise OvertoneError(
                f"{file} has no scaling_factor: pass the one that its latents are diffused at,"
                " 0.18215 for Stable Diffusion's (--scaling-factor)."
            )
        if config.get("quantization_config"):
            raise OvertoneError(f"{file} is of a quantised VAE, which is not supported.")
        return cls(load_model(kinds[kind], folder).float(), scale).eval()

    def write_into(self, folder: Path, dtype: Any = None) -> None:
        """diffusers' files, into a directory that exists, the weights in another type if there is
        one."""
        # diffusers would also write from where it was read, a path of this machine.
        self.model.register_to_config(scaling_factor=self.scaling_factor, _name_or_path="")
        model = self.model
        if dtype is not None:
            model = copy.deepcopy(model)
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                tensor.data = storage.converted(name, tensor.data, dtype)
        model.save_pretrained(folder)
        for file in folder.glob("*.safetensors"):
            storage.as_ordinary(file)

    @property
    def digest(self) -> str:
        """Of all that the latents depend on: weights and settings, not the scale."""
        free = ("scaling_factor", "shift_factor", "sample_size", "force_upcast")
        facts = sorted(
            (key, str(value))
            for key, value in self.model.config.items()
            if key not in free and not key.startswith("_")
        )
        return hashlib.sha256(f"{digest_of(self.model)} {facts}".encode()).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """All that decoded images depend on, as JSON."""
        scale = {"scaling_factor": self.scaling_factor, "shift_factor": self.shift_factor}
        return {"weights": self.digest} | scale

    def encode(
        self, images: Float[Tensor, "batch image_channels height width"]
    ) -> tuple[
        Float[Tensor, "batch channels rows columns"], Float[Tensor, "batch channels rows columns"]
    ]:
        """Mean and standard deviation of the latents of images in [-1, 1], as they are stored."""
        encoded = self.model.encode(images)
        if "latent_dist" not in encoded:
            return encoded.latents, torch.zeros_like(encoded.latents)
        return encoded.latent_dist.mean, encoded.latent_dist.std

    def latents(
        self, images: Float[Tensor, "batch image_channels height width"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """The mean latents of images in [-1, 1], at the scale that they are diffused at."""
        device = next(self.parameters()).device
        mean, _ = self.encode(images.to(device))
        return self.scaling_factor * (mean - self.shift_factor)

    def decode(
        self, x: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch image_channels height width"]:
        """The images of latents at the scale they are diffused at."""
        z = x / self.scaling_factor + self.shift_factor
        part = max(1, DECODED_PIXELS // (z.shape[2] * z.shape[3] * self.factor**2))
        return torch.cat([self.model.decode(some).sample for some in z.split(part)])

    def forward(
        self,
        images: Float[Tensor, "batch image_channels height width"],
        noise: Float[Tensor, "batch channels rows columns"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction of images from a drawn latent, and the latent's mean and log-variance."""
        posterior = self.model.encode(images).latent_dist
        z = posterior.mean + posterior.std * noise
        return self.model.decode(z).sample, posterior.mean, posterior.logvar
