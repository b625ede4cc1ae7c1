"""Kinds: anybody's parts take the same way as ours, and what is not known is refused by name."""

import dataclasses
import importlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import own_parts
from helpers import TINY_DIFFIT, awake
from overtone import registry, settings
from overtone.cli.app import main
from overtone.denoisers import EDMPreconditioning, Preconditioning
from overtone.errors import OvertoneError
from overtone.networks import Classifier, ClassifierConfig, DiffiTUNet, Network, NetworkConfig
from overtone.pipelines import Pipeline, Start, load_pipeline
from overtone.processes import GaussianProcess, Process, RelayProcess, Schedule, VPLinearSchedule
from overtone.registry import FAMILIES
from overtone.runs import find_checkpoint
from overtone.samplers import Sampler, SamplingLoop
from overtone.training import DenoisingRecipe, Recipe, Reporting, Training, find_recipe, train

HERE = Path(__file__).parent
OWN = str(HERE / "own_parts.py")

RECIPE = DenoisingRecipe(
    about="",
    data="builtin:digits",
    network=own_parts.PlainConfig(),
    preconditioning=own_parts.Halved(),
    schedule=own_parts.Straight(),
    process=own_parts.Grainy(),
    sampler=own_parts.Jump(),
    class_conditional=True,
    label_dropout=0.1,
    training=Training(total_images=256, batch_size=32, lr=1e-2, lr_rampup_images=32,
                      ema_halflife_images=50, precision="fp32"),
    reporting=Reporting(report_images=128, checkpoint_images=128, held_out_images=64, keep=1),
)  # fmt: skip


def fresh(*arguments):
    """The command in a process of its own, where nothing has been imported yet."""
    command = [sys.executable, "-m", "overtone", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "run"
    train(RECIPE, out, show=False)
    return out


@pytest.mark.parametrize(
    "part", [RECIPE.network, RECIPE.preconditioning, RECIPE.schedule, RECIPE.process,
             RECIPE.sampler, own_parts.Dimmed(0.3), RECIPE], ids=lambda part: part.kind
)  # fmt: skip
def test_parts_of_ones_own_pass_through_json(part):
    data = settings.dump(part)
    assert data["kind"] == part.kind
    if part is not RECIPE:
        assert data["module"] == "own_parts"
    family = part.family
    base = {
        "network": NetworkConfig,
        "preconditioning": Preconditioning,
        "schedule": Schedule,
        "process": Process,
        "sampler": SamplingLoop,
        "start": Start,
        "recipe": Recipe,
    }[family.name]
    assert settings.load(base, data, "file") == part
    assert settings.load(type(part), data, "file") == part


def test_built_in_kinds_do_not_name_their_module():
    assert settings.dump(RelayProcess()) | {"module": ""} != settings.dump(RelayProcess())


def test_they_train_save_load_and_sample(run, tmp_path):
    pipe = load_pipeline(find_checkpoint(run))
    assert isinstance(pipe.network, own_parts.Plain)
    assert pipe.network.config == dataclasses.replace(RECIPE.network, num_classes=10)
    assert (pipe.preconditioning, pipe.process, pipe.sampler) == (
        RECIPE.preconditioning,
        RECIPE.process,
        RECIPE.sampler,
    )
    images = pipe(range(4), class_labels=[1, 2, 3, 4], guidance_scale=2.0, steps=3)
    assert len(list(pipe.path([0], steps=5))) == 5
    pipe.start = own_parts.Dimmed(0.3)
    dimmed = pipe(range(4), class_labels=[1, 2, 3, 4], guidance_scale=2.0, steps=3)
    assert not np.array_equal(np.asarray(images[0]), np.asarray(dimmed[0]))
    pipe.save_pretrained(tmp_path / "dimmed")
    assert load_pipeline(tmp_path / "dimmed").start == own_parts.Dimmed(0.3)
    assert find_recipe(str(run / "recipe.json")) == RECIPE
    made = pipe.made_with()
    for part in ("network", "preconditioning", "process", "sampler", "start"):
        assert made[part]["module"] == "own_parts", part


def test_they_become_experts(run, tmp_path):
    checkpoint = str(find_checkpoint(run))
    out = str(tmp_path / "both")
    main(["merge", checkpoint, checkpoint, "--boundaries", "1", "--out", out])
    assert len(load_pipeline(out)([1, 2])) == 2


def test_in_a_fresh_process_they_have_to_be_imported(run, tmp_path):
    model = find_checkpoint(run)
    refused = fresh("sample", model, "--out", tmp_path / "a.png")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert (
        "no sampler of the kind 'jump' is registered: it was saved by the module 'own_parts'"
        in (refused.stderr)
    )
    taken = fresh(
        "sample", model, "--import", OWN, "--sampler.num-steps", "3", "--out", tmp_path / "a.png"
    )
    assert taken.returncode == 0, taken.stderr
    assert (tmp_path / "a.png").exists()
    again = fresh("train", run / "recipe.json", f"--import={OWN}", "--network.width", "8",
                  "--schedule.highest", "5", "--dry-run")  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "images/s" in again.stdout


def test_importing_goes_wrong_in_one_line(tmp_path, capsys):
    (tmp_path / "broken_parts.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "json.py").write_text("")
    (tmp_path / "taken_parts.py").write_text(
        "from dataclasses import dataclass\n"
        "from overtone.denoisers import EDMPreconditioning\n"
        "@dataclass(frozen=True)\n"
        "class Mine(EDMPreconditioning, kind='edm'):\n    pass\n"
    )
    (tmp_path / "twice_parts.py").write_text(
        "from dataclasses import dataclass\n"
        "from overtone.networks import NetworkConfig\n"
        "@dataclass(frozen=True)\n"
        "class Mine(NetworkConfig, kind='Plain'):\n    pass\n"
    )
    for given, message in (
        ("nowhere_parts", "nowhere_parts fails to import: ModuleNotFoundError"),
        (f"{tmp_path}/none.py", "none.py does not exist"),
        (f"{tmp_path}/broken_parts.py", "fails to import: ModuleNotFoundError: No module named"),
        (f"{tmp_path}/json.py", "a module called 'json' is there already"),
        (f"{tmp_path}/taken_parts.py", "registers the preconditioning 'edm', which is the name of"),
        (f"{tmp_path}/twice_parts.py", "two kinds of network are called 'Plain', in own_parts and"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["recipes", "--import", given])
        errors = capsys.readouterr().err
        assert ended.value.code == 1
        assert message in errors
        assert len(errors.strip().splitlines()) <= 2
    for arguments, message in (
        (["recipes", "--import"], "--import takes the name of a module"),
        (["--import", OWN], "--import goes with a command"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err
    assert FAMILIES["network"].kinds["Plain"] is own_parts.PlainConfig


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


def test_a_network_that_can_not_be_trained_is_said_before_it_is(tmp_path):
    class Grown(own_parts.Plain):
        def __init__(self, config):
            super().__init__(config)
            self.more = torch.nn.Linear(2, 2 + Grown.built)
            Grown.built += 1

    Grown.built = 0

    @dataclass(frozen=True)
    class GrownConfig(own_parts.PlainConfig, kind="Grown"):
        def build(self):
            return Grown(self)

    with pytest.raises(OvertoneError, match="this Grown could not be loaded again"):
        train(dataclasses.replace(RECIPE, network=GrownConfig()), tmp_path / "run", show=False)
    assert not (tmp_path / "run").exists()
    FAMILIES["network"].kinds.pop("Grown")


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
    for wrong in ({"network": None}, {"preconditioning": "edm"}, {"data": 3}):
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


def odd(**changes):
    """A network kind with something wrong, taken from `own_parts.Plain`, removed by the caller."""
    forward = changes.pop("forward", None)
    network = type("Odd", (own_parts.Plain,), {"forward": forward} if forward else {})
    changes = {"build": lambda self: network(self)} | changes
    namespace = {"__module__": __name__, "__qualname__": "OddConfig", **changes}
    config = dataclass(frozen=True)(
        type(own_parts.PlainConfig)("OddConfig", (own_parts.PlainConfig,), namespace, kind="Odd")
    )
    return config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forward": lambda self, x, t, labels=None: x[:, :, ::2]},
         r"a Odd returns \(2, 1, 4, 8\) for images of shape \(2, 1, 8, 8\): .* \(2, 1, 8, 8\)"),
        ({"forward": lambda self, x, t, labels=None: x.repeat(1, 3, 1, 1)}, r"\(2, 3, 8, 8\)"),
        ({"forward": lambda self, x, t, labels=None: (x,)}, "a Odd returns tuple"),
        ({"forward": lambda self, x: x}, "a Odd fails on two images .*TypeError"),
        ({"forward": lambda self, x, t, labels=None: {}["k"]}, "KeyError"),
        ({"build": lambda self: torch.nn.Linear(2, 2)}, "returns a Linear: it has to return"),
        ({"build": lambda self: own_parts.Plain(own_parts.PlainConfig())}, "whose `config` is"),
        ({"build": lambda self: {}["k"]}, "a Odd can't be built: KeyError"),
        ({"build": lambda self: 1 / 0}, "a Odd can't be built: ZeroDivisionError"),
        ({"build": NetworkConfig.build, "builds": "nowhere.at:All"},
         "names 'nowhere.at:All' in `builds`, which can't be imported"),
        ({"build": NetworkConfig.build}, "names '' in `builds`"),
    ],
)  # fmt: skip
def test_a_network_of_ones_own_that_goes_wrong_is_said_before_training(tmp_path, changes, message):
    try:
        recipe = dataclasses.replace(RECIPE, network=odd(**changes))
        with pytest.raises(OvertoneError, match=message):
            train(recipe, tmp_path / "run", show=False)
        assert not (tmp_path / "run").exists()
    finally:
        NetworkConfig.family.kinds.pop("Odd", None)


@pytest.mark.parametrize("attribute", ["makes", "trains"])
def test_a_recipe_that_names_what_is_not_there(tmp_path, attribute):
    @dataclass(frozen=True)
    class Lost(DenoisingRecipe, kind="lost"):
        pass

    setattr(Lost, attribute, "overtone.training:nothing_like_this")
    fields = {f.name: getattr(RECIPE, f.name) for f in dataclasses.fields(RECIPE)}
    try:
        with pytest.raises(OvertoneError, match=f"nothing_like_this' in `{attribute}`, which can"):
            train(Lost(**fields), tmp_path / "run", show=False)
    finally:
        Recipe.family.kinds.pop("lost", None)


def test_noise_levels_that_a_sampler_of_ones_own_has_not(run, tmp_path, capsys):
    checkpoint = str(find_checkpoint(run))
    out = ["--out", str(tmp_path / "both")]
    with pytest.raises(SystemExit):
        main(["merge", checkpoint, checkpoint, "--boundaries", "1", "--steps", "2", "2", *out])
    assert "--steps: the noise levels of a Jump can't be chosen." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["sample", checkpoint, "--scheduler", "DDIMScheduler"])
    assert "--scheduler is for models of discrete steps" in capsys.readouterr().err
