"""What is asked of a pipeline, and the one account of what its images depend on."""

import inspect
import json

import numpy as np
import pytest
import torch

from helpers import TINY_ADM, TINY_DIFFIT, awake, pixels
from overtone import settings
from overtone.cli.app import main
from overtone.denoisers import EDMPreconditioning, GuidanceSettings, OperatorPreconditioning
from overtone.errors import OvertoneError
from overtone.networks import ADMUNet, DiffiTUNet, temporalize
from overtone.pipelines import (
    DiffiTPipeline,
    DSNOPipeline,
    NoiseStart,
    Pipeline,
    RelayPipeline,
    RelayStart,
    Request,
    load_pipeline,
)
from overtone.processes import QuantileSchedule, RelayProcess
from overtone.samplers import OperatorSampler, Sampler

NAMES = ("cat", "dog", "emu")
PROCESS = RelayProcess(patch=2, schedule=QuantileSchedule(prob_length=0.93))


def a_pipe(**parts):
    torch.manual_seed(4)
    parts = {"class_names": NAMES, "precision": "fp32"} | parts
    return DiffiTPipeline(awake(DiffiTUNet(TINY_DIFFIT)), Sampler(num_steps=4), **parts)


def second_network():
    return awake(ADMUNet(settings.load(type(TINY_ADM), SECOND, "second")))


SECOND = settings.dump(TINY_ADM) | {"resolution": 16, "attention_resolutions": [8]}


@pytest.fixture
def relay():
    pipe = RelayPipeline(
        second_network(),
        Sampler(num_steps=6, sigma_min=0.01, truncation_sigma=0.9, eta=0.2),
        process=PROCESS,
        class_names=NAMES,
        precision="fp32",
    )
    pipe.first = a_pipe(guidance=GuidanceSettings(1.5))
    return pipe


@pytest.fixture
def distilled():
    """A relay whose second stage is an operator."""
    network = awake(temporalize(second_network(), 2))
    pipe = RelayPipeline(
        network,
        OperatorSampler((0.3, 0.1, 0.0)),
        preconditioning=OperatorPreconditioning(EDMPreconditioning()),
        process=PROCESS,
        class_names=NAMES,
        precision="fp32",
    )
    pipe.first = a_pipe()
    return pipe


def bytes_of(images):
    return [image.tobytes() for image in images]


def test_classes_by_name_and_by_number_one_or_many():
    pipe = a_pipe()
    expected = bytes_of(pipe([0, 1, 2], [1, 1, 1]))
    for labels in ("dog", 1, "1", ["dog"] * 3, ["dog", 1, "1"], torch.tensor(1), np.int64(1)):
        assert bytes_of(pipe([0, 1, 2], labels)) == expected, labels
    assert bytes_of(pipe([0, 1], ["emu", "cat"])) == bytes_of(pipe([0, 1], [2, 0]))
    for wrong, message in (
        ("dgo", "unknown class 'dgo': did you mean 'dog'"),
        (["dog", "dgo"], "unknown class 'dgo'"),
        ("7", "unknown class '7'"),
        (["dog", 0.5], "class labels are integers in 0..2, or class names"),
        (["dog"] * 3, "3 class labels for 2 seeds"),
    ):
        with pytest.raises(OvertoneError, match=message):
            pipe([0, 1], wrong)


@pytest.mark.parametrize("method", ["__call__", "stream", "path", "trajectory", "begin"])
def test_arguments_of_other_libraries_are_told_ours(method):
    pipe = a_pipe()
    ask = getattr(pipe, method)
    with pytest.raises(TypeError, match="'num_inference_steps' is called 'steps' here"):
        ask([0], num_inference_steps=4)
    with pytest.raises(TypeError, match="'generator' is called 'seeds' here"):
        ask(generator=torch.Generator())
    with pytest.raises(TypeError, match="stpes"):
        ask([0], stpes=4)
    names = list(inspect.signature(ask).parameters)
    assert names[:4] == ["seeds", "class_labels", "guidance_scale", "guidance_interval"]


def test_a_request_may_be_made_before_and_asked_of_several():
    pipe, request = a_pipe(), Request(range(3), "dog", guidance_scale=2.0, steps=3)
    expected = bytes_of(pipe(range(3), "dog", guidance_scale=2.0, steps=3))
    assert bytes_of(pipe(request)) == expected
    (batch,) = pipe.stream(request)
    assert batch.class_labels.tolist() == [1, 1, 1]
    assert len(list(pipe.path(request))) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "at least one image"),
        ({"batch_size": 2.5}, "at least one image"),
        ({"guidance_scale": "2"}, "guidance_scale is a number, not '2'"),
        ({"guidance_scale": (0.9, 0.0)}, "guidance_scale is a number"),
        ({"steps": "3"}, "steps is a whole number, not '3'"),
        ({"steps": 2.5}, "steps is a whole number"),
        ({"steps": True}, "steps is a whole number"),
        ({"guidance_interval": (1,)}, "two noise levels"),
        ({"guidance_interval": 1.0}, "two noise levels"),
        ({"guide": "model"}, "guide is a pipeline"),
        ({"times": 3}, "times are several numbers"),
        ({"seeds": "01"}, "seeds are several integers"),
    ],
)
def test_requests_that_nobody_could_answer(wrong, message):
    with pytest.raises(OvertoneError, match=message):
        Request(**{"seeds": [0]} | wrong)


def test_every_pipeline_has_trajectories(relay, distilled):
    """What an operator could do in 0.1.0 whatever begins and ends as it does can do."""
    for pipe, count in ((a_pipe(), 4), (relay, 2), (distilled, 2)):
        states = pipe.trajectory([3, 4], "dog")
        steps = list(pipe.path([3, 4], "dog"))
        assert states.shape[:2] == (2, count)
        assert torch.allclose(states[:, -1], steps[-1].x, atol=1e-5)
        frames = pipe([3, 4, 5], "dog", return_trajectory=True, batch_size=2)
        assert [len(row) for row in frames] == [count] * 3
        (alone,) = pipe([3], "dog")
        assert np.abs(np.asarray(frames[0][-1]).astype(int) - np.asarray(alone)).max() <= 1
    assert distilled.trajectory([3], "dog", times=(0.1, 0.05, 0.0)).shape[1] == 3
    with pytest.raises(OvertoneError, match="`times` is for operators"):
        relay([3], "dog", times=(0.1, 0.0))
    with pytest.raises(OvertoneError, match="no seeds, and so no trajectories"):
        relay.trajectory([])


def test_upscaling_needs_a_second_stage(distilled):
    low = torch.zeros(2, 1, 8, 8)
    assert len(distilled.upscale(low, "dog")) == 2
    assert len(distilled.upscale(low, "dog", return_trajectory=True)[0]) == 2
    with pytest.raises(OvertoneError, match="this model begins with noise"):
        a_pipe().upscale(low, "dog")


def test_starts_and_processes_belong_together(relay):
    with pytest.raises(OvertoneError, match="ends in images, not in noise"):
        relay.start = NoiseStart()
    with pytest.raises(OvertoneError, match="inverts a process that ends in images"):
        a_pipe().start = RelayStart()
    with pytest.raises(OvertoneError, match="inverts a process that ends in images"):
        a_pipe().first = torch.zeros(1, 1, 8, 8)
    with pytest.raises(OvertoneError, match="is an operator: its sampler is an OperatorSampler"):
        DSNOPipeline(temporalize(DiffiTUNet(TINY_DIFFIT)), Sampler())
    with pytest.raises(OvertoneError, match="its preconditioning is that of an operator"):
        Pipeline(temporalize(DiffiTUNet(TINY_DIFFIT)), OperatorSampler())
    with pytest.raises(OvertoneError, match="is not an operator: its preconditioning can't be"):
        Pipeline(DiffiTUNet(TINY_DIFFIT), preconditioning=OperatorPreconditioning())


def test_the_account_names_everything_an_image_depends_on(relay):
    """Whatever of it is changed changes the image, and nothing else is in it."""
    made = relay.made_with(Request([0], steps=8, guidance_scale=2.0))
    assert made["sampler"]["num_steps"] == 8
    assert made["guidance"]["scale"] == 2.0
    first = made["start"]["first_stage"]
    assert first["sampler"]["num_steps"] == 4
    assert first["guidance"]["scale"] == 1.5
    assert first["weights"] != made["weights"]
    assert made == relay.made_with(Request([5, 6], "dog", 2.0, steps=8, batch_size=2))
    assert json.loads(json.dumps(made)) == made
    before = relay.made_with()
    changes = (
        lambda: setattr(relay.first, "sampler", Sampler(num_steps=5)),
        lambda: setattr(relay.first, "guidance", GuidanceSettings(2.0)),
        lambda: setattr(relay, "guidance", GuidanceSettings(1.5, interval=(0.1, 1.0))),
        lambda: setattr(relay, "precision", "bf16"),
        lambda: next(relay.first.network.parameters()).data.add_(0.1),
        lambda: setattr(relay, "first", torch.zeros(2, 1, 8, 8)),
    )
    seen = [before]
    for change in changes:
        change()
        seen.append(relay.made_with())
        assert seen[-1] not in seen[:-1]
    weaker = a_pipe()
    guided = a_pipe().made_with(Request([0], guidance_scale=2.0, guide=weaker))
    assert guided["guide"]["weights"] == weaker.made_with()["weights"]


def test_reports_and_cards_write_the_account(relay, tmp_path, monkeypatch, capsys):
    """A relay's report says what its first stage was sampled with, and a scale once."""
    from overtone.data import ArrayData
    from overtone.metrics import Evaluation
    from overtone.metrics.features import Extractor, Features

    class Means(Extractor):
        name, digest, dims = "means", "0", 1

        def __call__(self, pixels):
            return Features(pixels.float().mean(dim=(2, 3)), None)

    real = ArrayData("real", np.arange(40 * 256, dtype=np.uint8).reshape(40, 1, 16, 16))
    monkeypatch.setattr(
        "overtone.cli.evaluate.Judging.evaluation",
        lambda self, *arguments, **named: Evaluation(Means(), real, limit=40),
    )
    relay.save_pretrained(tmp_path / "relay")
    main(["evaluate", str(tmp_path / "relay"), "--seeds", "0-7", "--data", "x",
          "--guidance-scale", "2", "--steps", "8", "--first-stage.steps", "3",
          "--first-stage.guidance-scale", "3", "--sampler.estimate", "ddim"])  # fmt: skip
    made = json.loads(capsys.readouterr().out)["made_with"]
    assert made["sampler"]["num_steps"] == 8
    assert made["sampler"]["estimate"] == "single"
    assert made["start"]["first_stage"]["sampler"]["num_steps"] == 3
    assert made["start"]["first_stage"]["guidance"]["scale"] == 3.0
    assert [made["guidance"]["scale"], "guidance_scale" in made] == [2.0, False]
    card = (tmp_path / "relay" / "README.md").read_text()
    written = json.loads(card.split("```json")[1].split("```")[0])
    account = load_pipeline(tmp_path / "relay").made_with()
    for part in ("network", "preconditioning", "process", "sampler", "guidance"):
        assert written[part] == account[part]
        first = account["start"]["first_stage"]
        assert written["start"]["first_stage"][part] == first[part]


@pytest.mark.parametrize(
    ("options", "change"),
    [
        (["--sampler.num-steps", "7"], {"num_steps": 7}),
        (["--sampler.estimate", "dpmpp_2m"], {"estimate": "two_step"}),
        (["--sampler.eta", "0.5"], {"eta": 0.5}),
        (["--sampler.rho", "3"], {"rho": 3.0}),
        (["--sampler.sigma-min", "0.1", "--sampler.sigma-max", "20"],
         {"sigma_min": 0.1, "sigma_max": 20.0}),
        (["--sampler.levels", "9", "3", "1", "0.1"], {"levels": (9.0, 3.0, 1.0, 0.1)}),
    ],
)  # fmt: skip
def test_every_setting_of_the_sampler_is_an_option(tmp_path, options, change):
    import dataclasses

    pipe = a_pipe()
    pipe.save_pretrained(tmp_path / "model")
    main(["sample", str(tmp_path / "model"), "--seeds", "0-8", "--out", f"{tmp_path}/a.png",
          *options])  # fmt: skip
    pipe.sampler = dataclasses.replace(pipe.sampler, **change)
    pipe.save_pretrained(tmp_path / "changed")
    main(["sample", str(tmp_path / "changed"), "--seeds", "0-8", "--out", f"{tmp_path}/b.png"])
    assert pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")


def test_a_first_stage_s_settings_are_options(relay, tmp_path):
    relay.save_pretrained(tmp_path / "relay")
    main(["sample", str(tmp_path / "relay"), "--seeds", "0-3", "--out", f"{tmp_path}/a.png",
          "--first-stage.sampler.num-steps", "6", "--first-stage.guidance-scale", "3",
          "--first-stage.sampler.estimate", "heun"])  # fmt: skip
    relay.first.sampler = Sampler(num_steps=6)
    relay.first.guidance = GuidanceSettings(3.0)
    relay.save_pretrained(tmp_path / "changed")
    main(["sample", str(tmp_path / "changed"), "--seeds", "0-3", "--out", f"{tmp_path}/b.png"])
    assert pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--first-stage.steps", "3"],
            "--first-stage: this model has no first stage that is a model",
        ),
        (["--sampler.eta", "7"], "eta must be in [0, 1], not 7.0"),
        (["--sampler.sigma-max", "-1"], "sigma_max must be above 0, not -1.0"),
        (["--sampler.estimate", "rk45"], "invalid choice 'rk45'"),
        (["--sampler.schedule.betas", "linear"], "Unrecognized options"),
    ],
)
def test_settings_that_a_model_s_sampler_has_not(tmp_path, capsys, options, message):
    a_pipe().save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit):
        main(["sample", str(tmp_path / "model"), *options, "--out", f"{tmp_path}/a.png"])
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_first_stage_given_with_an_equals_sign_keeps_its_own_sampler(relay, tmp_path):
    relay.save_pretrained(tmp_path / "relay")
    other = a_pipe(guidance=GuidanceSettings(1.5))
    other.sampler = Sampler(num_steps=7, sigma_max=50.0)
    other.save_pretrained(tmp_path / "other")
    pictures = []
    for given in ([f"--first={tmp_path}/other"], ["--first", f"{tmp_path}/other"]):
        main(["sample", f"{tmp_path}/relay", "--seeds", "0-3", "--out", f"{tmp_path}/a.png",
              *given])  # fmt: skip
        pictures.append(pixels(tmp_path / "a.png"))
    relay.first = other
    relay.save_pretrained(tmp_path / "wanted")
    main(["sample", f"{tmp_path}/wanted", "--seeds", "0-3", "--out", f"{tmp_path}/a.png"])
    assert pictures == [pixels(tmp_path / "a.png")] * 2


def test_parts_are_checked_when_they_are_set(relay):
    pipe = a_pipe()
    for name in ("network", "preconditioning", "process"):
        with pytest.raises(AttributeError):
            setattr(pipe, name, getattr(relay, name))
    with pytest.raises(OvertoneError, match="not an operator"):
        pipe.sampler = OperatorSampler()
    with pytest.raises(OvertoneError, match="begins at sigma"):
        relay.sampler = Sampler()
    with pytest.raises(OvertoneError, match="guidance acts on channels"):
        pipe.guidance = GuidanceSettings(2.0, channels=(7,))
    pipe.precision = "fp16"
    with pytest.raises(OvertoneError, match="precision is auto, bf16 or fp32"):
        pipe(seeds=[0])


def test_the_account_tells_first_stages_apart(relay):
    images = torch.zeros(4, 1, 8, 8), torch.ones(4, 1, 8, 8)
    accounts = []
    for first in (*images, lambda seeds, labels: torch.zeros(len(seeds), 1, 8, 8)):
        relay.first = first
        accounts.append(json.dumps(relay.made_with()))
    assert len(set(accounts)) == 3


def test_numbers_of_numpy_are_python_s_in_the_account():
    request = Request([0], guidance_scale=np.float32(1.5), steps=np.int64(3),
                      guidance_interval=(np.float32(0.5), 2))  # fmt: skip
    made = json.loads(json.dumps(a_pipe().made_with(request)))
    assert [made["guidance"]["scale"], made["sampler"]["num_steps"]] == [1.5, 3]


def test_what_a_first_stage_makes_is_looked_at(relay):
    relay.first = lambda seeds, labels: torch.full((len(seeds), 1, 8, 8), float("nan"))
    with pytest.raises(OvertoneError, match="first stage made images that are not finite"):
        relay(seeds=[0])
    grey = torch.full((1, 1, 8, 8), 200, dtype=torch.uint8)
    pictures = []
    for low in (grey, grey.float() / 127.5 - 1):
        relay.first = lambda seeds, labels, low=low: low
        pictures.append(np.asarray(relay(seeds=[0])[0]))
    assert np.array_equal(*pictures)


def test_the_model_comes_first(tmp_path, capsys):
    a_pipe().save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit):
        main(["sample", "--seeds", "0-3", str(tmp_path / "model")])
    assert "the model comes first: overtone sample MODEL [options]" in capsys.readouterr().err


def test_what_would_do_nothing_is_refused(relay, tmp_path, capsys):
    for method, argument in (
        ("path", "batch_size"),
        ("begin", "return_trajectory"),
        ("trajectory", "batch_size"),
        ("stream", "return_trajectory"),
    ):
        with pytest.raises(TypeError, match=f"{method} takes no '{argument}'"):
            getattr(relay, method)([0], **{argument: 2})
    with pytest.raises(TypeError, match="path takes no 'batch_size'"):  # by its place, too
        relay.path([0], None, None, None, None, 8)
    with pytest.raises(OvertoneError, match="does nothing at the model's guidance scale, 1"):
        relay([0], guidance_interval=(0.1, 1.0))
    model = str(tmp_path / "model")
    relay.save_pretrained(model)
    images = tmp_path / "images"
    images.mkdir()
    relay([0])[0].save(images / "0.png")
    for arguments, message in (
        (["evaluate", str(images), "--data", "builtin:digits", "--resolution", "8", "--steps", "3",
          "--vae", "x"], "--steps, --vae: "),
        (["evaluate", str(images), "--data", "builtin:digits", "--resolution", "8",
          "--first-stage.steps", "3"], "--first-stage: "),
        (["evaluate", str(images), "--data", "builtin:digits", "--resolution", "8",
          "--channels", "0"], "--channels must be from 1 to 3, not 0"),
        (["evaluate", model, "--resolution", "8"], "--resolution and --channels are those of a"),
        (["analyze", "guidance", model, "--guidance-scale", "2"], "--scales has the scales of"),
        (["distill", "train", "dsno-digits", "--online", "--data", str(tmp_path)],
         "--data names trajectories, and with --online they are solved in training"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err, arguments
