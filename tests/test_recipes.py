"""Recipes: from Python files of one's own and from JSON, where mistakes are named."""

import importlib
import json
import shutil
import sys

import pytest

from overtone import storage
from overtone.cli.app import main
from overtone.errors import OvertoneError
from overtone.training import find_recipe

RECIPES = """
from dataclasses import replace
from overtone import find_recipe
plain = replace(find_recipe("diffit-digits"), label_dropout=0.25)
def made():
    return replace(plain, label_dropout=0.5)
def broken():
    return 1 / 0
number = 3
"""


@pytest.fixture
def recipes(tmp_path):
    file = tmp_path / "some_recipes.py"
    file.write_text(RECIPES)
    yield str(file)
    sys.modules.pop("some_recipes", None)


def test_a_recipe_from_a_file_of_ones_own_which_is_executed(recipes, capsys):
    assert find_recipe(f"{recipes}:plain").label_dropout == 0.25
    assert f"executing {recipes}" in capsys.readouterr().err
    assert find_recipe(f"{recipes}:made").label_dropout == 0.5
    assert "executing" not in capsys.readouterr().err  # once is enough
    for name, message in (
        (f"{recipes}:none", "has no recipe 'none', .* It has: plain"),
        (f"{recipes}:number", "has no recipe 'number'"),
        (f"{recipes}:broken", r"broken\(\) fails: ZeroDivisionError"),
        (recipes, "may hold several recipes: say which"),
        (f"{recipes[:-3]}_.py:plain", "does not exist"),
    ):
        with pytest.raises(OvertoneError, match=message):
            find_recipe(name)


@pytest.mark.slow
def test_its_run_is_called_after_it_and_its_options_are_the_recipe_s(
    recipes, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    main(["train", f"{recipes}:made", "--total-images", "128", "--lr-rampup-images", "0",
          "--network.widths", "16", "16", "--network.head-channels", "8"])  # fmt: skip
    run = tmp_path / "runs" / "made"
    assert json.loads((run / "recipe.json").read_text())["label_dropout"] == 0.5
    assert importlib.import_module("some_recipes").plain.label_dropout == 0.25


def test_recipes_survive_json(tmp_path):
    from overtone import settings
    from overtone.training.recipes import RECIPES, find_recipe

    for name in RECIPES:
        file = tmp_path / f"{name}.json"
        storage.write_json(file, settings.dump(find_recipe(name)))
        assert find_recipe(str(file)) == find_recipe(name)
    broken = json.loads((tmp_path / "diffit-digits.json").read_text())
    broken["training"]["batch_sice"] = 3
    storage.write_json(tmp_path / "broken.json", broken)
    with pytest.raises(OvertoneError, match="did you mean 'batch_size'"):
        find_recipe(str(tmp_path / "broken.json"))
    broken = json.loads((tmp_path / "diffit-digits.json").read_text())
    for value in ("fast", "0.1"):  # a number in quotes is no number
        broken["training"]["lr"] = value
        storage.write_json(tmp_path / "broken.json", broken)
        with pytest.raises(OvertoneError, match=rf"training\.lr.*'{value}'"):
            find_recipe(str(tmp_path / "broken.json"))
    broken = json.loads((tmp_path / "adm-digits.json").read_text())
    broken["network"]["wdths"] = [8]
    storage.write_json(tmp_path / "broken.json", broken)
    with pytest.raises(OvertoneError, match=r"'network.*wdths': did you mean 'widths'"):
        find_recipe(str(tmp_path / "broken.json"))
    shutil.rmtree(tmp_path)
