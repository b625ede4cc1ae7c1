"""`overtone train images` and its like are recipes whose settings follow from one's own images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from overtone.cli.options import has_help, parse
from overtone.cli.running import Options, goes_on, introduce, rehearse, run, train_experts
from overtone.data.rules import Crop, Reading
from overtone.errors import OvertoneError, plain
from overtone.launch import processes
from overtone.ranges import Positive, Share
from overtone.runs import has_recipe
from overtone.sizes import Resolution, shown, sides
from overtone.training.configs.recipe import Recipe
from overtone.training.recipes import find_recipe

if TYPE_CHECKING:
    from overtone.training.fitting import Asked, Fitted

R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True)
class Pictures:
    """Your images, and how they are read."""

    data: str = ""
    """Your images: a folder, whose sub-folders are the classes if there are any, a zip of the same,
    an .npz of arrays, or hf:OWNER/NAME."""
    grey: bool = False
    """Read colour pictures as grey."""
    background: str = "white"
    """The colour that transparent pictures are laid on: a name, such as black, or #rrggbb."""
    crop: Crop = "fit"
    """What of a picture becomes the image: fit, the largest part in the middle that has the
    proportions of the images; square; or none."""
    skip_bad_images: bool = False
    """Leave out images that can't be read or are too small, instead of stopping."""
    held_out_share: Share | None = None
    """The share of the images that is held out, where they have no test split. If left out, it is
    0.05."""

    def asked(self, **more: Any) -> Asked:
        """The same as the library takes it."""
        from overtone.training.fitting import Asked

        try:
            reading = Reading(self.skip_bad_images, self.background, self.crop)
        except ValueError as error:
            raise OvertoneError(f"--{error}.") from None
        return Asked(self.data, reading=reading, grey=self.grey,
                     held_out_share=self.held_out_share, **more)  # fmt: skip


@dataclass(frozen=True)
class Looked:
    """The options that the settings follow from, which are read first."""

    pictures: Annotated[Pictures, tyro.conf.arg(name="")] = field(default_factory=Pictures)
    resolution: Resolution | None = None
    out: str = ""
    init: str = ""
    first: str = ""
    vae: str = ""
    scaling_factor: Positive | None = None
    teacher: str = ""


@dataclass(frozen=True)
class FittedOptions(Options[R]):
    """Options of a recipe that is trained on images."""

    resolution: Resolution | None = None
    """The height and width of the images, from 16 to 256 px (latent-images: to 1,024): one number
    for squares, or two. If left out, it is the largest usual one that the images and the machine
    allow."""


@dataclass(frozen=True)
class OperatorOptions(FittedOptions[R]):
    """Options of a distillation whose teacher may have to be trained first."""

    pictures: Annotated[Pictures, tyro.conf.arg(name="")] = field(default_factory=Pictures)


def train_fitted(name: str, arguments: Sequence[str]) -> None:
    """Train a recipe that is fitted to the images which the arguments name."""
    usual: Any = find_recipe(name)
    kind: Any = FittedOptions if usual.command == "train" else OperatorOptions
    kind = kind[type(usual)]

    def parsed(recipe: Any) -> Any:
        about = f"{name}: {recipe.about}"
        return parse(kind, f"train {name}", about, arguments, default=kind(recipe))

    if has_help(arguments):
        parsed(usual)
        return
    looked = _looked(arguments)
    out = Path(looked.out or f"runs/{name}").expanduser()
    if has_recipe(out):
        if processes().is_main:
            print(plain(f"going on with {out}, as it was begun"), file=sys.stderr)
        options, fitted = parsed(find_recipe(str(out))), None
        _check_begun(options, out)
    else:
        fitted = _fit(name, looked)
        options = parsed(fitted.recipe)
        _check(options, fitted)
    _train(options, fitted, out, ["train", name, *arguments])


def _looked(arguments: Sequence[str]) -> Looked:
    """What the arguments say of that; other options, and mistakes in them, are left for later."""
    own, _ = tyro.cli(Looked, args=list(arguments), return_unknown_args=True, add_help=False)
    return own


def _fit(name: str, looked: Looked) -> Fitted:
    from overtone.training.fitting import fit

    names = ("resolution", "init", "first", "vae", "scaling_factor", "teacher")
    return fit(name, looked.pictures.asked(**{n: getattr(looked, n) for n in names}))


def _check(options: Any, fitted: Fitted) -> None:
    """Raises `OvertoneError` for a network of another size than the settings were chosen for."""
    network, facts = options.recipe.network, fitted.facts
    own: Any = fitted.recipe.network
    if facts is None or own is None:
        return
    if network.resolution != own.resolution:
        raise OvertoneError(
            f"--network.resolution is {shown(network.resolution)}, and the settings were chosen for"
            f" {shown(own.resolution)}: pass --resolution, from which all of them follow."
        )
    if network.channels != own.channels:
        colours = "colours" if facts.channels == 3 else "no colours"
        grey = ", or pass --grey" if network.channels == 1 else ""
        raise OvertoneError(
            f"--network.channels is {network.channels}, and the settings were chosen for images"
            f" with {colours}: leave it out{grey}."
        )


def _check_begun(options: Any, out: Path) -> None:
    """Raises `OvertoneError` for another resolution than that of the run that is there."""
    recipe = options.recipe
    if options.resolution is None or not hasattr(recipe, "data") or recipe.vae:
        return  # that of latents is another
    own = recipe.network
    if sides(options.resolution) != sides(own.resolution):
        raise OvertoneError(
            f"{out} is a run at {shown(own.resolution)} px, not {shown(options.resolution)}:"
            " another --out begins another run."
        )


def _train(options: Any, fitted: Fitted | None, out: Path, command: Sequence[str]) -> None:
    from overtone.errors import RunInterruptedError
    from overtone.training.loop import Trainer
    from overtone.training.train import before_it, collected

    recipe, skip = options.recipe, options.skip_bad_checkpoints
    if options.expert is not None and not recipe.num_experts:
        raise OvertoneError(
            "--expert: this recipe trains one network and has no experts: leave it out."
        )
    if options.dry_run:
        _rehearse(options, fitted)
        return
    try:
        if fitted is not None:
            recipe = before_it(fitted.before, recipe, out, introduce, skip_bad=skip)
        more = collected(recipe, out)
    except RunInterruptedError as error:
        raise goes_on(error, command) from None
    options = replace(options, recipe=recipe)
    if recipe.num_experts:
        train_experts(recipe, out, options, command)
        return
    trainer = Trainer.of(recipe, out=out, **more)
    introduce(trainer)
    run(trainer, out, command, skip)


def _rehearse(options: Any, fitted: Fitted | None) -> None:
    """A dry run of all that would be trained; what needs another run's model first is left out."""
    from overtone.training.loop import Trainer

    recipe, needs = options.recipe, False
    for before in fitted.before if fitted is not None else ():
        if getattr(recipe, before.field):
            continue
        trainer = Trainer.of(before.like(recipe).tried())
        introduce(trainer, before.name)
        rehearse(trainer, f"dry run, {before.name}")
        needs |= before.field in ("vae", "teacher")
    if needs:
        if processes().is_main:
            print("the rest can be tried once that is trained.")
        return
    if recipe.num_experts:
        train_experts(recipe, Path(), options, ())
        return
    more: dict[str, Any] = {}
    if recipe.command != "train":
        from overtone.training.train import teacher_for

        more["teacher"] = teacher_for(recipe)
        recipe = replace(recipe, online=True)
    trainer = Trainer.of(recipe.tried(), **more)
    introduce(trainer)
    rehearse(trainer)
