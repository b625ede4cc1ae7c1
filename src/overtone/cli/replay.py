"""`overtone replay RECEIPT|PNG` makes an image again from its receipt, and compares the two.

Every image that `overtone sample` and `overtone edit` write, every grid, and every report of
`overtone evaluate` holds a receipt. The image is made in the batch in which it was made, with as
many threads and in the same precision: on the same hardware it is the very same. On other hardware
it is expected to differ by at most one grey level, and what differs there is printed. The exit
status is 0 if the images are the same or differ by at most one grey level, or if there is nothing
to compare with, as in a report. Otherwise it is 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from overtone.cli.options import parse
from overtone.errors import OvertoneError
from overtone.ranges import Seed

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline
    from overtone.pipelines.receipt import Receipt
    from overtone.pipelines.replay import Replay, Replayer

MOST = 64
"""images that are made again where no seed is named"""


@dataclass(frozen=True)
class Options:
    receipt: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECEIPT")]
    """A PNG that Overtone wrote, or a JSON file: a receipt, or a report of `overtone evaluate`."""
    model: str | None = None
    """The model that made the image. If left out, the directory where this machine opened it
    last."""
    seed: Seed | None = None
    """The seed of the image that is made again, where the receipt is for several."""
    first: str | None = None
    """The first stage of a relay that was given with --first."""
    guide: str | None = None
    """The guide that was given with --guide."""
    vae: str | None = None
    """The VAE that was given with --vae."""
    picture: Path | None = None
    """The picture that an edited image was made from."""
    mask: Path | None = None
    """The mask that the edited image was made with."""
    out: Path | None = None
    """A .png file that the image is written to, with its receipt: one image, or a grid."""


def main(arguments: Sequence[str]) -> None:
    options = parse(Options, "replay", __doc__, arguments)
    if options.out is not None and options.out.suffix.lower() != ".png":
        raise OvertoneError(f"--out is a .png file, not {options.out}.")
    from overtone.pipelines.receipt_files import kept_image, read_receipt
    from overtone.pipelines.replay import Replayer

    receipt = read_receipt(options.receipt)
    seeds = _seeds(receipt, options)
    pipe = _model(receipt, options)
    edit = receipt.edit
    replayer = Replayer(
        pipe,
        receipt,
        guide=_other(options.guide, receipt, "guide"),
        picture=None if edit is None else _picture(options.picture, pipe),
        mask=None if edit is None else _picture(options.mask, pipe),
    )
    size = pipe.resolution, pipe.channels
    kept = [kept_image(options.receipt, receipt, seed, *size) for seed in seeds]
    replays = [replayer.of(seed, image) for seed, image in zip(seeds, kept, strict=True)]
    if options.out is not None:
        _write(replays, replayer, options.out, _columns(options.receipt))
    for replay in replays:
        print(_said(replay))
    for difference in replayer.differences:
        print(f"differs: {difference}")
    if not all(replay.succeeded or replay.equal is None for replay in replays):
        sys.exit(1)


def _seeds(receipt: Receipt, options: Options) -> list[int]:
    from overtone.pipelines.seeds import seeds_of, text_of

    own = [receipt.seed] if receipt.seed is not None else seeds_of(receipt.seeds)
    if options.seed is not None:
        if options.seed not in own:
            raise OvertoneError(
                f"--seed {options.seed}: the image has the receipt of {text_of(own)[:80]}."
            )
        return [options.seed]
    if len(own) > MOST:
        raise OvertoneError(
            f"the receipt is of {len(own):,} images: name one, --seed, as in --seed {own[0]}."
        )
    return own


def _model(receipt: Receipt, options: Options) -> Pipeline:
    """The pipeline with the receipt's weights, with the parts that were given beside it."""
    from overtone.cli.model import is_images, open_model
    from overtone.pipelines.known import known_place, weights_of
    from overtone.pipelines.replay import check_weights
    from overtone.runs import checkpoints_of, is_run

    account = receipt.account
    name = options.model or known_place(weights_of(account))
    if name is None:
        raise OvertoneError(
            f"the model of this receipt ({receipt.model or 'its name is not known'}, weights"
            f" {weights_of(account)}) was not opened on this machine yet: pass --model."
        )
    places = [name]
    run = Path(name).expanduser()
    if is_run(run):  # which has gone on since, perhaps
        places += [str(folder) for folder in checkpoints_of(run)]
    for number, place in enumerate(places):
        try:
            pipe = open_model(place)
            check_weights(pipe, receipt, name)
            break
        except OvertoneError:
            if number + 1 == len(places):
                raise
    vae, first = options.vae, options.first
    if pipe.vae is None and "vae" in account:
        vae = vae or known_place(weights_of(account, "vae"))
    if vae is not None:
        from overtone.training.open import open_vae

        pipe.vae = open_vae(vae, account.get("vae", {}).get("scaling_factor"))
    if first is None and pipe.process.upscale != 1 and pipe.first is None:
        first = known_place(weights_of(account["start"].get("first_stage") or {}))
    if first is not None:
        pipe.first = first if is_images(first) else open_model(first)
    return pipe


def _other(name: str | None, receipt: Receipt, part: str) -> Pipeline | None:
    from overtone.cli.model import open_model
    from overtone.pipelines.known import known_place, weights_of

    name = name or known_place(weights_of(receipt.account, part))
    return None if name is None else open_model(name)


def _picture(path: Path | None, pipe: Pipeline) -> Any:
    from overtone.cli.edit import opened_picture

    return None if path is None else opened_picture(path, pipe.resolution, fit=True)


def _columns(path: Path) -> int | None:
    """The columns of the grid that is made again; None where the receipt is in no grid."""
    from PIL import Image

    from overtone.pipelines.sheets import KEY, layout_in

    try:
        with Image.open(path, formats=("PNG",)) as opened:
            opened.load()
            text = getattr(opened, "text", {}).get(KEY)
            return None if text is None else layout_in(text, 1, opened.width).columns
    except OSError:  # a JSON file
        return None


def _said(replay: Replay) -> str:
    if replay.equal:
        return f"seed {replay.seed}: the very same image"
    if replay.greys is not None:
        levels = "one grey level" if replay.greys == 1 else f"{replay.greys} grey levels"
        return f"seed {replay.seed}: the images differ by {levels} at most"
    if replay.equal is None:
        return f"seed {replay.seed}: made again; the receipt holds nothing to compare it with"
    return f"seed {replay.seed}: another image than the receipt is of"


def _write(replays: list[Replay], replayer: Replayer, out: Path, columns: int | None) -> None:
    import torch

    from overtone.pipelines.receipt_files import save_png
    from overtone.pipelines.sheets import sheet

    images = torch.stack([replay.image for replay in replays])
    of_all = replace(replayer.receipt, environment=replayer.environment)
    labels = [label for r in replays if (label := replayer.receipt.class_of(r.seed)) is not None]
    picture, layout = sheet(images, labels, replayer.pipe.class_names, columns)
    if len(replays) == 1:
        save_png(picture, out, replays[0].receipt)
    else:
        save_png(picture, out, of_all, layout)
