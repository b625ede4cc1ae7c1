"""Kinds: where they are found, how they are saved, and that unknown ones are refused by name."""

import dataclasses
import importlib
import json
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import own_parts
from helpers import TINY_DIFFIT, awake
from overtone import registry, settings
from overtone.cli.app import main
from overtone.denoisers import EDMPreconditioning, Preconditioning
from overtone.errors import OvertoneError
from overtone.networks import Classifier, ClassifierConfig, DiffiTUNet, Network, NetworkConfig
from overtone.pipelines import Pipeline
from overtone.processes import GaussianProcess, RelayProcess, Schedule, VPLinearSchedule
from overtone.registry import FAMILIES
from overtone.samplers import Sampler
from overtone.training import Recipe, Reporting, Training, find_recipe, train


def test_built_in_kinds_do_not_name_their_module():
    assert settings.dump(RelayProcess()) | {"module": ""} != settings.dump(RelayProcess())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "Plian"}, "unknown network 'Plian': did you mean 'Plain'"),
        ({"kind": "edm"}, "'edm' is a kind of preconditioning, not of network"),
        ({"kind": "Theirs", "module": "their_parts"}, "saved by the module 'their_parts'"),
        ({"kind": 3}, "names its 'kind'"),
        ({"width": 3}, "names its 'kind'"),
        ([], "names its 'kind'"),
        ({"kind": "Plain", "wdth": 3}, "unknown key 'wdth': did you mean 'width'"),
        ({"kind": "Plain", "width": 2.5}, "key 'width': Input should be a valid integer, got 2.5"),
        ({"kind": "Plain", "width": "8"}, "key 'width'"),
    ],
)
def test_kinds_that_are_not_known_and_settings_that_are_not_are_named(data, message):
    with pytest.raises(OvertoneError, match=message):
        settings.load(NetworkConfig, data, "config.json")


def test_nothing_is_imported_because_a_file_says_so(tmp_path, monkeypatch):
    (tmp_path / "evil_parts.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OvertoneError, match="If you trust that module, import it first"):
        settings.load(NetworkConfig, {"kind": "Evil", "module": "evil_parts"}, "config.json")
    assert "evil_parts" not in sys.modules


class Offer:
    """An entry point of an installed package."""

    dist, value, name = None, "their_package:Theirs", "Theirs"

    def load(self):
        @dataclass(frozen=True)
        class Theirs(NetworkConfig, kind="Theirs"):
            resolution: int = 8
            channels: int = 1
            num_classes: int = 0

        return Theirs


def test_an_entry_point_named_like_the_kind_is_loaded_and_said(monkeypatch, capsys):
    asked = []

    def points(*, group, name):
        asked.append((group, name))
        return [Offer()] if name == "Theirs" else []

    monkeypatch.setattr(registry, "entry_points", points)
    try:
        found = settings.load(NetworkConfig, {"kind": "Theirs"}, "file")
        assert found.kind == "Theirs"
        assert asked == [("overtone.kinds", "Theirs")]
        assert "the network 'Theirs' comes from the package their_package" in (
            capsys.readouterr().err
        )
    finally:
        FAMILIES["network"].kinds.pop("Theirs", None)
    monkeypatch.setattr(Offer, "load", lambda self: 1 / 0)
    with pytest.raises(OvertoneError, match="offers 'Theirs' but fails to import: ZeroDivision"):
        settings.load(NetworkConfig, {"kind": "Theirs"}, "file")


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    @dataclass(frozen=True)
    class Unnamed(EDMPreconditioning):
        pass

    pipe = Pipeline(awake(DiffiTUNet(TINY_DIFFIT)), preconditioning=Unnamed(), precision="fp32")
    with pytest.raises(OvertoneError, match="a Unnamed could not be loaded again"):
        pipe.save_pretrained(tmp_path / "pipe")

    class Deeper(DiffiTUNet):
        def __init__(self, config):
            super().__init__(config)
            self.more = torch.nn.Linear(2, 2)

    with pytest.raises(
        OvertoneError, match=r"could not be loaded again: .*more\.bias, more\.weight"
    ):
        Deeper(TINY_DIFFIT).save_pretrained(tmp_path / "network")

    class Wandering(GaussianProcess):
        kind: ClassVar[str] = "wandering"

    pipe = Pipeline(awake(DiffiTUNet(TINY_DIFFIT)), process=Wandering())
    with pytest.raises(OvertoneError, match="a Wandering could not be loaded again"):
        pipe.save_pretrained(tmp_path / "pipe")
    assert not list(tmp_path.iterdir())


def test_a_module_that_is_read_again_replaces_its_kinds(tmp_path, monkeypatch):
    (tmp_path / "again_parts.py").write_text(
        "from dataclasses import dataclass\n"
        "from overtone.denoisers import VEPreconditioning\n"
        "@dataclass(frozen=True)\n"
        "class Again(VEPreconditioning, kind='again'):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("again_parts")
    first = module.Again
    importlib.reload(module)
    assert module.Again is not first
    assert FAMILIES["preconditioning"].kinds.pop("again") is module.Again


def test_every_built_in_kind_is_where_its_folder_says():
    for family in FAMILIES.values():
        for kind, module in family.built_in.items():
            assert family.find(kind).__module__ == module, kind
        ours = {k for k, v in family.kinds.items() if v.__module__.startswith("overtone.")}
        if family.home:
            assert ours == set(family.built_in), family.name


def test_kinds_of_every_family_are_frozen_and_documented():
    for family in FAMILIES.values():
        for kind in family.built_in:
            found = family.find(kind)
            assert found.__dataclass_params__.frozen, kind
            assert found.__doc__, kind


def test_saved_settings_name_their_kind(tmp_path):
    Pipeline(awake(DiffiTUNet(TINY_DIFFIT)), Sampler(2)).save_pretrained(tmp_path / "pipe")
    index = json.loads((tmp_path / "pipe" / "pipeline.json").read_text())
    assert [index[part]["kind"] for part in ("preconditioning", "process", "sampler", "start")] == [
        "edm",
        "GaussianProcess",
        "Sampler",
        "noise",
    ]
    config = json.loads((tmp_path / "pipe" / "network" / "config.json").read_text())
    assert config["kind"] == "DiffiTUNet"
    assert issubclass(own_parts.Plain, Network)


def test_a_kind_is_a_frozen_dataclass():
    class Bare(VPLinearSchedule, kind="bare-schedule"):
        extra: float = 2.0

    try:
        for ask in (lambda: settings.dump(Bare()),
                    lambda: settings.load(Schedule, {"kind": "bare-schedule"}, "x")):  # fmt: skip
            with pytest.raises(OvertoneError, match=r"decorate the class with @dataclass\(frozen"):
                ask()
    finally:
        del Schedule.family.kinds["bare-schedule"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("    other: Nowhere | None = None", "not known where the module runs"),
        ("    other: torch.Tensor | None = None", "has a type that no JSON can hold"),
    ],
)
def test_a_field_that_nobody_can_read(tmp_path, monkeypatch, capsys, fields, message):
    (tmp_path / "unreadable.py").write_text(
        "from __future__ import annotations\nimport torch\nfrom dataclasses import dataclass\n"
        "from overtone import EDMPreconditioning\n\n@dataclass(frozen=True)\n"
        f"class Odd(EDMPreconditioning, kind='odd'):\n{fields}\n"
    )
    recipe = settings.dump(find_recipe("diffit-digits")) | {"preconditioning": {"kind": "odd"}}
    (tmp_path / "x.json").write_text(json.dumps(recipe))
    monkeypatch.chdir(tmp_path)
    try:
        with pytest.raises(SystemExit):
            main(["train", "x.json", "--import", "unreadable.py", "--dry-run"])
    finally:
        Preconditioning.family.kinds.pop("odd")
        sys.modules.pop("unreadable")
    assert message in capsys.readouterr().err


def test_an_abstract_kind_is_refused():
    @dataclass(frozen=True)
    class Half(Preconditioning, kind="half-done"):
        pass

    try:
        with pytest.raises(OvertoneError, match=r"does not define c_in, c_noise, c_out, c_skip"):
            settings.load(Preconditioning, {"kind": "half-done"}, "x")
    finally:
        del Preconditioning.family.kinds["half-done"]


def test_where_a_kind_was_defined_makes_no_other_run():
    old, new = ({"network": {"kind": "a", "module": m, "width": 1}} for m in ("__main__", "mine"))
    assert list(settings.difference(old, new)) == []
    assert settings.fingerprint(old) == settings.fingerprint(new)
    wider = {"network": {"kind": "a", "module": "mine", "width": 2}}
    assert list(settings.difference(old, wider)) == ["network.width: 1 -> 2"]
    assert list(settings.difference({"module": 1}, {"module": 2})) == ["module: 1 -> 2"]


def test_training_in_python_reads_recipes_as_strictly_as_files(tmp_path):
    recipe = find_recipe("diffit-digits")
    with pytest.raises(ValueError, match="data must be a text, not 3"):
        dataclasses.replace(recipe, data=3)
    for wrong in ({"network": None}, {"preconditioning": "edm"}):
        with pytest.raises(OvertoneError, match=next(iter(wrong))):
            train(dataclasses.replace(recipe, **wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_recipe_does_not_save_is_not_lost_on_the_way():
    @dataclass(frozen=True)
    class Held(Recipe, kind="held"):
        about: str = ""
        training: Training = dataclasses.field(default_factory=Training)
        reporting: Reporting = dataclasses.field(default_factory=Reporting)
        thing: object = dataclasses.field(default=None, metadata={"saved": False})

        trains: ClassVar[str] = "test_registry:given_back"

    try:
        thing = object()
        assert train(Held(thing=thing), "nowhere").thing is thing
    finally:
        Recipe.family.kinds.pop("held")


def given_back(recipe, run, *, show):
    return recipe


def test_a_network_of_our_own_that_fails_otherwise_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    network = Classifier(ClassifierConfig(resolution=8, channels=1, widths=(8,)))
    network.save_pretrained(tmp_path / "network")
    monkeypatch.setattr(ClassifierConfig, "build", lambda self: {}["k"])
    with pytest.raises(KeyError):
        Classifier.from_pretrained(tmp_path / "network")
