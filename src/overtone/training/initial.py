"""Beginning a training with the weights of a model that is there.

What fits is copied: tensors of the same name and shape, the rows of classes that both models have,
and, where one network learns the reverse step's variance and the other does not, the part of the
last layer that both have. Everything else begins anew, as the network's own initialisation has it.
A table says which is which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overtone import settings, storage
from overtone.convert.opening import open_published
from overtone.data.names import absolute, text_of
from overtone.denoisers.preconditioning import Preconditioning
from overtone.errors import OvertoneError, counted
from overtone.networks.network import Network, digest_of
from overtone.networks.vae import FOLDER, VAE
from overtone.pipelines.load import load_pipeline
from overtone.runs import CHECKPOINTS, RECIPE_FILE, RUN_FILE, checkpoints_of, has_recipe
from overtone.training.open import check_made, open_vae

BEGUN = "initialised from"
KEYS = (BEGUN, "initial weights", "parameters copied")
"""what is written down of a model that began with another's weights"""
SHOWN = 4


@dataclass(frozen=True)
class Initial:
    """A model whose weights another begins with."""

    name: str
    """The public name."""
    module: nn.Module
    """The network, or the VAE."""
    class_names: tuple[str, ...] = ()
    preconditioning: Preconditioning | None = None

    def facts(self, copied: Copied) -> dict[str, str]:
        """What is written down of a model that began with it."""
        share = f"{copied.share:.1%}"
        return dict(zip(KEYS, (self.name, digest_of(self.module), share), strict=True))


@dataclass
class Copied:
    """What became of each tensor of a model that began with another's weights."""

    source: str
    whole: list[str] = field(default_factory=list)
    partly: dict[str, str] = field(default_factory=dict)
    anew: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    """The tensors of the source that have no place."""
    copied: int = 0
    values: int = 0

    @property
    def share(self) -> float:
        """The share of the model's numbers that were copied."""
        return self.copied / max(self.values, 1)

    def told(self) -> list[str]:
        """The table, a line each."""
        lines = [
            f"{self.source}: {counted(len(self.whole), 'tensor')} copied, {len(self.partly)} in"
            f" part, {len(self.anew)} begun at random: {self.share:.1%} of the parameters are those"
            f" of {self.source}"
        ]
        lines += [f"  in part    {name}: {why}" for name, why in self.partly.items()]
        lines += [
            f"  begun at random {name}: {why}" for name, why in list(self.anew.items())[:SHOWN]
        ]
        if (more := len(self.anew) - SHOWN) > 0:
            lines.append(f"  begun at random {counted(more, 'more tensor')}")
        if self.left:
            shown = ", ".join(self.left[:SHOWN]) + (", ..." if len(self.left) > SHOWN else "")
            many = counted(len(self.left), "tensor")
            lines.append(f"  without a place here: {shown} ({many} of the source)")
        return lines


def open_initial(name: str, number: int | None = None, count: int = 0) -> Initial:
    """The model to begin with: a pipeline, a run or a checkpoint of one, a diffusers pipeline, a
    repository of the Hub, or a file of published weights. Of a model of experts it is expert
    `number`, if there are `count` of them.

    Raises `OvertoneError` for anything else, saying what can be named.
    """
    check_made(name, "the model to begin with", "another --init")
    path = Path(name).expanduser()
    if _is_vae(path):
        raise OvertoneError(
            f"--init {name} is a VAE, which makes no images from noise: name the model of a"
            " denoiser, and pass a VAE as --vae."
        )
    try:
        pipe = open_published(path) if path.is_file() else load_pipeline(name)
    except OvertoneError as error:
        raise OvertoneError(f"--init {name}: {error}") from None
    network: Any = pipe.network
    if network.experts is not None:
        networks = list(network.experts)
        if number is None or len(networks) != count:
            raise OvertoneError(
                f"--init {name} is a model of {len(networks)} experts: name the run of one of them"
                f" ({name}/expert-1), or train a recipe of as many experts."
            )
        network = networks[number - 1]
    return Initial(_public(name), network, tuple(pipe.class_names), pipe.preconditioning)


def open_initial_vae(name: str) -> Initial:
    """The VAE to begin with. Raises `OvertoneError` for what is none."""
    try:
        return Initial(_public(name), open_vae(name, 1.0).model)
    except OvertoneError as error:
        raise OvertoneError(f"--init {name}: {error} A VAE begins with another VAE.") from None


def _public(name: str) -> str:
    """The name of a model as it may be published: of one on this machine its last parts, since a
    checkpoint's own name is a number."""
    return _local(name) if Path(name).expanduser().exists() else name


def _local(name: str) -> str:
    parts = Path(name).expanduser().resolve().parts
    return text_of("/".join(parts[-3 if parts[-2:-1] == (CHECKPOINTS,) else -1 :]))


def _is_vae(path: Path) -> bool:
    if (path / FOLDER).is_dir() and not (path / "pipeline.json").exists():
        return not (path / "model_index.json").exists()
    file = path / "config.json"
    if not file.exists():
        return any(_is_vae(folder) for folder in checkpoints_of(path)[-1:])
    return storage.read_json(file, dict).get("_class_name") in ("AutoencoderKL", "VQModel")


def known_facts(run: Path | None, name: str) -> dict[str, Any] | None:
    """What a run that has begun says of the model it began with, if that is the one of this name:
    its weights are in the run, and the model need not be there any more."""
    if run is None or not name or not checkpoints_of(run):
        return None
    known = storage.read_json(run / RUN_FILE, dict) if (run / RUN_FILE).exists() else {}
    facts = {key: known[key] for key in KEYS if key in known}
    if has_recipe(run):  # which tells models in other places apart
        begun = storage.read_json(run / RECIPE_FILE, dict).get("init")
        return facts if facts and begun in (name, absolute(name)) else None
    return facts if facts.get(BEGUN) in (name, _local(name)) else None


def begin_with(network: Network, initial: Initial, class_names: Sequence[str] = ()) -> Copied:
    """Copy into a network what fits of the weights of another.

    Raises `OvertoneError` for a network of another kind, and where nothing fits.
    """
    source: Any = initial.module
    own, theirs = network.within.config.kind, source.within.config.kind
    if own != theirs:
        raise OvertoneError(
            f"--init {initial.name} is a {theirs}, and the network to train is a {own}: their"
            f" weights mean different things. Train a recipe whose network is a {theirs}, such as"
            f" `overtone train images --init {initial.name}`, which takes over the network's"
            " settings."
        )
    rows = _ClassRows(initial, source, network, class_names)
    outputs = network.output_tensors()
    learned = [bool(n.within.config.learns_variance) for n in (source, network)]
    given = network.tensors_of(source)
    return _copied(network, given, initial.name, rows, outputs if learned[0] != learned[1] else {})


def begin_vae_with(vae: VAE, initial: Initial) -> Copied:
    """Copy into a VAE what fits of the weights of another."""
    given = dict(initial.module.state_dict())
    return _copied(vae.model, given, initial.name, None, {})


class _ClassRows:
    """Which rows of a table with a row for each class are taken from which rows of another."""

    def __init__(
        self, initial: Initial, source: Network, network: Network, class_names: Sequence[str]
    ) -> None:
        there: Any = source.within.config
        here: Any = network.within.config
        self.tables = {table.name: table for table in network.class_tables()}
        self.scales = {table.name: table.scale for table in source.class_tables()}
        self.counts = there.num_classes, here.num_classes
        old, new = initial.class_names, tuple(class_names)
        self.named = bool(old and new)
        if self.named:
            numbers = {name: number for number, name in enumerate(old)}
            self.pairs = [(numbers[n], k) for k, n in enumerate(new) if n in numbers]
        elif there.num_classes == here.num_classes:
            self.pairs = [(k, k) for k in range(here.num_classes)]
        else:
            self.pairs = []

    def fit(self, key: str, own: Tensor, theirs: Tensor) -> bool:
        """Whether a tensor is such a table in both, of vectors of one length."""
        table = self.tables.get(key)
        if table is None or own.ndim != 2 or theirs.ndim != 2:
            return False
        return own.shape[1 - table.axis] == theirs.shape[1 - table.axis]

    def copy(self, key: str, own: Tensor, theirs: Tensor) -> tuple[int, str]:
        """Copies the vectors that both have. Returns how many numbers that are, and says which
        classes, unless all."""
        table, pairs = self.tables[key], list(self.pairs)
        scale = self.scales.get(key, table.scale) / table.scale
        here, there = (tensor.movedim(table.axis, 0) for tensor in (own, theirs))
        # The row behind those of the classes stands for no class.
        if len(here) == self.counts[1] + 1 and len(there) == self.counts[0] + 1:
            pairs.append((self.counts[0], self.counts[1]))
        for old, new in pairs:
            here[new] = there[old] * scale
        if len(pairs) == len(here):
            return own.numel(), ""
        how = "the same name" if self.named else "the same number"
        classes = counted(self.counts[1], "class", "classes")
        null = " and the null class" if len(pairs) > len(self.pairs) else ""
        return len(pairs) * here[
            0
        ].numel(), f"{len(self.pairs)} of {classes} have {how} there{null}"


@torch.no_grad()
def _copied(
    module: nn.Module,
    given: dict[str, Tensor],
    name: str,
    rows: _ClassRows | None,
    outputs: Mapping[str, int],
) -> Copied:
    found = Copied(name)
    for key, own in module.state_dict().items():
        found.values += own.numel()
        theirs = given.pop(key, None)
        if theirs is None:
            found.anew[key] = f"{name} has no such tensor"
            continue
        theirs = theirs.to(own.device, own.dtype)
        if rows is not None and rows.fit(key, own, theirs):
            count, told = rows.copy(key, own, theirs)
            found.copied += count
            _note(found, key, count, told)
        elif own.shape == theirs.shape:
            own.copy_(theirs)
            found.whole.append(key)
            found.copied += own.numel()
        elif key in outputs and own.shape[1:] == theirs.shape[1:]:
            taken = _copy_output(own, theirs, outputs[key])
            found.partly[key] = "the output without the reverse step's variance"
            found.copied += taken
        else:
            found.anew[key] = (
                f"its shape is {tuple(theirs.shape)} there and {tuple(own.shape)} here"
            )
    found.left = list(given)
    if not found.copied:
        raise OvertoneError(
            f"--init {name} has nothing in common with the network to train: of its"
            f" {counted(len(given) + len(found.anew), 'tensor')} none fits. Choose its widths and"
            " cells as they are there (overtone info shows them)."
        )
    return found


def _note(found: Copied, key: str, count: int, told: str) -> None:
    if not told:
        found.whole.append(key)
    elif not count:
        found.anew[key] = told
    else:
        found.partly[key] = told


def _copy_output(own: Tensor, theirs: Tensor, groups: int) -> int:
    """Of a last layer whose rows come in groups, in each the output and then, in one of the two,
    the variance, the output; returns how many numbers that are."""
    here, there = (t.unflatten(0, (groups, -1)) for t in (own, theirs))
    size = min(here.shape[1], there.shape[1])
    here[:, :size] = there[:, :size]
    return here[:, :size].numel()


def difference_told(initial: Initial, preconditioning: Preconditioning) -> str:
    """A sentence where the weights were trained under another preconditioning than they will be."""
    there = initial.preconditioning
    if there is None or there == preconditioning:
        return ""
    return (
        f"{initial.name} was trained under the preconditioning {settings.brief(there)}, and this"
        f" recipe's is {settings.brief(preconditioning)}: the network's output meant something"
        " else, and training begins above the loss that it had."
    )
