"""The model card that is saved with every pipeline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from overtone import settings
from overtone.networks.network import digest_of
from overtone.pipelines.account import settings_of
from overtone.pipelines.environment import code_digest, version_of
from overtone.sizes import by

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline

CARD_FILE = "README.md"

_TEMPLATE = """\
---
library_name: overtone
pipeline_tag: unconditional-image-generation
tags:
- diffusion
- overtone
- {network}
---

# {title}

{kind} of {resolution} px {colours}, {parameters} parameters, made with Overtone.

```python
from overtone import load_pipeline

pipe = load_pipeline("PATH-OR-REPOSITORY")
images = pipe(seeds=range(16){example})
```

or `overtone sample PATH-OR-REPOSITORY --seeds 0-63 --out samples.png`. Seed k gives the same image
in any batch and on any number of processes, up to the rounding of the matrix products.

{notes}| | |
|---|---|
{table}

What an image depends on, its seed and class aside:

```json
{made_with}
```

The directory holds data only (JSON and safetensors): loading it executes nothing.
"""


def model_card(pipe: Pipeline, data: str, version: str, dtype: Any = None) -> str:
    """The text of the card; `data` is what the model was trained on, as it may be published. The
    digest of weights that are saved in another type is not told: they are other weights."""
    network, classes = pipe.network.config.kind, list(pipe.class_names)
    classes = classes or [str(i) for i in range(pipe.num_classes)]
    guided = pipe.guidance.scale != 1.0
    rows: dict[str, Any] = {
        "trained on": data,
        **pipe.training,
        "preconditioning": settings.brief(pipe.preconditioning),
        "process": settings.brief(pipe.process),
        "sampler": settings.brief(pipe.sampler),
        "guidance": settings.brief(pipe.guidance) if guided else "",
        "digest of the weights": digest_of(pipe.network) if dtype is None else "",
        "written by": f"overtone {version} (code {code_digest()}), torch {version_of('torch')}",
    }
    if classes:
        shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        rows["classes"] = f"{pipe.num_classes}: {shown}"
    example = ", class_labels=0" if pipe.num_classes else ""
    if pipe.num_classes and pipe.denoiser.has_null_class and not guided:
        example += ", guidance_scale=1.5"
    return _TEMPLATE.format(
        network=network,
        title=f"{network} of {data}" if data else network,
        kind="Class-conditional images" if pipe.num_classes else "Images",
        resolution=by(pipe.resolution),
        colours="in grey" if pipe.channels == 1 else "in colour",
        parameters=f"{pipe.network.num_parameters / 1e6:.2f} M",
        example=example,
        table="\n".join(
            f"| {key} | {str(value).replace('|', '/')} |"
            for key, value in rows.items()
            if value not in (None, "")
        ),
        notes="".join(f"{note}\n\n" for note in _notes(pipe) if note),
        made_with=json.dumps(_short(settings_of(pipe)), indent=2),
    )


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
