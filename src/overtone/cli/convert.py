"""`overtone convert KIND FILE OUT`: published weights as a pipeline, with a certificate."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from overtone import storage
from overtone.cli.options import parse
from overtone.errors import OvertoneError

CERTIFICATE_FILE = "certificate.json"


@dataclass(frozen=True)
class Options:
    kind: tyro.conf.Positional[Literal["diffit-latent"]]
    """whose weights: diffit-latent is the published transformer, 256 or 512 px"""
    file: tyro.conf.Positional[Path]
    """the published .safetensors; nothing but tensors is read from it"""
    out: tyro.conf.Positional[Path]
    """directory of the pipeline"""
    vae: str | None = None
    """the VAE to save with it: a directory or a repository of the Hub, for the published weights
    stabilityai/sd-vae-ft-ema; without one, sampling needs --vae"""
    scaling_factor: float | None = None
    """of the VAE's latents, where its config.json has none: 0.18215 for Stable Diffusion's"""


def main(arguments: Sequence[str]) -> None:
    options = parse(Options, "convert", __doc__, arguments)
    if options.file.suffix != ".safetensors":
        raise OvertoneError(
            f"{options.file} is no .safetensors file: other formats can run code as they are read."
        )
    from overtone.convert.diffit import certificate, latent_transformer, pipeline_of
    from overtone.networks.vae import VAE
    from overtone.pipelines.base import FILES

    converted = latent_transformer(storage.load_tensors(options.file))
    vae = VAE.from_pretrained(options.vae, options.scaling_factor) if options.vae else None
    pipe = pipeline_of(converted.network, vae)
    proof = certificate(options.file, converted)
    with storage.new_directory(options.out, known=(*FILES, CERTIFICATE_FILE)) as folder:
        pipe.write_into(folder)
        storage.write_json(folder / CERTIFICATE_FILE, proof)
    print(
        f"{options.out}: {proof['parameters'] / 1e6:.1f} M parameters, {len(proof['keys_mapped'])}"
        f" tensors mapped, {len(proof['keys_left'])} constants checked ({CERTIFICATE_FILE})",
        file=sys.stderr,
    )
