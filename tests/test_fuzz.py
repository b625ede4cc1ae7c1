"""Random damage to files from elsewhere ends in a value or in one line: `fuzz.py`, for a moment."""

from collections import Counter

import pytest

import fuzz


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return fuzz.Examples(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("target", fuzz.TARGETS, ids=lambda target: target.__name__)
def test_random_damage_ends_in_a_value_or_in_one_line(target, examples):
    counts, before = Counter(), fuzz.memory()
    fuzz.fuzz(target, examples, 60, 0, counts)
    assert counts["errors"] > 0 or target is fuzz.logs
    assert counts.total() >= 60
    assert fuzz.memory() - before < fuzz.BYTES
