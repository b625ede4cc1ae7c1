"""Directories of models that were damaged, or made to hurt: each is refused in a line.

A table of changes, each made to a copy of a model that loads. Nothing may take more memory than
256 MB beyond the model's own size, nothing may run for long, and nothing is executed.
"""

import dataclasses
import json
import shutil
import struct
import zipfile

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import (
    DIFFUSERS_MARKS,
    TINY_ADM,
    TINY_DIFFIT,
    TINY_DSNO,
    TINY_IUNET,
    TINY_NCSN,
    TINY_TRANSFORMER,
    tiny_vae,
)
from hostile import check_plain, circle, device, folder, gone, pipe, sparing
from overtone.denoisers import ADM_DIFFUSION
from overtone.errors import OvertoneError
from overtone.networks import (
    ADMUNet,
    DiffiTTransformer,
    DiffiTUNet,
    DSNOUNet,
    IUNet,
    SongUNet,
    temporalize,
)
from overtone.networks.configs.network import NetworkConfig
from overtone.networks.network import Network, load_network
from overtone.networks.vae import VAE
from overtone.pipelines import (
    DiffiTPipeline,
    DSNOPipeline,
    LatentDiffiTPipeline,
    MEMEPipeline,
    Pipeline,
    RelayPipeline,
    load_pipeline,
)
from overtone.processes import RelayProcess
from overtone.samplers import AncestralSampler, Sampler

pytestmark = DIFFUSERS_MARKS


# What a file can be replaced with.


def empty(file):
    file.write_bytes(b"")


def half(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def noise(file):
    file.write_bytes(torch.randint(0, 256, (4096,), dtype=torch.uint8).numpy().tobytes())


def nested(file):
    file.write_text("[" * 100_000 + "]" * 100_000)


def nested_dictionaries(file):
    file.write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


def many_digits(file):
    file.write_text('{"resolution": ' + "9" * 100_000 + "}")


def no_json(file):
    file.write_text("{'resolution': 8}")


def a_list(file):
    file.write_text("[]")


def a_text(file):
    file.write_text('"' + "x" * 10_000_000 + '"')


def latin(file):
    file.write_bytes(b'{"kind": "\xe9"}')


def control(file):
    file.write_text('{"kind": "\\u001b[2J\\u001b]0;owned\\u0007"}')


JSON = (gone, empty, half, noise, folder, pipe, device, circle, nested, nested_dictionaries)
JSON += (many_digits, no_json, a_list, a_text, latin, control)


def header(content):
    """safetensors that hold nothing but a header."""
    text = json.dumps(content).encode() if isinstance(content, dict) else content

    def change(file):
        file.write_bytes(struct.pack("<Q", len(text)) + text)

    return change


def long_header(file):
    file.write_bytes(struct.pack("<Q", 2**63) + b"{}")


def huge_tensor(file):
    one = {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}
    header({"a": one})(file)


def many_tensors(file):
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header({f"tensor{i}": one for i in range(50_000)})(file)


def overflowing(file):
    one = {"dtype": "F32", "shape": [2**62, 2**62, 2**62], "data_offsets": [0, 4]}
    header({"a": one})(file)


def a_pickle(file):
    torch.save({"weight": torch.zeros(3)}, file)


def a_zip(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.safetensors", b"x")


def changed(change):
    """The tensors of a file, changed."""

    def apply(file):
        tensors = load_file(file)
        change(tensors, next(name for name, tensor in tensors.items() if tensor.dim() > 1))
        save_file(tensors, file)

    apply.__name__ = change.__name__
    return apply


def nan(tensors, name):
    tensors[name].view(-1)[-1] = torch.nan


def infinite(tensors, name):
    tensors[name].view(-1)[0] = -torch.inf


def lacking(tensors, name):
    del tensors[name]


def renamed(tensors, name):
    tensors[f"{name}_"] = tensors.pop(name)


def one_more(tensors, name):
    tensors["surplus"] = tensors[name].clone()


def transposed(tensors, name):
    tensors[name] = tensors[name].flatten()[None].contiguous()


def longer(tensors, name):
    tensors[name] = torch.cat([tensors[name], tensors[name]])


def whole_numbers(tensors, name):
    tensors[name] = tensors[name].to(torch.int32)


WEIGHTS = (gone, empty, half, noise, folder, pipe, device, circle, long_header, huge_tensor)
WEIGHTS += (many_tensors, overflowing, header(b"[" * 50_000), header({"a": 3}), header(b"\xff" * 9))
WEIGHTS += (a_pickle, a_zip)
WEIGHTS += tuple(
    changed(one)
    for one in (nan, infinite, lacking, renamed, one_more, transposed, longer, whole_numbers)
)

# Settings: a model, a file of it, a key of that, and what stands there instead.
HUGE = (10**5, 10**9, 2**62, 1e300, -1, 0)
SETTINGS = {
    ("diffit", "network/config.json"): {
        "resolution": HUGE[1:],
        "channels": (64, *HUGE),
        "num_classes": (50_000, 10**9),
        "widths": ([16] * 2000, [2**15, 2**15], [10**9], [], [16, "16"]),
        "num_cells": ([500, 500], [10**9, 1], [1, 1] * 1000),
        "window": (0, -4, 10**9),
        "head_channels": (*HUGE, 7),
        "token_width": (10**5, 10**9),
        "kind": ("os.system", "DiffiTUnet", "", None, "ADMUNet"),
    },
    ("adm", "network/config.json"): {
        "num_cells": (900, *HUGE),
        "embedding_width": (2**16, *HUGE),
        "attention_resolutions": (list(range(1, 1000)), [10**9]),
    },
    ("ncsn", "network/config.json"): {
        "frequencies": (2**16, *HUGE),
        "filter_taps": ([1] * 2000, [10**9, 1], [0, 0]),
        "stem_width": (2**16,),
        "heads": (10**5, 10**9),
        "augment_channels": (10**5, 10**9),
    },
    ("iunet", "network/config.json"): {
        "inception_heads": ([10**5, 1], [10**9, 1]),
        "mlp_ratio": (1000.0, 1e9, float("inf")),
        "pool_above": (10**9, -1),
    },
    ("transformer", "network/config.json"): {
        "width": (2**15, *HUGE),
        "depth": (999, *HUGE),
        "patch": (10**9, 3),
        "resolution": (2048, 10**5),
        "mlp_ratio": (900.0,),
        "time_features": (2**16, 10**9),
    },
    ("dsno", "network/config.json"): {"modes": (2**16, *HUGE), "log_snr_min": (-1e9, 1e9)},
    ("experts", "network/config.json"): {
        "networks": (["DiffiTUNet"] * 3, ["DiffiTUNet"] * 100_000, []),
        "boundaries": ([0.0], [1.0] * 5, [-1.0], [1e300]),
    },
    ("operator", "network/config.json"): {"modes": (2**16, 10**9), "groups": (10**9, 3)},
    ("unet", "network/config.json"): {
        "model": (
            {},
            {"block_out_channels": [2**15, 2**15]},
            {"layers_per_block": 10**6},
            {"layers_per_block": 10**5},
            {"block_out_channels": [8] * 4000},
        ),
    },
    ("diffit", "pipeline.json"): {
        "sampler": (
            {"kind": "Sampler", "num_steps": 10**9},
            {"kind": "Sampler", "levels": [1.0] * 300_000},
            {"kind": "Sampler", "rho": 1e-300},
            {"kind": "OperatorSampler"},
            {"kind": "none"},
            {},
        ),
        "process": ({"kind": "RelayProcess", "patch": 10**9}, {"kind": "x" * 10**6}),
        "preconditioning": (
            {"kind": "edm", "sigma_data": 0.0},
            {"kind": "vp", "schedule": {"kind": "discrete", "num_steps": 10**9}},
            {"kind": "vp", "schedule": {"kind": "discrete", "abar": [2.0]}},
        ),
        "guidance": ({"scale": float("nan")}, {"channels": [9]}, {"interval": [2.0, 1.0]}),
        "start": ({"kind": "image"}, {"kind": "../../etc"}, [], "noise"),
        "image_resolution": (10**9, -1),
        "class_names": (["a"] * 10**6, "abc", [1, 2, 3]),
        "network": ("ADMUNet", "x", 3),
    },
    ("diffusers", "unet/config.json"): {
        "block_out_channels": ([2**14, 2**14], [8] * 3000, [10**9, 8]),
        "layers_per_block": (10**5, 10**9, -1),
        "sample_size": (10**5, 10**9, 0, [8, 16]),
        "num_class_embeds": (10**6, 10**9),
        "in_channels": (10**5, 10**9, 0),
        "norm_num_groups": (3, 0),
        "_class_name": ("os.system",),
        "class_embed_type": ("timestep",),
    },
    ("dit", "transformer/config.json"): {
        "num_layers": (10**5, 10**9),
        "sample_size": (10**4, 10**6),
        "num_attention_heads": (10**5, 10**9),
        "num_embeds_ada_norm": (10**6, 10**9),
        "patch_size": (0, 10**9),
    },
    ("dit", "scheduler/scheduler_config.json"): {
        "num_train_timesteps": (10**6, 10**12, -1, "1000"),
        "trained_betas": ([2.0, 2.0], "linear"),
        "beta_schedule": ("x",),
    },
    ("vae", "config.json"): {
        "block_out_channels": ([2**14, 2**14], [8] * 1000),
        "layers_per_block": (10**5, 10**9),
        "latent_channels": (10**5, 10**9, 0),
        "scaling_factor": (0.0, "1", float("nan")),
        "_class_name": ("UNet2DModel", "../x"),
    },
}


def stated(key, value):
    """The settings of a file with one value changed. Settings of diffusers' within ours are a
    dictionary, whose entries are changed."""

    def change(path):
        config = json.loads(path.read_text())
        if isinstance(config.get(key), dict) and key == "model":
            config[key] |= value
            config = config if value else config | {key: {}}
        else:
            config[key] = value
        path.write_text(json.dumps(config))

    return change


def table():
    """(model, file in it, the change) with a name for each."""
    for model, file in (
        ("diffit", "pipeline.json"),
        ("diffit", "network/config.json"),
        ("experts", "network/config.json"),
        ("diffusers", "unet/config.json"),
        ("diffusers", "model_index.json"),
        ("vae", "config.json"),
    ):
        for change in JSON:
            yield f"{model}/{file} {change.__name__}", model, file, change
    for model, file in (
        ("diffit", "network/model.safetensors"),
        ("experts", "network/2/model.safetensors"),
        ("diffusers", "unet/diffusion_pytorch_model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
    ):
        for number, change in enumerate(WEIGHTS):
            yield f"{model}/{file} {number} {change.__name__}", model, file, change
    for (model, file), keys in SETTINGS.items():
        for key, values in keys.items():
            for number, value in enumerate(values):
                name = f"{model}/{file} {key} {number} {str(value)[:30]}"
                yield name, model, file, stated(key, value)


CASES = list(table())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One saved model of each kind, tiny."""
    root, sampler = tmp_path_factory.mktemp("models"), Sampler(num_steps=2)
    DiffiTPipeline(DiffiTUNet(TINY_DIFFIT), sampler).save_pretrained(root / "diffit")
    for name, network in (
        ("adm", ADMUNet(TINY_ADM)),
        ("ncsn", SongUNet(TINY_NCSN)),
        ("iunet", IUNet(TINY_IUNET)),
    ):
        Pipeline(network, sampler).save_pretrained(root / name)
    LatentDiffiTPipeline(
        DiffiTTransformer(TINY_TRANSFORMER),
        AncestralSampler(num_steps=2),
        preconditioning=ADM_DIFFUSION,
    ).save_pretrained(root / "transformer")
    DSNOPipeline(DSNOUNet(TINY_DSNO)).save_pretrained(root / "dsno")
    DSNOPipeline(temporalize(DiffiTUNet(TINY_DIFFIT))).save_pretrained(root / "operator")
    pair = [DiffiTPipeline(DiffiTUNet(TINY_DIFFIT), sampler) for _ in range(2)]
    MEMEPipeline.merged(pair, (1.0,)).save_pretrained(root / "experts")
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(root / "diffusers")
    load_pipeline(root / "diffusers").save_pretrained(root / "unet")
    dit = diffusers.DiTTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, patch_size=2, num_layers=2,
        num_attention_heads=2, attention_head_dim=8, norm_num_groups=2, num_embeds_ada_norm=3,
    )  # fmt: skip
    whole = diffusers.DiTPipeline(dit, tiny_vae().model, diffusers.DDIMScheduler())
    whole.save_pretrained(root / "dit")
    (root / "vae").mkdir()
    tiny_vae().write_into(root / "vae")
    for model in root.iterdir():
        opened(model)
    return root


def opened(folder):
    return VAE.from_pretrained(folder) if folder.name == "vae" else load_pipeline(folder)


@pytest.mark.usefixtures("no_hanging")
@pytest.mark.parametrize(
    ("model", "file", "change"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_it_is_refused_in_a_line(models, tmp_path, note, request, model, file, change):
    place = tmp_path / model
    shutil.copytree(models / model, place)
    change(place / file)
    torch.manual_seed(0)
    with sparing(note, request.node.name), pytest.raises(OvertoneError) as refused:
        opened(place)
    check_plain(refused.value)


def test_the_table_is_long():
    assert len(CASES) >= 200


@dataclasses.dataclass(frozen=True)
class ReplacingConfig(NetworkConfig, kind="Replacing"):
    resolution: int = 8
    channels: int = 1
    num_classes: int = 0

    def build(self):
        return Replacing(self)


class Replacing(Network):
    """A network as people make them of others: layers are replaced, and parametrized."""

    def __init__(self, config):
        super().__init__(config)
        self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3), torch.nn.Conv2d(16, 16, 3))
        self.body[0] = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.body[1] = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(8, 1, 1))
        torch.zeros(2).numpy()  # which tensors without numbers can't

    def forward(self, x, time, class_labels=None):
        return self.body(x)


def test_a_network_that_registers_more_than_it_keeps_loads(tmp_path):
    Replacing(ReplacingConfig()).save_pretrained(tmp_path / "network")
    assert load_network(tmp_path / "network").num_parameters > 0


def test_links_that_lead_back_are_refused(models, tmp_path):
    shutil.copytree(models / "experts", tmp_path / "experts")
    shutil.rmtree(tmp_path / "experts/network/1")
    (tmp_path / "experts/network/1").symlink_to(tmp_path / "experts/network")
    with pytest.raises(OvertoneError, match="leads back to"):
        load_pipeline(tmp_path / "experts")
    low = Sampler(num_steps=2, sigma_min=0.01, truncation_sigma=0.9)
    relay = RelayPipeline(DiffiTUNet(TINY_DIFFIT), low, process=RelayProcess(patch=2))
    relay.save_pretrained(tmp_path / "relay")
    (tmp_path / "relay/first").symlink_to(tmp_path / "relay")
    with pytest.raises(OvertoneError, match="leads back to"):
        load_pipeline(tmp_path / "relay")


def test_what_is_no_fault_loads(models, tmp_path):
    """Weights of half precision; a network of windows that is told of a larger size."""
    shutil.copytree(models / "diffit", tmp_path / "half")
    file = tmp_path / "half/network/model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    stated("resolution", 4096)(tmp_path / "half/network/config.json")
    pipe = load_pipeline(tmp_path / "half")
    assert pipe.resolution == 4096
    assert next(pipe.network.parameters()).dtype == torch.float32
