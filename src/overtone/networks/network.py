"""What every network has: settings it was built from, and a directory it is saved in."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from overtone import settings, storage
from overtone.errors import OvertoneError
from overtone.networks.bounds import TooLargeError, check_numbers, check_tensors, stored, within
from overtone.networks.configs.network import NetworkConfig
from overtone.networks.layers import ClassEmbedding
from overtone.registry import check_registered, said
from overtone.sizes import sides

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def digest_of(network: nn.Module) -> str:
    """SHA-256 of the weights, by name, shortened to 16 digits."""
    return digest_of_tensors(network.state_dict())


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors, by name, shortened to 16 digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def compile_network(model: nn.Module, **options: Any) -> None:
    """torch.compile the block that a network in `model` repeats, once for all of them, or else the
    whole model. `options` are torch.compile's."""
    networks = [module for module in model.modules() if isinstance(module, Network)]
    for part in [block for network in networks for block in network.repeated_blocks()] or [model]:
        part.compile(**options)


@cache
def why_no_compiler(kind: str) -> str:
    """Why torch.compile does not work on a kind of device; "" where it does, which is tried."""
    try:
        torch.compile(_doubled)(torch.ones(8, device=kind))
    except Exception as error:  # whatever a compiler, or the want of one, raises
        return said(error)
    return ""


def _doubled(x: Tensor) -> Tensor:
    return 2 * x + 1


def multiply_adds(network: Network, times: int = 1) -> int:
    """Multiply-adds of one image: half of what torch's flop counter counts in convolutions and
    linear layers. An operator's are those of as many `times` of a trajectory. Attention's two
    products are left out, as in the figures that papers give. Nothing is computed."""
    from torch.utils.flop_counter import FlopCounterMode

    config = network.config
    shadow = copy.deepcopy(network).to("meta")
    x = torch.empty(1, config.channels, *sides(config.resolution), device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(x, torch.empty(times, device="meta"))
    counts = counter.get_flop_counts()["Global"]
    products = ("bmm", "attention")  # on this device attention is computed as batched products
    return sum(n for kind, n in counts.items() if not any(p in str(kind) for p in products)) // 2


class Spot(NamedTuple):
    """Where a temporal layer goes: behind `parent[number]`, whose output has so many channels."""

    parent: nn.ModuleList
    number: int
    channels: int
    tokens: bool = False
    """Whether features are (batch, windows, tokens, channels), as in a transformer."""


class ClassTable(NamedTuple):
    """A tensor with a vector for each class along `axis`, and perhaps one behind them for none.
    What the network adds is `scale` times the vector."""

    name: str
    axis: int = 0
    scale: float = 1.0


class Network(nn.Module):
    """A module built from one settings dataclass, `config`, and saved with it.

    `config`, a `NetworkConfig`, has at least `resolution`, `channels` (of the image) and
    `num_classes` (0 for an unconditional network). Called as `network(x, time, class_labels)`: x
    (batch, channels, height, width), time (batch,), labels integers in [0, num_classes], where
    num_classes, the null class, and None ask for no class.

    A network of one's own derives from this class; what its settings need is in `NetworkConfig`.
    """

    config_class: ClassVar[type] = NetworkConfig
    """The class of the network's settings, as `from_pretrained` reads them."""
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping their features, where a network
    has `repeated_blocks`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def save_pretrained(self, folder: str | Path, dtype: Any = None) -> None:
        """Write config.json and model.safetensors; the directory appears whole or not at all.

        `dtype`, "float16" or "bfloat16" or torch's own, halves the file; it is read as float32.
        """
        with storage.new_directory(Path(folder), known=self._saved()) as temporary:
            self.write_into(temporary, dtype)

    def _saved(self) -> Collection[str]:
        """Names of what `save_pretrained` writes."""
        return CONFIG_FILE, WEIGHTS_FILE

    def write_into(self, folder: Path, dtype: Any = None) -> None:
        """The two files of `save_pretrained`, into a directory that exists."""
        self.check_loads_again()
        storage.write_json(folder / CONFIG_FILE, settings.dump(self.config))
        state = self.state_dict()
        tensors = {name: storage.converted(name, value, dtype) for name, value in state.items()}
        storage.save_tensors(folder / WEIGHTS_FILE, tensors)

    def is_exact_in(self, dtype: Any) -> bool:
        """Whether weights saved in a type, as in `save_pretrained`, are the very same weights."""
        state = self.state_dict()
        return dtype is None or all(
            torch.equal(storage.converted(name, value, dtype).to(value.dtype), value)
            for name, value in state.items()
        )

    def check_size(self) -> None:
        """Raises `OvertoneError` if a network with these settings can't make images of their
        resolution. It is tried with tensors without numbers, which costs nothing."""
        own: Any = self.config
        shape = (own.channels, *sides(own.resolution))
        x = torch.empty(1, *shape, device="meta")
        labels = torch.zeros(1, dtype=torch.int64, device="meta") if own.num_classes else None
        try:
            with torch.no_grad():
                out = build_empty(own).eval()(x, torch.empty(1, device="meta"), labels)
        except Exception as error:  # whatever a foreign module raises
            raise OvertoneError(
                f"the network fails on an image of shape {shape}, which its settings name:"
                f" {said(error)}."
            ) from None
        if out.shape[2:] != x.shape[2:]:
            made, wanted = tuple(out.shape[1:]), shape
            raise OvertoneError(f"the network makes {made} of an image of shape {wanted}.")

    def check_output(self) -> None:
        """Raises `OvertoneError` if somebody else's network does not return what `Network` says,
        which is tried on two images. Overtone's own networks are not tried."""
        own: Any = self.config
        if not own.is_foreign or own.makes_trajectories:
            return
        first = next(self.parameters(), torch.empty(()))
        x = torch.zeros(2, own.channels, *sides(own.resolution), device=first.device)
        labels = torch.zeros(2, dtype=torch.int64, device=x.device) if own.num_classes else None
        training = self.training
        try:
            with torch.enable_grad():
                out = self.eval()(x, torch.full((2,), 0.5, device=x.device), labels)
        except Exception as error:  # whatever a foreign module raises
            raise OvertoneError(
                f"a {own.kind} fails on two images of shape {tuple(x.shape[1:])}: {said(error)}."
            ) from error
        finally:
            self.train(training)
        wanted = (2, own.channels * (2 if own.learns_variance else 1), *x.shape[2:])
        there = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        if there != wanted:
            raise OvertoneError(
                f"a {own.kind} returns {there} for images of shape {tuple(x.shape)}: it has to"
                f" return {wanted}."
            )
        if any(p.requires_grad for p in self.parameters()) and not out.requires_grad:
            raise OvertoneError(
                f"a {own.kind} returns numbers that do not depend on its parameters ({out.dtype},"
                " without a gradient): it could learn nothing."
            )

    def check_loads_again(self) -> None:
        """Raises `OvertoneError` if the network's settings would not build it again."""
        check_registered(self.config)
        again = build_empty(self.config)
        own, other = (
            {name: tensor.shape for name, tensor in network.state_dict().items()}
            for network in (self, again)
        )
        if own != other:
            wrong = sorted(name for name in {**own, **other} if own.get(name) != other.get(name))
            raise OvertoneError(
                f"this {self.config.kind} could not be loaded again: its settings build a network"
                f" with other tensors ({', '.join(wrong[:3])}). Put all that decides the"
                " shapes of the weights into its settings."
            )

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> Self:
        """The network saved in a directory or in a repository of the Hub, in eval mode."""
        folder = storage.locate(name, revision)
        file = folder / CONFIG_FILE
        config: Any = settings.load(cls.config_class, storage.read_json(file, dict), str(file))
        with _building(config, str(file)):
            return config.restore(folder).eval()

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to the Hub; returns the URL of the commit."""
        import tempfile

        with tempfile.TemporaryDirectory() as temporary:
            self.save_pretrained(Path(temporary) / "network")
            return storage.push(Path(temporary) / "network", repo_id, private=private, token=token)

    def load_weights(self, weights: dict[str, Tensor], where: str) -> None:
        """Like `load_state_dict`, with an error in one line for weights of another network."""
        check_tensors(self.state_dict(), stored(weights), type(self).__name__, where)
        check_numbers(weights, where)
        self.load_state_dict(weights)

    def to_fast_layout(self) -> Self:
        """Channels-last convolution weights, the layout in which CPUs and GPUs convolve fastest."""
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def repeated_blocks(self) -> list[nn.Module]:
        """The blocks of one shape that most of the network consists of, if it does."""
        return []

    @property
    def experts(self) -> Iterable[Network] | None:
        """The networks that stand in the place of one, each for its noise levels; None for one."""
        return None

    def temporal_spots(self) -> Iterable[Spot]:
        """Where an operator's temporal layers go, in the order in which they are computed: behind
        each cell or block. A network that names none gets one behind its output."""
        return ()

    @property
    def ends_alone(self) -> bool:
        """Whether what is behind the last of these is computed for one time without the others:
        nothing from before the spot is added to it there. It saves time; False is always right."""
        return not self.config.is_foreign

    @property
    def within(self) -> Network:
        """The network itself; of one that was given temporal layers, the one that they are in."""
        return self

    def tensors_of(self, source: Network) -> dict[str, Tensor]:
        """The tensors of another network of this kind under the names that they have in this."""
        return dict(source.state_dict())

    def class_tables(self) -> Iterable[ClassTable]:
        """The tensors with a vector for each class."""
        for name, module in self.named_modules():
            if isinstance(module, ClassEmbedding):
                yield ClassTable(f"{name}.weight")

    def output_tensors(self) -> Mapping[str, int]:
        """The names of the last layer's tensors, whose rows are output channels, and in how many
        groups of all channels their rows come: one, or one for each pixel of a patch."""
        return {}

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def build(config: NetworkConfig, where: str = "network settings") -> Network:
    """The network of some settings, with random weights. `where` begins the message of an error.

    Raises `OvertoneError` for settings that no network can be built from, and, where the kind is
    somebody's own, for whatever goes wrong in it.
    """
    with _building(config, where):
        network = config.build()
    if not isinstance(network, Network) or network.config != config:
        raise OvertoneError(
            f"`build` of {type(config).__name__} returns a {type(network).__name__}: it has to"
            " return an overtone.networks.Network whose `config` is these settings."
        )
    return network


@contextmanager
def _building(config: Any, where: str) -> Iterator[None]:
    """Errors of settings that nothing can be built from, in one line."""
    try:
        yield
    except OvertoneError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:  # torch's own are of every kind
        raise OvertoneError(f"{where}: {error}.") from error
    except Exception as error:  # whatever a foreign class raises
        if not config.is_foreign:
            raise
        raise OvertoneError(f"a {config.kind} can't be built: {said(error)}.") from error


class _NoDraws(TorchFunctionMode):
    """Passes over the drawing of initial weights, for which torch imports its compiler where they
    are on the "meta" device: seconds, for weights that are not there."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **kwargs or {})


def build_empty(config: NetworkConfig, where: str = "network settings") -> Network:
    """The same without memory for its weights, where that is possible."""
    try:
        with torch.device("meta"), _NoDraws():
            return build(config, where)
    except TooLargeError:
        raise
    except OvertoneError:
        if not config.is_foreign:
            raise
        return build(config, where)  # such a network may compute with its weights as it is built


def read_network(config: NetworkConfig, folder: Path) -> Network:
    """The network with the weights in a directory. Nothing larger than these is built."""
    file, where = folder / WEIGHTS_FILE, str(folder)
    given = storage.stored_tensors(file)
    with within(given, where):
        empty = build_empty(config, str(folder / CONFIG_FILE))
    check_tensors(empty.state_dict(), given, type(empty).__name__, where)
    network = config.build()
    network.load_weights(storage.load_tensors(file), where)
    return network


def load_network(name: str | Path, revision: str | None = None) -> Network:
    """The network saved in a directory or in a repository of the Hub, of the kind that its
    config.json names, in eval mode."""
    return Network.from_pretrained(name, revision)
