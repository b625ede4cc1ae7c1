"""Every number in settings has a range, and is refused outside it in one line."""

import dataclasses
import importlib
import json
import math
import pkgutil
import typing

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

import overtone
from overtone import ranges, settings
from overtone.data.latents import LatentsIndex
from overtone.data.trajectories import TrajectoriesIndex
from overtone.denoisers.guidance import GuidanceSettings
from overtone.errors import OvertoneError
from overtone.networks.configs.adm import ADMConfig
from overtone.networks.configs.classifier import ClassifierConfig
from overtone.networks.configs.dsno import TemporalConfig
from overtone.networks.configs.experts import ExpertsConfig
from overtone.networks.configs.foreign import DiffusersDiTConfig, DiffusersUNetConfig
from overtone.networks.configs.vae import VAEConfig
from overtone.pipelines.index import PipelineIndex
from overtone.ranges import SQUARE_OR_PAIR, Range, check_fields, ranges_of
from overtone.registry import Kind
from overtone.samplers import ResamplingSampler, Sampler
from overtone.training.configs.classifier import ClassifierRecipe, Distortion
from overtone.training.configs.denoising import ExpertSettings
from overtone.training.configs.recipe import Recipe
from overtone.training.configs.training import Reporting, Training
from overtone.training.recipes import RECIPES, find_recipe

HUGE = 10**5000
WRONG = [
    *(-1, 0, 1, 2, 3.5, -0.5, 1.5, 1e-300, 1e300, -1e300, 2**31, 2**53 + 1, 2**70, -(2**70), HUGE),
    *(math.nan, math.inf, -math.inf, True, None, "1", "x", b"1", [], [1], (1, 2), {}, 1j, object()),
    *(np.float32(0.5), np.int64(3), np.nan, torch.tensor(0.5), torch.ones(2)),
]
"""what stands in the place of a number: some of it fits some fields"""

# Settings that can't be made without arguments.
EXAMPLES = {
    TemporalConfig: (ADMConfig(),),
    ExpertsConfig: (("IUNet", "IUNet"), (1.0,), 8, 1),
    DiffusersUNetConfig: (8, 3, {}),
    DiffusersDiTConfig: (8, 3, {}),
    PipelineIndex: ("ADMUNet", Sampler(), {"kind": "noise"}),
    LatentsIndex: ("a", "b", 32, 3, 4, False, "c", 8, 4, 1.0, 0.0),
    TrajectoriesIndex: ("a", "b", {}, (80.0, 0.0), 4, 0, 8, 1),
    ClassifierRecipe: ("builtin:digits", ClassifierConfig()),
    ExpertSettings: ((1.0,), (0.5, 0.5)),
}
ALONE = (Training, Reporting, Distortion, GuidanceSettings, ResamplingSampler, *EXAMPLES)
"""settings beside those of the registered kinds"""


def every_module():
    for found in pkgutil.walk_packages(overtone.__path__, "overtone."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def every_settings_class():
    """Overtone's own kinds of every family, and what stands in them."""
    kinds = set(ALONE)
    for module in every_module():
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__.startswith("overtone.")
            if own and issubclass(value, Kind) and dataclasses.is_dataclass(value):
                kinds |= {value} if value in value.family.kinds.values() else set()
    return sorted(kinds, key=lambda kind: kind.__name__)


SETTINGS = every_settings_class()
FIELDS = [
    pytest.param(kind, name, id=f"{kind.__name__}.{name}")
    for kind in SETTINGS
    for name in dict.fromkeys(field for field, *_ in ranges_of(kind))
]


def an_example(kind):
    if issubclass(kind, Recipe) and kind not in EXAMPLES:
        return next(find_recipe(name) for name in RECIPES if type(find_recipe(name)) is kind)
    return kind(*EXAMPLES.get(kind, ()))


def test_the_walk_finds_the_settings_of_every_family():
    names = {kind.__name__ for kind in SETTINGS}
    assert {
        "Sampler",
        "RelayProcess",
        "DiffiTConfig",
        "DenoisingRecipe",
        "VPLinearSchedule",
    } < names
    assert {"EDMPreconditioning", "NoiseStart", "VAEConfig", "ClassifierConfig"} < names
    assert len(FIELDS) > 150


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_every_number_states_its_range(kind):
    assert [name for name, _, limits in ranges_of(kind) if limits is None] == []


@pytest.mark.parametrize(
    "module", [m for m in every_module() if m.__name__.startswith("overtone.cli.")], ids=str
)
def test_every_number_of_the_command_line_states_its_range(module):
    for value in vars(module).values():
        if isinstance(value, type) and dataclasses.is_dataclass(value):
            assert [name for name, _, limits in ranges_of(value) if limits is None] == []


def stand_ins(value):
    """Values in the place of a field's: alone, and as a part of a tuple."""
    yield from WRONG
    if isinstance(value, tuple) and value:
        for wrong in WRONG:
            yield (wrong, *value[1:])
            yield (*value[:-1], wrong)
    else:
        yield from ((wrong, wrong) for wrong in WRONG)


def fits(hint, value):
    """Whether a value is of a type, written a second time: numbers within their ranges."""
    if typing.get_origin(hint) is typing.Annotated:
        inner, *more = typing.get_args(hint)
        limits = [entry for entry in more if isinstance(entry, Range)]
        return fits(inner, value) and (value is None or all(inside(value, one) for one in limits))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        parts = typing.get_args(hint)
        parts = parts[:1] * len(value) if Ellipsis in parts else parts
        return len(parts) == len(value) and all(map(fits, parts, value))
    return any(fits(part, value) for part in typing.get_args(hint)) or value is None


def inside(value, limits):
    low = value > limits.low if limits.open_low else value >= limits.low
    return low and (value < limits.high if limits.open_high else value <= limits.high)


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_value_is_taken_as_it_is_meant_or_refused_in_one_line(kind, name):
    own = an_example(kind)
    hint = typing.get_type_hints(kind, include_extras=True)[name]
    refused = []
    for wrong in stand_ins(getattr(own, name)):
        try:
            made = dataclasses.replace(own, **{name: wrong})
        except TypeCheckError:  # of a module whose types are checked at run time, under test
            refused.append("")
            continue
        except (ValueError, OvertoneError) as error:
            refused.append(str(error))
            continue
        kept = getattr(made, name)
        assert fits(hint, kept), (wrong, kept)
        square = SQUARE_OR_PAIR in str(hint) and wrong == (kept, kept)
        assert isinstance(kept, tuple) or kept == wrong or square, (wrong, kept)
    assert len(refused) > 10
    assert all(len(message) < 400 and "\n" not in message for message in refused)


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_files_are_read_with_the_same_ranges(kind):
    own = an_example(kind)
    saved = settings.dump(own)
    assert settings.load(kind, saved, "x.json") == own
    for name in dict.fromkeys(field for field, *_ in ranges_of(kind)):
        for wrong in (-(10**400), HUGE, "x", {}, math.nan, -math.inf, [[]]):
            with pytest.raises(OvertoneError, match=r"x\.json"):
                settings.load(kind, saved | {name: wrong}, "x.json")


def test_the_ends_of_a_range():
    assert 0 in ranges.at_least(0)
    assert 0 not in ranges.above(0)
    assert 1 in ranges.within(0, 1)
    assert 1 not in ranges.below(1)
    assert math.nan not in ranges.FINITE
    assert math.inf not in ranges.FINITE
    assert math.inf in ranges.above(0, infinite=True)
    assert -math.inf not in ranges.above(0, infinite=True)
    assert HUGE in ranges.at_least(0)


@pytest.mark.parametrize(
    ("limits", "value", "wanted"),
    [
        (ranges.above(0), -1, "above 0"),
        (ranges.at_least(1), 0, "at least 1"),
        (ranges.within(0, 1), 1.5, "in [0, 1]"),
        (ranges.below(1), 1.0, "in [0, 1)"),
        (ranges.within(1, 1000), 2000, "from 1 to 1,000"),
        (ranges.within(1, 100_000), 0, "at least 1"),
        (ranges.within(1, 100_000), 200_000, "at most 100,000"),
        (ranges.above(0), math.inf, "finite"),
        (ranges.above(0), math.nan, "finite"),
    ],
)
def test_what_should_have_been_is_said(limits, value, wanted):
    assert limits.wanted(value) == wanted


def test_numbers_of_numpy_and_torch_become_pythons():
    made = VAEConfig(resolution=np.int64(64), widths=[8, torch.tensor(8)])
    assert (type(made.resolution), made.widths) == (int, (8, 8))
    assert type(Distortion(degrees=torch.tensor(2.0)).degrees) is float
    assert json.dumps(settings.dump(made))


def test_a_dataclass_of_ones_own_is_checked_alike():
    @dataclasses.dataclass
    class Own:
        share: ranges.Share = 0.5
        free: float = 0.0
        word: typing.Literal["a", "b"] = "a"
        on: bool = False

    for wrong in ({"share": 2.0}, {"free": math.nan}, {"word": "c"}, {"on": 1}, {"free": None}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be "):
            check_fields(Own(**wrong))
    check_fields(Own(share=np.float64(1.0), free=-3, word="b", on=True))
