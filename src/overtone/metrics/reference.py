"""References as others publish them: the statistics of real images' features, in .npz files.

    mu, sigma          mean (d,) and covariance (d, d) of pooled features, as EDM's `fid.py` writes
    mu_s, sigma_s      those of spatial features, beside them in ADM's references
    arr_0              images, in ADM's references, of which these statistics need not be
    overtone           where they come from, in files of ours: JSON as bytes, which others ignore

What is read is what those programs read: their numbers, in float64, and nothing of them changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from overtone import settings
from overtone.data.names import path_of
from overtone.data.npz import ArrayFile, StoredArray, write_arrays
from overtone.data.open import public_name
from overtone.errors import OvertoneError
from overtone.metrics.parts import SPATIAL, VECTORS
from overtone.metrics.sample import Moments
from overtone.ranges import Count, check_fields

MEAN, COVARIANCE = "mu", "sigma"
SPATIAL_MEAN, SPATIAL_COVARIANCE = "mu_s", "sigma_s"
TOLD = "overtone"
MOST_FEATURES = 8192
"""a covariance of more has more than half a gigabyte"""
LARGEST_TOLD = 2**14
"""bytes that a file may say of where it comes from"""
ROWS = 512
"""rows of a covariance that are looked at together"""
LONGEST_NAME = 200
"""characters of a name in it"""
ROUNDING = 1e-4
"""of the largest variance: what a covariance computed in float32 may miss its own laws by"""


@dataclass(frozen=True)
class Origin:
    """Where statistics come from, as far as it is known; published ones say nothing of it."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    count: Count | None = None
    """The number of images that the statistics were computed from."""
    extractor: str = ""
    """The name of the feature extractor."""
    digest: str = ""
    """The digest of the extractor's weights."""
    real: str = ""
    """The public name of the data."""
    real_digest: str = ""
    """The digest of the images' contents."""
    resize_rule: str = ""

    def __post_init__(self) -> None:
        check_fields(self, lambda name: f"its {name} must be")
        for name in ("extractor", "digest", "real", "real_digest", "resize_rule"):
            text = getattr(self, name)
            if len(text) > LONGEST_NAME or not text.isprintable():
                raise ValueError(f"its {name} is not a name of {LONGEST_NAME} characters or fewer")


@dataclass(frozen=True, eq=False)
class Reference:
    """Means and covariances of real images' features, float64: what a Fréchet distance needs; and
    where they come from, as in `Origin`.

    Raises `ValueError` for what can't be the moments of anything: numbers that are not finite, a
    covariance that is not symmetric or of another size, a negative variance, a correlation above 1.
    """

    mean: Float[Tensor, " dims"]
    covariance: Float[Tensor, "dims dims"]
    spatial_mean: Float[Tensor, " spatial"] | None = None
    spatial_covariance: Float[Tensor, "spatial spatial"] | None = None
    count: int | None = None
    extractor: str = ""
    digest: str = ""
    real: str = ""
    real_digest: str = ""
    resize_rule: str = ""
    file: str = ""
    """The file that the reference was read from. It is used in messages and not saved."""

    def __post_init__(self) -> None:
        if (self.spatial_mean is None) != (self.spatial_covariance is None):
            raise ValueError(f"{SPATIAL_MEAN} and {SPATIAL_COVARIANCE} go together, and one is not")
        for part in self.parts:
            names = self._names(part)
            moments = Moments(*(getattr(self, name).to("cpu", torch.float64) for name in names))
            _check_moments(moments, *(name.replace("_", " ") for name in names))
            for name, values in zip(names, moments, strict=True):
                object.__setattr__(self, name, values)
        for name, value in asdict(Origin(**self.origin)).items():
            object.__setattr__(self, name, value)  # of numpy's numbers, Python's

    @property
    def origin(self) -> dict[str, Any]:
        """What is known of where they come from."""
        return {own.name: getattr(self, own.name) for own in fields(Origin)}

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that there are moments of."""
        return (VECTORS,) if self.spatial_mean is None else (VECTORS, SPATIAL)

    def whole(self, part: str = VECTORS) -> Moments:
        """Mean and covariance of all images, as those of one column. Raises `OvertoneError` for a
        part that there is nothing of."""
        if part not in self.parts:
            raise OvertoneError(
                f"{self._called} has no statistics of {part}: it holds those of"
                f" {' and '.join(self.parts)}. Leave out the scores that need others (--scores)."
            )
        mean, covariance = (getattr(self, name) for name in self._names(part))
        return Moments(mean[None], covariance[None])

    def pairs(self, part: str, pairs: slice) -> Moments:
        """The same for halves and for their complements: how published statistics scatter is not
        known, so that they are taken to be those of the data, without error."""
        columns = 2 * (pairs.stop - pairs.start)
        whole = self.whole(part)
        return Moments(*(moment.expand(columns, *moment.shape[1:]) for moment in whole))

    def check_extractor(
        self, name: str, dims: int, spatial_dims: int | None = None, digest: str = ""
    ) -> None:
        """Raises `OvertoneError` where these are another extractor's statistics than those of the
        one called `name`, of `dims` features and `spatial_dims` spatial ones, None for one that has
        none. Published files name no extractor: of them the numbers of features alone are
        compared."""
        advice = "compare with a reference of the same features, or with images"
        spatial = None if self.spatial_mean is None else len(self.spatial_mean)
        compared = [("", len(self.mean), dims), ("spatial ", spatial, spatial_dims)]
        for kind, own, other in compared:
            if own is not None and other is not None and own != other:
                raise OvertoneError(
                    f"{self._called} has {own:,} {kind}features, and {name} has {other:,}:"
                    f" {advice}."
                )
        if self.extractor and self.extractor != name:
            raise OvertoneError(
                f"{self._called} was made with {self.extractor}, and this is {name}: {advice}."
            )
        if self.digest and digest and self.digest != digest:
            raise OvertoneError(
                f"{self._called} was made with {name} of the weights {self.digest}, and these are"
                f" {digest}: {advice}."
            )

    @property
    def _called(self) -> str:
        return self.file or "the reference"

    def _names(self, part: str) -> tuple[str, str]:
        """The fields of a part's moments."""
        spatial = part == SPATIAL
        return ("spatial_mean", "spatial_covariance") if spatial else ("mean", "covariance")


def is_reference(path: str | Path) -> bool:
    """Whether a file is an .npz with mu and sigma. One of ADM's may hold images as well."""
    file = path_of(str(path))
    if file.suffix.lower() != ".npz" or not file.is_file():
        return False
    try:
        return {MEAN, COVARIANCE} <= set(ArrayFile(file).names)
    except OvertoneError:  # which whoever reads it will say
        return False


def load_reference(path: str | Path) -> Reference:
    """The statistics in an .npz file of EDM's, of ADM's or of ours.

    Nothing in it is executed, and no memory is taken for more than it holds. Raises `OvertoneError`
    for a damaged file, for one without mu and sigma, and for numbers that are no statistics.
    """
    file = path_of(str(path))
    there = ArrayFile(file)
    if missing := [name for name in (MEAN, COVARIANCE) if name not in there]:
        names = ", ".join(there.names[:5]) or "nothing"
        raise OvertoneError(
            f"{file} is not a reference: it holds {names}, and no {missing[0]}. A reference is mu,"
            " the mean of features, and sigma, their covariance."
        )
    pairs = [(MEAN, COVARIANCE)]
    if SPATIAL_MEAN in there or SPATIAL_COVARIANCE in there:
        pairs.append((SPATIAL_MEAN, SPATIAL_COVARIANCE))
    moments = [_moments(there, *names) for names in pairs]
    origin = _origin(there) if TOLD in there else Origin()
    values: list[Any] = [moment for part in moments for moment in part]
    told: dict[str, Any] = asdict(origin)
    try:
        return Reference(*values, **(told | {"file": str(path)}))
    except ValueError as error:
        raise OvertoneError(f"{file} is not a reference: {error}.") from None


def save_reference(path: str | Path, reference: Reference) -> None:
    """Write statistics as `np.load`, EDM's `fid.py` and ADM's evaluator read them, with where they
    come from beside them; the file appears whole or not at all.

    Raises `OvertoneError` for another suffix than .npz, and for a file that can't be written.
    """
    file = Path(path)
    if file.suffix.lower() != ".npz":
        raise OvertoneError(f"a reference goes into an .npz file, not into {file}.")
    told = reference.origin | {"real": public_name(reference.real)}
    text = json.dumps(told, sort_keys=True).encode()

    def write(add: Any) -> None:
        for name, values in _members(reference):
            array = values.numpy()
            add(name, np.float64, array.shape, (row.tobytes() for row in array))
        add(TOLD, np.uint8, (len(text),), [text])

    write_arrays(file, write)


def _members(reference: Reference) -> Iterator[tuple[str, Tensor]]:
    yield MEAN, reference.mean
    yield COVARIANCE, reference.covariance
    if reference.spatial_mean is not None and reference.spatial_covariance is not None:
        yield SPATIAL_MEAN, reference.spatial_mean
        yield SPATIAL_COVARIANCE, reference.spatial_covariance


def _moments(there: ArrayFile, mean: str, covariance: str) -> tuple[Tensor, Tensor]:
    """Both arrays, once what the file says of them fits together."""
    for name in (mean, covariance):
        if name not in there:
            other = mean if name == covariance else covariance
            raise OvertoneError(
                f"{there.file} is not a reference: it holds {other}, and no {name}."
            )
    first, second = there.array(mean), there.array(covariance)
    where = f"{there.file} is not a reference:"
    for stored in (first, second):
        if stored.dtype.kind != "f" or stored.dtype.itemsize not in (4, 8):
            raise OvertoneError(
                f"{where} its {stored.name} is of {stored.dtype}: statistics are of float64 or"
                " float32."
            )
    dims = first.shape[0] if len(first.shape) == 1 else 0
    if not 0 < dims <= MOST_FEATURES:
        raise OvertoneError(
            f"{where} its {mean} has the shape {first.shape}: a mean is of 1 to {MOST_FEATURES:,}"
            " features."
        )
    if second.shape != (dims, dims):
        raise OvertoneError(
            f"{where} its {covariance} has the shape {second.shape}, and {mean} is of {dims:,}"
            f" features: their covariance is ({dims}, {dims})."
        )
    return _read(first), _read(second)


def _read(stored: StoredArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(stored.read(), np.float64))


def _origin(there: ArrayFile) -> Origin:
    """What a file of ours says of itself."""
    stored, where = there.array(TOLD), f"{there.file}: {TOLD}"
    if stored.dtype != np.uint8 or len(stored.shape) != 1 or stored.nbytes > LARGEST_TOLD:
        raise OvertoneError(
            f"{where} is of {stored.dtype} with the shape {stored.shape}: it is JSON as bytes of"
            f" uint8, {LARGEST_TOLD:,} of them at most."
        )
    try:
        told = json.loads(stored.read().tobytes())
    except (ValueError, RecursionError):
        raise OvertoneError(f"{where} is not JSON: write the file again.") from None
    return settings.load(Origin, told, where)


def _check_moments(moments: Moments, first: str, second: str) -> None:
    mean, covariance = moments
    if mean.dim() != 1 or covariance.shape != (*mean.shape, *mean.shape):
        raise ValueError(
            f"a {first} of the shape {tuple(mean.shape)} has no {second} of the shape"
            f" {tuple(covariance.shape)}"
        )
    for name, values in ((first, mean), (second, covariance)):
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"its {name} holds numbers that are not finite")
    variances = covariance.diagonal()
    slack = ROUNDING * float(variances.abs().max())
    if float(variances.min()) < -slack:
        raise ValueError(f"its {second} has a variance of {float(variances.min()):.3g}, below 0")
    deviations = variances.clamp(min=0).sqrt()
    for at in range(0, len(mean), ROWS):
        rows, columns = covariance[at : at + ROWS], covariance[:, at : at + ROWS].T
        if float((rows - columns).abs().max()) > slack:
            raise ValueError(f"its {second} is not symmetric")
        bound = deviations[at : at + ROWS, None] * deviations
        if bool((rows.abs() > bound + slack).any()):
            raise ValueError(f"its {second} has correlations above 1")
