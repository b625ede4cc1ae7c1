"""The parts of a pipeline as a request wants them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from overtone.denoisers.guidance import GuidanceSettings
from overtone.errors import OvertoneError
from overtone.samplers.loop import SamplingLoop

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline
    from overtone.pipelines.request import Request
    from overtone.pipelines.starts import Start


def sampler_for(pipe: Pipeline, request: Request) -> SamplingLoop:
    """The sampler: the request's, or the pipeline's own, with the steps or times asked for."""
    sampler: Any = pipe.sampler if request.sampler is None else request.sampler
    try:
        if request.times is not None:
            sampler = sampler.at_times(request.times)
        if request.steps is not None:
            sampler = sampler.with_steps(request.steps)
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None
    pipe.check_sampler(sampler)
    return sampler


def start_for(pipe: Pipeline, request: Request) -> Start:
    """The start, with the sampler that is asked for the first stage."""
    if request.first_sampler is None:
        return pipe.start
    try:
        return pipe.start.with_first_sampler(request.first_sampler)
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None


def guidance_for(pipe: Pipeline, request: Request) -> GuidanceSettings:
    """Guidance: the pipeline's, with the scales and the interval asked for."""
    changes: dict[str, Any] = {
        "scale": request.guidance_scale,
        "interval": request.guidance_interval,
        "high_scale": request.guidance_high_scale,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if "scale" in changes:  # which is for all frequencies, unless another is asked for
        changes.setdefault("high_scale", None)
    try:
        guidance = replace(pipe.guidance, **changes)
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None
    if not guidance.acts and "interval" in changes and "scale" not in changes:
        raise OvertoneError(
            "a guidance_interval does nothing at the model's guidance scale, 1: give a"
            " guidance_scale too."
        )
    return guidance


def denoiser_for(pipe: Pipeline, request: Request) -> Any:
    """The denoiser, under the guidance asked for."""
    guidance, guide = guidance_for(pipe, request), request.guide
    if guide is not None:
        own, other = _shape(pipe), _shape(guide)
        if own != other:
            raise OvertoneError(
                "the guide works on {} px with {} channels, the model on {} px with {}: they have"
                " to be alike.".format(*other, *own)
            )
        if not guidance.acts:
            raise OvertoneError("a guide does nothing at guidance scale 1: ask for another scale.")
    return pipe.guided(guidance, guide) if guidance.acts else pipe.denoiser


def _shape(pipe: Pipeline) -> tuple[Any, int]:
    return pipe.network.config.resolution, pipe.network.config.channels
