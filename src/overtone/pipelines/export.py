"""Models for use without Overtone: networks as ONNX or as programs of torch.export, the numbers of
every step, and a script that samples with these.

    model.json        the steps: noise level, preconditioning, guidance, and the file of the network
    network.onnx      F(x, time[, class_labels]), of any batch; of experts network-1.onnx and so on
    network.pt2       the same as a program of torch.export
    decoder.onnx      of a model of latents: latents to images
    operator.onnx     of an operator the whole: noise[, class_labels] to images
    matrices.npy      of a relay: what a step does to each patch
    sample.py         some forty lines of numpy
    first/            of a relay: the same of its first stage

With x~ the weighted mean of the estimates so far, the latest first in model.json, every step is

    x' = A x~ + gamma x

where A is 1 - gamma, and for a relay the matrix M(sigma') - gamma M(sigma) of its blur.
"""

from __future__ import annotations

import copy
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError

from overtone import storage
from overtone.errors import OvertoneError
from overtone.pipelines.request import Request
from overtone.processes.vp_frame import to_vp
from overtone.registry import said
from overtone.samplers.estimates import MULTISTEP
from overtone.sizes import sides

Format = Literal["onnx", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": "onnx", "torch": "pt2"}
TOLD = (*MULTISTEP, "weighted")
"""forms of the estimate that the scripts take"""
LARGEST_BATCH, SMALLER_BATCH = 4096, 63


class _Network(nn.Module):
    """A network without classes, called without them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.network(x, time, None)


class _Operator(nn.Module):
    """Noise of variance 1 to images, all that an operator does; or to all its states."""

    def __init__(self, pipe: Any, whole: bool = False) -> None:
        super().__init__()
        self.whole = whole
        self.model = pipe.denoiser
        self.vae = pipe.vae
        self.levels = tuple(pipe.sampler.levels)
        self.model.times(self.levels[1:], torch.device("cpu"))  # which are kept

    def forward(self, noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        first, *levels = self.levels
        if self.whole:
            states = self.model.solve(first * noise, first, levels, class_labels)
            return torch.stack([to_vp(x, s) for x, s in zip(states, levels, strict=True)], dim=1)
        (x,) = self.model.solve(first * noise, first, levels, class_labels, last_only=True)
        return x if self.vae is None else _decoded(self.vae, x)


class _Decoder(nn.Module):
    """Latents to images."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> Tensor:
        return _decoded(self.vae, x)


def _decoded(vae: Any, x: Tensor) -> Tensor:
    """The images of latents, all at once: for how many is not known while a program is written."""
    return vae.model.decode(x / vae.scaling_factor + vae.shift_factor).sample


def export(
    pipe: Any,
    folder: Path,
    formats: Sequence[Format] = ("onnx", "torch"),
    *,
    steps: int | None = None,
    evaluations: int | None = None,
    whole: bool = False,
    told: Callable[[str], None] = lambda line: None,
) -> None:
    """Write a pipeline for use without Overtone; the directory appears whole or not at all.

    Arguments:
        formats: of the networks. The script uses ONNX where it is there.
        steps: noise levels; the sampler's own number if left out. An extrapolated estimate
            (`two_step`) takes the place of an averaged one, at the same levels.
        evaluations: the sampler that was fitted for as many, in the place of the model's own.
        whole: of an operator, all states (batch, times, channels, height, width) in the
            variance-preserving frame, the image last, in the place of the images.
        told: is given a sentence on each part.

    Raises `OvertoneError` for what can't be exported: a sampler that is not a solver of an ODE, a
    network that torch.export can't follow or ONNX can't hold, guidance by another model.
    """
    if not formats:
        raise OvertoneError("name a format at least: onnx or torch.")
    if "onnx" in formats:
        _check_onnx()
    if pipe.image_resolution is not None and pipe.vae is None:
        raise OvertoneError(
            "this model makes latents, and has no VAE that decodes them: pass --vae."
        )
    for stage in (pipe, pipe.start.pipeline):
        if stage is not None and stage.process.script is None:
            raise OvertoneError(
                f"the scripts of an export know two processes, and not a {stage.process.kind}:"
                " white noise, and a relay's blur."
            )
    if whole and (not pipe.sampler.is_operator or pipe.vae is not None):
        raise OvertoneError("only an operator of pixels has all its states in one file.")
    own = _plain(pipe)
    if evaluations is not None:
        request = pipe.settled(Request((0,), steps=steps, evaluations=evaluations))
        own.sampler, steps = pipe.sampler_of(request), None
        if request.first_sampler is not None:
            own.start.pipeline.sampler = request.first_sampler
    with storage.new_directory(folder) as temporary:
        _export_into(own, temporary, formats, steps, told, whole)


def _plain(pipe: Any) -> Any:
    """A copy on the host, in float32 and in the order of memory that files have."""
    own = copy.deepcopy(pipe).to("cpu")
    own.network.to(memory_format=torch.contiguous_format)
    return own


def _export_into(
    pipe: Any,
    folder: Path,
    formats: Sequence[Format],
    steps: int | None,
    told: Callable,
    whole: bool = False,
) -> None:
    config, suffix = pipe.network.config, SUFFIXES[formats[0]]
    shape = (config.channels, *sides(config.resolution))
    model: dict[str, Any] = {
        "shape": shape,
        "num_classes": pipe.num_classes,
        "class_names": list(pipe.class_names),
        "guided_channels": None,
        "sigma_start": 1.0,
        "steps": [],
        "last": None,
    }
    noise, labels = torch.randn(3, *shape), torch.zeros(3, dtype=torch.int64)
    given = (noise, labels) if pipe.num_classes else (noise,)
    if pipe.sampler.is_operator:
        _write_program(_Operator(pipe, whole).eval(), given, folder / "operator", formats, told)
        model["last"] = f"operator.{suffix}"
    else:
        networks = list(pipe.network.experts or [pipe.network])
        for number, network in enumerate(networks, 1):
            name = "network" if len(networks) == 1 else f"network-{number}"
            own = network if pipe.num_classes else _Network(network)
            times = torch.full((3,), 0.5)
            _write_program(own.eval(), (noise, times, *given[1:]), folder / name, formats, told)
        _steps_into(model, pipe, folder, steps, len(networks), suffix)
        if pipe.vae is not None:
            _write_program(_Decoder(pipe.vae).eval(), (noise,), folder / "decoder", formats, told)
            model["last"] = f"decoder.{suffix}"
    storage.write_json(folder / "model.json", model)
    scripts = Path(__file__).parent / "standalone"  # read, not imported
    shutil.copy(scripts / "sample.py", folder / "sample.py")
    if pipe.process.upscale != 1:
        shutil.copy(scripts / "upscale.py", folder / "upscale.py")
        if pipe.start.pipeline is not None:
            (folder / "first").mkdir()
            _export_into(pipe.start.pipeline, folder / "first", formats, None, told)


def _steps_into(
    model: dict[str, Any], pipe: Any, folder: Path, steps: int | None, networks: int, suffix: str
) -> None:
    """The numbers of every step, and of a relay its matrices."""
    process, guidance = pipe.process, pipe.guidance
    try:
        own = pipe.sampler.solver
        sampler: Any = pipe.sampler.as_ode(own if own in TOLD else "two_step", steps)
    except ValueError as error:
        raise OvertoneError(f"the sampler can't be exported: {error}.") from None
    rows = sampler.rows
    guided = pipe.guided(guidance) if guidance.acts and pipe.num_classes else None
    if guidance.high_scale not in (None, guidance.scale):
        raise OvertoneError(
            "the scripts guide all frequencies alike: leave the guidance's high_scale out."
        )
    if process.upscale != 1 and guidance.channels:
        raise OvertoneError("the script of a relay guides all channels: leave the choice out.")
    model["guided_channels"] = list(guidance.channels) if guidance.channels else None
    model["sigma_start"] = sampler.sigma_start
    matrices = []
    for weights, (sigma, sigma_next) in zip(rows, pairwise(sampler.sigmas), strict=True):
        row, gamma = pipe.preconditioning, sampler.gamma(sigma, sigma_next)
        number = pipe.denoiser.expert_at(sigma)
        own = "network" if networks == 1 else f"network-{(number or 0) + 1}"
        scale = 1.0 if guided is None else guided.scale_at(sigma)
        numbers = row.c_skip(sigma), row.c_out(sigma), row.c_in(sigma), row.c_noise(sigma)
        model["steps"].append(
            {
                "sigma": sigma,
                "network": f"{own}.{suffix}",
                "estimate": [1 - sum(weights), *weights],
                "numbers": [float(value) for value in (*numbers, scale, gamma)],
            }
        )
        if process.upscale != 1:
            matrices.append((process.blur(sigma_next) - gamma * process.blur(sigma)).numpy())
    if process.upscale != 1:
        np.save(folder / "matrices.npy", np.stack(matrices).astype(np.float32))
        model |= process.script


def _write_program(
    module: nn.Module,
    given: tuple[Tensor, ...],
    place: Path,
    formats: Sequence[Format],
    told: Callable[[str], None],
) -> None:
    """A module in each format, for any batch."""
    module.requires_grad_(False)
    with _told_plainly(place.name), torch.no_grad():
        try:
            exported = _exported(module, given, LARGEST_BATCH)
        except UserError:  # diffusers' upsampling takes another way from 64 images on
            exported = _exported(module, given, SMALLER_BATCH)
            told(f"{place.name}: for batches of up to {SMALLER_BATCH} images")
    for form in formats:
        file = place.with_suffix(f".{SUFFIXES[form]}")
        with _told_plainly(place.name, form):
            if form == "torch":
                torch.export.save(exported, file)
            else:
                _to_onnx(exported, file)
        told(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")


def _exported(module: nn.Module, given: tuple[Tensor, ...], largest: int) -> Any:
    batch = torch.export.Dim("batch", min=1, max=largest)
    return torch.export.export(module, given, dynamic_shapes=tuple({0: batch} for _ in given))


def _check_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise OvertoneError(
            "ONNX files need the extra export: in Overtone's source, pip install -c constraints.txt"
            " '.[export]'. --formats torch needs nothing."
        ) from None


def _to_onnx(exported: Any, file: Path) -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of operators that no torchvision is there to give
    try:
        program = torch.onnx.export(exported, dynamo=True, verbose=False)
    finally:
        logger.setLevel(level)
    assert program is not None
    program.save(str(file))


@contextmanager
def _told_plainly(what: str, form: str = "") -> Iterator[None]:
    """Errors of the exporters, of which there is no end, in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OvertoneError:
        raise
    except Exception as error:
        other = "" if form == "torch" else " --formats torch needs less of it." if form else ""
        where = "as ONNX" if form == "onnx" else "by torch.export"
        raise OvertoneError(
            f"the {what} of this model can't be written {where} ({said(error):.300}).{other}"
        ) from error
