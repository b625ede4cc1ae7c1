"""What a run computes with: precision, algorithms, the compiler, loaders, and too little memory."""

import dataclasses
import subprocess
import sys
import types

import pytest
import torch
from safetensors.torch import load_file

from overtone import precision
from overtone.cli.app import main
from overtone.errors import OvertoneError, is_out_of_memory
from overtone.launch import Processes
from overtone.networks import network as networks
from overtone.networks.network import why_no_compiler
from overtone.runs import find_checkpoint
from overtone.training import computing
from overtone.training.computing import Computing
from overtone.training.configs.training import Training
from overtone.training.loop import Trainer
from overtone.training.rehearsal import rehearse
from runs import QUICK, changed, train, weights_of

BACKENDS = torch.backends.cuda.matmul, torch.backends.cudnn


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_tf32_is_used_beside_bf16_alone(monkeypatch):
    """fp32 is float32, though torch lets cuDNN round it; and all is as it was behind a context."""
    before = [backend.allow_tf32 for backend in BACKENDS]
    assert before == [False, True]  # torch's own choice, which fp32 must not follow
    for kind, expected in (("fp32", False), ("bf16", True)):
        with precision.autocast(kind, "cuda"):
            assert [backend.allow_tf32 for backend in BACKENDS] == [expected] * 2
            with precision.exact("cuda"):
                assert [backend.allow_tf32 for backend in BACKENDS] == [False] * 2
            assert [backend.allow_tf32 for backend in BACKENDS] == [expected] * 2
    with pytest.raises(KeyError), precision.autocast("bf16", "cuda"):
        raise KeyError
    assert [backend.allow_tf32 for backend in BACKENDS] == before


def test_float32_is_exact_within_bfloat16():
    x = torch.randn(16, 16)
    with precision.autocast("bf16", "cpu"):
        assert (x @ x).dtype == torch.bfloat16
        with precision.exact("cpu"):
            assert torch.equal(x @ x, torch.mm(x, x))
            assert (x @ x).dtype == torch.float32
        with precision.autocast("fp32", "cpu"):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


@pytest.mark.parametrize("fixed", [True, False])
def test_algorithms_are_fixed_if_that_is_asked_for(fixed, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.backends.cudnn.benchmark
    with Computing(Training(deterministic=fixed)).algorithms():
        assert torch.are_deterministic_algorithms_enabled() is fixed
        assert torch.backends.cudnn.benchmark is not fixed
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark == before
    torch.use_deterministic_algorithms(True)  # whoever asked for it outside keeps it
    try:
        with Computing(Training()).algorithms():
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.backends.cudnn.benchmark
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_fixed_algorithms_change_no_bit_on_a_cpu(tmp_path):
    train(QUICK, tmp_path / "plain")
    train(changed(QUICK, deterministic=True), tmp_path / "fixed")
    assert weights_of(tmp_path / "plain") == weights_of(tmp_path / "fixed")


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
])  # fmt: skip
def test_memory_that_is_too_small_is_told_with_what_helps(error, monkeypatch, tmp_path, capsys):
    assert is_out_of_memory(error)

    def step(*_):
        raise error

    monkeypatch.setattr(Trainer, "step", step)
    said = (
        r"memory is too small for training on 32 images at a time: --micro-batch 16 takes fewer at"
        r" a time and computes the same, --batch-size 16 takes smaller steps; --gradient-checkpoint"
    )
    with pytest.raises(OvertoneError, match=said):
        Trainer.of(QUICK, show=False).run(tmp_path / "run")
    with pytest.raises(OvertoneError, match=said):
        rehearse(Trainer.of(QUICK, show=False))
    with pytest.raises(OvertoneError, match="1 image at a time: train a smaller network"):
        Trainer.of(changed(QUICK, micro_batch=1), show=False).run(tmp_path / "other")
    # What is saved stays, and the run goes on in parts.
    monkeypatch.undo()
    Trainer.of(changed(QUICK, micro_batch=16), show=False).run(tmp_path / "run")


def test_other_errors_stay_what_they_are():
    assert not is_out_of_memory(RuntimeError("a wrong kernel"))
    with pytest.raises(RuntimeError, match="a wrong kernel"), Computing(Training()).within_memory():
        raise RuntimeError("a wrong kernel")


def test_a_command_says_that_memory_is_too_small(monkeypatch, capsys):
    def hungry(arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")

    monkeypatch.setitem(sys.modules, "overtone.cli.sample", types.SimpleNamespace(main=hungry))
    monkeypatch.setattr("importlib.import_module", lambda name: sys.modules[name])
    with pytest.raises(SystemExit):
        main(["sample", "model"])
    assert capsys.readouterr().err == (
        "overtone: memory is too small: a smaller --batch-size, where the command has one, needs"
        " less of it.\n"
    )


@pytest.fixture
def without_compiler(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler was found")

    why_no_compiler.cache_clear()
    monkeypatch.setattr(networks.torch, "compile", broken)
    yield
    why_no_compiler.cache_clear()


def test_asked_for_without_a_compiler_is_refused(without_compiler, tmp_path):
    with pytest.raises(OvertoneError, match=r"--compile: torch.compile does not work here .*no C"):
        Trainer.of(changed(QUICK, compile=True), show=False).run(tmp_path / "run")


def test_a_gpu_without_a_compiler_trains_eager_with_a_word(without_compiler, monkeypatch, capsys):
    asked = Computing(Training())
    asked.device = torch.device("cuda")
    assert not asked.compiled
    assert not asked.compiled
    said = capsys.readouterr().err
    assert said.startswith("training without torch.compile, which does not work here (")
    assert said.count("\n") == 1


def test_where_nothing_is_asked_for_a_gpu_compiles_and_a_cpu_does_not(monkeypatch):
    monkeypatch.setattr(computing, "why_no_compiler", lambda kind: "")
    for asked, on_cpu, on_gpu in ((None, False, True), (True, True, True), (False, False, False)):
        for kind, expected in (("cpu", on_cpu), ("cuda", on_gpu)):
            one = Computing(Training(compile=asked))
            one.device = torch.device(kind)
            assert one.compiled is expected, (asked, kind)


@pytest.mark.slow
def test_a_run_goes_on_compiled_and_back(tmp_path):
    """A run that is eager, then compiled, then eager again ends near the one that was eager: what
    differs is rounding."""
    if reason := why_no_compiler("cpu"):
        pytest.skip(reason)
    plain, mixed = tmp_path / "plain", tmp_path / "mixed"
    train(changed(QUICK, total_images=192), plain)
    for total, compiled in ((64, False), (128, True), (192, False)):
        train(changed(QUICK, total_images=total, compile=compiled), mixed)
    expected, found = (
        load_file(find_checkpoint(run) / "training/weights.safetensors") for run in (plain, mixed)
    )
    for name, value in found.items():
        assert torch.allclose(value, expected[name], atol=2e-3), name


@pytest.mark.parametrize(
    ("kind", "cores", "processes", "stored", "expected"),
    [
        ("cpu", 2, 1, True, 0),
        ("cpu", 2, 1, False, 0),
        ("cpu", 16, 1, True, 0),
        ("cpu", 16, 1, False, 4),
        ("cuda", 16, 1, True, 4),
        ("cuda", 16, 1, False, 12),
        ("cuda", 16, 8, True, 1),
        ("cuda", 1, 1, True, 0),
    ],
)
def test_loaders_are_chosen_from_the_machine(kind, cores, processes, stored, expected, monkeypatch):
    monkeypatch.setattr(computing.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(computing.sys, "platform", "linux")
    one = Computing(Training())
    one.device, one.processes = torch.device(kind), Processes(0, processes, 0, processes)
    data = types.SimpleNamespace(stored=stored)
    assert one.loaders(None, data) == expected
    assert one.loaders(3, data) == 3
    monkeypatch.setattr(computing.sys, "platform", "darwin")
    assert one.loaders(None, data) == 0


def test_a_switch_may_stand_alone_on_the_command_line():
    for words, expected in (
        ([], None),
        (["--compile"], True),
        (["--compile", "False"], False),
    ):
        code = (
            "from overtone.cli.options import parse; import dataclasses\n"
            "from overtone.training.configs.training import Training\n"
            f"print(parse(Training, 'train', '', {words}).compile)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == str(expected), done.stderr
    assert dataclasses.asdict(Training())["compile"] is None
