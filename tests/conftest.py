"""Shapes and types are checked at run time under test: every annotated call of the mathematics."""

import importlib
import os
import tempfile
import typing

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Each process of tests has its share of the cores, and so have the processes that tests start.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)

# No test fails because other processes keep the machine busy.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Nothing is read from or written to the user's own cache, and the Hub is out of reach.
os.environ["OVERTONE_CACHE"] = tempfile.mkdtemp(prefix="overtone-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="overtone-tests-hub-")

# Modules with `Self` in them (pipelines, saved networks) are left to the static checker.
CHECKED = [
    *(f"overtone.networks.{name}" for name in ("adm", "attention", "cells", "classifier")),
    *(f"overtone.networks.{name}" for name in ("diffit", "inception", "layers", "song")),
    *(f"overtone.networks.{name}" for name in ("spectral", "unet")),
    *(f"overtone.denoisers.{name}" for name in ("experts", "guided", "ideal", "network")),
    *(f"overtone.denoisers.{name}" for name in ("operator", "preconditioning")),
    *(f"overtone.processes.{name}" for name in ("discrete", "gaussian", "noise", "patches")),
    *(f"overtone.processes.{name}" for name in ("posterior", "relay", "schedule", "vp_frame")),
    *(f"overtone.samplers.{name}" for name in ("ancestral", "estimates", "operator", "sampler")),
    "overtone.samplers.schedulers",
    *(f"overtone.metrics.{name}" for name in ("classes", "frechet", "halves", "kernel")),
    *(f"overtone.metrics.{name}" for name in ("memorisation", "neighbours")),
    "overtone.training.augment",
    "overtone.training.ema",
    "overtone.training.objectives",
]
LATER = [f"overtone.analysis.{name}" for name in ("fourier", "trajectories")]

# What those import of others, first: only Overtone's own modules are to see the flag set below.
for name in ("accelerate", "datasets", "matplotlib", "pydantic", "typecheck"):
    importlib.import_module(name)

with install_import_hook([*CHECKED, *LATER], "typecheck.check"):
    # Settings are read without torch, and name its types where only a type checker looks: the one
    # of the tests looks, too.
    typing.TYPE_CHECKING = True
    try:
        for name in CHECKED:
            importlib.import_module(name)
    finally:
        typing.TYPE_CHECKING = False
    for name in LATER:
        importlib.import_module(name)


# Fixtures of several test modules, imported after what is checked.
pytest_plugins = ["bad_input", "hostile", "teachers", "vaes"]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
