"""Cases of training on a pretended device: a step of every kind, and the report of a loss."""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
from overtone.denoisers import (
    ADM_DIFFUSION,
    FlowPreconditioning,
    ScorePreconditioning,
    VEPreconditioning,
)
from overtone.networks import VAEConfig
from overtone.processes import DiscreteSchedule, FlowSchedule, VESchedule
from overtone.samplers import AncestralSampler, Sampler
from overtone.training import (
    ClassifierRecipe,
    DenoisingRecipe,
    DistillationRecipe,
    ExpertSettings,
    HalvingRecipe,
    Reporting,
    Training,
    VAERecipe,
)
from overtone.training.collect import collect
from overtone.training.loop import Trainer
from overtone.training.material import Material
from overtone.training.meter import Meter
from overtone.training.teacher import Teacher, teacher_of
from pretended_parts import DSNO, PIXEL_TRANSFORMER, RELAY, SMALL_CLASSIFIER, Call, Case
from pretended_pipelines import LARGE, at_full_precision, diffit, images

replace = dataclasses.replace
BATCH = 8


def plan(**changes: Any) -> Training:
    return Training(
        total_images=10 * BATCH,
        batch_size=BATCH,
        lr=1e-3,
        lr_rampup_images=0,
        ema_halflife_images=100,
        precision="fp32",
        **changes,
    )


WATCHED = Reporting(held_out_images=2 * BATCH, workers=0)  # the pretence is this process's own


def denoising(network: Any = helpers.TINY_DIFFIT, **changes: Any) -> DenoisingRecipe:
    own = {"class_conditional": True, "label_dropout": 0.1, "training": plan()}
    return DenoisingRecipe("", network, "noise", reporting=WATCHED, **own | changes)


def training() -> Iterator[Case]:
    """A step of every kind of training, and the report of a loss."""
    steps = {
        "preconditioning": ADM_DIFFUSION,
        "schedule": DiscreteSchedule(),
        "sampler": AncestralSampler(4),
    }
    told = {
        "EDM": denoising(),
        "EDM, large images": denoising(LARGE),
        "EDM, never clipped": denoising(training=plan(clip_norm=None)),
        "EDM, micro batches, mirrored": denoising(mirror=True, training=plan(micro_batch=4)),
        "EDM, augmentation": denoising(helpers.TINY_ADM, augmentation=0.5),
        "EDM, Inception": denoising(helpers.TINY_IUNET),
        "VP, noise, discrete": denoising(helpers.TINY_ADM, **steps),
        "VE": denoising(
            helpers.TINY_NCSN, preconditioning=VEPreconditioning(), schedule=VESchedule()
        ),
        "score": denoising(
            helpers.TINY_SONG, preconditioning=ScorePreconditioning(), schedule=VESchedule(0.1, 2.0)
        ),
        "flow": denoising(
            helpers.TINY_ADM,
            preconditioning=FlowPreconditioning(),
            schedule=FlowSchedule(),
            sampler=Sampler(4),
        ),
        "relay": denoising(
            helpers.TINY_ADM,
            process=RELAY,
            schedule=RELAY.schedule,
            sampler=Sampler(4, sigma_min=0.01, sigma_max=0.9),
        ),
        "learned variance": denoising(PIXEL_TRANSFORMER, **steps),
        "learned variance, gradient checkpointing": denoising(
            PIXEL_TRANSFORMER, training=plan(gradient_checkpointing=True), **steps
        ),
        "classifier": ClassifierRecipe(
            "noise", SMALL_CLASSIFIER, training=plan(), reporting=WATCHED
        ),
    }
    for name, recipe in told.items():
        yield Case(name, lambda device, recipe=recipe: step_of(of_images(recipe)), (recipe,), 1e-3)
    dropped = denoising(replace(helpers.TINY_DIFFIT, dropout=0.1))
    # Which features are dropped is the device's own draw.
    yield Case("EDM, dropout", lambda device: step_of(of_images(dropped)), (), 0.5)
    several = denoising(helpers.TINY_ADM, experts=ExpertSettings((0.3, 3.0), (0.8, 0.8, 0.8)))
    yield Case("an expert's interval", lambda device: step_of(of_images(several, 2)), (), 1e-3)
    vae = VAERecipe(
        "", VAEConfig(resolution=16, widths=(8, 8), groups=4), training=plan(), reporting=WATCHED
    )
    yield Case("VAE", lambda device: step_of(of_images(vae)), (vae,), 1e-3)
    recorded = DistillationRecipe(
        "", count=16, held_out=0, num_times=3, dtype="float32", training=plan(), reporting=WATCHED
    )
    online = replace(recorded, online=True)
    new = replace(recorded, network=replace(DSNO, num_classes=0))
    for name, recipe in {
        "DSNO, grown": recorded,
        "DSNO, its own network": new,
        "DSNO, trajectories solved online": online,
    }.items():
        yield Case(
            name, lambda device, recipe=recipe: step_of(of_trajectories(recipe)), (recipe,), 1e-3
        )
    halving = HalvingRecipe("", training=plan(), reporting=WATCHED, teacher_steps=4)
    yield Case(
        "progressive distillation", lambda device: step_of(of_a_teacher(halving)), (halving,), 1e-3
    )
    yield Case("EDM, a report", lambda device: report_of(of_images(denoising())), (), 1e-3)


def of_images(recipe: Any, expert: int | None = None) -> Trainer:
    config = recipe.network
    data = images(config.resolution, config.channels)
    return Trainer.of(recipe, expert, show=False, material=Material(data, data, None))


def of_trajectories(recipe: DistillationRecipe) -> Trainer:
    """What is recorded was recorded on the host; online it is solved where the teacher is."""
    teacher = a_teacher()
    if recipe.online:
        trainer = Trainer.of(recipe, teacher=teacher, show=False)
        teacher.pipe.to(trainer.device)
        return trainer
    folder = Path(tempfile.mkdtemp(prefix="trajectories-"))
    collect(recipe, teacher, folder, show=False)
    return Trainer.of(recipe, teacher=teacher, folder=folder, show=False)


def of_a_teacher(recipe: HalvingRecipe) -> Trainer:
    teacher, data = a_teacher("single", recipe.teacher_steps), images()
    trainer = Trainer.of(
        recipe, teacher=teacher, steps=recipe.halvings[0], show=False,
        material=Material(data, data, None),
    )  # fmt: skip
    teacher.pipe.to(trainer.device)
    return trainer


def a_teacher(*solver: Any) -> Teacher:
    return teacher_of(at_full_precision(diffit()), "teacher", *solver, guidance_scale=1.5)


def step_of(trainer: Trainer) -> Call:
    """Each call is a step. The second one's loss depends on all that the first one changed."""
    model, batches = trainer.prepared(), trainer.batches(0)
    meter = Meter(trainer.device, 0, BATCH)

    def call() -> Any:
        loss, norm = trainer.step(model, next(batches))
        meter.add(loss, norm)
        trainer.progress.images += BATCH
        return loss, norm

    return call


def report_of(trainer: Trainer) -> Call:
    step, meter = step_of(trainer), Meter(trainer.device, 0, BATCH)

    def call() -> Any:
        meter.add(*step())
        report = meter.report(trainer.progress.images)
        return report["loss"], report["grad_norm"], trainer.held_out_loss()

    return call
