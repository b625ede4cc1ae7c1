"""The model card that is saved with every pipeline, and what may be added to it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overtone import settings, storage
from overtone.errors import OvertoneError
from overtone.networks.network import digest_of
from overtone.pipelines.account import settings_of
from overtone.pipelines.environment import code_digest, version_of
from overtone.processes.gaussian import GaussianProcess
from overtone.samplers.sampler import Sampler
from overtone.sizes import by

if TYPE_CHECKING:
    from overtone.pipelines.budgets import Budget
    from overtone.pipelines.pipeline import Pipeline

CARD_FILE = "README.md"
SAMPLES_FILE = "samples.png"

FITTED = "fitted samplers"
_TASK = "unconditional-image-generation"  # the Hub's name of it, whether there are classes or not
_BEGUN = "initialised from"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

_TEMPLATE = """\
---
{front}
---

# {title}

{kind} of {resolution} px {colours}, {parameters} parameters, made with Overtone.

{samples}```python
from overtone import load_pipeline

pipe = load_pipeline("PATH-OR-REPOSITORY")
images = pipe(seeds=range(16){example})
```

or `overtone sample PATH-OR-REPOSITORY --seeds 0-63 --out samples.png`. Seed k gives the same image
in any batch and on any number of processes, up to the rounding of the matrix products.

{notes}{scores}| | |
|---|---|
{table}

What an image depends on, its seed and class aside:

```json
{made_with}
```

The directory holds data only (JSON and safetensors): loading it executes nothing.
"""


@dataclass(frozen=True)
class CardScore:
    """A score of the model's images, as its card shows it."""

    name: str
    """The name of the score in reports, such as frechet_distance."""
    title: str
    value: float
    shown: str
    """The value, with its interval if there is one."""
    measured: str
    """The number of images, what they were compared with, and by which features."""


@dataclass(frozen=True)
class Card:
    """What a card shows beside what the pipeline knows of itself."""

    scores: Sequence[CardScore] = ()
    samples: Callable[[Path], None] | None = None
    """Writes a grid of the model's images into a .png file, as the `save` of a PIL image does."""


def check_license(name: str) -> str:
    """`name`, if it can be the Hub's identifier of a licence. Raises `OvertoneError` otherwise."""
    if name and not _LICENSE.fullmatch(name):
        raise OvertoneError(
            f"the licence '{name}' is not an identifier: these are lower case, like apache-2.0,"
            " cc-by-4.0, mit, or other."
        )
    return name


def write_card(pipe: Pipeline, folder: Path, data: str, dtype: Any, card: Card) -> None:
    """The card and its samples, into a directory. `data` is what the model was trained on, as it
    may be published. Weights that are rounded when they are saved are other weights: neither their
    digest is told nor the samplers that were fitted to the model."""
    from overtone import __version__

    with storage.new_file(folder / CARD_FILE) as file:
        text = _model_card(pipe, data, __version__, dtype, card)
        file.write_text(text, "utf-8", "backslashreplace")
    if card.samples is not None:
        card.samples(folder / SAMPLES_FILE)


def _model_card(pipe: Pipeline, data: str, version: str, dtype: Any, card: Card) -> str:
    network = pipe.network.config.kind
    title = f"{network} of {data}" if data else network
    guided = pipe.guidance.acts
    example = ", class_labels=0" if pipe.num_classes else ""
    if pipe.num_classes and pipe.denoiser.has_null_class and not guided:
        example += ", guidance_scale=1.5"
    return _TEMPLATE.format(
        front=_front(pipe, data, title, card),
        title=title,
        kind="Class-conditional images" if pipe.num_classes else "Images",
        resolution=by(pipe.resolution),
        colours="in grey" if pipe.channels == 1 else "in colour",
        parameters=f"{pipe.network.num_parameters / 1e6:.2f} M",
        samples=f"![Uncurated samples]({SAMPLES_FILE})\n\n" if card.samples is not None else "",
        example=example,
        table=_rows(_facts(pipe, data, version, dtype)),
        notes="".join(f"{note}\n\n" for note in _notes(pipe) if note),
        scores=_scores(card.scores),
        made_with=json.dumps(_short(settings_of(pipe)), indent=2),
    )


def fitted_words(budgets: Sequence[Budget]) -> str:
    """Samplers that were fitted to a model, in words."""
    words = [
        f"{budget.evaluations} function evaluations{_under(budget)}: error {budget.error:.3g}"
        for budget in budgets
    ]
    return "; ".join(words)


def _under(budget: Budget) -> str:
    guidance = budget.own.guidance
    return f" at guidance scale {guidance.scale:g}" if guidance.acts else ""


def tell_fitted(folder: Path, budgets: Sequence[Budget]) -> None:
    """Put samplers that were fitted to a saved model into the table of its card, if it has one."""
    file = folder / CARD_FILE
    if not file.is_file():
        return
    row = f"| {FITTED} | {fitted_words(budgets)} |"
    lines = file.read_text("utf-8", "surrogateescape").splitlines()
    kept = [line for line in lines if not line.startswith(f"| {FITTED} |")]
    places = [n for n, line in enumerate(kept) if line.startswith("| sampler |")]
    if places:
        kept.insert(places[0] + 1, row)
        with storage.new_file(file) as new:
            new.write_text("\n".join(kept) + "\n", "utf-8", "surrogateescape")


def _facts(pipe: Pipeline, data: str, version: str, dtype: Any) -> dict[str, Any]:
    """The table of what is known of the model."""
    rows: dict[str, Any] = {
        "licence": pipe.license,
        "trained on": data,
        **pipe.training,
        "preconditioning": settings.brief(pipe.preconditioning),
        "process": settings.brief(pipe.process),
        "sampler": settings.brief(pipe.sampler),
        FITTED: fitted_words(pipe.budgets if pipe.is_exact_in(dtype) else ()),
        "guidance": settings.brief(pipe.guidance) if pipe.guidance.acts else "",
        "digest of the weights": digest_of(pipe.network) if pipe.network.is_exact_in(dtype) else "",
        "written by": f"overtone {version} (code {code_digest()}), torch {version_of('torch')}",
    }
    classes = list(pipe.class_names) or [str(i) for i in range(pipe.num_classes)]
    if classes:
        shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        rows["classes"] = f"{pipe.num_classes}: {shown}"
    return rows


def _rows(facts: dict[str, Any]) -> str:
    return "\n".join(
        f"| {key} | {str(value).replace('|', '/')} |"
        for key, value in facts.items()
        if value not in (None, "")
    )


def _scores(scores: Sequence[CardScore]) -> str:
    if not scores:
        return ""
    lines = [f"| {score.title} | {score.shown} | {score.measured} |" for score in scores]
    return "\n".join(("| score | value | measured on |", "|---|---|---|", *lines, "\n"))


def _front(pipe: Pipeline, data: str, title: str, card: Card) -> str:
    """What the Hub reads of a card, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    begun = str(pipe.training.get(_BEGUN, ""))
    source = data.removeprefix("hf:").partition("?")[0].partition("#")[0]
    known = ModelCardData(
        license=pipe.license or None,
        library_name="overtone",
        pipeline_tag=_TASK,
        tags=_tags(pipe),
        datasets=[source] if data.startswith("hf:") and _REPOSITORY.fullmatch(source) else None,
        base_model=begun if _REPOSITORY.fullmatch(begun) else None,
        model_name=title if card.scores else None,
        eval_results=[
            EvalResult(
                task_type=_TASK,
                dataset_type=data or "unknown",
                dataset_name=data or "unknown",
                metric_type=score.name,
                metric_name=score.title,
                metric_value=score.value,
            )
            for score in card.scores
        ]
        or None,
    )
    return known.to_yaml()


def _tags(pipe: Pipeline) -> list[str]:
    """By what a model of this kind is looked for: the kinds of its parts, but the usual ones."""
    usual = (GaussianProcess, Sampler)
    parts = (pipe.preconditioning, pipe.process, pipe.sampler)
    tags = ["diffusion", "overtone", "image-generation", pipe.network.config.kind]
    tags += ["class-conditional"] if pipe.num_classes else []
    tags += ["latent-diffusion"] if pipe.image_resolution is not None else []
    kinds = [part.kind for part in parts if part.kind and type(part) not in usual]
    return list(dict.fromkeys((*tags, *kinds)))


def _notes(pipe: Pipeline) -> list[str]:
    """What a pipeline needs before it samples."""
    latent = pipe.image_resolution is not None and pipe.vae is None
    needs = "It makes latents: set `pipe.vae`, or pass `--vae`, to decode them."
    return [needs if latent else "", pipe.start.note()]


def _short(value: Any) -> Any:
    """Without lists that nobody reads."""
    if isinstance(value, dict):
        return {key: _short(entry) for key, entry in value.items()}
    if isinstance(value, list) and len(value) > 32:
        return [*value[:2], f"... {len(value)} in all", value[-1]]
    return value
