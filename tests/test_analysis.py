"""Spectra, Fourier layers, attention maps and figures: closed forms and planted signals."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.nn.functional import interpolate

from helpers import TINY_ADM, awake, tiny_networks
from overtone.analysis.fourier import (
    BINS,
    blocks_of,
    log_amplitude,
    relative_log_amplitude,
    watched,
)
from overtone.analysis.spectra import signal_to_noise
from overtone.analysis.trajectories import TemporalSpectrum, compared, temporal_energy
from overtone.cli.app import main
from overtone.denoisers import EDMPreconditioning, OperatorPreconditioning
from overtone.networks import ADMUNet, temporalize
from overtone.networks.attention import SelfAttention
from overtone.pipelines import DSNOPipeline, MEMEPipeline, Pipeline
from overtone.processes import RelayProcess, SeededNoise
from overtone.processes.patches import block_noise, dct_matrix
from overtone.samplers import OperatorSampler, Sampler
from overtone.training.teacher import teacher_of


def bytes_of(images):
    return (images.clamp(-1, 1) * 127.5 + 127.5).round().byte()


def measured(noise):
    """Power in each band of the DCT, from samples."""
    dct = dct_matrix(noise.shape[-1]).float()
    power = (dct @ noise @ dct.T).square().mean((0, 1))
    i = torch.arange(len(power))
    band = (i[:, None] ** 2 + i**2).double().sqrt().floor()
    return torch.stack([power[band == b].sum() for b in range(len(power))])


def test_the_ratios_are_those_of_sampled_noise():
    """The power of each band over 500 noise images and some hundred coefficients; the lowest band,
    a single coefficient, within four standard errors, sqrt(2 / 500) each."""
    images = bytes_of(torch.randn(20, 1, 16, 16) * 0.3)
    ratios = signal_to_noise(images.split(7), 4)
    signal = measured(images.float() / 127.5 - 1)
    white = torch.randn(500, 1, 16, 16)
    low = interpolate(torch.randn(500, 1, 4, 4), scale_factor=4)
    process = RelayProcess(patch=4, block_scale=0.5)
    mixture = process.noise(white, SeededNoise(range(500)))
    ratios = signal_to_noise(images.split(7), 4, block_scale=0.5)
    for ratio, noise in (
        (ratios.white, white),
        (ratios.block, block_noise(white, 4)),
        (ratios.mixture, mixture),
    ):
        found = signal / measured(noise)
        assert torch.allclose(ratio.float(), found, rtol=0.25)
        assert torch.allclose(ratio[5:].float(), found[5:], rtol=0.05)
    enlarged = interpolate(
        torch.nn.functional.avg_pool2d(images.float() / 127.5 - 1, 4), scale_factor=4
    )
    assert torch.allclose(ratios.low.float(), measured(enlarged) / measured(low), rtol=0.25)


def test_block_noise_is_to_the_enlarged_image_what_white_noise_is_to_the_small():
    """Of images that are constant in blocks all signal is the small image's: white noise leaves
    factor^2 as high a ratio in its mean, block noise the same."""
    images = bytes_of(interpolate(torch.randn(50, 3, 8, 8) * 0.3, scale_factor=4))
    ratios = signal_to_noise([images], 4)
    assert float(ratios.white[0] / ratios.low[0]) == pytest.approx(16, rel=1e-6)
    assert float(ratios.block[0] / ratios.low[0]) == pytest.approx(1, rel=1e-6)
    assert torch.all(ratios.white[:4] / ratios.low[:4] > 13)
    assert torch.all((ratios.block[:4] / ratios.low[:4] - 1).abs() < 0.3)


def test_snr_draws_a_figure_and_writes_its_data(tmp_path, capsys):
    out = tmp_path / "snr.png"
    command = ["analyze", "snr", "builtin:glyphs", "--resolution", "32", "--images", "100"]
    main([*command, "--sigma", "2", "--out", str(out)])
    assert out.read_bytes()[:4] == b"\x89PNG"
    data = json.loads(out.with_suffix(".json").read_text())
    assert len(data["white"]) == 32
    assert data["images"] == 100
    assert "times with block noise" in capsys.readouterr().out
    # At a share of 0 the mixture is white noise, at a large one block noise.
    main([*command, "--block-scale", "0", "--out", str(out)])
    data = json.loads(out.with_suffix(".json").read_text())
    assert data["mixture"] == pytest.approx(data["white"])


@pytest.mark.parametrize(
    ("images", "message"),
    [([torch.zeros(1, 1, 6, 6).byte()], "divides by 4"), ([], "no images")],
)
def test_bad_images_are_told_of(images, message):
    with pytest.raises(ValueError, match=message):
        signal_to_noise(images, 4)


def test_bad_options_are_told_of(tmp_path):
    for wrong in (
        ["--sigma", "0"],
        ["--factor", "1"],
        ["--block-scale", "-1"],
        ["--out", "x.jpg"],
        ["--resolution", "30"],
        ["--resolution", "16", "--factor", "16"],
    ):
        with pytest.raises(SystemExit):
            main(["analyze", "snr", "builtin:glyphs", "--images", "10", *wrong])


def field(amplitude, height, width, count=3):
    """Real fields whose Fourier coefficients have exactly the given amplitude at each radius."""
    spectrum = torch.fft.fft2(torch.randn(count, 2, height, width, dtype=torch.float64))
    k, m = (torch.fft.fftfreq(size).abs() * 2 for size in (height, width))
    rings = min(height, width) // 2
    ring = ((k[:, None] ** 2 + m**2).sqrt() * rings).round().clamp(1, rings)
    ring[0, 0] = 0
    return torch.fft.ifft2(spectrum / spectrum.abs() * amplitude(ring / rings)).real


@pytest.mark.parametrize(
    ("height", "width"), [(8, 8), (9, 9), (32, 32), (16, 32), (12, 9), (8, 64)]
)
def test_the_log_amplitude_of_a_field_of_known_spectrum(height, width):
    torch.manual_seed(0)
    falling = field(lambda f: math.sqrt(height * width) * torch.exp(-3 * f), height, width)
    # norm="ortho" divides by sqrt(H W); between rings curves are interpolated linearly.
    curve = log_amplitude(falling)
    assert torch.allclose(curve, torch.linspace(0, -3, BINS + 1).double(), atol=2e-5)
    constant = relative_log_amplitude(field(lambda f: torch.full_like(f, 7.0), height, width))
    assert torch.allclose(constant, torch.zeros(BINS + 1).double(), atol=2e-5)
    # A constant added changes the mean alone, which is the first ring.
    first = 1 / (min(height, width) // 2)
    others = torch.linspace(0, 1, BINS + 1) >= first - 1e-6
    moved = log_amplitude(falling + 100) - curve
    assert moved[0] > 1
    assert torch.allclose(moved[others], torch.zeros_like(moved[others]), atol=2e-3)


def test_a_blur_lowers_the_spectrum_by_its_transfer_function():
    """Convolution: log |F| falls by log |H|, here of (1, 2, 1) / 4 along each axis, circular."""
    torch.manual_seed(0)
    size = 32
    x = torch.randn(8, 4, size, size)
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (line[:, None] * line).expand(4, 1, 3, 3)
    blurred = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), kernel, groups=4)
    k = torch.fft.fftfreq(size, dtype=torch.float64)
    transfer = torch.cos(math.pi * k) ** 2
    transfer = (transfer[:, None] * transfer).clamp(min=1e-12)
    radius = ((2 * k[:, None]) ** 2 + (2 * k) ** 2).sqrt()
    difference = log_amplitude(blurred) - log_amplitude(x)
    for bin in range(BINS - 1):  # the last rings hold coefficients that vanish
        ring = (radius * (size // 2)).round() == bin
        assert float(difference[bin]) == pytest.approx(float(transfer[ring].log().mean()), abs=1e-4)


def test_attention_lowers_high_frequencies_and_convolution_need_not():
    """Uniform attention leaves the mean alone; a Laplacian convolution takes it away."""
    torch.manual_seed(0)
    x = torch.randn(4, 8, 16, 16) + 1
    attention = SelfAttention(8, heads=2)
    with torch.no_grad():
        attention.qkv.weight[:16] = 0  # all queries and keys alike: each token gets the mean
        attention.qkv.bias[:16] = 0
        torch.nn.init.eye_(attention.proj.weight)
        averaged = attention(x) - x
    assert relative_log_amplitude(averaged)[2:].max() < -10  # the second is between two rings
    laplace = torch.tensor([[0.0, -1, 0], [-1, 4.01, -1], [0, -1, 0]]).expand(8, 1, 3, 3)
    edges = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), laplace, groups=8)
    curve = relative_log_amplitude(edges)
    assert (curve.diff() > 0).double().mean() > 0.8
    assert curve[-1] > 2


@pytest.mark.parametrize("network", tiny_networks(), ids=lambda n: type(n).__name__)
def test_watching_leaves_the_model_as_it_was(network):
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.3])
    with torch.no_grad():
        before = network.eval()(x, time)
        with watched(network) as curves:
            during = network(x, time)
        after = network(x, time)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert not any(module._forward_hooks for module in network.modules())
    assert len(curves) == len(blocks_of(network)) > 1
    assert all(len(curve) == BINS + 1 and curve[0] == 0 for curve in curves.values())
    with pytest.raises(RuntimeError), watched(network):
        network(torch.randn(2, 3, 8, 8), time)
    assert not any(module._forward_hooks for module in network.modules())


def test_the_spectrum_of_experts_and_of_a_diffusers_pipeline(tmp_path, capsys):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    networks = [ADMUNet(TINY_ADM), ADMUNet(TINY_ADM)]
    pipes = [Pipeline(network, Sampler(num_steps=6)) for network in networks]
    MEMEPipeline.merged(pipes, (1.0,)).save_pretrained(tmp_path / "experts")
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(8, 8), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    for model in ("experts", "ddpm"):
        out = tmp_path / f"{model}.png"
        main(["analyze", "spectrum", str(tmp_path / model), "--seeds", "0-3", "--out", str(out)])
        with Image.open(out) as figure:
            assert figure.width > 1000
        found = json.loads(out.with_suffix(".json").read_text())
        rows = out.with_suffix(".csv").read_text().splitlines()
        assert len(rows) == 1 + sum(1 + len(layers) for layers in found["features"])
        if model == "experts":
            assert sorted(set(found["experts"])) == [1, 2]
        else:
            assert any("resnets" in layer for layer in found["layers"])


def test_temporal_energy_is_that_of_known_waves():
    t = torch.arange(8) / 8
    waves = 3.0 + 2.0 * torch.cos(2 * math.pi * t) + 1.0 * torch.sin(2 * math.pi * 3 * t)
    states = waves[None, :, None, None, None].expand(2, 8, 1, 2, 2)
    energy = temporal_energy(states)
    total = 9 + 4 / 2 + 1 / 2  # mean squares
    expected = torch.tensor([9, 2, 0, 0.5, 0], dtype=torch.float64) / total
    torch.testing.assert_close(energy, expected, rtol=1e-6, atol=1e-9)
    odd = torch.randn(3, 7, 1, 4, 4)
    assert float(temporal_energy(odd).sum()) == pytest.approx(1.0)
    highest = torch.tensor([1.0, -1.0]).repeat(4)[None, :, None, None, None]
    assert temporal_energy(highest).tolist() == pytest.approx([0, 0, 0, 0, 1])


def test_a_spectrum_says_how_many_modes_are_wanted():
    spectrum = TemporalSpectrum("uniform", 8, [0.85, 0.1, 0.03, 0.015, 0.005])
    assert [spectrum.modes(share) for share in (0.8, 0.9, 0.99)] == [1, 2, 4]
    assert spectrum.words() == (
        "uniform times: 90% of the energy in 2 modes (--modes 2 --num-times 3 or more),"
        " 99% of the energy in 4 modes (--modes 4 --num-times 7 or more)"
    )


def test_a_teachers_spectrum_from_the_command_line(tmp_path, capsys):
    network = ADMUNet(TINY_ADM)
    Pipeline(network, Sampler(num_steps=4)).save_pretrained(tmp_path / "model")
    out = tmp_path / "figure.png"
    main(["analyze", "trajectory", str(tmp_path / "model"), "--times", "6", "--out", str(out)])
    said = capsys.readouterr().out
    assert "uniform times: 90% of the energy in" in said
    assert "quad times: " in said
    data = json.loads(out.with_suffix(".json").read_text())
    assert len(data["quad"]["energy"]) == 4
    assert data["uniform"]["cumulative"][-1] == pytest.approx(1.0)
    with Image.open(out) as figure:
        assert figure.size[0] > 800


def test_an_operator_beside_its_solver(tmp_path, capsys):
    """An operator with its teacher's weights and no temporal layers yet: what it returns, and how
    far that is from the solver's states, is known."""
    pipe = Pipeline(awake(ADMUNet(TINY_ADM)), Sampler(num_steps=4), precision="fp32")
    pipe.save_pretrained(tmp_path / "teacher")
    teacher = teacher_of(pipe, "teacher")
    operator = DSNOPipeline(
        temporalize(pipe.network),
        OperatorSampler(tuple(pipe.sampler.sigmas)),
        preconditioning=OperatorPreconditioning(EDMPreconditioning()),
        precision="fp32",
        training={"distilled from": "teacher"},
    )
    both = compared(operator, teacher, [3, 4])
    for place, step in enumerate(pipe.path([3, 4])):
        scale = (1 + step.sigma**2) ** -0.5
        torch.testing.assert_close(both.solver[:, place], step.x * scale)
        difference = both.operator[:, place] - step.x * scale
        relative = difference.square().mean().sqrt() / (step.x * scale).square().mean().sqrt()
        assert both.errors[place] == pytest.approx(float(relative), rel=1e-4)
    operator.save_pretrained(tmp_path / "operator")
    out = tmp_path / "figure.png"
    command = ["analyze", "trajectory", str(tmp_path / "operator"), "--out", str(out)]
    main([*command, "--teacher", str(tmp_path / "teacher")])
    assert f"{out}: the relative error of the operator's images " in capsys.readouterr().out
    assert json.loads(out.with_suffix(".json").read_text())["sigmas"][-1] == 0
    for more, message in (
        ([], "is an operator: name the model that it was distilled from (teacher), --teacher"),
        (["--teacher", str(tmp_path / "teacher"), "--steps", "6"], "passes other noise levels"),
    ):
        with pytest.raises(SystemExit):
            main([*command, *more])
        assert message in " ".join(capsys.readouterr().err.split())
