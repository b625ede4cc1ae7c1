"""Where a network attends as it denoises: attention maps along the path from noise to image.

DiffiT's figure (Hatamizadeh et al. 2023, arXiv 2312.02139): the weights

    w = softmax(q k^T / sqrt(d) + B)

that one pixel's query gives to all tokens. Every attention layer of `overtone.networks` (TMSA in
windows or over all tokens, plain self-attention, the attention of inception cells) ends in an
`Attend`, whose inputs are all that the weights follow from: they are taken there by a hook, so
that what is shown is what the network attends with, and what it computes is not touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from overtone.denoisers.denoiser import Denoiser
from overtone.errors import OvertoneError, counted
from overtone.networks.attend import Attend, unpacked
from overtone.networks.layers import precise, without_autocast

T = TypeVar("T")
FEW = 3
"""layers that are shown by default, of a network of one resolution"""


class Attended(NamedTuple):
    """What a layer attends with in one call: the inputs of its `Attend`."""

    qkv: Tensor
    """Queries, keys and values are (rows, tokens, 3 width). Each window of each image is a row; the
    windows of an image stand together."""
    heads: int
    bias: Tensor | None
    memory: Tensor | None
    """The keys and values of the time's own token are (rows, more, 2 width)."""

    def of_rows(self, rows: slice) -> Attended:
        """The same of some rows."""
        bias, memory = self.bias, self.memory
        if bias is not None and bias.dim() == 4:  # one a row
            bias = bias[rows]
        return Attended(self.qkv[rows], self.heads, bias, None if memory is None else memory[rows])

    def weights(self, tokens: slice = slice(None)) -> Float[Tensor, "rows heads queries keys"]:
        """softmax(q k^T / sqrt(d) + B) for the queries of some tokens, in float32 or wider: the
        keys are all tokens of the window and, behind them, those of the memory."""
        q, k, _, bias = unpacked(precise(self.qkv), self.heads, self.bias, self.memory)
        with without_autocast(q):
            scores = q[:, :, tokens] @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            if bias is not None:
                scores = scores + bias[..., tokens, :]
            return scores.softmax(-1)


class Window(NamedTuple):
    """A rectangle of tokens, among those of the whole image."""

    top: int
    left: int
    rows: int
    columns: int


class AttentionMap(NamedTuple):
    """The weights that one pixel's query gives, in one layer and one call."""

    weights: Float[Tensor, "batch heads rows columns"]
    """The attention weights over the tokens of the whole image. They are 0 outside of the query's
    window."""
    time_share: Float[Tensor, "batch heads"]
    """The attention weight of the time's own token (`time_in` "separate"), 0 elsewhere. Together
    with the other weights it adds up to 1."""
    window: Window
    """The window that holds the query. In layers without windows it is the whole image."""

    def on_host(self) -> AttentionMap:
        """The same on the host."""
        return AttentionMap(_on_host(self.weights), _on_host(self.time_share), self.window)


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.cpu()


@dataclass(frozen=True)
class Query:
    """A pixel of `height` x `width` images, from the top left."""

    row: int
    column: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if not (0 <= self.row < self.height and 0 <= self.column < self.width):
            raise OvertoneError(
                f"the query, row {self.row} and column {self.column}, is outside of the image of"
                f" {self.height} x {self.width} px, whose rows are 0 to {self.height - 1} and"
                f" columns 0 to {self.width - 1}."
            )

    def map_of(self, asked: Attended, batch: int) -> AttentionMap:
        """The map of the token that the pixel lies in, for each of `batch` images.

        Windows cover an image row by row. How many rows and columns of tokens there are follows
        from their number and the image's shape.
        """
        windows, tokens = len(asked.qkv) // batch, asked.qkv.shape[1]
        down, across = self._grid(windows)
        rows, columns = self._grid(tokens) if windows == 1 else _square(tokens)
        height, width = down * rows, across * columns
        y, x = self.row * height // self.height, self.column * width // self.width
        number = y // rows * across + x // columns
        token = y % rows * columns + x % columns
        weights = asked.of_rows(slice(number, None, windows)).weights(slice(token, token + 1))
        weights = weights[:, :, 0]
        window = Window(y // rows * rows, x // columns * columns, rows, columns)
        whole = weights.new_zeros(batch, asked.heads, height, width)
        inside = weights[..., :tokens].unflatten(-1, (rows, columns))
        below, right = window.top + rows, window.left + columns
        whole[..., window.top : below, window.left : right] = inside
        return AttentionMap(whole, weights[..., tokens:].sum(-1), window)

    def _grid(self, count: int) -> tuple[int, int]:
        """The rows and columns of so many tokens, or windows, that are nearest to the image's
        shape."""
        pairs = ((n, count // n) for n in range(1, count + 1) if count % n == 0)
        shape = self.height / self.width
        return min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / shape)))


def _square(tokens: int) -> tuple[int, int]:
    side = math.isqrt(tokens)
    return side, side


def attention_layers(network: nn.Module) -> dict[str, Attend]:
    """The attention layers of a network by name, in the order in which they are called.

    A layer is called as its block is, the name up to the last number: unet.encoder.0.cells.1, as
    in `analysis.fourier`. Blocks with several layers give each its whole name.
    """
    found = {name: part for name, part in network.named_modules() if isinstance(part, Attend)}
    short = [_block_of(name) for name in found]
    names = [
        block if block and short.count(block) == 1 else name.rpartition(".")[0] or name
        for name, block in zip(found, short, strict=True)
    ]
    return dict(zip(names, found.values(), strict=True))


def _block_of(name: str) -> str:
    """A module's name up to its last number."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdecimal()), default=-1)
    return ".".join(parts[: last + 1])


@contextmanager
def attending(
    layers: Mapping[str, Attend], keep: Callable[[Attended], T]
) -> Iterator[dict[str, T]]:
    """Collects, while the block lasts, what `keep` makes of what each layer attends with: of its
    last call. The hooks are gone when the block ends. A compiled network tells nothing."""
    kept: dict[str, T] = {}
    handles = []

    def hook(name: str) -> Any:
        def tell(layer: Any, inputs: Any) -> None:
            qkv, bias, memory = (*inputs, None, None)[:3]
            with torch.no_grad():
                kept[name] = keep(Attended(qkv, layer.heads, bias, memory))

        return tell

    try:
        for name, layer in layers.items():
            handles.append(layer.register_forward_pre_hook(hook(name)))
        yield kept
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class AttentionPath:
    """Maps and estimates at the noise levels of a path, all on the host."""

    sigmas: list[float] = field(default_factory=list)
    estimates: list[Float[Tensor, "batch channels height width"]] = field(default_factory=list)
    """The estimates of the clean image by the calls that the maps were taken from."""
    maps: list[dict[str, AttentionMap]] = field(default_factory=list)
    """The maps of each layer at each noise level."""
    experts: list[int] = field(default_factory=list)
    """The number of the expert that was asked at each noise level, counted from 1, where the model
    has experts."""

    @property
    def layers(self) -> list[str]:
        """The layers that were watched, in the order of their calls."""
        return list(self.maps[0]) if self.maps else []


class Watch:
    """Which layers of a denoiser are watched, and for which pixel: checked before anything is
    computed.

    `names` are those of `attention_layers`, or their numbers in that order; none leaves the choice
    to `few`. Raises `OvertoneError` for an operator, for a network without attention layers of
    Overtone's, and for names and heads that do not exist.
    """

    def __init__(
        self, denoiser: Denoiser, query: Query, names: Sequence[str] = (), heads: Sequence[int] = ()
    ) -> None:
        if denoiser.is_operator:
            raise OvertoneError(
                "an operator makes the whole path in one evaluation: there are no noise levels to"
                " watch its attention at."
            )
        self.denoiser, self.query = denoiser, query
        self.networks = _networks_of(denoiser)
        every = [attention_layers(network) for network in self.networks]
        self.known = [name for name in every[0] if all(name in layers for layers in every)]
        if not self.known:
            raise OvertoneError(
                "the model has no attention layers to watch: they are in networks of Overtone's"
                " with TMSA or self-attention (and, of several experts, in all of them)."
            )
        self.names = list(dict.fromkeys(self._named(name) for name in names))
        for layers in every:
            for name in self.names or self.known if heads else ():
                _check_heads(name, layers[name].heads, heads)

    def _named(self, name: str) -> str:
        if name.isdecimal() and int(name) < len(self.known):
            return self.known[int(name)]
        if name not in self.known:
            listed = ", ".join(f"{number} {known}" for number, known in enumerate(self.known))
            raise OvertoneError(f"there is no attention layer '{name:.80}': they are {listed}.")
        return name

    def at(
        self, x: Tensor, sigma: float, class_labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, AttentionMap]]:
        """The denoiser's estimate and the maps of the layers, at one noise level."""
        expert = self.denoiser.expert_at(sigma)
        layers = attention_layers(self.networks[expert or 0])
        chosen = {name: layers[name] for name in self.names or self.known}
        with torch.no_grad(), attending(chosen, lambda a: self.query.map_of(a, len(x))) as maps:
            estimate = self.denoiser(x, sigma, class_labels).x_0
        if missing := [name for name in chosen if name not in maps]:
            raise OvertoneError(
                f"the attention layer {missing[0]} was not called, or is compiled: a compiled"
                " network can't be watched."
            )
        return estimate, {name: maps[name] for name in chosen}

    def along(
        self, path: Sequence[tuple[float, Tensor]], class_labels: Tensor | None = None
    ) -> AttentionPath:
        """Estimates and maps at the states (sigma, x) of a path. The model is asked once at each,
        without guidance."""
        found, names = AttentionPath(), self.names
        for sigma, x in path:
            estimate, maps = self.at(x, sigma, class_labels)
            names = names or few(maps)
            found.sigmas.append(sigma)
            found.estimates.append(_on_host(estimate))
            found.maps.append({name: maps[name].on_host() for name in names})
            expert = self.denoiser.expert_at(sigma)
            if expert is not None:
                found.experts.append(expert + 1)
        return found


def few(maps: Mapping[str, AttentionMap]) -> list[str]:
    """The last layer at each resolution; or, of one resolution, the first, the last and the one in
    the middle."""
    last = {found.weights.shape[-2:]: name for name, found in maps.items()}
    if len(last) > 1:
        return [name for name in maps if name in last.values()]
    names, count = list(maps), min(FEW, len(maps))
    return [names[round(i * (len(names) - 1) / max(count - 1, 1))] for i in range(count)]


def _networks_of(denoiser: Any) -> list[nn.Module]:
    """The network of a denoiser; or that of each expert, nearest to the clean image first."""
    parts = getattr(denoiser, "experts", None) or [denoiser]
    return [getattr(part, "network", part) for part in parts]


def _check_heads(name: str, count: int, heads: Sequence[int]) -> None:
    for head in heads:
        if not 0 <= head < count:
            raise OvertoneError(
                f"the attention layer {name} has {counted(count, 'head')}, number 0"
                + (f" to {count - 1}" if count > 1 else "")
                + f", and no head {head}."
            )
