"""Do the four systems combine? An operator (DSNO) of a relay (RDM) whose two stages are experts
(MEME) that are DiffiTs, beside what it was made of.

    python examples/studies/combination.py models
    python examples/studies/combination.py tables

trains the recipes of examples/combined.py into `runs/`, where a run that is there goes on, and
scores 520 letters of 64 px of each model on the same seeds beside the same real letters:

    two operators             one evaluation of each
    operator, then experts    one evaluation of the first operator, and the second stage's experts
    experts                   the relay that both operators were distilled from
    one network a stage       the relay of the trunks that the experts began with

Relays take 16 + 8 evaluations. Results are in docs/studies/combined.json, the table in
docs/studies/combined.md, a picture of the same seeds in docs/images/combined.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from study import DOCS, Results, between, comparison_rows, run_study, scores_of, write_page

sys.path.append(str(Path(__file__).parents[1]))
from combined import (
    combined,
    combined_16,
    dsno_combined,
    dsno_combined_16,
    trunk,
    trunk_16,
)

from overtone import load_pipeline, open_data, train
from overtone.analysis.comparison import Comparison, compared_models
from overtone.data import held_out
from overtone.errors import OvertoneError
from overtone.metrics import Evaluation
from overtone.pipelines import Request
from overtone.precision import default_device
from overtone.samplers import Sampler
from overtone.training.classifier import classifier_of

RECIPES = {
    "trunk_16": trunk_16, "combined_16": combined_16, "trunk": trunk, "combined": combined,
    "dsno_combined_16": dsno_combined_16, "dsno_combined": dsno_combined,
}  # fmt: skip
SAMPLES = 520
STEPS = 16, 8
"""function evaluations of a relay's stages"""
RUNS = Path("runs")
WHERE = "builtin:glyphs", 64, 3


def models() -> dict[str, Any]:
    """The pipelines that are compared, the operators first."""

    def relay(name: str) -> Any:
        pipe: Any = load_pipeline(RUNS / name)
        pipe.sampler = dataclasses.replace(pipe.sampler, num_steps=STEPS[1])
        pipe.first.sampler = Sampler(STEPS[0], estimate="two_step")
        return pipe

    half = relay("combined")
    half.first = load_pipeline(RUNS / "dsno_combined_16")
    return {
        "two operators": load_pipeline(RUNS / "dsno_combined"),
        "operator, then experts": half,
        "experts": relay("combined"),
        "one network a stage": relay("trunk"),
    }


def compared() -> Comparison:
    """The models on the same seeds."""
    pipes = models()
    for pipe in pipes.values():
        pipe.to(default_device())
    evaluation = Evaluation(classifier_of(*WHERE), open_data(*WHERE), held_out(*WHERE))
    return compared_models(
        pipes, evaluation, lambda pipe: Request(range(SAMPLES)), lambda pipe, ask: pipe.stream(ask)
    )


def measured() -> dict[str, Any]:
    """The rows of the comparison; its picture is drawn."""
    found = compared()
    found.draw(DOCS / "images" / "combined.png")
    return comparison_rows(found)


def tables(results: Results) -> None:
    """The page's table."""
    rows = results.entries.get("compared")
    if rows is None:
        raise OvertoneError("there are no results yet: combination.py models makes them.")
    lines = ["| | evaluations | Fréchet distance | less the operators' | class accuracy |"]
    lines += ["|---" * 5 + "|"]
    less = {r["model"]: r for r in rows["differences"] if r["score"] == "frechet_distance"}
    for model in dict.fromkeys(row["model"] for row in rows["scores"]):
        own, difference = scores_of(rows, model), less.get(model)
        distance = own["frechet_distance"]
        lines += [
            f"| {model} | {distance['evaluations']:g} | {between(distance, 'value', 3)} |"
            f" {between(difference, 'difference', 3) if difference else ''} |"
            f" {own['class_accuracy']['value']:.1%} |"
        ]
    write_page("combined", "The four systems combined", lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("models", "tables"))
    options = parser.parse_args()
    results = Results("combined")
    if options.part == "models":
        for name, recipe in RECIPES.items():
            train(recipe, RUNS / name)
        results.once("compared", measured)
    tables(results)


if __name__ == "__main__":
    run_study(main)
