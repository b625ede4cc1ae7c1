"""Preconditioning: how a network becomes a denoiser, one row of a table each.

    D(x; sigma) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x; c_noise(sigma))

as in table 1 of EDM (Karras et al. 2022, arXiv 2206.00364):

    |          | c_skip            | c_out                     | c_in              | c_noise       |
    |----------|-------------------|---------------------------|-------------------|---------------|
    | edm      | s_d^2/(s^2+s_d^2) | s s_d / sqrt(s^2 + s_d^2) | 1/sqrt(s^2+s_d^2) | ln(s) / 4     |
    | vp, eps  | 1                 | -s                        | 1 / sqrt(1 + s^2) | M t(s)        |
    | vp, x    | 0                 | 1                         | 1 / sqrt(1 + s^2) | M t(s)        |
    | vp, v    | 1 / (1 + s^2)     | -s / sqrt(1 + s^2)        | 1 / sqrt(1 + s^2) | M t(s)        |
    | ve       | 1                 | s                         | 1                 | ln(s / 2)     |
    | score    | 1                 | s^2                       | 1                 | s             |
    | flow     | 1 / (1 + s)       | -s / (1 + s)              | 1 / (1 + s)       | M s / (1 + s) |
    | operator | 0                 | sqrt(1 + s^2)             | 1 / sqrt(1 + s^2) | the teacher's |

s is sigma, s_d = sigma_data. Everything else about a parametrisation follows from these four
functions: the estimate, the output that a network with a given estimate would have returned, and
the weight c_out^-2, under which the loss of the estimate is the plain error of the network's own
output. sigma is a number, or a tensor that broadcasts against images.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from overtone.processes.discrete import DiscreteSchedule
from overtone.processes.schedule import Schedule, VPCosineSchedule, VPLinearSchedule
from overtone.ranges import NotNegative, Positive
from overtone.registry import Kind

if TYPE_CHECKING:
    from torch import Tensor

Prediction = Literal["eps", "x", "v"]
S = Any
"""sigma, or a function of it: a float or a tensor, what comes out being what went in"""


class Preconditioning(Kind, ABC, family="preconditioning", home="overtone.denoisers"):
    """A row of the table: four functions of the noise level."""

    of_trajectories: ClassVar[bool] = False
    """Whether this preconditioning is for networks that return whole trajectories."""

    @property
    def schedule_of_time(self) -> Schedule | None:
        """The schedule that gives the network its time; None if the time is the noise level's."""
        return None

    @property
    def prediction_type(self) -> Prediction | Literal["flow"] | None:
        """What the network predicts, where diffusers' schedulers have a word for it: the noise, the
        image, v, or the velocity of a flow; else None."""
        return None

    @property
    def takes_variance(self) -> bool:
        """Whether a network under it may learn the reverse step's variance."""
        return False

    @abstractmethod
    def c_skip(self, sigma: S) -> S:
        """The share of the noisy image in the estimate."""

    @abstractmethod
    def c_out(self, sigma: S) -> S:
        """The scale of the network's output."""

    @abstractmethod
    def c_in(self, sigma: S) -> S:
        """The scale of the network's input."""

    @abstractmethod
    def c_noise(self, sigma: S) -> S:
        """The network's time."""

    def estimate(self, x: Tensor, sigma: S, out: Tensor) -> Tensor:
        """The clean image that the network's output stands for."""
        c_skip = self.c_skip(sigma)
        estimate = scaled(self.c_out(sigma), out)
        if isinstance(c_skip, float) and c_skip == 0:
            return estimate
        return scaled(c_skip, x) + estimate

    def output(self, x: Tensor, sigma: S, x_0: Tensor) -> Tensor:
        """The inverse of `estimate`: what a network with that estimate would have returned."""
        return (x_0 - self.c_skip(sigma) * x) / self.c_out(sigma)

    def weight(self, sigma: S) -> S:
        """c_out^-2: with it the loss of the estimate is the error of the network's own output."""
        return self.c_out(sigma) ** -2

    def check_steps(self, schedule: Schedule) -> None:
        """Raises `ValueError` where the network would be told of other steps than those of the
        schedule that it is trained on."""

    def for_network(self, config: Any) -> Preconditioning:
        """The row with what a network's settings decide of it."""
        return self


def scaled(factor: S, x: Tensor) -> Tensor:
    """x times a factor, x itself for the number 1."""
    return x if isinstance(factor, float) and factor == 1 else factor * x


def _log(sigma: S) -> S:
    return math.log(sigma) if isinstance(sigma, float | int) else sigma.log()


@dataclass(frozen=True)
class EDMPreconditioning(Preconditioning, kind="edm"):
    """EDM's preconditioning: inputs and targets of unit variance (Karras et al. 2022, arXiv
    2206.00364, equation 7 and table 1). With s = sigma and s_d = `sigma_data`

        D(x; s) = c_skip x + c_out F(c_in x; ln(s) / 4)
        c_skip = s_d^2 / (s^2 + s_d^2)      c_out = s s_d / sqrt(s^2 + s_d^2)
        c_in = 1 / sqrt(s^2 + s_d^2)
    """

    sigma_data: Positive = 0.5
    """The standard deviation of the data, whose values lie in [-1, 1]."""
    negated: bool = False
    """Whether the network returns minus F, as under diffusers' EDM schedulers with v_prediction."""

    def c_skip(self, sigma: S) -> S:
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: S) -> S:
        c_out = sigma * self.sigma_data / (sigma**2 + self.sigma_data**2) ** 0.5
        return -c_out if self.negated else c_out

    def c_in(self, sigma: S) -> S:
        return (sigma**2 + self.sigma_data**2) ** -0.5

    def c_noise(self, sigma: S) -> S:
        return _log(sigma) / 4


@dataclass(frozen=True)
class VPPreconditioning(Preconditioning, kind="vp"):
    """The preconditioning of variance-preserving networks (DDPM, DDIM, latent diffusion).

    Such a network F sees alpha x, alpha = 1 / sqrt(1 + s^2), at its own time, which is
    `time_scale` * `schedule`.t(s), where s = sigma. It returns the noise, the image, or
    v = alpha noise - s alpha image, so that

        D(x; s) = x - s F    (eps)      F    (x)      alpha^2 x - s alpha F    (v)
    """

    prediction: Prediction = "eps"
    """What the network predicts: the noise (eps), the image (x) or the velocity (v)."""
    schedule: Schedule = field(default_factory=VPLinearSchedule)
    """The schedule turns a noise level into the network's time."""
    time_scale: Positive = 999.0
    """The network's time at t = 1. For a discrete schedule this is the number of the last step."""

    @property
    def prediction_type(self) -> Prediction:
        return self.prediction

    @property
    def schedule_of_time(self) -> Schedule:
        return self.schedule

    @property
    def takes_variance(self) -> bool:
        return True

    def c_skip(self, sigma: S) -> S:
        if self.prediction == "v":
            return 1 / (1 + sigma**2)
        return 1.0 if self.prediction == "eps" else 0.0

    def c_out(self, sigma: S) -> S:
        if self.prediction == "x":
            return 1.0
        return -sigma if self.prediction == "eps" else -sigma / (1 + sigma**2) ** 0.5

    def c_in(self, sigma: S) -> S:
        return (1 + sigma**2) ** -0.5

    def c_noise(self, sigma: S) -> S:
        if isinstance(sigma, float | int):
            return self.time_scale * self.schedule.t_at(sigma)
        return self.time_scale * self.schedule.t(sigma)

    def check_steps(self, schedule: Schedule) -> None:
        if self.schedule != schedule:
            raise ValueError(
                "--schedule and --preconditioning.schedule differ: the network would be told of"
                " other steps than it is trained on"
            )
        last = len(schedule.sigmas) - 1  # type: ignore[attr-defined]
        if self.time_scale != last:
            raise ValueError(
                f"--preconditioning.time-scale is {self.time_scale:g}, and the number of the last"
                f" of {last + 1} steps is {last}"
            )


@dataclass(frozen=True)
class VEPreconditioning(Preconditioning, kind="ve"):
    """The preconditioning of variance-exploding networks (NCSN++), which return minus the noise, so
    that D(x; sigma) = x + sigma F(x; ln(sigma / 2))."""

    def c_skip(self, sigma: S) -> S:
        return 1.0

    def c_out(self, sigma: S) -> S:
        return sigma

    def c_in(self, sigma: S) -> S:
        return 1.0

    def c_noise(self, sigma: S) -> S:
        return _log(sigma / 2)


@dataclass(frozen=True)
class ScorePreconditioning(Preconditioning, kind="score"):
    """The preconditioning of networks that return the score, for diffusers' ScoreSdeVeScheduler."""

    def c_skip(self, sigma: S) -> S:
        return 1.0

    def c_out(self, sigma: S) -> S:
        return sigma**2

    def c_in(self, sigma: S) -> S:
        return 1.0

    def c_noise(self, sigma: S) -> S:
        return sigma


@dataclass(frozen=True)
class FlowPreconditioning(Preconditioning, kind="flow"):
    """The preconditioning of rectified flow. The network sees x_s = (1 - s) x_0 + s noise at time
    s = sigma / (1 + sigma), and returns the velocity v = noise - x_0, so that

        D(x; sigma) = (x - sigma F(x / (1 + sigma); `time_scale` s)) / (1 + sigma)
    """

    time_scale: Positive = 1000.0
    """The network's time at the flow time s = 1. The default is that of diffusers."""

    @property
    def prediction_type(self) -> Literal["flow"]:
        return "flow"

    def c_skip(self, sigma: S) -> S:
        return 1 / (1 + sigma)

    def c_out(self, sigma: S) -> S:
        return -sigma / (1 + sigma)

    def c_in(self, sigma: S) -> S:
        return 1 / (1 + sigma)

    def c_noise(self, sigma: S) -> S:
        return self.time_scale * sigma / (1 + sigma)


@dataclass(frozen=True)
class OperatorPreconditioning(Preconditioning, kind="operator"):
    """The preconditioning of operators (DSNO), from x at one noise level to x at others,

        x(s') = c_out(s') F(c_in(s) x(s); c_noise(s'))

    so that the network sees noise of unit variance, and its outputs are the states in the
    variance-preserving frame. Raises `ValueError` for a `sigma_min` of 0 under a teacher whose time
    has no value there.
    """

    times: Preconditioning = field(
        default_factory=lambda: VPPreconditioning("x", VPCosineSchedule(), 1.0)
    )
    """The preconditioning whose c_noise is the network's time: that of the teacher whose network
    the operator's began as. The default is DSNO's own, t in [0, 1] of the log-SNR cosine
    schedule."""
    sigma_min: NotNegative | None = None
    """The lowest noise level that the network is told of, in place of 0. If it is not given, it is
    0 where the time has a value there, and 0.002 elsewhere."""

    of_trajectories: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min == 0 and not self._reaches_zero:
            raise ValueError(
                f"sigma_min must be above 0: the time of '{self.times.kind}' has no value at 0"
            )

    @property
    def _reaches_zero(self) -> bool:
        try:
            return math.isfinite(self.times.c_noise(0.0))
        except ValueError:
            return False

    @property
    def lowest_sigma(self) -> float:
        """The lowest noise level that the network is told of."""
        if self.sigma_min is not None:
            return self.sigma_min
        return 0.0 if self._reaches_zero else 0.002

    def c_skip(self, sigma: S) -> S:
        return 0.0

    def c_out(self, sigma: S) -> S:
        return (1 + sigma**2) ** 0.5

    def c_in(self, sigma: S) -> S:
        return (1 + sigma**2) ** -0.5

    def c_noise(self, sigma: S) -> S:
        return self.times.c_noise(max(sigma, self.lowest_sigma))

    def for_network(self, config: Any) -> Preconditioning:
        if config.log_snrs is None:
            return self
        return OperatorPreconditioning(
            VPPreconditioning("x", VPCosineSchedule(*config.log_snrs), 1.0)
        )


ADM_DIFFUSION = VPPreconditioning(prediction="eps", schedule=DiscreteSchedule(), time_scale=999.0)
"""ADM's and DDPM's: the noise predicted, at the 1000 levels of linear betas."""
