"""`overtone analyze spectrum MODEL` draws the frequencies that images and features hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from overtone.cli.analyze.opening import open_beside, opened_with
from overtone.cli.analyze.path import spread, states_of
from overtone.cli.model import ModelOptions
from overtone.cli.options import parse
from overtone.errors import OvertoneError
from overtone.pipelines.seeds import seeds_of
from overtone.ranges import Steps

if TYPE_CHECKING:
    from overtone.analysis.fourier import Spectra
    from overtone.pipelines.pipeline import Pipeline

STEPS = 6


@dataclass(frozen=True)
class Options:
    """Draws the frequencies that images and features hold on the way from noise to image, for an
    Overtone or a diffusers model (MEME's figures 2, 3 and 6)."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A saved pipeline, a run's directory, a repository of the Hub, or a diffusers pipeline of a
    U-Net or DiT."""
    beside: str | None = None
    """A second model that is drawn below the first. It gets the same seeds and the first model's
    sampler, so that both are seen at the same noise levels."""
    seeds: str = "0-15"
    """The seeds of the images whose curves are averaged, like 0-15 or 3,5,8-12."""
    levels: Steps | None = None
    """The number of noise levels that are shown, spread evenly over the sampler's steps. If
    left out, it is 6, or all of them if there are fewer."""
    opening: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    out: Path = Path("spectrum.png")
    """The figure. Its data go into .json and .csv files beside it."""


def asked(arguments: Sequence[str]) -> Options:
    """The options in the arguments."""
    default = Options(tyro.MISSING, opening=opened_with(arguments, "analyze spectrum"))
    return parse(Options, "analyze spectrum", Options.__doc__, arguments, default=default)


def draw(options: Options) -> None:
    from overtone import storage
    from overtone.analysis.figures.spectra import spectra_figure
    from overtone.data.open import public_name

    seeds = seeds_of(options.seeds)
    pipe = options.opening.open(options.model)
    pipes = [(public_name(options.model), pipe)]
    if options.beside is not None:
        other = open_beside(options.beside, pipe, options.model)
        pipes.append((public_name(options.beside), other))
    found = [(name, _spectra(options, one, seeds)) for name, one in pipes]
    (name, spectra), *beside = found
    layers = " and ".join(str(len(one.layers)) for _, one in found)
    print(f"{options.out}: {layers} layers at {len(spectra.sigmas)} noise levels")
    facts: dict[str, Any] = {"model": name, "seeds": options.seeds} | dataclasses.asdict(spectra)
    if beside:
        facts["beside"] = {"model": beside[0][0]} | dataclasses.asdict(beside[0][1])
    storage.write_json(options.out.with_suffix(".json"), facts)
    with storage.new_file(options.out) as file:
        spectra_figure(found, file)
    with storage.new_file(options.out.with_suffix(".csv")) as file:
        _write_table(found, file)


def _spectra(options: Options, pipe: Pipeline, seeds: Sequence[int]) -> Spectra:
    """The curves at some steps of a model's own path."""
    from overtone.analysis.fourier import spectra_of

    path = states_of(pipe, seeds, options.model)
    states = path.states[1:]  # at the start there is only noise
    if not states:
        raise OvertoneError(
            f"{options.model} samples in one step, so that there are no noise levels to show."
            " Give more steps, --sampler.num-steps."
        )
    count = min(STEPS, len(states)) if options.levels is None else options.levels
    denoiser: Any = pipe.denoiser
    chosen = [states[at] for at in spread(states, count, "--levels")]
    return spectra_of(denoiser, chosen, path.class_labels)


def _write_table(models: Sequence[tuple[str, Spectra]], file: Path) -> None:
    """A line a curve: that of x_t, and those of the layers, at each noise level."""
    import csv

    with file.open("w") as text:
        table = csv.writer(text)
        bins = range(len(models[0][1].images[0]))
        steps = (f"{i / (len(bins) - 1):.4f}" for i in bins)
        table.writerow(["model", "sigma", "expert", "what", *steps])
        for model, spectra in models:
            for i, (sigma, image, layers) in enumerate(
                zip(spectra.sigmas, spectra.images, spectra.features, strict=True)
            ):
                expert = spectra.experts[i] if spectra.experts else ""
                for name, curve in {"x_t": image, **layers}.items():
                    table.writerow([model, sigma, expert, name, *curve])
