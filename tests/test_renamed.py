"""Old names are refused, and the new one is said; the page for readers lists them all."""

import importlib
from pathlib import Path

import pytest

import overtone
from helpers import TINY_DIFFIT
from overtone import renamed
from overtone.cli.app import main
from overtone.denoisers import EDMPreconditioning
from overtone.networks import DiffiTUNet
from overtone.pipelines import DiffiTPipeline, Pipeline

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "renamed.md").read_text()
HOMES = ["overtone", "overtone.denoisers", "overtone.pipelines", "overtone.processes",
         "overtone.samplers"]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), renamed.NAMES.items())
def test_classes(old, new):
    found = 0
    for home in HOMES:
        module = importlib.import_module(home)
        if new not in module.__all__:
            continue
        message = rf"{home}\.{old} is called {home}\.{new} now"
        with pytest.raises(AttributeError, match=message):
            getattr(module, old)
        assert not hasattr(module, old)
        assert getattr(module, old, None) is None
        with pytest.raises(ImportError, match=message):
            exec(f"from {home} import {old}")
        assert getattr(module, new)
        found += 1
    assert found
    assert f"| `{old}` | `{new}` |" in PAGE


def test_other_names_are_none():
    with pytest.raises(AttributeError, match="EDMSetings"):
        _ = overtone.EDMSetings


@pytest.mark.parametrize("make", [Pipeline, DiffiTPipeline])
def test_arguments(make):
    network = DiffiTUNet(TINY_DIFFIT)
    with pytest.raises(TypeError, match="'denoiser' of a Pipeline is called 'preconditioning' now"):
        make(network, denoiser=EDMPreconditioning())
    with pytest.raises(TypeError, match="takes no argument 'samplr'"):
        make(network, samplr=3)
    assert all(old in PAGE for old in renamed.ARGUMENTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--denoiser.sigma-data", "1"], "--denoiser.sigma-data is called --preconditioning.sigma"),
        (["--denoiser.sigma_data=1"], "--denoiser.sigma-data is called --preconditioning.sigma"),
        (
            ["--denoiser.kind", "VPDenoiser"],
            "--denoiser.kind is not an option any more: a recipe file",
        ),
        (["--weighting", "eps"], "--weighting is not an option any more: a recipe file names"),
        (["--network.kind", "ADMUNet"], "--network.kind is not an option any more"),
    ],
)
def test_options(capsys, options, message):
    with pytest.raises(SystemExit):
        main(["train", "diffit-digits", *options])
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_command_takes_its_own_options_by_their_names(capsys):
    """What was renamed in one command is an option of another still."""
    with pytest.raises(SystemExit):
        main(["analyze", "spectrum", str(ROOT / "models" / "flow-digits"), "--steps", "3"])
    assert "--steps is called --levels now" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["distill", "train", "dsno-digits", "--weighting", "uniform", "--help"])
    assert ended.value.code == 0


def test_the_page_lists_every_option():
    own = [option for options in renamed.OPTIONS_OF.values() for option in options]
    assert all(old in PAGE for old in [*renamed.OPTIONS, *own])
