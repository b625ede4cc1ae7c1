"""Settings that follow from one's own images: they are looked at, and a table is asked.

`recipes.images` holds the table. What a recipe needs first, a relay's first stage say, is trained
first, beside its run, unless it is given.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from overtone import precision
from overtone.data.images import ImageData, to_unit
from overtone.data.open import open_data
from overtone.data.own import own_data
from overtone.data.reading import PLAIN
from overtone.data.rules import Reading
from overtone.data.survey import FEW, Survey, survey, survey_given
from overtone.errors import OvertoneError, counted, plain, unknown
from overtone.launch import processes
from overtone.networks.network import build_empty
from overtone.pipelines.load import load_pipeline
from overtone.settings import brief
from overtone.sizes import Resolution, divided, divides, shown, sides
from overtone.training.configs.recipe import Recipe
from overtone.training.initial import Initial, open_initial
from overtone.training.material import Given
from overtone.training.open import open_vae
from overtone.training.recipes import FITTED
from overtone.training.recipes import images as table
from overtone.training.recipes.images import Facts

MEASURED = 4_096
"""images that the mean and the standard deviation are measured on"""
USUAL = {"images": (32, 64), "meme-images": (32, 64), "dsno-images": (32, 64)}
USUAL |= {"relay-images": (64, 256), "latent-images": (64, 256)}
"""the resolution that is taken where the images allow it, on CPU cores and on a GPU"""
LARGEST_LATENT = 1024


@dataclass(frozen=True)
class Asked:
    """What is asked for, in the place of what follows from the images."""

    data: str = ""
    resolution: Resolution | None = None
    reading: Reading = PLAIN
    grey: bool = False
    held_out_share: float | None = None
    init: str = ""
    first: str = ""
    vae: str = ""
    scaling_factor: float | None = None
    teacher: str = ""


@dataclass(frozen=True)
class Before:
    """A run that another one needs first."""

    field: str
    """The field of the other recipe that names what this one makes."""
    name: str
    """The name of the directory, behind the other's."""
    recipe: Recipe

    def place(self, run: Path) -> Path:
        """Where it is trained, beside the run that needs it."""
        return run.with_name(f"{run.name}-{self.name}")

    def like(self, recipe: Any) -> Any:
        """Its recipe, run as another is: on the same kind of numbers, watched by the same."""
        own: Any = self.recipe
        shared = ("seed", "precision", "compile")
        training = replace(own.training, **{n: getattr(recipe.training, n) for n in shared})
        training = replace(training, ema_lengths=())  # which are for the model that is kept
        watched = {n: getattr(recipe.reporting, n) for n in ("workers", "trackers")}
        return replace(own, training=training, reporting=replace(own.reporting, **watched))


@dataclass(frozen=True)
class Fitted:
    """A recipe, and the runs that it needs first."""

    recipe: Any
    before: tuple[Before, ...] = ()
    facts: Facts | None = None


def fit(name: str, asked: Asked, given: Given | None = None, *, show: bool = True) -> Fitted:
    """A recipe of `FITTED` for images, which are looked at and, if `show`, told of. They are those
    whose name is asked for, or data `given` in Python.

    Raises `OvertoneError` for images that are too small, and for what is asked for and contradicts
    them.
    """
    if name not in FITTED:
        raise unknown("recipe that is fitted to images", name, FITTED)
    gpu = precision.default_device().type != "cpu"
    if name == "dsno-images" and asked.teacher:
        return _of_teacher(asked, gpu=gpu)
    if not asked.data and given is None:
        more = ", or --teacher MODEL" if name == "dsno-images" else ""
        raise OvertoneError(
            f"{name} is for images of your own: pass --data FOLDER, a zip, or hf:OWNER/NAME{more}."
        )
    show = show and processes().is_main
    found = survey(asked.data) if given is None else survey_given(given.data)
    initial = open_initial(asked.init) if asked.init and name == "images" else None
    resolution = _resolution(name, asked, found, initial, gpu=gpu)
    channels, reading = 1 if asked.grey else found.channels, asked.reading
    if given is None:
        data = open_data(asked.data, resolution, channels, reading=reading)
    else:
        data = own_data(given.data, resolution, channels, reading=reading)
    mean, deviation = measured(data)
    facts = Facts(
        resolution=resolution,
        channels=channels,
        images=None if data.endless else len(data),
        num_classes=data.num_classes if data.num_classes > 1 else 0,
        sigma_data=round(deviation, 2),
        gpu=gpu,
        first_resolution=_first_resolution(name, asked, resolution),
        latent=_latent(asked, resolution) if name == "latent-images" else None,
    )
    fitted = _fitted(name, asked, facts)
    needed = tuple(stage for stage in fitted.before if not getattr(asked, stage.field))
    fitted = replace(fitted, before=needed)
    if initial is not None:
        fitted = replace(fitted, recipe=_begun(fitted.recipe, initial, facts))
    if show:
        _print(found.told(reading.background, asked.grey))
        _print(_kept_down(asked, found, resolution, max(sides(USUAL[name][gpu]))))
        _print(_measures(mean, deviation))
        _print(told(fitted))
    return fitted


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        indent = "  " if line.startswith(" ") else ""
        print(indent + plain(line.strip()), file=sys.stderr)


def _kept_down(asked: Asked, found: Survey, resolution: Resolution, usual: int) -> Iterator[str]:
    """A sentence where a few small pictures alone keep the resolution down."""
    side = 2 * min(sides(resolution))
    small = found.smaller_than(side)
    few = 0 < small <= FEW * sum(found.sizes.values())
    if asked.resolution is None and not asked.init and side <= usual and few:
        yield (
            f"  {counted(small, 'picture')} below {side} px keep the resolution at"
            f" {shown(resolution)}: --resolution {side} --skip-bad-images leaves them out"
        )


def measured(data: ImageData) -> tuple[float, float]:
    """Mean and standard deviation of the values of images in [-1, 1]."""
    chosen = data.spread(min(MEASURED, len(data)))
    total = squares = count = 0.0
    for at in range(0, len(chosen), 256):
        values = to_unit(data.fetch(chosen[at : at + 256])[0]).double()
        total, squares = total + float(values.sum()), squares + float(values.square().sum())
        count += values.numel()
    mean = total / count
    deviation = max(squares / count - mean**2, 0.0) ** 0.5
    if deviation < 0.01:
        raise OvertoneError(
            f"the images of {data.name} are all alike: their values have the standard deviation"
            f" {deviation:.4f} about {mean:.2f}. There is nothing to learn."
        )
    return mean, deviation


def _measures(mean: float, deviation: float) -> Iterator[str]:
    yield (
        f"  values in [-1, 1]: mean {mean:.2f}, standard deviation {deviation:.2f}, which is"
        f" sigma_data {deviation:.2f}"
    )


def _resolution(
    name: str, asked: Asked, found: Survey, initial: Initial | None, *, gpu: bool
) -> Resolution:
    """The resolution that is asked for, if the images allow it, or the largest usual one."""
    largest = LARGEST_LATENT if name == "latent-images" else table.LARGEST
    wanted = asked.resolution
    usual: Any = USUAL[name][gpu]
    if wanted is None and initial is not None:
        own: Any = initial.module
        usual = own.config.resolution
        wanted = usual if found.any_size or min(sides(usual)) <= found.smallest else None
    if found.fixed is not None and wanted in (None, found.fixed):
        wanted = found.fixed
    if wanted is not None:
        _check_asked(asked, found, wanted, largest)
        return wanted
    if found.any_size:
        return usual
    # A few that are too small may be left out, if that was asked for.
    left_out = FEW * sum(found.sizes.values()) if asked.reading.skip_bad else 0
    usable = [2**power for power in range(4, 11) if found.smaller_than(2**power) <= left_out]
    if not usable:
        few = found.smaller_than(table.SMALLEST)
        raise OvertoneError(
            f"{found.name}: {counted(few, 'picture')} of {sum(found.sizes.values()):,} have a side"
            f" below {table.SMALLEST} px, the smallest that {name} takes: remove them, or"
            f" --resolution {table.SMALLEST} --skip-bad-images leaves them out."
        )
    return max(side for side in usable if side <= max(*sides(usual), table.SMALLEST))


def _check_asked(asked: Asked, found: Survey, wanted: Resolution, largest: int) -> None:
    low, high = min(sides(wanted)), max(sides(wanted))
    if low < table.SMALLEST or high > largest:
        raise OvertoneError(
            f"--resolution {shown(wanted)} is not within {table.SMALLEST} to {largest} px a side,"
            " which the table of settings is for."
        )
    height, width = sides(wanted)
    small = sum(
        count for (wide, tall), count in found.sizes.items() if wide < width or tall < height
    )
    every = sum(found.sizes.values())
    if small and not (asked.reading.skip_bad and small < every):
        fits = [side for side in (256, 128, 64, 32, 16) if side <= found.smallest]
        way = f"--resolution {fits[0]} suits all" if fits else "remove them"
        skip = ", and --skip-bad-images leaves them out" if small < every else ""
        raise OvertoneError(
            f"{found.name}: {counted(small, 'picture')} of {every:,} are smaller than"
            f" {shown(wanted)} px: {way}{skip}."
        )


def _first_resolution(name: str, asked: Asked, resolution: Resolution) -> Resolution:
    """The resolution of a relay's first stage, of which the second's is a multiple."""
    if name != "relay-images":
        return Facts.first_resolution
    low = load_pipeline(asked.first).resolution if asked.first else divided(resolution, 4)
    (height, width), (high, wide) = sides(resolution), sides(low)
    if height % high or width % wide or height // high != width // wide or height == high:
        raise OvertoneError(
            f"a relay at {shown(resolution)} px continues images of a whole number of times fewer"
            f" pixels a side, not {shown(low)} px: choose another --resolution or --first."
        )
    return low


def _latent(asked: Asked, resolution: Resolution) -> tuple[Resolution, int] | None:
    """Resolution and channels of the latents of the VAE that is given."""
    if not asked.vae:
        return None
    vae = open_vae(asked.vae, asked.scaling_factor)
    if not divides(resolution, vae.factor):
        raise OvertoneError(
            f"{shown(resolution)} px are not a multiple of {vae.factor}, by which this VAE makes"
            " images smaller: choose another --resolution."
        )
    return divided(resolution, vae.factor), vae.channels


def _of_teacher(asked: Asked, *, gpu: bool) -> Fitted:
    """A distillation of a model that is there. Raises `OvertoneError` for images beside it."""
    if asked.data or asked.resolution is not None or asked.grey or asked.reading != PLAIN:
        raise OvertoneError(
            "dsno-images --teacher learns from what the teacher makes, and looks at no images:"
            " leave out --data and what says how images are read."
        )
    pipe = load_pipeline(asked.teacher)
    facts = Facts(resolution=pipe.resolution, channels=pipe.channels, gpu=gpu)
    return Fitted(replace(table.dsno_images(facts), teacher=asked.teacher))


def _fitted(name: str, asked: Asked, facts: Facts) -> Fitted:
    reading = asked.reading
    pictures: dict[str, Any] = {
        "data": asked.data,
        "skip_bad_images": reading.skip_bad,
        "background": reading.background,
        "crop": reading.crop,
        "grey": asked.grey,
    }
    if asked.held_out_share is not None:
        pictures["held_out_share"] = asked.held_out_share

    def on_pictures(recipe: Any) -> Any:
        return replace(recipe, **pictures)

    if name == "images":
        return Fitted(replace(on_pictures(table.images(facts)), init=asked.init), (), facts)
    if name == "relay-images":
        second = on_pictures(table.relay_images(facts))
        low = replace(facts, resolution=facts.first_resolution)
        first = Before("first", "first", on_pictures(table.images(low)))
        return Fitted(second, (first,), facts)
    if name == "meme-images":
        trunk = Before("init", "trunk", on_pictures(table.meme_trunk(facts)))
        return Fitted(on_pictures(table.meme_images(facts)), (trunk,), facts)
    if name == "latent-images":
        latent = on_pictures(table.latent_images(facts))
        if asked.vae:
            return Fitted(latent, (), facts)
        factor = table.vae_factor(facts)
        if not divides(facts.resolution, factor):
            raise OvertoneError(
                f"{shown(facts.resolution)} px are not a multiple of {factor}, by which the VAE"
                " that is trained first makes images smaller: choose another --resolution."
            )
        vae = Before("vae", "vae", on_pictures(table.vae_images(facts)))
        return Fitted(latent, (vae,), facts)
    teacher = Before("teacher", "teacher", on_pictures(table.images(facts)))
    return Fitted(table.dsno_images(facts), (teacher,), facts)


def _begun(recipe: Any, initial: Initial, facts: Facts) -> Any:
    """The recipe with the network, and the preconditioning, of the model that it begins with."""
    own: Any = initial.module
    config = own.config
    known = {field.name for field in fields(config)}
    changes: dict[str, Any] = {}
    if "augment_channels" in known:
        changes["augment_channels"] = 0
    if "learned_variance" in known and not config.is_foreign:
        changes["learned_variance"] = False
    if config.makes_trajectories or config.channels not in (1, 3):
        raise OvertoneError(
            f"--init {initial.name} is a {config.kind} that makes no pixels from noise: images"
            " begins with a model of pixels."
        )
    try:
        config = replace(config, **changes).with_images(facts.resolution, facts.channels)
        config = config.with_classes(0)
    except ValueError as error:
        raise OvertoneError(f"--init {initial.name}: {error}.") from None
    return replace(
        recipe, network=config, preconditioning=initial.preconditioning or recipe.preconditioning
    )


def told(fitted: Fitted) -> Iterator[str]:
    """What was chosen, in sentences."""
    recipe = fitted.recipe
    facts = fitted.facts
    if facts is None:
        return
    machine = "a GPU" if facts.gpu else f"{torch.get_num_threads()} threads of a CPU"
    plan = recipe.training
    what = "colour" if facts.channels == 3 else "grey"
    yield f"chosen for {shown(facts.resolution)} px in {what} on {machine}:"
    if recipe.network is not None:
        yield f"  network: {brief(recipe.network)}"
    yield (
        f"  training: {plan.total_images:,} images in batches of {plan.batch_size}, learning rate"
        f" {plan.lr:g}"
    )
    if plan.ema_lengths:
        watched = recipe.reporting
        every = watched.snapshots_every(plan.total_images), watched.checkpoint_images
        written = {seen for step in every for seen in range(step, plan.total_images, step)}
        copies = (len(written) + 1) * len(plan.ema_lengths)
        size = 2 * build_empty(recipe.network.with_classes(facts.num_classes)).num_parameters
        yield (
            f"  averages: {copies} copies of the network, {copies * size / 1e9:.2g} GB, of which"
            " `overtone ema` makes averages of any length (--ema-lengths keeps none)"
        )
    for before in fitted.before:
        yield (
            f"  trained first, if --{before.field} names no model: {before.recipe.network_name} for"
            f" {before.recipe.training.total_images:,} images"
        )
