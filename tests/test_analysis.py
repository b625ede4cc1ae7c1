import json

import pytest
import torch
from torch.nn.functional import interpolate

from overtone.analysis.spectra import signal_to_noise
from overtone.cli.app import main
from overtone.processes.relay import block_noise, dct_matrix


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
    for ratio, noise in ((ratios.white, white), (ratios.block, block_noise(white, 4))):
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


@pytest.mark.parametrize(
    ("images", "message"),
    [([torch.zeros(1, 1, 6, 6).byte()], "divides by 4"), ([], "no images")],
)
def test_bad_images_are_told_of(images, message):
    with pytest.raises(ValueError, match=message):
        signal_to_noise(images, 4)


def test_bad_options_are_told_of(tmp_path):
    for wrong in (["--sigma", "0"], ["--factor", "1"], ["--out", "x.jpg"], ["--resolution", "30"]):
        with pytest.raises(SystemExit):
            main(["analyze", "snr", "builtin:glyphs", "--images", "10", *wrong])
