"""The IUNet, and the Inception mixers and cells that it is made of, against the published ones."""

import dataclasses
import math

import pytest
import torch

from helpers import TINY_IUNET, Golden, awake, deviation
from overtone.convert import from_published
from overtone.errors import OvertoneError
from overtone.networks import ADMConfig, ADMUNet, IUNet, IUNetConfig
from overtone.networks.configs.iunet import RATIOS, inception_heads, ratio
from overtone.networks.inception import InceptionCell, InceptionMixer
from overtone.networks.network import multiply_adds


@pytest.mark.parametrize("name", ["mixer_pool1", "mixer_pool2", "block"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_published_inception_outputs(name, layout):
    golden = Golden(f"iformer_{name}")
    module = from_published(f"iformer-{name.split('_')[0]}", golden.state, golden.config)
    module.to(memory_format=layout)
    x = golden["in"].permute(0, 3, 1, 2).contiguous(memory_format=layout)
    with torch.no_grad():
        out = module(x)
    assert deviation(out.permute(0, 2, 3, 1), golden["out"]) < 2e-6


def test_published_inception_settings_and_weights_are_checked():
    golden = Golden("iformer_mixer_pool1")
    with pytest.raises(OvertoneError, match="lack 'num_heads'"):
        from_published("iformer-mixer", golden.state, {"dim": 32, "attention_head": 6})
    with pytest.raises(OvertoneError, match="not the weights of an InceptionMixer"):
        from_published("iformer-mixer", golden.state, golden.config | {"attention_head": 5})
    with pytest.raises(OvertoneError, match="not the weights of an InceptionCell"):
        from_published("iformer-block", golden.state, golden.config)


@pytest.mark.parametrize(("height", "width", "pool"), [(7, 5, 1), (7, 5, 2), (6, 10, 3), (1, 1, 2)])
def test_mixer_takes_any_height_and_width(height, width, pool):
    torch.manual_seed(0)
    mixer = InceptionMixer(16, heads=4, low_heads=2, pool=pool)
    low = torch.randn(2, 8, height, width)
    out = mixer.attend(low)
    assert mixer(torch.randn(2, 16, height, width)).shape == (2, 16, height, width)
    # By hand: means over what of each window there is, and all its pixels get what it gets.
    for y in range(height):
        for x in range(width):
            top, left = y // pool * pool, x // pool * pool
            assert torch.equal(out[:, :, y, x], out[:, :, top, left])
    windows = [
        low[:, :, y : y + pool, x : x + pool].mean(dim=(2, 3))
        for y in range(0, height, pool)
        for x in range(0, width, pool)
    ]
    q, k, v = mixer.qkv(torch.stack(windows, 1)).view(2, -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / math.sqrt(4)).softmax(-1)
    expected = (weights @ v).transpose(1, 2).reshape(2, -1, 8)
    assert torch.allclose(out[:, :, ::pool, ::pool].flatten(2).mT, expected, atol=1e-6)


@pytest.mark.parametrize(("heads", "low_heads"), [(4, 0), (4, 4), (4, 5), (3, 1), (0, 0), (16, 15)])
def test_mixer_refuses_splits_that_leave_a_branch_nothing(heads, low_heads):
    with pytest.raises(ValueError, match=r"attention needs one head|does not divide into"):
        InceptionMixer(16, heads, low_heads)


def test_a_cell_starts_as_the_identity_and_hears_the_time():
    torch.manual_seed(0)
    cell = InceptionCell(16, 4, 2, pool=2, embedding_width=8)
    x, embedding = torch.randn(2, 16, 6, 6), torch.randn(2, 8)
    assert torch.equal(cell(x, embedding), x)
    awake(cell)
    assert not torch.allclose(cell(x, embedding), cell(x, embedding + 1))


def test_ratios_pass_through_the_published_points_and_fall_with_depth_and_time():
    for (expert, level), value in RATIOS.items():
        assert ratio(expert, level) == pytest.approx(value)
    for expert in range(1, 5):
        falling = [ratio(expert, level) for level in range(1, 5)]
        assert falling == sorted(falling, reverse=True)
    for level in range(1, 5):
        falling = [ratio(expert, level) for expert in range(1, 5)]
        assert falling == sorted(falling, reverse=True)
    # d_h : d_l of the deepest level comes out as published: 128 : 384 and 32 : 480.
    widths = (128, 256, 384, 512)
    assert inception_heads(widths, 32, 1, 4)[3] == 12
    assert inception_heads(widths, 32, 4, 4)[3] == 15


def test_every_expert_keeps_channels_for_both_branches():
    for widths in ((64, 64), (32, 64, 64), (128, 256, 384, 512), (64,)):
        for experts in (1, 2, 3, 4, 8):
            for expert in range(1, experts + 1):
                heads = inception_heads(widths, 32 if min(widths) > 32 else 16, expert, experts)
                for width, count in zip(widths, heads, strict=True):
                    InceptionMixer(width, width // (32 if min(widths) > 32 else 16), count)
    with pytest.raises(ValueError, match="expert 5 is not one of 1 to 4"):
        inception_heads((64,), 32, 5, 4)
    with pytest.raises(ValueError, match="width 32 does not divide into two heads"):
        inception_heads((32,), 32)


def test_the_published_sizes():
    """Parameters and, three forward passes' worth as the paper counts, multiply-adds."""
    widths = (128, 256, 384, 512)
    iunet = IUNetConfig.ldm(128, inception_heads=inception_heads(widths, 32))
    for config, parameters, published, tolerance in (
        (ADMConfig.ldm(), 274.1e6, 288.2e9, 0.01),
        (ADMConfig.ldm(128), 89.5e6, 94.2e9, 0.01),
        (iunet, 82.6e6, 90.5e9, 0.05),
    ):
        with torch.device("meta"):
            network = (IUNet if config is iunet else ADMUNet)(config)
        assert network.num_parameters == pytest.approx(parameters, rel=tolerance)
        assert 3 * multiply_adds(network) == pytest.approx(published, rel=tolerance)


def test_an_iunet_mixes_in_the_encoder_alone():
    network = IUNet(TINY_IUNET)
    kinds = {
        stage: [
            type(cell).__name__ for level in getattr(network.unet, stage) for cell in level.cells
        ]
        for stage in ("encoder", "decoder")
    }
    assert kinds["encoder"] == ["ResidualCell", "InceptionCell"] * 2
    assert set(kinds["decoder"]) == {"ResidualCell"}
    mixers = [m for m in network.modules() if isinstance(m, InceptionMixer)]
    assert [(m.low_heads, m.pool) for m in mixers] == [(1, 2), (3, 1)]
    assert all(cell.attention is None for cell in network.unet.encoder[1].cells[::2])


@pytest.mark.parametrize("layout", ["adm", "ldm"])
def test_an_iunet_trains_and_is_saved(tmp_path, layout):
    network = awake(IUNet(dataclasses.replace(TINY_IUNET, layout=layout)))
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.7])
    network(x, time, torch.tensor([0, 3])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    network.eval().save_pretrained(tmp_path / "network")
    again = IUNet.from_pretrained(tmp_path / "network")
    with torch.no_grad():
        assert torch.equal(again(x, time), network(x, time))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inception_heads": (1,)}, "1 entries for 2 levels"),
        ({"num_cells": 1}, "2 cells a level or more"),
        ({"inception_heads": (2, 3)}, "leave 16 of 16 channels to attention"),
        ({"inception_heads": (1, 0)}, "leave 0 of 32 channels to attention"),
        ({"head_channels": 12}, "does not divide into two heads of 12"),
    ],
)
def test_iunet_settings_that_can_not_be(changes, message):
    with pytest.raises(ValueError, match=message):
        IUNet(dataclasses.replace(TINY_IUNET, **changes))
