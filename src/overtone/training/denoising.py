"""The task of a denoiser: a network, or one expert of several, under a preconditioning."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from overtone.data.images import to_unit
from overtone.data.latents import is_latents
from overtone.data.names import GIVEN
from overtone.data.rules import Reading
from overtone.denoisers.network import NetworkDenoiser
from overtone.errors import OvertoneError, counted, plain
from overtone.launch import processes
from overtone.networks.network import Network, build
from overtone.pipelines.load import load_pipeline
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.receipt import Receipts
from overtone.pipelines.request import Request
from overtone.pipelines.sheets import sheet
from overtone.pipelines.starts import NoiseStart, RelayStart
from overtone.training.augment import CONDITIONS
from overtone.training.configs.denoising import DenoisingRecipe, Expert
from overtone.training.initial import begin_with, difference_told, open_initial
from overtone.training.material import Material, encoded, material_of
from overtone.training.objectives import DenoisingObjective
from overtone.training.open import check_made
from overtone.training.progress import Progress
from overtone.training.task import Picture, Task

GRID_ROWS = 8


def initialised(
    recipe: DenoisingRecipe,
    network: Network,
    class_names: Sequence[str],
    expert: tuple[int, int] | None = None,
    *,
    show: bool = True,
) -> dict[str, Any]:
    """Give a network the weights of the model that a recipe begins with, if there is one, and say
    which; returns what is written down of it. `expert` is the number of an expert and how many
    there are."""
    if not recipe.init:
        return {}
    initial = open_initial(recipe.init, *(expert or ()))
    copied = begin_with(network, initial, class_names)
    if show:
        other = difference_told(initial, recipe.preconditioning)
        for line in (*copied.told(), *filter(None, [other])):
            print(plain(line), file=sys.stderr)
    return initial.facts(copied)


class DenoisingTask(Task):
    """Training a denoiser, or expert `number` of a recipe of experts.

    Data are opened and checked, the network is built; `material` is there if the data were opened
    before, `begun` what a run that goes on says of the model it began with. An expert trains in
    this process alone.
    """

    def __init__(
        self,
        recipe: DenoisingRecipe,
        number: int | None = None,
        *,
        material: Material | None = None,
        begun: dict[str, Any] | None = None,
        show: bool = True,
    ) -> None:
        data, test, vae = material or material_of(recipe, show=show)
        self.vae, self.facts = vae, dict[str, Any]()
        self.alone = number is not None
        show = show and processes().is_main
        own = Expert(recipe.network)
        if (number is None) != (recipe.experts is None):
            raise OvertoneError(
                "this recipe has one network, and no experts."
                if recipe.experts is None
                else "this recipe trains experts: say which, --expert 1, or none for all of them."
            )
        count = recipe.num_experts
        if number is not None:
            recipe, own = self._expert(recipe, number)
        self.recipe = recipe
        if recipe.class_conditional and not data.num_classes:
            raise _no_classes(recipe.data)
        if show:
            _warn(recipe)
        self.num_classes = data.num_classes if recipe.class_conditional else 0
        self.model = denoiser = self._model(recipe)
        names = data.class_names if recipe.class_conditional else ()
        at = None if number is None else (number, count)
        self.facts |= begun or initialised(recipe, denoiser.network, names, at, show=show)
        self.first = _first_of(recipe)
        self.identity = recipe.identity() | self.facts
        if vae is not None:
            data, test = encoded(recipe, vae, data, test, show=show)
            self.identity["latents"] = data.facts()
        self.data, self.held_out = data, test
        self.objective = DenoisingObjective(
            schedule=recipe.schedule,
            process=recipe.process,
            weighting=recipe.loss_weighting,
            num_classes=self.num_classes,
            label_dropout=recipe.label_dropout,
            mirror=recipe.mirror and vae is None,  # mirrored latents are data of their own
            augmentation=recipe.augmentation,
            hybrid=denoiser.network.config.learns_variance,
            bounded=vae is None,
            interval=own.shares,
            interval_probability=own.probability,
        )
        self.pipeline(denoiser, Progress())  # what it can't be saved with is told of now
        denoiser.network.check_loads_again()

    def _expert(self, recipe: DenoisingRecipe, number: int) -> tuple[DenoisingRecipe, Expert]:
        assert recipe.experts is not None
        try:
            own = recipe.expert(number)
        except ValueError as error:
            raise OvertoneError(f"{error}.") from None
        low, high = own.interval
        self.facts = {
            "expert": f"{number} of {recipe.experts.count}",
            "its noise levels": f"{low:.4g} to {high:.4g}",
            "trained on them": own.probability,
        }
        return replace(recipe, network=own.network, experts=None), own

    def _model(self, recipe: DenoisingRecipe) -> Any:
        config = network_of(recipe, self.num_classes)
        _check_steps(recipe, config.learns_variance)
        torch.manual_seed(recipe.training.seed)
        network = build(config).to_fast_layout()
        network.check_output()
        return NetworkDenoiser(network, recipe.preconditioning)

    @property
    def of(self) -> str:
        recipe, known = self.recipe, self.data.num_classes
        if recipe.class_conditional:
            classes = counted(known, "class", "classes")
        else:
            classes = (
                f"its {known} classes not used (--class-conditional)" if known else "no classes"
            )
        return f"images of {recipe.data}, {classes}"

    def pipeline(self, denoiser: Any, progress: Progress) -> Pipeline:
        """The pipeline of a denoiser as it is saved."""
        recipe, training = self.recipe, self.recipe.training
        conditional = bool(self.num_classes)
        trained: dict[str, int | float | str] = {
            "images seen": progress.images,
            "batch size": training.batch_size,
            "learning rate": training.lr,
            "label dropout": recipe.label_dropout,
            "EMA half-life in images": training.ema_halflife_images,
            "seed": training.seed,
            "data digest": self.data.fingerprint,
            **recipe.reading.facts(),
        }
        relay = recipe.process.upscale != 1
        return Pipeline(
            denoiser.network,
            recipe.sampler,
            preconditioning=recipe.preconditioning,
            process=recipe.process,
            # Without a null class there is nothing to guide with.
            guidance=recipe.guidance if conditional and recipe.label_dropout else None,
            start=RelayStart(self.first) if relay else NoiseStart(),
            vae=self.vae,
            class_names=self.data.class_names if conditional else (),
            data=self.data.name if is_latents(recipe.data) else recipe.data,
            training=trained | self.facts,
            precision=training.precision,
        )

    def export(self, average: nn.Module, folder: Path, progress: Progress) -> None:
        self.pipeline(average, progress).write_into(folder)

    def picture(self, average: nn.Module, progress: Progress) -> Picture | None:
        """Samples at fixed seeds, a class a column. By itself an expert makes no images: it knows
        its own interval, or hardly more."""
        if self.alone:
            return None
        pipe = self.pipeline(average, progress)
        request = grid_request(pipe)
        if not self._needs_first:
            return grid_picture(pipe, request)
        labels = self._give_first(pipe, len(request.seeds))
        # Real images in the place of a first stage are in no receipt.
        grid = grid_picture(pipe, Request(range(len(request.seeds)), labels))
        return grid._replace(receipt=None)

    @property
    def scored_beside(self) -> str:  # type: ignore[override]
        return self.recipe.data

    @property
    def reading(self) -> Reading:  # type: ignore[override]
        return self.recipe.reading

    def scored(self, average: nn.Module, progress: Progress) -> Pipeline | None:
        if self.alone or self._needs_first:
            return None
        return self.pipeline(average, progress)

    @property
    def _needs_first(self) -> bool:
        """Whether it is a relay's second stage without a first one."""
        return self.recipe.process.upscale != 1 and self.first is None

    def _give_first(self, pipe: Pipeline, count: int) -> list[int] | None:
        """Real images, made small, in the place of a first stage; their classes."""
        real = self.held_out or self.data
        pixels, classes = real.fetch(real.spread(count))
        pipe.first = F.avg_pool2d(to_unit(pixels), self.recipe.process.upscale)
        return classes.tolist() if self.num_classes else None

    def opened(self, checkpoint: Path) -> Pipeline:
        return load_pipeline(checkpoint)


def grid_request(pipe: Pipeline) -> Request:
    """Fixed seeds for a grid of samples, a class a column."""
    columns = _columns(pipe)
    # Column k shows class k: the seeds count through the classes, of which the first 10 show.
    step = pipe.num_classes or columns
    return Request([r * step + c for r in range(GRID_ROWS) for c in range(columns)])


def grid_picture(pipe: Pipeline, request: Request) -> Picture:
    """The images of a request in a grid, with their receipt."""
    parts = [(batch.images, batch.class_labels) for batch in pipe.stream(request)]
    shown = None
    if pipe.num_classes:
        shown = [label for _, own in parts if own is not None for label in own.tolist()]
    images = torch.cat([images for images, _ in parts])
    picture, layout = sheet(images, shown, pipe.class_names, _columns(pipe))
    return Picture(picture, Receipts(pipe, request).whole, layout)


def _columns(pipe: Pipeline) -> int:
    return min(pipe.num_classes, 10) or GRID_ROWS


def network_of(recipe: DenoisingRecipe, num_classes: int) -> Any:
    """The settings of the network as it will be trained: those of the recipe, and what follows from
    the data and the augmentation. Raises `OvertoneError` where they contradict each other."""
    augmented = recipe.network.augmentation_channels
    if augmented and not recipe.augmentation:
        raise OvertoneError("--network.augment-channels follows from --augmentation: set that.")
    if augmented is None and recipe.augmentation:
        raise OvertoneError(f"a {recipe.network.kind} takes no conditions of --augmentation.")
    if recipe.network.num_classes not in (0, num_classes):
        raise OvertoneError(
            f"--network.num-classes is {recipe.network.num_classes}, but {recipe.data} has"
            f" {num_classes} classes to train with: leave it out. A network that always has classes"
            " has to be made with as many."
        )
    try:
        config = recipe.network.with_classes(num_classes)
        return config.with_augmentation(CONDITIONS) if recipe.augmentation else config
    except ValueError as error:
        raise OvertoneError(f"network settings: {error}.") from None


def _no_classes(data: str) -> OvertoneError:
    if data.startswith(GIVEN):
        return OvertoneError(
            f"the data '{data.removeprefix(GIVEN)}' have no classes: give labels with the images,"
            " or set class_conditional=False in the recipe."
        )
    return OvertoneError(
        f"{data} has no classes: sort its images into sub-folders, or pass --no-class-conditional."
    )


def _warn(recipe: DenoisingRecipe) -> None:
    """Say what is not as the recipe asks for."""
    highest = recipe.schedule.sigma_at(1.0)
    begins = max(getattr(recipe.sampler, "sigmas", (0.0,)))
    if begins > highest * (1 + 1e-6):
        print(
            f"sampling will begin at sigma {begins:.4g}, and training draws no noise level above"
            f" {highest:.4g}: --sampler.sigma-max {highest:.4g} begins where training ends.",
            file=sys.stderr,
        )
    plan = recipe.training
    if recipe.guidance.scale != 1.0 and not (recipe.class_conditional and recipe.label_dropout):
        print(
            f"the guidance scale {recipe.guidance.scale:g} is not saved with the model: without"
            " classes and label dropout there is nothing to guide with.",
            file=sys.stderr,
        )
    if plan.lr_rampup_images + plan.lr_rampdown_images > plan.total_images:
        print(
            f"the learning rate never reaches {plan.lr}: its ramps, {plan.lr_rampup_images:,} up"
            f" and {plan.lr_rampdown_images:,} images down, are longer than the run.",
            file=sys.stderr,
        )


def _first_of(recipe: DenoisingRecipe) -> Pipeline | None:
    if not recipe.first:
        return None
    otherwise = "--first MODEL, or --first '' to train the second stage by itself"
    check_made(recipe.first, "the first stage", otherwise)
    return load_pipeline(recipe.first)


def _check_steps(recipe: DenoisingRecipe, learned_variance: bool) -> None:
    """Where a schedule has numbered steps, all parts have to count them alike."""
    schedule, own = recipe.schedule, recipe.preconditioning
    if learned_variance and not (schedule.discrete and own.takes_variance):
        raise OvertoneError(
            "network settings: learned_variance is of a VP denoiser on the steps of a discrete"
            " schedule: choose both in the recipe, or --no-network.learned-variance."
        )
    if not schedule.discrete:
        return
    try:
        own.check_steps(schedule)
        recipe.sampler.check_schedule(schedule)
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None
