"""Opening a saved pipeline: ours, a run's or one of diffusers."""

from __future__ import annotations

from pathlib import Path

from overtone import storage
from overtone.data.names import text_of
from overtone.errors import OvertoneError
from overtone.pipelines.foreign import diffusers_pipeline
from overtone.pipelines.index import is_diffusers, is_pipeline
from overtone.pipelines.pipeline import Pipeline
from overtone.runs import is_run, open_checkpoint


def load_pipeline(
    name: str | Path, revision: str | None = None, *, checkpoint: str = "last"
) -> Pipeline:
    """The pipeline in a directory or in a repository of the Hub: one of Overtone's, or one of
    diffusers with a U-Net or DiT. In a run's directory `checkpoint` chooses the "last" or the
    "best" one. Raises `OvertoneError` if nothing can be opened there, and for
    checkpoint="best" where `name` is not a run.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from overtone import ADMConfig, ADMUNet, Pipeline, load_pipeline
        >>> network = ADMUNet(ADMConfig(resolution=8, widths=(64,), attention_resolutions=()))
        >>> with TemporaryDirectory() as folder:
        ...     Pipeline(network).save_pretrained(f"{folder}/model")
        ...     load_pipeline(f"{folder}/model").resolution
        8
    """
    folder = storage.locate(name, revision)
    if is_run(folder):
        return open_checkpoint(folder, checkpoint, _opened)
    if checkpoint != "last":
        raise OvertoneError(
            f"{name} is a saved model and no run: it has no {checkpoint} checkpoint to choose."
        )
    return _opened(folder)


def public_model(name: str | Path) -> str:
    """The name of a model as it may be published: of a directory on this machine only the last
    part, a repository of the Hub whole."""
    path = Path(name).expanduser()
    return text_of(path.absolute().name) if path.exists() else str(name)


def _opened(folder: Path) -> Pipeline:
    if is_diffusers(folder) and not is_pipeline(folder):
        return diffusers_pipeline(folder)
    return Pipeline.from_pretrained(folder)
