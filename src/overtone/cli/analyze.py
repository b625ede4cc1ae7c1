"""`overtone analyze WHAT ...`: figures, and their data beside them.

overtone analyze guidance MODEL    the Fréchet distance at several guidance scales
overtone analyze snr DATA          signal to noise by frequency, at two resolutions
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


_WHAT: dict[str, tuple[Any, Any]] = {
    "guidance": (GuidanceOptions, _guidance),
    "snr": (SNROptions, _snr),
}
