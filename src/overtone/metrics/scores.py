"""The scores: each says what it measures, what it needs, and from how many images on.

A score is a registered kind, so that one of your own is computed, resampled, compared and reported
as the built-in ones are. Nothing here imports torch before a score is computed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from overtone.metrics.parts import HITS, LOGITS, NEAREST, SPATIAL, SQUARED_ERRORS, VECTORS
from overtone.ranges import Count, Neighbours
from overtone.registry import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from overtone.metrics.sample import Sample


class Measure(NamedTuple):
    """A number that a score gives."""

    name: str
    title: str
    lower_is_better: bool = False
    share: bool = False
    """Whether the score is a share, which is shown in percent."""
    biased: bool = False
    """Whether the score of few images is expected to be higher or lower than that of many, by b /
    images."""
    squared: bool = False
    """Whether the score is the square of a distance."""
    lowest: float = -math.inf
    highest: float = math.inf

    def shown(self, value: float) -> str:
        """A value as it is written for readers."""
        return f"{value:.1%}" if self.share else f"{value:.4g}"


class Score(Kind, ABC, family="score", home="overtone.metrics"):
    """Features of real and of fake images -> numbers, by column of `metrics.halves.Halves`."""

    measures: ClassVar[tuple[Measure, ...]]
    needs: ClassVar[tuple[str, ...]] = (VECTORS,)
    """The parts of the generated images' sample that the score is computed from."""
    real_needs: ClassVar[tuple[str, ...]] = (VECTORS,)
    """The parts of the real images' sample that the score is computed from."""
    takes_statistics: ClassVar[bool] = False
    """Whether the means and covariances of the real images are enough."""
    by_default: ClassVar[bool] = True
    """Whether the score is computed where nothing else is asked for and what it needs is there."""

    @property
    def least(self) -> int:
        """The number of images on each side without which it means nothing."""
        return 4

    @property
    def title(self) -> str:
        return " and ".join(measure.title for measure in self.measures)

    @abstractmethod
    def __call__(self, real: Any, fake: Sample) -> Sequence[Tensor]:
        """The numbers of each of `measures`, (columns,), the first of all images."""


@dataclass(frozen=True)
class FrechetScore(Score, kind="frechet"):
    """The Fréchet distance of the extractor's features (`metrics.frechet`)."""

    measures: ClassVar = (
        Measure(
            "frechet_distance", "Fréchet distance", True, biased=True, squared=True, lowest=0.0
        ),
    )
    takes_statistics: ClassVar = True

    def __call__(self, real: Any, fake: Sample) -> Sequence[Tensor]:
        from overtone.metrics.frechet import distances

        return (distances(real, fake),)


@dataclass(frozen=True)
class SpatialFrechetScore(Score, kind="spatial-frechet"):
    """The Fréchet distance of spatial features: sFID, with Inception's."""

    measures: ClassVar = (
        Measure(
            "spatial_frechet_distance",
            "spatial Fréchet distance",
            lower_is_better=True,
            biased=True,
            squared=True,
            lowest=0.0,
        ),
    )
    needs: ClassVar = (SPATIAL,)
    real_needs: ClassVar = (SPATIAL,)
    takes_statistics: ClassVar = True

    def __call__(self, real: Any, fake: Sample) -> Sequence[Tensor]:
        from overtone.metrics.frechet import distances

        return (distances(real, fake, SPATIAL),)


@dataclass(frozen=True)
class KernelScore(Score, kind="kernel"):
    """The kernel distance (`metrics.kernel`): KID, with Inception's features."""

    measures: ClassVar = (
        Measure("kernel_distance", "kernel distance", True, biased=True, squared=True),
    )

    subsets: Count = 100
    """The number of random subsets that the score is averaged over."""
    subset_size: Count = 1000
    """The number of images in each subset, at most the number of images there are."""

    def __call__(self, real: Any, fake: Sample) -> Sequence[Tensor]:
        from overtone.metrics.kernel import of_all_pairs, of_subsets

        published = of_subsets(
            real.parts[VECTORS], fake.parts[VECTORS], self.subsets, self.subset_size
        )
        of_halves = of_all_pairs(real, fake)
        # What is published is the mean over subsets; the halves scatter about that of all pairs.
        return (of_halves + (published - of_halves[0]),)


@dataclass(frozen=True)
class PrecisionRecall(Score, kind="precision-recall"):
    """Improved precision and recall (`metrics.neighbours`)."""

    measures: ClassVar = (
        Measure("precision", "precision", share=True, lowest=0.0, highest=1.0),
        Measure("recall", "recall", share=True, lowest=0.0, highest=1.0),
    )

    neighbours: Neighbours = 3
    """The k of the balls, which reach from each image to its k-th nearest neighbour."""

    @property
    def least(self) -> int:
        return self.neighbours + 1

    def __call__(self, real: Any, fake: Sample) -> Sequence[Tensor]:
        from overtone.metrics.neighbours import precisions_recalls

        return precisions_recalls(real, fake, self.neighbours)


@dataclass(frozen=True)
class DensityCoverage(Score, kind="density-coverage"):
    """Density and coverage (`metrics.neighbours`)."""

    measures: ClassVar = (
        Measure("density", "density", lowest=0.0),
        Measure("coverage", "coverage", share=True, lowest=0.0, highest=1.0),
    )

    neighbours: Neighbours = 5
    """The k of the balls, which reach from each image to its k-th nearest neighbour."""

    @property
    def least(self) -> int:
        return self.neighbours + 1

    def __call__(self, real: Any, fake: Sample) -> Sequence[Tensor]:
        from overtone.metrics.neighbours import densities_coverages

        return densities_coverages(real, fake, self.neighbours)


@dataclass(frozen=True)
class InceptionScore(Score, kind="inception-score"):
    """The Inception Score, with the class scores of whichever network the features are of
    (`metrics.classes`)."""

    measures: ClassVar = (Measure("inception_score", "Inception Score", biased=True, lowest=1.0),)
    needs: ClassVar = (LOGITS,)
    real_needs: ClassVar = ()

    def __call__(self, real: Any, fake: Sample) -> Sequence[Tensor]:
        from overtone.metrics.classes import inception_scores

        return (inception_scores(fake),)


@dataclass(frozen=True)
class ClassAccuracy(Score, kind="class-accuracy"):
    """The share of images that the data's classifier takes for the class that was asked for."""

    measures: ClassVar = (
        Measure("class_accuracy", "class accuracy", share=True, lowest=0.0, highest=1.0),
    )
    needs: ClassVar = (HITS,)
    real_needs: ClassVar = ()

    def __call__(self, real: Any, fake: Sample) -> Sequence[Tensor]:
        from overtone.metrics.classes import class_accuracies

        return (class_accuracies(fake),)


@dataclass(frozen=True)
class Memorisation(Score, kind="memorisation"):
    """How near images are to single training images (`metrics.memorisation`)."""

    measures: ClassVar = (
        Measure("memorised", "memorised", True, share=True, lowest=0.0, highest=1.0),
        Measure("nearest_ratio", "nearest to second nearest", lowest=0.0, highest=1.0),
    )
    needs: ClassVar = (NEAREST,)
    real_needs: ClassVar = ()
    by_default: ClassVar = False

    def __call__(self, real: Any, fake: Sample) -> Sequence[Tensor]:
        from overtone.metrics.memorisation import memorised

        return memorised(fake)


@dataclass(frozen=True)
class SolverError(Score, kind="solver-error"):
    """Root mean square distance of images in [-1, 1] to the converged images of the same seeds
    (`metrics.solver`), which no feature can flatter."""

    measures: ClassVar = (Measure("solver_error", "solver error", True, lowest=0.0),)
    needs: ClassVar = (SQUARED_ERRORS,)
    real_needs: ClassVar = ()
    by_default: ClassVar = False

    def __call__(self, real: Any, fake: Sample) -> Sequence[Tensor]:
        return ((fake.totals(SQUARED_ERRORS)[:, 0] / fake.numbers).sqrt(),)


def scores_by_name(names: Sequence[str]) -> tuple[Score, ...]:
    """Scores with their default settings. Raises `OvertoneError` for a name that is none."""
    return tuple(Score.family.find(name)() for name in names)  # type: ignore[misc]


def all_scores() -> tuple[Score, ...]:
    """Every registered score with its default settings, the built-in ones first."""
    return scores_by_name((*Score.family.built_in, *_own()))


def _own() -> list[str]:
    return [name for name in Score.family.kinds if name not in Score.family.built_in]


def measures() -> Mapping[str, Measure]:
    """What all registered scores measure, by name."""
    return {measure.name: measure for score in all_scores() for measure in score.measures}
