"""Statistics of references as others publish them: read as they read them, written, refused."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import scipy.linalg
import torch

from overtone.errors import OvertoneError
from overtone.metrics import Reference, load_reference, save_reference
from overtone.metrics.frechet import distances, frechet_distance
from overtone.metrics.parts import SPATIAL, VECTORS
from overtone.metrics.reference import is_reference
from overtone.metrics.sample import held

DIMS, SPATIAL_DIMS = 6, 9


def features(count=200, dims=DIMS, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dims)) @ rng.normal(size=(dims, dims)) + rng.normal(size=dims)


def moments(vectors):
    """As EDM's `calculate_inception_stats` and ADM's `compute_statistics` define them."""
    mean = vectors.sum(0) / len(vectors)
    outer = vectors.T @ vectors - np.outer(mean, mean) * len(vectors)
    return mean, outer / (len(vectors) - 1)


MU, SIGMA = moments(features())
MU_S, SIGMA_S = moments(features(dims=SPATIAL_DIMS, seed=1))
GOOD = {"mu": MU, "sigma": SIGMA}
BOTH = GOOD | {"mu_s": MU_S, "sigma_s": SIGMA_S}


def their_distance(mu, sigma, mu_ref, sigma_ref):
    """Fréchet's distance as EDM's `fid.py` and ADM's evaluator compute it, by a matrix's root."""
    root = scipy.linalg.sqrtm(sigma @ sigma_ref)
    return np.real(np.square(mu - mu_ref).sum() + np.trace(sigma + sigma_ref - 2 * root))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f8"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_edms_statistics_are_read_as_they_are(tmp_path, dtype, save, order):
    arrays = {name: np.asarray(value, dtype, order=order) for name, value in GOOD.items()}
    save(tmp_path / "a.npz", **arrays)
    reference = load_reference(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as there:  # what EDM's does with it
        assert np.array_equal(reference.mean.numpy(), there["mu"].astype(np.float64))
        assert np.array_equal(reference.covariance.numpy(), there["sigma"].astype(np.float64))
    assert reference.mean.dtype == reference.covariance.dtype == torch.float64
    assert reference.spatial_mean is None
    assert (reference.count, reference.extractor) == (None, "")


@pytest.mark.parametrize("images", [True, False])
def test_adms_references_are_read_with_their_spatial_statistics(tmp_path, images):
    """The images beside them are no account of how many the statistics are of."""
    more = {"arr_0": np.zeros((7, 4, 4, 3), np.uint8), "arr_1": np.zeros(7, int)}
    np.savez(tmp_path / "a.npz", **BOTH, **(more if images else {}))
    reference = load_reference(str(tmp_path / "a.npz"))
    assert np.array_equal(reference.spatial_mean.numpy(), MU_S)
    assert np.array_equal(reference.spatial_covariance.numpy(), SIGMA_S)
    assert reference.parts == (VECTORS, SPATIAL)
    assert reference.count is None
    assert is_reference(tmp_path / "a.npz")


@pytest.mark.parametrize("part", [VECTORS, SPATIAL])
def test_distances_are_those_of_their_programs(tmp_path, part):
    np.savez(tmp_path / "a.npz", **BOTH)
    mu, sigma = (MU, SIGMA) if part == VECTORS else (MU_S, SIGMA_S)
    made = features(150, len(mu), seed=2)
    sample = held(torch.from_numpy(made), part, replicates=10)
    own = distances(load_reference(tmp_path / "a.npz"), sample, part)
    inside = sample.halves.block(0, 150)
    for column, distance in enumerate(own.tolist()):
        some = made[inside[:, column].numpy() > 0]
        assert distance == pytest.approx(their_distance(*moments(some), mu, sigma), rel=1e-8)


def test_distances_to_the_features_and_to_their_statistics_are_one(tmp_path):
    real, made = torch.from_numpy(features()), torch.from_numpy(features(seed=3))
    whole = held(real).whole(VECTORS)
    save_reference(tmp_path / "a.npz", Reference(whole.mean[0], whole.covariance[0]))
    own = distances(load_reference(tmp_path / "a.npz"), held(made))
    assert float(own) == pytest.approx(frechet_distance(real, made), rel=1e-12)
    assert float(distances(load_reference(tmp_path / "a.npz"), held(real))) == 0


FACTS = {
    "count": 200,
    "extractor": "classifier at 28 px",
    "digest": "0123456789abcdef",
    "real": "fashion-mnist",
    "real_digest": "fedcba9876543210",
    "resize_rule": "Lanczos, of the middle square",
}


def reference(spatial=True, **facts):
    both = (MU, SIGMA, *((MU_S, SIGMA_S) if spatial else (None, None)))
    return Reference(*(x if x is None else torch.from_numpy(x) for x in both), **facts)


@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.parametrize("facts", [FACTS, {}])
def test_what_is_saved_says_where_it_comes_from_and_numpy_reads_it(tmp_path, spatial, facts):
    save_reference(tmp_path / "a.npz", reference(spatial, **facts))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as there:
        names = ["mu", "sigma", *(["mu_s", "sigma_s"] if spatial else []), "overtone"]
        assert there.files == names
        for name in names[:-1]:
            assert there[name].dtype == np.float64
            assert np.array_equal(there[name], BOTH[name])
        told = json.loads(there["overtone"].tobytes())
    empty = dict.fromkeys(FACTS, "") | {"count": None}
    assert told == empty | facts
    again = load_reference(tmp_path / "a.npz")
    assert {name: getattr(again, name) for name in FACTS} == empty | facts
    assert again.covariance.equal(torch.from_numpy(SIGMA))
    before = (tmp_path / "a.npz").read_bytes()
    save_reference(tmp_path / "a.npz", again)
    assert (tmp_path / "a.npz").read_bytes() == before


def test_no_path_of_a_machine_is_saved(tmp_path):
    own = reference(real=str(tmp_path / "secret" / "cats"), count=np.int64(3))
    save_reference(tmp_path / "a.npz", own)
    assert b"secret" not in (tmp_path / "a.npz").read_bytes()
    assert load_reference(tmp_path / "a.npz").real == "cats"
    assert load_reference(tmp_path / "a.npz").count == 3


def test_what_can_not_be_written_leaves_what_was_there(tmp_path):
    save_reference(tmp_path / "a.npz", reference())
    before = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(OvertoneError, match=r"into an \.npz file"):
        save_reference(tmp_path / "a.npy", reference())
    with pytest.raises(OvertoneError, match="could not write"):
        save_reference(tmp_path / "a.npz" / "b.npz", reference())
    assert (tmp_path / "a.npz").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.npz"]


def test_columns_are_all_the_same_and_missing_parts_are_named():
    own = reference(spatial=False)
    some = own.pairs(VECTORS, slice(4, 7))
    assert some.mean.shape == (6, DIMS)
    assert some.covariance.shape == (6, DIMS, DIMS)
    assert all(own.covariance.equal(each) for each in some.covariance)
    with pytest.raises(OvertoneError, match="the reference has no statistics of spatial"):
        own.whole(SPATIAL)


def test_another_extractors_statistics_are_refused_and_unnamed_ones_compared_by_size(tmp_path):
    np.savez(tmp_path / "a.npz", **BOTH)
    published = load_reference(tmp_path / "a.npz")
    published.check_extractor("Inception", DIMS, SPATIAL_DIMS, "any")
    published.check_extractor("Inception", DIMS, None)  # which gives no spatial features
    with pytest.raises(OvertoneError, match=r"a\.npz has 6 features, and the classifier has 64: "):
        published.check_extractor("the classifier", 64)
    with pytest.raises(OvertoneError, match="has 9 spatial features, and X has 8"):
        published.check_extractor("X", DIMS, 8)
    own = reference(**FACTS)
    own.check_extractor(FACTS["extractor"], DIMS, SPATIAL_DIMS, FACTS["digest"])
    own.check_extractor(FACTS["extractor"], DIMS)
    with pytest.raises(OvertoneError, match="was made with classifier at 28 px, and this is Y"):
        own.check_extractor("Y", DIMS)
    with pytest.raises(OvertoneError, match="the weights 0123456789abcdef, and these are 01: com"):
        own.check_extractor(FACTS["extractor"], DIMS, SPATIAL_DIMS, "01")


def test_what_is_a_reference(tmp_path):
    np.savez(tmp_path / "mu.npz", mu=MU)
    np.savez(tmp_path / "a.npz", **GOOD)
    np.savez(tmp_path / "images.npz", np.zeros((2, 4, 4, 3), np.uint8))
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "b.zip").write_bytes((tmp_path / "a.npz").read_bytes())
    os.mkfifo(tmp_path / "pipe.npz")
    found = [name for name in sorted(os.listdir(tmp_path)) if is_reference(tmp_path / name)]
    assert found == ["a.npz"]
    assert not is_reference(tmp_path)
    assert not is_reference(tmp_path / "gone.npz")


# What is refused.


def saved(save=np.savez, **arrays):
    out = io.BytesIO()
    save(out, **arrays)
    return out.getvalue()


def with_told(told):
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    return saved(**GOOD, overtone=np.frombuffer(text, np.uint8))


def changed(where=(0, 0), value=0.0, name="sigma"):
    arrays = {key: np.array(array) for key, array in BOTH.items()}
    arrays[name][where] = value
    return saved(**arrays)


def headed(shape, content=b"", compression=zipfile.ZIP_STORED):
    """mu as it is, and a sigma whose header says what it likes."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        mean = io.BytesIO()
        np.save(mean, np.zeros(8192))
        archive.writestr("mu.npy", mean.getvalue())
        head = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text
        archive.writestr("sigma.npy", head + content)
    return out.getvalue()


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


OBJECTS = np.empty(DIMS, object)
OBJECTS[:] = [Evil()] * DIMS
WIDE = np.zeros(8193)
REFUSED = {
    "empty": (lambda: b"", "cut short, or no such file"),
    "text": (lambda: b"text" * 99, "cut short, or no such file"),
    "a pickle": (lambda: pickle.dumps(GOOD), "it is a pickle"),
    "cut short": (lambda: saved(**GOOD)[:-40], "cut short"),
    "cut in front": (lambda: saved(**GOOD)[100:], "can't be read"),
    "images alone": (lambda: saved(arr_0=np.zeros((2, 4, 4, 3))), r"holds arr_0, and no mu\. "),
    "no sigma": (lambda: saved(mu=MU), "it holds mu, and no sigma"),
    "no mu": (lambda: saved(sigma=SIGMA), "it holds sigma, and no mu"),
    "mu_s alone": (lambda: saved(**GOOD, mu_s=MU_S), "it holds mu_s, and no sigma_s"),
    "sigma_s alone": (lambda: saved(**GOOD, sigma_s=SIGMA_S), "it holds sigma_s, and no mu_s"),
    "objects": (lambda: saved(mu=OBJECTS, sigma=SIGMA), "mu is of Python's objects"),
    "objects of ours": (lambda: saved(**GOOD, overtone=OBJECTS), "overtone is of Python's objects"),
    "whole numbers": (lambda: saved(mu=MU.astype(int), sigma=SIGMA), "its mu is of int64"),
    "half precision": (lambda: saved(mu=MU, sigma=SIGMA.astype("f2")), "its sigma is of float16"),
    "complex": (lambda: saved(mu=MU, sigma=SIGMA + 0j), "its sigma is of complex128"),
    "a scalar": (lambda: saved(mu=np.float64(1), sigma=SIGMA), r"its mu has the shape \(\)"),
    "a matrix": (lambda: saved(mu=MU[None], sigma=SIGMA), r"its mu has the shape \(1, 6\)"),
    "no features": (lambda: saved(mu=MU[:0], sigma=SIGMA[:0, :0]), r"its mu has the shape \(0,\)"),
    "too many": (lambda: saved(mu=WIDE, sigma=np.zeros((2, 2))), "a mean is of 1 to 8,192 feat"),
    "other sizes": (lambda: saved(mu=MU[:5], sigma=SIGMA), r"their covariance is \(5, 5\)"),
    "variances alone": (lambda: saved(mu=MU, sigma=SIGMA[0]), r"sigma has the shape \(6,\)"),
    "other sizes in space": (lambda: saved(**GOOD, mu_s=MU, sigma_s=SIGMA_S), "sigma_s has the sh"),
    "swapped": (lambda: saved(mu=SIGMA, sigma=MU), r"its mu has the shape \(6, 6\)"),
    "nan in mu": (lambda: changed(0, np.nan, "mu"), "its mean holds numbers that are not finite"),
    "inf in sigma": (lambda: changed(value=np.inf), "its covariance holds numbers that are not"),
    "nan in space": (lambda: changed(value=np.nan, name="sigma_s"), "its spatial covariance holds"),
    "not symmetric": (lambda: changed((0, 1), 0.5 + SIGMA[0, 1]), "covariance is not symmetric"),
    "a negative variance": (lambda: changed(value=-SIGMA[0, 0]), "has a variance of -"),
    "a factor, no covariance": (
        lambda: saved(mu=MU, sigma=np.ones((6, 6)) - np.eye(6)),
        "correlations above 1",
    ),
    "promises more": (
        lambda: headed("(8192, 8192)", bytes(800)),
        "says that it is .* 536,870,912 bytes, and 800 are there",
    ),
    "a bomb": (
        lambda: headed("(4096, 4096)", bytes(2**27), zipfile.ZIP_DEFLATED),
        "would become 134,2",
    ),
    "a header of its own": (lambda: headed("(" * 5000), "header of its array sigma can't be read"),
    "a damaged number": (
        lambda: saved(**GOOD).replace(SIGMA[2].tobytes(), SIGMA[3].tobytes()),
        "Bad CRC-32",
    ),
    "told: no bytes": (lambda: saved(**GOOD, overtone=np.array("x")), "overtone is of <U1"),
    "told: too long": (lambda: with_told(b" " * 2**15), "16,384 of them at most"),
    "told: no JSON": (lambda: with_told(b"{"), "overtone is not JSON"),
    "told: no text": (lambda: with_told(b"\xff\xfe\xff"), "overtone is not JSON"),
    "told: brackets": (lambda: with_told(b"[" * 16000), "overtone is not JSON"),
    "told: a list": (lambda: with_told([1]), "overtone"),
    "told: another key": (lambda: with_told({"executable": "x"}), "executable"),
    "told: a count below 1": (lambda: with_told({"count": -1}), "count must be at least 1"),
    "told: a count of words": (lambda: with_told({"count": "ten"}), "count"),
    "told: a name of lines": (lambda: with_told({"real": "a\x1b[2Jb"}), "its real is not a name"),
    "told: a long name": (lambda: with_told({"digest": "a" * 999}), "its digest is not a name"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_so_in_one_line_and_soon(tmp_path, monkeypatch, name):
    make, message = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npz").write_bytes(make())
    start = time.perf_counter()
    with pytest.raises(OvertoneError, match=message) as caught:
        load_reference("a.npz")
    assert time.perf_counter() - start < 2
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith("a.npz")
    assert os.listdir(tmp_path) == ["a.npz"]


def test_what_is_not_there_is_named(tmp_path):
    for name in ("gone.npz", "."):
        with pytest.raises(OvertoneError, match="can't be read"):
            load_reference(tmp_path / name)


@pytest.mark.parametrize("parts", [(MU, SIGMA[:5, :5]), (MU, SIGMA, MU_S), (SIGMA, SIGMA)])
def test_moments_that_do_not_go_together_are_no_reference(parts):
    with pytest.raises(ValueError, match=r"has no covariance|go together"):
        Reference(*map(torch.from_numpy, parts))


READ = """
import resource, sys
from overtone.metrics import load_reference
from overtone.errors import OvertoneError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_reference(sys.argv[1])
except OvertoneError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_no_memory_is_taken_for_what_is_not_there(tmp_path):
    """A covariance of half a gigabyte, packed into one of half a megabyte."""
    (tmp_path / "a.npz").write_bytes(headed("(8192, 8192)", bytes(2**29), zipfile.ZIP_DEFLATED))
    command = [sys.executable, "-c", READ, str(tmp_path / "a.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # kB
