"""Experts: several denoisers, each for its interval of noise levels, behind the contract of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels, Sigma, level_of
from overtone.denoisers.intervals import Interval, check_intervals
from overtone.denoisers.residence import Residence
from overtone.networks.experts import Experts
from overtone.networks.network import Network
from overtone.precision import widest


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

    @property
    def network(self) -> Experts:
        """The experts' networks as one, which saves them."""
        networks = [cast(Network, expert.network) for expert in self.experts]
        return Experts(networks, [high for _, high in self.intervals[:-1]])

    def forward(self, x: Images, sigma: Sigma, class_labels: Labels | None = None) -> Estimate:
        level = level_of(sigma)
        if level is not None:
            return self._run(self.expert_at(level), x, sigma, class_labels)
        assert isinstance(sigma, Tensor)
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
        wide = widest(sigma.device)
        edges = torch.tensor(highs, dtype=wide, device=sigma.device)
        return torch.bucketize(sigma.to(wide), edges)

    def relative_time(self, sigma: float) -> float | None:
        return self._expert(self.expert_at(sigma)).relative_time(sigma)

    @property
    def home(self) -> torch.device | None:
        return None if self.residence is None else self.residence.device

    def recall(self) -> None:
        if self.residence is not None:
            self.residence.clear()

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

    def _run(self, number: int, x: Tensor, sigma: Sigma, class_labels: Tensor | None) -> Estimate:
        if self.residence is not None:
            self.residence.enter(number)
        out = self._expert(number)(x, sigma, class_labels)
        if self.residence is not None and number:
            self.residence.expect(number - 1)
        return out


def _facts(experts: Sequence[Denoiser]) -> dict[str, list[Any]]:
    facts: dict[str, list[Any]] = {"number of classes": [e.num_classes for e in experts]}
    configs: list[Any] = [
        getattr(getattr(expert, "network", None), "config", None) for expert in experts
    ]
    if all(config is not None for config in configs):
        facts["channels"] = [config.channels for config in configs]
        facts["image size"] = [config.resolution for config in configs]
        learned = [config.learns_variance for config in configs]
        facts["learned variance"] = learned
    return facts
