"""The model card that is saved with every pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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

{kind} of {resolution} x {resolution} px {colours}, {parameters} parameters, made with Overtone.

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

The directory holds data only (JSON and safetensors): loading it executes nothing.
"""


def model_card(
    network: str,
    parameters: int,
    resolution: int,
    channels: int,
    class_names: Sequence[str],
    num_classes: int,
    guidance: bool,
    rows: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> str:
    """The text of the card.

    `guidance` says whether the model can be guided and has no scale of its own; `rows` are what is
    known of it, for a table (None and "": not known); `notes` what else has to be said.
    """
    classes = list(class_names) or [str(i) for i in range(num_classes)]
    facts = dict(rows)
    if classes:
        shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        facts["classes"] = f"{num_classes}: {shown}"
    example = ", class_labels=0" if num_classes else ""
    if num_classes and guidance:
        example += ", guidance_scale=1.5"
    return _TEMPLATE.format(
        network=network,
        title=f"{network} of {rows['trained on']}" if rows.get("trained on") else network,
        kind="Class-conditional images" if num_classes else "Images",
        resolution=resolution,
        colours="in grey" if channels == 1 else "in colour",
        parameters=f"{parameters / 1e6:.2f} M",
        example=example,
        table="\n".join(
            f"| {key} | {str(value).replace('|', '/')} |"
            for key, value in facts.items()
            if value not in (None, "")
        ),
        notes="".join(f"{note}\n\n" for note in notes),
    )
