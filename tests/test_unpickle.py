"""Checkpoints that are programs: read, never run."""

import copyreg
import dataclasses
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from helpers import Golden, deviation
from overtone.cli.app import main
from overtone.convert.unpickle import Record, RefusedError, read_checkpoint, state_of
from overtone.errors import OvertoneError
from overtone.pipelines import RelayPipeline, load_pipeline
from overtone.storage import read_json

SOURCE = "import os\nos.environ['OVERTONE_WAS_EXECUTED'] = '1'\nraise SystemExit('executed')\n"


@pytest.fixture
def published(monkeypatch):
    """Stand-ins for the modules whose names EDM's pickles carry; gone again before they are read.

    Returns a function that pickles an object as EDM's decorator does, its classes with their source
    code, through `dump(object, file)`.
    """
    persistence = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("executed")

    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj

    util = types.ModuleType("dnnlib.util")
    util.EasyDict = type("EasyDict", (dict,), {"__module__": util.__name__})
    package = types.ModuleType("torch_utils")
    package.persistence = persistence

    class Persistent(nn.Module):
        def __init__(self, kind, **state):
            super().__init__()
            self.kind = kind
            self.__dict__.update(state)

        def __reduce__(self):
            state = {k: v for k, v in self.__dict__.items() if k != "kind"}
            facts = {"type": "class", "version": 6, "module_src": SOURCE, "state": state}
            return _reconstruct_persistent_obj, (facts | {"class_name": self.kind},)

    def save(write, obj):
        modules = {"torch_utils": package, "torch_utils.persistence": persistence}
        modules |= {"dnnlib": types.ModuleType("dnnlib"), "dnnlib.util": util}
        with monkeypatch.context() as patch:
            for name, module in modules.items():
                patch.setitem(sys.modules, name, module)
            write(obj)

    return types.SimpleNamespace(Persistent=Persistent, EasyDict=util.EasyDict, save=save)


def network_like(published, golden):
    """An EDMPrecond as EDM's classes would have it, around the golden weights."""
    config = dict(golden.config)
    outer = {name: config[name] for name in ("img_resolution", "img_channels", "label_dim")}
    kind = config.pop("model_type")
    inner = {k: v for k, v in config.items() if k not in ("img_channels", "sigma_data")}
    net = published.Persistent(
        "EDMPrecond", _init_args=(), _init_kwargs=published.EasyDict(outer), sigma_data=0.5, **outer
    )
    inner |= {"init_weight": np.sqrt(1 / 3), "eff_attn": False}  # as theirs hold numpy's numbers
    inner |= {"in_channels": outer["img_channels"], "out_channels": outer["img_channels"]}
    net.model = published.Persistent(kind, _init_args=(), _init_kwargs=inner)
    for name, tensor in golden.state.items():
        module, *path = net, *name.split(".")
        for part in path[:-1]:
            if part not in module._modules:
                fresh = (
                    nn.ModuleDict() if part in ("enc", "dec") else published.Persistent("Conv2d")
                )
                module._modules[part] = fresh
            module = module._modules[part]
        if name.endswith("resample_filter"):
            module.register_buffer(path[-1], tensor)
        else:
            module.register_parameter(path[-1], nn.Parameter(tensor))
    return net


def written(published, path, content, how):
    def write(obj):
        if how == "pickle":
            path.write_bytes(pickle.dumps(obj))
        else:
            torch.save(obj, path, _use_new_zipfile_serialization=how == "zip")

    published.save(write, content)
    return path


@pytest.mark.parametrize("how", ["pickle", "zip", "former"])
@pytest.mark.parametrize("name", ["adm_edm_precond", "ddpmpp_edm_precond", "ncsnpp_edm_precond"])
def test_published_networks_out_of_their_pickles(published, tmp_path, name, how, monkeypatch):
    monkeypatch.delenv("OVERTONE_WAS_EXECUTED", raising=False)
    golden = Golden(name)
    content = {"ema": network_like(published, golden), "optimizer_state": {"step": 3}}
    file = written(published, tmp_path / "net.pkl", content, how)
    before = set(sys.modules)
    main(["convert", "edm", str(file), str(tmp_path / "out")])
    assert "OVERTONE_WAS_EXECUTED" not in os.environ
    assert not [m for m in set(sys.modules) - before if m.startswith(("torch_utils", "dnnlib"))]
    pipe = load_pipeline(tmp_path / "out")
    labels = None if name.startswith("ncsnpp") else golden["in.class_labels"]
    with torch.no_grad():
        estimate = pipe.denoiser(golden["in.sample"], golden["in.sigma"], labels).x_0
    assert deviation(estimate, golden["out.denoised"]) < 2e-6
    proof = read_json(tmp_path / "out" / "certificate.json", dict)
    assert proof["settings"]["model_type"] == golden.config["model_type"]
    assert proof["parameters"] == pipe.network.num_parameters


def test_both_stages_of_a_relay(published, tmp_path, capsys):
    first = Golden("adm_edm_precond")
    size = first.config["img_resolution"]
    content = {"ema": network_like(published, first), "step": 1}
    files = [
        written(published, tmp_path / name, content, how)
        for name, how in (("first.pkl", "pickle"), ("second.pt", "zip"))
    ]
    # Two stages of one size do not meet, which is told of.
    with pytest.raises(SystemExit):
        main(["convert", "rdm", *map(str, files), str(tmp_path / "out")])
    assert "the stages' sizes do not match" in capsys.readouterr().err
    from overtone.convert.edm import read_network, relay_pipeline

    one, two = map(read_network, files)
    with pytest.raises(OvertoneError, match=f"{4 * size} x {4 * size} px, and the second stage"):
        relay_pipeline(one, two)
    config = two.network.config  # a network of convolutions serves any size that it can halve
    two.network.config = dataclasses.replace(config, resolution=4 * config.resolution)
    pipe = relay_pipeline(one, two)
    assert isinstance(pipe, RelayPipeline)
    assert not pipe.process.normalised
    assert pipe.sampler.sigma_start < 0.9
    assert pipe.guidance.scale == 3.5
    assert pipe.first.sampler.S_churn == 40
    assert not pipe.first.denoiser.has_null_class  # EDM's are trained without dropping labels


class Reduces:
    """Pickles as a call."""

    def __init__(self, what, *arguments):
        self.call = what, arguments

    def __reduce__(self):
        return self.call


class WithState:
    def __setstate__(self, state):
        raise AssertionError("executed")

    def __getstate__(self):
        return {"a": 1}


def code(extension):
    return pickle.PROTO + b"\x02" + pickle.EXT1 + struct.pack("<B", extension) + pickle.STOP


MALICIOUS = {
    "system": (lambda: pickle.dumps(Reduces(os.system, "touch executed")), "system"),
    "eval": (lambda: pickle.dumps(Reduces(eval, "1 / 0")), "builtins.eval"),
    "nested": (
        lambda: pickle.dumps({"ema": [Reduces(Reduces, Reduces(exec, "1 / 0"))]}),
        "builtins.exec",
    ),
    "getattr": (lambda: b"cbuiltins\ngetattr\n(cos\n__dict__\nS'system'\ntR.", "builtins.getattr"),
    "setstate": (lambda: pickle.dumps(WithState()), "WithState"),
    "extension": (lambda: code(7), "EXT1"),
    "protocol 0": (lambda: b"cos\nsystem\n(S'touch executed'\ntR.", "os.system"),
    "inst": (lambda: b"(S'touch executed'\nios\nsystem\n.", "INST"),
    "persistent id": (lambda: b"\x80\x02)Q.", "persistent id"),
    "bytes": (
        lambda: pickle.dumps(
            Reduces(torch.storage._load_from_bytes, pickle.dumps(Reduces(os.system, "x")))
        ),
        "system",
    ),
    "class": (lambda: pickle.dumps(Reduces(copyreg.__newobj__, Reduces)), "Reduces"),
    "state of a name": (
        lambda: (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b."
        ),
        "Name",
    ),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_pickles_are_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, message = MALICIOUS[name]
    if name == "extension":
        copyreg.add_extension("os", "system", 7)
        copyreg._extension_cache[7] = os.system  # which the C unpickler would not look up again
    try:
        (tmp_path / "bad.pkl").write_bytes(make())
        with pytest.raises(RefusedError, match=message) as caught:
            read_checkpoint(tmp_path / "bad.pkl")
    finally:
        if name == "extension":
            copyreg.remove_extension("os", "system", 7)
            copyreg._extension_cache.clear()
    assert "bad.pkl" in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("how", ["zip", "former"])
def test_malice_in_what_torch_saved(how, tmp_path):
    file = tmp_path / "bad.pt"
    torch.save({"ema": Reduces(os.system, "x")}, file, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(RefusedError, match=r"calling .*system is refused"):
        read_checkpoint(file)


@pytest.mark.parametrize("how", ["pickle", "zip", "former"])
def test_tensors_and_containers_come_back(how, tmp_path):
    base = torch.arange(24.0).view(2, 3, 4)
    content = {
        "view": base[:, 1:, ::2],
        "transposed": base.transpose(0, 2),
        "half": torch.randn(3).half(),
        "bfloat": torch.randn(3).bfloat16(),
        "integers": torch.arange(5),
        "flags": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": nn.Parameter(torch.ones(2)),
        "numpy": [np.sqrt(0.5), np.float32(0.25), np.int64(-3), np.bool_(True)],
        "plain": [1, 2**80, -1.5, "text", None, True, (1, (2,)), {"a": {3}}, b"bytes"],
        "ordered": OrderedDict(a=1),
        "shape": base.shape,
    }
    if how == "pickle":
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "x.pkl", _use_new_zipfile_serialization=how == "zip")
    loaded = read_checkpoint(tmp_path / "x.pkl")
    assert list(loaded) == list(content)
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            assert loaded[name].dtype == value.dtype
            assert torch.equal(loaded[name], value)
        else:
            assert loaded[name] == value


@pytest.mark.parametrize("how", ["pickle", "zip"])
def test_modules_are_records(how, tmp_path):
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.BatchNorm1d(3))
    network[0].register_buffer("temporary", torch.ones(1), persistent=False)
    if how == "pickle":
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(network))
    else:
        torch.save(network, tmp_path / "x.pkl")
    record = read_checkpoint(tmp_path / "x.pkl")
    assert isinstance(record, Record)
    assert record.kind == "torch.nn.modules.container.Sequential"
    ours, theirs = state_of(record), network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("how", ["pickle", "zip", "former"])
def test_damage_is_told_of(how, tmp_path):
    content = {"ema": torch.randn(100)}
    buffer = io.BytesIO()
    if how == "pickle":
        pickle.dump(content, buffer)
    else:
        torch.save(content, buffer, _use_new_zipfile_serialization=how == "zip")
    whole, file = buffer.getvalue(), tmp_path / "x.pt"
    for length in (0, 1, 20, len(whole) // 2, len(whole) - 30):
        file.write_bytes(whole[:length])
        with pytest.raises(OvertoneError, match=r"x.pt"):
            read_checkpoint(file)


def test_tensors_stay_within_their_storage(tmp_path):
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(4)}, buffer, _use_new_zipfile_serialization=False)
    for lie, message in (
        (b"K\x05\x85", "beyond its storage"),
        (b"J\xff\xff\xff\xff\x85", "negative"),
    ):
        wrong = buffer.getvalue().replace(b"K\x04\x85", lie)
        assert wrong != buffer.getvalue()
        (tmp_path / "x.pt").write_bytes(wrong)
        with pytest.raises(OvertoneError, match=message):
            read_checkpoint(tmp_path / "x.pt")


def doubled(times):
    """A pickle that has one text joined to itself, again and again."""
    begin = b"\x80\x02ctorch\ndevice\nq\x00X\x04\0\0\0cudaq\x01"
    return begin + b"h\x00h\x01h\x01\x86Rq\x01" * times + b"."


def repeated(times):
    """A pickle that has one text encoded, again and again."""
    begin = b"\x80\x02c_codecs\nencode\nX\x06\0\0\0latin1q\x01X\x00\x40\0\0" + b"a" * 2**14
    return begin + b"h\x01\x86q\x02(c_codecs\nencode\nq\x00" + b"h\x00h\x02R" * times + b"l."


def test_no_more_memory_than_the_file_accounts_for(tmp_path):
    file = tmp_path / "x.pkl"
    file.write_bytes(doubled(60))
    assert read_checkpoint(file) == "cuda"  # the rest of a device means nothing
    file.write_bytes(repeated(2000))
    with pytest.raises(RefusedError, match="much more memory than it holds"):
        read_checkpoint(file)
    # A tuple, made a size again and again; a dictionary, the state of many records.
    numbers = b"\x80\x02(" + b"K\x01" * 20_000 + b"tq\x00("
    file.write_bytes(numbers + b"ctorch\nSize\nh\x00\x85R" * 700 + b"l.")
    with pytest.raises(RefusedError, match="much more memory than it holds"):
        read_checkpoint(file)
    pairs = b"".join(b"J" + i.to_bytes(4, "little") + b"K\x01" for i in range(10_000))
    record = b"ctorch.nn.modules.linear\nLinear\n)\x81h\x00b"
    file.write_bytes(b"\x80\x02}q\x00(" + pairs + b"u(" + record * 700 + b"l.")
    with pytest.raises(RefusedError, match="much more memory than it holds"):
        read_checkpoint(file)
    torch.save({"x": torch.zeros(1).expand(2**20, 2**20)}, file)
    with pytest.raises(OvertoneError, match="more elements than its storage"):
        read_checkpoint(file)
    torch.save({"x": torch.zeros(10**6)}, file)
    with (
        zipfile.ZipFile(file) as whole,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    with pytest.raises(RefusedError, match="compressed"):
        read_checkpoint(tmp_path / "small.pt")


def test_a_network_larger_than_its_file_is_not_built(published, tmp_path):
    from overtone.convert.edm import read_network

    golden = Golden("adm_edm_precond")
    net = network_like(published, golden)
    net.model._init_kwargs["model_channels"] = 10**6
    written(published, tmp_path / "x.pkl", {"ema": net}, "pickle")
    with pytest.raises(OvertoneError, match="its settings are of a network of more than"):
        read_network(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "state",
    [{"_modules": [1]}, {"_parameters": 3}, {"_modules": {1: Record("x")}}],
    ids=["list", "number", "name"],
)
def test_damaged_modules_are_told_of(state):
    with pytest.raises(OvertoneError, match="a module of this checkpoint is damaged"):
        state_of(Record("x", state))


def test_a_module_within_itself_is_told_of():
    record = Record("x")
    record.state["_modules"] = {"again": record}
    with pytest.raises(OvertoneError, match="in two places"):
        state_of(record)


def test_other_checkpoints_are_told_of(published, tmp_path):
    from overtone.convert.edm import read_network

    (tmp_path / "x.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(OvertoneError, match="no network under 'ema'"):
        read_network(tmp_path / "x.pkl")
    other = {"ema": published.Persistent("VPPrecond")}
    written(published, tmp_path / "x.pkl", other, "pickle")
    with pytest.raises(OvertoneError, match="the preconditioning VPPrecond is not supported"):
        read_network(tmp_path / "x.pkl")
