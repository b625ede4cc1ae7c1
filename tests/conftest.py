"""Shapes and types are checked at run time under test: every annotated call of the mathematics."""

import importlib
import os
import tempfile

import pytest
import torch
from jaxtyping import install_import_hook

# Nothing is read from or written to the user's own cache, and the Hub is out of reach.
os.environ["OVERTONE_CACHE"] = tempfile.mkdtemp(prefix="overtone-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="overtone-tests-hub-")

# Modules with `Self` in them (pipelines, saved networks) are left to the static checker.
CHECKED = [
    *(f"overtone.networks.{name}" for name in ("adm", "attention", "cells", "classifier")),
    *(f"overtone.networks.{name}" for name in ("diffit", "inception", "layers", "song")),
    *(f"overtone.networks.{name}" for name in ("spectral", "unet")),
    *(f"overtone.denoisers.{name}" for name in ("experts", "foreign", "guidance", "ideal")),
    *(f"overtone.denoisers.{name}" for name in ("operator", "precond")),
    *(f"overtone.analysis.{name}" for name in ("fourier", "trajectories")),
    "overtone.metrics.scores",
    "overtone.processes",
    "overtone.samplers",
    "overtone.training.augment",
    "overtone.training.ema",
    "overtone.training.objectives",
]

with install_import_hook(CHECKED, "typecheck.check"):
    for name in CHECKED:
        importlib.import_module(name)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
