"""Progressive distillation: a student that takes one step where its teacher takes two.

Salimans & Ho 2022 (arXiv 2202.00512). From a noised image x at one of the student's noise levels
the teacher takes two steps, to x''. The student's estimate D(x) is trained so that its own step,

    x' = mean(D(x), sigma'') + gamma (x - mean(D(x), sigma)),   gamma = sigma'' / sigma

leads there too:

    min E w(sigma) |x' - x''|^2 / (1 - gamma)^2

which for white noise is w(sigma) |D(x) - x~|^2, x~ being the paper's target (its equation 43), and
under a relay's blur weights each frequency by what the step makes of it. The student, begun with
the teacher's weights, is the next teacher. Only the first teacher is guided: students learn what
guidance makes.
"""

from __future__ import annotations

import copy
import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone import precision as precisions
from overtone import settings
from overtone.data.names import given_name
from overtone.data.rules import Reading
from overtone.denoisers.build import denoiser_of
from overtone.denoisers.denoiser import Denoiser, Images
from overtone.errors import OvertoneError, counted
from overtone.launch import processes
from overtone.pipelines.load import load_pipeline
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.request import Request
from overtone.processes.gaussian import Process
from overtone.processes.noise import SeededNoise
from overtone.runs import HALVING, find_checkpoint, halving_folder
from overtone.samplers.sampler import Sampler
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.configs.halving import HalvingRecipe
from overtone.training.denoising import grid_picture, grid_request
from overtone.training.judging import data_of, reading_of
from overtone.training.loop import Trainer
from overtone.training.material import Given, Material, encoded
from overtone.training.material import data_of as opened_data
from overtone.training.objectives import Batch, Objective
from overtone.training.progress import Progress
from overtone.training.several import claim_runs
from overtone.training.task import Picture, Task
from overtone.training.teacher import Teacher, open_model, teacher_of

Started = Callable[[Trainer, str], None]
"""told of each student that begins to train, and what it is called"""


@dataclass(frozen=True)
class HalvingObjective(Objective):
    """The loss of a student of `teacher`, a denoiser whose `sampler` visits twice as many noise
    levels, and takes steps that need no earlier one.

    Images are noised at the student's levels, all equally often.
    """

    teacher: Denoiser
    sampler: Any
    process: Process
    weighting: str = "snr_plus_one"
    num_classes: int = 0
    mirror: bool = False

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The student's noise levels, falling to 0."""
        return (*self.sampler.visited[::2], 0.0)

    def draw(self, x_0: Images, labels: Int[Tensor, " batch"], source: SeededNoise) -> Batch:
        steps = len(self.sigmas) - 1
        number = (source.uniform() * steps).long().clamp(max=steps - 1)
        flipped = source.uniform() < 0.5
        if self.mirror:
            x_0 = torch.where(flipped[:, None, None, None], x_0.flip(3), x_0)
        sigma = torch.tensor(self.sigmas)[number]
        batch = {"sigma": sigma, "x_0": x_0, "noise": self.process.noise(x_0, source)}
        batch["number"] = number
        return batch | ({"class_labels": labels} if self.num_classes else {})

    def loss(
        self, model: nn.Module, batch: Batch, average: nn.Module | None = None
    ) -> Float[Tensor, " batch"]:
        x_0, sigma, labels = batch["x_0"], batch["sigma"], batch.get("class_labels")
        x = self.process.mean(x_0, sigma) + sigma[:, None, None, None] * batch["noise"]
        estimate = model(x, sigma, labels).x_0
        # Images of one level together, as a guided teacher takes them: the host waits once for the
        # numbers of their levels.
        order = batch["number"].argsort(stable=True)
        sizes = sorted(Counter(batch["number"].tolist()).items())
        losses = []
        for (number, _), at in zip(sizes, order.split([n for _, n in sizes]), strict=True):
            with torch.no_grad():
                wanted = self.two_steps(x[at], number, None if labels is None else labels[at])
            made, here, there = estimate[at], self.sigmas[number], self.sigmas[number + 1]
            if there:
                made = self.process.reverse(x[at], made, here, there, there / here)
            error = (made - wanted).float().square().mean(dim=(1, 2, 3))
            losses.append(self.weight(here) / (1 - there / here) ** 2 * error)
        return torch.cat(losses)[order.argsort()]

    def two_steps(self, x: Images, number: int, labels: Tensor | None) -> Images:
        """Where the teacher is after two steps from the student's level `number`."""
        levels = (*self.sampler.visited, 0.0)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return self.teacher(x, sigma, labels).x_0

        for at in (2 * number, 2 * number + 1):
            x, _, _ = self.sampler.step(
                denoise, self.process, x, levels[at], levels[at + 1], SeededNoise([])
            )
        return x

    def weight(self, sigma: float) -> float:
        """w(sigma): the signal-to-noise ratio and one, or the larger of the two."""
        snr = sigma**-2
        return 1 + snr if self.weighting == "snr_plus_one" else max(1.0, snr)


class HalvingTask(Task):
    """Training the student of `steps` steps of a teacher of twice as many."""

    objective: HalvingObjective

    def __init__(
        self,
        recipe: HalvingRecipe,
        *,
        teacher: Teacher,
        steps: int,
        material: Material,
        show: bool = True,
    ) -> None:
        self.recipe, self.teacher, self.steps = recipe, teacher, steps
        own = teacher.pipe
        visited = len(teacher.sampler.visited)
        if visited != 2 * steps:
            raise OvertoneError(
                f"a student of {counted(steps, 'step')} has a teacher of {2 * steps}, not of"
                f" {visited}."
            )
        data, test, vae = material
        self.facts: dict[str, Any] = {}
        if vae is not None:
            data, test = encoded(_reading_recipe(recipe, teacher, ""), vae, data, test, show=show)
            self.facts = {"latents": data.facts()}
        self.data, self.held_out = data, test
        self.objective = HalvingObjective(
            own.denoiser_of(Request(())).eval().requires_grad_(False),
            teacher.sampler,
            own.process,
            recipe.weighting,
            own.num_classes,
            recipe.mirror and vae is None,  # mirrored latents are data of their own
        )
        self.model = denoiser_of(copy.deepcopy(own.network), own.preconditioning).requires_grad_()
        self.identity = {
            **recipe.identity(),
            **self.facts,
            "teacher": teacher.digest,
            "guidance": settings.dump(own.guidance),
            "levels": list(self.objective.sigmas),
        }
        self.pipeline(self.model, Progress())  # what it can't be saved with is told of now

    @property
    def of(self) -> str:
        steps = counted(self.steps, "step")
        return f"{self.what} of {self.data.name}, {steps} for {self.teacher.name}'s"

    def pipeline(self, denoiser: Any, progress: Progress) -> Pipeline:
        """The pipeline of a student as it is saved."""
        own, training = self.teacher.pipe, self.recipe.training
        return Pipeline(
            denoiser.network,
            Sampler(num_steps=self.steps, levels=self.objective.sigmas[:-1], estimate="single"),
            preconditioning=own.preconditioning,
            process=own.process,
            start=own.start,
            vae=own.vae,
            image_resolution=own.image_resolution,
            class_names=own.class_names,
            data=self.scored_beside,
            training={
                **self.teacher.facts,
                **self.reading.facts(),
                "images seen": progress.images,
                "batch size": training.batch_size,
                "learning rate": training.lr,
                "label dropout": 0.0,  # guidance is built in, and can't be added
                "EMA half-life in images": training.ema_halflife_images,
                "seed": training.seed,
                "data digest": self.data.fingerprint,
            },
            precision=training.precision,
        )

    def export(self, average: nn.Module, folder: Path, progress: Progress) -> None:
        self.pipeline(average, progress).write_into(folder)

    def picture(self, average: nn.Module, progress: Progress) -> Picture | None:
        """Samples at fixed seeds, a class a column."""
        pipe = self.scored(average, progress)
        return None if pipe is None else grid_picture(pipe, grid_request(pipe))

    @property
    def scored_beside(self) -> str:  # type: ignore[override]
        return self.recipe.data or self.teacher.pipe.data

    @property
    def reading(self) -> Reading:  # type: ignore[override]
        return self.recipe.read_as(reading_of(self.teacher.pipe, self.recipe.teacher))

    def scored(self, average: nn.Module, progress: Progress) -> Pipeline | None:
        if self.teacher.is_latent and self.teacher.pipe.vae is None:
            return None
        return self.pipeline(average, progress)

    def opened(self, checkpoint: Path) -> Pipeline:
        return load_pipeline(checkpoint)


def first_teacher(recipe: HalvingRecipe) -> Teacher:
    """The teacher that a recipe names, as a solver of its steps.

    Raises `OvertoneError` for an operator, for a sampler that draws noise unless the recipe names
    a solver, and for steps that it can't take.
    """
    if not recipe.teacher:
        raise OvertoneError("this recipe has no teacher of its own: pass --teacher MODEL.")
    name, pipe = open_model(recipe.teacher, vae=recipe.vae, precision=recipe.training.precision)
    own: Any = pipe.sampler
    if recipe.solver is None and own.draws_noise and not own.is_operator:
        raise OvertoneError(
            f"the teacher's own sampler draws noise at each step ({type(own).__name__}), and a"
            " student learns steps that draw none: pass --solver single (DDIM), or another."
        )
    solver, steps = recipe.solver or "single", recipe.teacher_steps
    teacher = teacher_of(pipe, name, solver, steps, recipe.guidance_scale)
    if not teacher.sampler.takes_steps:
        raise OvertoneError(
            f"the steps of a {type(own).__name__} can't be taken one by one: pass --solver single."
        )
    return teacher


def material_for(
    recipe: HalvingRecipe, teacher: Teacher, given: Given | None = None, *, show: bool = True
) -> Material:
    """The images that students are trained on: the recipe's, or those of the teacher."""
    pipe = teacher.pipe
    if teacher.is_latent and pipe.vae is None:
        raise OvertoneError("this teacher makes latents, and images are encoded first: pass --vae.")
    data = recipe.data or ("" if given is not None else data_of(pipe, recipe.teacher))
    own = _reading_recipe(recipe, teacher, data)
    material = Material(*opened_data(own, pipe.vae, given, show=show), pipe.vae)
    known = material.data.num_classes
    if pipe.num_classes not in (0, known):
        raise OvertoneError(
            f"the teacher has {pipe.num_classes} classes and {material.data.name} has {known}:"
            " train on the images that it was trained on."
        )
    return material


def _reading_recipe(recipe: HalvingRecipe, teacher: Teacher, data: str) -> DenoisingRecipe:
    """How images are opened for a teacher's network, and encoded for its latents."""
    reading = recipe.read_as(reading_of(teacher.pipe, recipe.teacher))
    return DenoisingRecipe(
        "",
        teacher.pipe.network.config,
        data,
        mirror=recipe.mirror,
        skip_bad_images=reading.skip_bad,
        background=reading.background,
        crop=reading.crop,
        grey=recipe.grey,
        held_out_share=recipe.held_out_share,
        encoded_images=recipe.encoded_images,
        reporting=recipe.reporting,
    )


def train_halvings(
    recipe: HalvingRecipe,
    run: Path,
    started: Started = lambda trainer, name: None,
    *,
    given: Given | None = None,
    show: bool = True,
    skip_bad: bool = False,
) -> Pipeline:
    """Halve the steps of a recipe's teacher again and again, each student in a run of its own
    within `run`; what is trained is not trained again. `started` is told of each. Returns the last
    student."""
    show = show and processes().is_main
    teacher = first_teacher(recipe)
    material = material_for(recipe, teacher, given, show=show)
    if given is not None:
        recipe = replace(recipe, data=given_name(material.data.name))
    if processes().is_main:
        claim_runs(run, recipe, {"halvings": list(recipe.halvings)}, HALVING)
    processes().wait()
    pipe, first = teacher.pipe, teacher.name
    for steps in recipe.halvings:
        place = halving_folder(run, steps)
        trainer = Trainer.of(
            recipe, out=place, show=show, teacher=teacher, steps=steps, material=material
        )
        started(trainer, f"{2 * steps} steps halved to {steps}")
        trainer.run(place, skip_bad=skip_bad)
        processes().wait()
        pipe = load_pipeline(find_checkpoint(place)).to(precisions.default_device())
        pipe.precision = recipe.training.precision
        teacher = teacher_of(pipe, f"{first} in {counted(steps, 'step')}")
        gc.collect()  # a trainer and what it closes over hold each other
    return pipe
