"""The relay as a pipeline: both stages, what is saved, upscaling, training."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch.nn.functional import avg_pool2d, interpolate

from helpers import TINY_ADM, TINY_DIFFIT, TINY_TRANSFORMER, awake, tiny_vae
from overtone.data import ArrayData, to_pixels, to_unit
from overtone.denoisers import Denoiser, Estimate
from overtone.errors import OvertoneError
from overtone.networks import ADMUNet, DiffiTTransformer, DiffiTUNet
from overtone.pipelines import (
    DiffiTPipeline,
    LatentDiffiTPipeline,
    Pipeline,
    RelayPipeline,
    Request,
    evaluations_of,
    load_pipeline,
)
from overtone.pipelines.pictures import finished, to_pil
from overtone.processes import GaussianProcess, Process, QuantileSchedule, RelayProcess, SeededNoise
from overtone.samplers import AncestralSampler, Sampler

PROCESS = RelayProcess(patch=2, schedule=QuantileSchedule(prob_length=0.93))
SECOND = dataclasses.replace(TINY_ADM, resolution=16, attention_resolutions=(8,))


def second(**changes):
    network = awake(ADMUNet(dataclasses.replace(SECOND, **changes)))
    sampler = Sampler(num_steps=12, sigma_min=0.01, truncation_sigma=0.9, estimate="two_step")
    return RelayPipeline(network, sampler, process=PROCESS, precision="fp32")


@pytest.fixture
def pipe():
    torch.manual_seed(1)
    pipe = second()
    first = awake(DiffiTUNet(TINY_DIFFIT))
    pipe.first = DiffiTPipeline(first, Sampler(num_steps=4), precision="fp32")
    return pipe


def pixels(images):
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_the_second_stage_goes_on_from_the_first(pipe):
    """Against the two stages run by hand."""
    (*_, low) = pipe.first.path([3, 4], [0, 2])
    (*_, step) = pipe.path([3, 4], [0, 2])
    source = pipe.start.source([3, 4], pipe.resolution)
    upsampled = interpolate(low.x, scale_factor=2)
    start = upsampled + pipe.sampler.sigma_start * PROCESS.noise(upsampled, source)
    with torch.no_grad():
        expected = pipe.sampler(pipe.denoiser, PROCESS, start, source, torch.tensor([0, 2]))
    assert torch.allclose(step.x, expected, atol=1e-6)


def test_a_relay_goes_on_from_a_relay(pipe, tmp_path):
    """8 to 16 to 32 px: each stage goes on from the one before, with noise of its own."""
    pipe.sampler = dataclasses.replace(pipe.sampler, num_steps=3)
    third = second(resolution=32, attention_resolutions=(16,))
    third.first = pipe
    (*_, low) = pipe.path([3, 4], [0, 2])
    (*_, step) = third.path([3, 4], [0, 2])
    source = third.start.source([3, 4], third.resolution)
    upsampled = interpolate(low.x, scale_factor=2)
    start = upsampled + third.sampler.sigma_start * PROCESS.noise(upsampled, source)
    with torch.no_grad():
        expected = third.sampler(third.denoiser, PROCESS, start, source, torch.tensor([0, 2]))
    assert torch.allclose(step.x, expected, atol=1e-6)
    calls = []
    for stage in (third, pipe, pipe.first):
        stage.network.register_forward_hook(lambda *a: calls.append(1))
    third.save_pretrained(tmp_path / "third")
    images = pixels(third(seeds=[3, 4], class_labels=[0, 2]))
    assert evaluations_of(third, Request((3, 4))) == len(calls)
    again = load_pipeline(tmp_path / "third")
    for stage in (again, again.first, again.first.first):
        stage.precision = "fp32"
    assert np.array_equal(pixels(again(seeds=[3, 4], class_labels=[0, 2])), images)


def test_images_of_a_seed_are_the_same_in_any_batch(pipe):
    whole = pixels(pipe(seeds=range(6), batch_size=6))
    parts = pixels(pipe(seeds=range(6), batch_size=4))
    assert np.abs(whole - parts).max() <= 1
    assert whole.shape == (6, 16, 16)


def test_the_second_stage_s_noise_is_not_the_first_s(pipe):
    like = torch.empty(1, 1, 64, 64)
    first, other = (
        SeededNoise([5]).normal(like),
        pipe.start.source([5], pipe.resolution).normal(like),
    )
    correlation = (first * other).mean()
    assert abs(float(correlation)) < 5 / 64  # five standard errors


def test_upscaling_is_the_second_stage_on_given_images(pipe):
    low = torch.rand(3, 1, 8, 8) * 2 - 1
    expected = pixels(pipe.upscale(low, class_labels=1, seeds=[4, 9, 7]))
    pipe.first = lambda seeds, labels: low[[[4, 9, 7].index(seed) for seed in seeds]]
    assert np.array_equal(pixels(pipe([4, 9, 7], 1, batch_size=2)), expected)
    coarse = to_pixels(low)
    from_bytes = pixels(pipe.upscale(coarse, 1, [4, 9, 7]))
    assert np.array_equal(
        from_bytes, pixels(pipe.upscale([to_pil(i) for i in coarse], 1, [4, 9, 7]))
    )
    assert np.abs(from_bytes - expected).max() < 40  # but for what 256 levels lose


@pytest.mark.parametrize("kind", ["tensor", "folder", "function", "diffusers"])
def test_kinds_of_first_stage(kind, tmp_path):
    pipe = second(num_classes=0)
    low = (torch.rand(4, 1, 8, 8) * 255).byte()
    given = {"tensor": low, "function": lambda seeds, labels: to_unit(low[list(seeds)])}
    if kind == "folder":
        for i, image in enumerate(low):
            to_pil(image).save(tmp_path / f"{i}.png")
        given["folder"] = tmp_path
    if kind == "diffusers":
        from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

        unet = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            norm_num_groups=4,
            layers_per_block=1,
        )
        foreign = DDIMPipeline(unet, DDIMScheduler())
        foreign.set_progress_bar_config(disable=True)
        given["diffusers"] = foreign
    pipe.first = given[kind]
    images = pixels(pipe(range(4), batch_size=3))
    alone = pixels(pipe([3]))
    assert np.abs(images[3] - alone[0]).max() <= 1
    if kind != "diffusers":
        assert np.array_equal(images, pixels(pipe.upscale(low)))


def test_saved_with_its_first_stage(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "relay")
    again = load_pipeline(tmp_path / "relay")
    assert isinstance(again, RelayPipeline)
    assert isinstance(again.first, DiffiTPipeline)
    assert again.process == PROCESS
    again.precision = again.first.precision = "fp32"
    assert np.array_equal(pixels(again([0, 1])), pixels(pipe([0, 1])))
    pipe.first = None
    pipe.save_pretrained(tmp_path / "second")
    with pytest.raises(OvertoneError, match=r"goes on from images: set pipe.first"):
        load_pipeline(tmp_path / "second")([0])


def test_what_does_not_meet_is_told_of(pipe):
    pipe.class_names = ("c", "b", "a")
    for first, message in (
        (Pipeline(ADMUNet(SECOND)), "16 x 16 px, 2 times enlarged, are 32 x 32"),
        (
            Pipeline(ADMUNet(dataclasses.replace(TINY_ADM, channels=3))),
            "3 channels, and the second stage has 1",
        ),
        (
            Pipeline(ADMUNet(dataclasses.replace(TINY_ADM, num_classes=0))),
            "the first has 0, the second 3",
        ),
        (
            Pipeline(ADMUNet(TINY_ADM), class_names=("a", "b", "c")),
            "their classes have other names, or another order",
        ),
        (torch.zeros(8, 8), r"not of shape \(8, 8\)"),
        (3, "a pipeline, images, or a function, not a int"),
    ):
        with pytest.raises(OvertoneError, match=message):
            pipe.first = first
    low = torch.zeros(2, 1, 8, 8)
    with pytest.raises(OvertoneError, match="say what the images show"):
        pipe.upscale(low)
    with pytest.raises(OvertoneError, match="4 x 4 px, 2 times enlarged, are 8 x 8"):
        pipe.upscale(torch.zeros(1, 1, 4, 4), 0)
    grey = Image.new("L", (8, 8))
    for wrong, message in (
        ([], "these are none"),
        ([grey, Image.new("L", (9, 8))], "these are 8 x 8, 9 x 8"),
        ([low[0]], r"Image\.fromarray makes one"),
        ([Image.new("F", (8, 8))], "picture 0 can't be read .floating-point"),
        (low + 200, r"floating-point numbers are in \[-1, 1\]"),
    ):
        with pytest.raises(OvertoneError, match=message):
            pipe.upscale(wrong, 0)
    # Read as training images are: transparency on white, 16 bits scaled to 8.
    deep = Image.fromarray(np.full((8, 8), 20_000, np.uint16))
    for picture, value in ((Image.new("RGBA", (8, 8)), 255), (deep, 78)):
        one = torch.full((1, 1, 8, 8), value, dtype=torch.uint8)
        assert np.array_equal(pixels(pipe.upscale(picture, 0)), pixels(pipe.upscale(one, 0)))
    with pytest.raises(OvertoneError, match="3 seeds for 2 images"):
        pipe.upscale(low, 0, [1, 2, 3])
    with pytest.raises(OvertoneError, match="the model is unconditional"):
        second(num_classes=0).upscale(low, 0)
    with pytest.raises(OvertoneError, match=r"begins at sigma 80, and the process ends at 1.77"):
        RelayPipeline(ADMUNet(SECOND), Sampler(), process=PROCESS)
    with pytest.raises(OvertoneError, match="choose a sigma_max"):
        pipe.sampler = Sampler()
    with pytest.raises(OvertoneError, match="not a GaussianProcess"):
        RelayPipeline(ADMUNet(SECOND), process=GaussianProcess())
    with pytest.raises(OvertoneError, match="16 px do not divide into patches of 3"):
        RelayPipeline(ADMUNet(SECOND), process=RelayProcess(patch=3))


class LatentRelay(Process):
    """CogView3's (arXiv 2403.05121): a straight line from the latent to its low-resolution one.

    mean(z, sigma) = (1 - w) z + w up(down(z)),   w = sigma / sigma_end
    """

    sigma_end = 0.9

    def mean(self, x_0, sigma):
        share = torch.as_tensor(sigma).to(x_0) / self.sigma_end
        low = interpolate(avg_pool2d(x_0, 2), scale_factor=2)
        return torch.lerp(x_0, low, share.reshape(-1, 1, 1, 1))

    def noise(self, like, source):
        return source.normal(like)


@pytest.mark.parametrize(("estimate", "order"), [("single", 1), ("two_step", 2)])
def test_a_latent_relay_is_a_process_too(estimate, order):
    """The same sampler follows its flow, at the same orders."""

    class Diagonal(Denoiser):
        def forward(self, x, sigma, class_labels=None):
            low = interpolate(avg_pool2d(x, 2), scale_factor=2)
            share = 1 - sigma / LatentRelay.sigma_end
            # Of unit Gaussian latents each 2 x 2 mean, and what is left of it, has variance 1.
            rest = share / (share**2 + sigma**2) * (x - low)
            return Estimate(low / (1 + sigma**2) + rest)

    torch.manual_seed(0)
    start = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    low = interpolate(avg_pool2d(start, 2), scale_factor=2)
    end, last = LatentRelay.sigma_end, 0.02
    exact = low * ((1 + last**2) / (1 + end**2)) ** 0.5
    exact += (start - low) * (((1 - last / end) ** 2 + last**2) / end**2) ** 0.5
    errors = []
    for n in (128, 256):
        sampler = Sampler(num_steps=n, sigma_min=last, sigma_max=end, estimate=estimate)
        *_, before_last, _ = sampler.path(Diagonal(), LatentRelay(), start, SeededNoise([]))
        errors.append(float((before_last.x - exact).abs().max()))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("channels", [1, 3])
def test_finishes_are_the_published_ones(channels):
    """By Pillow, in the order of the published generators."""
    images = (torch.rand(2, channels, 8, 8) * 255).byte()

    def by_hand(*steps):
        made = []
        for image in images:
            picture = to_pil(image)
            for kind, factor in steps:
                picture = getattr(ImageEnhance, kind)(picture).enhance(factor)
            made.append(np.asarray(picture).reshape(8, 8, channels))
        return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)

    assert torch.equal(finished(images, "relay-imagenet"), by_hand(("Brightness", 1.06)))
    steps = ("Contrast", 0.9), ("Brightness", 1.05), ("Color", 0.99)
    assert torch.equal(finished(images, "relay-celebahq"), by_hand(*steps))
    with pytest.raises(OvertoneError, match="relay-celebahq"):
        finished(images, "relay-celeba")


def test_a_seed_may_come_twice_in_upscaling(pipe):
    low = torch.rand(3, 1, 8, 8) * 2 - 1
    apart = [pixels(pipe.upscale(image[None], 0, [7]))[0] for image in low]
    assert np.abs(pixels(pipe.upscale(low, 0, [7, 7, 7], batch_size=2)) - apart).max() <= 1


def test_classes_of_images_are_theirs_or_asked_for(tmp_path):
    pipe = second()
    pipe.first = torch.zeros(3, 1, 8, 8)
    with pytest.raises(OvertoneError, match="say what the images show"):
        pipe([0, 1])
    assert len(pipe([0, 1], 1)) == 2
    for name in ("c", "a", "b"):
        (tmp_path / name).mkdir()
        to_pil(torch.zeros(1, 8, 8).byte()).save(tmp_path / name / "x.png")
    pipe.first = tmp_path
    (batch,) = pipe.stream([2, 0, 4])
    assert batch.class_labels.tolist() == [2, 0, 1]  # by number: the model's have no names
    pipe.class_names = ("c", "b", "a")
    (batch,) = pipe.stream([2, 0, 4])
    assert batch.class_labels.tolist() == [0, 2, 1]
    (tmp_path / "a").rename(tmp_path / "d")
    pipe.first = tmp_path
    with pytest.raises(OvertoneError, match="say what the images show"):
        pipe([0, 1])


def test_a_picture_of_another_size_is_not_made_smaller_without_a_word(tmp_path, capsys):
    pipe = second()
    Image.new("L", (8, 8)).save(tmp_path / "right.png")
    pipe.first = tmp_path
    pipe([0], 1)
    assert capsys.readouterr().err == ""
    Image.new("L", (30, 20)).save(tmp_path / "large.png")
    pipe.first = tmp_path
    pipe([0], 1)
    said = capsys.readouterr().err
    assert "1 images of another size are cropped to squares and made 8 px" in said


def test_a_copy_has_a_first_stage_of_its_own(pipe):
    twin = pickle.loads(pickle.dumps(copy.deepcopy(pipe)))
    before = pixels(twin([0, 1], 1))
    with torch.no_grad():
        for parameter in pipe.first.network.parameters():
            parameter.zero_()
    assert np.array_equal(pixels(twin([0, 1], 1)), before)
    assert not np.array_equal(pixels(pipe([0, 1], 1)), before)


def test_whole_numbers_are_pixels_of_any_type(pipe):
    low = torch.randint(0, 256, (2, 1, 8, 8))
    expected = pixels(pipe.upscale(low.to(torch.uint8), 0))
    assert np.array_equal(pixels(pipe.upscale(low, 0)), expected)
    with pytest.raises(OvertoneError, match=r"whole numbers are in \[0, 255\]"):
        pipe.upscale(low - 300, 0)


def test_a_function_makes_as_many_images_as_it_is_asked_for(pipe):
    for made, said in ((torch.zeros(1, 1, 8, 8), r"a tensor \(1, 1, 8, 8\)"), ("images", "str")):
        pipe.first = lambda seeds, labels, made=made: made
        with pytest.raises(OvertoneError, match=f"the first stage made {said} for 2 seeds"):
            pipe([0, 1], 1)


def test_classes_of_images_are_read_without_the_images(tmp_path, monkeypatch):
    pipe = second()
    data = ArrayData("low", np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 1, 2, 1]), tuple("abc"))
    monkeypatch.setattr("overtone.pipelines.stages.open_data", lambda *_, **__: data)
    pipe.first = "low"
    monkeypatch.setattr(ArrayData, "fetch", lambda *_: pytest.fail("read"))
    assert pipe.labels(Request([0, 1, 2, 7])).tolist() == [0, 1, 2, 1]


def test_a_first_stage_keeps_its_precision(pipe):
    """A function is called without autocast and without gradients, whatever stands around it."""
    seen = []

    def first(seeds, labels):
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        return torch.zeros(len(seeds), 1, 8, 8)

    pipe.first, pipe.precision = first, "bf16"
    pipe([0, 1])
    assert seen == [(False, False)]


def test_a_relay_of_relays_draws_other_noise(pipe):
    larger = RelayPipeline(
        ADMUNet(dataclasses.replace(SECOND, resolution=32)), pipe.sampler, process=PROCESS
    )
    like = torch.empty(1, 1, 64, 64)
    noise = [p.start.source([5], p.resolution).normal(like) for p in (pipe, larger)]
    assert abs(float((noise[0] * noise[1]).mean())) < 5 / 64  # five standard errors


def test_a_latent_first_stage_is_decoded():
    vae = tiny_vae()
    latent = LatentDiffiTPipeline(
        awake(DiffiTTransformer(dataclasses.replace(TINY_TRANSFORMER, num_classes=0))),
        AncestralSampler(num_steps=3),
        vae=vae,
        precision="fp32",
    )
    config = dataclasses.replace(SECOND, resolution=32, channels=3, num_classes=0)
    pipe = RelayPipeline(ADMUNet(config), second().sampler, process=PROCESS, precision="fp32")
    pipe.first = latent
    assert pixels(pipe([0, 1])).shape == (2, 32, 32, 3)
