"""Progressive distillation: one step of the student for two of its teacher."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from helpers import DIFFUSERS_MARKS, TINY_DIFFIT, awake, gaussian
from overtone import train
from overtone.cli.app import main
from overtone.data import ArrayData
from overtone.data.rules import Reading
from overtone.denoisers import GuidanceSettings, IdealDenoiser
from overtone.denoisers.denoiser import Denoiser, Estimate
from overtone.errors import OvertoneError
from overtone.networks import DiffiTUNet
from overtone.pipelines import DiffiTPipeline, Pipeline, load_pipeline
from overtone.processes import GaussianProcess, QuantileSchedule, RelayProcess, SeededNoise
from overtone.runs import find_checkpoint, read_log
from overtone.samplers import AncestralSampler, OperatorSampler, Sampler, sigma_grid
from overtone.training import HalvingRecipe
from overtone.training.configs.training import Reporting
from overtone.training.halving import HalvingObjective, first_teacher, material_for
from overtone.training.judging import data_of, reading_of
from overtone.training.loop import Trainer
from overtone.training.material import Material
from overtone.training.teacher import teacher_of
from pipeline_kinds import kinds_of_pipelines
from runs import TINY as DENOISING
from runs import changed
from teachers import TRAINING

pytestmark = DIFFUSERS_MARKS
RELAY = RelayProcess(patch=2, schedule=QuantileSchedule(prob_length=0.93))
TINY = HalvingRecipe(
    about="",
    teacher_steps=4,
    training=TRAINING,
    reporting=Reporting(report_images=64, checkpoint_images=96, held_out_images=32, keep=1),
)


def a_gaussian():
    """The ideal denoiser of a Gaussian of 4 x 4 images, in float64."""
    _, mean, covariance = gaussian(16)
    return IdealDenoiser(mean.view(1, 1, 4, 4), covariance)


class Student(Denoiser):
    """What answers each noised image with a step's estimate that is known."""

    def __init__(self, estimate):
        super().__init__()
        self.estimate = estimate

    def forward(self, x, sigma, class_labels=None):
        return Estimate(self.estimate(x, sigma))


def a_batch(objective, count=24):
    images = torch.rand(count, 1, 4, 4, dtype=torch.float64) * 2 - 1
    return objective.draw(images, torch.zeros(count, dtype=torch.long), SeededNoise(range(count)))


def published_target(teacher, x, s, m, n):
    """Equation 43 of Salimans & Ho, from two steps of DDIM: x at s, z'' at n."""
    z_1 = teacher(x, s).x_0 + m / s * (x - teacher(x, s).x_0)
    z_2 = teacher(z_1, m).x_0 + n / m * (z_1 - teacher(z_1, m).x_0)
    return (z_2 - n / s * x) / (1 - n / s)


def test_the_loss_is_the_distance_to_the_published_target():
    teacher = a_gaussian()
    sampler = Sampler(8, sigma_min=0.02, sigma_max=20.0, estimate="single")
    objective = HalvingObjective(teacher, sampler, GaussianProcess())
    levels = (*sampler.visited, 0.0)
    batch = a_batch(objective)
    assert set(batch["number"].tolist()) == {0, 1, 2, 3}
    assert objective.sigmas == (*levels[:-1:2], 0.0)

    def ideal(x, sigma):
        rows = [
            published_target(teacher, x[k : k + 1], *levels[2 * n : 2 * n + 3])
            for k, n in enumerate(batch["number"].tolist())
        ]
        return torch.cat(rows)

    exact = objective.loss(Student(ideal), batch)
    assert exact.max() < 1e-9
    loss = objective.loss(Student(lambda x, sigma: ideal(x, sigma) + 0.1), batch)
    expected = 0.01 * (1 + batch["sigma"].double() ** -2)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    truncated = replace(objective, weighting="truncated_snr")
    loss = truncated.loss(Student(lambda x, sigma: ideal(x, sigma) + 0.1), batch)
    expected = 0.01 * (batch["sigma"].double() ** -2).clamp(min=1)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("solver", ["single", "averaged_slopes", "averaged_estimates"])
@pytest.mark.parametrize("process", [GaussianProcess(), RELAY], ids=["white", "relay"])
def test_one_step_of_an_ideal_student_is_two_of_its_teacher(process, solver):
    """At the minimum of the loss a student whose estimate is an affine function at each level
    samples what its teacher of twice as many steps does: on a Gaussian, both are affine."""
    torch.manual_seed(0)
    highest = 20.0 if process.is_gaussian else 0.9
    sampler = Sampler(4, levels=sigma_grid(4, 0.1, highest, 3.0)[:-1], estimate=solver)
    teacher = a_gaussian()
    objective = HalvingObjective(teacher, sampler, process)

    def student(affine):
        def estimate(x, sigma):
            numbers = [objective.sigmas.index(s) for s in _near(sigma, objective.sigmas, len(x))]
            ones = torch.ones(len(x), 1, dtype=torch.float64)
            scaled = x.flatten(1) / (1 + torch.as_tensor(sigma).view(-1, 1))
            flat = torch.cat((scaled, ones), 1)
            return torch.einsum("bi,bij->bj", flat, affine[numbers]).view_as(x)

        return Student(estimate)

    batch = a_batch(objective, 128)

    def loss(affine):
        return objective.loss(student(affine), batch).mean()

    affine = torch.zeros(2, 17, 16, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(affine), affine)
    bend = torch.autograd.functional.hessian(loss, affine).view(affine.numel(), -1)
    # The loss is quadratic: one step of Newton's method ends at its minimum.
    step = torch.linalg.lstsq(bend, slope.view(-1, 1), driver="gelsd").solution
    affine = affine.detach() - step.view_as(affine)
    assert loss(affine) < 1e-9 < loss(torch.zeros_like(affine))
    own = Sampler(2, levels=objective.sigmas[:-1], estimate="single")
    start = highest * torch.randn(8, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        made, wanted = (
            s(d, process, start.clone(), SeededNoise([]))
            for s, d in ((own, student(affine)), (sampler, teacher))
        )
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-4)


def _near(sigma, levels, count):
    values = torch.as_tensor(sigma, dtype=torch.float64).expand(count).tolist()
    return [min(levels, key=lambda level: abs(level - value)) for value in values]


def digits_teacher(**parts):
    torch.manual_seed(3)
    network = awake(DiffiTUNet(replace(TINY_DIFFIT, num_classes=10)))
    sampler = Sampler(num_steps=6)
    return DiffiTPipeline(network, sampler, data="builtin:digits", precision="fp32", **parts)


@pytest.fixture
def saved(tmp_path):
    digits_teacher(guidance=GuidanceSettings(2.0)).save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def test_the_command_halves_and_goes_on(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--teacher", saved, "--teacher-steps", "4", "--out", "run",
               "--total-images", "64", "--batch-size", "32",
               "--lr-rampdown-images", "0", "--lr-rampup-images", "0",
               "--checkpoint-images", "32",
               "--held-out-images", "32"]  # fmt: skip
    main(["distill", "halve", "halve-images", *options, "--dry-run"])
    assert "each of 2 students: " in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    main(["distill", "halve", "halve-images", *options])
    out = capsys.readouterr()
    assert "2 steps: run/steps-2/checkpoints/000000064" in out.out
    assert "1 step: run/steps-1/checkpoints/000000064" in out.out
    two, one = (load_pipeline(f"run/steps-{n}") for n in (2, 1))
    grid = sigma_grid(4, 0.002, 80.0)
    assert two.sampler.visited == grid[:-1:2]
    assert one.sampler.visited == grid[:1]
    assert two.training["teacher's guidance"] == 2.0
    assert two.training["distilled from"] == "teacher"
    assert one.training["teacher's steps"] == 2
    assert one.training["distilled from"] == "teacher in 2 steps"
    assert one.training["teacher's guidance"] == 2.0  # which its teacher learned
    assert load_pipeline("run").sampler.num_steps == 1  # the fewest steps stand for all
    with pytest.raises(OvertoneError, match="no null class for classifier-free guidance"):
        two(range(2), guidance_scale=2.0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}
    main(["distill", "halve", "run"])  # all is there
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.safetensors")}
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert recipe["kind"] == "halving"
    with pytest.raises(SystemExit):
        main(["distill", "halve", "halve-images", *options, "--teacher-steps", "8"])
    assert "was made with other settings" in capsys.readouterr().err


def test_a_run_of_halvings_is_a_model(saved, tmp_path, capsys):
    """It is scored, compared, told of, and its students are teachers, as other models are; pictures
    are read as they were for the teacher."""
    options = ["--teacher-steps", "4", "--total-images", "32", "--batch-size", "32",
               "--lr-rampdown-images", "0", "--lr-rampup-images", "0",
               "--held-out-images", "32"]  # fmt: skip
    teacher = load_pipeline(saved)
    teacher.training["crop"] = "none"
    teacher.save_pretrained(tmp_path / "uncut")
    run = tmp_path / "run"
    main(["distill", "halve", "halve-images", "--teacher", str(tmp_path / "uncut"), *options,
          "--out", str(run)])  # fmt: skip
    for model in (run, run / "steps-2"):
        assert data_of(load_pipeline(model), str(model)) == "builtin:digits"
        assert reading_of(load_pipeline(model), str(model)) == Reading(crop="none")
    again = tmp_path / "again"
    main(["distill", "halve", "halve-images", "--teacher", str(run / "steps-2"), *options[2:],
          "--teacher-steps", "2", "--out", str(again)])  # fmt: skip
    assert load_pipeline(again).training["crop"] == "none"
    capsys.readouterr()
    main(["info", str(run)])
    told = capsys.readouterr().out
    assert "run of halvings" in told
    assert f"goes on with: overtone distill halve {run}" in told
    main(["info", str(run / "steps-2")])
    assert "goes on with" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["distill", "halve", str(run / "steps-2")])
    assert f"Resume all of them: overtone distill halve {run}." in capsys.readouterr().err


@pytest.mark.parametrize("highest", [10.0, 80.0])
def test_a_teacher_begins_where_its_sampler_does(tmp_path, highest):
    """Where a sampler leaves out the highest levels, a teacher's steps are the remaining ones."""
    own = Sampler(num_steps=8, truncation_sigma=highest)
    pipe = digits_teacher()
    pipe.sampler = own
    pipe.save_pretrained(tmp_path / "teacher")
    steps = len(own.visited) // 2
    teacher = str(tmp_path / "teacher")
    recipe = replace(TINY, teacher=teacher, teacher_steps=2 * steps, steps=steps)
    sampler = first_teacher(recipe).sampler
    assert len(sampler.visited) == 2 * steps
    assert sampler.sigma_start == own.sigma_start < highest
    same = own.as_ode("single", len(own.visited))
    assert same.visited == pytest.approx(own.visited, rel=1e-12)
    given = replace(own, levels=own.untruncated.visited, num_steps=len(own.visited))
    cut = replace(given, truncation_sigma=own.visited[0])
    assert cut.visited == given.visited[1:]
    assert cut.as_ode("single", len(cut.visited)).visited == cut.visited


@pytest.mark.slow
def test_a_student_comes_nearer_to_its_teacher(tmp_path):
    """The loss falls, and images come nearer to those of the teacher's four steps than the
    teacher's own two do."""
    longer = {"total_images": 12_800, "lr_rampdown_images": 6_400, "checkpoint_images": 6_400}
    train(changed(DENOISING, lr=3e-3, **longer), tmp_path / "teacher", show=False)
    own = {"teacher": str(tmp_path / "teacher"), "steps": 2, "ema_halflife_images": 500}
    recipe = changed(TINY, **own, **longer)
    student = train(recipe, tmp_path / "run", show=False)
    log = [e.get("held_out_loss") for e in read_log(tmp_path / "run" / "steps-2")]
    losses = [loss for loss in log if loss is not None]
    assert losses[-1] < 0.3 * losses[0]
    teacher = first_teacher(recipe)
    few = teacher.pipe.sampler.with_levels(student.sampler.visited)
    asked = {"seeds": range(64)}
    (wanted,) = teacher.pipe.stream(**asked)
    (own,) = student.stream(**asked)
    (theirs,) = teacher.pipe.stream(**asked, sampler=few)
    ours, before = ((s.unrounded - wanted.unrounded).square().mean() for s in (own, theirs))
    assert ours < 0.4 * before


@pytest.mark.parametrize("name", list(kinds_of_pipelines()))
def test_every_kind_of_model_is_halved(name, tmp_path):
    pipe = kinds_of_pipelines()[name]
    pipe.precision = "fp32"
    count, size = 64, pipe.image_resolution or 8
    images = torch.randint(0, 256, (count, pipe.channels, size, size), dtype=torch.uint8).numpy()
    names = [f"class {k}" for k in range(pipe.num_classes)]
    labels = torch.arange(count).numpy() % max(pipe.num_classes, 1)
    data = ArrayData("noise", images, labels if names else None, names)
    teacher = teacher_of(pipe, name, "single", 4)
    trainer = Trainer.of(
        changed(TINY, total_images=64), teacher=teacher, steps=2, show=False,
        material=Material(data, None, pipe.vae),
    )  # fmt: skip
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.run(tmp_path / "run")
    after = trainer.model.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert teacher.digest == teacher_of(pipe, name).digest  # which is not trained
    student = load_pipeline(find_checkpoint(tmp_path / "run"))
    assert student.sampler.visited == teacher.sampler.visited[::2]
    assert len(student(range(3))) == 3


def test_a_relay_is_halved(tmp_path):
    torch.manual_seed(3)
    network = awake(DiffiTUNet(TINY_DIFFIT))
    pipe = Pipeline(network, Sampler(4, sigma_max=0.8), process=RELAY, precision="fp32")
    pipe.first = digits_first()
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8).numpy()
    data = ArrayData("noise", images, torch.arange(64).numpy() % 3, ("a", "b", "c"))
    trainer = Trainer.of(
        changed(TINY, total_images=64), teacher=teacher_of(pipe, "relay", "single"), steps=2,
        material=Material(data, None, None), show=False,
    )  # fmt: skip
    trainer.run(tmp_path / "run")
    student = load_pipeline(find_checkpoint(tmp_path / "run"))
    assert student.process == RELAY
    assert student.first.sampler == pipe.first.sampler
    assert len(student(range(3))) == 3


def digits_first():
    network = awake(DiffiTUNet(replace(TINY_DIFFIT, resolution=4, widths=(8,), num_cells=(1,))))
    return DiffiTPipeline(network, Sampler(num_steps=2), precision="fp32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_steps": 12}, "12 steps can't be halved to 1"),
        ({"teacher_steps": 7, "steps": 2}, "7 steps can't be halved to 2.* 4 or 8 for example"),
        ({"teacher_steps": 1, "steps": 2}, "1 step can't be halved to 2.* 4 or 8 for example"),
        ({"teacher_steps": 4, "steps": 4}, "4 steps can't be halved to 4"),
        ({"teacher_steps": 0}, "teacher_steps"),
        ({"background": "no colour"}, "no colour"),
    ],
)
def test_settings_that_can_not_be(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_teachers_that_can_not_be(tmp_path):
    def of(pipe, **changes):
        pipe.save_pretrained(tmp_path / "teacher")
        return first_teacher(replace(TINY, teacher=str(tmp_path / "teacher"), **changes))

    pipe = digits_teacher()
    pipe.sampler = Sampler(num_steps=4, eta=0.5)
    with pytest.raises(OvertoneError, match=r"draws noise at each step.*--solver single"):
        of(pipe)
    assert not of(pipe, solver="single").sampler.draws_noise
    pipe = kinds_of_pipelines()["VP"]
    pipe.sampler = AncestralSampler(8)
    with pytest.raises(OvertoneError, match="draws noise at each step"):
        of(pipe)
    with pytest.raises(OvertoneError, match="pass --teacher MODEL"):
        first_teacher(TINY)
    pipe = digits_teacher()
    pipe.data = "builtin:glyphs"
    pipe.save_pretrained(tmp_path / "letters")
    recipe = replace(TINY, teacher=str(tmp_path / "letters"))
    with pytest.raises(OvertoneError, match=r"has 10 classes and .*glyphs.* has 26"):
        material_for(recipe, first_teacher(recipe), show=False)


def test_an_operator_is_no_teacher(tmp_path):
    from overtone.denoisers import OperatorPreconditioning
    from overtone.networks.dsno import temporalize

    pipe = digits_teacher()
    row = OperatorPreconditioning(pipe.preconditioning, 0.002)
    operator = Pipeline(
        temporalize(pipe.network, 2), OperatorSampler((80.0, 1.0, 0.0)), preconditioning=row
    )
    operator.save_pretrained(tmp_path / "operator")
    with pytest.raises(OvertoneError, match="is an operator: name the model"):
        first_teacher(replace(TINY, teacher=str(tmp_path / "operator")))


def test_commands_say_which_recipe_is_whose(capsys):
    for command, name, wanted in (
        (["train"], "halve-digits", "overtone distill halve halve-digits"),
        (["distill", "train"], "halve-digits", "overtone distill halve halve-digits"),
        (["distill", "halve"], "dsno-digits", "overtone distill train dsno-digits"),
        (["distill", "halve"], "diffit-digits", "overtone train diffit-digits"),
    ):
        with pytest.raises(SystemExit):
            main([*command, name])
        assert f"{wanted}." in capsys.readouterr().err
