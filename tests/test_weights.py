"""Weights as people have them: in half precision, under prefixes, as pickles beside safetensors."""

import json

import pytest
import torch
from safetensors.torch import save_file

from helpers import Golden, deviation
from overtone.cli.app import main
from overtone.convert.diffit import latent_transformer
from overtone.convert.weights import read_weights, without_prefixes
from overtone.errors import OvertoneError
from overtone.pipelines import load_pipeline


@pytest.fixture(scope="module")
def state():
    return Golden("diffit_latent").state


def check_converts(file, tmp_path, state, capsys, tolerance=1e-6):
    """The published file converts, and computes what the published weights do. Returns what was
    said."""
    main(["convert", "diffit-latent", str(file), str(tmp_path / "out")])
    network = load_pipeline(tmp_path / "out").network
    x, time = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(2)
    reference = latent_transformer(state).network
    config = reference.config
    x = torch.randn(2, config.channels, config.resolution, config.resolution)
    labels = torch.zeros(2, dtype=torch.int64) if config.num_classes else None
    with torch.no_grad():
        assert deviation(network(x, time, labels), reference(x, time, labels)) < tolerance
    assert next(network.parameters()).dtype == torch.float32
    certificate = json.loads((tmp_path / "out/certificate.json").read_text())
    assert certificate["file"] == file.name
    return capsys.readouterr().err


def in_type(state, kind):
    return {name: t.to(kind) if t.is_floating_point() else t for name, t in state.items()}


@pytest.mark.parametrize(
    ("kind", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float64, 1e-6)]
)
def test_half_precision(state, tmp_path, capsys, kind, tolerance):
    save_file(in_type(state, kind), tmp_path / "half.safetensors")
    said = check_converts(tmp_path / "half.safetensors", tmp_path, state, capsys, tolerance)
    half = kind.itemsize == 2
    assert ("are kept as float32" in said) == half


PREFIXES = ["module.", "_orig_mod.", "model.", "ema.", "module._orig_mod.", "ema_model.module."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_trainers_are_left_off_and_said(state, tmp_path, capsys, prefix):
    save_file({prefix + name: t for name, t in state.items()}, tmp_path / "a.safetensors")
    said = check_converts(tmp_path / "a.safetensors", tmp_path, state, capsys)
    for part in prefix.removesuffix(".").split("."):
        assert f"'{part}.' is left off the names of tensors" in said


@pytest.mark.parametrize("former", [False, True])
@pytest.mark.parametrize(
    "place", [(), ("ema",), ("state_dict",), ("model",), ("model", "state_dict"), ("module",)]
)
def test_what_torch_saved_is_read_by_the_safe_reader(state, tmp_path, capsys, place, former):
    content = dict(state)
    for name in reversed(place):
        content = (
            {name: content, "step": 3, "lr": 0.1}
            if name != "module"
            else {f"module.{key}": tensor for key, tensor in content.items()}
        )
    file = tmp_path / "checkpoint.pt"
    torch.save(content, file, _use_new_zipfile_serialization=not former)
    said = check_converts(file, tmp_path, state, capsys)
    for name in place:
        assert f"'{name}" in said


def test_the_averaged_weights_are_taken(state, tmp_path, capsys):
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    both = {f"model.{n}": t for n, t in other.items()} | {f"ema.{n}": t for n, t in state.items()}
    save_file(both | {"ema.decay": torch.tensor(0.99)}, tmp_path / "both.safetensors")
    said = check_converts(tmp_path / "both.safetensors", tmp_path, state, capsys)
    assert "the averaged weights are taken, and" in said
    assert "left out, as no weights: ema.decay" in said
    torch.save({"model": other, "ema": state}, tmp_path / "both.pt")
    assert "taken from 'ema'" in check_converts(tmp_path / "both.pt", tmp_path, state, capsys)


def test_counters_of_averages_are_left_out():
    notes = []
    given = {"n_averaged": torch.tensor(3), "module.a": torch.ones(2), "module.b": torch.ones(1)}
    assert list(without_prefixes(given, notes)) == ["a", "b"]
    assert notes == [
        "left out, as no weights: n_averaged",
        "'module.' is left off the names of tensors",
    ]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_that_are_no_numbers_are_refused(state, tmp_path, wrong, suffix):
    broken = {name: tensor.clone() for name, tensor in state.items()}
    broken["x_embedder.proj.bias"][1] = wrong
    file = tmp_path / f"broken{suffix}"
    save_file(broken, file) if suffix == ".safetensors" else torch.save(broken, file)
    with pytest.raises(OvertoneError, match=r"x_embedder\.proj\.bias' holds NaN or infinity"):
        read_weights(file)


WRONG = {
    "nothing": (b"", "was cut short|no checkpoint"),
    "a web page": (b"<!DOCTYPE html><html></html>", "it is a web page: download the file itself"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(50), "it is an image"),
    "a packed file": (b"\x1f\x8b\x08" + bytes(50), "it is packed by gzip: unpack it"),
    "a file of llama.cpp's": (b"GGUF" + bytes(50), "of the format GGUF, which is not read"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_named_as_such(tmp_path, name, suffix):
    content, message = WRONG[name]
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(OvertoneError, match=message) as refused:
        read_weights(file)
    assert str(file) in str(refused.value)


def test_a_pickle_called_safetensors_is_named(tmp_path, state):
    torch.save(state, tmp_path / "weights.safetensors")
    with pytest.raises(OvertoneError, match=r"holds no safetensors: it is a zip, as torch\.save"):
        read_weights(tmp_path / "weights.safetensors")


def test_weights_of_another_kind_are_named(tmp_path):
    save_file(Golden("adm_edm_precond").state, tmp_path / "adm.safetensors")
    with pytest.raises(OvertoneError, match="are not the weights of a latent DiffiT"):
        latent_transformer(read_weights(tmp_path / "adm.safetensors").state)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(OvertoneError, match="holds no weights: neither tensors by name"):
        read_weights(tmp_path / "list.pt")
