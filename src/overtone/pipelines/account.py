"""One account of what an image depends on.

Evaluation reports, model cards and the marks of trajectories all write this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from overtone import precision, settings
from overtone.networks.network import digest_of
from overtone.pipelines.request import Request

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline


def settings_of(pipe: Pipeline, request: Request | None = None) -> dict[str, Any]:
    """Each part's settings, as a request uses them or as they are saved."""
    request = None if request is None else pipe.settled(request)
    sampler = pipe.sampler if request is None else pipe.sampler_of(request)
    guidance = pipe.guidance if request is None else pipe.guidance_of(request)
    start, first = settings.dump(pipe.start), pipe.start.pipeline
    asked = None
    if request is not None and request.first_sampler is not None:
        asked = Request((), sampler=request.first_sampler)
    return {
        "network": settings.dump(pipe.network.config),
        "preconditioning": settings.dump(pipe.preconditioning),
        "process": settings.dump(pipe.process),
        "sampler": sampler.facts(),
        "guidance": settings.dump(guidance),
        "start": start if first is None else start | {"first_stage": settings_of(first, asked)},
    }


def account_of(pipe: Pipeline, request: Request | None = None) -> dict[str, Any]:
    """The settings, and what else decides: digests of all weights, the VAE, the precision."""
    request = None if request is None else pipe.settled(request)
    start = pipe.start if request is None else pipe.start_of(request)
    made = settings_of(pipe, request) | {
        "start": start.facts(),
        "weights": digest_of(pipe.network),
        "precision": precision.resolve(pipe.precision, pipe.device),
    }
    if request is not None and request.guide is not None:
        guide = request.guide  # whose denoiser alone is asked
        made["guide"] = {
            "network": settings.dump(guide.network.config),
            "preconditioning": settings.dump(guide.preconditioning),
            "weights": digest_of(guide.network),
        }
    if pipe.vae is not None:
        made["vae"] = pipe.vae.facts()
    return made
