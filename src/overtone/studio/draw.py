"""What the studio draws beside images: who is at work at which noise level, spectra, attention."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from overtone.analysis.attention import Attended, Query, Watch, attending, attention_layers, few
from overtone.analysis.fourier import log_amplitude
from overtone.data.images import Pixels, to_unit
from overtone.errors import OvertoneError
from overtone.pipelines.pictures import grid, to_pil
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.request import Request
from overtone.sizes import sides
from overtone.studio.live import Frame

COLOURS = ("#3b5bdb", "#0b7285", "#a61e4d", "#5c940d", "#862e9c", "#d9480f")
"""of experts; each has a contrast of 4.5 or more with white letters"""
WIDE = 720
SHOWN = 640
"""pixels that a grid of small images is enlarged to, about"""
SPECTRA = "Amplitude against frequency: a curve for each set of images"
QUERIES = 16
"""The most places a side whose attention is sent to the browser, and where it goes."""


def picture_of(images: Pixels, columns: int | None = None) -> Image.Image:
    """Images in a grid, enlarged by a whole factor where they are small."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    made = grid(images, columns, gap=1)
    factor = max(1, SHOWN // made.width)
    return made.resize((factor * made.width, factor * made.height), Image.Resampling.NEAREST)


def timeline(pipe: Pipeline, request: Request, frame: Frame | None = None) -> str:
    """The noise levels of a sampler from left to right, on a logarithmic scale, coloured by the
    expert that is asked there; a mark stands where the states are. SVG in HTML."""
    sampler: Any = pipe.sampler_of(request)
    levels = [float(level) for level in sampler.visited if level > 0]
    if len(levels) < 2:
        return "<p>One evaluation leads from the noise to the image.</p>"
    high, low = max(levels), min(levels)

    def place(sigma: float) -> float:
        share = math.log(high / min(max(sigma, low), high)) / math.log(high / low)
        return 20 + share * (WIDE - 40)

    bands, names = [], []
    intervals = getattr(pipe.denoiser, "intervals", None) or [(0.0, math.inf)]
    for number, (lower, upper) in reversed(list(enumerate(intervals))):
        left, right = place(min(upper, high)), place(max(lower, low))
        if right <= left:
            continue
        colour = COLOURS[number % len(COLOURS)]
        bands.append(f'<rect x="{left:.1f}" y="18" width="{right - left:.1f}" height="24"'
                     f' fill="{colour}"/>')  # fmt: skip
        if len(intervals) > 1 and right - left > 60:
            bands.append(f'<text x="{(left + right) / 2:.1f}" y="35" text-anchor="middle"'
                         f' fill="#fff">expert {number + 1}</text>')  # fmt: skip
        names.append(f"expert {number + 1} from sigma {upper:.3g} to {lower:.3g}")
    ticks = "".join(f'<line x1="{place(s):.1f}" x2="{place(s):.1f}" y1="42" y2="48"/>'
                    for s in levels)  # fmt: skip
    mark, words = "", f"{len(levels)} steps from sigma {high:.3g} to 0"
    if frame is not None:
        x = place(frame.sigma) if frame.sigma else WIDE - 20
        mark = f'<path d="M{x:.1f} 16 l-7 -12 h14 z" fill="currentColor"/>'
        by = f" by expert {frame.expert}" if frame.expert else ""
        words = f"Step {frame.step} of {len(levels)}{by}: sigma {frame.sigma:.3g}"
    said = escape("; ".join(names) if len(intervals) > 1 else "noise levels of the steps")
    return (
        f'<figure style="margin:0"><svg viewBox="0 0 {WIDE} 66" role="img" aria-label="{said}"'
        ' style="width:100%;font:13px sans-serif">'
        f'{mark}{"".join(bands)}<g stroke="currentColor">{ticks}</g>'
        f'<text x="20" y="63" fill="currentColor">noise, sigma {high:.3g}</text>'
        f'<text x="{WIDE - 20}" y="63" text-anchor="end" fill="currentColor">image</text></svg>'
        f"<figcaption>{escape(words)}</figcaption></figure>"
    )


def spectra(images: Mapping[str, Pixels]) -> Image.Image:
    """The amplitude of each spatial frequency in images, the mean of each set, as a figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, pixels in images.items():
        curve = log_amplitude(to_unit(pixels))
        share = torch.linspace(0, 1, len(curve))
        axes.plot(share, curve.cpu(), label=name)
    axes.set(xlabel="frequency, as a share of the highest", ylabel="log amplitude")
    if len(images) > 1:
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return Image.open(buffer)


def attention(pipe: Pipeline, request: Request, columns: int = 5) -> str:
    """The attention of every place of one image, as JSON for the page's script: estimates at some
    noise levels, and for each of the layers the weights that each query gives."""
    begun = pipe.begin(request)
    path = [(float(step.sigma), step.x) for step in begun.steps if step.sigma]
    if not path:
        raise OvertoneError("This model makes the image in one evaluation: there is no path.")
    spread = torch.linspace(0, len(path) - 1, min(columns, len(path))).round().int().tolist()
    high, wide = sides(pipe.network.config.resolution)
    rows, places = min(high, QUERIES), min(wide, QUERIES)
    denoiser: Any = pipe.denoiser
    watch = Watch(denoiser, Query(0, 0, high, wide))
    queries = [
        Query(y * high // rows, x * wide // places, high, wide)
        for y in range(rows)
        for x in range(places)
    ]
    levels = []
    for at in spread:
        sigma, x = path[at]
        estimate, layers = _attended(denoiser, watch, sigma, x, begun.class_labels, queries)
        picture = _embedded(to_pil(pipe.pixels(estimate)[0].cpu()))
        levels.append({"sigma": sigma, "picture": picture, "layers": layers})
    return json.dumps({"rows": rows, "columns": places, "levels": levels})


def _attended(
    denoiser: Any,
    watch: Watch,
    sigma: float,
    x: Tensor,
    class_labels: Tensor | None,
    queries: Sequence[Query],
) -> tuple[Tensor, dict[str, Any]]:
    """The estimate at a noise level, and the weights of each layer as the script reads them."""
    every = attention_layers(watch.networks[denoiser.expert_at(sigma) or 0])
    chosen = {name: every[name] for name in watch.known}

    def keep(asked: Attended) -> Attended:
        return asked

    with torch.no_grad(), attending(chosen, keep) as kept:
        estimate = denoiser(x, sigma, class_labels).x_0
    maps = {name: [query.map_of(asked, 1) for query in queries] for name, asked in kept.items()}
    layers = {}
    for name in few({name: found[0] for name, found in maps.items()}):
        weights = torch.cat([found.weights.mean(1) for found in maps[name]])  # over the heads
        high, wide = (min(side, QUERIES) for side in weights.shape[1:])
        small = F.adaptive_avg_pool2d(weights.float(), (high, wide))
        peak = small.flatten(1).amax(1).clamp_min(1e-12)[:, None, None]
        bytes_ = (255 * small / peak).round().byte().cpu().numpy().tobytes()
        layers[name] = {
            "shape": list(small.shape[1:]),
            "weights": base64.b64encode(bytes_).decode(),
        }
    return estimate, layers


def _embedded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
