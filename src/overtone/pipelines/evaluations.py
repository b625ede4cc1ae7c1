"""Function evaluations: how many times networks are called for an image, guidance included.

One image through one network is one evaluation. Classifier-free guidance, which asks the network
twice, counts 2 where it acts and 1 outside its interval; an expert's call counts as one, as does a
guide's, and a solution operator's whole trajectory. A first stage's are counted by themselves. What
a VAE, a classifier or an operator's temporal layers do is no evaluation.

`counting` counts them as they happen, `evaluations_of` knows them before anything is made: it runs
the sampler itself, with networks in the place of the model's that only return zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from overtone.denoisers.denoiser import Model
from overtone.errors import OvertoneError
from overtone.networks.dsno import OperatorNetwork
from overtone.networks.network import Network
from overtone.networks.spectral import TimeAxis
from overtone.pipelines.request import Request
from overtone.pipelines.starts import Start
from overtone.processes.noise import SeededNoise
from overtone.ranges import Steps
from overtone.samplers.loop import SamplingLoop

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline

MOST_STEPS = int(get_args(Steps)[1].high)
BEYOND = 4
"""numbers of steps that are tried behind the first that does not fit"""


@dataclass(frozen=True)
class Evaluations:
    """Function evaluations per image, guidance included."""

    own: float
    """The evaluations of the model's network, or of its experts, and of the guide."""
    first: float | None = 0.0
    """The evaluations of a first stage's networks. None means that they are not known."""

    @property
    def total(self) -> float | None:
        return None if self.first is None else self.own + self.first


class Counter:
    """How many images went through each network, by its name: "network", or "expert 1", that of the
    lowest noise levels, and so on; "guide"."""

    def __init__(self, own: Sequence[str], first: Sequence[str] | None) -> None:
        self.own = dict.fromkeys(own, 0)
        self.first = None if first is None else dict.fromkeys(first, 0)
        """of the first stage; None where its networks are not known"""

    def an_image(self, images: int) -> Evaluations:
        """What has been counted, divided by the number of images that were made."""
        if images < 1:
            raise OvertoneError(f"evaluations are counted for one image or more, not {images}.")
        first = None if self.first is None else sum(self.first.values()) / images
        return Evaluations(sum(self.own.values()) / images, first)


@contextmanager
def counting(pipe: Pipeline, guide: Pipeline | None = None) -> Iterator[Counter]:
    """Counts the evaluations of a pipeline's networks, its first stage's and a guide's, while it
    makes images:

        with counting(pipe) as counter:
            pipe(seeds=range(16), guidance_scale=2.0)
        counter.an_image(16).own

    Calls are counted where a denoiser asks its network, so that a compiled network counts as any
    other. Whoever calls them in the meantime is counted.
    """
    own, first = _own_networks(pipe, guide), _first_networks(pipe.start)
    counter = Counter(_names(own), None if first is None else _names(first))
    seen: set[int] = set()
    with ExitStack() as stack:
        for rows, networks in ((counter.own, own), (counter.first, first)):
            for name, module in networks or []:
                if id(module) in seen:  # a guide may be what it guides
                    continue
                seen.add(id(module))
                handle = module.register_forward_hook(_hook(rows, name), with_kwargs=True)
                stack.callback(handle.remove)
        yield counter


def expected_evaluations(pipe: Pipeline, request: Request) -> Evaluations:
    """What a request will take, an image. The sampler's steps are taken with networks that return
    zeros, on the host; a first stage makes nothing. Raises `OvertoneError` for what can't be asked
    of the pipeline."""
    request = pipe.settled(request)
    return Evaluations(_expected_own(pipe, request), _expected_first(pipe, request))


def evaluations_of(pipe: Pipeline, request: Request) -> float:
    """Function evaluations per image that a request will take, a first stage's included.

    Raises `OvertoneError` for what can't be asked of the pipeline, and for a first stage that is a
    function, a pipeline of diffusers or a stage of somebody's own: what those call is not known
    before they run.
    """
    request = pipe.settled(request)
    return _known_first(pipe, request) + _expected_own(pipe, request)


def request_within(pipe: Pipeline, request: Request, evaluations: float) -> Request:
    """The request with as many steps as `evaluations` per image allow, a first stage's included.

    Found by bisection, as evaluations do not become fewer with more steps; a few numbers beyond are
    tried as well, for samplers of somebody's own. Where steps can't be chosen the request comes
    back as it is. Raises `OvertoneError` where none fits, and as `evaluations_of`.
    """
    if isinstance(evaluations, bool) or not isinstance(evaluations, int | float):
        raise OvertoneError(f"a number of evaluations is a number, not {evaluations!r}.")
    if not 1 <= evaluations < math.inf:
        raise OvertoneError(f"a number of evaluations must be at least 1, not {evaluations}.")
    first = _known_first(pipe, request)
    search = _Search(pipe, request, evaluations - first)
    steps = search.most()
    if steps:
        return replace(request, steps=steps)
    if not search.counts:  # it takes its own number of steps, and no other
        fewest = _expected_own(pipe, request)
        if fewest + first <= evaluations:
            return request
    else:
        fewest = _expected_own(pipe, replace(request, steps=min(search.counts)))
    more = f", {first:g} of them for its first stage" if first else ""
    raise OvertoneError(
        f"no number of steps fits into {evaluations:g} function evaluations per image: this model"
        f" takes {fewest + first:g} or more{more}: ask for as many."
    )


class _Search:
    """The number of steps that fits best."""

    def __init__(self, pipe: Pipeline, request: Request, most: float) -> None:
        self.pipe, self.request, self.budget = pipe, request, most
        self.counts: dict[int, float] = {}
        """evaluations by the number of steps, or some number above the budget"""

    def most(self) -> int:
        """The largest number of steps that fits; 0 for none."""
        fitting, steps = 0, 1
        while steps <= MOST_STEPS:
            if self.fits(steps):
                fitting = steps
            elif fitting or steps in self.counts:
                break
            steps *= 2
        if not fitting:  # too few steps were none, and twice as many too many
            between = range(steps // 2 + 1, min(steps, MOST_STEPS + 1) if self.counts else 0)
            return max((number for number in between if self.fits(number)), default=0)
        above = min(steps, MOST_STEPS + 1)
        while above - fitting > 1:
            middle = (fitting + above) // 2
            fitting, above = (middle, above) if self.fits(middle) else (fitting, middle)
        beyond = range(above, min(above + BEYOND, MOST_STEPS + 1))
        return max((number for number in beyond if self.fits(number)), default=fitting)

    def fits(self, steps: int) -> bool:
        if steps not in self.counts:
            try:
                count = _expected_own(self.pipe, replace(self.request, steps=steps), self.budget)
            except OvertoneError:  # a number of steps that the sampler can't take
                return False
            self.counts[steps] = count
        return self.counts[steps] <= self.budget


# What networks there are.

Named = list[tuple[str, nn.Module]]


def _own_networks(pipe: Pipeline, guide: Pipeline | None) -> Named:
    own = _asked(pipe.denoiser, "network", "expert")
    return own if guide is None else own + _asked(guide.denoiser, "guide", "guide's expert")


def _asked(model: Model, one: str, several: str) -> Named:
    """The denoisers in a model that ask a network themselves."""
    every = [module for module in model.modules() if isinstance(module, Model)]
    inner = [
        module
        for module in every
        if not any(isinstance(other, Model) for other in module.modules() if other is not module)
    ]
    if len(inner) == 1:
        return [(one, inner[0])]
    return [(f"{several} {number}", module) for number, module in enumerate(inner, 1)]


def _first_networks(start: Start) -> Named | None:
    """Those of a first stage, and of its own first stage; None where they are not known."""
    stage = start.stage
    if stage is None:
        return []
    if stage.pipeline is None:
        return None if stage.networks is None else list(stage.networks.items())
    behind = _first_networks(stage.pipeline.start)
    if behind is None:
        return None
    own = _own_networks(stage.pipeline, None)
    return own + [(f"first stage's {name}", module) for name, module in behind]


def _names(networks: Named) -> list[str]:
    return [name for name, _ in networks]


def _hook(rows: Any, name: str) -> Any:
    def count(module: nn.Module, args: Any, named: dict[str, Any], out: Any) -> None:
        given = (*args, *named.values())
        rows[name] += len(next(x for x in given if isinstance(x, Tensor) and x.dim() > 1))

    return count


# What stands in their places.


def _known_first(pipe: Pipeline, request: Request) -> float:
    first = _expected_first(pipe, request)
    if first is None:
        raise OvertoneError(
            "the function evaluations of the first stage, a"
            f" {type(pipe.start.stage).__name__}, can't be told before it runs:"
            " overtone.pipelines.counting counts them while it does."
        )
    return first


def _expected_first(pipe: Pipeline, request: Request) -> float | None:
    stage = pipe.start.stage
    if stage is None:
        return 0.0
    if stage.pipeline is None:
        return 0.0 if stage.networks == {} else None
    one = _one_image(pipe, request)
    first = Request(one.seeds, one.class_labels, sampler=request.first_sampler)
    return expected_evaluations(stage.pipeline, first).total


def _expected_own(pipe: Pipeline, request: Request, most: float = math.inf) -> float:
    """Evaluations of one image; counting ends where there are more than `most`."""
    guide = None if request.guide is None else _hollow(request.guide)
    own, asked = _hollow(pipe), replace(_one_image(pipe, request), guide=guide, first_sampler=None)
    with counting(own, guide) as counter:
        for _ in own.begin(asked).steps:
            if counter.an_image(1).own > most:
                break
    return counter.an_image(1).own


def _one_image(pipe: Pipeline, request: Request) -> Request:
    """The first of the images asked for."""
    if not len(request.seeds):
        raise OvertoneError("there are no seeds, and so nothing to evaluate.")
    labels = pipe.labels(request)
    return request.part(slice(0, 1), None if labels is None else labels[:1])


def _hollow(pipe: Pipeline) -> Pipeline:
    """The same pipeline without its weights."""
    hollow = type(pipe)(
        _hollow_network(pipe.network),
        pipe.sampler,
        preconditioning=pipe.preconditioning,
        process=pipe.process,
        guidance=None,
        start=_HollowStart(pipe.start),
        image_resolution=pipe.image_resolution,
        class_names=pipe.class_names,
        precision="fp32",
    )
    hollow.denoiser.has_null_class = pipe.denoiser.has_null_class
    hollow.guidance = pipe.guidance
    return hollow


class _HollowNetwork(Network):
    """Zeros in the shape of a network's output."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.config)
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)  # which says: on the host
        own = network.experts
        self.networks = None if own is None else nn.ModuleList(map(_hollow_network, own))

    @property
    def experts(self) -> Any:
        return self.networks

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor | None = None) -> Tensor:
        out = torch.zeros_like(x)
        return torch.cat((out, out), dim=1) if self.config.learns_variance else out


class _HollowOperator(OperatorNetwork):
    """The same of a network of trajectories."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.config)
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.axis = TimeAxis()

    def at_times(self, x: Tensor, times: Tensor, class_labels: Tensor | None) -> Tensor:
        return torch.zeros_like(x)


def _hollow_network(network: Network) -> Network:
    operator = network.config.makes_trajectories
    return _HollowOperator(network) if operator else _HollowNetwork(network)


@dataclass(frozen=True)
class _HollowStart(Start):
    """Nothing, where and with the steps that a start would begin."""

    own: Any = field(metadata={"saved": False})
    level: float | None = field(default=None, metadata={"saved": False})

    def joined(self, pipe: Any) -> Start:
        return self

    def begun(self, sampler: SamplingLoop) -> tuple[Start, SamplingLoop]:
        begin, sampler = self.own.begun(sampler)
        return replace(self, level=begin.level), sampler

    def source(self, seeds: Sequence[int], resolution: int | tuple[int, int]) -> SeededNoise:
        return self.own.source(seeds, resolution)

    def labels(
        self, seeds: Sequence[int], num_classes: int, class_names: Sequence[str]
    ) -> list[int] | None:
        return self.own.labels(seeds, num_classes, class_names)

    def __call__(self, like: Tensor, *others: Any) -> Tensor:
        return torch.zeros_like(like)
