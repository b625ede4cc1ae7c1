"""An iU-Net that holds the weights of several ratios of convolution to attention at once.

Each training step takes one of the ratios, a slice of the same weights, so that all see the same
images: which ratio is the better at which noise level is then no matter of luck in training, and
each expert can begin with its slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from overtone.denoisers import NetworkDenoiser
from overtone.networks import IUNet, IUNetConfig
from overtone.networks.inception import InceptionCell, InceptionMixer
from overtone.networks.layers import zero


class SuperMixer(nn.Module):
    """`InceptionMixer` with each of several numbers of heads that attend.

    A ratio takes the channels from the front that convolve, those behind them that pool, and those
    at the end that attend; the weights of a channel are the same in every ratio that gives it the
    same work.
    """

    def __init__(self, channels: int, heads: int, low_heads: Sequence[int], pool: int) -> None:
        super().__init__()
        self.number, width = 0, channels // heads
        with torch.device("meta"):
            own = [InceptionMixer(channels, heads, low, pool) for low in low_heads]
        self._templates = own  # whose shapes and forward are used, and no weights
        self.lows = [low * width for low in low_heads]
        most, high = max(self.lows), channels - min(self.lows)
        self.channels, self.most = channels, most
        self.conv_in = nn.Conv2d(high // 2, high, 1, bias=False)
        self.conv = nn.Conv2d(high, high, 3, padding=1, groups=high, bias=False)
        self.pool_in = nn.Conv2d(high, 2 * high, 1)
        self.qkv = nn.Linear(most, 3 * most)
        self.fuse_conv, self.fuse_pool, self.fuse_low = (
            nn.Conv2d(n, n, 3, padding=1, groups=n, bias=False) for n in (high, 2 * high, most)
        )
        self.proj = zero(nn.Conv2d(high + 2 * high + most, channels, 1))

    def sliced(self, number: int) -> dict[str, Tensor]:
        """The weights of the mixer of a ratio, by their names there."""
        low = self.lows[number]
        high = self.channels - low
        half, widest = high // 2, self.conv.weight.shape[0]
        last = slice(self.most - low, self.most)
        pooled = slice(high, 2 * high)  # two outputs for each channel from high / 2 on
        qkv = self.qkv.weight.view(3, self.most, self.most)[:, last, last]
        fused = (
            self.fuse_conv.weight[:high],
            self.fuse_pool.weight[pooled],
            self.fuse_low.weight[last],
        )
        proj = self.proj.weight
        at = widest + 2 * widest
        columns = (proj[:, :high], proj[:, widest:at][:, pooled], proj[:, at:][:, last])
        bias = self.pool_in.bias
        assert bias is not None
        assert self.proj.bias is not None
        return {
            "conv_in.weight": self.conv_in.weight[:high, :half],
            "conv.weight": self.conv.weight[:high],
            "pool_in.weight": self.pool_in.weight[pooled, half:high],
            "pool_in.bias": bias[pooled],
            "qkv.weight": qkv.reshape(3 * low, low),
            "qkv.bias": self.qkv.bias.view(3, self.most)[:, last].reshape(-1),
            "fuse.weight": torch.cat(fused),
            "proj.weight": torch.cat(columns, dim=1),
            "proj.bias": self.proj.bias,
        }

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self._templates[self.number], self.sliced(self.number), (x,))


class Supernet(IUNet):
    """An iU-Net of `count` experts' ratios; in training a forward takes one of them at random."""

    def __init__(self, config: IUNetConfig, count: int = 4) -> None:
        super().__init__(config)
        self.count, self.number = count, 0
        self.shapes = [config.for_expert(n, count) for n in range(1, count + 1)]
        level = {width: n for n, width in enumerate(config.widths)}
        for cell in self._cells():
            channels = cell.mixer.proj.out_channels
            lows = [shape.attending[level[channels]] for shape in self.shapes]
            heads = channels // config.head_channels
            cell.mixer = SuperMixer(channels, heads, lows, cell.mixer.pool)  # type: ignore[assignment]

    def _cells(self) -> Iterator[InceptionCell]:
        return (module for module in self.modules() if isinstance(module, InceptionCell))

    def forward(self, *arguments: Any) -> Any:
        number = int(torch.randint(self.count, ())) if self.training else self.number
        for cell in self._cells():
            cell.mixer.number = number  # type: ignore[assignment]
        return super().forward(*arguments)

    def expert(self, number: int) -> IUNet:
        """The network of a ratio by itself, counted from 0, with a copy of its weights."""
        network = IUNet(replace(self.shapes[number], num_classes=self.config.num_classes))
        weights = {
            name: value for name, value in self.state_dict().items() if ".mixer." not in name
        }
        for name, module in self.named_modules():
            if isinstance(module, SuperMixer):
                own = module.sliced(number)
                weights |= {f"{name}.{key}": value.detach().clone() for key, value in own.items()}
        network.load_state_dict(weights)
        return network.eval()


def expert_denoisers(denoiser: NetworkDenoiser) -> list[NetworkDenoiser]:
    """A denoiser for each ratio of a supernet."""
    network: Any = denoiser.network
    return [
        NetworkDenoiser(network.expert(n), denoiser.preconditioning) for n in range(network.count)
    ]
