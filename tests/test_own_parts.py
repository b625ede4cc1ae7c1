"""Parts of one's own: they go everywhere that ours go, and what is wrong with one is said."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import own_parts
from overtone import settings
from overtone.cli.app import main
from overtone.denoisers import Preconditioning
from overtone.errors import OvertoneError
from overtone.networks import NetworkConfig
from overtone.pipelines import Start, load_pipeline
from overtone.processes import Process, Schedule
from overtone.registry import FAMILIES
from overtone.runs import find_checkpoint
from overtone.samplers import SamplingLoop
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


@pytest.mark.slow
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


class Detached(own_parts.Plain):
    """A network without a gradient."""

    def forward(self, x, time, class_labels=None):
        return super().forward(x, time, class_labels).detach()


def test_a_network_whose_output_has_no_gradient_is_said_before_training():
    network = Detached(own_parts.PlainConfig(num_classes=3))
    with pytest.raises(OvertoneError, match="do not depend on its parameters"):
        network.check_output()
