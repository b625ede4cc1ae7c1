"""What the studies of the papers' claims stand on. The studies themselves take hours."""

import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import TINY_ADM, TINY_IUNET
from overtone import Pipeline, RelayPipeline, Sampler, load_pipeline
from overtone.data import ArrayData
from overtone.data.images import to_unit
from overtone.denoisers import EDMPreconditioning, IdealDenoiser, NetworkDenoiser
from overtone.denoisers.guidance import GuidanceSettings
from overtone.metrics.classifier import ClassifierExtractor
from overtone.networks import DiffiTConfig
from overtone.networks.classifier import Classifier
from overtone.networks.configs.classifier import ClassifierConfig
from overtone.samplers.sampler import SECOND_STAGE

STUDIES = Path(__file__).parent.parent / "examples" / "studies"
sys.path.append(str(STUDIES))

import attention  # noqa: E402
import chain  # noqa: E402
import combination  # noqa: E402
import experts  # noqa: E402
import one_step  # noqa: E402
import relay  # noqa: E402
import study  # noqa: E402
from supernet import Supernet, expert_denoisers  # noqa: E402

CONFIG = dataclasses.replace(TINY_IUNET, widths=(24, 32), head_channels=4, inception_heads=())


def a_supernet():
    torch.manual_seed(0)
    network = Supernet(CONFIG, 4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def test_each_slice_of_a_supernet_is_the_network_of_its_ratio():
    network = a_supernet()
    heads = {shape.attending for shape in network.shapes}
    assert len(heads) > 1
    x, time, labels = torch.randn(3, 1, 8, 8), torch.randn(3), torch.tensor([0, 1, 2])
    made = []
    for number in range(4):
        network.number = number
        alone = network.expert(number)
        assert alone.config.inception_heads == network.shapes[number].attending
        with torch.no_grad():
            made.append(network(x, time, labels))
            torch.testing.assert_close(made[-1], alone(x, time, labels), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(made[0], made[3], atol=1e-3)


def test_a_supernet_trains_every_ratio_and_all_of_its_weights():
    network = a_supernet().train()
    seen = set()
    for _ in range(40):
        network(torch.randn(2, 1, 8, 8), torch.randn(2), torch.tensor([0, 1])).sum().backward()
        seen |= {cell.mixer.number for cell in network._cells()}
    assert seen == {0, 1, 2, 3}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if ".mixer.qkv.weight" in name:  # every head is some ratio's
            assert (parameter.grad != 0).any(dim=1).all()


def test_experts_of_a_supernet_keep_its_preconditioning():
    denoisers = expert_denoisers(NetworkDenoiser(a_supernet(), EDMPreconditioning()))
    assert len(denoisers) == 4
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 2.0])
    with torch.no_grad():
        first, last = (d(x, sigma, torch.tensor([0, 1])).x_0 for d in (denoisers[0], denoisers[3]))
    assert not torch.allclose(first, last, atol=1e-3)


def test_losses_of_intervals_are_those_of_the_closed_form():
    """Under the ideal denoiser of one image nothing is left; under that of N(0, S) the loss of one
    noise level is w(sigma) tr S sigma^2 / (S + sigma^2) / n."""
    images = np.full((4, 1, 4, 4), 200, np.uint8)
    data = ArrayData("one image", images, np.zeros(4, np.int64), ["a"])
    x_0 = to_unit(torch.from_numpy(images))
    exact = study.interval_losses(IdealDenoiser(x_0[:1]), data, (0.1, 1.0), count=100)
    assert len(exact) == 3
    assert all(len(means) == study.BATCHES for means in exact)
    assert max(exact[2]) < 1e-3  # bfloat16's rounding, weighted
    wide = IdealDenoiser(torch.zeros(1, 1, 4, 4), 4.0 * torch.eye(16))
    near = (0.4999, 0.5001)
    _, means, _ = study.interval_losses(wide, data, near, count=2_000)
    shrunk, weight = 4 / (4 + 0.25), 1 / 0.25 + 1 / 0.25
    # E (s (x_0 + n) - x_0)^2 for this x_0 and n of variance sigma^2.
    value = float(x_0.flatten()[0])
    expected = weight * (((shrunk - 1) * value) ** 2 + shrunk**2 * 0.25)
    assert np.mean(means) == pytest.approx(expected, rel=0.03)  # 32,000 draws: 0.8 %
    again = study.interval_losses(wide, data, near, count=2_000)[1]
    assert means == again


def test_differences_are_paired():
    mean, half = study.difference([1.0, 2.0, 3.0, 4.0, 5.0], [0.5, 1.5, 2.5, 3.5, 4.5])
    assert (mean, half) == (0.5, 0.0)
    mean, half = study.mean_and_half([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0
    assert half == pytest.approx(2.776 * 1.5811 / 5**0.5, rel=1e-3)


def test_results_are_computed_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "DOCS", tmp_path)
    beside = study.Results("some")
    assert study.Results("some").once("entry", lambda: [1, 2]) == [1, 2]
    assert not capsys.readouterr().err
    assert study.Results("some").once("entry", lambda: pytest.fail("again")) == [1, 2]
    assert "has it, and it is not computed again" in capsys.readouterr().err
    beside.once("other", lambda: 3)  # by a process that began before
    assert study.Results("some").entries == {"entry": [1, 2], "other": 3}


def test_results_of_studies_that_run_at_once_are_all_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "DOCS", tmp_path)

    def fill(part):
        own = study.Results("both")
        for number in range(20):
            own.once(f"{part}, {number}", lambda number=number: number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(4)))
    assert len(study.Results("both").entries) == 80


def test_what_stops_a_study_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["one_step.py", "digits", "--teacher", "other"])
    file = study.Results("one_step").file
    file.write_text('{"digits, guidance 1": {"teacher": "first"}}')
    with pytest.raises(SystemExit, match=r"^one_step.py: .* has the results of first"):
        study.run_study(one_step.main)
    file.write_text('{"digits')
    with pytest.raises(SystemExit, match=r"^one_step.py: .* is not valid JSON"):
        study.run_study(one_step.main)


@pytest.mark.parametrize(("data", "size"), [("digits", 8), ("fashion", 32)])
def test_variants_of_attention_are_networks(data, size):
    case = attention.CASES[data]
    for name in case.variants:
        recipe = attention.recipe_of(case, name, 3)
        network = recipe.network.build()
        out = network(torch.randn(2, 1, size, size), torch.randn(2))
        assert out.shape == (2, 1, size, size)
        assert recipe.training.seed == 3
        assert isinstance(recipe.network, DiffiTConfig) != name.startswith("DDPM++")


def test_tables_of_attention_have_differences_with_intervals(tmp_path, monkeypatch, capsys):
    """Of five seeds, Student's t over the seeds; of two, over the images of each."""
    monkeypatch.setattr(study, "DOCS", tmp_path)
    results = study.Results("attention")
    for data, case in attention.CASES.items():
        for seed in case.seeds:
            for name, at in (("TMSA", 1.0), ("MLP", 1.5)):
                losses = [[at + seed / 10 + batch / 100 for batch in range(50)] for _ in range(5)]
                losses[0] = [value + (name == "MLP") * seed for value in losses[0]]
                entry = {"parameters": 1_000_000, "losses": losses}
                results.once(attention.key(data, name, seed), lambda entry=entry: entry)
    attention.tables(results)
    rows = [
        line.split(" | ") for line in capsys.readouterr().out.splitlines() if "MLP less" in line
    ]
    assert rows[0][2:5] == ["2.5000 ± 1.9629", "0.5000 ± 0.0000", "0.5000 ± 0.0000"]
    assert rows[1][2] == "0.5000 ± 0.0000, 1.5000 ± 0.0000"


def test_entries_take_about_the_same_training():
    """Multiply-adds of training, a pass of three evaluations per image."""
    from overtone.networks import ADMConfig
    from overtone.networks.network import multiply_adds

    meme = experts.meme_fashion_mnist().network
    names = [field.name for field in dataclasses.fields(ADMConfig)]
    small = ADMConfig(**{name: getattr(meme, name) for name in names})
    costs = {
        "large": 65_000 * multiply_adds(experts._wider(small).build()),
        "small": 200_000 * multiply_adds(small.build()),
        "iU-Net": 213_000 * multiply_adds(meme.build()),
        "one shape": (100_000 + 4 * 25_000) * multiply_adds(small.build()),
        "MEME": (100_000 + 4 * 26_000) * multiply_adds(meme.build()),
    }
    assert max(costs.values()) / min(costs.values()) < 1.1
    for case in relay.CASES.values():
        told = case().recipes()
        first, one = (multiply_adds(told[n].network.build()) for n in (relay.FIRST, relay.ONE))
        totals = [
            told[n].training.total_images * cost
            for n, cost in ((relay.FIRST, first), (relay.RELAY, one), (relay.ONE, one))
        ]
        assert totals[0] + totals[1] == pytest.approx(totals[2], rel=0.001)


def test_recipes_of_the_combination_go_on_from_those_before():
    done = set()
    for name, recipe in combination.RECIPES.items():
        names = (getattr(recipe, key, "") for key in ("first", "init", "teacher"))
        assert {Path(run).name for run in names if run} <= done, name
        done.add(name)


def test_the_table_of_the_combination_has_differences_with_intervals(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "DOCS", tmp_path)
    monkeypatch.setattr(combination, "DOCS", tmp_path)
    (tmp_path / "studies").mkdir()
    own = {"value": 0.5, "low": 0.4, "high": 0.6, "evaluations": 2.0}
    scores = [
        {"model": model, "score": score} | own
        for model in ("two operators", "experts")
        for score in ("frechet_distance", "class_accuracy")
    ]
    less = {"model": "experts", "score": "frechet_distance", "difference": -0.1}
    rows = {"scores": scores, "differences": [less | {"low": -0.2, "high": 0.01}]}
    results = study.Results("combined")
    results.once("compared", lambda: rows)
    combination.tables(results)
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last == "| experts | 2 | 0.500 (0.400 to 0.600) | -0.100 (-0.200 to 0.010) | 50.0% |"


def test_stages_of_a_chain_are_those_of_one_pipeline(tmp_path, monkeypatch):
    """The chain's letters are what three nested stages make of the same seeds at once."""
    torch.manual_seed(0)
    monkeypatch.setattr(chain, "BATCH", 3)
    small = dataclasses.replace(TINY_ADM, attention_resolutions=())
    names = "relay-glyphs-16", "relay-glyphs", "relay-glyphs-256"
    for number, name in enumerate(names):
        network = dataclasses.replace(small, resolution=4 * 4**number).build().eval()
        with torch.no_grad():  # so little that images stay in their range
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        make, sampler = (RelayPipeline, SECOND_STAGE) if number else (Pipeline, Sampler())
        changes = {"num_steps": chain.STEPS[number], "estimate": "two_step"}
        make(network, dataclasses.replace(sampler, **changes)).save_pretrained(tmp_path / name)
    (stages, _), *rest = chain.Stages(tmp_path).batches(5)
    assert [stage.shape[-1] for stage in stages] == [4, 16, 64]
    assert [len(labels) for _, labels in rest] == [2]
    first, second, third = (load_pipeline(tmp_path / name) for name in names)
    first.guidance = GuidanceSettings(scale=chain.SCALE)
    second.first, third.first = first, second
    whole = next(third.stream(range(chain.BATCH), batch_size=chain.BATCH)).unrounded
    assert torch.allclose(stages[2], whole.float().cpu(), atol=1e-3)
    plain = F.interpolate(stages[1], scale_factor=4, mode="bicubic")
    assert not torch.allclose(stages[2], plain, atol=0.05)


@pytest.mark.slow
def test_letters_of_a_chain_are_scored_beside_enlarged_ones(tmp_path, monkeypatch):
    """Real letters have a smaller distance from real ones than noise has."""
    monkeypatch.setattr(chain, "DOCS", tmp_path)
    monkeypatch.setattr(chain, "SIZE", 16)
    monkeypatch.setattr(chain, "WHERE", ("builtin:glyphs", 16, 3))
    monkeypatch.setattr(chain, "Stages", lambda runs: Noise())
    config = ClassifierConfig(resolution=16, channels=3, num_classes=26, widths=(8, 16))
    torch.manual_seed(0)
    extractor = ClassifierExtractor(Classifier(config), "d")
    monkeypatch.setattr(chain, "classifier_of", lambda *where: extractor)
    (tmp_path / "images").mkdir()
    found = chain.measured(tmp_path, 2 * chain.BATCH)
    assert list(found) == [chain.REAL, chain.SMALL, chain.MIDDLE, chain.CHAIN]
    distances = [entry["frechet_distance"][0] for entry in found.values()]
    assert distances[0] < min(distances[1:])
    rows = study.scored_rows(found, chain.CHAIN)
    assert len(rows) == 6
    assert (tmp_path / "images" / "chain.png").exists()


class Noise:
    """Stages that make noise."""

    def batches(self, samples):
        for at in range(0, samples, chain.BATCH):
            stages = [torch.randn(chain.BATCH, 3, side, side).clamp(-1, 1) for side in (4, 8, 16)]
            yield stages, torch.arange(at, at + chain.BATCH) % 26


def test_cases_of_one_step_fit_together():
    for case in one_step.cases().values():
        assert case.students.halvings == (8, 4, 2, 1)
        assert case.operator.teacher == case.students.teacher


@pytest.mark.parametrize(("scale", "solving", "each"), [(1.5, 38, 22), (None, 19, 20)])
def test_both_distillations_of_one_step_cost_the_same(scale, solving, each):
    """An operator's training computes four times of each trajectory; a student learns from two
    steps of its teacher, which guidance makes four."""
    models = STUDIES.parent.parent / "models"
    operator = load_pipeline(models / "dsno-digits")
    teacher = Pipeline(load_pipeline(models / "diffit-digits").network)  # its own fit left out
    case = one_step.cases()["digits"]
    case = dataclasses.replace(
        case,
        operator=dataclasses.replace(case.operator, guidance_scale=scale),
        students=dataclasses.replace(case.students, guidance_scale=scale),
    )
    passes = one_step.passes_of_operator(case, teacher, operator)
    assert passes == pytest.approx(20_000 * solving + 80_000 * 3 * 4, rel=0.01)
    students = one_step.equal(case, teacher, passes)
    assert abs(students.training.total_images * each - passes) <= each * 128 / 2
