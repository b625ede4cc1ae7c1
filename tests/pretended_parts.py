"""Cases of the parts of a model on a pretended device: denoisers, processes, samplers."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import diffusers
import torch

import helpers
from overtone.denoisers import (
    ADM_DIFFUSION,
    DiffusersDenoiser,
    EDMPreconditioning,
    ExpertDenoiser,
    FlowPreconditioning,
    GuidanceSettings,
    GuidedDenoiser,
    IdealDenoiser,
    KeptDenoiser,
    NetworkDenoiser,
    OperatorPreconditioning,
    ScorePreconditioning,
    SolutionOperator,
    VEPreconditioning,
    VPPreconditioning,
)
from overtone.denoisers.intervals import intervals_of
from overtone.networks import (
    ClassifierConfig,
    temporalize,
)
from overtone.processes import (
    DiscreteSchedule,
    FlowSchedule,
    GaussianProcess,
    QuantileSchedule,
    RelayProcess,
    SeededNoise,
    VESchedule,
    VPCosineSchedule,
    VPLinearSchedule,
)
from overtone.samplers import (
    AncestralSampler,
    OperatorSampler,
    ResamplingSampler,
    Sampler,
    SchedulerSampler,
)

replace = dataclasses.replace
Call = Callable[[], Any]


class Case(NamedTuple):
    """Something that runs on the device as it does on the CPU."""

    name: str
    make: Callable[[torch.device], Call]
    """everything on a device; returns what is called twice there, and gives the same on the CPU"""
    parts: tuple[Any, ...] = ()
    """the kinds that it is a case of, as their settings"""
    tolerance: float = 1e-4
    """the largest difference from the CPU's result, in units of its largest value; under autocast,
    where single values may be anything, the mean one"""
    autocast: bool = False
    """whether it computes in bfloat16, which Apple's device does not"""


DSNO = helpers.TINY_DSNO
PIXEL_TRANSFORMER = replace(helpers.TINY_TRANSFORMER, channels=1)
SMALL_CLASSIFIER = ClassifierConfig(
    resolution=8, channels=1, num_classes=3, num_features=16, widths=(8, 16), dropout=0.0
)
SIGMAS = (0.1, 0.7, 3.0, 20.0)
LABELS = (0, 1, 2, 3)
IMAGES = (4, 4, 16, 16)
"""as many numbers as make a float64 tensor too large"""


def a_unet() -> Any:
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=4,
    )


def awake(config: Any) -> Any:
    """The network of some settings, none of whose layers is zero, as it trains on a GPU."""
    network = helpers.awake(config.build())
    return network.to_fast_layout() if hasattr(network, "to_fast_layout") else network


def adm() -> Any:
    return awake(helpers.TINY_ADM).eval()


def normal(*shape: int, seed: int = 7) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(module: torch.nn.Module) -> torch.Tensor:
    """All gradients in a row, so that each is measured by the largest, and gone afterwards."""
    found = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    module.zero_grad(set_to_none=True)
    return torch.cat(found)


def preconditionings() -> dict[str, Any]:
    return {
        "EDM": EDMPreconditioning(),
        "EDM, negated": EDMPreconditioning(negated=True),
        "VP, noise": VPPreconditioning("eps"),
        "VP, image": VPPreconditioning("x"),
        "VP, v": VPPreconditioning("v"),
        "VP, cosine": VPPreconditioning(schedule=VPCosineSchedule()),
        "VP, discrete": ADM_DIFFUSION,
        "VP, EDM's times": VPPreconditioning(schedule=QuantileSchedule()),
        "VP, geometric times": VPPreconditioning(schedule=VESchedule()),
        "VP, flow times": VPPreconditioning(schedule=FlowSchedule()),
        "VP, logit-normal times": VPPreconditioning(schedule=FlowSchedule("logit_normal")),
        "VE": VEPreconditioning(),
        "score": ScorePreconditioning(),
        "flow": FlowPreconditioning(),
    }


def edm() -> NetworkDenoiser:
    return NetworkDenoiser(adm(), EDMPreconditioning())


def vp() -> NetworkDenoiser:
    return NetworkDenoiser(adm(), ADM_DIFFUSION)


def three_experts() -> ExpertDenoiser:
    return ExpertDenoiser([edm() for _ in range(3)], intervals_of((0.3, 3.0)))


def ideal() -> IdealDenoiser:
    means, labels = normal(6, 1, 8, 8), torch.tensor([0, 0, 1, 1, 2, 2])
    return IdealDenoiser(means, 0.1 * torch.eye(64), labels)


def denoisers() -> Iterator[Case]:
    """Every denoiser, at a noise level that is a number, and at those of a tensor, backwards."""
    for name, row in preconditionings().items():
        parts = (row, *filter(None, [row.schedule_of_time]))
        yield from denoiser_cases(name, lambda row=row: NetworkDenoiser(adm(), row), parts)
    yield from denoiser_cases("ideal", ideal)
    yield from denoiser_cases("experts", three_experts)
    yield from denoiser_cases(
        "diffusers'", lambda: DiffusersDenoiser(a_unet().eval(), diffusers.DDPMScheduler())
    )
    published = GuidanceSettings(2.0, channels=(0,), power=4.0)
    guided = {
        "guided": lambda: GuidedDenoiser(edm(), 2.0),
        "guided, in channels, by a power": lambda: GuidedDenoiser(vp(), published),
        "guided by a weaker one": lambda: GuidedDenoiser(edm(), 2.0, edm()),
    }
    for name, make in guided.items():
        yield from denoiser_cases(name, make, sampling_only=True)
    yield Case("kept", kept_call)
    for name, config in (
        ("DSNO", DSNO),
        ("grown", temporalize(helpers.TINY_DIFFIT.build()).config),
    ):
        times = EDMPreconditioning()
        row = OperatorPreconditioning() if config is DSNO else OperatorPreconditioning(times)
        yield Case(
            f"operator, {name}",
            lambda device, config=config, row=row: operator_call(device, config, row),
            (row, config),
        )


def denoiser_cases(
    name: str, make: Callable[[], Any], parts: tuple[Any, ...] = (), *, sampling_only: bool = False
) -> Iterator[Case]:
    def made(device: torch.device, *, training: bool) -> Call:
        denoiser = make().to(device)
        x = normal(4, 1, 8, 8).to(device)
        labels, sigma = torch.tensor(LABELS).to(device), torch.tensor(SIGMAS).to(device)

        def call() -> Any:
            if not training:
                with torch.no_grad():
                    return denoiser(x, 1.5, labels)
            out = denoiser(x, sigma, labels)
            if not out.x_0.requires_grad:
                return out
            out.x_0.square().mean().backward()
            return out, gradients(denoiser)

        return call

    yield Case(f"{name}, a number", lambda device: made(device, training=False), parts)
    if not sampling_only:
        yield Case(f"{name}, a tensor", lambda device: made(device, training=True), parts)


def kept_call(device: torch.device) -> Call:
    x_0, mask = normal(*IMAGES, seed=8).to(device), (normal(*IMAGES, seed=9) > 0).to(device)
    denoiser, x = KeptDenoiser(mixture().to(device), x_0, mask), normal(*IMAGES).to(device)
    return torch.no_grad()(lambda: denoiser(x, 1.5))


def operator_call(device: torch.device, config: Any, row: Any) -> Call:
    operator = SolutionOperator(awake(config), row).to(device)
    z, labels = normal(3, 1, 8, 8).to(device), torch.tensor((0, 1, 2)).to(device)

    def call() -> Any:
        out = operator(z, (2.0, 0.5, 0.0), labels)
        out.square().mean().backward()
        with torch.no_grad():
            return out, gradients(operator), *operator.solve(z, 80.0, (2.0, 0.0), labels, True)

    return call


SCHEDULES = {
    "EDM's levels": QuantileSchedule(),
    "EDM's levels, a part of them": QuantileSchedule(prob_length=0.93),
    "VP, linear": VPLinearSchedule(),
    "VP, cosine": VPCosineSchedule(),
    "VE": VESchedule(),
    "discrete steps": DiscreteSchedule(),
    "flow": FlowSchedule(),
    "flow, logit-normal": FlowSchedule("logit_normal"),
}
RELAY = RelayProcess(patch=2)
PROCESSES = {
    "white noise": GaussianProcess(),
    "relay": RELAY,
    "relay, no blocks": RelayProcess(patch=2, block_scale=0.0),
}


def processes() -> Iterator[Case]:
    """Every schedule, there and back, and every process at numbers and at tensors."""
    for name, schedule in SCHEDULES.items():

        def there_and_back(device: torch.device, schedule=schedule) -> Call:
            t = torch.tensor((0.05, 0.3, 0.6, 0.95)).to(device)

            def call() -> Any:
                sigma = schedule.sigma(t)
                return sigma.log(), schedule.t(sigma.float())

            return call

        yield Case(name, there_and_back, (schedule,))
    for name, process in PROCESSES.items():

        def states(device: torch.device, process=process) -> Call:
            x, noisy = (normal(*IMAGES, seed=seed).to(device) for seed in (7, 8))
            sigma = torch.tensor((0.05, 0.2, 0.5, 0.9)).to(device)

            def call() -> Any:
                return (
                    process.mean(x, 0.5),
                    process.mean(x, sigma),
                    process.noise(x, SeededNoise(range(4))),
                    process.reverse(noisy, x, 0.7, 0.4, 0.5),
                )

            return call

        yield Case(name, states, (process,))


def samplers() -> Iterator[Case]:
    """Every sampler, every form of its estimate, and the schedulers of diffusers."""
    plain = GaussianProcess()
    estimates = ("single", "averaged_slopes", "averaged_estimates", "two_step")
    second = {"sigma_max": 0.9, "sigma_min": 0.01}
    told: list[tuple[str, Any, Any, Any]] = [
        *((f"Sampler, {e}", Sampler(4, estimate=e), plain, mixture) for e in estimates),
        *((f"relay, {e}", Sampler(4, estimate=e, **second), RELAY, mixture) for e in estimates),
        ("Sampler, churn", Sampler(4, S_churn=10.0), plain, mixture),
        ("Sampler, eta", Sampler(4, eta=0.3), plain, mixture),
        ("relay, eta", Sampler(4, eta=0.2, **second), RELAY, mixture),
        ("Sampler, guided", Sampler(4), plain, lambda: GuidedDenoiser(edm(), 2.0)),
        ("Sampler, experts", Sampler(4), plain, three_experts),
        ("AncestralSampler", AncestralSampler(4), plain, mixture),
        ("AncestralSampler, learned variance", AncestralSampler(4), plain, learned_variance),
        ("ResamplingSampler", ResamplingSampler(Sampler(4), 2, 2), plain, mixture),
        (
            "ResamplingSampler, two_step",
            ResamplingSampler(Sampler(4, estimate="two_step"), 2),
            plain,
            mixture,
        ),
        ("OperatorSampler", OperatorSampler((80.0, 2.0, 0.0), whole=True), plain, an_operator),
    ]
    for name in (
        "DDIMScheduler",
        "DDPMScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "PNDMScheduler",
        "EDMEulerScheduler",
        "FlowMatchEulerDiscreteScheduler",
    ):
        scheduler = getattr(diffusers, name)()
        told.append((f"diffusers' {name}", SchedulerSampler(scheduler, 4), plain, mixture))
    for name, sampler, process, denoiser in told:

        def sampled(device, sampler=sampler, process=process, denoiser=denoiser) -> Call:
            own = denoiser().to(device)
            shape = IMAGES if denoiser is mixture else (4, 1, 8, 8)
            start = (sampler.sigma_start * normal(*shape)).to(device)
            labels = torch.tensor((0, 1, 2, 0)).to(device)

            @torch.no_grad()
            def call() -> Any:
                return sampler(own, process, start, SeededNoise(range(4)), labels)

            return call

        parts = (sampler,) if sampler.kind else ()
        yield Case(name, sampled, (*parts, process), tolerance=1e-3)


def learned_variance() -> NetworkDenoiser:
    return NetworkDenoiser(awake(PIXEL_TRANSFORMER).eval(), ADM_DIFFUSION)


def mixture() -> IdealDenoiser:
    """Of six Gaussians, in closed form: for images as large as float64 is looked for in."""
    denoiser = IdealDenoiser(normal(6, *IMAGES[1:]), None, torch.tensor([0, 0, 1, 1, 2, 2]))
    denoiser.eigenvalues.fill_(0.3)
    return denoiser


def an_operator() -> SolutionOperator:
    return SolutionOperator(awake(DSNO).eval())
