"""Guidance fitted to a model: the search, and what it takes for noise."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mixtures import mixture_pipe
from overtone.data import ArrayData
from overtone.denoisers import GuidanceSettings
from overtone.errors import OvertoneError
from overtone.metrics import Evaluation
from overtone.metrics.features import Extractor, Features
from overtone.metrics.scores import scores_by_name
from overtone.pipelines import Request, evaluations_of
from overtone.pipelines.budgets import within_few
from overtone.samplers import Sampler
from overtone.solving import GuidanceSearch, fitted_guidance
from overtone.solving.guidance import _Search, words_of

replace = dataclasses.replace
SEARCH = GuidanceSearch(images=96, recall_floor=0.5)


class Contrast(Extractor):
    """How far pixels are from grey, and from their mean."""

    name, digest, dims, knows_classes = "contrast", "q", 2, False

    def __call__(self, pixels):
        values = pixels.flatten(1).float()
        features = (values - 127.5).abs().mean(dim=1), values.std(dim=1)
        return Features(torch.stack(features, dim=1), None)


def faint():
    """A model that guidance of scale 2 would make right."""
    return mixture_pipe(Sampler(12, estimate="two_step"), faint=0.1)


def evaluation_of(images, scores=("frechet", "precision-recall")):
    data = ArrayData("made", images.numpy(), np.zeros(len(images), np.int64), ("it",))
    return Evaluation(Contrast(), data, scores=scores_by_name(scores), replicates=40)


def right_images(seeds=range(5000, 5192)):
    pipe = mixture_pipe(Sampler(12, estimate="two_step"))
    return torch.cat([b.images for b in pipe.stream(seeds)])


@pytest.fixture(scope="module")
def right():
    """Beside images of the right model."""
    return evaluation_of(right_images())


def test_guidance_that_the_data_ask_for_is_found_and_kept(right):
    told = []
    pipe = faint()
    outcome = fitted_guidance(pipe, right, 12, SEARCH, told=told.append)
    assert outcome.kept
    assert outcome.found.guidance.acts
    assert outcome.better_by.interval[1] < 0
    assert outcome.found.distance < 0.5 * outcome.own.distance
    assert pipe.guidance == GuidanceSettings()
    kinds = [t.guidance for t in told]
    assert [g.scale for g in kinds[:5]] == [1.0, 1.25, 1.5, 2.0, 3.0]
    assert any(g.interval is not None for g in kinds)
    assert any(g.high_scale is not None for g in kinds)
    # All took as many evaluations as there were, or one fewer where they come in pairs.
    for guidance in kinds:
        pipe.guidance = guidance
        spent = evaluations_of(pipe, within_few(pipe, Request(range(1)), 12))
        assert spent in (11, 12)


def test_guidance_is_not_changed_for_noise():
    """The data are the model's own images without guidance: whatever looks better by chance on the
    search's seeds is not kept."""
    pipe = mixture_pipe(Sampler(12, estimate="two_step"))
    outcome = fitted_guidance(pipe, evaluation_of(right_images()), 12, SEARCH)
    assert not outcome.kept
    assert "Not kept" in str(outcome)


def test_recall_has_a_floor():
    search = _Search(mixture_pipe(), None, 12, GuidanceSearch(recall_floor=0.9), print)
    pairs = ((0.80, 9.0), (0.71, 1.0), (0.73, 2.0), (0.90, 3.0))  # the first is without guidance
    trials = [SimpleNamespace(recall=recall, distance=distance) for recall, distance in pairs]
    assert search._chosen(trials) is trials[2]


def test_what_can_not_be_searched_is_refused(right):
    with pytest.raises(OvertoneError, match="unconditional"):
        fitted_guidance(mixture_pipe(classes=0), right, 12, SEARCH)
    with pytest.raises(OvertoneError, match="frechet and precision-recall"):
        fitted_guidance(mixture_pipe(), evaluation_of(right_images(), ("frechet",)), 12, SEARCH)
    with pytest.raises(ValueError, match="images must be"):
        GuidanceSearch(images=3)


def test_guidance_in_words():
    assert words_of(GuidanceSettings()) == "no guidance"
    guidance = GuidanceSettings(1.5, (0.1, math.inf), high_scale=2.0)
    told = "guidance scale 1.5, 2 for high frequencies, for sigma from 0.1 to inf"
    assert words_of(guidance) == told
