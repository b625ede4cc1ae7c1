"""`overtone export MODEL` writes a model for use without Overtone, as ONNX and by torch.export.

    overtone export runs/images --out exported
    cd exported && python sample.py 7 3

The directory holds the networks, the coefficients of every sampling step, and a script of some
forty lines that samples with numpy, Pillow and onnxruntime (or torch) alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from overtone.cli.model import ModelOptions, check_first, saved_options
from overtone.cli.options import parse
from overtone.errors import OvertoneError, plain
from overtone.ranges import Count, Steps


@dataclass(frozen=True)
class Options:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A saved pipeline, a run's directory, or a repository of the Hub."""
    opening: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    out: Path = Path("exported")
    """The directory that is written."""
    formats: tuple[Literal["onnx", "torch"], ...] = ("onnx", "torch")
    """The formats of the networks: onnx, which needs the extra export, and torch, a program of
    torch.export. The script uses the first."""
    steps: Steps | None = None
    """The number of noise levels that the script takes. If left out, it is the model's own."""
    evaluations: Count | None = None
    """The number of function evaluations per image. The script samples by the sampler that was
    fitted for so many (overtone fit), or else by the model's own with as many steps as they
    allow."""
    whole: bool = False
    """Export an operator that returns all states of the trajectory, the image last, instead of the
    image alone."""


def main(arguments: Sequence[str]) -> None:
    check_first(arguments, "export")
    default = Options(tyro.MISSING, opening=saved_options(arguments))
    options = parse(Options, "export", __doc__, arguments, default=default)
    if options.out.exists() and any(options.out.iterdir() if options.out.is_dir() else [1]):
        raise OvertoneError(f"{options.out} is there already: choose another --out.")
    if len(set(options.formats)) < len(options.formats):
        raise OvertoneError("--formats names each format once.")
    from overtone.pipelines.export import export

    pipe = options.opening.open(options.model)
    export(
        pipe,
        options.out,
        options.formats,
        steps=options.steps,
        evaluations=options.evaluations,
        whole=options.whole,
        told=lambda line: print(line, file=sys.stderr),
    )
    does = "sample.py SEED CLASS samples"
    if pipe.process.upscale != 1:
        does = "upscale.py PICTURE SEED CLASS enlarges a picture"
    print(plain(f"{options.out}: python {does} there"), file=sys.stderr)
