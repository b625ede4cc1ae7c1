"""Receipts: all that an image depends on, written beside it, so that it can be made again.

A receipt is one JSON object. It names what was asked for (seeds, classes, batches), the account of
the pipeline (`account`: every part's settings and the digests of all weights), the digests of
Overtone's code and of the training data, the versions of packages, the hardware, and the digest of
the pixels. It holds no path and no name of a machine or of a user.

    batch = next(pipe.stream(request))
    receipt = Receipts(pipe, request, model="you/digits").of_image(batch, 0)
    save_png(to_pil(batch.images[0]), "seven.png", receipt)

An image depends on its own seed, its class and the settings; across batches and machines products
of matrices round differently. So the batch in which an image was made belongs to its receipt, and
`overtone replay` makes that batch again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from overtone import settings
from overtone.errors import OvertoneError
from overtone.launch import Processes
from overtone.pipelines.batches import SampleBatch
from overtone.pipelines.environment import Environment, environment
from overtone.pipelines.evaluations import expected_evaluations
from overtone.pipelines.load import public_model
from overtone.pipelines.seeds import seeds_of, text_of
from overtone.ranges import Batch, Count, NotNegative, Seed, Share, Whole, check_fields

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline
    from overtone.pipelines.request import Request

VERSION = 1
ACCOUNT = (
    *("network", "preconditioning", "process", "sampler", "guidance", "start", "weights"),
    *("precision", "guide", "vae"),
)
"""what `account` may say"""


@dataclass(frozen=True)
class Edit:
    """The picture that an image was made from."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    picture: str
    """The digest of the picture's pixels, in the size of the model's images."""
    mask: str | None = None
    strength: Share = 0.5
    resamples: Whole | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Receipt:
    """What some images depend on; with a `seed` it is that of one image."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    account: dict[str, Any]
    """The settings of every part, the digests of all weights, and the precision
    (`pipelines.account`)."""
    seeds: str
    """The seeds that were asked for together, such as "0-63" or "3,5,8-12"."""
    batch_size: Batch
    receipt: Count = VERSION
    class_labels: tuple[Whole, ...] = ()
    """The classes, which the seeds take in turn. A model without classes has none."""
    processes: Count = 1
    """The number of processes that shared the seeds, in turn."""
    model: str = ""
    """The public name of the model."""
    seed: Seed | None = None
    """The seed of the image."""
    pixels: str | None = None
    """The SHA-256 of the image's bytes, channels first."""
    evaluations: NotNegative | None = None
    """The function evaluations that the image took, guidance and first stages included."""
    finish: str | None = None
    compile: bool = False
    edit: Edit | None = None
    training: dict[str, Any] = field(default_factory=dict)
    """How the model was trained, with the digest of its data."""
    environment: Environment = field(default_factory=Environment)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.receipt > VERSION:
            raise ValueError(f"it is a receipt of version {self.receipt}, and {VERSION} is known")
        if wrong := sorted({*self.account} - {*ACCOUNT}):
            raise ValueError(f"'{wrong[0]}' is nothing that a receipt holds")
        for name in ("weights", "sampler", "guidance", "precision", "start"):
            if name not in self.account:
                raise ValueError(f"'{name}' is missing")
        if self.seed is not None and self.seed not in seeds_of(self.seeds):
            raise ValueError(f"its seed {self.seed} is none of its seeds")

    def as_json(self) -> dict[str, Any]:
        """One flat JSON object; what is not known is left out."""
        dumped = settings.dump(self)
        account = dumped.pop("account")
        kept = {name: value for name, value in dumped.items() if value not in (None, {}, [])}
        return kept | account

    @classmethod
    def from_json(cls, data: Any, where: str) -> Receipt:
        """The receipt in a JSON object. Raises `OvertoneError` for what is none."""
        if not isinstance(data, dict) or "receipt" not in data:
            raise OvertoneError(f"{where} holds no receipt.")
        known = {f.name for f in fields(cls)} - {"account"}
        own = {name: value for name, value in data.items() if name in known}
        rest = {name: value for name, value in data.items() if name not in known}
        found = settings.load(cls, own | {"account": rest}, where)
        seeds_of(found.seeds)
        return found

    def class_of(self, seed: int) -> int | None:
        """The class of a seed's image; None for a model without classes."""
        labels = self.class_labels
        return labels[seeds_of(self.seeds).index(seed) % len(labels)] if labels else None

    def batch_of(self, seed: int) -> tuple[list[int], list[int] | None]:
        """The seeds and the classes of the batch in which the image of a seed was made. Raises
        `OvertoneError` for a seed that was not asked for."""
        seeds = seeds_of(self.seeds)
        if seed not in seeds:
            raise OvertoneError(f"the receipt is of the seeds {self.seeds:.80}, and not of {seed}.")
        place = seeds.index(seed)
        share = range(place % self.processes, len(seeds), self.processes)
        at = place // self.processes // self.batch_size * self.batch_size
        places = share[at : at + self.batch_size]
        labels = self.class_labels
        chosen = [labels[i % len(labels)] for i in places] if labels else None
        return [seeds[i] for i in places], chosen


class Receipts:
    """The receipts of a request's images, of which the digests are taken once.

    `model` is the name that may be published; `processes` share the request's seeds.
    """

    def __init__(
        self,
        pipe: Pipeline,
        request: Request,
        *,
        model: str = "",
        processes: Processes | None = None,
        finish: str | None = None,
        compile: bool = False,
        edit: Edit | None = None,
    ) -> None:
        request = pipe.settled(request)
        labels = pipe.labels(request)
        self.whole = Receipt(
            account=pipe.made_with(request),
            seeds=text_of(request.seeds),
            batch_size=max(1, min(request.batch_size, len(request.seeds))),
            class_labels=() if labels is None else _in_turn(labels.tolist()),
            processes=1 if processes is None else processes.count,
            model=model,
            evaluations=None if edit else expected_evaluations(pipe, request).total,
            finish=finish,
            compile=compile,
            edit=edit,
            training={name: _published(value) for name, value in pipe.training.items()},
            environment=environment(pipe),
        )

    def of_image(self, batch: SampleBatch, place: int) -> Receipt:
        """The receipt of one image of a batch, which holds no more than its batch."""
        labels = batch.class_labels
        return replace(
            self.whole,
            seeds=text_of(batch.seeds),
            class_labels=() if labels is None else _in_turn(labels.tolist()),
            batch_size=len(batch.seeds),
            processes=1,
            seed=batch.seeds[place],
            pixels=digest_of_pixels(batch.images[place]),
        )


def _published(value: Any) -> Any:
    """A fact about the training as it may be published: of a path the last part."""
    if not isinstance(value, str) or "/" not in value:
        return value
    return public_model(value) if not value.startswith(("/", "~")) else value.rpartition("/")[2]


def digest_of_pixels(image: Tensor) -> str:
    """SHA-256 of a uint8 image (channels, height, width)."""
    return hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).hexdigest()


def _in_turn(labels: Sequence[int]) -> tuple[int, ...]:
    """The shortest list that the labels are when it is repeated."""
    for period in range(1, min(len(labels), 1001)):
        if all(label == labels[i % period] for i, label in enumerate(labels)):
            return tuple(labels[:period])
    return tuple(labels)


def account_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of what two accounts differ in, like "sampler.num_steps"."""
    found = []
    for name in sorted({*one, *other}):
        own, its = one.get(name), other.get(name)
        if isinstance(own, dict) and isinstance(its, dict):
            found += [f"{name}.{inner}" for inner in account_differences(own, its)]
        elif own != its:
            found.append(name)
    return found
