"""Make the models of the repository from finished runs, and the gallery from the models.

    python docs/build.py ship diffit-digits     runs/diffit-digits becomes models/diffit-digits
    python docs/build.py cards                  the cards and samples of all in models/ once more
    python docs/build.py gallery                docs/gallery.md and its pictures, of all in models/
    python docs/build.py concepts               the pictures of docs/concepts.md

`ship` rounds the weights to half precision, fits samplers of few evaluations to the rounded model,
scores its images, and writes it with its card, its scores and a grid of samples that carries its
receipt. `cards` writes the cards and the grids with the scores that are there. `gallery` computes
nothing: it shows what models/ holds. `concepts` draws a letter in the two forward processes, and
digits on their way through a sampler and through an operator.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from overtone import GaussianProcess, SeededNoise, load_pipeline, open_data, storage
from overtone.cli.app import main as overtone
from overtone.data.images import to_pixels, to_unit
from overtone.errors import counted
from overtone.metrics.scores import measures
from overtone.pipelines.card import SAMPLES_FILE
from overtone.processes.vp_frame import to_vp

DOCS = Path(__file__).resolve().parent
MODELS = DOCS.parent / "models"
README = DOCS.parent / "README.md"
SCORES_FILE = "scores.json"
WIDE = 900
"""pixels of the gallery's pictures, about"""
BEGIN, END = "|---|---|---|---|---|---|\n", "<!-- The table is made by docs/build.py. -->\n"
"""what stands before and behind the rows of README's table"""
SHOWN = ("frechet_distance", "class_accuracy", "precision", "recall")


@dataclass(frozen=True)
class Shipped:
    """A model of the repository: what it is, and the commands that it came from."""

    title: str
    about: str
    page: str
    """The page of docs/ that explains the system."""
    train: tuple[str, ...]
    """The commands that trained it, without their first word."""
    fit: str | None = None
    """The options of `overtone fit`, or None for what takes one evaluation anyway."""
    asked: str = ""
    """Options that the images are asked for with, by `sample` and `evaluate`."""
    seeds: str = "0-999"
    """The seeds that are scored."""
    grid: str = ""
    """The options of the grid that the card shows."""


SHIPPED = {
    "diffit-digits": Shipped(
        "DiffiT: digits",
        "The demo's transformer, whose attention depends on the time.",
        "diffit.md",
        ("train diffit-digits",),
        "--guidance --evaluations 14",
        "--evaluations 14",
    ),
    "flow-digits": Shipped(
        "Rectified flow: digits",
        "The same network, trained on straight paths.",
        "flow.md",
        ("train flow-digits",),
        "--evaluations 14 --guidance-scale 1.5 --search-images 256 --check-images 256"
        " --iterations 100 --trials 20",
        "--evaluations 14 --guidance-scale 1.5",
    ),
    "meme-digits": Shipped(
        "MEME: digits",
        "Four experts share the noise levels. Each has its own interval of them, and its own ratio"
        " of convolution to attention.",
        "meme.md",
        ("train meme-digits --network.widths 48 48",),
        "--evaluations 14 --guidance-scale 1.5 --search-images 256 --check-images 256"
        " --iterations 100 --trials 20",
        "--evaluations 14 --guidance-scale 1.5",
    ),
    "dsno-digits": Shipped(
        "DSNO: digits in one evaluation",
        "An operator that was distilled from DiffiT's digits under guidance of scale 1.5.",
        "dsno.md",
        ("train diffit-digits", "distill collect dsno-digits", "distill train dsno-digits"),
    ),
    "relay-glyphs": Shipped(
        "RDM: letters at 64 px",
        "The relay has two stages: the first makes 16 px from noise, and the second goes on to"
        " 64 px by blur and block noise.",
        "relay.md",
        ("train relay-glyphs-16", "train relay-glyphs"),
        "--evaluations 24 --search-images 32 --check-images 32 --iterations 15 --batch-size 16"
        " --trials 2",
        "--evaluations 24",
        "0-519",
        "--seeds 0-51",
    ),
    "diffit-latent-glyphs": Shipped(
        "Latent DiffiT: letters at 16 px",
        "The latent transformer, in the latents of a small VAE.",
        "latent.md",
        (
            "train vae-glyphs",
            "train diffit-latent-glyphs --network.width 192 --network.heads 6",
        ),
        "--evaluations 24 --search-images 128 --check-images 128 --iterations 60 --trials 10",
        "--evaluations 24",
        "0-519",
        "--seeds 0-51",
    ),
    "diffit-fashion-mnist": Shipped(
        "DiffiT: Fashion-MNIST",
        "A larger DiffiT, whose training was stopped after 340,992 images.",
        "fashion-mnist.md",
        ("train diffit-fashion-mnist                # stopped after 340,992 images",),
        "--evaluations 5 8 --search-images 128 --check-images 256 --iterations 60 --trials 10",
        "--evaluations 8",
    ),
    "dsno-fashion-mnist": Shipped(
        "DSNO: Fashion-MNIST in one evaluation",
        "An operator, distilled from DiffiT's Fashion-MNIST.",
        "dsno.md",
        ("distill collect dsno-fashion-mnist", "distill train dsno-fashion-mnist"),
    ),
}


def ship(name: str, run: str) -> None:
    """A finished run, or a saved model, as models/NAME."""
    shipped = SHIPPED[name]
    with tempfile.TemporaryDirectory() as folder:
        half, fitted, scores = (str(Path(folder) / part) for part in ("half", "fitted", "scores"))
        model = half
        overtone(["card", run, "--dtype", "float16", "--seeds", "0", "--out", half])
        if shipped.fit is not None:
            overtone(["fit", model, *shipped.fit.split(), "--out", fitted])
            model = fitted
        asked = shipped.asked.split()
        seeds = ["--seeds", shipped.seeds]
        overtone(["evaluate", model, *seeds, *asked, "--out", f"{scores}.json"])
        write(name, model, f"{scores}.json")


def write(name: str, model: str, scores: str) -> None:
    """A rounded model as models/NAME, with its card, the report of its scores and its samples."""
    shipped = SHIPPED[name]
    options = [*shipped.asked.split(), *shipped.grid.split()]
    with tempfile.TemporaryDirectory() as folder:
        made = str(Path(folder) / "made")
        card = ["--dtype", "float16", "--license", "apache-2.0", "--scores", scores]
        overtone(["card", model, *card, *options, "--out", made])
        shutil.copy(scores, Path(made) / SCORES_FILE)
        if (MODELS / name).exists():
            shutil.rmtree(MODELS / name)
        shutil.copytree(made, MODELS / name)


def cards() -> None:
    """The cards and samples of all models once more, with the scores that they have."""
    for name in SHIPPED:
        if (MODELS / name).exists():
            write(name, str(MODELS / name), str(MODELS / name / SCORES_FILE))


def gallery() -> None:
    """The page of all models, with their samples, and their table in README."""
    page, readme = texts()
    for name in SHIPPED:
        if (samples := MODELS / name / SAMPLES_FILE).exists():
            _enlarged(samples).save(DOCS / _picture(name))
    (DOCS / "gallery.md").write_text(page)
    README.write_text(readme)


def texts() -> tuple[str, str]:
    """The page of all models, and README with their table."""
    lines, rows = [_HEAD], []
    for name, shipped in SHIPPED.items():
        if (file := MODELS / name / SCORES_FILE).exists():
            report = storage.read_json(file, dict)
            lines += _entry(name, shipped, report)
            rows.append(_row(name, shipped, report))
    before, begun, rest = README.read_text().partition(BEGIN)
    if not begun or END not in rest:
        raise SystemExit("README.md has lost the place of the models' table.")
    readme = before + BEGIN + "\n".join(rows) + "\n\n" + END + rest.partition(END)[2]
    return "\n".join(lines) + "\n", readme


def _picture(name: str) -> str:
    return f"images/gallery-{name}.png"


_HEAD = """\
# Gallery

These models are in the repository. Each has a card and its scores, and each but the operator has
samplers that were fitted to it. The samples are not chosen: seeds begin with 0, and the classes
take turns. Scores have 95 % intervals. The Fréchet distances are computed on the features of a
classifier of the model's own data: they compare with each other and not with published FIDs.
Weights were rounded to half precision before samplers were fitted to them (`overtone card MODEL
--dtype float16`).
"""


def _enlarged(file: Path) -> Image.Image:
    """A picture with each pixel as many as make it about `WIDE` wide."""
    with Image.open(file) as picture:
        factor = max(1, WIDE // picture.width)
        return picture.convert("RGB").resize(
            (factor * picture.width, factor * picture.height), Image.Resampling.NEAREST
        )


def _entry(name: str, shipped: Shipped, report: dict[str, Any]) -> list[str]:
    """The part of the page that shows a model."""
    titles = measures()
    shown = [score for score in SHOWN if report.get(score) is not None]
    evaluations = counted(round(report["made_with"]["evaluations"]), "evaluation")
    counts = f"{report['images']:,} images, {evaluations} each"
    trained = [f"overtone {command}" for command in shipped.train]
    if shipped.fit is not None:
        trained += [f"overtone fit runs/{name} {shipped.fit} --out fitted/{name}"]
    sample = " ".join(("overtone sample", f"models/{name}", shipped.asked, "--out samples.png"))
    return [
        f"## {shipped.title}",
        "",
        f"{shipped.about} [More on the system]({shipped.page}).",
        "",
        f"![Uncurated samples of {name}]({_picture(name)})",
        "",
        f"    {' '.join(sample.split())}",
        "",
        "| " + " | ".join(titles[score].title for score in shown) + " | measured on |",
        "|---" * (len(shown) + 1) + "|",
        "| " + " | ".join(_value(report, score) for score in shown) + f" | {counts} |",
        "",
        f"Guidance: {_guidance(report)}. These commands made the model:",
        "",
        *(f"    {command}" for command in trained),
        "",
    ]


def _row(name: str, shipped: Shipped, report: dict[str, Any]) -> str:
    """The line of README's table that tells of a model."""
    cells = (
        f"[{shipped.title}](docs/{shipped.page})",
        f"`{' '.join(('models/' + name, shipped.asked)).strip()}`",
        f"{report['made_with']['evaluations']:g}",
        _guidance(report),
        _value(report, "frechet_distance"),
        _value(report, "class_accuracy"),
    )
    return "| " + " | ".join(cells) + " |"


def _guidance(report: dict[str, Any]) -> str:
    """The guidance of the scored images in words."""
    made = report["made_with"]
    own, first = made["guidance"], (made["start"].get("first_stage") or {}).get("guidance")
    if own["scale"] == 1:
        return f"{first['scale']:g} in the first stage" if first else "none"
    told = f"{own['scale']:g}"
    if own["high_scale"] is not None:
        told += f", {own['high_scale']:g} for high frequencies"
    if own["interval"] is not None:
        told += ", at sigma {:.2g} to {:.3g}".format(*own["interval"])
    return told


def _value(report: dict[str, Any], name: str) -> str:
    """A score with its interval, in few digits."""
    share = measures()[name].share

    def shown(value: float) -> str:
        return f"{100 * value:.1f} %" if share else f"{value:#.3g}".rstrip(".")

    ends = report.get("intervals", {}).get(name)
    return shown(report[name]) + (f" ({shown(ends[0])} to {shown(ends[1])})" if ends else "")


LEVELS = 0.0, 0.1, 0.2, 0.4, 0.8, 1.6
"""noise levels that the letter is shown at"""


def concepts() -> None:
    """The pictures of the page of concepts."""
    letter = to_unit(open_data("builtin:glyphs", 64, 3).fetch([0])[0])
    relay: Any = load_pipeline(MODELS / "relay-glyphs")
    rows = {}
    for name, process in {"white noise": GaussianProcess(), "relay": relay.process}.items():
        noise = process.noise(letter, SeededNoise([0]))
        rows[name] = [process.mean(letter, sigma) + sigma * noise for sigma in LEVELS]
    _labelled(rows, [f"sigma = {sigma:g}" for sigma in LEVELS], "concepts-processes.png")

    digits: Any = load_pipeline(MODELS / "diffit-digits")
    steps = list(digits.path(seeds=[7], class_labels=7, steps=6, guidance_scale=1.5))
    rows = {
        "x": [to_vp(step.x, step.sigma) for step in steps],
        "estimate\nof x_0": [step.x_0 for step in steps],
    }
    _labelled(rows, [f"sigma = {step.sigma:.2g}" for step in steps], "concepts-sampler.png")

    operator: Any = load_pipeline(MODELS / "dsno-digits")
    states = operator.trajectory(seeds=[7], class_labels=7)[0]
    titles = [f"sigma = {sigma:.2g}" for sigma in operator.sampler.levels[1:]]
    _labelled({"one\nevaluation": states[:, None]}, titles, "concepts-operator.png")


def _labelled(rows: dict[str, Any], titles: list[str], name: str) -> None:
    """Pictures of images in [-1, 1]: a row a name, a column a title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.3 * len(titles) + 0.6, 1.35 * len(rows) + 0.3), layout="constrained")
    panels = figure.subplots(len(rows), len(titles), squeeze=False)
    for (row, images), axes in zip(rows.items(), panels, strict=True):
        axes[0].set_ylabel(row)
        for panel, image in zip(axes, images, strict=True):
            pixels = to_pixels(torch.as_tensor(image))[0].permute(1, 2, 0).squeeze(-1)
            panel.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(title, fontsize=10)
    figure.savefig(DOCS / "images" / name, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("ship", help="make a model of the repository from a finished run")
    one.add_argument("name", choices=tuple(SHIPPED))
    one.add_argument("--run", help="the run or the model; runs/NAME if left out")
    parts.add_parser("cards", help="write the cards and samples of all models once more")
    parts.add_parser("gallery", help="make the page and its pictures from the models")
    parts.add_parser("concepts", help="draw the pictures of the page of concepts")
    options = parser.parse_args()
    if options.part == "concepts":
        concepts()
    elif options.part == "cards":
        cards()
    elif options.part == "ship":
        ship(options.name, options.run or f"runs/{options.name}")
    else:
        gallery()


if __name__ == "__main__":
    main()
