"""Averages of weights of any length, made afterwards (Karras et al. 2024, arXiv 2312.02696).

An average at n images with the exponent gamma weighs the weights at image m by the profile

    p(m) = (gamma + 1) m^gamma / n^(gamma + 1),   0 <= m <= n

whose standard deviation is the share

    length = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3)))

of n. A run keeps averages of two lengths and writes them down now and then (`Snapshots`). The
average of any other length is the sum of these, x_1 p_1 + x_2 p_2 + ..., that comes closest to its
profile: A x = b with A_ij = <p_i, p_j> and b_i = <p_i, p>, where

    <p_i, p_j> = (g_i + 1) (g_j + 1) min(n_i, n_j)^(g_i + g_j + 1)
                 / ((g_i + g_j + 1) n_i^(g_i + 1) n_j^(g_j + 1))
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from overtone import storage
from overtone.errors import OvertoneError

FOLDER = "averages"
"""in a run: the snapshots"""
LONGEST = math.sqrt(1 / 12)
"""the length of the plain mean, gamma = 0"""
SHORTEST = 1e-3
FARTHEST = 0.05
"""a profile that the snapshots come no closer to than this, relative to its norm, is not made"""
SMALLEST = 1e-12
"""singular values below this share of the largest are taken for rounding"""


@cache
def exponent_of(length: float) -> float:
    """gamma, from the length of a profile.

    It is the positive root of gamma^3 + 7 gamma^2 + (16 - 1/s^2) gamma + 12 - 1/s^2, s the length.
    Raises `ValueError` for a length that no profile of gamma >= 0 has.
    """
    if not SHORTEST <= length <= LONGEST + 1e-12:
        raise ValueError(f"the length of an average is from {SHORTEST} to {LONGEST:.3f}: {length}")
    t = length**-2
    return max(float(np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]).real.max()), 0.0)


def length_of(exponent: float) -> float:
    """The standard deviation of a profile over the images seen."""
    g = exponent
    return math.sqrt((g + 1) / ((g + 2) ** 2 * (g + 3)))


class Snapshot(NamedTuple):
    """An average that was written down."""

    images: int
    length: float
    file: Path


@dataclass(frozen=True)
class Snapshots:
    """The snapshots of power-function EMAs that a run has saved."""

    run: Path

    def file(self, images: int, length: float) -> Path:
        return self.run / FOLDER / f"{images:09d}-{length:g}.safetensors"

    def write(self, images: int, length: float, network: Any) -> None:
        """Write the average down that a network's parameters are, in half precision; the file
        appears whole or not at all. Buffers are no averages: they are those of the model."""
        buffers = {name for name, _ in network.named_buffers()}
        half = {
            name: storage.converted(name, value, "float16")
            for name, value in network.state_dict().items()
            if name not in buffers
        }
        file = self.file(images, length)
        file.parent.mkdir(parents=True, exist_ok=True)
        with storage.new_file(file) as temporary:
            storage.save_tensors(temporary, half)

    def until(self, images: int) -> list[Snapshot]:
        """Those up to a number of images, in order."""
        found = []
        for file in sorted((self.run / FOLDER).glob("*-*.safetensors")):
            number, _, length = file.name.removesuffix(".safetensors").partition("-")
            try:
                snapshot = Snapshot(int(number), float(length), file)
            except ValueError:
                continue
            if 0 < snapshot.images <= images:
                found.append(snapshot)
        return found


def product(first: Sequence[Any], second: Sequence[Any]) -> Any:
    """<p, q> of profiles given by (images, exponent), numbers or arrays; in units of 1 / images."""
    (n, g), (m, h) = first, second
    least = np.minimum(n, m)
    scale = (g + 1) * (h + 1) / (g + h + 1)
    return scale * (least / n) ** g * (least / m) ** h * least / (n * m)


class Synthesis(NamedTuple):
    """How an average is made of others."""

    weights: np.ndarray
    """The weights x, one for each snapshot."""
    distance: float
    """The distance between the profile that is reached and the one that was wanted, relative to the
    norm of the latter."""


def synthesis(snapshots: Iterable[tuple[int, float]], images: int, length: float) -> Synthesis:
    """The least squares combination of snapshots, (images, length) each, for an average at `images`
    of another length."""
    every = list(snapshots)
    n = np.array([float(number) for number, _ in every]) / images
    g = np.array([exponent_of(own) for _, own in every])
    wanted = 1.0, exponent_of(length)
    matrix = product((n[:, None], g[:, None]), (n[None], g[None]))
    right = product((n, g), wanted)
    # Scaled to unit norm, since profiles of late and of early snapshots differ much in theirs.
    norms = np.sqrt(np.diag(matrix))
    solved = np.linalg.lstsq(matrix / np.outer(norms, norms), right / norms, rcond=SMALLEST)[0]
    x = solved / norms
    whole = float(product(wanted, wanted))
    error = whole - 2 * float(x @ right) + float(x @ matrix @ x)
    return Synthesis(x, math.sqrt(max(error, 0.0) / whole))


def lengths_of(snapshots: Sequence[tuple[int, float]], images: int) -> tuple[float, float] | None:
    """The shortest and the longest average that can be made; None where there is none."""
    tried = np.geomspace(2 * SHORTEST, LONGEST, 200)
    fits = [s for s in tried if synthesis(snapshots, images, float(s)).distance <= FARTHEST]
    return (float(fits[0]), float(fits[-1])) if fits else None


def synthesised(snapshots: Sequence[Snapshot], images: int, length: float) -> dict[str, Any]:
    """The parameters of the average of a length at `images`, made of snapshots.

    Raises `OvertoneError` for a length that they can't give, naming those that they can.
    """
    known = [(snapshot.images, snapshot.length) for snapshot in snapshots]
    found = synthesis(known, images, length)
    if found.distance > FARTHEST:
        ends = lengths_of(known, images)
        can = f"from {ends[0]:.3f} to {ends[1]:.3f}" if ends else "none"
        raise OvertoneError(
            f"an average of length {length:g} can't be made of the {len(known)} snapshots that the"
            f" run has written down: their profiles come within {found.distance:.0%} of its own."
            f" Lengths that can be made: {can}."
        )
    total: dict[str, Any] = {}
    for weight, snapshot in zip(found.weights.tolist(), snapshots, strict=True):
        for name, tensor in storage.load_tensors(snapshot.file).items():
            part = tensor.double() * weight
            total[name] = total[name] + part if name in total else part
    return {name: tensor.float() for name, tensor in total.items()}
