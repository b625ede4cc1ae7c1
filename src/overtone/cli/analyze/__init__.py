"""`overtone analyze WHAT ...` draws a figure, and writes its data beside it.

overtone analyze attention MODEL   shows where attention looks between noise and image
overtone analyze eta MODEL         draws the Fréchet distance against eta, the share of new noise
overtone analyze guidance MODEL    draws the Fréchet distance against the guidance scale
overtone analyze snr DATA          draws the SNR by frequency, at two resolutions
overtone analyze spectrum MODEL    draws the frequencies that its images and features hold
overtone analyze split MODEL       draws the Fréchet distance against how a relay's two stages
                                   share a fixed number of function evaluations
overtone analyze trajectory MODEL  draws the trajectory from noise to image; an operator's stands
                                   beside that of its teacher's solver

Two models stand side by side with --beside MODEL (attention, spectrum).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from overtone.errors import OvertoneError, unknown

FIGURES = ("attention", "eta", "guidance", "snr", "spectrum", "split", "trajectory")
"""the figures, each a module here: `asked(arguments)` are its options, and `draw` draws them"""


def main(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    name, *rest = arguments
    if name not in FIGURES:
        raise unknown("subcommand of analyze", name, FIGURES)
    figure: Any = importlib.import_module(f"overtone.cli.analyze.{name}")
    options = figure.asked(rest)
    if options.out.suffix.lower() != ".png":
        raise OvertoneError(f"--out is a .png file, not {options.out}.")
    figure.draw(options)
