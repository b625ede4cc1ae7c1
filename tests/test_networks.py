"""What all networks share: published numbers of EDM's, layers, sizes, precision, compilation."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import (
    TINY_ADM,
    TINY_DIFFIT,
    TINY_SONG,
    TINY_TRANSFORMER,
    Golden,
    awake,
    deviation,
    tiny_networks,
)
from overtone.convert import from_published
from overtone.denoisers import EDMDenoiser
from overtone.errors import OvertoneError
from overtone.networks import (
    ADMConfig,
    ADMUNet,
    DiffiTConfig,
    DiffiTTransformer,
    DiffiTUNet,
    SongConfig,
    SongUNet,
    temporalize,
)
from overtone.networks.attention import TimeAttention
from overtone.networks.layers import FourierFeatures, GroupNorm, Resample, layer_norm, sinusoids


@pytest.mark.parametrize("call", ["denoised", "denoised_augment", "denoised_uncond"])
@pytest.mark.parametrize("name", ["adm", "ddpmpp"])
def test_networks_of_edm_give_the_published_numbers(name, call):
    golden = Golden(f"{name}_edm_precond")
    denoiser = from_published("edm", golden.state, golden.config)
    labels = None if call == "denoised_uncond" else golden["in.class_labels"]
    augment = golden["in.augment_labels"] if call == "denoised_augment" else None
    with torch.no_grad():
        out = denoiser(golden["in.sample"], golden["in.sigma"], labels, augment_labels=augment)
    assert deviation(out.x_0, golden[f"out.{call}"]) < 2e-6


def test_ncsnpp_gives_the_published_numbers():
    golden = Golden("ncsnpp_edm_precond")
    denoiser = from_published("edm", golden.state, golden.config)
    with torch.no_grad():
        out = denoiser(golden["in.sample"], golden["in.sigma"])
    assert deviation(out.x_0, golden["out.denoised"]) < 2e-6


def test_the_null_class_is_no_class():
    for network in tiny_networks():
        awake(network)
        x, time = torch.randn(2, 1, 8, 8), torch.randn(2)
        null = torch.full((2,), 3)
        assert torch.allclose(network(x, time, null), network(x, time, None))
        assert not torch.allclose(network(x, time, torch.tensor([0, 1])), network(x, time, None))


def test_fourier_features_are_drawn_with_deviation_16():
    # NCSN++'s scale. A sample's standard error is 16 / sqrt(2n); five of them: 6e-7 false alarms.
    drawn = FourierFeatures(2**15).frequencies
    assert abs(drawn.std().item() - 16) < 5 * 16 / (2 * len(drawn)) ** 0.5
    assert abs(drawn.mean().item()) < 5 * 16 / len(drawn) ** 0.5


def test_published_weights_that_do_not_fit_are_refused():
    golden = Golden("adm_edm_precond")
    state = golden.state
    with pytest.raises(OvertoneError, match="1 tensors missing"):
        from_published("edm", {k: v for k, v in state.items() if "out_conv.bias" not in k},
                       golden.config)  # fmt: skip
    stray = {"model.enc.16x16_block0.rotor.weight": state["model.out_conv.weight"]}
    with pytest.raises(OvertoneError, match="not the weights of a DhariwalUNet"):
        from_published("edm", state | stray, golden.config)
    with pytest.raises(OvertoneError, match="did you mean 'edm'"):
        from_published("edn", state, golden.config)
    with pytest.raises(OvertoneError, match="EDM network 'Dhariwal'"):
        from_published("edm", state, golden.config | {"model_type": "Dhariwal"})


def test_fourier_features_are_fixed_and_saved(tmp_path):
    config = dataclasses.replace(TINY_DIFFIT, time_embedding="fourier")
    network = awake(DiffiTUNet(config)).eval()
    assert "token.fourier.frequencies" not in dict(network.named_parameters())
    x, time = torch.randn(2, 1, 8, 8), torch.randn(2)
    angles = 2 * torch.pi * time[:, None] * network.token.fourier.frequencies
    features = torch.cat((angles.cos(), angles.sin()), dim=1)
    token = network.token(time, None, None)
    assert torch.allclose(token, network.token.mlp(features), atol=1e-4)
    network.save_pretrained(tmp_path / "network")
    again = DiffiTUNet.from_pretrained(tmp_path / "network")
    assert torch.equal(network(x, time), again(x, time))


@pytest.mark.parametrize("direction", ["down", "up"])
def test_filters_keep_a_constant_and_box_filters_are_the_general_case(direction):
    x = torch.randn(2, 3, 8, 6)
    box = Resample(direction)
    general = Resample(direction)
    general.box = False
    assert torch.allclose(box(x), general(x), atol=1e-6)
    flat = Resample(direction, (1, 3, 3, 1))(torch.ones(1, 2, 8, 8))
    assert flat.shape[-1] == (4 if direction == "down" else 16)
    inside = flat[:, :, 1:-1, 1:-1]  # at the edges the zeros around come in
    assert torch.allclose(inside, torch.ones_like(inside))


def test_song_presets_have_the_published_size():
    with torch.device("meta"):
        # As EDM's training prints it for its CIFAR-10 network without classes.
        assert SongUNet(SongConfig.ddpmpp()).num_parameters == 55_733_891
        large = SongUNet(SongConfig.ncsnpp(64))
        x = torch.empty(1, 3, 64, 64)
        assert large(x, torch.empty(1), None, torch.empty(1, 9)).shape == x.shape


def test_tmsa_is_a_choice_of_ddpmpps_attention():
    network = SongUNet(dataclasses.replace(TINY_SONG, attention="tmsa", heads=2))
    attentions = [m for m in network.modules() if isinstance(m, TimeAttention)]
    assert len(attentions) == 3  # encoder, middle, last of the decoder's level
    assert attentions[0].window == 4  # the whole level
    attention = awake(attentions[0])
    x = torch.randn(1, 32, 4, 4)
    token = torch.zeros(1, 32)
    assert not torch.allclose(attention(x, token), attention(x, token + 1))


def test_sinusoids_are_cos_then_sin():
    out = sinusoids(torch.tensor([0.0, 2.0]), 8)
    frequencies = torch.tensor([10000 ** (-i / 4) for i in range(4)])
    assert torch.allclose(out[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    assert torch.allclose(out[1], torch.cat(((2 * frequencies).cos(), (2 * frequencies).sin())))


def test_group_norm_modulates_between_norm_and_activation():
    norm, reference = GroupNorm(16), torch.nn.GroupNorm(4, 16)
    x, scale_shift = torch.randn(2, 16, 3, 3), torch.randn(2, 32)
    scale, shift = scale_shift[:, :, None, None].chunk(2, 1)
    assert torch.allclose(norm(x), F.silu(reference(x)), atol=1e-6)
    modulated = F.silu(reference(x) * (1 + scale) + shift)
    assert torch.allclose(norm(x, scale_shift), modulated, atol=1e-6)
    assert GroupNorm(144).groups == 24  # the largest number up to 32 that divides


@pytest.mark.parametrize("number", range(6))
def test_in_float64_a_network_computes_in_float64(number):
    """Its derivatives agree with finite differences to 1e-6, which a detour by float32 would spoil;
    so do those of its denoiser, whose time is a number."""
    network = awake(tiny_networks()[number]).double().eval()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 1, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    time = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2])
    assert network(x, time, labels).dtype == torch.float64
    assert torch.autograd.gradcheck(
        lambda x, t: network(x, t, labels)[:, :1], (x, time), fast_mode=True
    )
    denoiser = EDMDenoiser(network)
    assert torch.autograd.gradcheck(
        lambda x: denoiser(x, 0.5, labels).x_0[:, :1], (x,), fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda x: temporalize(network)(x, time.detach(), labels), (x,), fast_mode=True
    )


def test_every_parameter_receives_gradient():
    for network in tiny_networks():
        awake(network)
        labels = torch.tensor([0, 1, 2])
        network(torch.randn(3, 1, 8, 8), torch.randn(3), labels).square().sum().backward()
        dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert dead == []


def test_networks_start_by_returning_the_input_scaled():
    # The head is zero at first: the denoiser is c_skip x, the best guess without knowledge.
    for network in tiny_networks():
        x = torch.randn(2, 1, 8, 8)
        sigma = torch.tensor([0.5, 2.0])
        expected = x * (0.25 / (0.25 + sigma**2))[:, None, None, None]
        assert torch.allclose(EDMDenoiser(network)(x, sigma).x_0, expected)


@settings(max_examples=20, deadline=None)
@given(
    depth=st.integers(1, 3),
    cells=st.integers(1, 2),
    channels=st.integers(1, 3),
    window=st.sampled_from([1, 2, 4]),
    classes=st.integers(0, 4),
    tall=st.integers(1, 2),
)
def test_networks_keep_the_shape_of_their_input(depth, cells, channels, window, classes, tall):
    side = window * 2 ** (depth - 1)
    diffit = DiffiTConfig(
        resolution=side, channels=channels, num_classes=classes, widths=(8, 16, 24)[:depth],
        num_cells=(cells,) * depth, window=window, head_channels=8, token_width=16,
    )  # fmt: skip
    adm = ADMConfig(
        resolution=side, channels=channels, num_classes=classes, widths=(8, 16, 24)[:depth],
        num_cells=cells, attention_resolutions=(side,), head_channels=8, embedding_width=16,
    )  # fmt: skip
    x = torch.randn(2, channels, tall * side, side)
    for network in (DiffiTUNet(diffit), ADMUNet(adm)):
        assert network(x, torch.randn(2), torch.full((2,), classes)).shape == x.shape


def test_networks_refuse_sizes_that_do_not_divide():
    with pytest.raises(ValueError, match="level 1 is 4 pixels wide, which does not divide"):
        DiffiTUNet(dataclasses.replace(TINY_DIFFIT, window=8))
    with pytest.raises(ValueError, match="can't be halved 1 times"):
        ADMUNet(dataclasses.replace(TINY_ADM, resolution=7))
    with pytest.raises(ValueError, match="heads of 64 channels"):
        ADMUNet(dataclasses.replace(TINY_ADM, head_channels=64))
    with pytest.raises(ValueError, match="3 levels"):
        DiffiTUNet(dataclasses.replace(TINY_DIFFIT, num_cells=(1, 1, 1)))
    with pytest.raises(ValueError, match="do not divide into 4 x 4 windows"):
        DiffiTUNet(TINY_DIFFIT)(torch.randn(1, 1, 8, 12), torch.randn(1))


@pytest.mark.parametrize("train", [False, True], ids=["sampling", "training"])
def test_bf16_agrees_with_fp32(train):
    # The relative error of bfloat16 is 2^-9 an operation; a dozen layers deep it stays within 3 %.
    for network in tiny_networks():
        awake(network).train(train)
        x, time, labels = torch.randn(4, 1, 8, 8), torch.randn(4), torch.tensor([0, 1, 2, 3])
        with torch.set_grad_enabled(train):
            full = network(x, time, labels)
            with torch.autocast("cpu", torch.bfloat16):
                half = network(x, time, labels)
        assert float(((half - full).norm() / full.norm()).detach()) < 0.03


def in_fresh_process(script, warnings="error::UserWarning"):
    """Where no run-time type checker stands in the compiler's way."""
    run = [sys.executable, "-W", warnings, "-c", script]
    subprocess.run(run, check=True, cwd=Path(__file__).parent)


@pytest.mark.slow
def test_a_repeated_block_is_compiled_once_for_all():
    in_fresh_process(
        """
import torch
from torch._dynamo.utils import counters
from helpers import TINY_TRANSFORMER, awake
from overtone.networks import DiffiTTransformer
from overtone.networks.network import compile_network
network = awake(DiffiTTransformer(TINY_TRANSFORMER))
x, time, labels = torch.randn(2, 4, 8, 8), torch.randn(2), torch.tensor([0, 3])
before = network(x, time, labels)
compile_network(network, backend="eager", fullgraph=True)
assert torch.allclose(network(x, time, labels), before, atol=1e-5)
assert len(network.blocks) == 3 and counters["stats"]["unique_graphs"] == 1, counters
""",
        warnings="default",  # the compiler looks at .grad of a block's input, which warns
    )


@pytest.mark.slow
def test_networks_compile_without_graph_breaks():
    script = """
import torch
from helpers import awake, tiny_networks
for train in (False, True):
    for network in tiny_networks():
        awake(network).train(train)
        x, time, labels = torch.randn(2, 1, 8, 8), torch.randn(2), torch.tensor([0, 3])
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        with torch.set_grad_enabled(train), torch.autocast("cpu", torch.bfloat16):
            assert torch.allclose(compiled(x, time, labels), network(x, time, labels), atol=1e-3)
"""
    in_fresh_process(script)


def test_networks_without_memory_are_built_without_torchs_compiler():
    """Its import takes longer than all else that a command does before it begins."""
    code = """
import sys
import helpers
from overtone.networks.network import build_empty

assert "torch._dynamo" not in sys.modules
for name in ("DIFFIT", "ADM", "IUNET", "SONG", "NCSN", "DSNO", "TRANSFORMER"):
    build_empty(getattr(helpers, f"TINY_{name}"))
    assert "torch._dynamo" not in sys.modules, name
"""
    command, here = [sys.executable, "-c", code], Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_norm_of_other_devices_is_that_of_a_cpu(activation, modulated, dtype):
    """Its value, its gradients and, what it is there for, the layout of its features."""
    torch.manual_seed(0)
    norm = GroupNorm(24, activation=activation, groups=8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    norm.to(torch.float64 if dtype == torch.float64 else torch.float32)
    x = (3 + torch.randn(2, 24, 6, 5)).to(dtype).to(memory_format=torch.channels_last)
    more = torch.randn(2, 48).to(dtype) if modulated else None
    x.requires_grad_()
    found = []
    for way in (norm._fused, norm._folded):
        y = way(x, more)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
        y.double().square().sum().backward()
        found.append([y.detach(), x.grad, norm.weight.grad, norm.bias.grad])
        x.grad = norm.weight.grad = norm.bias.grad = None
    bound = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 0.03}[dtype]
    for one, other in zip(*found, strict=True):
        assert deviation(other.double(), one.double()) < bound


def test_a_layer_norm_stays_in_the_dtype_of_what_it_normalises():
    x = torch.randn(4, 7, 16)
    with torch.autocast("cpu", torch.bfloat16):
        narrow, wide = layer_norm(x.bfloat16()), layer_norm(x)
    assert (narrow.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(wide, F.layer_norm(x, (16,), eps=1e-6))
    exact = F.layer_norm(x.bfloat16().float(), (16,), eps=1e-6)
    assert torch.equal(narrow, exact.bfloat16())  # rounded once, at the end


def test_a_transformers_residual_stream_is_as_wide_as_its_products():
    network = awake(DiffiTTransformer(TINY_TRANSFORMER)).eval()
    x, seen = torch.randn(2, TINY_TRANSFORMER.channels, 8, 8), []
    for block in network.blocks:
        block.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    labels = torch.tensor([0, 1])
    with torch.no_grad():
        whole = network(x, torch.tensor([0.1, 0.9]), labels)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x, torch.tensor([0.1, 0.9]), labels)
    depth = len(network.blocks)
    assert seen == [torch.float32] * depth + [torch.bfloat16] * depth
    assert deviation(half.float(), whole) < 0.03
