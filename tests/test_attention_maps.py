"""Attention maps: weights that are known, their place in the image, and models left untouched."""

import dataclasses
import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from helpers import (
    TINY_ADM,
    TINY_DIFFIT,
    TINY_IUNET,
    TINY_TRANSFORMER,
    awake,
    tiny_networks,
    tiny_vae,
)
from overtone.analysis.attention import (
    Query,
    Watch,
    attending,
    attention_layers,
    few,
)
from overtone.cli.app import main
from overtone.denoisers import EDMDenoiser
from overtone.networks import (
    ADMUNet,
    DiffiTTransformer,
    DiffiTUNet,
    IUNet,
    temporalize,
)
from overtone.networks.attention import TMSA, SelfAttention, to_windows
from overtone.networks.inception import InceptionMixer
from overtone.pipelines import (
    DiffiTPipeline,
    DSNOPipeline,
    LatentDiffiTPipeline,
    MEMEPipeline,
    Pipeline,
    RelayPipeline,
)
from overtone.precision import autocast
from overtone.processes import RelayProcess
from overtone.samplers import AncestralSampler, Sampler


def still(layer):
    """A layer whose linear maps are all zero: each token attends to all alike, but for the bias."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    return layer


def maps_of(layer, query, *inputs, batch):
    """The map of a layer of one `Attend`, called with some inputs."""
    layers = {"layer": next(iter(attention_layers(nn.ModuleList([layer])).values()))}
    with torch.no_grad(), attending(layers, lambda asked: query.map_of(asked, batch)) as maps:
        layer(*inputs)
    return maps["layer"]


def test_a_bias_for_the_left_neighbour_makes_a_map_of_it_in_every_window():
    """B = ln 9 for the left neighbour and 0 elsewhere, q = k = 0: of 16 tokens it gets 9 / 24 of
    the weight and others 1 / 24; in a window's first column all get 1 / 16."""
    tmsa = still(TMSA(width=4, heads=2, token_width=3, size=4))
    with torch.no_grad():
        tmsa.bias.table[3 * 7 + 4] = math.log(9)  # (dy, dx) = query - key = (0, 1)
    height, width = 8, 12
    x = to_windows(torch.randn(2, 4, height, width), 4)
    for row in range(height):
        for column in range(width):
            query = Query(row, column, height, width)
            found = maps_of(tmsa, query, x, torch.randn(2, 3), batch=2)
            top, left = row // 4 * 4, column // 4 * 4
            assert found.window == (top, left, 4, 4)
            expected = torch.zeros(height, width)
            window = expected[top : top + 4, left : left + 4]
            window[:] = 1 / 16
            if column > left:
                window[:] = 1 / 24
                expected[row, column - 1] = 9 / 24
            torch.testing.assert_close(found.weights, expected.expand(2, 2, -1, -1))
            assert torch.equal(found.time_share, torch.zeros(2, 2))


def test_maps_of_windows_are_rows_of_masked_global_attention():
    """Random weights, every pixel of 8 x 12: attention over all pixels in which other windows are
    masked out, with the bias gathered pair by pair."""
    height, width, size, heads = 8, 12, 4, 2
    tmsa = awake(TMSA(width=8, heads=heads, token_width=6, size=size))
    x, token = torch.randn(3, 8, height, width), torch.randn(3, 6)
    y, c = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, c = y.flatten(), c.flatten()
    same = (y[:, None] // size == y // size) & (c[:, None] // size == c // size)
    dy, dx = (y[:, None] - y).clamp(-3, 3) + 3, (c[:, None] - c).clamp(-3, 3) + 3
    bias = tmsa.bias.table[dy * 7 + dx].permute(2, 0, 1).masked_fill(~same, -torch.inf)
    tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
    qkv = tmsa.qkv(tokens) + tmsa.qkv_time(token)[:, None]
    q, k, _ = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / 2 + bias).softmax(-1)  # d = 4
    for place in range(height * width):
        query = Query(place // width, place % width, height, width)
        found = maps_of(tmsa, query, to_windows(x, size), token, batch=3)
        torch.testing.assert_close(found.weights.flatten(2), weights[:, :, place])


def test_each_image_of_a_batch_and_each_head_has_its_own_map():
    """Content alone: one-hot tokens, q = a e_i, and k = e_j of the token below: the weight of the
    token below is e^(a / sqrt(d)) / (e^(a / sqrt(d)) + 8), in the second head with -a."""
    tmsa = still(TMSA(width=18, heads=2, token_width=2, size=3))
    a, d = 3.0, 9
    shift = torch.eye(9).roll(3, 0)  # the token below i is i + 3, row by row
    with torch.no_grad():
        tmsa.qkv.weight[0:9, 0:9] = a * torch.eye(9)
        tmsa.qkv.weight[9:18, 0:9] = -a * torch.eye(9)
        tmsa.qkv.weight[18:27, 0:9] = shift.T
        tmsa.qkv.weight[27:36, 0:9] = shift.T
    one_hot = torch.cat((torch.eye(9), torch.zeros(9, 9)), dim=1)
    x = torch.stack((one_hot, one_hot.flip(0)))[:, None]  # the second image: tokens turned round
    for place in range(9):
        found = maps_of(tmsa, Query(place // 3, place % 3, 3, 3), x, torch.zeros(2, 2), batch=2)
        for head, sign in enumerate((1, -1)):
            high = math.exp(sign * a / math.sqrt(d))
            expected = torch.full((9,), 1 / (high + 8))
            below, above = expected.clone(), expected.clone()
            below[(place + 3) % 9] = above[(place - 3) % 9] = high / (high + 8)
            torch.testing.assert_close(found.weights[0, head].flatten(), below)
            torch.testing.assert_close(found.weights[1, head].flatten(), above)


def test_time_in_the_query_moves_the_map():
    """q = a x_t, k = x: a time token e_j asks for token j, whatever the pixel."""
    tmsa = still(TMSA(width=9, heads=1, token_width=9, size=3))
    with torch.no_grad():
        tmsa.qkv_time.weight[0:9] = 6.0 * torch.eye(9)
        tmsa.qkv.weight[9:18] = torch.eye(9)
    x = torch.eye(9).expand(9, 1, 9, 9)
    found = maps_of(tmsa, Query(1, 1, 3, 3), x, torch.eye(9), batch=9)
    high = math.exp(6 / 3)
    expected = torch.full((9, 9), 1 / (high + 8)).fill_diagonal_(high / (high + 8))
    torch.testing.assert_close(found.weights[:, 0].flatten(1), expected)


def test_the_times_own_token_is_reported_as_its_share():
    """q = k_spatial = 1 in each of 4 channels: a score of 4 / 2 for each pixel; the time's key is c
    in each: its score is 2 c."""
    tmsa = still(TMSA(width=4, heads=1, token_width=1, size=2, time_in="separate"))
    with torch.no_grad():
        tmsa.qkv.bias[:8] = 1.0
        tmsa.kv_time.weight[:4] = 1.0
        tmsa.bias.table.fill_(0.5)  # of pixels alone: the time has no place
    times = torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
    found = maps_of(tmsa, Query(0, 3, 4, 4), torch.randn(4, 4, 4, 4), times, batch=4)
    share = torch.exp(2 * times[:, 0]) / (torch.exp(2 * times[:, 0]) + 4 * math.exp(2.5))
    torch.testing.assert_close(found.time_share[:, 0], share)
    inside = found.weights[:, 0, :2, 2:]
    torch.testing.assert_close(inside, ((1 - share) / 4)[:, None, None].expand(4, 2, 2))
    assert found.weights.sum() == pytest.approx(float(inside.sum()))


def test_time_in_the_bias_moves_the_map_of_each_window():
    """A table that is t for one offset and 0 elsewhere: one bias an image, the same in windows."""
    tmsa = still(TMSA(width=4, heads=1, token_width=1, size=2, time_in="bias"))
    with torch.no_grad():
        tmsa.bias.time.weight[2 * 3 + 1] = 1.0  # (dy, dx) = (1, 0): the pixel above
    times = torch.tensor([[0.0], [1.0], [3.0]])
    x = to_windows(torch.randn(3, 4, 4, 4), 2)
    found = maps_of(tmsa, Query(3, 2, 4, 4), x, times, batch=3)
    torch.testing.assert_close(
        found.weights[:, 0, 2, 2], times[:, 0].exp() / (times[:, 0].exp() + 3)
    )
    assert found.window == (2, 2, 2, 2)


def by_hand(qkv, heads):
    q, k, _ = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (7, 5), (1, 6), (9, 13), (8, 8)])
def test_grids_of_odd_shapes_are_those_of_the_features(height, width):
    x = torch.randn(2, 8, height, width)
    plain = awake(SelfAttention(8, heads=2))
    weights = by_hand(plain.qkv(plain.norm(x).permute(0, 2, 3, 1).flatten(1, 2)), 2)
    for place in range(height * width):
        query = Query(place // width, place % width, height, width)
        found = maps_of(plain, query, x, batch=2)
        assert found.window == (0, 0, height, width)
        torch.testing.assert_close(found.weights.flatten(2), weights[:, :, place])


@pytest.mark.parametrize(("height", "width"), [(9, 13), (9, 9), (10, 6)])
def test_pooled_attention_is_placed_on_its_own_grid(height, width):
    """An inception mixer attends to averages of 2 x 2 pixels, the last ones of fewer."""
    x = torch.randn(2, 16, height, width)
    mixer = awake(InceptionMixer(16, heads=4, low_heads=2, pool=2))
    pooled = nn.functional.avg_pool2d(x[:, -8:], 2, ceil_mode=True)
    rows, columns = pooled.shape[2:]
    weights = by_hand(mixer.qkv(pooled.permute(0, 2, 3, 1).flatten(1, 2)), 2)
    for row, column in ((0, 0), (height - 1, width - 1), (3, 4)):
        found = maps_of(mixer, Query(row, column, height, width), x, batch=2)
        assert found.weights.shape == (2, 2, rows, columns)
        token = row * rows // height * columns + column * columns // width
        torch.testing.assert_close(found.weights.flatten(2), weights[:, :, token])


TIMES_IN = [dataclasses.replace(TINY_DIFFIT, time_in=t) for t in ("separate", "mlp", "bias")]
MIXED = dataclasses.replace(TINY_DIFFIT, encoder="multi_resolution")
NETWORKS = [*tiny_networks(), *(DiffiTUNet(config) for config in (*TIMES_IN, MIXED))]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: type(n).__name__)
def test_the_output_is_the_map_times_the_values(network):
    """Of every layer, in windows or not: rows add up to one, and weights @ v is what the layer's
    attention returned. What the network computes is the same, and no hook stays."""
    network = awake(network).eval()
    layers = attention_layers(network)
    assert layers
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.3])
    outputs, handles = {}, []
    for name, layer in layers.items():

        def keep(_layer, _inputs, output, name=name):
            outputs[name] = output

        handles.append(layer.register_forward_hook(keep))
    with torch.no_grad():
        before = network(x, time)
        with attending(layers, lambda asked: asked) as asked:
            during = network(x, time)
    for handle in handles:
        handle.remove()
    assert torch.equal(before, during)
    assert list(asked) == list(layers), "layers are called in their order"
    for name, found in asked.items():
        weights = found.weights()
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        v = found.qkv.chunk(3, dim=-1)[2]
        if found.memory is not None:
            v = torch.cat((v, found.memory.chunk(2, dim=-1)[1]), dim=1)
        v = v.unflatten(-1, (found.heads, -1)).transpose(1, 2)
        out = (weights @ v).transpose(1, 2).flatten(2)
        torch.testing.assert_close(out, outputs[name], rtol=1e-4, atol=1e-5)
    assert not any(module._forward_pre_hooks for module in network.modules())
    with pytest.raises(RuntimeError), attending(layers, lambda asked: asked):
        network(torch.randn(2, 3, 8, 8), time)
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: type(n).__name__)
def test_maps_add_up_to_one_and_stay_in_their_window(network):
    denoiser = EDMDenoiser(awake(network)).eval()
    watch = Watch(denoiser, Query(5, 2, 8, 8))
    _, maps = watch.at(torch.randn(3, 1, 8, 8), 2.0)
    assert list(maps) == watch.known
    for found in maps.values():
        total = found.weights.sum((-2, -1)) + found.time_share
        torch.testing.assert_close(total, torch.ones_like(total))
        top, left, rows, columns = found.window
        inside = found.weights[..., top : top + rows, left : left + columns]
        assert inside.count_nonzero() == found.weights.count_nonzero()
        height, width = found.weights.shape[-2:]
        assert top <= 5 * height // 8 < top + rows
        assert left <= 2 * width // 8 < left + columns


def pipe_of(network, **changes):
    pipe = Pipeline(awake(network), Sampler(num_steps=5), precision="fp32")
    return dataclasses.replace(pipe, **changes) if changes else pipe


def test_images_of_a_sampling_run_are_the_same_with_and_without_hooks():
    pipe = pipe_of(DiffiTUNet(TINY_DIFFIT))
    seeds, query = [3, 4, 9], Query(2, 6, 8, 8)
    (*_, without) = pipe.path(seeds)
    layers, calls = attention_layers(pipe.network), []

    def keep(asked):
        calls.append(query.map_of(asked, len(seeds)))
        return calls[-1]

    with attending(layers, keep):
        (*_, watched) = pipe.path(seeds)
    assert torch.equal(without.x, watched.x)
    assert len(calls) == 9 * len(layers)  # Heun: 2 N - 1 evaluations
    (*_, after) = pipe.path(seeds)
    assert torch.equal(without.x, after.x)


def test_only_the_querys_rows_are_computed():
    """Of 64 x 64 tokens a whole map would be 2^24 numbers a head; the largest tensor that is made
    has as many as k."""
    sizes = []

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **kwargs or {})
            sizes.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    layer = SelfAttention(8, heads=2)
    query = Query(3, 5, 64, 64)

    def keep(asked):
        with Seen():
            return query.map_of(asked, 1)

    with attending({"layer": layer.attend}, keep) as maps, torch.no_grad():
        layer(torch.randn(1, 8, 64, 64))
    assert maps["layer"].weights.shape == (1, 2, 64, 64)
    assert max(sizes) <= 3 * 8 * 64**2


def test_the_expert_at_the_noise_level_is_watched():
    networks = [ADMUNet(TINY_ADM), ADMUNet(TINY_ADM)]
    awake(networks[1])
    pipes = [Pipeline(network, Sampler(num_steps=6)) for network in networks]
    pipe = MEMEPipeline.merged(pipes, (1.0,))
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    watch = Watch(pipe.denoiser, Query(4, 4, 8, 8))
    path = watch.along([(30.0, x), (0.5, x)], labels)
    assert path.experts == [2, 1]
    for sigma, found, network in zip(path.sigmas, path.maps, networks[::-1], strict=True):
        _, alone = Watch(EDMDenoiser(network).eval(), Query(4, 4, 8, 8)).at(x, sigma, labels)
        for name, one in found.items():
            torch.testing.assert_close(one.weights, alone[name].weights)
    assert not torch.allclose(*(maps[path.layers[0]].weights for maps in path.maps))


def test_the_last_layer_at_each_resolution_is_shown_where_nothing_is_said():
    x = torch.randn(1, 1, 8, 8)
    watch = Watch(EDMDenoiser(DiffiTUNet(TINY_DIFFIT)).eval(), Query(4, 4, 8, 8))
    assert few(watch.at(x, 1.0)[1]) == ["unet.decoder.0.cells.1", "unet.decoder.1.cells.1"]
    config = dataclasses.replace(TINY_TRANSFORMER, channels=1, depth=7, learned_variance=False)
    watch = Watch(EDMDenoiser(DiffiTTransformer(config)).eval(), Query(4, 4, 8, 8))
    assert few(watch.at(x, 1.0)[1]) == ["blocks.0", "blocks.3", "blocks.6"]


def save(network, folder, steps=5, **more):
    Pipeline(awake(network), Sampler(num_steps=steps), precision="fp32", **more).save_pretrained(
        folder
    )
    return str(folder)


def figure_of(tmp_path, *arguments):
    out = tmp_path / "figure.png"
    main(["analyze", "attention", *arguments, "--out", str(out)])
    with Image.open(out) as figure:
        assert figure.width > 300
    return json.loads(out.with_suffix(".json").read_text()), load_file(
        out.with_suffix(".safetensors")
    )


def test_the_command_draws_maps_and_writes_what_they_are(tmp_path, capsys):
    """Its arrays are those of the Python function on the pipeline's own path."""
    folder = save(DiffiTUNet(TINY_DIFFIT), tmp_path / "model")
    facts, arrays = figure_of(tmp_path, folder, "--seeds", "3,7", "--query", "6", "1")
    assert "2 layers of 7 at 5 noise levels" in capsys.readouterr().out
    (model,) = facts["models"]
    assert (facts["query"], facts["seeds"], model["model"]) == ([6, 1], [3, 7], "model")
    assert facts["heads"] == "mean"
    pipe = Pipeline.from_pretrained(folder)
    begun = pipe.begin([3, 7])
    states = [(begun.sigma, begun.start), *((s.sigma, s.x) for s in begun.steps if s.sigma)]
    assert model["sigmas"] == pytest.approx([sigma for sigma, _ in states])
    watch = Watch(pipe.denoiser, Query(6, 1, 8, 8), ["unet.decoder.1.cells.1"])
    for time, (sigma, x) in enumerate(states):
        with autocast(pipe.precision, pipe.device):
            estimate, maps = watch.at(x, sigma, begun.class_labels)
        found = maps["unet.decoder.1.cells.1"]
        torch.testing.assert_close(
            arrays[f"0.{time}.weights.unet.decoder.1.cells.1"], found.weights
        )
        torch.testing.assert_close(arrays[f"0.{time}.estimate"], estimate)
    layer = model["layers"][-1]
    assert layer["windows"][0] == {"top": 4, "left": 0, "rows": 4, "columns": 4}
    assert layer["shapes"][0] == [2, 2, 8, 8]
    assert str(tmp_path) not in json.dumps(facts)


def test_with_and_without_tmsa_side_by_side(tmp_path):
    own = save(DiffiTUNet(TINY_DIFFIT), tmp_path / "tmsa")
    plain = dataclasses.replace(TINY_DIFFIT, time_in="separate")
    other = save(DiffiTUNet(plain), tmp_path / "plain", steps=9)
    none = dataclasses.replace(TINY_DIFFIT, time_in="none", num_classes=0)
    third = save(DiffiTUNet(none), tmp_path / "none")
    facts, arrays = figure_of(
        tmp_path, own, "--beside", other, "--heads", "0", "1", "0", "--levels", "3",
        "--layers", "0", "unet.middle.0",
    )  # fmt: skip
    assert facts["heads"] == [0, 1], "each once, as layers are"
    first, second = facts["models"]
    assert first["sigmas"] == second["sigmas"]
    assert len(first["sigmas"]) == 3
    assert [layer["layer"] for layer in second["layers"]] == [
        "unet.encoder.0.cells.0", "unet.middle.0"
    ]  # fmt: skip
    shares = [arrays[f"{model}.0.time_share.unet.middle.0"] for model in (0, 1)]
    assert float(shares[0].abs().max()) == 0
    assert float(shares[1].min()) > 0
    facts, _ = figure_of(tmp_path, own, "--beside", third)
    assert facts["models"][1]["model"] == "none"


def test_relays_experts_and_latents_have_maps_too(tmp_path):
    low = Sampler(num_steps=4, sigma_min=0.01, truncation_sigma=0.9)
    relay = RelayPipeline(DiffiTUNet(TINY_DIFFIT), low, process=RelayProcess(patch=2))
    small = dataclasses.replace(TINY_DIFFIT, resolution=4, widths=(16,), num_cells=(1,))
    relay.first = DiffiTPipeline(DiffiTUNet(small), Sampler(num_steps=2))
    relay.save_pretrained(tmp_path / "relay")
    facts, _ = figure_of(tmp_path, str(tmp_path / "relay"))
    assert max(facts["models"][0]["sigmas"]) < 0.9
    pipes = [Pipeline(IUNet(TINY_IUNET), Sampler(num_steps=6)) for _ in range(2)]
    MEMEPipeline.merged(pipes, (1.0,)).save_pretrained(tmp_path / "experts")
    facts, _ = figure_of(tmp_path, str(tmp_path / "experts"))
    assert sorted(set(facts["models"][0]["experts"])) == [1, 2]
    latent = LatentDiffiTPipeline(
        awake(DiffiTTransformer(TINY_TRANSFORMER)), AncestralSampler(num_steps=3), vae=tiny_vae()
    )
    latent.save_pretrained(tmp_path / "latent")
    facts, arrays = figure_of(tmp_path, str(tmp_path / "latent"), "--query", "15", "15")
    assert facts["image"] == [16, 16]
    assert arrays["0.0.weights.blocks.0"].shape == (2, 2, 4, 4)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(DiffiTUNet(TINY_DIFFIT), root / "model", steps=3)
    save(DiffiTUNet(dataclasses.replace(TINY_DIFFIT, num_classes=5)), root / "five")
    save(ADMUNet(dataclasses.replace(TINY_ADM, attention_resolutions=())), root / "middle")
    large = dataclasses.replace(TINY_DIFFIT, resolution=16)
    save(DiffiTUNet(large), root / "larger")
    DSNOPipeline(temporalize(DiffiTUNet(TINY_DIFFIT))).save_pretrained(root / "operator")
    LatentDiffiTPipeline(
        DiffiTTransformer(TINY_TRANSFORMER), AncestralSampler(num_steps=2), image_resolution=64
    ).save_pretrained(root / "latent")
    RelayPipeline(
        DiffiTUNet(TINY_DIFFIT),
        Sampler(num_steps=3, sigma_min=0.01, sigma_max=0.5),
        process=RelayProcess(patch=2),
    ).save_pretrained(root / "relay")
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(8, 8), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(root / "ddpm")
    return root


WRONG = [
    ("model --layers midle", "there is no attention layer 'midle': they are 0 unet.encoder"),
    ("model --layers 7", "there is no attention layer '7': they are 0 unet.encoder.0.cells.0, 1"),
    ("model --heads 9", "unet.encoder.0.cells.0 has 2 heads, number 0 to 1, and no head 9"),
    ("model --heads -1", "--heads must be at least 0, not -1"),
    ("model --layers 2 --heads 4", "unet.middle.0 has 4 heads, number 0 to 3, and no head 4"),
    ("model --query 8 0", "row 8 and column 0, is outside of the image of 8 x 8 px"),
    ("model --query 0 99", "row 0 and column 99, is outside of the image of 8 x 8 px"),
    ("model --levels 4", "--levels 4: the sampler passes 3 noise levels"),
    ("model --levels 0", "--levels must be at least 1, not 0"),
    ("model --seeds 0-16", "--seeds names 17 seeds: a figure has 16 at most"),
    ("model --compile", "--compile: a compiled network can't be watched"),
    ("model --out figure.pdf", "--out is a .png file, not figure.pdf"),
    ("operator", "an operator makes the whole path in one evaluation"),
    ("ddpm", "the model has no attention layers to watch"),
    ("latent", "no VAE was saved with it to draw them: pass --vae"),
    ("relay", "or pass --first"),
    ("model --beside {root}/larger", "works on 8 px with 1 channels, and"),
    ("model --beside {root}/five", "has 3 classes, and"),
    ("model --beside {root}/operator", "an operator has no noise levels: compare two operators"),
    ("model --beside {root}/relay", "inverts a GaussianProcess, and"),
    ("model --beside {root}/middle", "the models have other layers"),
    ("model --beside {root}/middle --layers 0", "there is no attention layer"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "answer"), WRONG, ids=[command for command, _ in WRONG])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_what_is_wrong_is_one_line(models, tmp_path, monkeypatch, capsys, command, answer):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["analyze", "attention", *f"{models}/{command}".format(root=models).split()])
    said = capsys.readouterr().err
    assert answer in " ".join(said.split())
    assert len(said.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []
