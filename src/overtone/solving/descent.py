"""Adam on a sampler's noise levels, and on the weights of its earlier estimates.

The loss is the error itself: the mean distance to the converged images, after all steps. Its
gradient comes from backpropagation through the sampler, where the activations fit into memory,
whole or one step's at a time, or from differences of the loss along random directions, where they
do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

from overtone import precision, storage
from overtone.samplers.estimates import MULTISTEP, triangle
from overtone.samplers.sampler import Sampler
from overtone.solving.problem import distance
from overtone.solving.unrolled import solved

if TYPE_CHECKING:
    from overtone.solving.problem import Problem, Told
    from overtone.solving.settings import FitSettings, Way

RATE = 0.05
"""Adam's learning rate at the beginning, from where it falls to 0 along half a cosine"""
DIFFERENCE, DIRECTIONS = 0.02, 2
"""how far, and along how many random directions, differences are taken"""
KEPT = 20
"""iterations between two writings of the state"""
LEAST_GAP, MARGIN = 1e-3, 1e-6
"""between the logarithms of two noise levels, and to the ends of guidance's interval"""


class Unknowns:
    """What is searched: gaps between ln sigma of the levels, weights, and ln of the epsilon
    scale."""

    def __init__(self, problem: Problem, began: Sampler, how: FitSettings, way: Way) -> None:
        levels = began.visited
        self.began, self.problem = began, problem
        self.top = -math.log(levels[0])
        lambdas = [-math.log(level) for level in levels]
        gaps = [math.log(b - a) for a, b in pairwise(lambdas)]
        self.gaps = torch.tensor(gaps, dtype=torch.float64)
        # By differences so many unknowns are not found.
        weighted = began.estimate in MULTISTEP and how.weights and way != "differences"
        rows = triangle(began.estimate, levels) if weighted else ()
        self.earlier = torch.tensor(rows, dtype=torch.float64)
        self.scale = torch.zeros((), dtype=torch.float64)
        free = [self.gaps] if len(gaps) else []
        free += [self.earlier] if rows else []
        free += [self.scale] if how.epsilon_scale else []
        self.free = [tensor.requires_grad_() for tensor in free]
        own = problem.pipe.sampler
        lowest = -math.log(own.visited[-1])
        self.limits = [_side(problem, level, lowest) for level in levels[1:]]

    @property
    def lambdas(self) -> Tensor:
        return self.top + self.gaps.exp().cumsum(0)

    def sigmas(self) -> list[Tensor]:
        top = torch.tensor(math.exp(-self.top), dtype=torch.float64)
        return [top, *(-self.lambdas).exp().unbind()]

    def loss(self, chosen: tuple[Tensor, Tensor, Tensor | None], way: Way) -> Tensor:
        """The error: the mean distance to the converged images, after all steps."""
        (x, target, labels), pipe = chosen, self.problem.pipe
        with precision.autocast(pipe.precision, pipe.device):
            made = solved(
                self.problem.denoiser,
                pipe.process,
                x,
                labels,
                self.sigmas(),
                self.earlier if len(self.earlier) else None,
                estimate=self.began.estimate,
                epsilon_scale=self.scale.exp() if self.scale.requires_grad else None,
                checkpointed=way == "checkpointed",
            )
        return distance(made, target).mean()

    @torch.no_grad()
    def bounded(self) -> None:
        """Put levels back that left the model's noise levels, or crossed to where an evaluation
        takes another number of calls."""
        place, kept = self.top, []
        for own, (low, high) in zip(self.lambdas.tolist(), self.limits, strict=True):
            place = max(min(max(own, low), high), place + LEAST_GAP)
            kept.append(place)
        gaps = [math.log(b - a) for a, b in pairwise([self.top, *kept])]
        self.gaps.copy_(torch.tensor(gaps, dtype=torch.float64))

    def sampler(self) -> Sampler:
        """The sampler that they stand for."""
        levels = (self.began.visited[0], *(math.exp(-v) for v in self.lambdas.tolist()))
        scale = float(self.scale.detach().exp()) if self.scale.requires_grad else 1.0
        return Sampler(
            num_steps=len(levels),
            levels=levels,
            estimate="weighted" if len(self.earlier) else self.began.estimate,
            earlier=tuple(self.earlier.tolist()),
            epsilon_scale=scale,
        )


def _side(problem: Problem, level: float, last: float) -> tuple[float, float]:
    """The limits of lambda = -ln sigma between which a level takes as many calls as it does."""
    low, high = problem.denoiser.alike_around(level)
    above = -math.log(high) + MARGIN if high < math.inf else -math.inf
    below = -math.log(low) - MARGIN if low > 0 else math.inf
    return above, max(min(last, below), above)


def descend(
    problem: Problem,
    began: Sampler,
    how: FitSettings,
    *,
    state: Path | None = None,
    told: Told = lambda done: None,
) -> Sampler:
    """A sampler as good as the one that it began with, or better. With a `state` file, an
    interrupted descent goes on where it was last written."""
    with frozen(problem.pipe.network):
        found = _descended(problem, began, how, state, told)
    both = {sampler: problem.error(sampler, told) for sampler in (began, found)}
    return min(both, key=lambda sampler: both[sampler])


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients of the weights, which nobody asks for here."""
    own = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in own:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in own:
            parameter.requires_grad_()


def _descended(
    problem: Problem, began: Sampler, how: FitSettings, state: Path | None, told: Told
) -> Sampler:
    way = how.way if how.way != "auto" else way_of(problem, began, how.batch_size)
    size = how.batch_size if way != "checkpointed" else micro_of(problem, began, how.batch_size)
    own = Unknowns(problem, began, how, way)
    if not own.free:
        return began
    adam = torch.optim.Adam(own.free, lr=RATE)
    done = _resumed(state, own, adam)
    calls = problem.calls_of(began)
    batch = min(how.batch_size, len(problem))
    for iteration in range(done, how.iterations):
        for group in adam.param_groups:
            group["lr"] = RATE / 2 * (1 + math.cos(math.pi * iteration / how.iterations))
        random = torch.Generator().manual_seed(iteration)
        chosen = torch.randperm(len(problem), generator=random)[:batch]
        adam.zero_grad()
        if way == "differences":
            _by_differences(own, problem.chosen(chosen), random)
        else:
            for part in chosen.split(size):
                loss = own.loss(problem.chosen(part), way)
                (loss * (len(part) / batch)).backward()
        if all(bool(torch.isfinite(p.grad).all()) for p in own.free if p.grad is not None):
            adam.step()
        own.bounded()
        told(calls * batch * (2 * DIRECTIONS if way == "differences" else 3))
        if state is not None and (iteration + 1) % KEPT == 0:
            _keep(state, own, adam, iteration + 1)
    return own.sampler()


def _by_differences(own: Unknowns, chosen: Any, random: torch.Generator) -> None:
    """Simultaneous perturbation (Spall 1992): the loss on both sides of a random direction."""
    with torch.no_grad():
        for tensor in own.free:
            tensor.grad = torch.zeros_like(tensor)
        for _ in range(DIRECTIONS):
            signs = [torch.randint(2, t.shape, generator=random).double() * 2 - 1 for t in own.free]
            losses = []
            for side in (1, -2):  # there, and back to the other side
                for tensor, sign in zip(own.free, signs, strict=True):
                    tensor.add_(sign, alpha=side * DIFFERENCE)
                losses.append(float(own.loss(chosen, "differences")))
            slope = (losses[0] - losses[1]) / (2 * DIFFERENCE * DIRECTIONS)
            for tensor, sign in zip(own.free, signs, strict=True):
                tensor.add_(sign, alpha=DIFFERENCE)
                assert tensor.grad is not None
                tensor.grad.add_(sign, alpha=slope)


def way_of(problem: Problem, sampler: Sampler, batch: int) -> Way:
    """How the gradient is taken: by what fits into half of the memory that is free."""
    if problem.pipe.denoiser.home is not None:  # experts that come and go
        return "differences"
    image, free = activations(problem, sampler), _free(problem.pipe.device) / 2
    if image * batch * problem.calls_of(sampler) <= free:
        return "whole"
    return "checkpointed" if image <= free else "differences"


def micro_of(problem: Problem, sampler: Sampler, batch: int) -> int:
    """The images at a time whose activations of one evaluation fit."""
    fits = _free(problem.pipe.device) / 2 / max(activations(problem, sampler), 1)
    return max(1, min(batch, int(fits)))


def activations(problem: Problem, sampler: Sampler) -> int:
    """Bytes that an evaluation of one image keeps for the backward pass."""
    sizes: dict[int, int] = {}

    def seen(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    own = {t.untyped_storage().data_ptr() for t in problem.pipe.network.parameters()}
    x, _, labels = problem.chosen(slice(0, 1))
    sigma = torch.tensor(sampler.visited[0], dtype=torch.float64, requires_grad=True)
    with (
        torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor),
        precision.autocast(problem.pipe.precision, problem.pipe.device),
    ):
        problem.denoiser(x.requires_grad_(), sigma, labels)
    return sum(size for place, size in sizes.items() if place not in own)


def _free(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)


def _keep(state: Path, own: Unknowns, adam: Any, done: int) -> None:
    tensors = {"done": torch.tensor(done)}
    for number, tensor in enumerate(own.free):
        tensors[f"{number}"] = tensor.detach()
        for name, value in adam.state[tensor].items():
            tensors[f"{number}.{name}"] = value
    state.parent.mkdir(parents=True, exist_ok=True)
    with storage.new_file(state) as file:
        storage.save_tensors(file, tensors)


def _resumed(state: Path | None, own: Unknowns, adam: Any) -> int:
    """The iterations that were done."""
    if state is None or not state.exists():
        return 0
    tensors = storage.load_tensors(state)
    for number, tensor in enumerate(own.free):
        with torch.no_grad():
            tensor.copy_(tensors[f"{number}"])
        names = [name for name in tensors if name.startswith(f"{number}.")]
        adam.state[tensor] = {name.partition(".")[2]: tensors[name] for name in names}
    return int(tensors["done"])
