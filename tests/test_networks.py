import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import TINY_ADM, TINY_DIFFIT, TINY_SONG, Golden, awake, deviation, tiny_networks
from overtone.convert import from_published
from overtone.denoisers import EDMDenoiser
from overtone.errors import OvertoneError
from overtone.networks import (
    ADMConfig,
    ADMUNet,
    DiffiTConfig,
    DiffiTUNet,
    SongConfig,
    SongUNet,
    temporalize,
)
from overtone.networks.attention import (
    TMSA,
    DiffiTBlock,
    TimeAttention,
    attend,
    from_windows,
    spread,
    to_windows,
)
from overtone.networks.layers import GroupNorm, Resample, sinusoids


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


def test_tmsa_is_one_matrix_on_concatenated_tokens():
    # Equations 3-5 against their other reading: [x_s, x_t] W with W = [W_s; W_t], softmax by hand.
    tmsa = awake(TMSA(width=12, heads=3, token_width=5, size=2))
    x, token = torch.randn(2, 6, 4, 12), torch.randn(2, 5)
    both = torch.cat((x, token[:, None, None].expand(2, 6, 4, 5)), dim=-1)
    matrix = torch.cat((tmsa.qkv.weight, tmsa.qkv_time.weight), dim=1)
    qkv = F.linear(both, matrix, tmsa.qkv.bias + tmsa.qkv_time.bias)
    q, k, v = qkv.unflatten(-1, (3, 3, 4)).permute(3, 0, 1, 4, 2, 5)
    # The bias by its definition, entry by entry.
    bias = torch.empty(3, 4, 4)
    for query in range(4):
        for key in range(4):
            dy, dx = query // 2 - key // 2, query % 2 - key % 2
            bias[:, query, key] = tmsa.bias.table[(dy + 1) * 3 + dx + 1]
    weights = (q @ k.transpose(-1, -2) / 4**0.5 + bias).softmax(-1)
    reference = tmsa.proj((weights @ v).transpose(2, 3).flatten(3))
    assert torch.allclose(tmsa(x, token), reference, atol=1e-6)


def test_attention_depends_on_time():
    tmsa = awake(TMSA(width=8, heads=2, token_width=4, size=2))
    x = torch.randn(1, 1, 4, 8)
    assert not torch.allclose(tmsa(x, torch.zeros(1, 4)), tmsa(x, torch.ones(1, 4)))


def test_window_attention_is_masked_global_attention():
    channels, side, size, heads = 8, 8, 4, 2
    tmsa = awake(TMSA(channels, heads, token_width=6, size=size))
    x, token = torch.randn(2, channels, side, side), torch.randn(2, 6)
    windowed = from_windows(tmsa(to_windows(x, size), token), size, side)

    tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
    y, c = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    window = (y // size * (side // size) + c // size).flatten()
    inside = (y % size * size + c % size).flatten()
    same = window[:, None] == window
    bias = tmsa.bias()[:, inside][:, :, inside].masked_fill(~same, -torch.inf)
    qkv = tmsa.qkv(tokens) + tmsa.qkv_time(token)[:, None]
    reference = tmsa.proj(attend(qkv, heads, bias)).unflatten(1, (side, side)).permute(0, 3, 1, 2)
    assert torch.allclose(windowed, reference, atol=1e-6)


@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    size=st.integers(1, 5),
)
def test_windows_invert(batch, channels, rows, columns, size):
    x = torch.randn(batch, channels, rows * size, columns * size)
    windows = to_windows(x, size)
    assert windows.shape == (batch, rows * columns, size * size, channels)
    assert torch.equal(from_windows(windows, size, rows * size), x)
    assert torch.equal(windows[0, 0, 0], x[0, :, 0, 0])


def test_block_is_the_papers_two_lines():
    block = awake(DiffiTBlock(width=8, heads=2, token_width=4, size=2))
    x, token = torch.randn(2, 3, 4, 8), torch.randn(2, 4)
    norm = torch.nn.LayerNorm(8, eps=1e-6, elementwise_affine=False)
    middle = block.attention(norm(x), token) + x
    assert torch.allclose(block(x, token), block.mlp(norm(middle)) + middle, atol=1e-6)


def reference_attention(q, k, v, bias):
    """softmax(q k^T / sqrt(d) + bias) v by hand; (batch, windows, heads, tokens, d) each."""
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias).softmax(-1)
    return (weights @ v).transpose(2, 3).flatten(3)


def split_heads(x, parts, heads):
    return x.unflatten(-1, (parts, heads, -1)).permute(3, 0, 1, 4, 2, 5)


def test_time_as_a_token_of_its_own_is_one_more_key_and_value():
    tmsa = awake(TMSA(width=12, heads=3, token_width=5, size=2, time_in="separate"))
    x, token = torch.randn(2, 6, 4, 12), torch.randn(2, 5)
    q, k, v = split_heads(tmsa.qkv(x), 3, 3)
    more_k, more_v = split_heads(tmsa.kv_time(token)[:, None, None].expand(-1, 6, -1, -1), 2, 3)
    bias = torch.cat((tmsa.bias(), torch.zeros(3, 4, 1)), dim=-1)
    k, v = torch.cat((k, more_k), dim=-2), torch.cat((v, more_v), dim=-2)
    reference = tmsa.proj(reference_attention(q, k, v, bias))
    assert torch.allclose(tmsa(x, token), reference, atol=1e-6)


def gathered(table, size):
    """B[head, query, key] by the index that the published networks keep."""
    y, x = (c.flatten() for c in torch.meshgrid(*[torch.arange(size)] * 2, indexing="ij"))
    dy, dx = y[:, None] - y + size - 1, x[:, None] - x + size - 1
    return table[dy * (2 * size - 1) + dx].permute(2, 0, 1)


def test_the_bias_of_a_window_is_the_gather_of_the_published_index():
    table = torch.randn(49, 3, requires_grad=True)
    bias, reference = spread(table, 4, (4, 4)), gathered(table, 4)
    assert torch.equal(bias, reference)
    weight = torch.randn_like(bias)
    ours, theirs = (torch.autograd.grad((b * weight).sum(), table)[0] for b in (bias, reference))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_bias_on_another_grid_is_that_of_the_scaled_offsets():
    # A table linear in the offset is interpolated exactly, but where it has to be held at its ends.
    offset = torch.arange(-3.0, 4.0)
    table = (10 * offset[:, None] + offset).flatten()[:, None]
    y, x = (c.flatten() for c in torch.meshgrid(torch.arange(8), torch.arange(2), indexing="ij"))
    dy, dx = (y[:, None] - y) * 4 / 8, (x[:, None] - x) * 4 / 2
    reference = 10 * dy.clamp(-3, 3) + dx.clamp(-3, 3)
    assert torch.allclose(spread(table, 4, (8, 2))[0], reference, atol=1e-5)


def test_the_kept_bias_does_not_outlive_a_step_of_training():
    """A fused Adam changes the table without changing its version, as `.data` does."""
    tmsa = awake(TMSA(8, 2, 12, 4)).eval()
    with torch.no_grad():
        tmsa.bias()
    tmsa.bias()  # with gradients, as in training
    tmsa.bias.table.data.add_(1.0)
    with torch.no_grad():
        assert torch.equal(tmsa.bias(), spread(tmsa.bias.table, 4, (4, 4)))


def test_time_in_the_bias_moves_the_table():
    tmsa = awake(TMSA(width=12, heads=3, token_width=5, size=2, time_in="bias"))
    x, token = torch.randn(2, 6, 4, 12), torch.randn(2, 5)
    q, k, v = split_heads(tmsa.qkv(x), 3, 3)
    tables = tmsa.bias.table + tmsa.bias.time(token).view(2, 9, 3)
    bias = torch.stack([gathered(table, 2) for table in tables])
    reference = tmsa.proj(reference_attention(q, k, v, bias[:, None]))
    assert torch.allclose(tmsa(x, token), reference, atol=1e-6)


def test_time_in_the_mlp_shifts_its_hidden_layer():
    block = awake(DiffiTBlock(width=8, heads=2, token_width=4, size=2, time_in="mlp"))
    x, token = torch.randn(2, 3, 4, 8), torch.randn(2, 4)
    norm = torch.nn.LayerNorm(8, eps=1e-6, elementwise_affine=False)
    middle = block.attention(norm(x), token) + x
    hidden = block.mlp[0](norm(middle)) + block.mlp_time(token)[:, None, None]
    reference = middle + block.mlp[2](F.gelu(hidden, approximate="tanh"))
    assert torch.allclose(block(x, token), reference, atol=1e-6)


@pytest.mark.parametrize("time_in", ["tmsa", "separate", "mlp", "bias", "none"])
def test_only_time_in_none_does_not_see_the_time(time_in):
    config = dataclasses.replace(TINY_DIFFIT, time_in=time_in, num_classes=0)
    network, x = awake(DiffiTUNet(config)), torch.randn(1, 1, 8, 8)
    sees = not torch.allclose(network(x, torch.tensor([0.1])), network(x, torch.tensor([1.5])))
    assert sees == (time_in != "none")
    with pytest.raises(ValueError, match="no way in for classes"):
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
    with pytest.raises(ValueError, match="needs decoder aggregation"):
        dataclasses.replace(TINY_DIFFIT, encoder="vit")


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


def test_the_times_part_of_k_cancels_and_those_of_q_and_v_act():
    # What is common to all keys adds the same to all of a query's scores: softmax can't see it.
    tmsa = awake(TMSA(width=8, heads=2, token_width=4, size=2))
    x, token = torch.randn(2, 1, 4, 8), torch.randn(2, 4)
    tmsa(x, token).square().sum().backward()
    q, k, v = tmsa.qkv_time.weight.grad.chunk(3)
    assert float(k.norm()) < 1e-4 * float(q.norm())
    assert float(q.norm()) > 1e-3 * float(v.norm())


def test_networks_start_by_returning_the_input_scaled():
    # The head is zero at first: the denoiser is c_skip x, the best guess without knowledge.
    for network in tiny_networks():
        x = torch.randn(2, 1, 8, 8)
        sigma = torch.tensor([0.5, 2.0])
        expected = x * (0.25 / (0.25 + sigma**2))[:, None, None, None]
        assert torch.allclose(EDMDenoiser(network)(x, sigma).x_0, expected)


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


def test_kept_bias_follows_the_weights():
    network = awake(DiffiTUNet(TINY_DIFFIT)).eval()
    x, time = torch.randn(1, 1, 8, 8), torch.randn(1)
    with torch.no_grad():
        before = network(x, time)
        for name, parameter in network.named_parameters():
            if name.endswith("bias.table"):
                parameter.mul_(50)
        after = network(x, time)
    assert not torch.allclose(before, after, rtol=1e-3)
    network.train()
    assert torch.allclose(network(x, time), after, atol=1e-5)


def in_fresh_process(script, warnings="error::UserWarning"):
    """Where no run-time type checker stands in the compiler's way."""
    run = [sys.executable, "-W", warnings, "-c", script]
    subprocess.run(run, check=True, cwd=Path(__file__).parent)


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
