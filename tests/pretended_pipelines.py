"""Cases of pipelines on a pretended device: every start, and whatever else they do."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

import helpers
from overtone.analysis.attention import Query, Watch
from overtone.analysis.fourier import spectra_of
from overtone.analysis.trajectories import temporal_spectrum
from overtone.data import ArrayData
from overtone.data.latents import encode, latents_index
from overtone.denoisers import (
    ADM_DIFFUSION,
    EDMPreconditioning,
    GuidanceSettings,
    OperatorPreconditioning,
)
from overtone.metrics import ClassifierExtractor, RandomExtractor
from overtone.metrics.extractors import ClassifierFeatures, RandomFeatures
from overtone.networks import Experts, foreign_config, temporalize
from overtone.pipelines import ImageStart, NoiseStart, Pipeline, RelayStart
from overtone.pipelines.merge import merged
from overtone.samplers import (
    AncestralSampler,
    OperatorSampler,
    ResamplingSampler,
    Sampler,
    SchedulerSampler,
)
from overtone.training.teacher import teacher_of
from pretended_parts import (
    DSNO,
    RELAY,
    SMALL_CLASSIFIER,
    Call,
    Case,
    a_unet,
    adm,
    awake,
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
        "all but what a mask keeps", diffit, lambda p: p.edit(pictures, 1.0, mask, class_labels=1)
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
        tolerance=1e-2,
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


def measures() -> Iterator[Case]:
    """What is measured of images and models, and what data are made by a model."""

    def spectra(device: torch.device) -> Call:
        pipe = at_full_precision(diffit()).to(device)
        x, labels = normal(3, 1, 8, 8).to(device), torch.tensor((0, 1, 2)).to(device)

        def call() -> Any:
            found = spectra_of(pipe.denoiser, [(3.0, x), (0.5, x)], labels)
            return found.images, [list(curves.values()) for curves in found.features]

        return call

    def attention(device: torch.device) -> Call:
        pipe = at_full_precision(diffit()).to(device)
        x, labels = normal(3, 1, 8, 8).to(device), torch.tensor((0, 1, 2)).to(device)
        watch = Watch(pipe.denoiser, Query(2, 5, 8, 8))

        def call() -> Any:
            found = watch.along([(3.0, x), (0.5, x)], labels)
            return [[one.weights for one in maps.values()] for maps in found.maps]

        return call

    def over_time(device: torch.device) -> Call:
        teacher = teacher_of(at_full_precision(diffit()).to(device), "teacher")
        return lambda: temporal_spectrum(teacher, range(3), 5, "quad").energy

    def features(device: torch.device) -> Call:
        extractor = ClassifierExtractor(awake(SMALL_CLASSIFIER), "digest")
        pixels = images().fetch(range(8))[0]
        return lambda: extractor(pixels)

    def random_features(device: torch.device) -> Call:
        extractor, pixels = RandomExtractor(1), images().fetch(range(8))[0]
        return lambda: extractor(pixels)

    def latents(device: torch.device) -> Call:
        vae, data = helpers.tiny_vae(), images(16, 3)
        index = latents_index(data, vae)
        vae.to(device)

        def call() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                return encode(data, vae, Path(folder) / "latents", index, show=False).fetch([0, 5])

        return call

    for name, make in {
        "spectra of states and features": spectra,
        "attention maps": attention,
        "a spectrum over time": over_time,
        "latents of a data set": latents,
    }.items():
        yield Case(name, make, tolerance=1e-3)
    yield Case("a classifier's features", features, (ClassifierFeatures(),), tolerance=1e-3)
    yield Case("random features", random_features, (RandomFeatures(),), tolerance=1e-3)


def images(resolution: int = 8, channels: int = 1) -> ArrayData:
    shape = (32, channels, resolution, resolution)
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    return ArrayData("noise", pixels, np.arange(32) % 3, ["a", "b", "c"])
