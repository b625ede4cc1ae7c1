"""A file of published weights as a pipeline, whosever they are."""

from __future__ import annotations

from pathlib import Path

from overtone.convert.diffit import latent_transformer, pipeline_of
from overtone.convert.edm import edm_pipeline, read_network
from overtone.convert.weights import read_weights
from overtone.errors import OvertoneError
from overtone.filekind import is_safetensors
from overtone.pipelines.pipeline import Pipeline
from overtone.regular import open_regular


def open_published(file: Path) -> Pipeline:
    """The pipeline of a file that says by itself what it is: a checkpoint of EDM's or of relay
    diffusion's, or the weights of the latent DiffiT, which come without a VAE.

    Raises `OvertoneError` for anything else.
    """
    try:
        with open_regular(file) as opened:
            first = opened.read(9)
    except OSError as error:
        raise OvertoneError(f"{file} can't be read ({error.strerror}).") from None
    reasons = []
    for name, read in (("EDM's", _edm), ("the latent DiffiT's", _diffit)):
        if name == "EDM's" and is_safetensors(first):
            continue
        try:
            return read(file)
        except OvertoneError as error:
            reasons.append(f"as {name}: {str(error).rstrip('.')}")
    raise OvertoneError(
        f"the model in {file} was not identified ({'; '.join(reasons)}). DSNO's checkpoints do"
        " not hold their settings: `overtone convert` takes both."
    )


def _edm(file: Path) -> Pipeline:
    return edm_pipeline(read_network(file))


def _diffit(file: Path) -> Pipeline:
    return pipeline_of(latent_transformer(read_weights(file).state).network, None)
