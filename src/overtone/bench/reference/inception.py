"""The inception cell (MEME, on the iFormer mixer of arXiv 2205.12956), the textbook's way."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WrittenCell(nn.Module):
    """The cell with the weights of one of Overtone's: features channels-first, an explicit matrix
    of scores."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        cell = self.cell
        scale_1, shift_1, scale_2, shift_2 = cell.affine(embedding)[:, :, None, None].chunk(4, 1)
        x = x + self._mixed((1 + scale_1) * _normed(x, cell.norm1) + shift_1)
        h = ((1 + scale_2) * _normed(x, cell.norm2) + shift_2).permute(0, 2, 3, 1)
        return cast(Tensor, x + cell.mlp(h).permute(0, 3, 1, 2))

    def _mixed(self, x: Tensor) -> Tensor:
        mixer = self.cell.mixer
        conv, pool, low = x.split(mixer.split, dim=1)
        conv = F.gelu(mixer.conv(mixer.conv_in(conv)))
        pool = F.gelu(mixer.pool_in(F.max_pool2d(pool, 3, 1, 1)))
        batch, channels, height, width = low.shape
        tokens = low.flatten(2).transpose(1, 2)
        qkv = mixer.qkv(tokens).view(batch, height * width, 3, mixer.low_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        out = (weights @ v).transpose(1, 2).reshape(batch, height * width, channels)
        low = out.transpose(1, 2).reshape(batch, channels, height, width)
        mixed = torch.cat((conv, pool, low), dim=1)
        return cast(Tensor, mixer.proj(mixed + mixer.fuse(mixed)))


def _normed(x: Tensor, layer: nn.Module) -> Tensor:
    return cast(Tensor, layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
