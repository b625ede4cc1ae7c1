"""Training of experts: what each draws, how their runs go on, and what is merged of them."""

import dataclasses

import pytest
import torch

from helpers import TINY_ADM, TINY_DIFFIT, TINY_IUNET, pixels
from overtone import settings, storage
from overtone.cli.app import main
from overtone.errors import OvertoneError
from overtone.networks.configs.iunet import inception_heads
from overtone.pipelines import load_pipeline
from overtone.processes import DiscreteSchedule, QuantileSchedule, VPLinearSchedule
from overtone.runs import find_checkpoint
from overtone.training.configs.denoising import DenoisingRecipe, ExpertSettings
from overtone.training.configs.training import Reporting, Training
from overtone.training.experts import finished_experts, merged_run, train_experts
from overtone.training.loop import Trainer
from overtone.training.objectives import soft_interval
from overtone.training.recipes.meme import (
    meme_celeba64,
    meme_celebahq,
    meme_digits,
    meme_fashion_mnist,
    meme_ffhq,
)

SCHEDULES = [
    QuantileSchedule(),
    VPLinearSchedule(),
    DiscreteSchedule(),
    DiscreteSchedule(num_steps=10, beta_start=0.02, beta_end=0.9),
]
EXPERTS = DenoisingRecipe(
    about="",
    data="builtin:digits",
    network=dataclasses.replace(TINY_IUNET, num_classes=0, head_channels=4),
    class_conditional=True,
    label_dropout=0.1,
    experts=ExpertSettings((0.3, 2.0), (0.8, 0.4, 0.2)),
    training=Training(
        total_images=64, batch_size=32, lr=1e-3, lr_rampup_images=32, ema_halflife_images=100,
        precision="fp32",
    ),
    reporting=Reporting(report_images=32, checkpoint_images=64, held_out_images=32, keep=1),
)  # fmt: skip


def with_experts(**changes):
    return dataclasses.replace(EXPERTS, experts=dataclasses.replace(EXPERTS.experts, **changes))


@pytest.mark.parametrize("probabilities", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.8, 0.4, 0.0)])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_are_drawn_from_each_interval_with_its_exact_probability(probabilities, schedule):
    """p_n + (1 - p_n) |I_n| of the mass on its own interval, (1 - p_n) |I_m| on another."""
    recipe = dataclasses.replace(with_experts(probabilities=probabilities), schedule=schedule)
    count = 2**16
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    intervals = [recipe.expert(m).interval for m in (1, 2, 3)]
    shares = [high - low for low, high in (recipe.expert(m).shares for m in (1, 2, 3))]
    for n, p in enumerate(probabilities, 1):
        own = recipe.expert(n)
        t = schedule.drawn(soft_interval(uniform, own.shares, own.probability))
        assert bool((t.diff() >= 0).all())
        sigma = schedule.sigma(t)
        for m, ((low, high), share) in enumerate(zip(intervals, shares, strict=True), 1):
            drawn = float(((sigma > low) & (sigma <= high)).double().mean())
            assert drawn == pytest.approx((1 - p) * share + p * (n == m), abs=1e-4)
            # Within an interval the draws are even.
            inside = soft_interval(uniform, own.shares, own.probability)
            a, b = recipe.expert(m).shares
            within = inside[(inside > a) & (inside < b)]
            if len(within) > 1000:
                assert float(within.mean()) == pytest.approx((a + b) / 2, abs=1e-3)


def test_an_expert_that_could_learn_nothing_is_refused():
    relay = QuantileSchedule(prob_length=0.5)  # ends below sigma 2
    with pytest.raises(ValueError, match="expert 3 has nothing to learn"):
        dataclasses.replace(EXPERTS, schedule=relay)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boundaries": (2.0, 0.3)}, "boundaries between experts rise"),
        ({"probabilities": (1.0, 1.0)}, "probabilities has 2 entries for 3 experts"),
        ({"probabilities": (1.0, 1.0, 1.5)}, r"probabilities must be in \[0, 1\], not 1.5"),
        ({"networks": (TINY_ADM,)}, "networks has 1 entries for 3 experts"),
        (
            {"networks": (TINY_ADM,) * 3, "shapes": "published"},
            "shapes were published for an IUNet alone",
        ),
    ],
)
def test_expert_settings_that_can_not_be(changes, message):
    with pytest.raises(ValueError, match=message):
        with_experts(**changes)


def test_published_shapes_give_each_expert_its_ratios():
    recipe = dataclasses.replace(
        EXPERTS,
        network=dataclasses.replace(EXPERTS.network, inception_heads=()),
        experts=dataclasses.replace(EXPERTS.experts, shapes="published"),
    )
    heads = [recipe.expert(n).network.inception_heads for n in (1, 2, 3)]
    assert heads == [inception_heads((16, 32), 4, n, 3) for n in (1, 2, 3)]
    assert heads[0] != heads[2]
    with pytest.raises(ValueError, match="numbered 1 to 3, not 4"):
        recipe.expert(4)


@pytest.mark.slow
def test_experts_of_any_kind_are_trained_and_merged(tmp_path):
    networks = TINY_IUNET, TINY_DIFFIT, dataclasses.replace(TINY_ADM, widths=(32, 64))
    networks = tuple(dataclasses.replace(n, num_classes=0) for n in networks)
    recipe = with_experts(networks=networks)
    assert train_experts(recipe, tmp_path / "run", only=2) == [2]
    with pytest.raises(OvertoneError, match=r"lacks expert 1, 3: overtone train .* --expert 1"):
        merged_run(tmp_path / "run")
    with pytest.raises(OvertoneError, match="holds experts, not merged yet: overtone merge"):
        find_checkpoint(tmp_path / "run")
    second = (tmp_path / "run" / "expert-2" / "log.jsonl").read_bytes()
    assert train_experts(recipe, tmp_path / "run") == [1, 2, 3]
    assert (tmp_path / "run" / "expert-2" / "log.jsonl").read_bytes() == second
    pipe = merged_run(tmp_path / "run")
    kinds = [type(network).__name__ for network in pipe.network.networks]
    assert kinds == ["IUNet", "DiffiTUNet", "ADMUNet"]
    assert pipe.training["images seen"] == 3 * 64
    assert "expert" not in pipe.training
    assert len(pipe(range(2), class_labels=3, guidance_scale=1.5, steps=4)) == 2


@pytest.mark.slow
def test_an_expert_that_fails_leaves_the_others_alone(tmp_path, monkeypatch):
    real = Trainer.run

    def run(self, directory, *, skip_bad):
        if directory.name == "expert-2":
            raise RuntimeError("out of memory, say")
        return real(self, directory)

    monkeypatch.setattr(Trainer, "run", run)
    with pytest.raises(OvertoneError, match=r"not all experts .* \(expert 2: RuntimeError: out"):
        train_experts(EXPERTS, tmp_path / "run")
    assert finished_experts(tmp_path / "run", EXPERTS) == [1, 3]
    monkeypatch.undo()
    assert train_experts(EXPERTS, tmp_path / "run") == [1, 2, 3]


def test_a_run_of_experts_goes_on_only_as_it_began(tmp_path):
    # A job that began at the same time may have written something, or been killed in between.
    storage.write_json(tmp_path / "run" / "recipe.json", {})
    (tmp_path / "run" / ".writing-12ab34cd-run.json").write_text("{")
    train_experts(EXPERTS, tmp_path / "run", only=1)
    with pytest.raises(OvertoneError, match="made with other settings"):
        train_experts(with_experts(boundaries=(0.3, 2.5)), tmp_path / "run", only=1)
    # Other probabilities of another expert do not matter to this one; its own do.
    train_experts(with_experts(probabilities=(0.8, 0.1, 0.2)), tmp_path / "run", only=1)
    with pytest.raises(OvertoneError, match=r"expert 1: .* was made with other settings"):
        train_experts(with_experts(probabilities=(0.9, 0.4, 0.2)), tmp_path / "run", only=1)


@pytest.mark.slow
def test_what_was_merged_while_an_expert_trained_is_merged_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write_json(tmp_path / "tiny.json", settings.dump(EXPERTS))
    main(["train", "tiny.json"])
    main(["merge", "runs/tiny", "--steps", "2", "2", "2"])
    main(["train", "tiny.json"])  # which has nothing to do: what was merged by hand stays
    assert load_pipeline("runs/tiny/merged").sampler.levels
    images = EXPERTS.training.total_images
    longer = ["train", "tiny.json", "--total-images", str(2 * images), "--expert"]
    for number in "12":
        main([*longer, number])
    real = Trainer.run

    def run(self, directory, *, skip_bad):
        main(["merge", "runs/tiny"])
        assert load_pipeline("runs/tiny/merged").training["images seen"] == 5 * images
        return real(self, directory)

    monkeypatch.setattr(Trainer, "run", run)
    main([*longer, "3"])
    assert load_pipeline("runs/tiny/merged").training["images seen"] == 6 * images


@pytest.mark.slow
def test_an_expert_resumes_bit_for_bit(tmp_path):
    whole = dataclasses.replace(
        EXPERTS, training=dataclasses.replace(EXPERTS.training, total_images=128)
    )
    train_experts(whole, tmp_path / "whole", only=3)
    train_experts(EXPERTS, tmp_path / "parts", only=3)
    train_experts(whole, tmp_path / "parts", only=3)
    a, b = (find_checkpoint(tmp_path / run / "expert-3") for run in ("whole", "parts"))
    for file in ("training/weights.safetensors", "training/ema.safetensors"):
        assert (a / file).read_bytes() == (b / file).read_bytes()


@pytest.mark.slow
def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    storage.write_json(tmp_path / "tiny.json", settings.dump(EXPERTS))
    main(["train", "tiny.json"])
    assert "3 experts: runs/tiny/merged" in capsys.readouterr().out
    main(
        [
            "sample",
            "runs/tiny",
            "--seeds",
            "0-3",
            "--steps",
            "4",
            "--resident",
            "1",
            "--out",
            "a.png",
        ]
    )
    main(["merge", "runs/tiny", "--out", "models/tiny"])
    main(["sample", "models/tiny", "--seeds", "0-3", "--steps", "4", "--out", "b.png"])
    assert pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")
    main(
        ["merge", *(f"runs/tiny/expert-{n}" for n in (1, 3)), "--boundaries", "1.5", "--out", "two"]
    )
    assert len(load_pipeline("two").network.networks) == 2
    main(["info", "runs/tiny"])
    main(["info", "models/tiny"])
    said = capsys.readouterr().out
    assert "run of experts" in said
    assert "expert 3" in said


def test_recipes_train_their_experts_on_their_intervals_as_published():
    assert meme_ffhq().experts.probabilities == (0.8, 0.4, 0.2, 0.1)
    for make in (meme_digits, meme_fashion_mnist, meme_celeba64, meme_ffhq, meme_celebahq):
        recipe = make()
        experts = [recipe.expert(n) for n in (1, 2, 3, 4)]
        for own, published in zip(experts, (0.85, 0.55, 0.4, 0.325), strict=True):
            share = own.shares[1] - own.shares[0]
            trained = own.probability + (1 - own.probability) * share
            assert trained == pytest.approx(max(published, share), abs=1e-3)
        heads = [own.network.inception_heads for own in experts]
        assert heads[0] != heads[1] != heads[3]
