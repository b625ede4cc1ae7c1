"""Is one evaluation of an operator worth more than the steps of progressive distillation?

DSNO's claim (arXiv 2211.13449): better than progressive distillation's student of one step at the
same cost, and 2.6 and 1.3 times as fast as its students of four and two steps.

    python examples/studies/one_step.py digits --teacher runs/diffit-digits --guidance-scale 1.5
    python examples/studies/one_step.py fashion --teacher models/diffit-fashion-mnist
    python examples/studies/one_step.py tables

Both distillations have the same teacher, a student of its network, and the same number of
multiply-adds: the operator's are those of its teacher's trajectories and of its training, which
computes all times of a trajectory; the students' are those of their teachers' steps and of their
training, whose length is chosen to make them equal. They are told in forward passes of the
teacher's network. Models are compared on the same seeds beside the same real images (Fréchet
distance with 95 % intervals), and their seconds an image are measured in turns. Results are in
docs/studies/one_step.json, tables in docs/studies/one_step.md; what is there is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

from study import Results, between, comparison_rows, run_study, scores_of, write_page

from overtone import load_pipeline, open_data, train
from overtone.analysis.comparison import compared_models
from overtone.data import held_out
from overtone.errors import OvertoneError
from overtone.metrics import Evaluation
from overtone.networks.network import multiply_adds
from overtone.pipelines import Request, evaluations_of
from overtone.precision import default_device
from overtone.training.classifier import classifier_of
from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.configs.halving import HalvingRecipe
from overtone.training.recipes.dsno import dsno_digits, dsno_fashion_mnist
from overtone.training.recipes.halving import halve_digits, halve_fashion_mnist

SAMPLES = 2_000
ROUNDS = 7
TRAINING = 3
"""forward passes that a step of training takes: its own, and twice as much on the way back"""


@dataclasses.dataclass(frozen=True)
class Case:
    """What is distilled, and from how much."""

    operator: DistillationRecipe
    students: HalvingRecipe
    data: tuple[str, int, int]


def cases() -> dict[str, Case]:
    """The two cases."""
    digits, fashion = dsno_digits(), dsno_fashion_mnist()
    few = dataclasses.replace(
        fashion.training, total_images=100_000, lr_rampdown_images=80_000, lr_rampup_images=2_500,
        ema_halflife_images=2_500,
    )  # fmt: skip
    fashion = dataclasses.replace(fashion, count=20_000, steps=10, training=few)
    return {
        "digits": Case(digits, halve_digits(), ("builtin:digits", 8, 1)),
        "fashion": Case(fashion, halve_fashion_mnist(), ("fashion-mnist", 32, 1)),
    }


def passes_of_operator(case: Case, teacher: Any, operator: Any) -> float:
    """Forward passes of the teacher's network that the operator's distillation takes."""
    recipe = case.operator
    asked = Request((0,), guidance_scale=recipe.guidance_scale, steps=recipe.steps)
    solving = recipe.count * evaluations_of(teacher, asked)
    own, others = multiply_adds(operator.network, recipe.num_times), multiply_adds(teacher.network)
    return solving + recipe.training.total_images * TRAINING * own / others


def passes_of_students(case: Case, teacher: Any) -> int:
    """Forward passes that the students' distillation takes for each image of one student's
    training: a student learns from two steps of its teacher, the first perhaps guided."""
    asked = Request((0,), guidance_scale=case.students.guidance_scale)
    guided = 2 if teacher.guidance_of(asked).acts else 1
    later = len(case.students.halvings) - 1
    return (TRAINING + 2 * guided) + later * (TRAINING + 2)


def equal(case: Case, teacher: Any, passes: float) -> HalvingRecipe:
    """The students' recipe, of a length that takes so many forward passes of the teacher's."""
    training = case.students.training
    batches = round(passes / passes_of_students(case, teacher) / training.batch_size)
    images = batches * training.batch_size
    falling = images - training.lr_rampup_images
    training = dataclasses.replace(training, total_images=images, lr_rampdown_images=falling)
    return dataclasses.replace(case.students, training=training)


def compared(case: Case, teacher: Any, models: dict[str, Any], scale: float | None) -> Any:
    """Scores with intervals, and differences from the operator."""
    evaluation = Evaluation(classifier_of(*case.data), open_data(*case.data), held_out(*case.data))
    found = compared_models(
        models,
        evaluation,
        lambda pipe: Request(
            range(SAMPLES), guidance_scale=scale if pipe is models["teacher"] else None
        ),
        lambda pipe, asked: pipe.stream(asked),
    )
    return comparison_rows(found)


def seconds(models: dict[str, Any], scale: float | None) -> dict[str, float]:
    """Seconds an image in batches of 64, medians of rounds in which models take turns."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, pipe in models.items():
            own = scale if name.startswith("teacher") else None
            began = time.perf_counter()
            for _batch in pipe.stream(range(64), guidance_scale=own):
                pass
            taken[name].append((time.perf_counter() - began) / 64)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def asked(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both distillations of a case, and what came of them."""
    case, scale = cases()[name], options.guidance_scale
    changes = {"teacher": options.teacher, "guidance_scale": scale}
    case = dataclasses.replace(
        case,
        operator=dataclasses.replace(case.operator, **changes),
        students=dataclasses.replace(case.students, **changes),
    )
    where = options.out / f"{name}-{1 if scale is None else scale:g}"
    operator, teacher = train(case.operator, where / "operator"), load_pipeline(options.teacher)
    passes = passes_of_operator(case, teacher, operator)
    students = equal(case, teacher, passes)
    train(students, where / "students")
    models = {"operator, 1 evaluation": operator, "teacher": teacher}
    for steps in case.students.halvings:
        title = f"student, {steps} evaluation{'s' if steps > 1 else ''}"
        models[title] = load_pipeline(where / "students" / f"steps-{steps}")
    for pipe in models.values():
        pipe.to(default_device())
    return {
        "teacher": options.teacher,
        "passes": passes,
        "images": {
            "the operator": case.operator.training.total_images,
            "each student": students.training.total_images,
        },
        "seconds": seconds(models, scale),
        "compared": compared(case, teacher, models, scale),
    }


def tables(results: Results) -> None:
    """The page's tables."""
    lines: list[str] = []
    for name, entry in results.entries.items():
        images = " and ".join(f"{count:,} for {who}" for who, count in entry["images"].items())
        lines += [
            f"{name}: each distillation takes {entry['passes'] / 1e6:.2f} M forward passes of the"
            f" teacher's network. The images seen in training are {images}.",
            "",
        ]
        lines += ["| | Fréchet distance | less the operator's | class accuracy | ms an image |"]
        lines += ["|---" * 5 + "|"]
        rows = entry["compared"]
        less = {
            row["model"]: row for row in rows["differences"] if row["score"] == "frechet_distance"
        }
        for model, taken in entry["seconds"].items():
            own = scores_of(rows, model)
            difference = less.get(model)
            lines += [
                f"| {model} | {between(own['frechet_distance'], 'value')} |"
                f" {between(difference, 'difference') if difference else ''} |"
                f" {own['class_accuracy']['value']:.1%} | {1000 * taken:.2f} |"
            ]
        lines += [""]
    write_page("one_step", "Few evaluations: an operator and progressive distillation", lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=("digits", "fashion", "tables"))
    parser.add_argument("--teacher")
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--out", type=Path, default=Path("runs/one-step-study"))
    options = parser.parse_args()
    results = Results("one_step")
    if options.case != "tables":
        if options.teacher is None:
            parser.error(f"pass --teacher MODEL, which {options.case} are distilled from.")
        scale = 1 if options.guidance_scale is None else options.guidance_scale
        key = f"{options.case}, guidance {scale:g}"
        known = results.entries.get(key, {}).get("teacher", options.teacher)
        if known != options.teacher:
            raise OvertoneError(f"{results.file} has the results of {known}, under '{key}'.")
        results.once(key, partial(asked, options.case, options))
    tables(results)


if __name__ == "__main__":
    run_study(main)
