"""From nothing to pictures: train DiffiT on handwritten digits, show what came of it, and show the
models of the repository, one of each system, beside it.

    python examples/demo.py          (or `make demo`, which installs first)

Writes demo/index.html. Started again, it goes on where it stopped.
"""

from __future__ import annotations

import base64
import html
import io
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent / "demo"
os.environ.setdefault("OVERTONE_CACHE", str(DEMO / "cache"))  # nothing outside this folder

from PIL import Image  # noqa: E402
from rich.console import Console  # noqa: E402

from overtone import load_pipeline, open_data  # noqa: E402
from overtone.analysis.plots import denoising_path, training_curve  # noqa: E402
from overtone.data import held_out  # noqa: E402
from overtone.errors import OvertoneError, counted  # noqa: E402
from overtone.metrics import Evaluation, Report  # noqa: E402
from overtone.metrics.scores import measures  # noqa: E402
from overtone.pipelines import Pipeline, Request  # noqa: E402
from overtone.pipelines.pictures import grid  # noqa: E402
from overtone.runs import find_checkpoint, read_log  # noqa: E402
from overtone.storage import new_directory, new_file, read_json, write_json  # noqa: E402
from overtone.training.classifier import classifier_of  # noqa: E402
from overtone.training.loop import Trainer  # noqa: E402
from overtone.training.recipes import find_recipe  # noqa: E402

SAMPLES = range(500)
GUIDANCE = 1.5
MODELS = Path(__file__).resolve().parent.parent / "models"
SYSTEMS = {
    "diffit-fashion-mnist": "DiffiT, whose attention depends on the time",
    "relay-glyphs": "RDM, a relay from 16 to 64 px",
    "meme-digits": "MEME, four experts for four intervals of noise",
    "dsno-digits": "DSNO, one evaluation an image",
}
"""The models of the repository that the page shows."""


def main() -> None:
    began = float(os.environ.get("BEGAN") or time.time())
    console = Console(highlight=False)
    recipe = find_recipe("diffit-digits")
    data, test = open_data("builtin:digits", 8, 1), held_out("builtin:digits", 8, 1)

    console.rule("1 of 5: the classifier that judges")
    evaluation = Evaluation(classifier_of("builtin:digits", 8, 1), data, test)
    assert test is not None
    console.print(f"class accuracy {evaluation.accuracy:.1%} on {len(test)} test digits")

    console.rule("2 of 5: samples before training")
    trainer = Trainer.of(recipe)
    if not (DEMO / "untrained").exists():
        with new_directory(DEMO / "untrained") as folder:
            trainer.task.export(trainer.ema.module, folder, trainer.progress)
    before = evaluate(evaluation, load_pipeline(DEMO / "untrained"))
    console.print(f"Fréchet distance {before.frechet_distance:.3f}")

    console.rule("3 of 5: training")
    progress = trainer.run(DEMO / "run")
    console.print(f"{progress.images:,} images in {progress.seconds:.0f} s")

    console.rule("4 of 5: samples after training")
    pipe = load_pipeline(find_checkpoint(DEMO / "run"))
    after = evaluate(evaluation, pipe)
    console.rule("5 of 5: the models of the repository")
    systems = [shown(name, title) for name, title in SYSTEMS.items() if (MODELS / name).exists()]
    seconds = time.time() - began
    write_json(DEMO / "scores.json", {"before": before.as_json(), "after": after.as_json()})
    write_page(pipe, before, after, progress.seconds, seconds, systems)
    console.print(
        f"Fréchet distance {known(before, 'frechet_distance')} ->"
        f" {known(after, 'frechet_distance')}"
        f" ({after.real_frechet_distance:.3f} between two halves of the real images),"
        f" class accuracy {known(after, 'class_accuracy')}.\n"
        f"{seconds / 60:.1f} minutes in all. Open {DEMO / 'index.html'}"
    )


def evaluate(evaluation: Evaluation, pipe: Pipeline) -> Report:
    request = Request(SAMPLES, guidance_scale=GUIDANCE, batch_size=100)
    batches = pipe.stream(request)
    made_with = {"seeds": "0-499"} | pipe.made_with(request)
    return evaluation(((batch.images, batch.class_labels) for batch in batches), made_with)


def write_page(
    pipe: Pipeline,
    before: Report,
    after: Report,
    training: float,
    seconds: float,
    systems: list[str],
) -> None:
    """demo/index.html, with its pictures inside."""
    data = open_data("builtin:digits", 8, 1)
    pixels, labels = data.fetch(range(len(data)))
    # Eight rows of each class, class by class: as the samples come, seed k of class k mod 10.
    rows = [int(i) for r in range(8) for c in range(10) for i in [(labels == c).nonzero()[r]]]
    samples = next(pipe.stream(range(80), guidance_scale=GUIDANCE, batch_size=80)).images
    untrained = load_pipeline(DEMO / "untrained")
    noise = next(untrained.stream(range(20), guidance_scale=GUIDANCE)).images
    path = denoising_path(pipe, range(10, 16), guidance_scale=GUIDANCE)
    for name, image in (("samples", grid(samples, 10, gap=1)), ("path", path)):
        with new_file(DEMO / f"{name}.png") as file:
            image.resize((image.width * 6, image.height * 6), Image.Resampling.NEAREST).save(file)
    training_curve(read_log(DEMO / "run"), DEMO / "curve.png")
    real = {
        "frechet_distance": f"{after.real_frechet_distance:.3f} (two halves)",
        "class_accuracy": f"{after.classifier_accuracy:.1%} (test split)",
        "recall": f"{after.real_recall:.1%} (two halves)",
    }
    table = "".join(
        f"<tr><td>{html.escape(measures()[name].title)}<td>{known(before, name)}"
        f"<td><b>{known(after, name)}</b><td>{real.get(name, '')}"
        for name in ("frechet_distance", "class_accuracy", "precision", "recall")
    )
    page = PAGE.format(
        samples=embedded(grid(samples, 10, gap=1)),
        real=embedded(grid(pixels[rows], 10, gap=1)),
        noise=embedded(grid(noise, 10, gap=1)),
        path=embedded(path),
        curve=embedded(Image.open(DEMO / "curve.png")),
        table=table,
        parameters=f"{pipe.network.num_parameters / 1e6:.2f}",
        training=f"{training / 60:.1f}",
        minutes=f"{seconds / 60:.1f}",
        guidance=GUIDANCE,
        images=after.images,
        extractor=f"{after.extractor}, weights {after.extractor_digest}",
        systems="".join(systems),
    )
    with new_file(DEMO / "index.html") as file:
        file.write_text(page)


def shown(name: str, title: str) -> str:
    """A model of the repository: samples made now, and the scores that it came with."""
    pipe = load_pipeline(MODELS / name)
    report = read_json(MODELS / name / "scores.json", dict)
    evaluations = report["made_with"]["evaluations"]
    request = Request(range(52 if pipe.num_classes == 26 else 60), batch_size=60)
    if pipe.budgets:  # samplers fitted to so many evaluations
        request = replace(request, evaluations=round(evaluations))
    scale = report["made_with"]["guidance"].get("scale", 1.0)  # that of the scores
    if scale != pipe.guidance.scale:
        request = replace(request, guidance_scale=scale)
    next(pipe.stream(replace(request, seeds=(0,))))
    began = time.perf_counter()
    images = next(pipe.stream(request)).images
    taken = 1000 * (time.perf_counter() - began) / len(images)
    scores = []
    for score in ("frechet_distance", "class_accuracy"):
        measure, (low, high) = measures()[score], report["intervals"][score]
        ends = f"{measure.shown(low)} to {measure.shown(high)}"
        scores.append(f"{measure.title} {measure.shown(report[score])} ({ends})")
    picture = embedded(grid(images, 13 if len(images) == 52 else 10))
    return (
        f'<figure><img class="pixels" src="{picture}" alt="Samples of {name}">'
        f"<figcaption><b>{html.escape(title)}</b>:"
        f" <code>models/{name}</code>, seeds 0 to {len(images) - 1},"
        f" {counted(round(evaluations), 'evaluation')}"
        f" and {taken:.1f} ms an image on this machine; {', '.join(scores)} of"
        f" {report['images']:,} images.</figcaption></figure>"
    )


def known(report: Report, name: str) -> str:
    """A score with its 95 % interval."""
    shown, ends = measures()[name].shown, report.interval(name)
    assert ends is not None
    return f"{shown(report.value(name))} ({shown(ends[0])} to {shown(ends[1])})"


def embedded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Overtone: digits from noise</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
       color: #222; background: #fff }}
h1 {{ font-weight: 600 }} figure {{ margin: 0 }} figcaption {{ color: #666; font-size: 14px }}
.row {{ display: flex; gap: 2em; flex-wrap: wrap }}
.pixels {{ image-rendering: pixelated; width: 100%; border-radius: 4px; background: #000 }}
.row figure {{ flex: 1 1 24em }} table {{ border-collapse: collapse; margin: 1em 0 }}
td, th {{ padding: .3em 1.2em .3em 0; text-align: left; border-bottom: 1px solid #ddd }}
</style>
<h1>Digits from noise</h1>
<p>A DiffiT U-Net of {parameters} M parameters, trained from nothing on 1,500 handwritten digits
in {training} minutes on this machine; {minutes} minutes from the command to this page.
<div class="row">
<figure><img class="pixels" src="{samples}" alt="Samples"
><figcaption>Samples, one class a column,
guidance {guidance}, seeds 0 to 79</figcaption></figure>
<figure><img class="pixels" src="{real}" alt="Real digits"
><figcaption>Real images</figcaption></figure>
</div>
<h2>From noise to image</h2>
<figure><img class="pixels" src="{path}"
alt="Six samples on their way from noise to image"><figcaption>Six samples at ten of their eighteen
steps, from sigma = 10 on, scaled to the variance of the data</figcaption></figure>
<h2>How good they are</h2>
<table><tr><th>score (95 % interval)<th>before training<th>after<th>real images{table}</table>
<p>{images} samples (seeds 0 to 499, guidance {guidance}, 18 steps) against 1,500 real images,
on the features of a {extractor}.
<div class="row">
<figure><img style="width:100%" src="{curve}" alt="Loss against images seen"><figcaption>Training
curve</figcaption></figure>
<figure><img class="pixels" src="{noise}" alt="Noise"><figcaption>Samples before
training</figcaption></figure>
</div>
<h2>The four systems</h2>
<p>These models are in the repository. Their images were made just now, and are not chosen; their
scores have 95 % intervals.
<div class="row">{systems}</div>
</html>
"""

if __name__ == "__main__":
    try:
        main()
    except OvertoneError as error:
        sys.exit(f"{error}")
