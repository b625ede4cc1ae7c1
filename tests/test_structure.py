"""What keeps the code readable, checked."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from overtone.training.recipes import PARAMETERS, RECIPES, find_recipe

SOURCE = Path(__file__).parent.parent / "src" / "overtone"
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {file: ast.parse(file.read_text()) for file in FILES}


def named(file):
    return str(file.relative_to(SOURCE))


def test_files_and_functions_are_short():
    long = [named(file) for file in FILES if len(file.read_text().splitlines()) > 400]
    assert long == []
    functions = [
        f"{named(file)}: {node.name}"
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= 60
    ]
    assert functions == []


NOUNS = {
    "Denoiser", "Experts", "ExpertDenoiser", "NetworkDenoiser", "SolutionOperator",
    "GaussianProcess", "RelayProcess", "Process", "Schedule", "DiscreteSchedule",
    "Sampler", "AncestralSampler", "OperatorSampler", "SchedulerSampler", "SamplingLoop",
    "Preconditioning", "EDMPreconditioning", "VPPreconditioning", "Start", "RelayStart",
    "OperatorNetwork", "DenoisingRecipe", "DistillationRecipe", "VAERecipe", "Task",
    "ADMUNet", "DiffiTUNet", "DiffiTTransformer", "IUNet", "SongUNet", "DSNOUNet",
    "TemporalNetwork", "IUNetConfig", "ADMConfig",
}  # fmt: skip


def test_nouns_are_asked_and_not_told_apart():
    """No `isinstance` on a kind of a noun, and no comparison of a type's name."""
    found = []
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                kinds = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                found += [f"{named(file)}:{node.lineno}"] if kinds & NOUNS else []
            if isinstance(node, ast.Compare):
                names = [n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)]
                found += [f"{named(file)}:{node.lineno}"] if "__name__" in names else []
    assert found == []


IMPORTED = """
import json, sys, time
from overtone.cli.app import main
arguments = json.loads(sys.argv[1])
try:
    main(arguments)
except SystemExit:
    pass
print()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize(
    "command",
    [
        "recipes",
        "train --help",
        "train diffit-digits --help",
        "train meme-digits --help",
        "train vae-glyphs --help",
        "distill collect dsno-digits --help",
        "distill train dsno-digits --help",
        "sample --help",
        "sample MODEL --help",
        "evaluate MODEL --help",
        "analyze attention MODEL --help",
        "analyze guidance MODEL --help",
        "analyze eta MODEL --help",
        "analyze split MODEL --help",
        "analyze spectrum MODEL --help",
        "analyze trajectory MODEL --help",
        "merge --help",
        "replay --help",
        "compare --help",
        "convert --help",
        "info --help",
        "data inspect --help",
        "data encode --help",
    ],
)
def test_settings_and_helps_import_neither_torch_nor_diffusers(command):
    model = str(Path(__file__).parent / "data" / "0.1.0" / "models" / "relay")
    arguments = json.dumps([model if word == "MODEL" else word for word in command.split()])
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, arguments], capture_output=True, text=True, check=True
    )
    *text, modules = done.stdout.splitlines()
    assert {"torch", "diffusers", "datasets", "accelerate"}.isdisjoint(json.loads(modules))
    assert len("".join(text)) > 200


def test_the_sizes_that_recipes_are_listed_with_are_their_networks():
    for name in RECIPES:
        network = getattr(find_recipe(name), "network", None)
        if network is None:
            assert name not in PARAMETERS
            continue
        with torch.device("meta"):
            count = sum(p.numel() for p in network.build().parameters())
        assert PARAMETERS[name] == pytest.approx(count / 1e6, abs=0.005), name
