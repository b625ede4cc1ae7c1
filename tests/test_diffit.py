"""DiffiT's networks: its U's encoders and decoders, and the transformer's published numbers."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers import DIFFUSERS_MARKS, TINY_DIFFIT, TINY_TRANSFORMER, awake, deviation
from latent_diffit import published
from overtone.convert import from_published
from overtone.networks import DiffiTConfig, DiffiTTransformer, DiffiTTransformerConfig, DiffiTUNet
from overtone.networks.diffit import positions

pytestmark = DIFFUSERS_MARKS


def test_the_transformer_gives_the_published_numbers():
    golden, state, network = published("diffit_latent")
    with torch.no_grad():
        out = network(golden["in.sample"], golden["in.timestep"], golden["in.class_labels"])
    assert deviation(out, golden["out.sample"]) < 2e-6
    # All settings are read off the tensors.
    assert from_published("diffit-latent", state).config == network.config


@pytest.mark.parametrize(
    ("name", "millions", "macs"),
    [("xl-2-256", 561.0, 114.3), ("s-2", 27.3, 5.45), ("b-2", 108.0, 21.8), ("l-2", 380.5, 77.4)],
)
def test_presets_have_the_published_sizes(name, millions, macs):
    # The paper: 561 M parameters and 114 G multiply-adds, which leaves out the products of queries
    # with keys and of weights with values.
    config = DiffiTTransformerConfig.preset(name, num_classes=1000)
    with torch.device("meta"):
        network = DiffiTTransformer(config).eval()
        x = torch.empty(1, 4, config.resolution, config.resolution)
        time, labels = torch.empty(1), torch.zeros(1, dtype=torch.int64)
    assert network.num_parameters / 1e6 == pytest.approx(millions, abs=0.06)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x, time, labels)
    tokens = (config.resolution // config.patch) ** 2
    attention = 2 * config.depth * tokens**2 * config.width
    assert counter.get_total_flops() / 2e9 - attention / 1e9 == pytest.approx(macs, rel=5e-3)


def test_the_512_px_preset_differs_by_its_tables():
    small, large = (DiffiTTransformerConfig.preset(f"xl-2-{size}", 1000) for size in (256, 512))
    assert dataclasses.replace(large, resolution=32) == small
    with torch.device("meta"):
        more = DiffiTTransformer(large).num_parameters - DiffiTTransformer(small).num_parameters
    assert more == 28 * 16 * (63**2 - 31**2)


def test_positions_are_those_of_dit():
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    reference = get_2d_sincos_pos_embed(48, 6, base_size=6, output_type="pt").float()
    assert torch.allclose(positions(48, (6, 6), 6), reference, atol=1e-6)
    # On a finer grid, each second token is where a token of the coarse one is.
    fine = positions(48, (12, 12), 6).view(12, 12, 48)
    assert torch.allclose(fine[::2, ::2].flatten(0, 1), reference, atol=1e-6)


def test_any_size_but_the_trained_one_changes_nothing_there():
    network = awake(DiffiTTransformer(TINY_TRANSFORMER)).eval()
    time, labels = torch.tensor([3.0]), torch.tensor([1])
    with torch.no_grad():
        before = network(torch.ones(1, 4, 8, 8), time, labels)
        wide = network(torch.ones(1, 4, 4, 12), time, labels)
        after = network(torch.ones(1, 4, 8, 8), time, labels)
    assert wide.shape == (1, 8, 4, 12)
    assert torch.equal(before, after)
    # A smooth input at twice the size gives nearly the same, at twice the size.
    ramp = torch.linspace(-1, 1, 8).expand(1, 4, 8, 8).contiguous()
    config = dataclasses.replace(TINY_TRANSFORMER, patch=1)
    network = awake(DiffiTTransformer(config)).eval()
    with torch.no_grad():
        small = network(ramp, time, labels)
        large = network(ramp.repeat_interleave(2, 2).repeat_interleave(2, 3), time, labels)
        large = torch.nn.functional.avg_pool2d(large, 2)
    assert float((large - small).norm() / small.norm()) < 0.25
    with pytest.raises(ValueError, match="do not divide into patches of 2"):
        DiffiTTransformer(TINY_TRANSFORMER)(torch.ones(1, 4, 7, 8), time, labels)


def test_checkpointing_changes_memory_and_no_gradient():
    network = awake(DiffiTTransformer(TINY_TRANSFORMER))
    x, time, labels = torch.randn(2, 4, 8, 8), torch.tensor([5.0, 900.0]), torch.tensor([0, 3])

    def gradients(checkpointing):
        network.gradient_checkpointing = checkpointing
        kept = 0

        def keep(tensor):
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = network(x, time, labels).square().sum()
        return kept, torch.autograd.grad(loss, list(network.parameters()))

    (usual, reference), (less, ours) = gradients(False), gradients(True)
    assert less < usual / 3
    assert all(torch.equal(a, b) for a, b in zip(ours, reference, strict=True))


def test_every_parameter_learns():
    network = awake(DiffiTTransformer(TINY_TRANSFORMER))
    labels = torch.arange(4)  # 3 is the null class
    network(torch.randn(4, 4, 8, 8), torch.rand(4) * 999, labels).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_without_classes_there_is_no_table():
    network = awake(DiffiTTransformer(dataclasses.replace(TINY_TRANSFORMER, num_classes=0)))
    assert network(torch.randn(1, 4, 8, 8), torch.tensor([1.0])).shape == (1, 8, 8, 8)
    assert not [name for name in network.state_dict() if "classes" in name]


@pytest.mark.parametrize("time_in", ["tmsa", "separate", "mlp", "bias", "none"])
def test_only_time_in_none_does_not_see_the_time(time_in):
    config = dataclasses.replace(TINY_DIFFIT, time_in=time_in, num_classes=0)
    network, x = awake(DiffiTUNet(config)), torch.randn(1, 1, 8, 8)
    sees = not torch.allclose(network(x, torch.tensor([0.1])), network(x, torch.tensor([1.5])))
    assert sees == (time_in != "none")
    with pytest.raises(ValueError, match="takes neither classes nor augmentations"):
        dataclasses.replace(TINY_DIFFIT, time_in="none")


LADDER = [
    ("vit", "aggregation"),
    ("multi_resolution", "aggregation"),
    ("multi_resolution", "multi_resolution"),
    ("diffit", "multi_resolution"),
    ("diffit", "diffit"),
]


@pytest.mark.parametrize(("encoder", "decoder"), LADDER)
def test_the_ladder_trains_at_every_rung(encoder, decoder):
    network = awake(
        DiffiTUNet(dataclasses.replace(TINY_DIFFIT, encoder=encoder, decoder=decoder, window=2))
    )
    x, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    out = network(x, torch.randn(3), labels)
    assert out.shape == x.shape
    out.square().sum().backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []
    cells = [type(cell).__name__ for level in network.unet.encoder for cell in level.cells]
    assert set(cells) == {"DiffiTCell" if encoder == "diffit" else "TransformerCell"}


def test_a_plain_vit_has_one_level_of_patches():
    config = dataclasses.replace(TINY_DIFFIT, encoder="vit", decoder="aggregation")
    unet = DiffiTUNet(config).unet
    assert unet.stem.kernel_size == unet.stem.stride == (2, 2)
    assert [len(level.cells) for level in unet.encoder] == [2]
    assert unet.encoder[0].cells[0].window == 4  # all of the 4 x 4 patches
    with pytest.raises(ValueError, match="take decoder aggregation"):
        dataclasses.replace(TINY_DIFFIT, encoder="vit")


@pytest.mark.parametrize(
    ("config", "widths", "cells", "window"),
    [
        (DiffiTConfig.cifar10(), (128, 256, 256), (4, 4, 4), 4),
        (DiffiTConfig.cifar10("I.1"), (128, 256, 256), (2, 2, 2), 4),
        (DiffiTConfig.ffhq64(), (128, 256, 256, 256), (4, 4, 4, 4), 8),
        (DiffiTConfig.ffhq64("I.1"), (128, 256, 256, 256), (1, 2, 2, 2), 8),
    ],
)
def test_published_presets_have_the_papers_shape(config, widths, cells, window):
    with torch.device("meta"):
        network = DiffiTUNet(config)
        out = network(torch.empty(2, 3, config.resolution, config.resolution), torch.empty(2))
    assert out.shape == (2, 3, config.resolution, config.resolution)
    assert config.resolution == {3: 32, 4: 64}[len(widths)]
    encoder, decoder = network.unet.encoder, network.unet.decoder
    assert tuple(len(level.cells) for level in encoder) == cells
    assert tuple(len(level.cells) - 1 for level in decoder) == cells[::-1]
    assert tuple(level.cells[-1].conv.out_channels for level in encoder) == widths
    assert {cell.window for level in encoder for cell in level.cells} == {window}
    assert network.token.mlp[2].out_features == 512
