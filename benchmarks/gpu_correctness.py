"""The cases of gpu.py that compare a device with the CPU."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overtone import precision as precisions
from overtone.bench.subjects import awake
from overtone.denoisers import (
    ADM_DIFFUSION,
    EDMPreconditioning,
    FlowPreconditioning,
    GuidanceSettings,
    NetworkDenoiser,
    Preconditioning,
    ScorePreconditioning,
    VEPreconditioning,
    VPPreconditioning,
)
from overtone.networks import (
    VAE,
    ADMConfig,
    ADMUNet,
    Classifier,
    ClassifierConfig,
    DiffiTConfig,
    DiffiTTransformer,
    DiffiTTransformerConfig,
    DiffiTUNet,
    DSNOConfig,
    DSNOUNet,
    Experts,
    IUNet,
    IUNetConfig,
    SongConfig,
    SongUNet,
    VAEConfig,
    temporalize,
)
from overtone.networks.attend import BiasWay, biased_by
from overtone.pipelines import DSNOPipeline, Pipeline
from overtone.processes import (
    DiscreteSchedule,
    FlowSchedule,
    GaussianProcess,
    Process,
    QuantileSchedule,
    RelayProcess,
    Schedule,
    SeededNoise,
    VESchedule,
)
from overtone.samplers import AncestralSampler, OperatorSampler, Sampler
from overtone.training import DenoisingObjective

BATCH = 4
SIDE = 16
BOUNDS = {"fp32": 1e-3, "bf16": 0.1}
"""the largest deviation, relative to the largest value, of two right computations; of gradients
in bfloat16 twice that"""
GREY_LEVELS = {"fp32": 0.5, "bf16": 4.0}
"""the mean difference of images that pass through a network some ten times"""
RESUMED = 0.01
"""the largest relative difference of the weights of two runs whose sums are rounded differently"""
TIMES = torch.tensor([0.9, 0.5, 0.2, 0.0])

DIFFIT = DiffiTConfig(
    resolution=SIDE, channels=1, num_classes=3, widths=(32, 64), num_cells=(1, 1), window=4,
    head_channels=16, token_width=64,
)  # fmt: skip
ADM = ADMConfig(
    resolution=SIDE, channels=1, num_classes=3, widths=(32, 64), num_cells=1,
    attention_resolutions=(8,), head_channels=16, embedding_width=64, dropout=0.0,
)  # fmt: skip
SONG = SongConfig(
    resolution=SIDE, channels=1, num_classes=3, widths=(32, 64), stem_width=16, num_cells=1,
    attention_resolutions=(8,), frequencies=32, embedding_width=64, dropout=0.0,
)  # fmt: skip
NCSN = dataclasses.replace(
    SONG, time_embedding="fourier", filter_taps=(1, 3, 3, 1), residual_encoder=True,
    attention="tmsa", window=4, heads=2,
)  # fmt: skip
IUNET = IUNetConfig(
    resolution=SIDE, channels=1, num_classes=3, widths=(32, 64), num_cells=2,
    attention_resolutions=(8,), head_channels=8, embedding_width=64, dropout=0.0,
    inception_heads=(1, 3),
)  # fmt: skip
LATENT = DiffiTTransformerConfig(
    resolution=SIDE, channels=4, num_classes=3, width=96, depth=3, heads=6, time_features=64
)
DSNO = DSNOConfig(
    resolution=SIDE, channels=1, num_classes=3, widths=(32, 64), num_cells=1,
    attention_resolutions=(8,), frequencies=32, embedding_width=64,
)  # fmt: skip

NETWORKS: dict[str, Callable[[], Any]] = {
    "DiffiTUNet": lambda: DiffiTUNet(DIFFIT),
    "DiffiTUNet, aggregation": lambda: DiffiTUNet(
        dataclasses.replace(DIFFIT, decoder="aggregation")
    ),
    "ADMUNet": lambda: ADMUNet(ADM),
    "SongUNet, DDPM++": lambda: SongUNet(SONG),
    "SongUNet, NCSN++ with TMSA": lambda: SongUNet(NCSN),
    "IUNet": lambda: IUNet(IUNET),
    "DiffiTTransformer": lambda: DiffiTTransformer(LATENT),
    "DSNOUNet": lambda: DSNOUNet(DSNO),
    "TemporalNetwork of DiffiT": lambda: temporalize(DiffiTUNet(DIFFIT)),
}
ROWS: dict[str, tuple[Preconditioning, Schedule, Process]] = {
    "EDM": (EDMPreconditioning(), QuantileSchedule(), GaussianProcess()),
    "VP, eps": (ADM_DIFFUSION, DiscreteSchedule(), GaussianProcess()),
    "VP, v": (VPPreconditioning("v"), QuantileSchedule(), GaussianProcess()),
    "VE": (VEPreconditioning(), VESchedule(), GaussianProcess()),
    "score": (ScorePreconditioning(), VESchedule(), GaussianProcess()),
    "flow": (FlowPreconditioning(), FlowSchedule(), GaussianProcess()),
    "relay": (EDMPreconditioning(), RelayProcess(patch=2).schedule, RelayProcess(patch=2)),
}


def cases(device: torch.device) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every case, the quickest first."""
    yield "noise of seeds", lambda: noise(device)
    for kind in ("fp32", "bf16"):
        for name in NETWORKS:
            yield f"network {name}, {kind}", lambda n=name, k=kind: network(n, device, k)
        for way in ("folded", "scored"):
            if way == "folded" or device.type == "cuda":  # else it has no gradients
                yield (
                    f"network DiffiTUNet, bias {way}, {kind}",
                    lambda w=way, k=kind: network("DiffiTUNet", device, k, w),
                )
        yield f"network Classifier, {kind}", lambda k=kind: classifier(device, k)
        yield f"network VAE, {kind}", lambda k=kind: autoencoder(device, k)
        for name in ROWS:
            yield f"training step {name}, {kind}", lambda n=name, k=kind: step(n, device, k)
        yield (
            f"training step hybrid, {kind}",
            lambda k=kind: step("VP, eps", device, k, hybrid=True),
        )
        for name in PIPELINES:
            yield f"pipeline {name}, {kind}", lambda n=name, k=kind: pipeline(n, device, k)
    for fixed in (True, False):
        how = "the same algorithms" if fixed else "the fastest algorithms"
        yield f"a resumed run, {how}", lambda f=fixed: resumed(device, fixed=f)


def noise(device: torch.device) -> dict[str, Any]:
    """A seed's noise is the same bits on every device."""
    like = torch.empty(8, 3, 64, 64)
    here, there = (SeededNoise(range(8)).normal(like.to(d)).cpu() for d in ("cpu", device))
    return {"ok": torch.equal(here, there), "values": like.numel()}


def compared(got: dict[str, Tensor], wanted: dict[str, Tensor], kind: str) -> dict[str, Any]:
    """Deviations relative to the largest value; gradients as one vector, by its length."""
    found: dict[str, Any] = {}
    for name, there in wanted.items():
        own = got[name].double().cpu()
        away, size = (own - there.double()).abs(), there.double().abs()
        error = away.norm() / size.norm() if name == "gradients" else away.max() / size.max()
        found[name] = float(f"{float(error):.2e}")
    loose = {"gradients": 2.0 if kind == "bf16" else 1.0}
    return found | {"ok": all(v < BOUNDS[kind] * loose.get(n, 1.0) for n, v in found.items())}


def both(
    model: nn.Module,
    run: Callable[[Any, torch.device], dict[str, Tensor]],
    device: torch.device,
    kind: Any,
) -> dict[str, Any]:
    """What a model computes in float32 on the CPU, and there in a precision."""
    wanted = run(copy.deepcopy(model), torch.device("cpu"))
    with precisions.autocast(kind, device):
        got = run(copy.deepcopy(model).to(device), device)
    return compared(got, wanted, kind)


def gradients(model: nn.Module) -> Tensor:
    """Those of all parameters, one behind the other, and away."""
    parts = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return torch.cat(parts).cpu()


def made(name: str) -> Any:
    torch.manual_seed(0)
    return awake(NETWORKS[name](), 0.04).to_fast_layout()


def network(name: str, device: torch.device, kind: str, way: BiasWay = "mask") -> dict[str, Any]:
    """Outputs and gradients of a network, its attention's bias added there in some way."""
    model = made(name)
    config = model.config
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, config.channels, SIDE, SIDE, generator=generator)
    time, labels = TIMES.clone(), torch.tensor([0, 1, 2, 0])

    def run(model: Any, there: torch.device) -> dict[str, Tensor]:
        with biased_by("mask" if there.type == "cpu" and device.type != "cpu" else way):
            out = model(x.to(there), time.to(there), labels.to(there)).float()
        out.square().mean().backward()
        return {"output": out.detach().cpu(), "gradients": gradients(model)}

    return both(model, run, device, kind)


def classifier(device: torch.device, kind: str) -> dict[str, Any]:
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(resolution=SIDE, channels=1, num_classes=3)).eval()
    x = torch.randn(BATCH, 1, SIDE, SIDE)

    def run(model: Any, there: torch.device) -> dict[str, Tensor]:
        out = model(x.to(there)).float()
        out.square().mean().backward()
        return {"output": out.detach().cpu(), "gradients": gradients(model)}

    return both(model, run, device, kind)


def vae() -> VAE:
    torch.manual_seed(0)
    config = VAEConfig(resolution=2 * SIDE, channels=3, widths=(16, 32), groups=8)
    return VAE.build(config).eval()


def autoencoder(device: torch.device, kind: str) -> dict[str, Any]:
    """Latents of images, and images of latents."""
    images = torch.rand(2, 3, 2 * SIDE, 2 * SIDE) * 2 - 1

    def run(model: Any, there: torch.device) -> dict[str, Tensor]:
        with torch.no_grad():
            latents = model.latents(images.to(there)).float().cpu()
            return {"latents": latents, "images": model.decode(latents.to(there)).float().cpu()}

    return both(vae(), run, device, kind)


def step(name: str, device: torch.device, kind: str, *, hybrid: bool = False) -> dict[str, Any]:
    """The loss of a batch and its gradient, the batch drawn on the host."""
    row, schedule, process = ROWS[name]
    torch.manual_seed(0)
    net: Any = awake(DiffiTTransformer(LATENT) if hybrid else DiffiTUNet(DIFFIT), 0.04)
    model = NetworkDenoiser(net.to_fast_layout(), row)
    objective = DenoisingObjective(
        schedule, process, row, num_classes=3, label_dropout=0.1, mirror=True, hybrid=hybrid,
        bounded=not hybrid,
    )  # fmt: skip
    x_0 = torch.rand(BATCH, net.config.channels, SIDE, SIDE) * 2 - 1
    batch = objective.draw(x_0, torch.tensor([0, 1, 2, 0]), SeededNoise(range(BATCH)))

    def run(model: Any, there: torch.device) -> dict[str, Tensor]:
        loss = objective.loss(model, {key: value.to(there) for key, value in batch.items()})
        loss.sum().backward()
        return {"loss": loss.detach().cpu(), "gradients": gradients(model)}

    return both(model, run, device, kind)


def pixels_pipe() -> Pipeline:
    guidance = GuidanceSettings(1.5)
    return Pipeline(made("DiffiTUNet"), Sampler(8), guidance=guidance)


def experts_pipe() -> Pipeline:
    torch.manual_seed(0)
    networks = [awake(ADMUNet(ADM), 0.04) for _ in range(3)]
    return Pipeline(Experts(networks, (0.3, 3.0)), Sampler(8, estimate="two_step"))


def latent_pipe() -> Pipeline:
    pipe = Pipeline(
        made("DiffiTTransformer"), AncestralSampler(8), preconditioning=ADM_DIFFUSION,
        image_resolution=2 * SIDE,
    )  # fmt: skip
    pipe.vae = vae()
    return pipe


def relay_pipe() -> Pipeline:
    process = RelayProcess(patch=2)
    sampler = Sampler(8, sigma_max=0.9, estimate="two_step", eta=0.2)
    pipe = Pipeline(made("ADMUNet"), sampler, process=process)
    torch.manual_seed(1)
    small = dataclasses.replace(ADM, resolution=SIDE // 2, attention_resolutions=(4,))
    pipe.first = Pipeline(awake(ADMUNet(small), 0.04), Sampler(4))
    return pipe


def operator_pipe() -> Pipeline:
    return DSNOPipeline(made("DSNOUNet"), OperatorSampler((80.0, 2.0, 0.5, 0.0)))


PIPELINES: dict[str, Callable[[], Pipeline]] = {
    "of pixels, guided": pixels_pipe,
    "of experts": experts_pipe,
    "of latents, DDPM's sampler": latent_pipe,
    "relay": relay_pipe,
    "operator": operator_pipe,
}


def pipeline(name: str, device: torch.device, kind: Any) -> dict[str, Any]:
    """Images of the same seeds."""
    pipe = PIPELINES[name]()
    pipe.precision = "fp32"
    (wanted,) = pipe.stream(range(BATCH), class_labels=[0, 1, 2, 0])
    pipe.precision = kind
    pipe.to(device)
    (got,) = pipe.stream(range(BATCH), class_labels=[0, 1, 2, 0])
    away = (got.images.int().cpu() - wanted.images.int()).abs()
    mean = float(away.float().mean())
    return {
        "mean_grey_levels": round(mean, 3),
        "max_grey_levels": int(away.max()),
        "ok": mean < GREY_LEVELS[kind],
    }


def resumed(device: torch.device, *, fixed: bool) -> dict[str, Any]:
    """A run that stops and goes on ends with the bits of one that did not where algorithms are
    fixed, and else within `RESUMED` of its weights."""
    from overtone.storage import load_tensors
    from overtone.training import DenoisingRecipe, Reporting, Training
    from overtone.training.loop import Trainer

    def weights(folder: Path, *totals: int) -> dict[str, Tensor]:
        for total in totals:
            recipe = DenoisingRecipe(
                about="", data="builtin:digits",
                network=dataclasses.replace(DIFFIT, resolution=8, num_classes=0),
                class_conditional=True, label_dropout=0.1,
                training=Training(
                    total_images=total, batch_size=64, lr=1e-3, lr_rampup_images=128,
                    ema_halflife_images=200, deterministic=fixed,
                ),
                reporting=Reporting(report_images=10**6, checkpoint_images=10**6),
            )  # fmt: skip
            Trainer.of(recipe, show=False).run(folder)
        last = sorted((folder / "checkpoints").iterdir())[-1]
        return load_tensors(last / "training" / "weights.safetensors")

    with tempfile.TemporaryDirectory() as folder:
        whole = weights(Path(folder) / "whole", 1024)
        parts = weights(Path(folder) / "parts", 512, 1024)
    same = [name for name in whole if torch.equal(whole[name], parts[name])]
    one, two = (torch.cat([w.double().flatten() for w in x.values()]) for x in (whole, parts))
    away = float((one - two).norm() / one.norm())
    return {
        "ok": len(same) == len(whole) if fixed else away < RESUMED,
        "equal_tensors": f"{len(same)} of {len(whole)}",
        "relative_difference": float(f"{away:.1e}"),
    }
