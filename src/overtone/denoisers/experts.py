"""Experts: several denoisers, each for its interval of noise levels, behind the contract of one.

MEME (Lee et al. 2023, arXiv 2306.04990). Experts are counted from the clean image, intervals are of
sigma, so that any denoiser can be routed to, whatever its own time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels
from overtone.processes import DiscreteSchedule, Schedule, VPLinearSchedule

Interval = tuple[float, float]


def time_shares(experts: int, schedule: Schedule | None = None) -> tuple[float, ...]:
    """The boundaries of equal shares of a schedule's time, MEME's intervals: sigma 0.95, 3.4 and 17
    for four experts of continuous VP time, the default."""
    if isinstance(schedule, DiscreteSchedule):
        return step_shares(schedule.levels.tolist(), experts)
    schedule = schedule or VPLinearSchedule()
    return tuple(schedule.sigma(n / experts).item() for n in range(1, experts))


def step_shares(sigmas: Sequence[float], experts: int) -> tuple[float, ...]:
    """Boundaries that give each expert an equal share of a sampler's steps (`Sampler.sigmas`).

    They stand between two levels, at their geometric mean. Raises `ValueError` for more experts
    than steps.
    """
    levels = sorted(sigma for sigma in sigmas if sigma > 0)
    if experts > len(levels):
        raise ValueError(f"{len(levels)} steps can't be shared by {experts} experts")
    places = [round(n * len(levels) / experts) for n in range(1, experts)]
    return tuple(math.sqrt(levels[at - 1] * levels[at]) for at in places)


def intervals_of(boundaries: Sequence[float]) -> tuple[Interval, ...]:
    """(0, b_1], (b_1, b_2], ... (b_N-1, inf). Raises `ValueError` if they don't rise from 0."""
    edges = (0.0, *boundaries, math.inf)
    if any(not low < high for low, high in pairwise(edges)):
        raise ValueError(
            "boundaries between experts rise from above 0, the expert of the clean image first,"
            f" not {', '.join(f'{b:g}' for b in boundaries)}"
        )
    return tuple(pairwise(edges))


def check_intervals(intervals: Sequence[Interval], experts: int) -> None:
    """Raises `ValueError` unless there is one interval an expert, and they cover (0, inf) once."""
    if len(intervals) != experts or not experts:
        raise ValueError(f"{len(intervals)} intervals of noise levels for {experts} experts")
    for n, (low, high) in enumerate(intervals, 1):
        if not low < high:
            raise ValueError(f"the interval of expert {n} is empty: ({low:g}, {high:g}]")
    for n, ((_, high), (low, _)) in enumerate(pairwise(intervals), 1):
        if high != low:
            what = "overlap" if low < high else "leave a gap"
            raise ValueError(
                f"the intervals of experts {n} and {n + 1} {what}: one ends at sigma {high:g}, the"
                f" next begins at {low:g}"
            )
    ends = intervals[0][0], intervals[-1][1]
    if ends != (0.0, math.inf):
        raise ValueError(
            "the experts' intervals reach from sigma {:g} to {:g}, not from 0 to inf".format(*ends)
        )


class ExpertDenoiser(Denoiser):
    """D(x; sigma) = D_n(x; sigma) for sigma in (low_n, high_n], `intervals[n]`.

    A batch whose noise levels fall into several intervals is split, and put back in order. Raises
    `ValueError` for intervals that do not cover (0, inf) once, and for experts of different
    classes, channels or sizes.
    """

    def __init__(self, experts: Sequence[Denoiser], intervals: Sequence[Interval]) -> None:
        super().__init__()
        check_intervals(intervals, len(experts))
        for what, kinds in _facts(experts).items():
            if len(set(kinds)) > 1:
                raise ValueError(f"experts differ in their {what}: {', '.join(map(str, kinds))}")
        self.experts = nn.ModuleList(experts)
        self.intervals = tuple(intervals)
        self.num_classes = experts[0].num_classes
        self.has_null_class = all(expert.has_null_class for expert in experts)
        self.residence: Residence | None = None

    def forward(
        self, x: Images, sigma: float | Float[Tensor, " batch"], class_labels: Labels | None = None
    ) -> Estimate:
        if not isinstance(sigma, Tensor):
            return self._run(self.expert_at(sigma), x, sigma, class_labels)
        which = self.experts_at(sigma)
        numbers = which.unique().tolist()
        if len(numbers) == 1:
            return self._run(numbers[0], x, sigma, class_labels)
        places = [(which == n).nonzero()[:, 0] for n in numbers]
        parts = [
            self._run(n, x[at], sigma[at], None if class_labels is None else class_labels[at])
            for n, at in zip(numbers, places, strict=True)
        ]
        order = torch.cat(places).argsort()
        variances = [part.variance for part in parts if part.variance is not None]
        return Estimate(
            torch.cat([part.x_0 for part in parts])[order],
            torch.cat(variances)[order] if variances else None,
        )

    def expert_at(self, sigma: float) -> int:
        """The number of the expert for a noise level, counted from 0."""
        return next(n for n, (_, high) in enumerate(self.intervals) if sigma <= high)

    def experts_at(self, sigma: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """`expert_at` of each image, where sigma is."""
        highs = [high for _, high in self.intervals[:-1]]
        edges = torch.tensor(highs, dtype=torch.float64, device=sigma.device)
        return torch.bucketize(sigma.double(), edges)

    def relative_time(self, sigma: float) -> float | None:
        return self._expert(self.expert_at(sigma)).relative_time(sigma)

    def reside(self, device: str | torch.device, resident: int) -> None:
        """Keep at most `resident` experts on `device`, and all on the host.

        With two or more the next expert, of lower noise levels, is fetched while one works.
        """
        if not 1 <= resident <= len(self.experts):
            raise ValueError(f"resident is in [1, {len(self.experts)}], not {resident}")
        self.settle()
        self.residence = Residence(list(self.experts), torch.device(device), resident)

    def settle(self) -> None:
        """End the residence: all experts are on the host."""
        if self.residence is not None:
            self.residence.clear()
            self.residence = None

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy: made while all experts are on the host, it has a residence of its own."""
        if self.residence is not None:
            self.residence.clear()
        return dict(self.__dict__)

    def _expert(self, number: int) -> Denoiser:
        return cast(Denoiser, self.experts[number])

    def _run(
        self, number: int, x: Tensor, sigma: float | Tensor, class_labels: Tensor | None
    ) -> Estimate:
        if self.residence is not None:
            self.residence.enter(number)
        out = self._expert(number)(x, sigma, class_labels)
        if self.residence is not None and number:
            self.residence.expect(number - 1)
        return out


class Residence:
    """Which of several modules are on the device; the others' tensors stay on the host.

    Modules may share tensors: what one leaves, and another one there has, stays. What was loaded
    into tensors there is kept when they leave.
    """

    def __init__(self, modules: list[nn.Module], device: torch.device, resident: int) -> None:
        self.modules = modules
        self.device = torch.empty(0, device=device).device  # with its index
        self.resident = resident
        self.tensors = [[*m.parameters(), *m.buffers()] for m in modules]
        host = {id(t): self._rest(t.data) for tensors in self.tensors for t in tensors}
        self.host = [[host[id(t)] for t in tensors] for tensors in self.tensors]
        self.versions = [[-1 for _ in tensors] for tensors in self.tensors]
        self.ready: dict[int, Any] = {}
        self.there: list[int] = []  # the one used last at the end
        for number in range(len(modules)):
            self._leave(number)
        self._begin()

    def _begin(self) -> None:
        cuda = self.device.type == "cuda"
        self.stream: Any = torch.cuda.Stream(self.device) if cuda else None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "stream"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._begin()

    def enter(self, number: int) -> None:
        """Have a module on the device, others gone where there is no room."""
        if number in self.there:
            self.there.remove(number)
        else:
            self._make_room()
            self._fetch(number)
        self.there.append(number)
        event = self.ready.pop(number, None)
        if event is not None:  # fetched on the other stream: what comes now waits, the host doesn't
            torch.cuda.current_stream(self.device).wait_event(event)

    def expect(self, number: int) -> None:
        """Begin to fetch a module that is wanted soon, if there is room beside the last used."""
        if number in self.there or self.resident == 1:
            return
        self._make_room()
        if self.stream is None:
            self._fetch(number)
        else:
            with torch.cuda.stream(self.stream):
                self._fetch(number)
                self.ready[number] = self.stream.record_event()
            here = torch.cuda.current_stream(self.device)
            for tensor in self.tensors[number]:
                tensor.data.record_stream(here)
        self.there.insert(0, number)

    def clear(self) -> None:
        """Have all modules on the host, as before they are saved or moved."""
        while self.there:
            self._leave(self.there.pop())

    def _make_room(self) -> None:
        while len(self.there) >= self.resident:
            self._leave(self.there.pop(0))

    def _leave(self, number: int) -> None:
        self.ready.pop(number, None)
        torch.clear_autocast_cache()  # weights that autocast converted would stay
        needed = {id(tensor) for other in self.there for tensor in self.tensors[other]}
        for tensor, host, version in zip(
            self.tensors[number], self.host[number], self.versions[number], strict=True
        ):
            if id(tensor) not in needed:
                if version not in (-1, _version(tensor)):
                    host.copy_(tensor.data)
                tensor.data = host
        self.versions[number] = [-1 for _ in self.tensors[number]]
        for module in self.modules[number].modules():
            forget = getattr(module, "forget", None)
            if forget is not None:  # what it computed from its tensors and kept there
                forget()

    def _fetch(self, number: int) -> None:
        here = {id(tensor) for other in self.there for tensor in self.tensors[other]}
        for tensor, host in zip(self.tensors[number], self.host[number], strict=True):
            if id(tensor) not in here:
                tensor.data = self._moved(host)
        self.versions[number] = [_version(tensor) for tensor in self.tensors[number]]

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _rest(self, tensor: Tensor) -> Tensor:
        tensor = tensor.cpu()
        return tensor.pin_memory() if self.device.type == "cuda" else tensor


def _version(tensor: Tensor) -> int:
    """Changes with what is written into a tensor; those of inference mode have none."""
    return 0 if tensor.is_inference() else tensor._version


def _facts(experts: Sequence[Denoiser]) -> dict[str, list[Any]]:
    facts: dict[str, list[Any]] = {"number of classes": [e.num_classes for e in experts]}
    configs: list[Any] = [
        getattr(getattr(expert, "network", None), "config", None) for expert in experts
    ]
    if all(config is not None for config in configs):
        facts["channels"] = [config.channels for config in configs]
        facts["image size"] = [config.resolution for config in configs]
        learned = [getattr(config, "learned_variance", False) for config in configs]
        facts["learned variance"] = learned
    return facts
