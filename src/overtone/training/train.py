"""Training a recipe from beginning to end, in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from overtone import settings
from overtone.data.names import given_name
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.pipelines.load import load_pipeline
from overtone.registry import resolve
from overtone.runs import find_checkpoint, has_recipe
from overtone.training.collect import collect
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.configs.recipe import Recipe
from overtone.training.distill import check_student
from overtone.training.experts import train_and_merge
from overtone.training.fitting import Asked, Before, fit
from overtone.training.loop import Trainer
from overtone.training.material import Given, material_of
from overtone.training.recipes import FITTED, find_recipe, run_named
from overtone.training.teacher import Teacher, open_teacher

NO_HELD_OUT = (
    "held_out goes with data that are an object: of data by their name the test split is held out,"
    " or a share of them."
)


def train(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    data: Any = None,
    held_out: Any = None,
    skip_bad_checkpoints: bool = False,
    show: bool = True,
) -> Any:
    """Train a recipe, and return what it made: a `Pipeline`, or the VAE of a VAE's recipe.

        from overtone import find_recipe, train

        pipe = train("diffit-digits", "runs/digits")

        recipe = find_recipe("diffit-digits")
        recipe = dataclasses.replace(recipe, data="~/letters", label_dropout=0.2)
        pipe = train(recipe, "runs/letters")

        pipe = train(recipe, "runs/mine", data=my_dataset)

        pipe = train("images", "runs/cats", data="~/pictures")

    The same as `overtone train RECIPE --out DIRECTORY`; of a distillation, as `overtone distill
    collect` into `OUT-trajectories` and then `overtone distill train`.

    Arguments:
        recipe: a recipe, the name of one, the path of a .json file with one, or FILE.py:NAME, where
            FILE.py is executed and NAME in it is a recipe, or a function that returns one. The
            directory of a run goes on with it.
        data: what to train on in the place of the recipe's data: an object with a length, `fetch`,
            classes and a fingerprint, a `torch.utils.data.Dataset`, or an array
            (`overtone.data.own_data`). For "images" and the other recipes whose settings follow
            from the data, it may be a name as well: a folder, a zip, hf:OWNER/NAME.
        held_out: data of the same kind, that the loss is measured on.
        out: directory of the run, which has to be given unless `recipe` names a run. A run that was
            interrupted goes on.
        skip_bad_checkpoints: go on from the newest checkpoint that is as it was written, where a
            newer one is damaged.
        show: print progress.

    Raises `OvertoneError` for settings and data that do not fit, and for a directory that holds the
    run of other settings.
    """
    run = _place_of(recipe, out)
    if isinstance(recipe, str) and recipe in FITTED:
        if not has_recipe(run):
            return _train_fitted(recipe, run, data, held_out, skip_bad_checkpoints, show)
        read, data = _begun(run, data)
    else:
        read = _read(recipe if isinstance(recipe, Recipe) else find_recipe(str(recipe)))
    given: dict[str, Any] = {"skip_bad": True} if skip_bad_checkpoints else {}
    if data is not None:
        if not hasattr(read, "data"):
            raise OvertoneError(f"a recipe of the kind '{read.kind}' trains on no images: no data.")
        given["given"] = Given(data, held_out)
    elif held_out is not None:
        raise OvertoneError(NO_HELD_OUT)
    trains = resolve(read.trains, read, "trains")
    return trains(read, run, show=show, **given)


def _begun(run: Path, data: Any) -> tuple[Any, Any]:
    """The recipe of a run that is fitted to data, and the data where they are an object."""
    read = _read(find_recipe(str(run)))
    if data is None or not hasattr(read, "data"):  # it has a teacher, which is trained
        return read, None
    if isinstance(data, str | Path):
        return replace(read, data=str(data)), None
    return read, data


def _read(own: Any) -> Any:
    """A recipe as a file would say it. Python checks no types: what no file could say is refused
    before anything is built."""
    read: Any = settings.load(type(own), settings.dump(own), "the recipe")
    unsaved = [f.name for f in fields(own) if not f.metadata.get("saved", True)]
    return replace(read, **{name: getattr(own, name) for name in unsaved})


def _train_fitted(
    name: str, run: Path, data: Any, held_out: Any, skip_bad: bool, show: bool
) -> Any:
    """Train a recipe whose settings follow from the data, by their name or as an object."""
    given = None if isinstance(data, str | Path) or data is None else Given(data, held_out)
    if given is None and held_out is not None:
        raise OvertoneError(NO_HELD_OUT)
    asked = Asked("" if given is not None else str(data or ""))
    fitted = fit(name, asked, given, show=show)
    recipe = before_it(fitted.before, fitted.recipe, run, given=given, show=show, skip_bad=skip_bad)
    more = {} if given is None or not hasattr(recipe, "data") else {"given": given}
    trains = resolve(recipe.trains, recipe, "trains")
    return trains(recipe, run, show=show, skip_bad=skip_bad, **more)


def _place_of(recipe: Recipe | str | Path, out: str | Path | None) -> Path:
    """The directory of a run: the one given, or the run that is named in a recipe's place."""
    named = None if isinstance(recipe, Recipe) else run_named(str(recipe))
    run = named if out is None else Path(out).expanduser()
    if run is None:
        raise OvertoneError("say where the run is to be: train(recipe, out).")
    return run


def train_model(
    recipe: Any,
    run: Path,
    *,
    given: Given | None = None,
    show: bool = True,
    skip_bad: bool = False,
    **more: Any,
) -> Any:
    """Train the one model of a recipe. `more` are further arguments of its task."""
    if given is not None:
        material = material_of(recipe, given, show=show)
        # What it was trained on is written down by the data's own name.
        recipe = replace(recipe, data=given_name(material.data.name))
        more["material"] = material
    trainer = Trainer.of(recipe, out=run, show=show, **more)
    trainer.run(run, skip_bad=skip_bad)
    return trainer.task.opened(find_checkpoint(run))


def train_denoiser(
    recipe: DenoisingRecipe,
    run: Path,
    *,
    given: Given | None = None,
    show: bool = True,
    skip_bad: bool = False,
) -> Any:
    """Train a denoiser, or all experts of a recipe."""
    if recipe.experts is None:
        return train_model(recipe, run, given=given, show=show, skip_bad=skip_bad)
    train_and_merge(recipe, run, given=given, show=show, skip_bad=skip_bad)
    processes().wait()
    return load_pipeline(run)


def before_it(
    before: Sequence[Before],
    recipe: Any,
    run: Path,
    started: Callable[[Trainer, str], None] = lambda trainer, name: None,
    *,
    given: Given | None = None,
    show: bool = True,
    skip_bad: bool = False,
) -> Any:
    """Train what a recipe needs first, unless it names it, each in a run beside its own; returns
    the recipe with these named. `started` is told of each."""
    for stage in before:
        if getattr(recipe, stage.field):
            continue
        place, own = stage.place(run), stage.like(recipe)
        more: dict[str, Any] = {}
        if given is not None:
            more["material"] = material_of(own, given, show=show)
            own = replace(own, data=given_name(more["material"].data.name))
        trainer = Trainer.of(own, out=place, show=show, **more)
        started(trainer, stage.name)
        trainer.run(place, skip_bad=skip_bad)
        recipe = replace(recipe, **{stage.field: str(place)})
    return recipe


def collected(recipe: Any, run: Path, *, show: bool = True) -> dict[str, Any]:
    """The teacher of a distillation and its trajectories, which are solved where they are missing,
    as further arguments of its task; nothing for other recipes."""
    if recipe.command == "train":
        return {}
    teacher = teacher_for(recipe)
    folder = run.with_name(f"{run.name}-trajectories")
    if not recipe.online:
        collect(recipe, teacher, folder, show=show)
    return {"teacher": teacher, "folder": folder}


def distill(
    recipe: DistillationRecipe, run: Path, *, show: bool = True, skip_bad: bool = False
) -> Any:
    """Solve what is missing of the trajectories, and train an operator on them."""
    more = collected(recipe, run, show=show)
    return train_model(recipe, run, show=show, skip_bad=skip_bad, **more)


def teacher_for(recipe: DistillationRecipe) -> Teacher:
    """The teacher that a distillation names, with its solver."""
    processes()  # which gives each its own device, where there are several
    if not recipe.teacher:
        raise OvertoneError("this recipe has no teacher of its own: pass --teacher MODEL.")
    teacher = open_teacher(
        recipe.teacher,
        recipe.solver,
        recipe.steps,
        recipe.guidance_scale,
        first=recipe.first,
        vae=recipe.vae,
        precision=recipe.training.precision,
    )
    check_student(recipe, teacher)
    return teacher
