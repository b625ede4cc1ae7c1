"""Extractors: what their features are, weights of others, kinds of one's own."""

import math

import pytest
import torch
import torch.nn.functional as F

import beside
from overtone import storage
from overtone.cli.app import main
from overtone.data import open_data
from overtone.errors import OvertoneError
from overtone.metrics import (
    ClassifierExtractor,
    DinoExtractor,
    RandomExtractor,
    frechet_distance,
)
from overtone.metrics.dinov2 import DEVIATION, MEAN, SIZE, _prepared
from overtone.metrics.extractors import FeatureSettings, RandomFeatures, features_by_name
from overtone.metrics.features import place_features
from overtone.networks import Classifier, ClassifierConfig

WIDTH, DEPTH, PATCH, GRID = 128, 2, 14, 3


@pytest.fixture(scope="module")
def transformers():
    return beside.transformers()


def pixels(count=3, channels=3, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = count, channels, size, size
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def hub_weights():
    """A small ViT under the names of torch.hub's checkpoints."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return 0.2 * torch.randn(*shape, generator=generator)

    state = {
        "cls_token": normal(1, 1, WIDTH),
        "mask_token": normal(1, WIDTH),
        "pos_embed": normal(1, GRID**2 + 1, WIDTH),
        "patch_embed.proj.weight": normal(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": normal(WIDTH),
        "norm.weight": 1 + normal(WIDTH),
        "norm.bias": normal(WIDTH),
    }
    for number in range(DEPTH):
        own = f"blocks.{number}."
        for name, shape in (
            ("attn.qkv", (3 * WIDTH, WIDTH)),
            ("attn.proj", (WIDTH, WIDTH)),
            ("mlp.fc1", (4 * WIDTH, WIDTH)),
            ("mlp.fc2", (WIDTH, 4 * WIDTH)),
        ):
            state[f"{own}{name}.weight"] = normal(*shape) / math.sqrt(WIDTH / 8)
            state[f"{own}{name}.bias"] = normal(shape[0])
        for name in ("norm1", "norm2"):
            state[f"{own}{name}.weight"] = 1 + normal(WIDTH)
            state[f"{own}{name}.bias"] = normal(WIDTH)
        for name in ("ls1", "ls2"):
            state[f"{own}{name}.gamma"] = 1 + normal(WIDTH)
    return state


def vit(state, images):
    """The class token of a ViT with these weights, as DINOv2's papers describe it."""
    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], PATCH)
    side = x.shape[2]
    tokens = x.flatten(2).transpose(1, 2)
    grid = state["pos_embed"][:, 1:].view(1, GRID, GRID, WIDTH).permute(0, 3, 1, 2)
    scale = (side + 0.1) / GRID  # as torch.hub's code has it
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    grid = grid.flatten(2).transpose(1, 2)
    first = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(x), -1, -1)
    x = torch.cat((first, tokens + grid), dim=1)

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    for number in range(DEPTH):
        own = f"blocks.{number}."
        q, k, v = (
            part.unflatten(2, (WIDTH // 64, 64)).transpose(1, 2)
            for part in linear(norm(x, f"{own}norm1"), f"{own}attn.qkv").chunk(3, dim=2)
        )
        out = ((q @ k.mT / 8).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        x = x + state[f"{own}ls1.gamma"] * linear(out, f"{own}attn.proj")
        hidden = F.gelu(linear(norm(x, f"{own}norm2"), f"{own}mlp.fc1"))
        x = x + state[f"{own}ls2.gamma"] * linear(hidden, f"{own}mlp.fc2")
    return norm(x, "norm")[:, 0]


def test_dinov2_of_torch_hub_is_the_vit_of_its_paper(transformers, tmp_path):
    state = hub_weights()
    torch.save(state, tmp_path / "dinov2_vits14_pretrain.pth")
    extractor = DinoExtractor(tmp_path / "dinov2_vits14_pretrain.pth")
    images = pixels()
    found = extractor(images)
    assert (extractor.dims, found.logits, found.spatial) == (WIDTH, None, None)
    prepared = torch.stack([_prepared(image) for image in images])
    assert torch.allclose(found.vectors, vit(state, prepared), rtol=1e-3, atol=1e-4)
    # The network as transformers writes it, whose positions are those of 16 x 16 patches.
    extractor.network.save_pretrained(tmp_path / "repository")
    again = DinoExtractor(tmp_path / "repository")
    assert torch.equal(again(images).vectors, found.vectors)


def test_images_are_prepared_as_published(transformers):
    grey = torch.full((1, 16, 16), 51, dtype=torch.uint8)
    prepared = _prepared(grey)
    assert prepared.shape == (3, SIZE, SIZE)
    for channel, mean, deviation in zip(prepared, MEAN, DEVIATION, strict=True):
        assert torch.allclose(channel, torch.tensor((51 / 255 - mean) / deviation))
    from PIL import Image

    picture = pixels(1, 3, 300)[0]
    expected = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((224, 224), 3)
    values = _prepared(picture).permute(1, 2, 0) * torch.tensor(DEVIATION) + torch.tensor(MEAN)
    assert torch.equal((values * 255).round().to(torch.uint8).flatten(),
                       torch.tensor(list(expected.tobytes()), dtype=torch.uint8))  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("pos_embed"), "other weights than DINOv2"),
        (lambda state: state.pop("patch_embed.proj.weight"), "other weights than DINOv2"),
        (lambda state: state.pop("blocks.1.norm1.weight"), "norm1.weight are not in it"),
        (lambda state: state.update(pos_embed=torch.zeros(1, 9, WIDTH)), "8 positions"),
        (lambda state: state.update(norm=torch.zeros(3)) or state.clear(), "holds no weights"),
        (lambda state: state["norm.weight"].fill_(math.nan), "holds NaN or infinity"),
    ],
)
def test_other_weights_are_refused_in_one_line(transformers, tmp_path, change, message):
    state = hub_weights()
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(OvertoneError, match=message) as raised:
        DinoExtractor(tmp_path / "weights.pth")
    assert "\n" not in str(raised.value)


def test_weights_that_execute_code_are_not_read(transformers, tmp_path):
    class Evil:
        def __reduce__(self):
            return ((tmp_path / "pwned").touch, ())

    torch.save({"pos_embed": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    for name in ("evil.pth", "folder"):
        with pytest.raises(OvertoneError):
            DinoExtractor(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["transformers", "torch_fidelity"])
def test_an_extra_that_is_missing_is_named(monkeypatch, name):
    import sys

    monkeypatch.setitem(sys.modules, name, None)
    kind, extra = {"transformers": ("dinov2", "dinov2"), "torch_fidelity": ("inception", "fid")}[
        name
    ]
    with pytest.raises(OvertoneError, match=rf"need an extra.*\[{extra}\]"):
        features_by_name(kind).open("x", 8, 1)


def test_random_features_are_a_function_of_their_seed_and_say_what_they_are():
    first, again, other = RandomExtractor(3), RandomExtractor(3), RandomExtractor(3, seed=1)
    assert first.digest == again.digest != other.digest
    assert "untrained" in first.name
    images = pixels(5)
    found = first(images)
    assert found.vectors.shape == (5, first.dims)
    assert torch.equal(found.vectors, again(images).vectors)
    assert not torch.allclose(found.vectors, other(images).vectors)
    apart = torch.cat([first(image[None]).vectors for image in images])
    assert torch.allclose(found.vectors, apart, rtol=1e-4, atol=1e-5)
    # Means and deviations of the first level, by hand.
    layer = first.layers[0]
    maps = F.conv2d(images / 127.5 - 1, layer.weight, layer.bias, padding=1).relu()
    assert torch.allclose(found.vectors[:, :16], maps.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)
    deviation = maps.flatten(2).std(dim=2, correction=0)
    assert torch.allclose(found.vectors[:, 16:32], deviation, rtol=1e-4, atol=1e-5)
    assert RandomExtractor(1)(pixels(2, 1, 1)).vectors.isfinite().all()


def test_spatial_features_of_a_classifier_keep_the_place():
    torch.manual_seed(0)
    config = ClassifierConfig(resolution=16, channels=1, widths=(8, 16), num_features=6)
    extractor = ClassifierExtractor(Classifier(config), "d")
    image = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    image[..., 2:5, 9:14] = 255
    found, turned = extractor(image), extractor(image.flip(-1))
    maps = found.spatial.view(8, 8, 7).movedim(-1, 0)
    network = extractor.network
    assert torch.allclose(maps, network.body(image / 127.5 - 1)[0, :7], atol=1e-5)
    assert not torch.allclose(maps, turned.spatial.view(8, 8, 7).movedim(-1, 0), atol=1e-2)
    assert extractor.knows_classes


def test_spatial_features_have_the_channel_last():
    maps = torch.randn(2, 9, 3, 4)
    said = place_features(maps)
    assert said.shape == (2, 3 * 4 * 7)
    for row, column, channel in ((0, 0, 0), (0, 1, 2), (2, 3, 6), (1, 0, 5)):
        at = (row * 4 + column) * 7 + channel
        assert torch.equal(said[:, at], maps[:, channel, row, column])
    wide = torch.randn(1, 7, 34, 34)  # averaged to 17 x 17
    mean = wide.unflatten(3, (17, 2)).unflatten(2, (17, 2)).mean((3, 5))
    torch.testing.assert_close(place_features(wide), place_features(mean))


def test_random_weights_are_hes_and_the_same_on_every_machine():
    """A uniform number in +- a has the variance a^2 / 3, which He's is 2 / fan-in of."""
    extractor = RandomExtractor(3)
    assert extractor.digest == "e42e96cabc0d950b"
    for layer in extractor.layers:
        weight = layer.weight.double()
        fan_in, count = weight[0].numel(), weight.numel()
        # The variance of a uniform number's square is 4 / 5 of the square of its mean; 5 sigma.
        assert (weight.square().mean() * fan_in / 2 - 1).abs() < 5 * (0.8 / count) ** 0.5
        assert weight.abs().max() <= (6 / fan_in) ** 0.5
        assert layer.bias.abs().max() <= 0.1


def test_settings_open_the_network_of_their_seed_and_channels():
    opened = RandomFeatures(seed=1).open("builtin:digits", 16, 1)
    assert opened.digest == RandomExtractor(1, seed=1).digest != RandomExtractor(1).digest
    assert "seed 1:" in opened.name
    assert opened(pixels(channels=1)).vectors.shape == (3, opened.dims)


def test_random_features_tell_classes_apart():
    data = open_data("builtin:digits", 8, 1)
    images, labels = data.fetch(range(len(data)))
    extractor = RandomExtractor(1)
    ones, sevens = (extractor(images[labels == n]).vectors for n in (1, 7))
    between = frechet_distance(ones, sevens)
    assert between > 5 * frechet_distance(ones[0::2], ones[1::2])
    assert between > 5 * frechet_distance(sevens[0::2], sevens[1::2])


@pytest.mark.parametrize("kind", ["classifier", "random"])
def test_features_are_float32_and_do_not_depend_on_the_batch(kind):
    config = ClassifierConfig(resolution=16, channels=3, widths=(8, 16), num_features=6)
    extractor = {"classifier": lambda: ClassifierExtractor(Classifier(config), "d"),
                 "random": lambda: RandomExtractor(3)}[kind]()  # fmt: skip
    images = pixels(70)
    whole = extractor(images)
    with torch.autocast("cpu", torch.bfloat16):
        inside = extractor(images)
    batches = [extractor(block) for block in images.split(9)]
    for place, tensor in enumerate(whole):
        if tensor is not None:
            assert tensor.dtype == torch.float32
            assert not tensor.requires_grad
            assert torch.equal(inside[place], tensor)
            joined = torch.cat([batch[place] for batch in batches])
            torch.testing.assert_close(joined, tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["inception", "dinov2"])
def test_no_file_says_which_file_is_read(kind):
    with pytest.raises(ValueError, match="'weights' is nothing that a file can say"):
        FeatureSettings.load({"kind": kind, "weights": "/etc/passwd"})
    assert FeatureSettings.load({"kind": kind}) == features_by_name(kind)


def test_a_kind_of_ones_own(tmp_path):
    (tmp_path / "brightness.py").write_text(
        """
from dataclasses import dataclass
from overtone.metrics import Extractor, Features, FeatureSettings

class Brightness(Extractor):
    name, digest, dims = "brightness", "b1", 2
    def __call__(self, pixels):
        x = pixels.float().flatten(1) / 255
        import torch
        return Features(torch.stack((x.mean(1), x.std(1)), dim=1))

@dataclass(frozen=True)
class BrightnessFeatures(FeatureSettings, kind="brightness"):
    def open(self, data, resolution, channels, *, skip_bad=False):
        return Brightness()
"""
    )
    from overtone.data.builtin import open_digits
    from overtone.pipelines.pictures import to_pil

    (tmp_path / "images").mkdir()
    for number, image in enumerate(open_digits(8, 1, "train").fetch(range(20))[0]):
        to_pil(image).save(tmp_path / "images" / f"{number}.png")
    main(["evaluate", f"{tmp_path}/images", "--data", "builtin:digits", "--resolution", "8",
          "--channels", "1", "--extractor", "brightness", "--out", f"{tmp_path}/scores.json",
          "--import", f"{tmp_path}/brightness.py"])  # fmt: skip
    scores = storage.read_json(tmp_path / "scores.json", dict)
    assert (scores["extractor"], scores["extractor_digest"]) == ("brightness", "b1")
    assert "class_accuracy" not in scores


def test_names_and_weights():
    assert features_by_name("random") == RandomFeatures()
    with pytest.raises(OvertoneError, match="did you mean 'inception'"):
        features_by_name("inceptoin")
    with pytest.raises(OvertoneError, match="the extractor classifier takes no weights"):
        features_by_name("classifier", "x.pth")
    assert FeatureSettings.family.find("dinov2")(weights="a").weights == "a"
