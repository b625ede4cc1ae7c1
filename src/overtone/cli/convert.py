"""`overtone convert KIND FILE OUT` makes a pipeline of published weights, with a certificate.

    overtone convert diffit-latent diffit_256.safetensors models/diffit-256
    overtone convert edm edm-cifar10-32x32-cond-vp.pkl models/cifar10
    overtone convert rdm imagenet_first_stage.pkl imagenet_second_stage.pt models/relay-imagenet
    overtone convert dsno solver-model_400000.pt models/dsno-cifar10 --settings cifar10

Nothing in a file is executed. Only tensors, numbers, texts and containers are read from pickles.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from overtone import storage
from overtone.cli.options import parse
from overtone.errors import OvertoneError, plain
from overtone.ranges import Positive
from overtone.sizes import shown

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline

CERTIFICATE_FILE = "certificate.json"


@dataclass(frozen=True)
class Options:
    kind: tyro.conf.Positional[Literal["diffit-latent", "edm", "rdm", "dsno"]]
    """The kind of published weights: diffit-latent, the transformer of 256 or 512 px; edm, one of
    EDM's networks; rdm, both stages of relay diffusion; dsno, an operator."""
    paths: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILE [FILE ...] OUT")
    ]
    """The published file, or both files for rdm, and then the directory that the pipeline is
    written to."""
    vae: str | None = None
    """The VAE to save with a diffit-latent transformer: a directory or a repository of the Hub. The
    published weights need stabilityai/sd-vae-ft-ema. Without a VAE, sampling needs --vae."""
    scaling_factor: Positive | None = None
    """The scaling factor of the VAE's latents, where its config.json has none. That of Stable
    Diffusion is 0.18215."""
    sampler: str | None = None
    """The published sampler to save with an edm network: cifar10, ffhq64, afhqv2-64 or imagenet64.
    If it is not given, it follows from the size and the classes."""
    settings: str | None = None
    """The settings of a dsno operator: cifar10 or imagenet64, as published, or the .yaml file that
    it was trained with."""


def main(arguments: Sequence[str]) -> None:
    options = parse(Options, "convert", __doc__, arguments)
    wanted = 3 if options.kind == "rdm" else 2
    if len(options.paths) != wanted:
        names = "FIRST SECOND" if wanted == 3 else "FILE"
        raise OvertoneError(
            f"overtone convert {options.kind} {names} OUT takes {wanted} paths, not"
            f" {len(options.paths)}."
        )
    for name, kind in (
        ("vae", "diffit-latent"),
        ("scaling_factor", "diffit-latent"),
        ("sampler", "edm"),
        ("settings", "dsno"),
    ):
        if getattr(options, name) is not None and options.kind != kind:
            raise OvertoneError(
                f"--{name.replace('_', '-')} is for {kind}, not for {options.kind}."
            )
    *files, out = options.paths
    for file in files:
        if not file.is_file():
            raise OvertoneError(f"{file} does not exist, or is not a file.")
    pipe, proof, said = _CONVERT[options.kind](options, files)
    from overtone.pipelines.pipeline import FILES

    with storage.new_directory(out, known=(*FILES, CERTIFICATE_FILE)) as folder:
        pipe.write_into(folder)
        storage.write_json(folder / CERTIFICATE_FILE, proof)
    print(f"{out}: {said} ({CERTIFICATE_FILE})", file=sys.stderr)


Result = tuple["Pipeline", dict[str, Any], str]


def _diffit_latent(options: Options, files: list[Path]) -> Result:
    (file,) = files
    from overtone.convert.diffit import certificate, latent_transformer, pipeline_of
    from overtone.convert.weights import read_weights
    from overtone.networks.vae import VAE

    weights = read_weights(file)
    for note in weights.notes:
        print(plain(f"{file}: {note}"), file=sys.stderr)
    converted = latent_transformer(weights.state)
    vae = VAE.from_pretrained(options.vae, options.scaling_factor) if options.vae else None
    proof = certificate(file, converted)
    said = (
        f"{proof['parameters'] / 1e6:.1f} M parameters, {len(proof['keys_mapped'])} tensors mapped,"
        f" {len(proof['keys_left'])} constants checked"
    )
    return pipeline_of(converted.network, vae), proof, said


def _edm(options: Options, files: list[Path]) -> Result:
    from overtone.convert.edm import edm_pipeline, read_network

    network = read_network(files[0])
    proof = network.certificate("edm")
    said = f"{network.settings['model_type']}, {proof['parameters'] / 1e6:.1f} M parameters"
    return edm_pipeline(network, options.sampler), proof, said


def _rdm(options: Options, files: list[Path]) -> Result:
    from overtone.convert.edm import read_network, relay_pipeline

    first, second = (read_network(file) for file in files)
    proof = {"kind": "rdm"} | {
        name: stage.certificate("edm") for name, stage in (("first", first), ("second", second))
    }
    pipe = relay_pipeline(first, second)
    said = f"{shown(pipe.first.resolution)} px, then {shown(pipe.resolution)} px"
    return pipe, proof, said


def _dsno(options: Options, files: list[Path]) -> Result:
    if options.settings is None:
        raise OvertoneError(
            "a checkpoint of DSNO does not say its settings: --settings cifar10, imagenet64, or"
            " the .yaml file that it was trained with."
        )
    from overtone.convert.dsno import pipeline_of, settings_of

    pipe, proof = pipeline_of(files[0], settings_of(options.settings))
    sampler: Any = pipe.sampler
    count = len(sampler.levels) - 1
    return pipe, proof, f"{count} times, {proof['parameters'] / 1e6:.1f} M parameters"


_CONVERT = {"diffit-latent": _diffit_latent, "edm": _edm, "rdm": _rdm, "dsno": _dsno}
