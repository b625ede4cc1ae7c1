"""What is asked of a pipeline: one checked object, whoever asks."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

import torch
from jaxtyping import Int
from torch import Tensor

from overtone.errors import OvertoneError, unknown
from overtone.ranges import MOST_SEEDS

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline
    from overtone.samplers.loop import SamplingLoop

P = ParamSpec("P")
R = TypeVar("R")
Answer = TypeVar("Answer", covariant=True)

Labels = int | str | Sequence[int | str] | Tensor | None
"""Classes by number or by name, one for all images or one for each."""

ELSEWHERE = {
    "num_inference_steps": "steps",
    "generator": "seeds",
    "num_images_per_prompt": "seeds",
    "classes": "class_labels",
}
"""What arguments of other libraries are called here."""

WITHOUT = {
    "batch_size": "it answers for all seeds at once",
    "return_trajectory": "`trajectory` returns the states, and a call with it pictures of them",
}
"""Why some methods do not take an argument of a request."""


@dataclass(frozen=True)
class Request:
    """Which images are asked for, and how. The arguments of a call of a pipeline make one.

    Raises `OvertoneError` for what no pipeline could answer. What one pipeline can't answer is
    said when it is asked.

    Examples:
        >>> Request(range(16), class_labels=3, guidance_scale=1.5).seeds[:4]
        [0, 1, 2, 3]
    """

    seeds: Sequence[int]
    """The seeds, integers in [0, 2^32), one for each image: image k is drawn from `torch.Generator`
    with seed k."""
    class_labels: Labels = None
    """The class names or numbers in [0, num_classes), one for all images or one for each. None
    gives seed k the class k mod num_classes."""
    guidance_scale: float | None = None
    """The scale of classifier-free guidance, or of the guide's. 1 means none; None is the scale
    that the pipeline was saved with."""
    guidance_interval: tuple[float, float] | None = None
    """The (lowest, highest) sigma at which guidance acts. None is the pipeline's own."""
    steps: int | None = None
    """The number of noise levels that the sampler takes. None is its own number."""
    batch_size: int = 64
    """The number of images that are made at a time."""
    guide: Pipeline | None = None
    """A weaker model of the same images that guides in place of the model without classes
    (autoguidance)."""
    times: Sequence[float] | None = None
    """The times of an operator's states, t of the log-SNR cosine schedule, falling to 0. None
    stands for those that it was trained with."""
    return_trajectory: bool = False
    """Return the states along the trajectory of each image too, the image last."""
    guidance_high_scale: float | None = None
    """The guidance scale of the high frequencies. None is that of the low ones, or, where no scale
    is asked for, the pipeline's own."""
    evaluations: int | None = None
    """The function evaluations of an image, guidance and a first stage included. The sampler that
    was fitted for this number, and may take a few fewer, is used (`Pipeline.budgets`), or else the
    pipeline's own with as many steps as they allow; a message says so."""
    tolerance: float | None = None
    """The largest error that a fitted sampler may have: the root mean square distance to the
    converged images, whose values lie in [-1, 1]. It is above 0. The fitted sampler of the fewest
    function evaluations within it is used."""
    sampler: SamplingLoop | None = None
    """The sampler to use in place of the pipeline's own."""
    first_sampler: SamplingLoop | None = None
    """The sampler that a relay's first stage uses in place of its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", whole_seeds(self.seeds))
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise OvertoneError(f"a batch has at least one image, not {self.batch_size}.")
        self._check_numbers()
        if self.guide is not None and not hasattr(self.guide, "denoiser"):
            raise OvertoneError(f"guide is a pipeline, not {self.guide!r}.")
        self._check_sampler()
        times = self.times
        if times is not None:
            if isinstance(times, str) or not isinstance(times, Iterable):
                raise OvertoneError(f"times are several numbers that fall to 0, and not {times!r}.")
            object.__setattr__(self, "times", tuple(times))

    def _check_numbers(self) -> None:
        """Python's own numbers, from those of numpy and torch too."""
        scale, interval, steps = self.guidance_scale, self.guidance_interval, self.steps
        if scale is not None:
            object.__setattr__(self, "guidance_scale", _number("guidance_scale", scale))
        if self.guidance_high_scale is not None:
            high = _number("guidance_high_scale", self.guidance_high_scale)
            object.__setattr__(self, "guidance_high_scale", high)
        if steps is not None:
            if isinstance(steps, bool) or not hasattr(steps, "__index__"):
                raise OvertoneError(f"steps is a whole number, not {steps!r}.")
            object.__setattr__(self, "steps", operator.index(steps))
        if interval is not None:
            if isinstance(interval, str) or not hasattr(interval, "__len__") or len(interval) != 2:
                raise OvertoneError(
                    f"guidance_interval is two noise levels, (lowest, highest), not {interval!r}."
                )
            pair = tuple(_number("guidance_interval", sigma) for sigma in interval)
            object.__setattr__(self, "guidance_interval", pair)

    def _check_sampler(self) -> None:
        """One way at most of choosing it."""
        if self.evaluations is not None:
            wrong = isinstance(self.evaluations, bool) or not hasattr(self.evaluations, "__index__")
            if wrong or operator.index(self.evaluations) < 1:
                raise OvertoneError(
                    f"evaluations is a whole number of at least 1, not {self.evaluations!r}."
                )
            object.__setattr__(self, "evaluations", operator.index(self.evaluations))
        if self.tolerance is not None:
            tolerance = _number("tolerance", self.tolerance)
            if not 0 < tolerance < math.inf:
                raise OvertoneError(f"tolerance is a number above 0, not {self.tolerance!r}.")
            object.__setattr__(self, "tolerance", tolerance)
        ways = ("evaluations", "tolerance", "sampler", "steps")
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) > 1 and given != ["sampler", "steps"]:
            raise OvertoneError(
                f"{given[0]} and {given[1]} both say which steps are taken: give one of them."
            )
        for name in ("sampler", "first_sampler"):
            given_one = getattr(self, name)
            if given_one is not None and not hasattr(given_one, "sigma_start"):
                raise OvertoneError(f"{name} is a sampler, not {given_one!r}.")

    def part(self, part: slice, class_labels: Tensor | None) -> Request:
        """The same of some of the seeds, with their labels."""
        changes = {"seeds": self.seeds[part], "class_labels": class_labels}
        return Request(**{name: getattr(self, name) for name in _FIELDS} | changes)


_FIELDS = tuple(Request.__dataclass_fields__)


class Asked(Protocol[P, Answer]):
    """What a method that answers a request is called with."""

    @overload
    def __call__(self, request: Request, /) -> Answer: ...
    @overload
    def __call__(self, *args: P.args, **named: P.kwargs) -> Answer: ...


class AskedMethod(Protocol[P, Answer]):
    """The method, before it belongs to an object."""

    def __get__(self, instance: Any, owner: Any, /) -> Asked[P, Answer]: ...


def asking(
    request: Callable[P, Request], without: Sequence[str] = ()
) -> Callable[[Callable[[Any, Request], R]], AskedMethod[P, R]]:
    """Makes a method of one `Request` one that is called with what a request is made of, or with
    one that is there; it is given the request `settled`. Arguments in `without` would do nothing in
    it, and raise a `TypeError`."""

    def decorate(method: Callable[[Any, Request], R]) -> AskedMethod[P, R]:
        @functools.wraps(method)
        def call(self: Any, *args: P.args, **named: P.kwargs) -> R:
            if len(args) == 1 and not named and isinstance(args[0], Request):
                return method(self, self.settled(args[0]))
            given = {*_FIELDS[: len(args)], *named}
            if useless := [name for name in without if name in given]:
                name = call.__name__.lstrip("_")
                raise TypeError(f"{name} takes no '{useless[0]}': {WITHOUT[useless[0]]}")
            check_names(named)
            return method(self, self.settled(request(*args, **named)))

        own = inspect.signature(method)
        parameters = [
            next(iter(own.parameters.values())),
            *(
                parameter
                for name, parameter in inspect.signature(request).parameters.items()
                if name not in without
            ),
        ]
        call.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate


def check_names(named: Iterable[str]) -> None:
    """Raises `TypeError` for an argument of other libraries, and says what it is called here."""
    for name in named:
        if name in ELSEWHERE:
            raise TypeError(f"'{name}' is called '{ELSEWHERE[name]}' here")
        if name not in _FIELDS:
            raise TypeError(f"there is no argument '{name}': it is one of {', '.join(_FIELDS)}")


def _number(name: str, value: Any) -> float:
    if isinstance(value, str | bool) or not hasattr(value, "__float__"):
        raise OvertoneError(f"{name} is a number, not {value!r}.")
    return float(value)


def _seed(seed: Any) -> int:
    if isinstance(seed, bool):
        raise TypeError
    return operator.index(seed)


def whole_seeds(seeds: Any) -> list[int]:
    """Seeds as Python's integers: numpy's and torch's are taken too. Raises `OvertoneError` for
    what is none, and for more than `MOST_SEEDS`."""
    try:
        if isinstance(seeds, str | bytes | dict):
            raise TypeError
        found = [_seed(seed) for seed in itertools.islice(seeds, MOST_SEEDS + 1)]
        if len(found) <= MOST_SEEDS:
            return found
        raise OvertoneError(f"{MOST_SEEDS:,} seeds are the most at a time.")
    except TypeError:
        raise OvertoneError(
            f"seeds are several integers, like range(16) or [3, 4], and not {seeds!r}."
        ) from None


def labels_of(
    asked: Labels, seeds: Sequence[int], num_classes: int, class_names: Sequence[str]
) -> Int[Tensor, " batch"] | None:
    """The class of each image as a tensor on the host, checked; None for an unconditional model."""
    if not num_classes:
        if asked is not None:
            raise OvertoneError("class labels were given, but the model is unconditional.")
        return None
    if asked is None:
        return torch.tensor([seed % num_classes for seed in seeds], dtype=torch.int64)
    if isinstance(asked, str):
        asked = class_number(asked, num_classes, class_names)
    elif isinstance(asked, Sequence) and any(isinstance(entry, str) for entry in asked):
        asked = [
            class_number(entry, num_classes, class_names) if isinstance(entry, str) else entry
            for entry in asked
        ]
    try:
        labels = torch.as_tensor(asked)
        whole = labels.numel() == 0 or not (labels.is_floating_point() or labels.is_complex())
    except (TypeError, ValueError, RuntimeError):
        whole = False
    if not whole or labels.dim() > 1 or labels.dtype == torch.bool:
        raise OvertoneError(
            f"class labels are integers in 0..{num_classes - 1}, or class names, one for all images"
            " or one for each."
        )
    # Of fewer bits they would be taken for a mask where they index.
    labels = labels.to("cpu", torch.int64)
    labels = labels.expand(len(seeds)) if labels.dim() == 0 else labels
    if len(labels) != len(seeds):
        raise OvertoneError(
            f"there are {len(labels)} class labels for {len(seeds)} seeds: give one, or one for"
            " each seed."
        )
    if len(seeds) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        wrong = next(int(i) for i in labels if not 0 <= i < num_classes)
        raise OvertoneError(f"class label {wrong} is outside 0..{num_classes - 1}.")
    return labels


def class_number(name: str, num_classes: int, class_names: Sequence[str]) -> int:
    """A class by its name, or by its number in words. Raises `OvertoneError` for another."""
    if name in class_names:
        return list(class_names).index(name)
    if name.isdecimal() and int(name) < num_classes:
        return int(name)
    raise unknown("class", name, class_names or map(str, range(num_classes)))
