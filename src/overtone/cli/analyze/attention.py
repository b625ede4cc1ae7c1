"""`overtone analyze attention MODEL` shows where attention looks between noise and image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from overtone.cli.analyze.opening import open_beside, opened_with
from overtone.cli.analyze.path import spread, states_of
from overtone.cli.model import ModelOptions
from overtone.cli.options import parse
from overtone.errors import OvertoneError, counted
from overtone.pipelines.seeds import seeds_of
from overtone.ranges import Steps, Whole
from overtone.sizes import sides

if TYPE_CHECKING:
    from overtone.analysis.attention import AttentionPath, Query, Watch
    from overtone.pipelines.pipeline import Pipeline

MOST_SEEDS, TIMES = 16, 6


@dataclass(frozen=True)
class Options:
    """Draws attention maps along the denoising path: the weights softmax(q k^T / sqrt(d) + B) that
    one pixel's query gives to all places, at several noise levels (DiffiT's figure). The model may
    be any of Overtone's with TMSA or self-attention."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A saved pipeline, a run's directory, or a repository of the Hub."""
    beside: str | None = None
    """A second model that is drawn beside the first, trained without TMSA, say. It gets the same
    seeds and the first model's sampler."""
    layers: tuple[str, ...] = ()
    """Names or numbers of attention layers, counted from 0 in the order of their calls. If left
    out, the last layer at each resolution is drawn, or, of a network with one resolution, the
    first, the middle and the last one. An unknown name makes the command list all names."""
    heads: tuple[Whole, ...] = ()
    """Numbers of attention heads, counted from 0, each drawn by itself. If left out, the mean over
    the heads is drawn."""
    query: tuple[Whole, Whole] | None = None
    """The row and the column of the pixel whose query is shown, from the top left, in pixels of the
    image. If left out, it is the centre."""
    levels: Steps | None = None
    """The number of noise levels that are shown, spread evenly over the sampler's steps. If left
    out, it is 6, or all of them if there are fewer."""
    seeds: str = "0-1"
    """The seeds of the images, like 0-3 or 3,5,8-12."""
    opening: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    out: Path = Path("attention.png")
    """The figure. Its facts go into a .json file and its numbers into a .safetensors file beside
    it."""


def asked(arguments: Sequence[str]) -> Options:
    """The options in the arguments."""
    default = Options(tyro.MISSING, opening=opened_with(arguments, "analyze attention"))
    return parse(Options, "analyze attention", Options.__doc__, arguments, default=default)


def draw(options: Options) -> None:
    from overtone.data.open import public_name

    options = dataclasses.replace(options, heads=tuple(dict.fromkeys(options.heads)))
    seeds = seeds_of(options.seeds)
    if len(seeds) > MOST_SEEDS:
        raise OvertoneError(f"--seeds names {len(seeds)} seeds: a figure has {MOST_SEEDS} at most.")
    if options.opening.compile:
        raise OvertoneError("--compile: a compiled network can't be watched.")
    pipes = [options.opening.open(options.model)]
    names = [public_name(options.model)]
    if options.beside is not None:
        pipes.append(open_beside(options.beside, pipes[0], options.model))
        names.append(public_name(options.beside))
    query = _query(options, pipes[0])
    watches: list[Watch] = []
    for pipe in pipes:  # a number is that of the first model's layer, whose name both have
        layers = watches[0].names if watches else options.layers
        watches.append(_watch(options, pipe, query, layers))
    pairs = zip(pipes, watches, strict=True)
    paths = [_path(options, pipe, watch, seeds) for pipe, watch in pairs]
    if len(paths) > 1:
        _same_layers(paths)
    _write(options, pipes, names, query, seeds, paths, watches)


def _query(options: Options, pipe: Pipeline) -> Query:
    from overtone.analysis.attention import Query

    height, width = sides(pipe.resolution)
    row, column = options.query or (height // 2, width // 2)
    return Query(row, column, height, width)


def _watch(options: Options, pipe: Pipeline, query: Query, layers: Sequence[str]) -> Watch:
    from overtone.analysis.attention import Watch

    if pipe.image_resolution is not None and pipe.vae is None:
        raise OvertoneError(
            "this model makes latents, and no VAE was saved with it to draw them: pass --vae."
        )
    denoiser: Any = pipe.denoiser
    return Watch(denoiser, query, layers, options.heads)


def _path(options: Options, pipe: Pipeline, watch: Watch, seeds: Sequence[int]) -> AttentionPath:
    """The maps at some states of a model's own path."""
    from overtone import precision

    states, labels = states_of(pipe, seeds, options.model)
    count = min(TIMES, len(states)) if options.levels is None else options.levels
    places = spread(states, count, "--levels")
    with precision.autocast(pipe.precision, pipe.device):  # as in sampling
        return watch.along([states[at] for at in places], labels)


def _same_layers(paths: Sequence[AttentionPath]) -> None:
    """Raises `OvertoneError` where two models' layers can't stand in one row."""
    own, other = (path.layers for path in paths)
    if own != other:
        raise OvertoneError(
            f"--beside: the models have other layers ({', '.join(own)}; {', '.join(other)}): name"
            " those that both have by --layers."
        )


def _write(
    options: Options,
    pipes: Sequence[Pipeline],
    names: Sequence[str],
    query: Query,
    seeds: Sequence[int],
    paths: Sequence[AttentionPath],
    watches: Sequence[Watch],
) -> None:
    from overtone import storage
    from overtone.analysis.figures.attention import attention_figure

    models = [
        _facts(name, pipe, path, watch)
        for name, pipe, path, watch in zip(names, pipes, paths, watches, strict=True)
    ]
    facts = {
        "query": [query.row, query.column],
        "image": [query.height, query.width],
        "seeds": list(seeds),
        "heads": list(options.heads) or "mean",
        "models": models,
    }
    layers, levels = len(paths[0].layers), len(paths[0].sigmas)
    print(f"{options.out}: {counted(layers, 'layer')} of {len(watches[0].known)} at"
          f" {counted(levels, 'noise level')}")  # fmt: skip
    storage.write_json(options.out.with_suffix(".json"), facts)
    with storage.new_file(options.out.with_suffix(".safetensors")) as file:
        storage.save_tensors(file, dict(_tensors(paths)))
    panels = [
        _panels(options, name, pipe, path)
        for name, pipe, path in zip(names, pipes, paths, strict=True)
    ]
    with storage.new_file(options.out) as file:
        attention_figure(panels, seeds, (query.row, query.column), file)


def _facts(name: str, pipe: Pipeline, path: AttentionPath, watch: Watch) -> dict[str, Any]:
    """What the arrays are of, as JSON."""
    layers = [
        {
            "layer": layer,
            "shapes": [list(maps[layer].weights.shape) for maps in path.maps],
            "windows": [maps[layer].window._asdict() for maps in path.maps],
        }
        for layer in path.layers
    ]
    return {
        "model": name,
        "sigmas": path.sigmas,
        "experts": path.experts,
        "layers": layers,
        "layers_of_the_model": watch.known,
        "made_with": pipe.made_with(),
    }


def _tensors(paths: Sequence[AttentionPath]) -> Iterator[tuple[str, Any]]:
    """The arrays under MODEL.TIME.what, model and noise level counted from 0: `weights` and
    `time_share` of a layer, all heads, and the estimates of the clean images."""
    for model, path in enumerate(paths):
        for time, (estimate, maps) in enumerate(zip(path.estimates, path.maps, strict=True)):
            yield f"{model}.{time}.estimate", estimate
            for layer, found in maps.items():
                yield f"{model}.{time}.weights.{layer}", found.weights
                yield f"{model}.{time}.time_share.{layer}", found.time_share


def _panels(options: Options, name: str, pipe: Pipeline, path: AttentionPath) -> Any:
    """A model's part of the figure."""
    from overtone.analysis.figures.attention import AttentionPanels, shown

    (height, width), rows = sides(pipe.resolution), []
    for layer in path.layers:
        grids = {tuple(maps[layer].weights.shape[-2:]) for maps in path.maps}
        grid = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(grids))
        for head in options.heads or (None,):
            label = f"{layer}\n{grid}" + ("" if head is None else f", head {head}")
            maps = [shown(found[layer], head, height, width) for found in path.maps]
            rows.append((label, maps))
    estimates = [pipe.pixels(estimate.to(pipe.device)).cpu() for estimate in path.estimates]
    return AttentionPanels(name, path.sigmas, estimates, rows)
