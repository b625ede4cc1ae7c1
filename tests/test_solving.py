"""Samplers fitted to a model: the search, and what is kept of it."""

import dataclasses
import math
import os

import pytest
import torch

from helpers import (
    DIFFUSERS_MARKS,
    gaussian,
)
from mixtures import MixtureConfig, mixture_pipe
from overtone import storage
from overtone.cli.app import main
from overtone.denoisers import (
    GuidanceSettings,
    GuidedDenoiser,
)
from overtone.errors import OvertoneError
from overtone.pipelines import Pipeline, Request, evaluations_of, load_pipeline
from overtone.pipelines.index import read_index
from overtone.processes import GaussianProcess, QuantileSchedule, RelayProcess, SeededNoise
from overtone.samplers import AncestralSampler, Sampler, sigma_grid
from overtone.samplers.estimates import FORMS
from overtone.solving import FitSettings, Problem, fit_samplers
from overtone.solving import descent as descents
from overtone.solving.descent import Unknowns, descend
from overtone.solving.fit import CHECK, Fit
from overtone.solving.grid import longest, searched
from overtone.solving.problem import distance
from overtone.solving.unrolled import solved
from pipeline_kinds import kinds_of_pipelines
from teachers import Unscaled

pytestmark = DIFFUSERS_MARKS
replace = dataclasses.replace
LEVELS = sigma_grid(5, 0.05, 20.0, 5.0)[:-1]
QUICK = FitSettings(
    evaluations=(4,), search_images=64, check_images=64, iterations=40, batch_size=32, trials=40
)
PROCESSES = [GaussianProcess(), RelayProcess(patch=2, schedule=QuantileSchedule(prob_length=0.93))]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OVERTONE_CACHE", str(tmp_path / "cache"))


def tensors(levels):
    return [torch.tensor(level, dtype=torch.float64, requires_grad=True) for level in levels]


@pytest.mark.parametrize("process", PROCESSES, ids=["white", "relay"])
@pytest.mark.parametrize("scale", [None, 1.02])
@pytest.mark.parametrize("form", [*FORMS, "weighted"])
def test_the_unrolled_sampler_is_the_sampler(form, scale, process):
    denoiser, _, _ = gaussian(16)
    denoiser.coordinates = denoiser.coordinates.view(1, 16)
    levels = LEVELS if process.is_gaussian else sigma_grid(5, 0.05, 0.9, 5.0)[:-1]
    earlier = tuple(0.1 * k - 0.4 for k in range(10)) if form == "weighted" else ()
    sampler = Sampler(5, levels=levels, estimate=form, earlier=earlier, epsilon_scale=scale or 1.0)
    start = levels[0] * torch.randn(3, 1, 4, 4, dtype=torch.float64)
    plain = sampler(denoiser, process, start.clone(), SeededNoise([]))
    weights = torch.tensor(earlier, dtype=torch.float64) if earlier else None
    s = None if scale is None else torch.tensor(scale, dtype=torch.float64)
    told = {"estimate": "single" if form == "weighted" else form, "epsilon_scale": s}
    for checkpointed in (False, True):
        out = solved(
            denoiser,
            process,
            start,
            None,
            tensors(levels),
            weights,
            checkpointed=checkpointed,
            **told,
        )
        assert torch.allclose(out, plain, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("checkpointed", [False, True], ids=["whole", "checkpointed"])
def test_gradients_are_those_of_differences(checkpointed):
    """Of the levels, the weights and the epsilon scale, through all steps (float64)."""
    denoiser, _, _ = gaussian()
    x = 20 * torch.randn(2, 1, 1, 4, dtype=torch.float64)

    def image(logs, earlier, scale):
        sigmas = logs.exp().unbind()
        return solved(
            denoiser, GaussianProcess(), x, None, sigmas, earlier, epsilon_scale=scale,
            checkpointed=checkpointed,
        )  # fmt: skip

    logs = torch.tensor([3.0, 1.5, 0.0, -1.5], dtype=torch.float64, requires_grad=True)
    earlier = (0.2 * torch.randn(6, dtype=torch.float64)).requires_grad_()
    scale = torch.tensor(1.01, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(image, (logs, earlier, scale))


def test_a_level_that_carries_a_gradient_is_a_number_to_every_denoiser():
    pipe = mixture_pipe()
    x, labels = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    guided = GuidedDenoiser(pipe.denoiser, GuidanceSettings(2.0, interval=(0.5, 2.0)))
    for denoiser in (pipe.denoiser, guided):
        for sigma in (0.3, 1.0, 3.0):
            level = torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
            out = denoiser(x, level, labels).x_0
            assert torch.allclose(out, denoiser(x, sigma, labels).x_0, atol=1e-6)
            (slope,) = torch.autograd.grad(out.sum(), level)
            h = 1e-2 * sigma
            with torch.no_grad():
                ends = [float(denoiser(x, sigma + d, labels).x_0.sum()) for d in (h, -h)]
            assert float(slope) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=0.02, abs=2e-3)


def a_problem(pipe=None, count=64, **asked):
    return Problem.of(pipe or mixture_pipe(), Request(range(count), batch_size=32, **asked))


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize(
    "guidance",
    [{}, {"guidance_scale": 2.0}, {"guidance_scale": 2.0, "guidance_interval": (0.3, 5.0)}],
    ids=["none", "all", "interval"],
)
def test_calls_are_the_evaluations_that_are_counted(form, guidance):
    pipe = mixture_pipe()
    problem = a_problem(pipe, 2, **guidance)
    for steps in (2, 5, 9):
        sampler = Sampler(steps, sigma_min=0.02, estimate=form)
        wanted = evaluations_of(pipe, replace(problem.request, sampler=sampler))
        assert problem.calls_of(sampler) == wanted


def test_converged_images_are_those_of_many_steps():
    pipe = mixture_pipe(Sampler(sigma_min=0.01))
    problem = a_problem(pipe, 8)
    finest = Sampler(1000, sigma_min=0.01)  # Heun's
    # Measured: 0.0003, where fitted samplers miss by hundredths.
    assert problem.error(finest) < 5e-4


def test_an_error_is_the_root_mean_square_distance():
    problem = a_problem(count=8)
    sampler = Sampler(4, sigma_min=0.05, estimate="single")
    with torch.no_grad():
        made = sampler(
            problem.denoiser,
            GaussianProcess(),
            problem.start.clone(),
            SeededNoise([]),
            problem.labels,
        )
    by_hand = [
        math.sqrt(float((a - b).pow(2).mean())) for a, b in zip(made, problem.target, strict=True)
    ]
    assert problem.error(sampler) == pytest.approx(sum(by_hand) / 8, rel=1e-5)


def test_the_grid_takes_as_many_steps_as_fit():
    pipe = mixture_pipe()
    problem = a_problem(pipe, 32, guidance_scale=2.0)
    found = {form: longest(problem, form, 0.02, 80.0, 7.0, 9) for form in FORMS}
    steps = {form: sampler.num_steps for form, sampler in found.items()}
    # Two calls a step: four steps of one evaluation, two of two but the last of one.
    assert steps == {
        "single": 4, "two_step": 4, "three_step": 4, "averaged_slopes": 2, "averaged_estimates": 2,
    }  # fmt: skip
    assert searched(problem, 1, 40) is None
    best = searched(problem, 8, 40)
    assert problem.calls_of(best) == 8


@pytest.mark.parametrize("way", ["whole", "checkpointed", "differences"])
def test_descent_comes_nearer_than_the_grid(way):
    problem = a_problem(count=128)
    began = searched(problem, 5, 150)
    settings = replace(QUICK, iterations=120, way=way)
    found = descend(problem, began, settings)
    others = Problem.of(problem.pipe, Request(range(1000, 1128), batch_size=64))
    share = others.error(found) / others.error(began)
    # Measured: 0.50 by gradients, 0.85 by differences, which leave the weights as they are.
    assert share < (0.95 if way == "differences" else 0.7)
    assert problem.calls_of(found) == 5
    # The network is as it was, and nothing was asked of its weights.
    parameters = list(problem.pipe.network.parameters())
    assert all(p.requires_grad and p.grad is None for p in parameters)


def test_both_ways_back_go_the_same_way():
    problem = a_problem()
    began = longest(problem, "two_step", 0.05, 80.0, 7.0, 5)
    whole, checkpointed = (
        descend(problem, began, replace(QUICK, iterations=5, way=way))
        for way in ("whole", "checkpointed")
    )
    assert whole.levels == pytest.approx(checkpointed.levels, rel=1e-6)
    assert whole.earlier == pytest.approx(checkpointed.earlier, abs=1e-6)


def test_an_interrupted_descent_goes_on_to_the_same_sampler(tmp_path, monkeypatch):
    problem, state = a_problem(), tmp_path / "state.safetensors"
    began = longest(problem, "two_step", 0.05, 80.0, 7.0, 5)
    settings = replace(QUICK, iterations=12, epsilon_scale=True)
    whole = descend(problem, began, settings)
    monkeypatch.setattr(descents, "KEPT", 5)
    loss, count = Unknowns.loss, 0

    def failing(self, *args):
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt
        return loss(self, *args)

    monkeypatch.setattr(Unknowns, "loss", failing)
    with pytest.raises(KeyboardInterrupt):
        descend(problem, began, settings, state=state)
    assert int(storage.load_tensors(state)["done"]) == 5
    assert descend(problem, began, settings, state=state) == whole
    assert count == 8 + 7


def test_levels_stay_where_guidance_acts_as_it_did():
    guidance = {"guidance_scale": 3.0, "guidance_interval": (0.2, 3.0)}
    problem = a_problem(count=64, **guidance)
    began = longest(problem, "two_step", 0.02, 80.0, 5.0, 10)
    found = descend(problem, began, replace(QUICK, iterations=60))
    calls = [[problem.calls_at(level) for level in s.visited] for s in (began, found)]
    assert calls[0] == calls[1]
    assert set(calls[0]) == {1, 2}
    assert found.visited[-1] >= 0.002 * (1 - 1e-9)


def test_a_fit_is_kept_saved_and_used(tmp_path, capsys):
    pipe = mixture_pipe()
    (outcome,) = fit_samplers(pipe, QUICK)
    (budget,) = pipe.budgets
    assert outcome.budget == budget
    assert budget.evaluations == 4
    assert budget.error < 0.5 * budget.default_error
    assert f"{budget.error:.4f}" in str(outcome)
    pipe.save_pretrained(tmp_path / "model")
    again = load_pipeline(tmp_path / "model")
    again.precision = "fp32"
    assert again.budgets == pipe.budgets
    request = Request(range(4), evaluations=4)
    assert evaluations_of(again, request) == 4
    by_hand = mixture_pipe(budget.own.sampler)
    seen = [
        torch.cat([b.unrounded for b in p.stream(r)])
        for p, r in ((again, request), (by_hand, Request(range(4))))
    ]
    assert torch.equal(*seen)
    assert not capsys.readouterr().err
    # What is said of an image is what made it.
    assert again.made_with(request)["sampler"] == by_hand.made_with(Request(range(4)))["sampler"]
    # Other weights, in half precision: the fits are left out, which is said.
    pipe.save_pretrained(tmp_path / "half", "float16")
    assert "are left out" in capsys.readouterr().err
    assert load_pipeline(tmp_path / "half").budgets == ()
    # Weights that were rounded before they were fitted to are the same in half precision.
    rounded = mixture_pipe().round_to("float16")
    fit_samplers(rounded, QUICK)
    rounded.save_pretrained(tmp_path / "rounded", "float16")
    assert not capsys.readouterr().err
    again = load_pipeline(tmp_path / "rounded")
    assert again.budgets == rounded.budgets
    assert not again.budgets[0].mismatch(again, again.guidance)


def test_the_command_writes_into_the_model_and_says_what_it_found(tmp_path, capsys, monkeypatch):
    import mixtures

    model = tmp_path / "model"
    mixture_pipe().save_pretrained(model)
    fit = "--evaluations 4 --search-images 64 --check-images 64 --iterations 40 --batch-size 32"
    fit += f" --trials 40 --import {mixtures.__file__}"
    main(["fit", str(model), *fit.split()])
    assert "4 function evaluations: error" in capsys.readouterr().err
    (budget,) = read_index(model).budgets
    assert f"| fitted samplers | 4 function evaluations: error {budget.error:.3g} |" in (
        model / "README.md"
    ).read_text("utf-8")
    main(["info", str(model)])
    out = " ".join(capsys.readouterr().out.split())
    assert f"4 function evaluations: error {budget.error:.4f}" in out
    main(
        [
            "sample",
            str(model),
            "--evaluations",
            "4",
            "--seeds",
            "0-3",
            "--out",
            str(tmp_path / "a.png"),
        ]
    )
    assert "4 function evaluations each" in capsys.readouterr().err
    # Once more into another place, where it is found again, and into the model: one row, one entry.
    again = ["fit", str(model), *fit.split(), "--out", str(tmp_path / "other")]
    main(again)
    with monkeypatch.context() as patched:
        patched.setattr(Fit, "outcome", lambda *args: pytest.fail("it was fitted again"))
        main(again)
    main(["fit", str(model), *fit.split()])
    assert len(read_index(model).budgets) == len(read_index(tmp_path / "other").budgets) == 1
    assert (model / "README.md").read_text("utf-8").count("fitted samplers") == 1


def test_a_run_is_not_written_into(tmp_path):
    with pytest.raises(SystemExit, match="1"):
        main(["fit", str(tmp_path), "--evaluations", "4"])


def test_another_request_takes_the_models_own_sampler_and_says_so(capsys):
    pipe = mixture_pipe()
    fit_samplers(pipe, QUICK)
    for asked, why, steps in (
        ({"evaluations": 7}, "no sampler was fitted for as many (there are samplers for 4)", 7),
        ({"evaluations": 4, "guidance_scale": 2.0}, "under guidance with scale 1", 2),
    ):
        settled = pipe.settled(Request(range(2), **asked))
        said = capsys.readouterr().err
        assert why in said
        assert "the model's own sampler is used" in said
        # Few evaluations are not spent on an averaged form, which takes two a step.
        assert f"with {steps} steps of two_step" in said
        assert (settled.steps, settled.sampler) == (steps, Sampler(estimate="two_step"))
    with torch.no_grad():
        pipe.network.scale.mul_(1.001)
    assert pipe.settled(Request(range(2), evaluations=4)).sampler == Sampler(estimate="two_step")
    assert "fitted to other weights" in capsys.readouterr().err
    many = pipe.settled(Request(range(2), evaluations=21))
    assert (many.steps, many.sampler) == (11, None)


def test_a_sampler_that_leaves_some_evaluations_is_found_by_those_it_was_fitted_for(capsys):
    pipe = mixture_pipe()
    fit_samplers(pipe, QUICK)
    (budget,) = pipe.budgets
    pipe.budgets = (replace(budget, fit=budget.fit | {"asked for": 6}),)
    fitted = pipe.settled(Request(range(2), evaluations=4)).sampler
    assert pipe.settled(Request(range(2), evaluations=6)).sampler == fitted != pipe.sampler
    assert capsys.readouterr().err == ""
    assert pipe.settled(Request(range(2), evaluations=5)).sampler != fitted


def test_a_tolerance_takes_the_fewest_evaluations_that_meet_it():
    pipe = mixture_pipe()
    with pytest.raises(OvertoneError, match="there is none"):
        pipe(range(1), tolerance=0.1)
    fit_samplers(pipe, replace(QUICK, evaluations=(3, 5, 8)))
    errors = [budget.error for budget in pipe.budgets]
    assert errors == sorted(errors, reverse=True)
    for budget, tolerance in zip(pipe.budgets, errors, strict=True):
        settled = pipe.settled(Request(range(2), tolerance=tolerance))
        assert settled.sampler == budget.own.sampler
    with pytest.raises(OvertoneError, match=r"the smallest is .* with 8 function evaluations"):
        pipe(range(1), tolerance=errors[-1] / 2)


def test_a_fit_again_takes_the_place_of_the_one_before():
    pipe = mixture_pipe()
    fit_samplers(pipe, replace(QUICK, iterations=0))
    (before,) = pipe.budgets
    fit_samplers(pipe, QUICK)
    fit_samplers(pipe, replace(QUICK, guidance_scale=2.0))
    assert [b.own.guidance.scale for b in pipe.budgets] == [1.0, 2.0]
    assert pipe.budgets[0].error < before.error


def test_a_sampler_that_is_no_better_is_not_kept(monkeypatch):
    pipe = mixture_pipe()
    worse = Sampler(4, estimate="single", rho=1.0)
    monkeypatch.setattr(Fit, "fitted", lambda *args: worse)
    (outcome,) = fit_samplers(pipe, QUICK)
    assert outcome.budget is None
    assert pipe.budgets == ()
    assert "not kept" in str(outcome)


def test_an_interrupted_fit_goes_on_where_it_was(monkeypatch, tmp_path):
    settings = replace(QUICK, evaluations=(3, 4))
    whole = mixture_pipe()
    fit_samplers(whole, settings)
    monkeypatch.setenv("OVERTONE_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(descents, "KEPT", 10)
    pipe, keep, kept = mixture_pipe(), descents._keep, []

    def interrupting(state, own, adam, done):
        keep(state, own, adam, done)
        kept.append(done)
        if len(kept) == 6:  # the second of the second
            raise KeyboardInterrupt

    monkeypatch.setattr(descents, "_keep", interrupting)
    with pytest.raises(KeyboardInterrupt):
        fit_samplers(pipe, settings)
    assert [b.evaluations for b in pipe.budgets] == [3]
    solve = Problem.of
    monkeypatch.setattr(
        Problem, "of", lambda *args: pytest.fail("converged images were made again")
    )
    fit_samplers(pipe, replace(settings, evaluations=(4,)))
    assert kept[6:] == [30, 40]
    assert pipe.budgets == whole.budgets
    assert solve is not None
    folder = storage.cache_directory() / "fits"
    assert sorted(name.partition("-")[0] for name in os.listdir(folder)) == ["converged"] * 2


def a_relay(**parts):
    pipe = Pipeline(
        MixtureConfig(resolution=8).build(),
        Sampler(8, sigma_min=0.01, sigma_max=0.9, estimate="two_step"),
        preconditioning=Unscaled(),
        process=PROCESSES[1],
        precision="fp32",
        **parts,
    )
    pipe.first = mixture_pipe(guidance=GuidanceSettings(1.5))
    return pipe


def test_both_stages_of_a_relay_share_the_evaluations(tmp_path, capsys):
    pipe = a_relay()
    assert evaluations_of(pipe, Request(range(1))) == 70 + 8
    (outcome,) = fit_samplers(pipe, replace(QUICK, evaluations=(10,), search_images=96))
    (budget,) = pipe.budgets
    first, own = budget.first.sampler, budget.own.sampler
    # Two calls a step of the guided first stage.
    assert 2 * len(first.visited) + len(own.visited) == budget.evaluations <= 10
    assert budget.first.guidance.scale == 1.5
    assert budget.error < 0.6 * budget.default_error
    # From noise to the image, on seeds of the check.
    seeds = range(CHECK, CHECK + 64)
    finest = Request(
        seeds,
        sampler=Sampler(200, sigma_min=0.01, sigma_max=0.9),
        first_sampler=Sampler(200),
    )
    converged = torch.cat([b.unrounded for b in pipe.stream(finest)])
    made = torch.cat([b.unrounded for b in pipe.stream(seeds, evaluations=budget.evaluations)])
    by_hand = float(distance(made, converged).mean())
    assert by_hand == pytest.approx(outcome.error, rel=0.02)
    assert not capsys.readouterr().err
    request = Request(range(2), evaluations=budget.evaluations)
    assert evaluations_of(pipe, request) == budget.evaluations
    account = pipe.made_with(request)
    assert account["start"]["first_stage"]["sampler"]["levels"] == list(first.levels)
    pipe.save_pretrained(tmp_path / "relay")
    again = load_pipeline(tmp_path / "relay")
    assert again.settled(request).first_sampler == first
    # Another first stage is another model.
    again.first = mixture_pipe()
    with pytest.raises(OvertoneError, match=r"with scale 1.5, and no number of steps .* takes 36"):
        again.settled(request)
    again.first = torch.zeros(4, 1, 4, 4)
    again.settled(replace(request, class_labels=[0, 1]))
    assert "another first stage" in capsys.readouterr().err


def test_a_second_stage_that_goes_on_from_pictures_is_fitted_by_itself():
    pipe = a_relay()
    pipe.first = torch.rand(64, 1, 4, 4) * 2 - 1
    asked = replace(QUICK, evaluations=(4,))
    with pytest.raises(OvertoneError, match="say what the images show"):
        fit_samplers(pipe, asked)
    pipe.first = torch.zeros(4, 1, 4, 4)


@pytest.mark.parametrize(
    ("sampler", "settings", "message"),
    [
        (AncestralSampler(), {}, "draws noise on the way"),
        (Sampler(eta=0.2), {}, "draws noise on the way"),
        (Sampler(5), {"evaluations": (9,)}, "takes 9 function evaluations per image: a fit is for"),
        (Sampler(5), {"evaluations": (1,), "guidance_scale": 2.0}, "1 are too few"),
    ],
)
def test_what_can_not_be_fitted_is_refused(sampler, settings, message):
    with pytest.raises(OvertoneError, match=message):
        fit_samplers(mixture_pipe(sampler), replace(QUICK, **settings))


@pytest.mark.parametrize(
    "wrong",
    [{"evaluations": (0,)}, {"evaluations": ()}, {"evaluations": (4, 4)}, {"search_images": 5},
     {"check_images": 0}, {"iterations": -1}, {"way": "other"}],
    ids=str,
)  # fmt: skip
def test_settings_of_a_fit_have_ranges(wrong):
    with pytest.raises(ValueError, match=r"must be|names different"):
        replace(QUICK, **wrong)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"evaluations": 0}, "evaluations is a whole number of at least 1"),
        ({"evaluations": 2.5}, "evaluations is a whole number"),
        ({"tolerance": 0.0}, "tolerance is a number above 0"),
        ({"tolerance": math.nan}, "tolerance is a number above 0"),
        ({"evaluations": 4, "steps": 4}, "both say which steps"),
        ({"evaluations": 4, "tolerance": 0.1}, "both say which steps"),
        ({"sampler": "heun"}, "sampler is a sampler"),
    ],
)
def test_a_request_says_in_one_way_which_steps_are_taken(asked, message):
    with pytest.raises(OvertoneError, match=message):
        Request(range(2), **asked)


@pytest.mark.parametrize("name", list(kinds_of_pipelines()))
def test_every_kind_of_model_takes_the_same_search(name):
    """Networks that were never trained: what is found is not worse than where it began."""
    pipe = kinds_of_pipelines()[name]
    pipe.precision = "fp32"
    settings = replace(QUICK, search_images=32, check_images=32, iterations=3, trials=12)
    guidance = {"guidance_scale": 1.5} if pipe.num_classes else {}
    fit = Fit(pipe, replace(settings, evaluations=(8,), **guidance), lambda done: None)
    began = fit.began(8)
    found = fit.fitted(fit.search, began)
    assert fit.search.error(found) <= fit.search.error(began)
    asked = replace(fit.asked, seeds=(0,), sampler=found)
    assert evaluations_of(pipe, asked) == 8
    assert fit.outcome(8).error > 0
