"""Opening what a recipe names, which may be there already or the run of another recipe."""

from __future__ import annotations

from pathlib import Path

from overtone.errors import OvertoneError
from overtone.networks.vae import FOLDER, VAE
from overtone.runs import is_run, open_checkpoint


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
    run = Path(name).expanduser()
    if not is_run(run):
        return VAE.from_pretrained(name, scaling_factor)

    def opened(folder: Path) -> VAE:
        if not (folder / FOLDER).is_dir():
            raise OvertoneError(f"{name} is the run of another recipe: it has no VAE.")
        return VAE.from_pretrained(folder, scaling_factor)

    return open_checkpoint(run, "last", opened)
