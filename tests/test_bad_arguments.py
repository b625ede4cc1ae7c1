"""What the Python API answers when a user gets something wrong: an error of one line, at once.

A table of calls and what they say. `ValueError` is for settings, `OvertoneError` for everything
else; nothing is computed before it is raised.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch

from helpers import TINY_DIFFIT
from overtone import find_recipe, train
from overtone.data import ArrayData, open_data, own_data
from overtone.denoisers import EDMDenoiser, ExpertDenoiser
from overtone.errors import OvertoneError
from overtone.metrics import Evaluation
from overtone.networks import DiffiTConfig, DiffiTUNet, Experts
from overtone.networks.vae import VAE
from overtone.pipelines import DiffiTPipeline, load_pipeline
from overtone.processes import RelayProcess
from overtone.runs import find_checkpoint
from overtone.samplers import Sampler
from overtone.training import Training
from overtone.training.configs.training import Reporting
from runs import TINY

HUGE = 10**400


@pytest.fixture(scope="module")
def pipe():
    return DiffiTPipeline(DiffiTUNet(TINY_DIFFIT), Sampler(num_steps=2))


# Asked of a pipeline.
ASKED = {
    "steps of a float": ({"steps": 2.0}, "steps"),
    "steps of a text": ({"steps": "2"}, "steps"),
    "steps of true": ({"steps": True}, "steps"),
    "no steps": ({"steps": 0}, "at least 1"),
    "steps below zero": ({"steps": -3}, "at least 1"),
    "steps without end": ({"steps": 10**9}, "at most 100,000"),
    "steps of many digits": ({"steps": HUGE}, "steps"),
    "steps of infinity": ({"steps": math.inf}, "steps"),
    "an interval of one end": ({"guidance_scale": 2.0, "guidance_interval": (1,)}, "interval"),
    "an interval of three ends": (
        {"guidance_scale": 2.0, "guidance_interval": (1, 2, 3)},
        "interval",
    ),
    "an interval that is a number": ({"guidance_scale": 2.0, "guidance_interval": 1.0}, "interval"),
    "an interval of texts": ({"guidance_scale": 2.0, "guidance_interval": ("a", "b")}, "interval"),
    "an interval backwards": ({"guidance_scale": 2.0, "guidance_interval": (2, 1)}, "lowest"),
    "an interval of nan": ({"guidance_scale": 2.0, "guidance_interval": (math.nan, 1)}, "finite"),
    "a scale of nan": ({"guidance_scale": math.nan}, "guidance_scale must be finite"),
    "a scale of infinity": ({"guidance_scale": -math.inf}, "guidance_scale must be finite"),
    "a scale of a text": ({"guidance_scale": "much"}, "guidance_scale is a number"),
    "a scale of a list": ({"guidance_scale": [1, 2]}, "guidance_scale is a number"),
    "a batch of none": ({"batch_size": 0}, "a batch has at least one image, not 0"),
    "a batch below zero": ({"batch_size": -1}, "a batch has at least one image, not -1"),
    "a batch of a float": ({"batch_size": 2.5}, "a batch has at least one image, not 2.5"),
    "a class that is not there": ({"class_labels": 7}, "class"),
    "a class below zero": ({"class_labels": -1}, "class"),
    "a class of a float": ({"class_labels": 1.5}, "class"),
    "classes of other seeds": ({"class_labels": [0, 1, 2]}, "class"),
    "a class by a name it has not": ({"class_labels": "cat"}, "unknown class 'cat'"),
    "classes of nan": ({"class_labels": torch.tensor([math.nan])}, "class"),
    "a guide that is none": ({"guidance_scale": 2.0, "guide": "model"}, "guide"),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_a_pipeline_can_not_be_asked(pipe, name):
    asked, message = ASKED[name]
    with pytest.raises(OvertoneError, match=message) as refused:
        pipe([1], **({"class_labels": 0} | asked))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


SEEDS = {
    "a number": (3, "seeds are several integers"),
    "none": (None, "seeds"),
    "texts": (["a"], "seeds are several integers"),
    "a text": ("0-3", "seeds are several integers"),
    "floats": ([1.0], "seeds are several integers"),
    "a seed below zero": ([-1], "seed"),
    "a seed too large": ([2**32], "seed"),
    "a seed of many digits": ([HUGE], "seed"),
    "four thousand million seeds": (range(2**32), "1,000,000 seeds are the most"),
    "seeds without end": (iter(int, 1), "1,000,000 seeds are the most"),
    "true": ([True], "seeds are several integers"),
    "bytes": (b"12", "seeds are several integers"),
    "a dictionary": ({"a": 1}, "seeds are several integers"),
    "a matrix": (np.zeros((2, 2), int), "seeds are several integers"),
}


@pytest.mark.parametrize("name", SEEDS)
def test_seeds_that_are_none(pipe, name):
    seeds, message = SEEDS[name]
    with pytest.raises(OvertoneError, match=message) as refused:
        pipe(seeds, class_labels=0)
    assert len(str(refused.value)) < 600


def a_pipe(**changes):
    return DiffiTPipeline(DiffiTUNet(dataclasses.replace(TINY_DIFFIT, **changes)))


PIXELS = np.zeros((4, 1, 8, 8), np.uint8)
CALLS = {
    "a network without channels": (lambda: DiffiTConfig(channels=0), "channels must be at least 1"),
    "a width of many digits": (lambda: DiffiTConfig(widths=(HUGE,)), "widths must be at most"),
    "a width of a float": (lambda: DiffiTConfig(widths=(16.5,)), "widths must be a whole number"),
    "widths of a text": (lambda: DiffiTConfig(widths="16"), "widths must be a tuple"),
    "widths of none": (lambda: DiffiTConfig(widths=None), "widths must be a tuple"),
    "an option of a text": (lambda: DiffiTConfig(dropout="0.1"), "dropout must be a number"),
    "a seed of a text": (lambda: Training(seed="18"), "seed must be a whole number"),
    "levels that rise": (lambda: Sampler(levels=(1.0, 2.0), num_steps=2), "fall"),
    "levels of nan": (lambda: Sampler(levels=(math.nan, 1.0)), "levels must be finite"),
    "a process without a patch": (lambda: RelayProcess(patch=0), "patch must be at least 1"),
    "names for classes that are not": (
        lambda: DiffiTPipeline(DiffiTUNet(TINY_DIFFIT), class_names=("a",)),
        "1 names of classes, and the model has 3",
    ),
    "a model that is not there": (lambda: load_pipeline("/nowhere/model"), "does not exist"),
    "a model of nothing": (lambda: load_pipeline(""), "is empty"),
    "a VAE that is not there": (lambda: VAE.from_pretrained("/nowhere/vae"), "does not exist"),
    "a run that is not there": (lambda: find_checkpoint("/nowhere/run"), "has no checkpoint"),
    "a checkpoint of another name": (lambda: find_checkpoint("/nowhere", "first"), "none called"),
    "data that are not there": (lambda: open_data("/nowhere/data", 8, 1), "does not exist"),
    "data of another name": (lambda: open_data("builtin:digit", 8, 1), "did you mean"),
    "data of two channels": (lambda: open_data("builtin:glyphs", 8, 2), "1 or 3 channels"),
    "digits of another size": (lambda: open_data("builtin:digits", 16, 1), "8 px and grey"),
    "labels of other images": (
        lambda: ArrayData("x", PIXELS, np.array([0, 1, 2, 9]), ("a", "b")),
        "labels go from 0 to 9",
    ),
    "images of no shape": (lambda: own_data(np.zeros(3), 8, 1), r"shape \(3,\): images are"),
    "no images at all": (lambda: own_data(np.zeros((0, 1, 8, 8), np.uint8), 8, 1), "has no images"),
    "too few real images": (
        lambda: Evaluation(None, ArrayData("x", PIXELS)),
        "4 real images are too few",
    ),
    "no experts": (lambda: Experts([], ()), "experts are one network or more"),
    "experts without a place": (
        lambda: ExpertDenoiser([EDMDenoiser(DiffiTUNet(TINY_DIFFIT))], [(0.0, 1.0)]),
        "interval",
    ),
    "a recipe of another name": (lambda: find_recipe("diffit-digit"), "did you mean"),
    "a recipe that is not there": (lambda: find_recipe("/nowhere/x.json"), "does not exist"),
    "a run without a place": (lambda: train("diffit-digits"), "say where the run is to be"),
    "a recipe without a place": (lambda: train(TINY), "say where the run is to be"),
    "a run of what is no recipe": (lambda: train("/nowhere", "/tmp/x"), "unknown recipe"),
    "a plan of nan": (lambda: Training(lr=math.nan), "lr must be finite"),
    "a plan of a text": (lambda: Training(batch_size="64"), "batch_size must be a whole number"),
    "a plan of gradient ascent": (lambda: Training(clip_norm=-1.0), "clip_norm must be above 0"),
    "one beta": (lambda: Training(betas=(0.9,)), "betas must be 2 values, not 1"),
    "a precision of another name": (lambda: Training(precision="fp8"), "precision must be one of"),
    "a tracker of another name": (lambda: Reporting(trackers=("mlflow",)), "trackers must be one"),
    "a recipe of other data": (lambda: dataclasses.replace(TINY, data=3), "data must be a text"),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_make_no_sense(name):
    call, message = CALLS[name]
    with pytest.raises((OvertoneError, ValueError), match=message) as refused:
        call()
    assert len(str(refused.value).splitlines()) <= 1
    assert len(str(refused.value)) < 600


def test_the_home_directory_is_meant_by_its_sign(tmp_path, monkeypatch):
    """~ stands for it wherever a path is read or written."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pipe = a_pipe()
    pipe.save_pretrained("~/models/cats")
    assert (tmp_path / "models/cats/pipeline.json").exists()
    assert not (tmp_path / "~").exists()
    assert load_pipeline("~/models/cats").num_classes == 3
    pipe.network.save_pretrained("~/network")
    assert (tmp_path / "network/config.json").exists()
    monkeypatch.setenv("OVERTONE_CACHE", "~/cache")
    from overtone.storage import cache_directory

    assert cache_directory() == tmp_path / "cache"
