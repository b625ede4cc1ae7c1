"""Attention in windows with time in it, against its equations written out."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from helpers import TINY_DIFFIT, awake
from overtone.networks import DiffiTUNet
from overtone.networks import attend as attending
from overtone.networks.attend import attend, biased_by
from overtone.networks.attention import (
    TMSA,
    DiffiTBlock,
    TimeAttention,
    from_windows,
    spread,
    to_windows,
)


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


def test_tmsa_in_the_place_of_self_attention_scales_the_whole_sum():
    # y = (x + TMSA(GroupNorm(x), x_t)) / sqrt(2), as NCSN++ scales the sum of its two branches.
    layer = awake(TimeAttention(8, 2, embedding_width=6, window=2, skip_scale=0.5**0.5))
    x, token = torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    normed = F.group_norm(x, layer.norm.groups, layer.norm.weight, layer.norm.bias, 1e-5)
    out = from_windows(layer.attention(to_windows(normed, 2), token), 2, 4)
    assert torch.allclose(layer(x, token), (x + out) / 2**0.5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("way", ["folded", "scored"])
@pytest.mark.parametrize(("an_image", "more"), [(False, 0), (True, 0), (False, 3), (True, 3)])
def test_a_bias_is_added_in_three_ways(way, an_image, more):
    """One bias for all images or one an image, beside further tokens or not; for the gradients of
    q, k, v and the bias see the next test."""
    batch, heads, tokens, width = 3, 2, 9, 8
    qkv = torch.randn(batch, tokens, 3 * heads * width)
    bias = torch.randn(*((batch,) if an_image else ()), heads, tokens, tokens)
    memory = torch.randn(batch, more, 2 * heads * width) if more else None
    with torch.no_grad():
        expected = attend(qkv, heads, bias, memory)
        with biased_by(way):
            got = attend(qkv, heads, bias, memory)
    assert not torch.allclose(expected, attend(qkv, heads, None, memory), atol=1e-2)
    assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("time_in", ["tmsa", "bias", "separate"])
def test_a_folded_bias_has_the_same_gradients(time_in):
    block = awake(DiffiTBlock(16, 2, token_width=6, size=(2, 4), time_in=time_in)).double()
    x, token = torch.randn(2, 3, 8, 16).double(), torch.randn(2, 6).double()

    def gradients(way):
        with biased_by(way):
            loss = block(x, token).square().sum()
        return torch.autograd.grad(loss, list(block.parameters()))

    for name, a, b in zip(
        dict(block.named_parameters()), gradients("mask"), gradients("folded"), strict=True
    ):
        assert b.norm() > 0, name
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12), name


def test_a_bias_of_more_keys_than_a_kernel_has_channels_stays_a_mask():
    qkv, bias = torch.randn(1, 260, 3 * 8), torch.randn(1, 260, 260)
    expected = attend(qkv, 1, bias)
    with biased_by("folded"):
        assert torch.equal(attend(qkv, 1, bias), expected)


@pytest.mark.parametrize("lead", [(), (1,), (7,)], ids=["one", "one kept", "an image"])
@pytest.mark.parametrize("more", [0, 3])
def test_a_trained_bias_acts_on_each_part_of_the_batch(monkeypatch, lead, more):
    """Seven images in parts of two: values and gradients are those of torch's attention."""
    heads, tokens, width = 2, 9, 8
    monkeypatch.setattr(attending, "CPU_SCORES", 2 * heads * tokens * (tokens + more))
    qkv = torch.randn(7, tokens, 3 * heads * width, dtype=torch.double, requires_grad=True)
    bias = torch.randn(*lead, heads, tokens, tokens, dtype=torch.double, requires_grad=True)
    memory = torch.randn(7, more, 2 * heads * width).double() if more else None
    q, k, v, mask = attending.unpacked(qkv, heads, bias, memory)
    whole = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(7, -1, -1, -1))
    expected, got = whole.transpose(1, 2).flatten(2), attend(qkv, heads, bias, memory)
    direction = torch.randn_like(expected)
    for a, b in zip(
        (expected, *torch.autograd.grad(expected, (qkv, bias), direction)),
        (got, *torch.autograd.grad(got, (qkv, bias), direction)),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


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


def test_the_times_part_of_k_cancels_and_those_of_q_and_v_act():
    # What is common to all keys adds the same to all of a query's scores: softmax can't see it.
    tmsa = awake(TMSA(width=8, heads=2, token_width=4, size=2))
    x, token = torch.randn(2, 1, 4, 8), torch.randn(2, 4)
    tmsa(x, token).square().sum().backward()
    q, k, v = tmsa.qkv_time.weight.grad.chunk(3)
    assert float(k.norm()) < 1e-4 * float(q.norm())
    assert float(q.norm()) > 1e-3 * float(v.norm())


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
