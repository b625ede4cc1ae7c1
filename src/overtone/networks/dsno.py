"""DSNO: networks that return a whole trajectory (Zheng et al. 2022, arXiv 2211.13449).

Any network becomes one: what it does at each time stays as it is, all times at once in the batch,
and temporal convolutions between its cells let the times know of each other. Called as

    network(x, times, class_labels, last_only)

x (batch, channels, height, width) the noise that the trajectory begins with, times (M,) the
network's own time of each state that is wanted; returns (batch, M, channels, height, width), or the
last of the M alone.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone.networks.attention import SelfAttention
from overtone.networks.cells import ResidualCell
from overtone.networks.configs.dsno import DSNOConfig, TemporalConfig
from overtone.networks.foreign import DiffusersNetwork
from overtone.networks.layers import ClassEmbedding, Features, Resample, precise, sinusoids
from overtone.networks.network import ClassTable, Network
from overtone.networks.spectral import TemporalCell, TemporalTokens, TimeAxis
from overtone.networks.unet import Cells, Place, UNet

MOST_ADDED = 0.1
"""share of a network's parameters that its temporal layers may have"""


class OperatorNetwork(Network):
    """What networks of trajectories have in common: the times, folded into the batch."""

    axis: TimeAxis

    def forward(
        self,
        x: Features,
        times: Float[Tensor, " times"],
        class_labels: Int[Tensor, " batch"] | None = None,
        last_only: bool = False,
    ) -> Float[Tensor, "batch some_times channels height width"]:
        batch, count = x.shape[0], len(times)
        every = x[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
        if class_labels is not None:
            class_labels = class_labels.repeat_interleave(count, output_size=batch * count)
        self.axis.count, self.axis.last_only = count, last_only
        out = self.at_times(every, times.repeat(batch), class_labels)
        states = out[:, : x.shape[1]].unflatten(0, (batch, -1))
        return states[:, -1:] if last_only else states  # of networks that compute every time

    @abstractmethod
    def at_times(
        self, x: Tensor, times: Tensor, class_labels: Tensor | None
    ) -> Float[Tensor, "some channels height width"]:
        """The network on (batch times) images, each at its time."""


class TemporalNetwork(OperatorNetwork):
    """A network of any kind with a temporal convolution behind each of its cells: in a U behind
    those of each level and the first of the middle, in a transformer behind each block. A network
    that names no such places (`temporal_spots`) gets one behind its output. If the network learns a
    variance, that half of the channels is left out.
    """

    config_class = TemporalConfig
    config: TemporalConfig

    def __init__(self, config: TemporalConfig, network: Network | None = None) -> None:
        super().__init__(config)
        self.network = config.network.build() if network is None else network
        self.axis = TimeAxis()
        self.behind: TemporalCell | None = None
        spots = list(self.network.temporal_spots())
        if not spots:
            own = config.network
            channels = own.channels * (2 if own.learns_variance else 1)
            self.behind = cell = TemporalCell(nn.Identity(), channels, config.modes, self.axis)
        for spot in spots:
            kind = TemporalTokens if spot.tokens else TemporalCell
            inner = spot.parent[spot.number]
            cell = kind(inner, spot.channels, config.modes, self.axis, config.groups)
            spot.parent[spot.number] = cell
        cell.is_last = not spots or self.network.ends_alone

    @property
    def within(self) -> Network:
        return self.network

    def tensors_of(self, source: Network) -> dict[str, Tensor]:
        if source.within is not source:
            return dict(source.state_dict())
        before = {id(tensor) for tensor in source.state_dict(keep_vars=True).values()}
        wrapped = TemporalNetwork(self.config, source)  # which moves its parts
        every = wrapped.state_dict(keep_vars=True).items()
        return {name: tensor.detach() for name, tensor in every if id(tensor) in before}

    def class_tables(self) -> Iterator[ClassTable]:
        for table in self.network.class_tables():
            yield table._replace(name=f"network.{table.name}")

    def at_times(self, x: Tensor, times: Tensor, class_labels: Tensor | None) -> Tensor:
        out = self.network(x, times, class_labels)
        return out if self.behind is None else self.behind(out)


def temporalize(network: nn.Module, modes: int = 2, groups: int | None = None) -> TemporalNetwork:
    """A copy of a network, one of Overtone's or a diffusers `UNet2DModel`, with temporal layers in
    it. They start at zero: at first it is the network, run at each time by itself.

    `groups` of channels: if none are given, as few as add less than a tenth to the parameters.
    Raises `ValueError` for a network of another kind.

    Examples:
        >>> from overtone import ADMConfig, ADMUNet
        >>> network = ADMUNet(ADMConfig(resolution=8, widths=(64,), attention_resolutions=()))
        >>> noise, times = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 0.25, 0.0])
        >>> temporalize(network)(noise, times).shape  # an image at each of three times
        torch.Size([2, 3, 3, 8, 8])
    """
    if not isinstance(network, Network):  # diffusers' own class, which knows nothing of ours
        if not hasattr(network, "config"):
            raise ValueError(f"a {type(network).__name__} can't be given temporal layers")
        network = DiffusersNetwork.of(network)
    network = copy.deepcopy(network)
    if network.config.augmentation_channels:
        # Augmentation was of training images: here nothing would ever call it.
        network.config = network.config.with_augmentation(0)
        for module in network.modules():
            if hasattr(module, "augment"):
                setattr(module, "augment", None)  # noqa: B010, of a type unknown here
    spots = list(network.temporal_spots())
    if groups is None and spots:
        widths = [spot.channels for spot in spots]
        most = MOST_ADDED * network.num_parameters
        fits = (
            g
            for g in range(1, min(widths) + 1)
            if not any(w % g for w in widths)
            and sum((2 * modes - 1) * w * w // g for w in widths) < most
        )
        groups = next(fits, math.gcd(*widths))
    return TemporalNetwork(TemporalConfig(network.config, modes, groups or 1), network)


_EPS, _GROUPS = 1e-6, 32  # of the published network: the groups of attention's and the last norm


class _DSNOCells(Cells):
    """Residual cells with a temporal layer behind each of a level's, and the middle's first."""

    def __init__(self, config: DSNOConfig, axis: TimeAxis) -> None:
        self.config, self.axis = config, axis

    def cell(self, in_channels: int, out_channels: int, place: Place) -> nn.Module:
        config, attention = self.config, None
        middle = place.stage == "middle"
        first = place.number == 0
        if first if middle else place.resolution in config.attention_resolutions:
            width = config.head_channels or out_channels // config.heads
            if out_channels % width:
                raise ValueError(f"width {out_channels} does not divide into heads of {width}")
            heads = out_channels // width
            attention = SelfAttention(out_channels, heads, _EPS, groups=_GROUPS)
        cell = self._residual(in_channels, out_channels, attention)
        if middle and not first:
            return cell
        return TemporalCell(cell, out_channels, config.modes, self.axis)

    def down(self, channels: int) -> nn.Module:
        return self._residual(channels, channels, resample=Resample("down"))

    def up(self, channels: int) -> nn.Module:
        return self._residual(channels, channels, resample=Resample("up"))

    def _residual(
        self,
        in_channels: int,
        out_channels: int,
        attention: nn.Module | None = None,
        resample: Resample | None = None,
    ) -> ResidualCell:
        config = self.config
        return ResidualCell(
            in_channels,
            out_channels,
            config.embedding_width,
            attention,
            config.dropout,
            resample,
            _EPS,
        )


class DSNOUNet(OperatorNetwork):
    """DSNO's published network (Zheng et al. 2022, arXiv 2211.13449).

    Its time is t in [0, 1] of `VPCosineSchedule` with the same log-SNRs: alpha = cos(a t + b), and
    the angle is what is embedded.
    """

    config_class = DSNOConfig
    config: DSNOConfig

    def __init__(self, config: DSNOConfig | None = None) -> None:
        config = config or DSNOConfig()
        super().__init__(config)
        width = config.embedding_width
        self.lin0 = nn.Linear(config.frequencies, width)
        self.lin1 = nn.Linear(width, width)
        self.classes = ClassEmbedding(config.num_classes, width) if config.num_classes else None
        self.axis = TimeAxis()
        self.unet = UNet(
            _DSNOCells(config, self.axis),
            config.resolution,
            config.channels,
            config.channels,
            config.widths,
            (config.num_cells,) * len(config.widths),
            num_middle=2,
            eps=_EPS,
            head_groups=_GROUPS,
        )
        *_, last = (cell for cell in self.unet.decoder.modules() if isinstance(cell, TemporalCell))
        last.is_last = True

    def at_times(self, x: Tensor, times: Tensor, class_labels: Tensor | None) -> Tensor:
        low, high = (math.atan(math.exp(-s / 2)) for s in self._log_snrs)
        angle = (low + precise(times) * (high - low)) / (math.pi / 2)
        waves = sinusoids(1000 * angle, self.config.frequencies, to_the_end=True)
        embedding = torch.cat(waves.chunk(2, dim=1)[::-1], dim=1)  # here the sines come first
        embedding = embedding.to(self.lin0.weight.dtype)
        embedding = self.lin1(F.silu(self.lin0(embedding)))
        if self.classes is not None and class_labels is not None:
            embedding = embedding + self.classes(class_labels)
        return self.unet(x, F.silu(embedding))

    @property
    def _log_snrs(self) -> tuple[float, float]:
        return self.config.log_snr_max, self.config.log_snr_min
