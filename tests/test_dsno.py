"""Networks of trajectories: what temporal layers are put into, and the published ones."""

import copy
import dataclasses
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import own_parts
from helpers import TINY_DIFFIT, TINY_DSNO, TINY_SONG, Golden, awake, deviation, tiny_networks
from overtone import settings
from overtone.cli.app import main
from overtone.convert import from_published
from overtone.convert.dsno import SETTINGS, config_of, pipeline_of
from overtone.denoisers import SolutionOperator
from overtone.errors import OvertoneError
from overtone.networks import (
    DiffiTUNet,
    DSNOUNet,
    SongUNet,
    TemporalNetwork,
    load_network,
    temporalize,
)
from overtone.networks.network import Spot
from overtone.networks.spectral import TemporalConv
from overtone.pipelines import load_pipeline


@pytest.mark.parametrize("name", ["dsno_uncond", "dsno_class_cond"])
def test_the_network_is_the_published_one(name):
    golden = Golden(name)
    network = from_published("dsno", golden.state, golden.config)
    labels = golden["in.class_labels"] if network.config.num_classes else None
    with torch.no_grad():
        out = network(golden["in.noise"], golden["in.t"], labels)
        last = network(golden["in.noise"], golden["in.t"], labels, last_only=True)
    assert deviation(out, golden["out.trajectory"]) < 2e-6
    assert deviation(last, golden["out.trajectory"][:, -1:]) < 2e-6


def a_diffusers_unet(**changes):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    usual = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 8,
        "attention_head_dim": 8,
    }
    return UNet2DModel(**usual | changes)


KINDS = [
    *tiny_networks(),
    a_diffusers_unet(),
    a_diffusers_unet(time_embedding_type="fourier"),
    DiffiTUNet(dataclasses.replace(TINY_DIFFIT, decoder="aggregation")),
]
NAMES = ["diffit", "adm", "song", "ncsn", "iunet", "transformer"]
NAMES += ["diffusers", "diffusers-fourier", "aggregation"]
TIMES = torch.tensor([0.9, 0.4, 0.2, 0.1])


def inputs(network):
    config = network.config
    channels = getattr(config, "channels", None) or config.in_channels
    labels = torch.tensor([0, 2]) if getattr(config, "num_classes", 0) else None
    return torch.randn(2, channels, 8, 8), labels


@pytest.mark.parametrize("network", KINDS, ids=NAMES)
def test_at_first_it_is_the_network_at_each_time_by_itself(network):
    network = awake(copy.deepcopy(network)).eval()
    operator, (x, labels) = temporalize(network), inputs(network)
    with torch.no_grad():
        out = operator.eval()(x, TIMES, labels)
        alone = []
        for time in TIMES:
            own = (x, time.expand(2)) if labels is None else (x, time.expand(2), labels)
            made = network(*own)
            alone.append(made if isinstance(made, torch.Tensor) else made.sample)
    expected = torch.stack(alone, 1)[:, :, : x.shape[1]]
    assert deviation(out, expected) < 1e-5
    added = operator.num_parameters / sum(p.numel() for p in network.parameters()) - 1
    assert 0.02 < added < 0.1


@pytest.mark.parametrize("network", KINDS, ids=NAMES)
def test_times_know_of_each_other_and_the_last_alone_is_the_same(network):
    operator, (x, labels) = awake(temporalize(network)).eval(), inputs(network)
    with torch.no_grad():
        whole = operator(x, TIMES, labels)
        last = operator(x, TIMES, labels, last_only=True)
        other = operator(x, torch.cat((TIMES[:1] + 0.5, TIMES[1:])), labels)
    assert last[:, -1].shape == x.shape
    assert deviation(last[:, -1], whole[:, -1]) < 1e-6
    assert deviation(other[:, -1], whole[:, -1]) > 1e-4


def test_every_parameter_learns():
    for network in (*KINDS[:6], DSNOUNet(TINY_DSNO)):
        operator = network if isinstance(network, DSNOUNet) else temporalize(network)
        operator = awake(operator).train()
        x, labels = inputs(network)
        operator(x, TIMES, labels).square().sum().backward()
        # A key's bias, and the time's part of it, cancel in the softmax.
        for name, parameter in operator.named_parameters():
            assert parameter.grad is not None, name
            assert bool((parameter.grad != 0).any()), name


@pytest.mark.parametrize(
    "make",
    [lambda: temporalize(KINDS[0]), lambda: temporalize(KINDS[6]), lambda: DSNOUNet(TINY_DSNO)],
)
def test_saved_and_loaded_it_is_the_same(make, tmp_path):
    operator = awake(make()).eval()
    operator.save_pretrained(tmp_path / "network")
    again = load_network(tmp_path / "network")
    x, labels = inputs(operator)
    with torch.no_grad():
        assert torch.equal(again(x, TIMES, labels), operator(x, TIMES, labels))
    assert settings.dump(again.config) == settings.dump(operator.config)


def test_nothing_behind_the_last_layer_is_computed_for_the_other_times():
    operator = DSNOUNet(TINY_DSNO).eval()
    x = torch.randn(1, 1, 8, 8)

    def counted(**options):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            operator(x, TIMES, torch.tensor([0]), **options)
        return counter.get_total_flops()

    head = 2 * 8 * 8 * 9 * 32  # a 3 x 3 convolution from 32 channels to one
    synthesis = 2 * 3 * 8 * 8 * 32  # 3 waves to one time
    assert counted() - counted(last_only=True) == 3 * (head + synthesis)


def test_a_copy_is_made_and_its_times_are_its_own():
    network = KINDS[0]
    operator = temporalize(network)
    assert not any(isinstance(m, TemporalConv) for m in network.modules())
    twin = copy.deepcopy(operator)
    x, labels = inputs(network)
    with torch.no_grad():
        twin(x, TIMES[:2], labels)
    assert twin.axis is not operator.axis
    assert sum(getattr(m, "is_last", False) for m in twin.modules()) == 1


def test_a_network_that_names_no_places_gets_a_layer_behind_its_output(tmp_path):
    network = awake(own_parts.Plain(own_parts.PlainConfig(num_classes=3))).eval()
    operator = temporalize(network)
    x, labels = inputs(network)
    with torch.no_grad():
        together = operator(x, TIMES, labels)
        apart = [network(x, TIMES[i].expand(len(x)), labels) for i in range(len(TIMES))]
    # The layer is zero at first, and then leaves the network as it is.
    assert torch.allclose(together, torch.stack(apart, dim=1), atol=1e-6)
    (layer,) = (m for m in operator.modules() if isinstance(m, TemporalConv))
    nn.init.normal_(layer.weight, std=0.3)
    with torch.no_grad():
        full, last = operator(x, TIMES, labels), operator(x, TIMES, labels, last_only=True)
        assert not torch.allclose(full, together)
        assert torch.allclose(full[:, -1:], last, atol=1e-6)
        wanted = layer(torch.stack(apart, dim=1))
    assert torch.allclose(full, wanted, atol=1e-6)
    operator.save_pretrained(tmp_path / "network")
    with torch.no_grad():
        assert torch.equal(load_network(tmp_path / "network")(x, TIMES, labels), full)


class Residual(own_parts.Plain):
    """Adds what its blocks return to what was there before: the places are within a sum."""

    def __init__(self, config):
        super().__init__(config)
        self.blocks = nn.ModuleList(nn.Conv2d(1, 1, 3, padding=1) for _ in range(2))

    def forward(self, x, time, class_labels=None):
        for block in self.blocks:
            x = x + block(x) * (1 + time[:, None, None, None])
        return x

    def temporal_spots(self):
        return (Spot(self.blocks, n, 1) for n in range(2))


def test_places_within_a_sum_are_computed_for_every_time():
    network = awake(Residual(own_parts.PlainConfig())).eval()
    operator, x = awake(temporalize(network)).eval(), torch.randn(2, 1, 8, 8)
    sampled = SolutionOperator(operator)
    with torch.no_grad():
        full = operator(x, TIMES)
        assert torch.equal(operator(x, TIMES, last_only=True), full[:, -1:])
        states = sampled.solve(x, 80.0, (2.0, 0.5, 0.0))
        assert torch.equal(sampled.solve(x, 80.0, (2.0, 0.5, 0.0), last_only=True)[0], states[-1])


def test_the_network_sees_and_returns_states_of_the_variance_preserving_frame():
    # x(s') = sqrt(1 + s'^2) F(x(s) / sqrt(1 + s^2); times of s')
    network = awake(Residual(own_parts.PlainConfig())).eval()
    operator = SolutionOperator(awake(temporalize(network)).eval())
    x, levels = 80.0 * torch.randn(2, 1, 8, 8), (2.0, 0.5, 0.0)
    with torch.no_grad():
        own = operator.network(x / 6401**0.5, operator.times(levels, x.device))
        solved = operator.solve(x, 80.0, levels)
    for state, out, variance in zip(solved, own.unbind(1), (5.0, 1.25, 1.0), strict=True):
        assert deviation(state, variance**0.5 * out) < 1e-6


def test_what_cannot_be_given_temporal_layers():
    with pytest.raises(ValueError, match="a Linear can't be given temporal layers"):
        temporalize(nn.Linear(1, 1))
    skipping = a_diffusers_unet(
        down_block_types=("SkipDownBlock2D", "SkipDownBlock2D"),
        up_block_types=("SkipUpBlock2D", "SkipUpBlock2D"),
    )
    with pytest.raises(ValueError, match="SkipDownBlock2D can't be given temporal layers"):
        temporalize(skipping)


def test_published_settings_that_are_not_implemented_are_named():
    golden = Golden("dsno_uncond")
    with pytest.raises(OvertoneError, match="fourier_feature True"):
        from_published("dsno", golden.state, golden.config | {"fourier_feature": True})
    config = {k: v for k, v in golden.config.items() if k != "num_modes"}
    with pytest.raises(OvertoneError, match="lack 'num_modes'"):
        from_published("dsno", golden.state, config)
    with pytest.raises(OvertoneError, match="not the weights of a DSNO"):
        from_published("dsno", {"all_modules.99.weight": torch.zeros(1)}, golden.config)
    with pytest.raises(OvertoneError, match="weights1"):
        from_published("temporal-conv", {"weights": torch.zeros(1)})


def test_gradient_checkpointing_gives_the_same_gradients():
    operator = awake(temporalize(KINDS[5]))
    x, labels = inputs(KINDS[5])
    gradients = []
    for keep in (True, False):
        operator.network.gradient_checkpointing = not keep
        operator.zero_grad()
        operator(x, TIMES, labels).square().sum().backward()
        gradients.append([p.grad.clone() for p in operator.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_network_without_classes_takes_none():
    network = SongUNet(dataclasses.replace(TINY_SONG, num_classes=0))
    operator = temporalize(network)
    assert isinstance(operator, TemporalNetwork)
    with warnings.catch_warnings(), torch.no_grad():
        assert operator(torch.randn(3, 1, 8, 8), TIMES[:2]).shape == (3, 2, 1, 8, 8)


@pytest.mark.parametrize("name", ["dsno_uncond", "dsno_class_cond"])
def test_published_checkpoints_convert(name, tmp_path, capsys):
    """As the published code saves them: state dictionaries in a .pt, settings in a .yaml beside."""
    golden = Golden(name)
    own = golden.config
    state = {f"module.{key}": tensor for key, tensor in golden.state.items()}
    other = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    torch.save({"model": other, "ema": state, "optim": {"state": {}}}, tmp_path / "model.pt")
    spacing = {"dsno_uncond": "quad", "dsno_class_cond": "uniform"}[name]
    data = {"image_size": 16, "num_channels": 3, "time_step": spacing, "t_idx": [0, 4, 8, 12, 16]}
    kept = {k: v for k, v in own.items() if k not in ("image_size", "num_channels", "num_times")}
    (tmp_path / "own.yaml").write_text(json.dumps({"data": data, "model": kept | {"num_t": 4}}))
    command = ["convert", "dsno", str(tmp_path / "model.pt"), str(tmp_path / "out")]
    (tmp_path / "list.yaml").write_text("- nf")
    with pytest.raises(SystemExit):
        main([*command, "--settings", str(tmp_path / "list.yaml")])
    assert "has no sections 'data' and 'model'" in capsys.readouterr().err
    main([*command, "--settings", str(tmp_path / "own.yaml")])
    assert "4 times" in capsys.readouterr().err
    pipe = load_pipeline(tmp_path / "out")
    pipe.precision = "fp32"
    z = golden["in.noise"]
    labels = golden["in.class_labels"] if pipe.num_classes else None
    with torch.no_grad():
        made = pipe.denoiser(z, pipe.sampler.levels[1:], labels)
    assert deviation(made, golden["out.trajectory"]) < 1e-5
    assert pipe.sampler.sigma_start == pytest.approx(22026.5, rel=1e-4)
    proof = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert proof["kind"] == "dsno"
    assert proof["parameters"] == pipe.network.num_parameters
    assert len(pipe([0, 1])) == 2


def test_the_published_networks_are_of_the_published_size():
    """65.8 M and 329.2 M parameters, if the imaginary part of the constant mode's weights, which
    does nothing, is counted in; without temporal layers 60.0 M and 295.9 M."""
    for name, whole, without in (("cifar10", 65.8, 60.0), ("imagenet64", 329.2, 295.9)):
        with torch.device("meta"):
            network = DSNOUNet(config_of(SETTINGS[name]))
        layers = [m for m in network.modules() if isinstance(m, TemporalConv)]
        temporal = sum(layer.weight.numel() for layer in layers)
        nothing = sum(layer.weight[0].numel() for layer in layers)
        assert (network.num_parameters - temporal) / 1e6 == pytest.approx(without, abs=0.05)
        assert (network.num_parameters + nothing) / 1e6 == pytest.approx(whole, abs=0.05)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "holds no tensors under 'ema'"),
        ({"ema": {"a": 1}}, "holds no tensors under 'ema'"),
        (
            {"ema": {"all_modules.0.weight": torch.zeros(2)}},
            "not (the|those)",
        ),
    ],
)
def test_files_that_are_no_operator(content, message, tmp_path):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(OvertoneError, match=message):
        pipeline_of(tmp_path / "model.pt", SETTINGS["cifar10"])


COMPILED = """
import sys

import torch

sys.path.insert(0, sys.argv[1])
from helpers import awake, deviation, tiny_networks
from overtone.networks import temporalize
from overtone.networks.network import compile_network

for network in (tiny_networks()[0], tiny_networks()[5]):
    operator = awake(temporalize(network)).eval()
    x, times, labels = torch.randn(2, 1, 8, 8), torch.tensor([0.9, 0.4, 0.1]), torch.tensor([0, 2])
    with torch.no_grad():
        whole, last = operator(x, times, labels), operator(x, times, labels, last_only=True)
        compile_network(operator, backend="eager", fullgraph=True)
        assert deviation(operator(x, times, labels), whole) < 1e-5
        assert deviation(operator(x, times, labels, last_only=True), last) < 1e-5
"""


@pytest.mark.slow
def test_compiled_it_is_the_same():
    """Blocks are compiled once for all: what the last one does else must not be lost. In a process
    without the tests' type checks, which are not to be compiled."""
    folder = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", COMPILED, folder], check=True)


def test_what_was_made_in_inference_mode_can_be_trained_with():
    operator, (x, labels) = temporalize(KINDS[0]), inputs(KINDS[0])
    with torch.inference_mode():
        operator(x, TIMES, labels)
    operator(x, TIMES, labels).sum().backward()


def test_conditions_of_augmentation_are_left_behind():
    config = dataclasses.replace(TINY_DIFFIT, augment_channels=9)
    network = awake(DiffiTUNet(config))
    operator, (x, labels) = temporalize(network), inputs(network)
    assert operator.config.network.augment_channels == 0
    with torch.no_grad():
        alone = network(x, TIMES[:1].expand(2), labels)
        assert deviation(operator(x, TIMES[:1].repeat(2), labels)[:, 0], alone) < 1e-5
    operator(x, TIMES, labels).square().sum().backward()
    assert all(parameter.grad is not None for parameter in operator.parameters())
    assert network.config.augment_channels == 9
