"""Opening models by name: a directory, the run of a recipe, or a repository of the Hub."""

from __future__ import annotations

from pathlib import Path

from overtone.errors import OvertoneError
from overtone.networks.vae import FOLDER, VAE
from overtone.pipelines.load import load_pipeline
from overtone.pipelines.pipeline import Pipeline
from overtone.training.runs import find_checkpoint, is_run


def located(name: str | Path, checkpoint: str = "last") -> str | Path:
    """The directory of a run's checkpoint; any other name as it is."""
    run = Path(name).expanduser()
    return find_checkpoint(run, checkpoint) if is_run(run) else name


def open_pipeline(name: str | Path, checkpoint: str = "last") -> Pipeline:
    """A pipeline from a directory, a run or the Hub."""
    return load_pipeline(located(name, checkpoint))


def check_made(name: str | Path, what: str, otherwise: str) -> None:
    """Raises `OvertoneError` for the run of a recipe that was not trained yet, saying of which."""
    if str(name).startswith("runs/") and not Path(name).exists():
        raise OvertoneError(
            f"{what} is not there: the recipe {Path(name).name} makes {name}. Train it first, or"
            f" pass {otherwise}."
        )


def open_vae(name: str | Path, scaling_factor: float | None = None) -> VAE:
    """The VAE in a directory, in a run of a VAE's recipe or in a repository of the Hub."""
    check_made(name, "the VAE", "another --vae")
    folder = located(name)
    if folder != name and not (Path(folder) / FOLDER).is_dir():
        raise OvertoneError(f"{name} is the run of another recipe: it has no VAE.")
    return VAE.from_pretrained(folder, scaling_factor)
