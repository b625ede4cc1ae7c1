"""What every network has: settings it was built from, and a directory it is saved in."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from overtone import settings, storage
from overtone.errors import OvertoneError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def digest_of(network: nn.Module) -> str:
    """SHA-256 of the weights, by name, shortened to 16 digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def compile_network(model: nn.Module, **options: Any) -> None:
    """torch.compile the block that a network in `model` repeats, once for all of them, or else the
    whole model. `options` are torch.compile's."""
    networks = [module for module in model.modules() if isinstance(module, Network)]
    for part in [block for network in networks for block in network.repeated_blocks()] or [model]:
        part.compile(**options)


def multiply_adds(network: Network) -> int:
    """Multiply-adds of one image: half of what torch's flop counter counts in convolutions and
    linear layers. Attention's two products are left out, as in the figures that papers give.
    Nothing is computed."""
    from torch.utils.flop_counter import FlopCounterMode

    config = network.config
    shadow = copy.deepcopy(network).to("meta")
    x = torch.empty(1, config.channels, config.resolution, config.resolution, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(x, torch.empty(1, device="meta"))
    counts = counter.get_flop_counts()["Global"]
    products = ("bmm", "attention")  # on this device attention is computed as batched products
    return sum(n for kind, n in counts.items() if not any(p in str(kind) for p in products)) // 2


class Network(nn.Module):
    """A module built from one settings dataclass, `config`, and saved with it.

    `config` has at least `resolution`, `channels` (of the image) and `num_classes` (0 for an
    unconditional network). Class labels are integers in [0, num_classes); the label num_classes
    is the null class, the one that stands for "no class asked for".
    """

    config_class: ClassVar[type]
    gradient_checkpointing: bool = False
    """compute blocks again in the backward pass instead of keeping their features; for networks
    with `repeated_blocks`"""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; the directory appears whole or not at all."""
        with storage.new_directory(Path(folder), known=self._saved()) as temporary:
            self.write_into(temporary)

    def _saved(self) -> Collection[str]:
        """Names of what `save_pretrained` writes."""
        return CONFIG_FILE, WEIGHTS_FILE

    def write_into(self, folder: Path) -> None:
        """The two files of `save_pretrained`, into a directory that exists."""
        storage.write_json(folder / CONFIG_FILE, settings.dump(self.config))
        storage.save_tensors(folder / WEIGHTS_FILE, self.state_dict())

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> Self:
        """The network saved in a directory or in a repository of the Hub, in eval mode."""
        folder = storage.locate(name, revision)
        config = storage.read_json(folder / CONFIG_FILE)
        config = settings.load(cls.config_class, config, str(folder / CONFIG_FILE))
        try:
            network = cls(config)
        except (ValueError, TypeError, RuntimeError) as error:  # torch's own are of every kind
            raise OvertoneError(f"{folder / CONFIG_FILE}: {error}.") from None
        network.load_weights(storage.load_tensors(folder / WEIGHTS_FILE), str(folder))
        return network.eval()

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to the Hub; returns the URL of the commit."""
        import tempfile

        with tempfile.TemporaryDirectory() as temporary:
            self.save_pretrained(Path(temporary) / "network")
            return storage.push(Path(temporary) / "network", repo_id, private=private, token=token)

    def load_weights(self, weights: dict[str, Tensor], where: str) -> None:
        """Like `load_state_dict`, with an error in one line for weights of another network."""
        own = self.state_dict()
        missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
        if missing or extra:
            raise OvertoneError(
                f"{where}: the weights are not those of this {type(self).__name__}:"
                f" {len(missing)} tensors missing {missing[:2]}, {len(extra)} unknown {extra[:2]}."
            )
        for name, tensor in weights.items():
            if tensor.shape != own[name].shape:
                raise OvertoneError(
                    f"{where}: tensor '{name}' is {tuple(tensor.shape)},"
                    f" config.json asks for {tuple(own[name].shape)}."
                )
        self.load_state_dict(weights)

    def to_fast_layout(self) -> Self:
        """Channels-last convolution weights, the layout in which CPUs and GPUs convolve fastest."""
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def repeated_blocks(self) -> list[nn.Module]:
        """The blocks of one shape that most of the network consists of, if it does."""
        return []

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
