"""Time-dependent self-attention (DiffiT, arXiv 2312.02139, equations 3-6), the textbook's way."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class WrittenTMSA(nn.Module):
    """TMSA with the weights of one of Overtone's: the time's part added to every token, an explicit
    matrix of scores, the bias gathered at each call."""

    index: Tensor

    def __init__(self, tmsa: Any) -> None:
        super().__init__()
        self.tmsa = tmsa
        height, width = tmsa.bias.size
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        dy, dx = (c.flatten()[:, None] - c.flatten() for c in (y, x))
        self.register_buffer("index", (dy + height - 1) * (2 * width - 1) + dx + width - 1)

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        tmsa, (batch, windows, tokens, width) = self.tmsa, x.shape
        heads = tmsa.attend.heads
        time = token[:, None, None].expand(-1, windows, tokens, -1)
        qkv = tmsa.qkv(x) + tmsa.qkv_time(time)
        q, k, v = qkv.view(batch, windows, tokens, 3, heads, -1).permute(3, 0, 1, 4, 2, 5)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // heads)
        scores = scores + tmsa.bias.table[self.index].permute(2, 0, 1)
        out = scores.softmax(dim=-1) @ v
        out = out.transpose(2, 3).reshape(batch, windows, tokens, width)
        return tmsa.proj(out)
