"""`overtone analyze guidance MODEL`: the Fréchet distance at several guidance scales, drawn."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from overtone.cli.evaluate import Judging, facts_of
from overtone.cli.options import parse
from overtone.cli.sample import Sampling
from overtone.errors import OvertoneError, unknown
from overtone.launch import processes


@dataclass(frozen=True)
class Options:
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


def main(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__, "\nusage: overtone analyze guidance MODEL [options]")
        return
    if arguments[0] != "guidance":
        raise unknown("subcommand of analyze", arguments[0], ["guidance"])
    options = parse(Options, "analyze guidance", __doc__, arguments[1:])
    if options.out.suffix.lower() != ".png":
        raise OvertoneError(f"--out is a .png file, not {options.out}.")
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
