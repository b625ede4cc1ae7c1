"""From one's own picture: a start at a noise level, and what a mask keeps."""

import copy
import dataclasses
from functools import partial
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from helpers import DIFFUSERS_MARKS, TINY_ADM, TINY_DIFFIT, TINY_TRANSFORMER, awake, tiny_vae
from overtone.cli.app import main
from overtone.denoisers import ADM_DIFFUSION, FlowPreconditioning
from overtone.denoisers.foreign import preconditioning_of
from overtone.errors import OvertoneError
from overtone.networks import ADMUNet, DiffiTTransformer, DiffiTUNet, temporalize
from overtone.pipelines import DSNOPipeline, ImageStart, Pipeline, merged
from overtone.pipelines.edit import strength_sigma
from overtone.pipelines.receipt_files import read_receipt
from overtone.processes import RelayProcess, SeededNoise
from overtone.samplers import AncestralSampler, OperatorSampler, Sampler, SchedulerSampler

PICTURES = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8))
LABELS = [0, 1, 2]
MASK = torch.zeros(8, 8, dtype=torch.bool)
MASK[:, :5] = True


def a_pipe(sampler=None, **parts):
    torch.manual_seed(0)
    network = awake(DiffiTUNet(TINY_DIFFIT))
    return Pipeline(network, sampler or Sampler(6), precision="fp32", **parts)


def a_relay():
    second = a_pipe(Sampler(4, sigma_max=0.9, sigma_min=0.01), process=RelayProcess(patch=2))
    torch.manual_seed(1)
    network = ADMUNet(dataclasses.replace(TINY_ADM, resolution=4, attention_resolutions=()))
    second.first = Pipeline(awake(network), Sampler(3))
    return second


def a_latent_pipe():
    torch.manual_seed(0)
    network = awake(DiffiTTransformer(TINY_TRANSFORMER))
    sampler = AncestralSampler(20)
    return Pipeline(network, sampler, preconditioning=ADM_DIFFUSION, vae=tiny_vae())


MODELS = {
    "edm": a_pipe,
    "flow": lambda: a_pipe(preconditioning=FlowPreconditioning()),
    "two_step": lambda: a_pipe(Sampler(6, estimate="two_step")),
    "churn": lambda: a_pipe(Sampler(6, S_churn=5.0)),
    "eta": lambda: a_pipe(Sampler(6, eta=0.3, estimate="single")),
    "ancestral": lambda: a_pipe(AncestralSampler(10), preconditioning=ADM_DIFFUSION),
    "ddim": lambda: a_pipe(
        SchedulerSampler(diffusers.DDIMScheduler(), 6), preconditioning=ADM_DIFFUSION
    ),
    "heun": lambda: a_pipe(
        SchedulerSampler(diffusers.HeunDiscreteScheduler(), 6), preconditioning=ADM_DIFFUSION
    ),
    "dpm": lambda: a_pipe(
        SchedulerSampler(diffusers.DPMSolverMultistepScheduler(), 6),
        preconditioning=ADM_DIFFUSION,
    ),
    "flow scheduler": lambda: a_pipe(
        SchedulerSampler(diffusers.FlowMatchEulerDiscreteScheduler(), 6, 80.0)
    ),
    "experts": lambda: merged([a_pipe(), a_pipe()], [1.0]),
    "relay": a_relay,
}

pytestmark = DIFFUSERS_MARKS


def arrays(pictures):
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize("name", MODELS)
def test_at_0_it_is_the_picture_at_1_it_is_sampling_between_it_is_neither(name):
    pipe = MODELS[name]()
    same = pipe.edit(PICTURES, 0.0, class_labels=LABELS)
    assert np.array_equal(arrays(same), PICTURES[:, 0].numpy())
    sampled = arrays(pipe(range(3), class_labels=LABELS))
    assert np.array_equal(arrays(pipe.edit(PICTURES, 1, class_labels=LABELS)), sampled)
    between = arrays(pipe.edit(PICTURES, 0.5, class_labels=LABELS))
    assert not np.array_equal(between, sampled)
    assert not np.array_equal(between, PICTURES[:, 0].numpy())
    # Each image is its own, whatever else is asked for with it.
    alone = arrays(pipe.edit(PICTURES[1:2], 0.5, class_labels=[1], seeds=[1]))
    assert np.abs(alone[0].astype(int) - between[1].astype(int)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("name", MODELS)
def test_kept_pixels_are_kept_exactly(name, strength):
    pipe = MODELS[name]()
    made = arrays(
        pipe.edit(PICTURES, strength, MASK, class_labels=LABELS, guidance_scale=1.5, batch_size=2)
    )
    mask = MASK.numpy()
    assert np.array_equal(made[:, mask], PICTURES[:, 0].numpy()[:, mask])
    assert not np.array_equal(made[:, ~mask], PICTURES[:, 0].numpy()[:, ~mask])
    if strength == 1.0:  # what is under the rest of the picture does not show
        other = PICTURES.clone()
        other[:, :, ~MASK] = 255 - other[:, :, ~MASK]
        again = arrays(
            pipe.edit(other, 1, MASK, class_labels=LABELS, guidance_scale=1.5, batch_size=2)
        )
        if name != "relay":  # whose blur of a patch sees all of it
            assert np.array_equal(made, again)


def test_latents_of_pictures(tmp_path):
    pipe = a_latent_pipe()
    pictures = [Image.fromarray(p) for p in np.random.default_rng(2).integers(
        0, 256, (2, 16, 16, 3), dtype=np.uint8)]  # fmt: skip
    same = pipe.edit(pictures, 0, class_labels=1)
    assert np.array_equal(arrays(same), arrays(pictures))
    mask = np.zeros((16, 16), bool)
    mask[:7] = True
    made = arrays(pipe.edit(pictures, 0.5, mask, class_labels=1))
    assert np.array_equal(made[:, mask], arrays(pictures)[:, mask])
    assert np.array_equal(
        arrays(pipe.edit(pictures, 1, class_labels=1)), arrays(pipe(range(2), class_labels=1))
    )
    # A row of latents is kept where both of its rows of pixels are: three of eight.
    start = ImageStart(torch.zeros(1, 3, 16, 16), 1.0, torch.from_numpy(mask)).joined(pipe)
    assert start.kept[0, 0].sum(dim=1).tolist() == [8, 8, 8, 0, 0, 0, 0, 0]
    bare = Pipeline(pipe.network, pipe.sampler, preconditioning=ADM_DIFFUSION, image_resolution=16)
    with pytest.raises(OvertoneError, match=r"the VAE|set pipe.vae"):
        bare.edit(torch.zeros(1, 4, 16, 16), 0.5, class_labels=1)


def test_it_begins_at_the_noise_level_with_the_picture():
    pipe = a_pipe(Sampler(6))
    levels = pipe.sampler.sigmas
    pipe.start = ImageStart(PICTURES, levels[3])
    begun = pipe.begin(range(3), class_labels=LABELS)
    x_0 = PICTURES / 127.5 - 1
    noise = SeededNoise(range(3)).normal(torch.empty(3, 1, 8, 8))
    assert torch.allclose(begun.start, x_0 + levels[3] * noise, atol=1e-6)
    steps = list(begun.steps)
    assert [step.sigma for step in steps] == list(levels[4:])
    # Between two levels it begins where it is asked to.
    pipe.start = ImageStart(PICTURES, 0.5 * (levels[2] + levels[3]))
    assert [s.sigma for s in pipe.path(range(3), class_labels=LABELS)] == list(levels[3:])
    assert pipe.made_with()["start"]["sigma"] == 0.5 * (levels[2] + levels[3])
    # Seed k begins with picture k modulo their number.
    pipe.start = ImageStart(PICTURES, levels[3])
    noise = SeededNoise([4]).normal(x_0[:1])
    begun = pipe.begin([4], class_labels=[1]).start
    assert torch.allclose(begun, x_0[1:2] + levels[3] * noise, atol=1e-6)


@pytest.mark.parametrize(
    "scheduler",
    [
        partial(diffusers.DDIMScheduler, clip_sample=False),
        diffusers.DPMSolverMultistepScheduler,
        diffusers.HeunDiscreteScheduler,
        diffusers.EulerDiscreteScheduler,
    ],
)
def test_schedulers_begin_as_diffusers_image_to_image_does(scheduler):
    pipe = a_pipe(preconditioning=preconditioning_of(scheduler()))
    pipe.sampler = SchedulerSampler(scheduler(), 10)
    own = pipe.sampler
    part = own.below(own.visited[6])
    assert part.visited == own.visited[6:]
    theirs, order = scheduler(), getattr(scheduler(), "order", 1)
    theirs.set_timesteps(10)
    theirs.set_begin_index(6 * order) if hasattr(theirs, "set_begin_index") else None
    x_0 = PICTURES / 127.5 - 1
    noise = SeededNoise(range(3)).normal(torch.empty(3, 1, 8, 8))
    times = theirs.timesteps[6 * order :]
    x = theirs.add_noise(x_0, noise, times[:1].expand(3).clone())
    network = pipe.network
    with torch.no_grad():
        for t in times:
            scaled = theirs.scale_model_input(x, t)
            x = theirs.step(network(scaled, t.expand(3).float(), torch.arange(3)), t, x).prev_sample
    pipe.start = ImageStart(PICTURES, own.visited[6])
    *_, last = pipe.path(range(3), class_labels=LABELS)
    assert float((last.x - x).abs().max() / x.abs().max()) < 2e-4


def an_operator():
    torch.manual_seed(0)
    network = temporalize(awake(DiffiTUNet(TINY_DIFFIT)))
    return DSNOPipeline(network, OperatorSampler((80.0, 5.0, 1.0, 0.0)))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (
            an_operator,
            {"strength": 0.5},
            "an operator has learned trajectories that begin at sigma 80",
        ),
        (an_operator, {"strength": 1.0, "mask": MASK}, "an operator makes an image in one"),
        (a_pipe, {"strength": -0.1}, r"strength is a number in \[0, 1\], not -0.1"),
        (a_pipe, {"strength": 1.1}, r"strength is a number in \[0, 1\], not 1.1"),
        (a_pipe, {"strength": float("nan")}, "strength is a number"),
        (a_pipe, {"strength": "much"}, "strength is a number"),
        (a_pipe, {"mask": torch.zeros(4, 4)}, r"the mask has the shape \(1, 4, 4\)"),
        (a_pipe, {"mask": torch.zeros(2, 8, 8)}, r"the mask has the shape \(2, 8, 8\)"),
        (a_pipe, {"mask": torch.full((8, 8), 0.5)}, "with nothing in between"),
        (a_pipe, {"mask": "all of it"}, "a mask is an array or a picture"),
        (a_pipe, {"mask": MASK, "resamples": 0}, "resamples must be from 1 to 1,000, not 0"),
        (a_pipe, {"mask": MASK, "resamples": 2000}, "resamples must be from 1 to 1,000, not 2000"),
        (a_pipe, {"class_labels": None}, "say what the images show"),
        (a_pipe, {"seeds": [1, 2]}, "2 seeds for 3 images"),
        (a_pipe, {"images": torch.zeros(1, 1, 16, 16)}, "the pictures are 16 x 16 px with 1"),
        (a_pipe, {"images": torch.zeros(1, 3, 8, 8)}, "8 x 8 px with 3 channels"),
        (a_pipe, {"images": []}, "all have one size, and these are none"),
        (
            a_relay,
            {"mask": MASK, "resamples": 3},
            "resampling adds noise to go back a step, and a RelayProcess blurs",
        ),
        (MODELS["ddim"], {"mask": MASK, "resamples": 3}, "a SchedulerSampler can't go back"),
        (
            lambda: a_pipe(SchedulerSampler(diffusers.PNDMScheduler(), 10)),
            {},
            "PNDMScheduler counts its steps from the first one",
        ),
    ],
)
def test_what_can_not_be_edited_is_said(make, arguments, message):
    asked = {"images": PICTURES, "class_labels": 1} | arguments
    with pytest.raises(OvertoneError, match=message):
        make().edit(**asked)


def test_masks_as_people_save_them():
    pipe, picture = a_pipe(Sampler(2)), Image.fromarray(PICTURES[0, 0].numpy())
    white = Image.fromarray((MASK * 255).byte().numpy())
    wanted = arrays(pipe.edit(picture, 1, white, class_labels=1, resamples=1))
    sixteen = Image.fromarray((MASK.numpy() * 65535).astype(np.uint16))
    dark = Image.fromarray(np.where(MASK.numpy(), 65535, 3000).astype(np.uint16))
    modes = [white.convert(mode) for mode in ("1", "RGB", "P", "RGBA")]
    for mask in (MASK, MASK.numpy(), *modes, sixteen, dark, MASK.double(), (MASK * 255).short()):
        made = arrays(pipe.edit(picture, 1, mask, class_labels=1, resamples=1))
        assert np.array_equal(made, wanted)
    numbers = Image.fromarray(MASK.byte().numpy())
    with pytest.raises(OvertoneError, match="its lightest place is 1 of 255"):
        pipe.edit(picture, 1, numbers, class_labels=1)
    white = Image.merge("LA", (white, white))
    with pytest.raises(OvertoneError, match="the mask is transparent in part"):
        pipe.edit(picture, 1, white, class_labels=1)


def test_numbers_of_other_libraries_and_pictures_of_other_kinds():
    pipe = a_pipe(Sampler(4))
    wanted = arrays(pipe.edit(PICTURES, 0.5, class_labels=1))
    pictures = [Image.fromarray(p[0].numpy()) for p in PICTURES]
    for images, strength in (
        (PICTURES.numpy(), np.float32(0.5)),
        (pictures, torch.tensor(0.5)),
        (tuple(pictures), 0.5),
    ):
        assert np.array_equal(arrays(pipe.edit(images, strength, class_labels=1)), wanted)
        pipe.start = ImageStart(images, float(pipe.sampler.visited[2]))
        assert np.array_equal(arrays(pipe(range(3), class_labels=1)), wanted)
        pipe = a_pipe(Sampler(4))
    frames = pipe.edit(PICTURES, 0.5, class_labels=1, return_trajectory=True)
    assert [len(row) for row in frames] == [2, 2, 2]
    frames = pipe.edit(PICTURES, 0, class_labels=1, return_trajectory=True)
    assert [len(row) for row in frames] == [1, 1, 1]


@pytest.mark.parametrize(
    ("steps", "strength", "taken"),
    [(25, 0.28, 7), (50, 0.14, 7), (100, 0.55, 55), (10, 0.01, 1), (10, 0.91, 10)],
)
def test_the_share_of_steps_is_exact(steps, strength, taken):
    sampler = Sampler(steps)
    sigma = strength_sigma(sampler, strength)
    assert len(sampler.visited if sigma is None else sampler.below(sigma).visited) == taken


def test_a_pipeline_that_begins_with_pictures_is_edited_as_another():
    pipe, plain = a_pipe(Sampler(3)), a_pipe(Sampler(3))
    pipe.start = ImageStart(PICTURES.flip(0), 1.0)
    for strength, mask in ((1, None), (1, MASK), (0.5, None)):
        asked = {"images": PICTURES, "strength": strength, "mask": mask, "class_labels": 1}
        assert np.array_equal(arrays(pipe.edit(**asked)), arrays(plain.edit(**asked)))


def test_an_operator_at_its_two_ends():
    pipe = an_operator()
    assert np.array_equal(arrays(pipe.edit(PICTURES, 0, class_labels=1)), PICTURES[:, 0].numpy())
    assert np.array_equal(
        arrays(pipe.edit(PICTURES, 1, class_labels=1)), arrays(pipe(range(3), class_labels=1))
    )


def test_where_it_begins_is_told():
    pipe = a_pipe(preconditioning=ADM_DIFFUSION)
    for scheduler in (diffusers.EulerDiscreteScheduler(), diffusers.DDIMScheduler()):
        pipe.sampler = SchedulerSampler(scheduler, 10)
        level = pipe.sampler.visited[5]
        pipe.start = ImageStart(PICTURES, level)
        assert pipe.begin([0], class_labels=[1]).sigma == pytest.approx(level)
        assert pipe.sampler.below(level).sigmas[0] == pytest.approx(level)


def test_pictures_are_encoded_once(monkeypatch):
    pipe, seen = a_latent_pipe(), []
    own = pipe.vae.latents
    monkeypatch.setattr(pipe.vae, "latents", lambda x: seen.append(len(x)) or own(x))
    pictures = torch.zeros(5, 3, 16, 16)
    pipe.edit(pictures, 0, class_labels=1)
    assert seen == []
    pipe.edit(pictures, 0.2, class_labels=1, batch_size=2)
    assert seen == [2, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": None}, OvertoneError, "pictures are Pillow's, or a tensor"),
        ({"images": 3}, OvertoneError, "not a int"),
        ({"images": "picture.png"}, OvertoneError, "not a str"),
        ({"images": [3]}, OvertoneError, "images are a tensor, or Pillow's"),
        (
            {"resamples": 2.0, "mask": MASK},
            OvertoneError,
            "resamples must be a whole number, not 2.0",
        ),
        (
            {"resamples": "2", "mask": MASK},
            OvertoneError,
            "resamples must be a whole number, not '2'",
        ),
        ({"mask": MASK * 1j}, OvertoneError, r"a mask is an array"),
        ({"generator": None}, TypeError, "'generator' is called 'seeds' here"),
        ({"num_inference_steps": 3}, TypeError, "'num_inference_steps' is called 'steps' here"),
        ({"resamples": 3}, OvertoneError, "resamples goes with a mask"),
        ({"images": np.zeros((2, 8, 8, 1))}, OvertoneError, "of pictures is .count, channels"),
        ({"images": np.zeros((2, 1, 8, 8), bool)}, OvertoneError, "is of numbers, not bool"),
        ({"images": PICTURES.bool()}, OvertoneError, "uint8 or in .-1, 1., not torch.bool"),
        ({"images": np.full((2, 1, 8, 8), 300, np.uint16)}, OvertoneError, r"in \[0, 255\]"),
        ({"strenght": 3}, TypeError, "there is no argument 'strenght'"),
    ],
)
def test_what_an_edit_does_not_take(arguments, error, message):
    with pytest.raises(error, match=message):
        a_pipe().edit(**({"images": PICTURES, "class_labels": 1} | arguments))


def test_numbers_of_a_start():
    for sigma in (np.float32(2.0), torch.tensor(2.0), 2):
        start = ImageStart(PICTURES, sigma, resamples=np.int64(3))
        assert (start.sigma, start.resamples) == (2.0, 3)
        pipe = a_pipe()
        pipe.start = start
        assert pipe.made_with()
        assert len(pipe([1], class_labels=1)) == 1
    for wrong in ("1", True, torch.ones(2)):
        with pytest.raises(ValueError, match=r"sigma must be a number, not ('1'|True|tensor)"):
            ImageStart(PICTURES, wrong)


def test_starts_that_are_none():
    for wrong in ({"sigma": 0.0}, {"sigma": float("inf")}, {"sigma": float("nan")}, {"jump": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ImageStart(PICTURES, **wrong)
    pipe = a_pipe()
    for start, message in (
        (ImageStart(), "give it images"),
        (ImageStart(PICTURES), "an ImageStart needs a sigma or a mask"),
    ):
        with pytest.raises(OvertoneError, match=message):
            pipe.start = start
    pipe.start = ImageStart(PICTURES, 500.0)
    with pytest.raises(OvertoneError, match=r"sigma 500 is not in \[0.002, 80\]"):
        pipe([1], class_labels=1)


def test_a_pipeline_that_begins_with_pictures_is_not_saved(tmp_path):
    pipe = a_pipe()
    pipe.start = ImageStart(PICTURES, 1.0)
    with pytest.raises(OvertoneError, match="pictures that a pipeline begins with can't be saved"):
        pipe.save_pretrained(tmp_path / "pipe")
    assert not list(tmp_path.iterdir())
    one, two = (copy.copy(pipe) for _ in range(2))
    one.start, two.start = ImageStart(PICTURES, 1.0), ImageStart(PICTURES.flip(0), 1.0)
    assert one.made_with() == pipe.made_with() != two.made_with()


def read(file):
    with Image.open(file) as image:
        return np.asarray(image)


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_pipe().save_pretrained("model")
    Image.fromarray(PICTURES[0, 0].numpy()).save("picture.png")
    Image.fromarray((MASK * 255).byte().numpy()).save("mask.png")
    Image.new("RGB", (20, 30), "red").save("big.png")
    main(["edit", "model", "picture.png", "--classes", "1", "--strength", "0"])
    assert np.array_equal(read("edited.png"), PICTURES[0, 0].numpy())
    masked = ["--mask", "mask.png", "--strength", "1", "--resamples", "2", "--out", "kept.png"]
    main(["edit", "model", "picture.png", "--classes", "1", "--steps", "4", "--guidance-scale", "2",
          *masked])  # fmt: skip
    made = read("kept.png")
    assert np.array_equal(made[MASK], PICTURES[0, 0].numpy()[MASK])
    main(["edit", "model", "big.png", "--fit", "--classes", "1", "--seeds", "0-3",
          "--sampler.num-steps", "3", "--out", "grid.png"])  # fmt: skip
    assert read("grid.png").shape == (8, 4 * 9 - 1)
    same = ["--classes", "1", "--seeds", "3", "--out"]
    for name, options in (
        ("plain", ["--guidance-scale", "2"]),
        ("high", ["--guidance-scale", "2", "--guidance-high-scale", "4"]),
        ("few", ["--guidance-scale", "2", "--evaluations", "6"]),
    ):
        main(["edit", "model", "picture.png", *same, f"{name}.png", *options])
    assert not np.array_equal(read("plain.png"), read("high.png"))
    assert not np.array_equal(read("plain.png"), read("few.png"))
    receipt = read_receipt(Path("few.png"))
    assert receipt.account["sampler"]["num_steps"] == 3
    capsys.readouterr()
    for arguments, message in (
        (["big.png", "--classes", "1"], "big.png is 20 x 30 px, and the model's images are 8 x 8"),
        (["nothing.png", "--classes", "1"], "nothing.png can't be read"),
        (["picture.png"], "say which the picture is of, --classes"),
        (["picture.png", "--classes", "1", "--mask", "big.png"], "big.png is 20 x 30 px"),
        (
            ["picture.png", "--classes", "1", "--strength", "2"],
            "--strength must be in [0, 1], not 2.0",
        ),
        (["picture.png", "--classes", "1", "--out", "a.jpg"], "--out is a .png file"),
    ):
        with pytest.raises(SystemExit):
            main(["edit", "model", *arguments])
        errors = capsys.readouterr().err
        assert message in errors
        assert len(errors.strip().splitlines()) <= 2
