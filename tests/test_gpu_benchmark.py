"""The benchmark of a GPU runs where there is none, so that it works when there is one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
sys.path.insert(0, str(SCRIPT.parent))


@pytest.mark.slow
def test_every_case_runs_and_is_right_on_small_networks(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--training-seconds", "5", "--out", str(tmp_path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout[-1500:], done.stderr[-1500:])
    assert "no GPU is used" in done.stderr
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text())
    cases = found["cases"]
    assert found["machine"]["device"] == "cpu"
    groups = {case["group"] for case in cases}
    assert groups == {"correctness", "speed", "training"}
    assert not [case for case in cases if case.get("ok") is False or "failed" in case]
    right = [case for case in cases if case["group"] == "correctness" and case.get("ok")]
    assert len(right) > 40
    assert cases[-1]["images"] > 0
    table = file.with_suffix(".md").read_text()
    assert table.count("\n") == len(cases) + 4
    assert (tmp_path / cases[-1]["weights"] / "pipeline.json").exists()


def test_a_case_that_fails_or_lacks_memory_is_said_and_the_rest_goes_on(tmp_path, capsys):
    import gpu
    import torch

    def broken():
        raise ValueError("a wrong kernel")

    def hungry():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")

    results = gpu.Results(tmp_path, {"machine": "A Card (80 GB)", "torch": "2.13"})
    cases = iter([("one", broken), ("two", hungry), ("three", lambda: {"ok": True})])
    gpu.through(results, "correctness", cases, gpu.Clock(60.0), 0.0)
    gpu.through(results, "speed", iter([("late", broken)]), gpu.Clock(60.0), 100.0)
    assert [case["case"] for case in results.lines] == ["one", "two", "three", "late"]
    assert results.lines[0]["failed"] == "ValueError: a wrong kernel"
    assert results.lines[1]["skipped"].startswith("the memory is too small: CUDA out of memory")
    assert results.lines[3]["skipped"] == "no time was left for it"
    assert results.wrong == ["one"]
    saved = json.loads((tmp_path / "a-card-80-gb.json").read_text())
    assert saved["cases"] == results.lines
    assert "ValueError: a wrong kernel" in capsys.readouterr().err


def test_the_time_is_kept_whatever_a_case_does():
    script = f"""
import sys, time
sys.path.insert(0, {str(SCRIPT.parent)!r})
import gpu
gpu.Clock(1.0).end_hard()
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    assert "the time is over" in done.stderr


@pytest.mark.parametrize("option", ["--seconds", "--training-seconds"])
@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf"])
def test_a_time_is_a_number_of_seconds(option, value, capsys, monkeypatch):
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py", f"{option}={value}"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert f"{option} must be above 0" in capsys.readouterr().err


def test_without_a_gpu_the_reason_is_said(capsys, monkeypatch):
    import warnings

    import gpu
    import torch

    def available():
        warnings.warn("The NVIDIA driver on your system is too old (found version 1)", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    assert gpu.device_here() == torch.device("cpu")
    said = capsys.readouterr().err
    assert "CUDA: The NVIDIA driver on your system is too old" in said
    assert "the cases run on the CPU" in said
