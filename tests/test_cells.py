"""Cells against their formulas, written out with torch's own functions.

Every weight of a cell is random here, so that no branch is zero and no two terms can change places.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import awake
from overtone.networks.attention import from_windows, to_windows
from overtone.networks.cells import DiffiTCell, ResidualCell, TransformerCell
from overtone.networks.inception import InceptionCell
from overtone.networks.layers import Resample


def normed(norm, x):
    """silu(GroupNorm(x)), in a group norm's own weights."""
    groups = nn.GroupNorm(norm.groups, x.shape[1], norm.eps)
    groups.load_state_dict(norm.state_dict())
    return F.silu(groups(x))


@pytest.mark.parametrize("out_channels", [8, 12])
def test_diffits_cell_is_equations_9_and_10(out_channels):
    # x^ = conv(silu(norm(x))); y = Block(x^, x_t) + x, where x is the cell's input, not normed.
    torch.manual_seed(0)
    cell = awake(DiffiTCell(8, out_channels, token_width=6, heads=2, window=2)).eval()
    x, token = 2 * torch.randn(2, 8, 4, 4) + 1, torch.randn(2, 6)
    inner = F.conv2d(normed(cell.norm, x), cell.conv.weight, cell.conv.bias, padding=1)
    block = from_windows(cell.block(to_windows(inner, 2), token), 2, 4)
    skip = x if out_channels == 8 else F.conv2d(x, cell.skip.weight, cell.skip.bias)
    assert torch.allclose(cell(x, token), block + skip, atol=1e-5)


@pytest.mark.parametrize("out_channels", [8, 12])
def test_the_plain_transformers_cell_adds_the_time_to_its_tokens(out_channels):
    # y = Block(skip(x) + W x_t)
    torch.manual_seed(0)
    cell = awake(TransformerCell(8, out_channels, token_width=6, heads=2, window=2)).eval()
    x, token = torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    skip = x if out_channels == 8 else F.conv2d(x, cell.skip.weight, cell.skip.bias)
    time = token @ cell.time.weight.T + cell.time.bias
    tokens = to_windows(skip + time[:, :, None, None], 2)
    assert torch.allclose(cell(x, token), from_windows(cell.block(tokens, token), 2, 4), atol=1e-5)


@pytest.mark.parametrize("modulation", ["scale_shift", "add"])
@pytest.mark.parametrize("resample", [None, "down"])
def test_adms_cell_is_its_formula(modulation, resample):
    torch.manual_seed(0)
    change = None if resample is None else Resample(resample)
    cell = awake(
        ResidualCell(
            8, 12, 6, resample=change, modulation=modulation, skip_scale=0.5**0.5, eps=1e-6
        )
    ).eval()
    x, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    moved = nn.Identity() if resample is None else nn.AvgPool2d(2)
    h = F.conv2d(moved(normed(cell.norm0, x)), cell.conv0.weight, cell.conv0.bias, padding=1)
    affine = (embedding @ cell.affine.weight.T + cell.affine.bias)[:, :, None, None]
    if modulation == "add":
        h = normed(cell.norm1, h + affine)
    else:
        scale, shift = affine[:, :12], affine[:, 12:]
        plain = F.group_norm(h, cell.norm1.groups, cell.norm1.weight, cell.norm1.bias, 1e-6)
        h = F.silu((1 + scale) * plain + shift)
    h = F.conv2d(h, cell.conv1.weight, cell.conv1.bias, padding=1)
    skip = F.conv2d(moved(x), cell.skip.weight, cell.skip.bias)
    assert torch.allclose(cell(x, embedding), (skip + h) / 2**0.5, atol=1e-5)


@pytest.mark.parametrize("layer_scale", [None, 0.3])
def test_the_inception_cell_is_its_formula(layer_scale):
    # x = x + s_1 mixer(m_1(LN(x))); x = x + s_2 MLP(m_2(LN(x))); m_i(h) = (1 + scale) h + shift
    torch.manual_seed(0)
    cell = awake(InceptionCell(16, 4, 2, embedding_width=6, layer_scale=layer_scale)).eval()
    x, embedding = torch.randn(2, 16, 6, 6), torch.randn(2, 6)
    scale_1, shift_1, scale_2, shift_2 = (
        embedding @ cell.affine.weight.T + cell.affine.bias
    ).chunk(4, dim=1)
    ones = (1.0, 1.0) if layer_scale is None else cell.scales[:, None, None]

    def norm(h, layer):
        return F.layer_norm(h, (16,), layer.weight, layer.bias, 1e-6)

    pixels = x.permute(0, 2, 3, 1)
    h = norm(pixels, cell.norm1) * (1 + scale_1[:, None, None]) + shift_1[:, None, None]
    pixels = pixels + ones[0] * cell.mixer(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    h = norm(pixels, cell.norm2) * (1 + scale_2[:, None, None]) + shift_2[:, None, None]
    first, _, second = cell.mlp
    h = F.gelu(h @ first.weight.T + first.bias) @ second.weight.T + second.bias
    expected = (pixels + ones[1] * h).permute(0, 3, 1, 2)
    assert torch.allclose(cell(x, embedding), expected, atol=1e-5)
