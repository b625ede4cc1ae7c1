"""Cases of whole models on a pretended device: pipelines and their starts, training, mistakes."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

import helpers
from overtone.data import ArrayData
from overtone.denoisers import (
    ADM_DIFFUSION,
    EDMPreconditioning,
    FlowPreconditioning,
    GuidanceSettings,
    OperatorPreconditioning,
    ScorePreconditioning,
    VEPreconditioning,
)
from overtone.networks import Experts, VAEConfig, temporalize
from overtone.pipelines import ImageStart, NoiseStart, Pipeline, RelayStart
from overtone.pipelines.merge import merged
from overtone.processes import DiscreteSchedule, FlowSchedule, VESchedule
from overtone.samplers import (
    AncestralSampler,
    OperatorSampler,
    ResamplingSampler,
    Sampler,
    SchedulerSampler,
)
from overtone.training import (
    ClassifierRecipe,
    DenoisingRecipe,
    DistillationRecipe,
    ExpertSettings,
    Reporting,
    Training,
    VAERecipe,
)
from overtone.training.collect import collect
from overtone.training.loop import Trainer
from overtone.training.material import Material
from overtone.training.meter import Meter
from overtone.training.teacher import Teacher, teacher_of
from pretended_parts import (
    DSNO,
    PIXEL_TRANSFORMER,
    RELAY,
    SMALL_CLASSIFIER,
    Call,
    Case,
    a_unet,
    adm,
    awake,
    foreign_config,
    normal,
)

replace = dataclasses.replace
STEPS = Sampler(4)
LARGE = replace(
    helpers.TINY_ADM, resolution=32, channels=2, widths=(8, 8), attention_resolutions=()
)
PIXELS = 1.5 / 255
"""a grey level, which a value between two may be rounded to or not"""


def diffit(**parts: Any) -> Pipeline:
    return Pipeline(awake(helpers.TINY_DIFFIT), STEPS, **parts)


def large(**parts: Any) -> Pipeline:
    """Of images as large as float64 is looked for in."""
    return Pipeline(awake(LARGE), Sampler(2), **parts)


def latent(**parts: Any) -> Pipeline:
    published = GuidanceSettings(2.0, channels=(0, 1, 2), power=4.0)
    return Pipeline(
        awake(helpers.TINY_TRANSFORMER),
        AncestralSampler(4),
        preconditioning=ADM_DIFFUSION,
        guidance=published,
        vae=helpers.tiny_vae(),
        **parts,
    )


def experts() -> Pipeline:
    return Pipeline(Experts([adm() for _ in range(3)], (0.3, 3.0)), STEPS)


def dsno() -> Pipeline:
    return Pipeline(
        awake(DSNO),
        OperatorSampler((80.0, 2.0, 0.5, 0.0)),
        preconditioning=OperatorPreconditioning().for_network(DSNO),
    )


def grown() -> Pipeline:
    return Pipeline(
        helpers.awake(temporalize(helpers.TINY_DIFFIT.build())),
        OperatorSampler((80.0, 2.0, 0.5, 0.0)),
        preconditioning=OperatorPreconditioning(EDMPreconditioning()),
    )


def second_stage(first: Any) -> Pipeline:
    large = replace(helpers.TINY_ADM, resolution=16, attention_resolutions=(8,))
    sampler = Sampler(4, sigma_min=0.01, sigma_max=0.9, estimate="two_step")
    return Pipeline(awake(large), sampler, process=RELAY, start=RelayStart(first))


def foreign_first() -> Any:
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    pipe = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipelines() -> Iterator[Case]:
    """Every pipeline from seeds to pixels, with every start, and other things that they do."""
    pictures = normal(4, 1, 8, 8).clamp(-1, 1)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :4] = True
    told: dict[str, tuple[Callable[[], Pipeline], dict[str, Any], tuple[Any, ...]]] = {
        "pixels": (diffit, {}, (helpers.TINY_DIFFIT, STEPS, NoiseStart())),
        "pixels, large": (large, {}, (LARGE,)),
        "pixels, guided in an interval": (
            diffit,
            {"guidance_scale": 2.0, "guidance_interval": (0.1, 5.0)},
            (),
        ),
        "latents, guided as published": (latent, {}, (helpers.TINY_TRANSFORMER,)),
        "a network of diffusers": (
            lambda: Pipeline(
                awake(foreign_config(a_unet(), null_class=True)),
                SchedulerSampler(diffusers.DDIMScheduler(clip_sample=False), 4),
                preconditioning=ADM_DIFFUSION,
            ),
            {},
            (),
        ),
        "experts": (experts, {}, (experts().network.config,)),
        "operator": (dsno, {}, (DSNO,)),
        "operator, grown": (grown, {}, ()),
        "relay, from a pipeline": (
            lambda: second_stage(Pipeline(adm(), STEPS)),
            {},
            (RELAY, RelayStart()),
        ),
        "relay, from an operator": (lambda: second_stage(dsno()), {}, ()),
        "relay, from images": (
            lambda: second_stage(pictures),
            {"class_labels": 1},
            (),
        ),
        "relay, from a function": (
            lambda: second_stage(lambda seeds, labels: torch.zeros(len(seeds), 1, 8, 8)),
            {},
            (),
        ),
        "relay, from data": (lambda: second_stage(images()), {}, ()),
        "pictures": (lambda: diffit(start=ImageStart(pictures, sigma=2.0)), {}, (ImageStart(),)),
        "pictures under a mask": (
            lambda: diffit(start=ImageStart(pictures, 2.0, mask, resamples=2)),
            {},
            (ImageStart(), ResamplingSampler()),
        ),
    }
    for name, (make, asked, parts) in told.items():
        yield from streamed(name, make, parts, **asked)
    yield from streamed("relay, from diffusers", unconditional_relay)
    for resident in (1, 2):
        yield from streamed(f"experts, {resident} in residence", experts, resident=resident)

    def other(name: str, make: Callable[[], Pipeline], ask: Callable[[Pipeline], Any]) -> Case:
        def made(device: torch.device) -> Call:
            pipe = at_full_precision(make()).to(device)
            return lambda: ask(pipe)

        return Case(name, made, tolerance=PIXELS)

    yield other("autoguidance", diffit, lambda p: p(range(3), guidance_scale=2.0, guide=weak_of(p)))
    yield other("a trajectory", diffit, lambda p: p.trajectory(range(3)))
    yield other("an operator's trajectory", dsno, lambda p: p(range(3), return_trajectory=True))
    yield other("a path", diffit, lambda p: [step.x for step in p.path(range(3))])
    yield other(
        "upscaling", lambda: second_stage(pictures), lambda p: p.upscale(pictures, class_labels=1)
    )
    yield other(
        "an edit under a mask", diffit, lambda p: p.edit(pictures, 0.5, mask, class_labels=1)
    )
    yield other(
        "an edit of latents",
        latent,
        lambda p: p.edit(normal(2, 3, 16, 16).clamp(-1, 1), 0.5, class_labels=1),
    )
    yield other("a VAE that came later", without_vae, lambda p: with_vae(p)(range(2)))
    yield other(
        "experts, merged there",
        lambda: Pipeline(adm(), STEPS),
        lambda p: merged([p, p], (0.5,))(range(3)),
    )


def streamed(
    name: str,
    make: Callable[[], Pipeline],
    parts: tuple[Any, ...] = (),
    *,
    resident: int | None = None,
    **asked: Any,
) -> Iterator[Case]:
    def made(device: torch.device, precision: str) -> Call:
        pipe = at_full_precision(make())
        pipe.precision = precision
        pipe.to(device, resident=None if device.type == "cpu" else resident)
        return lambda: [batch.images for batch in pipe.stream(range(3), **asked)]

    yield Case(name, lambda device: made(device, "fp32"), parts, tolerance=PIXELS)
    yield Case(
        f"{name}, bfloat16",
        lambda device: made(device, "bf16"),
        parts,
        tolerance=0.3,
        autocast=True,
    )


def at_full_precision(pipe: Pipeline) -> Pipeline:
    pipe.precision = "fp32"
    if pipe.start.pipeline is not None:
        pipe.start.pipeline.precision = "fp32"
    return pipe


def weak_of(pipe: Pipeline) -> Pipeline:
    """A guide where the pipeline is, made at the first call."""
    if not hasattr(pipe, "weak"):
        pipe.weak = at_full_precision(diffit()).to(pipe.device)
    return pipe.weak


def without_vae() -> Pipeline:
    return Pipeline(
        awake(helpers.TINY_TRANSFORMER),
        AncestralSampler(4),
        preconditioning=ADM_DIFFUSION,
        image_resolution=16,
    )


def with_vae(pipe: Pipeline) -> Pipeline:
    if pipe.vae is None:
        pipe.vae = helpers.tiny_vae()
    return pipe


def unconditional_relay() -> Pipeline:
    large = replace(helpers.TINY_ADM, resolution=16, attention_resolutions=(8,), num_classes=0)
    sampler = Sampler(4, sigma_min=0.01, sigma_max=0.9, estimate="two_step")
    return Pipeline(awake(large), sampler, process=RELAY, start=RelayStart(foreign_first()))


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


WATCHED = Reporting(held_out_images=2 * BATCH)


def images(resolution: int = 8, channels: int = 1) -> ArrayData:
    shape = (32, channels, resolution, resolution)
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    return ArrayData("noise", pixels, np.arange(32) % 3, ["a", "b", "c"])


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
        "classifier": ClassifierRecipe("noise", SMALL_CLASSIFIER, training=plan()),
    }
    for name, recipe in told.items():
        yield Case(name, lambda device, recipe=recipe: step_of(of_images(recipe)), (recipe,), 1e-3)
    several = denoising(helpers.TINY_ADM, experts=ExpertSettings((0.3, 3.0), (0.8, 0.8, 0.8)))
    yield Case("an expert's interval", lambda device: step_of(of_images(several, 2)), (), 1e-3)
    vae = VAERecipe("", VAEConfig(resolution=16, widths=(8, 8), groups=4), training=plan())
    yield Case("VAE", lambda device: step_of(of_images(vae)), (vae,), 1e-3)
    recorded = DistillationRecipe(
        "", count=16, held_out=0, num_times=3, dtype="float32", training=plan()
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


def a_teacher() -> Teacher:
    return teacher_of(at_full_precision(diffit()), "teacher", guidance_scale=1.5)


def step_of(trainer: Trainer) -> Call:
    """Each call is a step. The second one's loss depends on all that the first one changed."""
    model, batches = trainer._prepared(), trainer._batches(0)
    meter = Meter(trainer.device, 0, BATCH)

    def call() -> Any:
        loss, norm = trainer._step(model, next(batches))
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


def mistakes() -> Iterator[Case]:
    """What has to fail, or else nothing that passes means anything; and one that has not."""

    def mixed(device: torch.device) -> Call:
        x = normal(4).to(device)
        return lambda: x + normal(4)

    def reading(device: torch.device) -> Call:
        x = normal(4).to(device)
        return lambda: sum(number.item() for number in x)

    def pageable(device: torch.device) -> Call:
        return lambda: normal(4).to(device, non_blocking=True)

    def pinned(device: torch.device) -> Call:
        return lambda: pin(normal(4), device).to(device, non_blocking=True)

    def masked(device: torch.device) -> Call:
        x = normal(4).to(device)
        return lambda: x[x > 0]

    def wide(device: torch.device) -> Call:
        x = normal(64, 64).to(device)
        return lambda: x.double()

    def wrong(device: torch.device) -> Call:
        x = normal(4).to(device)
        return lambda: x * (1.0 if device.type == "cpu" else 1.01)

    for name, make in {
        "a tensor of the host beside one of the device": mixed,
        "numbers read in a loop": reading,
        "a copy from memory that is not pinned": pageable,
        "a copy from pinned memory, which is right": pinned,
        "a mask as an index": masked,
        "a large tensor of float64": wide,
        "a wrong result": wrong,
    }.items():
        yield Case(name, make)


def pin(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor if device.type == "cpu" else tensor.pin_memory()
