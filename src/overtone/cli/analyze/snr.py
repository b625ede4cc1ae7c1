"""`overtone analyze snr DATA` draws the signal-to-noise ratio of images in noise, by frequency."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from overtone.cli.options import parse
from overtone.errors import OvertoneError
from overtone.processes.relay import RelayProcess
from overtone.ranges import Channels, Count, Level, NotNegative, Size


@dataclass(frozen=True)
class Options:
    """Draws the signal-to-noise ratio by frequency: that of enlarged images of low resolution, and
    that of images of high resolution in white noise, in block noise (relay diffusion's figure 2),
    and in the mixture of both that a relay's second stage is trained with."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """A data set, named as for training."""
    resolution: Size = 64
    """The height and width of the high-resolution images."""
    factor: Size = 4
    """The factor between the two resolutions, which is the width of the noise's blocks in pixels
    too. It is at least 2 and at most half of --resolution."""
    channels: Channels = 3
    """The number of channels of the images: 1 for grey, 3 for colour."""
    sigma: Level = 1.0
    """The noise level."""
    block_scale: NotNegative = RelayProcess.block_scale
    """The standard deviation of the block noise in the mixture, where that of the white noise
    is 1."""
    images: Count = 1000
    """The number of images that are used at most, spread evenly over the data."""
    out: Path = Path("snr.png")
    """The figure. Its data go into a .json file beside it."""


def asked(arguments: Sequence[str]) -> Options:
    """The options in the arguments."""
    return parse(Options, "analyze snr", Options.__doc__, arguments)


def draw(options: Options) -> None:
    from overtone import storage
    from overtone.analysis.figures.spectra import snr_curves
    from overtone.analysis.spectra import signal_to_noise
    from overtone.data import open_data
    from overtone.data.open import public_name

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
    facts = dataclasses.asdict(options) | {
        "data": public_name(options.data),
        "out": options.out.name,
        "images": len(chosen),
    }
    # The low-resolution image's own bands, but for the mean.
    low, white, block, mixture = (
        sum(curves[name][1 : options.resolution // options.factor]) for name in curves
    )
    print(
        f"{options.out}: at the same sigma, the signal-to-noise ratio of the high resolution in the"
        f" low resolution's bands is {white / low:.1f} times that of the low resolution with white"
        f" noise, {block / low:.1f} times with block noise, and {mixture / low:.1f} times with the"
        " mixture of a relay"
    )
    storage.write_json(options.out.with_suffix(".json"), facts | curves)
    with storage.new_file(options.out) as file:
        snr_curves(curves, options.resolution, options.factor, file)
