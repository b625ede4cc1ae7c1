"""`overtone bench`: what it counts, what it compares, and what it does without a peer."""

import json
import sys
from itertools import count

import pytest
import torch
from torch import nn

from overtone.bench import compare, peers, turns
from overtone.bench.cases import CASES
from overtone.bench.compare import Asked, networks
from overtone.bench.operators import operators
from overtone.bench.peers import PEERS, chosen, installed
from overtone.bench.report import Report
from overtone.bench.samplers import samplers
from overtone.bench.subjects import Family, Subject, nearest, size_of
from overtone.bench.turns import Turns, in_turns
from overtone.cli import bench
from overtone.cli.app import main
from overtone.errors import OvertoneError

FACTS = {
    "machine": "A Machine (of some kind)", "capability": "AVX2", "threads": 2, "torch": "2",
    "precision": "fp32",
}  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on where a task says so, and nowhere else."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(turns.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_tasks_take_turns_and_the_first_run_of_each_is_left_out(clock):
    ran = []

    def task(name, first, then):
        times = count()

        def run():
            ran.append(name)
            clock.now += then if next(times) else first

        return run

    found = in_turns({"a": task("a", 100, 1), "b": task("b", 100, 3)}, seconds=12)
    assert found.seconds == {"a": [1] * 4, "b": [3] * 4}  # 12 seconds on the slowest
    assert "".join(ran) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert found.ratio("a", "b") == (3, 3, 3)
    assert found.median("b") == 3


def test_there_are_three_rounds_whatever_they_take(clock):
    def slow():
        clock.now += 50

    assert len(in_turns({"slow": slow}, seconds=1).seconds["slow"]) == turns.LEAST


def test_ratios_are_of_the_rounds_and_not_of_the_medians():
    """Both are three times as slow in the third round: a ratio of medians would not see pairs."""
    found = Turns({"a": [1, 1, 3, 3], "b": [2, 2, 6, 6]})
    assert found.ratio("a", "b") == (2, 2, 2)
    middle, low, high = Turns({"a": [1, 1, 1, 1], "b": [1, 2, 3, 4]}).ratio("a", "b")
    assert (low, middle, high) == (1.25, 2.5, 3.75)


CONV = Family(
    lambda width: nn.Conv2d(3, width, 3, padding=1), range(8, 257, 8), lambda net, x, _: net(x)
)


def test_sizes_are_those_of_the_closed_form():
    assert size_of(CONV, 16, (3, 10, 12), "parameters") == 16 * (27 + 1)
    assert size_of(CONV, 16, (3, 10, 12), "multiply-adds") == 16 * 27 * 120


@pytest.mark.parametrize(("size", "width"), [(0, 8), (28 * 99, 96), (28 * 101, 104), (10**6, 256)])
def test_the_width_that_comes_nearest_is_found(size, width):
    assert nearest(CONV, (3, 8, 8), "parameters", size) == width


def test_every_case_and_peer_has_its_name_on_the_command_line():
    assert tuple(CASES) == bench.CASES
    assert tuple(PEERS) == bench.PEERS


def test_results_are_kept_case_by_case_and_replaced_when_measured_again(tmp_path):
    report = Report(tmp_path, FACTS, {"fp32 product": 2e11})
    assert report.file.name == "bench-a-machine-of-some-kind-avx2.json"
    report.add({"case": "one", "share": 0.5})
    report.add({"case": "two", "over": {"diffusers": {"ratio": 2.0, "quartiles": [1.9, 2.1]}}})
    report = Report(tmp_path, FACTS | {"threads": 4}, {"fp32 product": 3e11})
    report.add({"case": "one", "share": 0.75})
    first, second = json.loads(report.file.read_text())["cases"]
    assert (first["share"], first["machine"]["threads"]) == (0.75, 4)
    assert (second["case"], second["machine"]["threads"]) == ("two", 2)
    table = report.file.with_suffix(".md").read_text()
    assert "| one | share: 0.75 |\n" in table
    assert "| two | over: diffusers **2.00** (1.90 to 2.10) |\n" in table
    assert "fp32 product 300 GFLOP/s" in table


def families(**more):
    def of(width):
        return nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 1)

    own = Family(lambda width: nn.Sequential(*of(width)), range(8, 65, 8), lambda net, x, _: net(x))
    return {"pair": ((3, 8, 8), 16, {compare.OWN: own, "same": own, **more})}


def test_a_peer_that_fails_is_told_and_the_others_are_measured(monkeypatch):
    def broken(width):
        raise ImportError("No module named 'torchvision'")

    monkeypatch.setattr(compare, "FAMILIES", families(broken=Family(broken, range(8, 65, 8))))
    lines = list(networks("pair", "parameters", Asked(("same", "broken", "other"), (2, 1), 0.001)))
    assert [line["case"] for line in lines] == [
        f"pair {mode}, equal parameters, batch {batch}"
        for batch in (1, 2)
        for mode in ("sampling", "training")
    ]
    for line in lines:
        assert set(line["over"]) == {"same", f"same, {compare.README}"}
        assert "torchvision" in line["failed"]["broken"]
        assert line["over"]["same"]["size"] == 1
        assert all(rate > 0 for rate in line["per_second"].values())


def test_a_batch_that_does_not_fit_is_left_out_and_the_rest_goes_on(monkeypatch):
    def training(self, x, time):
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(compare, "FAMILIES", families())
    monkeypatch.setattr(Subject, "training", training)
    lines = list(networks("pair", "multiply-adds", Asked((), (1, 2), 0.001)))
    skipped = [line["case"] for line in lines if "skipped" in line]
    assert skipped == ["pair training, equal multiply-adds, batch 2"]
    assert sum("per_second" in line for line in lines) == 3


def test_a_peer_that_cannot_be_installed_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv("OVERTONE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    (_, error), (peer, folder) = installed(chosen(["azula", "diffusers"]))
    assert isinstance(error, OvertoneError)
    assert str(error).startswith("azula can't be installed: ")
    assert (peer.name, folder) == ("diffusers", None)
    assert not list(tmp_path.rglob("*azula*"))


def test_the_command_goes_on_without_it(monkeypatch, tmp_path, capsys):
    def refused(peer, folder):
        raise OvertoneError(f"{peer.name} can't be installed: no connection.")

    monkeypatch.setenv("OVERTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(peers, "_install", refused)
    out = tmp_path / "out"
    main(["bench", "--cases", "samplers", "--peers", "k-diffusion", "diffusers", "--seconds",
          "0.05", "--out", str(out)])  # fmt: skip
    said = capsys.readouterr().err
    assert "k-diffusion can't be installed: no connection. It is left out.\n" in said
    (file,) = out.glob("*.json")
    cases = json.loads(file.read_text())["cases"]
    assert len(cases) == 3
    for case in cases:
        assert set(case["over"]) == {"diffusers"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cases", "unett"], "unett"),
        (["--peers", "difusers"], "difusers"),
        (["--batches", "0"], "1"),
        (["--seconds", "-1"], "0"),
    ],
)
def test_what_it_does_not_know_is_refused_before_anything_runs(arguments, said, capsys, tmp_path):
    with pytest.raises(SystemExit) as refused:
        main(["bench", *arguments, "--out", str(tmp_path / "out")])
    assert refused.value.code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; print('x' * 10**6, file=sys.stderr); raise ValueError('no')", "no"),
        ("import os; os.kill(os.getpid(), 9)", "memory is too small"),
        ("import sys; sys.exit(3)", "status 3"),
    ],
)
def test_a_case_that_fails_is_told_in_one_line(code, reason):
    code = 'print(\'{"case": "one"}\', flush=True); ' + code
    first, last = bench._lines([sys.executable, "-c", code], {}, "some")
    assert first == {"case": "one"}
    assert last["case"] == "some"
    assert reason in last["failed"]
    assert len(last["failed"]) < 200


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
def test_operators_and_samplers_agree_with_their_formulas():
    """Each case compares the two before it measures, and raises where they differ."""
    found = list(operators(Asked(seconds=0.05)))
    assert len(found) == 11
    assert max(line["difference"] for line in found) < 1e-4
    for line in samplers(Asked(("diffusers",), seconds=0.05)):
        assert set(line["over"]) == {"diffusers"}
