"""EDM's and relay diffusion's checkpoints: pickles of objects, read without executing them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from overtone.convert.checkpoints import from_published
from overtone.convert.pickle_machine import Record
from overtone.convert.published import GUIDANCE, PROCESSES, SAMPLERS, RelayName
from overtone.convert.told import plain, whole, wholes
from overtone.convert.unpickle import check_owned, read_checkpoint, state_of
from overtone.denoisers.preconditioning import Preconditioning
from overtone.digests import digest_of_file
from overtone.errors import OvertoneError, unknown
from overtone.networks.network import Network, digest_of
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.systems import RelayPipeline
from overtone.sizes import sides

MOST_SETTINGS = 1000


@dataclass
class Converted:
    """A network out of a checkpoint, and what the certificate says of it."""

    network: Network
    preconditioning: Preconditioning
    settings: dict[str, Any]
    file: Path

    def certificate(self, kind: str) -> dict[str, Any]:
        """Digests of the file and of the weights, and the settings that the file names."""
        return {
            "kind": kind,
            "file": self.file.name,
            "file_sha256": digest_of_file(self.file),
            "settings": self.settings,
            "parameters": self.network.num_parameters,
            "weights": digest_of(self.network),
        }


def read_network(file: Path) -> Converted:
    """The EMA's network in a `.pkl` or `.pt` of EDM's or of relay diffusion's training.

    Settings are those the network was built with, as the file records them. Raises `OvertoneError`
    for files that hold anything else; see `overtone.convert.unpickle` for what is refused.
    """
    data = read_checkpoint(file)
    net = data.get("ema") if isinstance(data, dict) else None
    if not isinstance(net, Record):
        raise OvertoneError(f"{file} holds no network under 'ema', as EDM's checkpoints do.")
    if net.kind != "EDMPrecond":
        kind = net.kind[:80]
        raise OvertoneError(
            f"{file}: the preconditioning {kind} is not supported, only EDM's own, EDMPrecond."
        )
    parts = net.state.get("_modules")
    model = parts.get("model") if isinstance(parts, dict) else None
    if not isinstance(model, Record):
        raise OvertoneError(f"{file}: its EDMPrecond holds no model.")
    settings = _settings(file, model, net)
    state = state_of(net)
    check_owned(state, str(file))
    _check_size(file, state, settings)
    denoiser: Any = from_published("edm", state, settings)
    return Converted(denoiser.network, denoiser.preconditioning, settings, file)


def _settings(file: Path, model: Record, net: Record) -> dict[str, Any]:
    """What the network was built with, as its file says."""
    settings: dict[str, Any] = {}
    for record in (model, net):  # what both are told, the outer one has to know
        told = record.state.get("_init_kwargs", {})
        told = told.state if isinstance(told, Record) else told
        if not isinstance(told, dict) or len(told) > MOST_SETTINGS:
            raise OvertoneError(f"{file}: the settings of its {record.kind} are damaged.")
        settings |= {name: plain(value) for name, value in told.items() if isinstance(name, str)}
        names = ("img_resolution", "img_channels", "label_dim", "sigma_data")
        settings |= {name: plain(record.state[name]) for name in names if name in record.state}
    return settings | {"model_type": model.kind}


def edm_pipeline(converted: Converted, sampler: str | None = None) -> Pipeline:
    """The pipeline of one of EDM's networks, with a sampler of `SAMPLERS` by name; by default the
    published one for its resolution and classes."""
    config: Any = converted.network.config
    if sampler is None:
        small = "cifar10" if max(sides(config.resolution)) <= 32 else "ffhq64"
        sampler = "imagenet64" if config.num_classes >= 1000 else small
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    # Trained without dropping labels, as EDM's are, it has no null class to guide with.
    told = converted.settings.get("label_dropout")
    share = float(told) if isinstance(told, int | float) and 0 <= told <= 1 else 0.0
    dropout = {"label dropout": share}
    return Pipeline(
        converted.network,
        SAMPLERS[sampler],
        preconditioning=converted.preconditioning,
        training=dropout,
    )


def relay_pipeline(first: Converted, second: Converted) -> Pipeline:
    """Both stages of relay diffusion: with classes ImageNet's settings, without CelebA-HQ's."""
    config: Any = second.network.config
    name: RelayName = "imagenet" if config.num_classes else "celebahq"
    pipe = RelayPipeline(
        second.network,
        SAMPLERS[f"relay-{name}-256"],
        preconditioning=second.preconditioning,
        process=PROCESSES[name],
        guidance=GUIDANCE[name],
    )
    pipe.first = edm_pipeline(first, f"relay-{name}-64")
    return pipe


def _check_size(file: Path, state: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Raises `OvertoneError` for settings whose widths alone ask for more numbers than the file
    holds, before anything is built."""
    held = sum(tensor.numel() for tensor in state.values())
    try:
        width, labels = whole(settings, "model_channels", 1), whole(settings, "label_dim", 0)
        embedding = whole(settings, "channel_mult_emb", 4)
        levels = wholes(settings, "channel_mult", [1])
    except OvertoneError as error:
        raise OvertoneError(f"{file}: {error}") from None
    least = 9 * sum((width * m) ** 2 for m in levels) + (width * embedding) ** 2
    least += labels * width
    if least > held:
        raise OvertoneError(
            f"{file}: its settings are of a network of more than {least / 1e6:.1f} M parameters,"
            f" and it holds {held / 1e6:.1f} M."
        )
