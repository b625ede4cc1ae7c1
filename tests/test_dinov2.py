"""DINOv2's features: against a vision transformer written here, and transformers' own forward.

The weights are random: what is compared is the computation, and the translation of names.
"""

import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import beside
from overtone.errors import OvertoneError
from overtone.metrics import DinoExtractor
from overtone.metrics.dinov2_weights import positions_at

WIDTH, DEPTH, SIDE = 128, 2, 5


def drawn(*shape, mean=0.0, scale=0.2):
    return mean + scale * torch.randn(*shape)


def hub_state(width=WIDTH, depth=DEPTH, side=SIDE):
    """Random weights by the names of torch.hub's file."""
    state = {
        "cls_token": drawn(1, 1, width),
        "pos_embed": drawn(1, side**2 + 1, width, scale=1.0),
        "mask_token": drawn(1, width),
        "patch_embed.proj.weight": drawn(width, 3, 14, 14, scale=0.05),
        "patch_embed.proj.bias": drawn(width),
        "norm.weight": drawn(width, mean=1.0),
        "norm.bias": drawn(width),
    }
    for number in range(depth):
        shapes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        shapes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        block = {f"{name}.weight": drawn(*shape) for name, shape in shapes.items()}
        block |= {f"{name}.bias": drawn(shape[0]) for name, shape in shapes.items()}
        for n in (1, 2):
            block |= {f"norm{n}.weight": drawn(width, mean=1.0), f"norm{n}.bias": drawn(width)}
            block |= {f"ls{n}.gamma": drawn(width, mean=0.5)}
        state |= {f"blocks.{number}.{name}": tensor for name, tensor in block.items()}
    return state


def bicubic(t):
    """The weights of four neighbours at a distance of t behind the second: Keys' kernel with
    a = -0.75, which is torch's."""
    a, near = -0.75, lambda x: 1 - 2.25 * x**2 + 1.25 * x**3
    far = lambda x: a * (x**3 - 5 * x**2 + 8 * x - 4)  # noqa: E731
    return [far(1 + t), near(t), near(1 - t), far(2 - t)]


def interpolated(own, side, scale):
    """The matrix that takes `own` numbers in a row to `side`, those at the ends going on."""
    matrix = np.zeros((side, own))
    for i in range(side):
        at = (i + 0.5) / scale - 0.5
        first = math.floor(at)
        for n, weight in enumerate(bicubic(at - first)):
            matrix[i, min(max(first - 1 + n, 0), own - 1)] += weight
    return torch.from_numpy(matrix).float()


def layer_norm(x, weight, bias):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias


def class_token(state, pixels, heads=2):
    """The class token behind the last norm, of bytes at 224 px, by torch.hub's names."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = (pixels.permute(0, 2, 3, 1).double().numpy() / 255 - mean) / deviation
    x = torch.from_numpy(x).float()
    n, width, side = len(x), state["cls_token"].shape[2], state["pos_embed"].shape[1]
    patches = x.reshape(n, 16, 14, 16, 14, 3).permute(0, 1, 3, 5, 2, 4).reshape(n, 256, -1)
    tokens = patches @ state["patch_embed.proj.weight"].flatten(1).T
    tokens = torch.cat((state["cls_token"].expand(n, 1, width), tokens), 1)
    tokens[:, 1:] += state["patch_embed.proj.bias"]
    own = math.isqrt(side - 1)
    matrix = interpolated(own, 16, 16.1 / own) if own != 16 else torch.eye(16)
    grid = state["pos_embed"][0, 1:].reshape(own, own, width)
    grid = torch.einsum("ai,bj,ijc->abc", matrix, matrix, grid).reshape(256, width)
    x = tokens + torch.cat((state["pos_embed"][0, :1], grid))
    for number in range(sum(name.endswith("ls1.gamma") for name in state)):
        own = {k.split(".", 2)[2]: v for k, v in state.items() if k.startswith(f"blocks.{number}.")}
        y = layer_norm(x, own["norm1.weight"], own["norm1.bias"])
        qkv = (y @ own["attn.qkv.weight"].T + own["attn.qkv.bias"]).reshape(n, 257, 3, heads, -1)
        q, k, v = qkv.unbind(2)
        weights = (torch.einsum("nihc,njhc->nhij", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
        y = torch.einsum("nhij,njhc->nihc", weights, v).reshape(n, 257, width)
        x = x + own["ls1.gamma"] * (y @ own["attn.proj.weight"].T + own["attn.proj.bias"])
        y = layer_norm(x, own["norm2.weight"], own["norm2.bias"])
        y = y @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"]
        y = y * (1 + torch.erf(y / math.sqrt(2))) / 2
        x = x + own["ls2.gamma"] * (y @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"])
    return layer_norm(x, state["norm.weight"], state["norm.bias"])[:, 0]


@pytest.fixture(scope="module")
def transformers():
    return beside.transformers()


@pytest.fixture(scope="module")
def folder(transformers, tmp_path_factory):
    """A directory as transformers writes it, with positions for 16 x 16 patches."""
    config = transformers.Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=2, image_size=224,
        patch_size=14,
    )  # fmt: skip
    torch.manual_seed(3)
    model = transformers.Dinov2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(drawn(*parameter.shape, scale=0.1))
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def hub(transformers, tmp_path):
    """A file as torch.hub has it, with positions for 5 x 5 patches."""
    torch.save(hub_state(), tmp_path / "pretrain.pth")
    return tmp_path / "pretrain.pth"


def images(count=3, channels=3, size=224, seed=0):
    shape = count, channels, size, size
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).byte()


def test_the_class_token_of_hub_weights_is_that_of_the_formula(hub):
    extractor, pixels = DinoExtractor(hub), images()
    said = extractor(pixels)
    assert (extractor.dims, said.logits, said.spatial) == (WIDTH, None, None)
    assert not extractor.knows_classes
    wanted = class_token(torch.load(hub, weights_only=True), pixels)
    assert said.vectors.std(0).mean() > 1e-2  # or images would not be told apart
    torch.testing.assert_close(said.vectors, wanted, rtol=1e-3, atol=1e-4)


def test_positions_are_scaled_as_torch_hubs_code_does():
    embedding = drawn(1, 37**2 + 1, 8, scale=1.0)
    matrix = interpolated(37, 16, 16.1 / 37)
    grid = torch.einsum("ai,bj,ijc->abc", matrix, matrix, embedding[0, 1:].reshape(37, 37, 8))
    done = positions_at(embedding, 16)
    torch.testing.assert_close(done[0, 1:], grid.flatten(0, 1), rtol=1e-4, atol=1e-5)
    assert torch.equal(done[:, 0], embedding[:, 0])
    plain = interpolated(37, 16, 16 / 37)
    other = torch.einsum("ai,bj,ijc->abc", plain, plain, embedding[0, 1:].reshape(37, 37, 8))
    assert (other - grid).abs().max() > 0.05  # which is not what transformers does


def test_a_directory_says_what_transformers_says_of_it(transformers, folder):
    model = transformers.Dinov2Model.from_pretrained(folder, use_safetensors=True).eval()
    pixels = images()
    mean, deviation = (
        torch.tensor(numbers).reshape(3, 1, 1)
        for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        theirs = model((pixels / 255 - mean) / deviation).last_hidden_state[:, 0]
    torch.testing.assert_close(DinoExtractor(folder)(pixels).vectors, theirs, rtol=1e-4, atol=1e-5)


def test_all_namings_are_the_same_weights(transformers, folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    assert any("attention.attention.query" in name for name in state)
    digest = DinoExtractor(folder).digest
    model = transformers.Dinov2Model.from_pretrained(folder, use_safetensors=True)
    save_file(model.state_dict(), tmp_path / "module.safetensors")
    save_file(state, tmp_path / "file.safetensors")
    hub, place = {}, {"query": 0, "key": 1, "value": 2}
    names = {
        "embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed",
        "embeddings.mask_token": "mask_token", "embeddings.patch_embeddings.projection.weight":
        "patch_embed.proj.weight", "embeddings.patch_embeddings.projection.bias":
        "patch_embed.proj.bias", "layernorm.weight": "norm.weight", "layernorm.bias": "norm.bias",
    }  # fmt: skip
    for name, tensor in state.items():
        part = name.replace("encoder.layer.", "blocks.").replace("lambda1", "gamma")
        part = part.replace("layer_scale", "ls").replace("attention.output.dense", "attn.proj")
        if ".attention.attention." in part:
            before, _, after = part.partition("attention.attention.")
            which, _, kind = after.partition(".")
            thirds = hub.setdefault(f"{before}attn.qkv.{kind}", [None] * 3)
            thirds[place[which]] = tensor
        else:
            hub[names.get(name, part)] = tensor
    hub = {k: torch.cat(v) if isinstance(v, list) else v for k, v in hub.items()}
    torch.save(hub, tmp_path / "hub.pth")
    torch.save(hub, tmp_path / "former.pth", _use_new_zipfile_serialization=False)
    for file in ("module.safetensors", "file.safetensors", "hub.pth", "former.pth"):
        assert DinoExtractor(tmp_path / file).digest == digest
    hub["blocks.0.ls1.gamma"] = hub["blocks.0.ls1.gamma"] + 1e-3
    torch.save(hub, tmp_path / "other.pth")
    assert DinoExtractor(tmp_path / "other.pth").digest != digest


def test_images_are_resized_as_pillow_does(folder):
    extractor, pixels = DinoExtractor(folder), images(size=40)
    large = [
        np.array(Image.fromarray(x.permute(1, 2, 0).numpy()).resize((224, 224), Image.BICUBIC))
        for x in pixels
    ]
    large = torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2)
    said = extractor(pixels).vectors
    torch.testing.assert_close(said, extractor(large).vectors)
    grey = images(channels=1, size=40)
    assert torch.equal(extractor(grey).vectors, extractor(grey.repeat(1, 3, 1, 1)).vectors)
    with pytest.raises(OvertoneError, match="not 2 channels"):
        extractor(images(channels=2, size=40))


def test_features_are_float32_and_do_not_depend_on_the_batch(folder, monkeypatch):
    extractor, pixels = DinoExtractor(folder), images(5, size=32)
    whole = extractor(pixels).vectors
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extractor(pixels).vectors, whole)
    assert whole.dtype == torch.float32
    monkeypatch.setattr("overtone.metrics.dinov2.BLOCK", 2)
    torch.testing.assert_close(extractor(pixels).vectors, whole, rtol=1e-4, atol=1e-5)


def test_weights_of_half_precision_are_read_as_float32(hub, tmp_path):
    state = torch.load(hub, weights_only=True)
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.pth")
    said = DinoExtractor(tmp_path / "half.pth")(images(1)).vectors
    assert said.dtype == torch.float32
    torch.testing.assert_close(said, DinoExtractor(hub)(images(1)).vectors, rtol=0.1, atol=0.1)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


BAD = {
    "registers": (lambda s: s | {"register_tokens": drawn(1, 4, WIDTH)}, "with registers"),
    "gated": (lambda s: s | {"blocks.0.mlp.w12.weight": drawn(8, 8)}, "gated"),
    "nothing": (lambda s: {"a": drawn(2)}, "other weights than DINOv2"),
    "a missing tensor": (
        lambda s: {k: v for k, v in s.items() if k != "blocks.1.norm2.bias"},
        "DINOv2's: encoder.layer.1.norm2.bias are not in it",
    ),
    "a stranger": (lambda s: s | {"head.weight": drawn(2)}, "head.weight are none of its"),
    "a far block": (lambda s: s | {"blocks.9999.norm1.bias": drawn(WIDTH)}, "are not in it"),
    "another patch": (
        lambda s: s | {"patch_embed.proj.weight": drawn(WIDTH, 3, 16, 16)}, "has to be",
    ),
    "another width": (lambda s: s | {"pos_embed": drawn(1, 26, 100)}, "heads of 64 channels"),
    "no positions": (lambda s: s | {"pos_embed": drawn(1, 1, WIDTH)}, "0 positions|heads of 64"),
    "positions of no square": (
        lambda s: s | {"pos_embed": drawn(1, 28, WIDTH)}, "27 positions fill no square",
    ),
    "a scalar": (lambda s: s | {"blocks.0.attn.qkv.weight": torch.tensor(1.0)}, "DINOv2"),
    "whole numbers": (
        lambda s: s | {"norm.bias": torch.zeros(WIDTH, dtype=torch.int64)}, "of floats",
    ),
    "nan": (lambda s: s | {"norm.bias": drawn(WIDTH) / 0 * 0}, "NaN or infinity"),
    "code": (lambda s: s | {"norm.bias": Evil()}, "can't be read from"),
    "a wide view": (
        lambda s: s | {"pos_embed": torch.zeros(1).expand(1, 10**7 + 1, 128 * 64)}, "bad.pth",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_weights_that_are_none_are_refused_in_one_line(transformers, tmp_path, case, capsys):
    change, message = BAD[case]
    torch.save(change(hub_state()), tmp_path / "bad.pth")
    with pytest.raises(OvertoneError, match=message) as refused:
        DinoExtractor(tmp_path / "bad.pth")
    assert "\n" not in str(refused.value)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vit"}, "model_type"),
        ({"use_swiglu_ffn": True}, "use_swiglu_ffn"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        ({"hidden_size": 10**6}, "hidden_size of these weights is 128, not '1000000'"),
        ({"mlp_ratio": 20_000}, "mlp_ratio"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers"),
        ({"num_attention_heads": [1] * 10**5}, "num_attention_heads"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, None),
    ],
)
def test_directories_with_other_settings_are_refused(folder, tmp_path, changes, message):
    config = json.loads((folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    (tmp_path / "evil.py").write_text("raise SystemExit")
    if message is None:  # nothing of it is imported
        assert DinoExtractor(tmp_path).digest == DinoExtractor(folder).digest
        return
    with pytest.raises(OvertoneError, match=message):
        DinoExtractor(tmp_path)


def test_directories_of_pickles_and_places_that_are_none_are_refused(
    transformers, folder, tmp_path
):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save(hub_state(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OvertoneError, match=r"model\.safetensors does not exist"):
        DinoExtractor(tmp_path)
    with pytest.raises(OvertoneError, match="does not exist"):
        DinoExtractor("/nowhere/at/all")
    with pytest.raises(OvertoneError, match="was not found: there is no such directory"):
        DinoExtractor()


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(OvertoneError, match=r"'\.\[dinov2\]'") as refused:
        DinoExtractor("/nowhere/at/all")
    assert "\n" not in str(refused.value)
