"""`overtone analyze WHAT ...`: figures, and their data beside them.

overtone analyze guidance MODEL    the Fréchet distance at several guidance scales
overtone analyze snr DATA          signal to noise by frequency, at two resolutions
overtone analyze spectrum MODEL    what frequencies its images and features hold
overtone analyze trajectory MODEL  how its way from noise to image behaves over time, or, of an
                                   operator, how near it comes to the solver's
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from overtone.cli.evaluate import SEEDS, Judging
from overtone.cli.model import ModelOptions, check_first, saved_options
from overtone.cli.options import parse
from overtone.cli.sample import Sampling, parse_seeds
from overtone.errors import OvertoneError, unknown
from overtone.launch import processes
from overtone.processes.relay import RelayProcess
from overtone.ranges import Channels, Count, Finite, Level, NotNegative, Size, Steps
from overtone.training.configs.distillation import Solver


@dataclass(frozen=True)
class GuidanceOptions:
    """The Fréchet distance at several guidance scales, drawn."""

    model: tyro.conf.Positional[str]
    """a saved pipeline, a run's directory, or a repository of the Hub"""
    scales: tuple[Finite, ...] = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
    """guidance scales; the same seeds are used for each"""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Sampling(SEEDS)
    )
    judging: Annotated[Judging, tyro.conf.arg(name="")] = field(default_factory=Judging)
    out: Path = Path("guidance.png")
    """the figure; its data go into a .json beside it"""


@dataclass(frozen=True)
class SNROptions:
    """Signal to noise by frequency: of enlarged images of low resolution, and of images of high
    resolution in white noise, in block noise (relay diffusion's figure 2), and in the mixture of
    both that a relay's second stage is trained with."""

    data: tyro.conf.Positional[str]
    """a data set, as for training"""
    resolution: Size = 64
    """of the high-resolution images"""
    factor: Size = 4
    """how many times lower the low resolution is, and the width of the blocks"""
    channels: Channels = 3
    """1: grey"""
    sigma: Level = 1.0
    """the noise level"""
    block_scale: NotNegative = RelayProcess.block_scale
    """The mixture adds this much block noise to white noise of 1, as `RelayProcess` does."""
    images: Count = 1000
    """at most so many, spread over the data"""
    out: Path = Path("snr.png")
    """the figure; its data go into a .json beside it"""


@dataclass(frozen=True)
class SpectrumOptions:
    """What frequencies images and features hold on the way from noise to image, of an Overtone or a
    diffusers model (MEME's figures 2, 3 and 6)."""

    model: tyro.conf.Positional[str]
    """a saved pipeline, a run's directory, a repository of the Hub; or a diffusers pipeline of a
    U-Net or DiT"""
    seeds: str = "0-15"
    """of the images whose curves are averaged"""
    steps: Steps = 6
    """of the sampler's steps, spread evenly"""
    opening: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    out: Path = Path("spectrum.png")
    """the figure; its data go into .json and .csv files beside it"""


@dataclass(frozen=True)
class TrajectoryOptions:
    """Of an operator: its trajectories beside the teacher's solver's. Of any other model: the power
    spectrum of its trajectories over time, which tells how many modes and times an operator needs
    (DSNO's figures)."""

    model: tyro.conf.Positional[str]
    """an operator, or a model that may become a teacher: a saved pipeline, a run's directory, a
    repository of the Hub, or a diffusers pipeline of a U-Net or DiT"""
    teacher: str | None = None
    """of an operator, the model that it was distilled from"""
    seeds: str = "0-3"
    """of the trajectories"""
    times: Steps = 16
    """of a teacher's trajectories, for their spectrum"""
    solver: Solver = "own"
    """the teacher's: its own sampler, or heun, ddim, dpmpp_2m. Beside an operator: the one that its
    trajectories were solved with"""
    steps: Steps | None = None
    """beside an operator, noise levels of the solver; that of its trajectories, if left out"""
    guidance_scale: Finite | None = None
    """of the teacher; if left out the model's own, or, beside an operator, that of its
    trajectories"""
    opening: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    out: Path = Path("trajectory.png")
    """the figure; its data go into a .json beside it"""


def main(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if arguments[0] not in _WHAT:
        raise unknown("subcommand of analyze", arguments[0], _WHAT)
    kind, draw = _WHAT[arguments[0]]
    name, rest = f"analyze {arguments[0]}", arguments[1:]
    more: dict[str, Any] = {}
    if kind is not SNROptions:
        check_first(rest, name)
        opening = saved_options(rest)
        if kind is GuidanceOptions:
            more["default"] = kind(tyro.MISSING, sampling=Sampling(SEEDS, opening=opening))
        else:
            more["default"] = kind(tyro.MISSING, opening=opening)
    options: Any = parse(kind, name, kind.__doc__, rest, **more)
    if options.out.suffix.lower() != ".png":
        raise OvertoneError(f"--out is a .png file, not {options.out}.")
    draw(options)


def _snr(options: SNROptions) -> None:
    from overtone import storage
    from overtone.analysis.plots import snr_curves
    from overtone.analysis.spectra import signal_to_noise
    from overtone.data import open_data

    if options.factor < 2:
        raise OvertoneError(f"--factor must be at least 2, not {options.factor}.")
    if options.resolution < 2 * options.factor:
        raise OvertoneError(
            f"--factor {options.factor} leaves {options.resolution} px no bands to compare: at most"
            f" {max(options.resolution // 2, 2)}."
        )
    data = open_data(options.data, options.resolution, options.channels)
    chosen = data.spread(min(options.images, len(data)))
    parts = (chosen[at : at + 64] for at in range(0, len(chosen), 64))
    try:
        pixels = (data.fetch(part)[0] for part in parts)
        ratios = signal_to_noise(pixels, options.factor, options.block_scale)
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None
    curves = {name: (r / options.sigma**2).tolist() for name, r in ratios._asdict().items()}
    facts = dataclasses.asdict(options) | {"out": options.out.name, "images": len(chosen)}
    # The low-resolution image's own bands, but for the mean.
    low, white, block, mixture = (
        sum(curves[name][1 : options.resolution // options.factor]) for name in curves
    )
    print(
        f"{options.out}: at the same sigma the high resolution has {white / low:.1f} times the low"
        f" one's ratio in its bands with white noise, {block / low:.1f} times with block noise,"
        f" {mixture / low:.1f} times with the mixture of a relay"
    )
    storage.write_json(options.out.with_suffix(".json"), facts | curves)
    with storage.new_file(options.out) as file:
        snr_curves(curves, options.resolution, options.factor, file)


def _guidance(options: GuidanceOptions) -> None:
    if len(set(options.scales)) < 2:
        raise OvertoneError("--scales takes two different scales or more.")
    if options.sampling.guidance_scale is not None:
        raise OvertoneError("--guidance-scale: the scales of this figure are --scales.")
    from overtone import storage
    from overtone.analysis.plots import guidance_curve

    pipe = options.sampling.open(options.model)
    if options.sampling.guide is None:
        pipe.guided(dataclasses.replace(pipe.guidance, scale=max(options.scales)))
    evaluation = options.judging.evaluation_of(pipe, options.model, options.sampling)
    reports = []
    for scale in sorted(set(options.scales)):
        guide = options.sampling.guide if scale != 1.0 else None
        sampling = dataclasses.replace(options.sampling, guidance_scale=scale, guide=guide)
        request = sampling.request(pipe)
        batches = ((b.images, b.class_labels) for b in sampling.stream(pipe, request))
        report = evaluation(batches, sampling.facts(pipe, options.model, request))
        reports.append(report.as_json())
        if processes().is_main:
            known = report.class_accuracy
            hits = "" if known is None else f", class accuracy {known:.1%}"
            print(
                f"guidance {scale:g}: Fréchet distance {report.frechet_distance:.4f}{hits}",
                file=sys.stderr,
            )
            storage.write_json(options.out.with_suffix(".json"), reports)
    if not processes().is_main:
        return
    scales = [report["made_with"]["guidance"]["scale"] for report in reports]
    distances = [report["frechet_distance"] for report in reports]
    best = min(zip(distances, scales, strict=True))
    print(f"{options.out}: the lowest, {best[0]:.4f}, is at scale {best[1]:g}")
    with storage.new_file(options.out) as file:
        guidance_curve(scales, distances, reports[0]["real_frechet_distance"], file)


def _spectrum(options: SpectrumOptions) -> None:
    from overtone import storage
    from overtone.analysis.fourier import spectra_of
    from overtone.analysis.plots import spectra_figure
    from overtone.pipelines.request import Request

    seeds = parse_seeds(options.seeds)
    pipe = options.opening.open(options.model)
    labels = pipe.labels(Request(seeds))
    path = [(step.sigma, step.x) for step in pipe.path(seeds, labels) if step.sigma]
    if not path:
        raise OvertoneError(f"{options.model} samples in one step: there is no way to look at.")
    count = min(options.steps, len(path))
    places = {round(i * (len(path) - 1) / max(count - 1, 1)) for i in range(count)}
    labels = labels if labels is None else labels.to(pipe.device)
    denoiser: Any = pipe.denoiser
    spectra = spectra_of(denoiser, [path[at] for at in sorted(places)], labels)
    facts = {"model": options.model, "seeds": options.seeds}
    print(f"{options.out}: {len(spectra.layers)} layers at {len(spectra.sigmas)} noise levels")
    storage.write_json(options.out.with_suffix(".json"), facts | dataclasses.asdict(spectra))
    with storage.new_file(options.out) as file:
        spectra_figure(spectra, file)
    with storage.new_file(options.out.with_suffix(".csv")) as file:
        _spectra_table(spectra, file)


def _spectra_table(spectra: Any, file: Path) -> None:
    import csv

    with file.open("w") as text:
        table = csv.writer(text)
        bins = range(len(spectra.images[0]))
        table.writerow(["sigma", "expert", "what", *(f"{i / (len(bins) - 1):.4f}" for i in bins)])
        for i, (sigma, image, layers) in enumerate(
            zip(spectra.sigmas, spectra.images, spectra.features, strict=True)
        ):
            expert = spectra.experts[i] if spectra.experts else ""
            for name, curve in {"x_t": image, **layers}.items():
                table.writerow([sigma, expert, name, *curve])


def _trajectory(options: TrajectoryOptions) -> None:
    seeds = parse_seeds(options.seeds)
    pipe = options.opening.open(options.model)
    if pipe.sampler.is_operator:
        _beside_solver(options, pipe, seeds)
    else:
        _over_time(options, pipe, seeds)


def _over_time(options: TrajectoryOptions, pipe: Any, seeds: list[int]) -> None:
    """The spectrum over time of a model's trajectories."""
    from overtone import storage
    from overtone.analysis.plots import temporal_figure
    from overtone.analysis.trajectories import SPACINGS, temporal_spectrum
    from overtone.data.open import public_name
    from overtone.training.teacher import teacher_of

    if options.teacher is not None:
        raise OvertoneError(f"--teacher: {options.model} is no operator, and has none.")
    if options.times < 2:
        raise OvertoneError(f"--times is at least 2, not {options.times}.")
    if options.steps is not None:
        raise OvertoneError("--steps: of a model --times says at how many it is solved.")
    name = public_name(options.model)
    teacher = teacher_of(pipe, name, options.solver, None, options.guidance_scale)
    spectra = [temporal_spectrum(teacher, seeds, options.times, s) for s in SPACINGS]
    curves = {s.spacing: {"energy": s.energy, "cumulative": s.cumulative} for s in spectra}
    said = [s.words() for s in spectra]
    facts = {"model": options.model, "seeds": options.seeds, "times": options.times, "words": said}
    print("\n".join((f"{options.out}:", *said)))
    storage.write_json(options.out.with_suffix(".json"), facts | curves)
    with storage.new_file(options.out) as file:
        temporal_figure([(s.spacing, s.energy, s.cumulative) for s in spectra], file)


def _beside_solver(options: TrajectoryOptions, pipe: Any, seeds: list[int]) -> None:
    """An operator's trajectories beside those of its teacher's solver."""
    from overtone import storage
    from overtone.analysis.plots import trajectory_figure
    from overtone.analysis.trajectories import compared
    from overtone.training.teacher import open_teacher

    own = pipe.training
    if options.teacher is None:
        raise OvertoneError(
            f"{options.model} is an operator: name the model that it was distilled from"
            f" ({own.get('distilled from', 'not said')}), --teacher."
        )
    steps, solver, scale = options.steps, options.solver, options.guidance_scale
    if scale is None:
        scale = float(own.get("teacher's guidance", 1.0))
    if steps is None and "teacher's steps" in own:
        steps = int(own["teacher's steps"])
    if solver == "own":
        solver = own.get("teacher's solver", solver)
    teacher = open_teacher(options.teacher, solver, steps, scale, first=pipe.first or "")
    both = compared(pipe, teacher, seeds)
    facts: dict[str, Any] = {"model": options.model, "seeds": options.seeds}
    facts |= {"sigmas": both.sigmas, "relative_errors": both.errors}
    print(f"{options.out}: the images are {both.errors[-1]:.1%} off the solver's")
    storage.write_json(options.out.with_suffix(".json"), facts)
    shape = both.solver.shape[:2]
    solved, made = (
        pipe.pixels(states.flatten(0, 1).to(pipe.device)).cpu().unflatten(0, shape)
        for states in (both.solver, both.operator)
    )
    with storage.new_file(options.out) as file:
        trajectory_figure(solved, made, both.sigmas, both.errors, file)


_WHAT: dict[str, tuple[Any, Any]] = {
    "guidance": (GuidanceOptions, _guidance),
    "snr": (SNROptions, _snr),
    "spectrum": (SpectrumOptions, _spectrum),
    "trajectory": (TrajectoryOptions, _trajectory),
}
