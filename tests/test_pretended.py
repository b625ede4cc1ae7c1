"""On a GPU the library runs, agrees with the CPU, and does not wait: checked without one.

The device is pretended (`pretended.py`), the cases are in `pretended_cases.py`. What the pretence
changes in torch it changes for a whole process, so that they run in processes of their own.
"""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pretended_cases import ALLOWED, GROUPS, kinds_without_a_case

CASES = Path(__file__).parent / "pretended_cases.py"
QUICK = ("processes", "samplers")
MISTAKES = {
    "a tensor of the host beside one of the device": "MixedDevicesError: add of (4,) of the host",
    "numbers read in a loop": "waits in the second call, 4 times",
    "a copy from memory that is not pinned": "waits in the second call, 1 times",
    "a copy from pinned memory, which is right": "",
    "a mask as an index": "reads how many places a mask has",
    "a large tensor of float64": "float64 on the device",
    "a wrong result": "differs from the CPU's by 0.01 of its largest value",
}


@functools.cache
def reports(*options):
    """What the cases of a group say, each its own dictionary."""
    command = [sys.executable, str(CASES), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_none_fails(*options):
    lines = reports(*options)
    assert lines
    failed = [f"{d['case']}: {'; '.join(d['failures'])}" for d in lines if d["failures"]]
    assert not failed, "\n".join(failed)


BY_GROUP = pytest.mark.parametrize(
    "group",
    [
        pytest.param(group, marks=() if group in QUICK else pytest.mark.slow)
        for group in GROUPS
        if group != "mistakes"
    ],
)


@pytest.mark.slow
@BY_GROUP
def test_on_cuda_everything_runs_as_on_the_cpu_and_nothing_waits_that_need_not(group):
    assert_none_fails("--device", "cuda", "--group", group)


@pytest.mark.slow
@BY_GROUP
def test_on_apples_gpu_everything_runs_without_float64(group):
    assert_none_fails("--device", "mps", "--group", group)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers' own use of numpy
def test_every_built_in_kind_has_a_case():
    assert kinds_without_a_case() == []


@pytest.mark.slow
def test_what_is_wrong_is_found():
    """Mixed devices, waits, float64 and wrong results: each mistake, and nothing else, fails."""
    lines = {line["case"]: line for line in reports("--device", "cuda", "--group", "mistakes")}
    assert lines.keys() == MISTAKES.keys()
    for name, said in MISTAKES.items():
        failures = "; ".join(lines[name]["failures"])
        assert said in failures if said else not failures, name
    assert lines["a copy from pinned memory, which is right"]["sent"]
    apple = {line["case"]: line for line in reports("--device", "mps", "--group", "mistakes")}
    assert apple.keys() == MISTAKES.keys()
    assert "MPS has no float64" in apple["a large tensor of float64"]["failures"][0]


@pytest.mark.slow
def test_every_wait_that_is_allowed_happens():
    """Else the list would let it come back unseen."""
    lines = [line for group in GROUPS for line in reports("--device", "cuda", "--group", group)]
    seen = {wait for line in lines for wait in line.get("waits", ())}
    assert [allowed.wait for allowed in ALLOWED if allowed.wait not in seen] == []
