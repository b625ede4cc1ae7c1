"""`overtone analyze WHAT ...`: figures, and their data beside them.

overtone analyze guidance MODEL    the Fréchet distance at several guidance scales
overtone analyze snr DATA          signal to noise by frequency, at two resolutions
overtone analyze spectrum MODEL    what frequencies its images and features hold
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from overtone.cli.evaluate import Judging, facts_of
from overtone.cli.options import parse
from overtone.cli.sample import Sampling
from overtone.errors import OvertoneError, unknown
from overtone.launch import processes


@dataclass(frozen=True)
class GuidanceOptions:
    """The Fréchet distance at several guidance scales, drawn."""

    model: tyro.conf.Positional[str]
    """a saved pipeline, a run's directory, or a repository of the Hub"""
    scales: tuple[float, ...] = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
    """guidance scales; the same seeds are used for each"""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Sampling(seeds="0-499")
    )
    judging: Annotated[Judging, tyro.conf.arg(name="")] = field(default_factory=Judging)
    out: Path = Path("guidance.png")
    """the figure; its data go into a .json beside it"""


@dataclass(frozen=True)
class SNROptions:
    """Signal to noise by frequency: of images of low resolution enlarged, and of high resolution in
    white and in block noise (relay diffusion's figure 2)."""

    data: tyro.conf.Positional[str]
    """a data set, as for training"""
    resolution: int = 64
    """of the high-resolution images"""
    factor: int = 4
    """how many times lower the low resolution is, and the width of the blocks"""
    channels: int = 3
    """1: grey"""
    sigma: float = 1.0
    """the noise level"""
    images: int = 1000
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
    steps: int = 6
    """of the sampler's steps, spread evenly"""
    out: Path = Path("spectrum.png")
    """the figure; its data go into .json and .csv files beside it"""


def main(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if arguments[0] not in _WHAT:
        raise unknown("subcommand of analyze", arguments[0], _WHAT)
    kind, draw = _WHAT[arguments[0]]
    options: Any = parse(kind, f"analyze {arguments[0]}", kind.__doc__, arguments[1:])
    if options.out.suffix.lower() != ".png":
        raise OvertoneError(f"--out is a .png file, not {options.out}.")
    draw(options)


def _snr(options: SNROptions) -> None:
    from overtone import storage
    from overtone.analysis.plots import snr_curves
    from overtone.analysis.spectra import signal_to_noise
    from overtone.data import open_data

    if options.sigma <= 0 or options.factor < 2:
        raise OvertoneError("--sigma must be above 0, and --factor 2 or more.")
    data = open_data(options.data, options.resolution, options.channels)
    chosen = data.spread(min(options.images, len(data)))
    parts = (chosen[at : at + 64] for at in range(0, len(chosen), 64))
    try:
        ratios = signal_to_noise((data.fetch(part)[0] for part in parts), options.factor)
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None
    curves = {name: (r / options.sigma**2).tolist() for name, r in ratios._asdict().items()}
    facts = dataclasses.asdict(options) | {"out": options.out.name, "images": len(chosen)}
    storage.write_json(options.out.with_suffix(".json"), facts | curves)
    with storage.new_file(options.out) as file:
        snr_curves(curves, options.resolution, options.factor, file)
    # The low-resolution image's own bands, but for the mean.
    low, white, block = (
        sum(curves[name][1 : options.resolution // options.factor]) for name in curves
    )
    print(
        f"{options.out}: at the same sigma the high resolution has {white / low:.1f} times the low"
        f" one's ratio in its bands with white noise, {block / low:.1f} times with block noise"
    )


def _guidance(options: GuidanceOptions) -> None:
    if len(set(options.scales)) < 2:
        raise OvertoneError("--scales takes two different scales or more.")
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
        batches = ((b.images, b.class_labels) for b in sampling.stream(pipe))
        report = evaluation(batches, facts_of(pipe, options.model, sampling))
        reports.append(dataclasses.asdict(report))
        if processes().is_main:
            storage.write_json(options.out.with_suffix(".json"), reports)
            hits = "" if report.recognised is None else f", {report.recognised:.1%} recognised"
            print(
                f"guidance {scale:g}: Fréchet distance {report.frechet_distance:.4f}{hits}",
                file=sys.stderr,
            )
    if not processes().is_main:
        return
    scales = [report["made_with"]["guidance_scale"] for report in reports]
    distances = [report["frechet_distance"] for report in reports]
    with storage.new_file(options.out) as file:
        guidance_curve(scales, distances, reports[0]["real_frechet_distance"], file)
    best = min(zip(distances, scales, strict=True))
    print(f"{options.out}: the lowest, {best[0]:.4f}, is at scale {best[1]:g}")


def _spectrum(options: SpectrumOptions) -> None:
    import csv

    from overtone import storage
    from overtone.analysis.fourier import spectra_of
    from overtone.analysis.plots import spectra_figure
    from overtone.cli.sample import parse_seeds

    seeds = parse_seeds(options.seeds)
    if options.steps < 1:
        raise OvertoneError(f"--steps is at least 1, not {options.steps}.")
    denoiser, labels, path = _path_of(options.model, seeds)
    count = min(options.steps, len(path))
    places = {round(i * (len(path) - 1) / max(count - 1, 1)) for i in range(count)}
    spectra = spectra_of(denoiser, [path[at] for at in sorted(places)], labels)
    facts = {"model": options.model, "seeds": options.seeds}
    storage.write_json(options.out.with_suffix(".json"), facts | dataclasses.asdict(spectra))
    with storage.new_file(options.out) as file:
        spectra_figure(spectra, file)
    with storage.new_file(options.out.with_suffix(".csv")) as file, file.open("w") as text:
        table = csv.writer(text)
        bins = range(len(spectra.images[0]))
        table.writerow(["sigma", "expert", "what", *(f"{i / (len(bins) - 1):.4f}" for i in bins)])
        for i, (sigma, image, layers) in enumerate(
            zip(spectra.sigmas, spectra.images, spectra.features, strict=True)
        ):
            expert = spectra.experts[i] if spectra.experts else ""
            for name, curve in {"x_t": image, **layers}.items():
                table.writerow([sigma, expert, name, *curve])
    print(f"{options.out}: {len(spectra.layers)} layers at {len(spectra.sigmas)} noise levels")


def _path_of(model: str, seeds: list[int]) -> tuple[Any, Any, list[tuple[float, Any]]]:
    """A model's denoiser, the labels of its images, and x_t at each step of its sampler."""
    import torch

    from overtone import storage
    from overtone.cli.sample import open_model
    from overtone.denoisers import DiffusersDenoiser
    from overtone.precision import default_device
    from overtone.processes import GaussianProcess, SeededNoise
    from overtone.samplers import Sampler

    folder = storage.locate(model)
    if not (folder / "model_index.json").exists():
        pipe = open_model(model)
        labels = pipe._labels(seeds, None)
        steps = [(step.sigma, step.x) for step in pipe.path(seeds, labels) if step.sigma]
        if not steps:
            raise OvertoneError(f"{model} samples in one step: there is no way to look at.")
        return pipe.denoiser, labels if labels is None else labels.to(pipe.device), steps
    from diffusers import DiffusionPipeline

    try:
        foreign: Any = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    except Exception as error:  # a broken file makes diffusers raise almost anything
        raise OvertoneError(f"{folder}: diffusers can't load the pipeline ({error}).") from None
    network = getattr(foreign, "unet", None) or getattr(foreign, "transformer", None)
    if network is None or not hasattr(foreign, "scheduler"):
        raise OvertoneError(f"{model} has no U-Net or transformer with a scheduler.")
    device = default_device()
    denoiser = DiffusersDenoiser(network.to(device).eval(), foreign.scheduler)
    levels = denoiser.schedule.levels if denoiser.kind == "vp" else torch.tensor([0.002, 80.0])
    sampler = Sampler(
        18, sigma_min=float(levels[0]), sigma_max=float(levels[-1]), estimate="two_step"
    )
    config, source = network.config, SeededNoise(seeds)
    shape = (len(seeds), config.in_channels, config.sample_size, config.sample_size)
    start = sampler.sigma_start * source.normal(torch.empty(shape, device=device))
    labels = None
    if denoiser.num_classes:
        labels = torch.tensor([s % denoiser.num_classes for s in seeds], device=device)
    with torch.no_grad():
        taken = sampler.path(denoiser, GaussianProcess(), start, source, labels)
        return denoiser, labels, [(step.sigma, step.x) for step in taken if step.sigma]


_WHAT: dict[str, tuple[Any, Any]] = {
    "guidance": (GuidanceOptions, _guidance),
    "snr": (SNROptions, _snr),
    "spectrum": (SpectrumOptions, _spectrum),
}
