"""Several pipelines made one of experts, each asked at its interval of noise levels (MEME)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from overtone import settings
from overtone.errors import OvertoneError
from overtone.networks.experts import Experts
from overtone.pipelines.pipeline import Pipeline
from overtone.registry import Kind

OF_ONE = ("expert", "its noise levels", "trained on them")
"""what a pipeline's `training` says of an expert by itself"""


def merged(pipelines: Sequence[Pipeline], boundaries: Sequence[float]) -> Pipeline:
    """One pipeline of several experts, ordered by rising noise level, with the first one's sampler,
    guidance and start. `boundaries` are the noise levels between them, one fewer than pipelines.

    Raises `OvertoneError` where they differ in what an image or a class is.

    Examples:
        >>> from overtone import ADMConfig, ADMUNet, Pipeline
        >>> config = ADMConfig(resolution=8, widths=(64,), attention_resolutions=())
        >>> experts = merged([Pipeline(ADMUNet(config)) for _ in range(2)], boundaries=(0.5,))
        >>> experts.denoiser.expert_at(0.1), experts.denoiser.expert_at(2.0)
        (0, 1)
    """
    if not pipelines:
        raise OvertoneError("there are no experts to merge.")
    first = pipelines[0]
    for number, pipe in enumerate(pipelines, 1):
        for (what, own), (_, other) in zip(_facts(pipe), _facts(first), strict=True):
            if own != other:
                raise OvertoneError(
                    f"experts 1 and {number} do not belong together: their {what} differ,"
                    f" {_short(other)} and {_short(own)}."
                )
    training = {
        name: fact
        for name, fact in first.training.items()
        if name == "label dropout"
        or (name not in OF_ONE and all(p.training.get(name) == fact for p in pipelines))
    }
    seen = [pipe.training.get("images seen") for pipe in pipelines]
    training.pop("images seen", None)
    if None not in seen:
        training["images seen"] = sum(int(images) for images in seen if images is not None)
    try:
        network = Experts([pipe.network for pipe in pipelines], boundaries)
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None
    return Pipeline(
        network,
        first.sampler,
        preconditioning=first.preconditioning,
        process=first.process,
        guidance=first.guidance,
        start=first.start,
        vae=first.vae,
        image_resolution=first.image_resolution,
        class_names=first.class_names,
        data=first.data,
        training=training,
        precision=first.precision,
    )


def _short(fact: Any) -> Any:
    return settings.brief(fact) if isinstance(fact, Kind) else fact


def _facts(pipe: Pipeline) -> list[tuple[str, Any]]:
    """What experts have to have in common."""
    return [
        ("starts", pipe.start.facts()),
        ("preconditionings", pipe.preconditioning),
        ("processes", pipe.process),
        ("classes", pipe.class_names),
        ("null classes", pipe.denoiser.has_null_class),
        ("image sizes", pipe.resolution),
        ("VAEs", None if pipe.vae is None else pipe.vae.facts()),
    ]
