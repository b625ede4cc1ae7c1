import copy
import dataclasses
import math

import pytest
import torch

from helpers import TINY_ADM, TINY_DIFFIT, TINY_IUNET, Golden, awake, deviation
from overtone import settings, storage
from overtone.cli.app import main
from overtone.convert import from_published
from overtone.denoisers import EDMDenoiser, ExpertDenoiser, GuidedDenoiser, VPDenoiser
from overtone.denoisers.intervals import intervals_of, time_shares
from overtone.denoisers.residence import Residence
from overtone.errors import OvertoneError
from overtone.networks import ADMConfig, ADMUNet, DiffiTUNet, Experts, IUNet, IUNetConfig
from overtone.networks.configs.iunet import RATIOS, inception_heads, ratio
from overtone.networks.inception import InceptionCell, InceptionMixer
from overtone.networks.network import multiply_adds
from overtone.pipelines import MEMEPipeline, Pipeline, RelayPipeline, load_pipeline
from overtone.processes import (
    DiscreteSchedule,
    GaussianProcess,
    QuantileSchedule,
    RelayProcess,
    SeededNoise,
    VPLinearSchedule,
)
from overtone.processes.discrete import step_shares
from overtone.runs import find_checkpoint
from overtone.samplers import Sampler, budget_grid
from overtone.training.configs.denoising import DenoisingRecipe, ExpertSettings
from overtone.training.configs.training import Reporting, Training
from overtone.training.experts import finished_experts, merged_run, train_experts
from overtone.training.loop import Trainer
from overtone.training.objectives import soft_interval
from overtone.training.recipes.meme import (
    meme_celeba64,
    meme_celebahq,
    meme_digits,
    meme_fashion_mnist,
    meme_ffhq,
)


@pytest.mark.parametrize("name", ["mixer_pool1", "mixer_pool2", "block"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_published_inception_outputs(name, layout):
    golden = Golden(f"iformer_{name}")
    module = from_published(f"iformer-{name.split('_')[0]}", golden.state, golden.config)
    module.to(memory_format=layout)
    x = golden["in"].permute(0, 3, 1, 2).contiguous(memory_format=layout)
    with torch.no_grad():
        out = module(x)
    assert deviation(out.permute(0, 2, 3, 1), golden["out"]) < 2e-6


def test_published_inception_settings_and_weights_are_checked():
    golden = Golden("iformer_mixer_pool1")
    with pytest.raises(OvertoneError, match="lack 'num_heads'"):
        from_published("iformer-mixer", golden.state, {"dim": 32, "attention_head": 6})
    with pytest.raises(OvertoneError, match="not the weights of an InceptionMixer"):
        from_published("iformer-mixer", golden.state, golden.config | {"attention_head": 5})
    with pytest.raises(OvertoneError, match="not the weights of an InceptionCell"):
        from_published("iformer-block", golden.state, golden.config)


@pytest.mark.parametrize(("height", "width", "pool"), [(7, 5, 1), (7, 5, 2), (6, 10, 3), (1, 1, 2)])
def test_mixer_takes_any_height_and_width(height, width, pool):
    torch.manual_seed(0)
    mixer = InceptionMixer(16, heads=4, low_heads=2, pool=pool)
    low = torch.randn(2, 8, height, width)
    out = mixer.attend(low)
    assert mixer(torch.randn(2, 16, height, width)).shape == (2, 16, height, width)
    # By hand: means over what of each window there is, and all its pixels get what it gets.
    for y in range(height):
        for x in range(width):
            top, left = y // pool * pool, x // pool * pool
            assert torch.equal(out[:, :, y, x], out[:, :, top, left])
    windows = [
        low[:, :, y : y + pool, x : x + pool].mean(dim=(2, 3))
        for y in range(0, height, pool)
        for x in range(0, width, pool)
    ]
    q, k, v = mixer.qkv(torch.stack(windows, 1)).view(2, -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / math.sqrt(4)).softmax(-1)
    expected = (weights @ v).transpose(1, 2).reshape(2, -1, 8)
    assert torch.allclose(out[:, :, ::pool, ::pool].flatten(2).mT, expected, atol=1e-6)


@pytest.mark.parametrize(("heads", "low_heads"), [(4, 0), (4, 4), (4, 5), (3, 1), (0, 0), (16, 15)])
def test_mixer_refuses_splits_that_leave_a_branch_nothing(heads, low_heads):
    with pytest.raises(ValueError, match=r"attention needs one head|does not divide into"):
        InceptionMixer(16, heads, low_heads)


def test_a_cell_starts_as_the_identity_and_hears_the_time():
    torch.manual_seed(0)
    cell = InceptionCell(16, 4, 2, pool=2, embedding_width=8)
    x, embedding = torch.randn(2, 16, 6, 6), torch.randn(2, 8)
    assert torch.equal(cell(x, embedding), x)
    awake(cell)
    assert not torch.allclose(cell(x, embedding), cell(x, embedding + 1))


def test_ratios_pass_through_the_published_points_and_fall_with_depth_and_time():
    for (expert, level), value in RATIOS.items():
        assert ratio(expert, level) == pytest.approx(value)
    for expert in range(1, 5):
        falling = [ratio(expert, level) for level in range(1, 5)]
        assert falling == sorted(falling, reverse=True)
    for level in range(1, 5):
        falling = [ratio(expert, level) for expert in range(1, 5)]
        assert falling == sorted(falling, reverse=True)
    # d_h : d_l of the deepest level comes out as published: 128 : 384 and 32 : 480.
    widths = (128, 256, 384, 512)
    assert inception_heads(widths, 32, 1, 4)[3] == 12
    assert inception_heads(widths, 32, 4, 4)[3] == 15


def test_every_expert_keeps_channels_for_both_branches():
    for widths in ((64, 64), (32, 64, 64), (128, 256, 384, 512), (64,)):
        for experts in (1, 2, 3, 4, 8):
            for expert in range(1, experts + 1):
                heads = inception_heads(widths, 32 if min(widths) > 32 else 16, expert, experts)
                for width, count in zip(widths, heads, strict=True):
                    InceptionMixer(width, width // (32 if min(widths) > 32 else 16), count)
    with pytest.raises(ValueError, match="expert 5 is not one of 1 to 4"):
        inception_heads((64,), 32, 5, 4)
    with pytest.raises(ValueError, match="width 32 does not divide into two heads"):
        inception_heads((32,), 32)


def test_the_published_sizes():
    """Parameters and, three forward passes' worth as the paper counts, multiply-adds."""
    widths = (128, 256, 384, 512)
    iunet = IUNetConfig.ldm(128, inception_heads=inception_heads(widths, 32))
    for config, parameters, published, tolerance in (
        (ADMConfig.ldm(), 274.1e6, 288.2e9, 0.01),
        (ADMConfig.ldm(128), 89.5e6, 94.2e9, 0.01),
        (iunet, 82.6e6, 90.5e9, 0.05),
    ):
        with torch.device("meta"):
            network = (IUNet if config is iunet else ADMUNet)(config)
        assert network.num_parameters == pytest.approx(parameters, rel=tolerance)
        assert 3 * multiply_adds(network) == pytest.approx(published, rel=tolerance)


def test_an_iunet_mixes_in_the_encoder_alone():
    network = IUNet(TINY_IUNET)
    kinds = {
        stage: [
            type(cell).__name__ for level in getattr(network.unet, stage) for cell in level.cells
        ]
        for stage in ("encoder", "decoder")
    }
    assert kinds["encoder"] == ["ResidualCell", "InceptionCell"] * 2
    assert set(kinds["decoder"]) == {"ResidualCell"}
    mixers = [m for m in network.modules() if isinstance(m, InceptionMixer)]
    assert [(m.low_heads, m.pool) for m in mixers] == [(1, 2), (3, 1)]
    assert all(cell.attention is None for cell in network.unet.encoder[1].cells[::2])


@pytest.mark.parametrize("layout", ["adm", "ldm"])
def test_an_iunet_trains_and_is_saved(tmp_path, layout):
    network = awake(IUNet(dataclasses.replace(TINY_IUNET, layout=layout)))
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.7])
    network(x, time, torch.tensor([0, 3])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    network.eval().save_pretrained(tmp_path / "network")
    again = IUNet.from_pretrained(tmp_path / "network")
    with torch.no_grad():
        assert torch.equal(again(x, time), network(x, time))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inception_heads": (1,)}, "1 entries for 2 levels"),
        ({"num_cells": 1}, "2 cells a level or more"),
        ({"inception_heads": (2, 3)}, "leave 16 of 16 channels to attention"),
        ({"inception_heads": (1, 0)}, "leave 0 of 32 channels to attention"),
        ({"head_channels": 12}, "does not divide into two heads of 12"),
    ],
)
def test_iunet_settings_that_can_not_be(changes, message):
    with pytest.raises(ValueError, match=message):
        IUNet(dataclasses.replace(TINY_IUNET, **changes))


def experts_of(boundaries, kind=EDMDenoiser):
    torch.manual_seed(0)
    networks = [
        awake(IUNet(TINY_IUNET)),
        awake(DiffiTUNet(TINY_DIFFIT)),
        awake(ADMUNet(dataclasses.replace(TINY_ADM, widths=(32, 64)))),
    ]
    denoisers = [kind(network.eval()) for network in networks]
    return ExpertDenoiser(denoisers, intervals_of(boundaries)), denoisers


@pytest.mark.parametrize("kind", [EDMDenoiser, VPDenoiser])
def test_a_mixed_batch_is_split_and_put_back_in_order(kind):
    denoiser, alone = experts_of((0.5, 3.0), kind)
    x = torch.randn(7, 1, 8, 8)
    sigma = torch.tensor([2.0, 0.1, 50.0, 0.5, 0.50001, 3.0, 3.1])
    labels = torch.tensor([0, 1, 2, 3, 2, 1, 0])
    which = [1, 0, 2, 0, 1, 1, 2]
    with torch.no_grad():
        out = denoiser(x, sigma, labels).x_0
        assert denoiser.experts_at(sigma).tolist() == which
        for i, n in enumerate(which):
            one = slice(i, i + 1)
            own = alone[n](x[one], sigma[one], labels[one]).x_0
            assert deviation(out[one], own) < 1e-5
            number = float(sigma[i])
            assert denoiser.expert_at(number) == n
            assert torch.equal(
                denoiser(x[one], number, labels[one]).x_0, alone[n](x[one], number, labels[one]).x_0
            )


def test_gradients_reach_the_experts_that_were_asked():
    denoiser, alone = experts_of((0.5, 3.0))
    sigma = torch.tensor([0.1, 9.0, 0.2])
    denoiser(torch.randn(3, 1, 8, 8), sigma, torch.zeros(3, dtype=torch.long)).x_0.sum().backward()
    asked = [any(p.grad is not None for p in d.parameters()) for d in alone]
    assert asked == [True, False, True]


def test_learned_variances_are_put_back_in_order():
    class Learned(EDMDenoiser):
        def forward(self, x, sigma, class_labels=None):
            return super().forward(x, sigma, class_labels)._replace(variance=x * self.factor)

    denoisers = [Learned(ADMUNet(TINY_ADM)) for _ in range(2)]
    for factor, denoiser in enumerate(denoisers, 2):
        denoiser.factor = factor
    x = torch.randn(3, 1, 8, 8)
    out = ExpertDenoiser(denoisers, intervals_of((1.0,)))(x, torch.tensor([5.0, 0.1, 7.0]))
    assert torch.equal(out.variance, x * torch.tensor([3.0, 2.0, 3.0])[:, None, None, None])


def test_samplers_and_guidance_take_experts_as_any_denoiser():
    denoiser, alone = experts_of((0.5, 3.0))
    calls = []
    for n, expert in enumerate(alone):
        expert.register_forward_hook(lambda *_, n=n: calls.append(n))
    sampler = Sampler(num_steps=6, estimate="single")
    source = SeededNoise([1, 2])
    start = sampler.sigma_start * GaussianProcess().noise(torch.empty(2, 1, 8, 8), source)
    labels = torch.tensor([0, 1])
    guided = GuidedDenoiser(denoiser, 1.5)
    with torch.no_grad():
        out = sampler(guided, GaussianProcess(), start, source, labels)
    assert out.isfinite().all()
    assert calls == [sum(sigma > b for b in (0.5, 3.0)) for sigma in sampler.sigmas[:-1]]


@pytest.mark.parametrize(
    ("intervals", "message"),
    [
        (((0.0, 1.0), (1.0, 2.0)), "2 intervals of noise levels for 3 experts"),
        (((0.0, 1.0), (0.5, 2.0), (2.0, math.inf)), "experts 1 and 2 overlap"),
        (((0.0, 1.0), (1.0, 2.0), (3.0, math.inf)), "experts 2 and 3 leave a gap"),
        (((0.1, 1.0), (1.0, 2.0), (2.0, math.inf)), "reach from sigma 0.1 to inf"),
        (((0.0, 1.0), (1.0, 2.0), (2.0, 80.0)), "reach from sigma 0 to 80"),
        (((0.0, 1.0), (1.0, 1.0), (1.0, math.inf)), "interval of expert 2 is empty"),
    ],
)
def test_intervals_cover_every_level_once(intervals, message):
    with pytest.raises(ValueError, match=message):
        ExpertDenoiser([EDMDenoiser(ADMUNet(TINY_ADM)) for _ in range(3)], intervals)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"channels": 3}, "channels: 1, 3"),
        ({"resolution": 16}, "image size: 8, 16"),
        ({"num_classes": 0}, "number of classes: 3, 0"),
    ],
)
def test_experts_belong_together(changes, what):
    networks = ADMUNet(TINY_ADM), ADMUNet(dataclasses.replace(TINY_ADM, **changes))
    with pytest.raises(ValueError, match=f"experts differ in their {what}"):
        ExpertDenoiser([EDMDenoiser(n) for n in networks], intervals_of((1.0,)))


def test_boundaries_rise():
    assert intervals_of(()) == ((0.0, math.inf),)
    for wrong in ((2.0, 1.0), (0.0,), (1.0, 1.0), (-1.0,), (math.inf,)):
        with pytest.raises(ValueError, match="boundaries between experts rise"):
            intervals_of(wrong)


def test_presets_of_boundaries():
    assert time_shares(4) == pytest.approx((0.948, 3.40, 17.0), rel=2e-2)
    for experts in (2, 3, 4):
        for steps in (6, 18):
            levels = Sampler(num_steps=steps).sigmas[:-1]
            intervals = intervals_of(step_shares(levels, experts))
            counts = [sum(low < s <= high for s in levels) for low, high in intervals]
            assert max(counts) - min(counts) <= 1
    with pytest.raises(ValueError, match="3 steps can't be shared by 4 experts"):
        step_shares((1.0, 2.0, 3.0, 0.0), 4)


@pytest.mark.parametrize("resident", [1, 2, 3])
def test_no_more_experts_are_on_the_device_than_may_reside_there(resident):
    class Device(Residence):
        """Counts what was fetched, and marks it: there is but one device here."""

        def __init__(self, *arguments):
            self.log = []
            super().__init__(*arguments)

        def _fetch(self, number):
            assert len(self.there) < self.resident
            self.log.append(number)
            super()._fetch(number)

        def _moved(self, tensor):
            return tensor.clone()

    denoiser, alone = experts_of((0.5, 3.0))
    biases = 0
    x, levels = torch.randn(1, 1, 8, 8), (40.0, 9.0, 2.0, 1.0, 0.4, 0.1, 60.0)
    labels = torch.tensor([1])
    with torch.no_grad():
        expected = [denoiser(x, sigma, labels).x_0 for sigma in levels]
        residence = Device(alone, torch.device("cpu"), resident)
        denoiser.residence = residence
        for sigma, reference in zip(levels, expected, strict=True):
            assert torch.equal(denoiser(x, sigma, labels).x_0, reference)
            number = denoiser.expert_at(sigma)
            assert number in residence.there
            assert len(residence.there) <= resident
            for n, pairs in enumerate(zip(residence.tensors, residence.host, strict=True)):
                moved = {t.data_ptr() != h.data_ptr() for t, h in zip(*pairs, strict=True)}
                assert moved == {n in residence.there}
                kept = [getattr(m, "_kept", None) is not None for m in alone[n].modules()]
                assert n in residence.there or not any(kept)
                biases += sum(kept)
    assert biases
    # Room for two: the next one down is there before it is asked for.
    assert residence.log == {1: [2, 1, 0, 2], 2: [2, 1, 0, 2, 1], 3: [2, 1, 0]}[resident]


def test_experts_that_share_weights_leave_each_other_what_they_share():
    class Device(Residence):
        def _moved(self, tensor):
            return tensor.clone()

    denoiser, alone = experts_of((0.5, 3.0))
    shared = ExpertDenoiser([alone[0], alone[1], alone[0]], denoiser.intervals)
    residence = Device(list(shared.experts), torch.device("cpu"), 2)
    weight, inner = residence.tensors[0][0], residence.tensors[1][0]
    for number in (2, 1):  # 2 has the tensors of 0
        residence.enter(number)
    residence.expect(0)  # for which 2 makes room
    assert weight.data_ptr() != residence.host[0][0].data_ptr()
    residence.clear()
    assert weight.data_ptr() == residence.host[0][0].data_ptr() == residence.host[2][0].data_ptr()
    assert inner.data_ptr() == residence.host[1][0].data_ptr()


class Elsewhere(Residence):
    """On another device, as it were."""

    def _moved(self, tensor):
        return tensor.clone()


def test_a_copy_of_experts_in_residence_is_one_of_its_own():
    denoiser, alone = experts_of((0.5, 3.0))
    x, labels = torch.randn(1, 1, 8, 8), torch.tensor([1])
    with torch.no_grad():
        expected = denoiser(x, 1.0, labels).x_0
        denoiser.residence = Elsewhere(alone, torch.device("cpu"), 1)
        denoiser(x, 9.0, labels)
        twin = copy.deepcopy(denoiser)
        for parameter in denoiser.parameters():
            parameter.data.zero_()
        assert torch.equal(twin(x, 1.0, labels).x_0, expected)
        assert not torch.equal(denoiser(x, 1.0, labels).x_0, expected)
    assert twin.residence.tensors[0][0] is next(twin.experts[0].parameters())


def test_weights_loaded_into_experts_in_residence_stay():
    denoiser, alone = experts_of((0.5, 3.0))
    others, _ = experts_of((0.5, 3.0))
    x, labels = torch.randn(1, 1, 8, 8), torch.tensor([1])
    for parameter in others.parameters():
        parameter.data.mul_(1.5)
    with torch.no_grad():
        denoiser.residence = Elsewhere(alone, torch.device("cpu"), 1)
        for sigma in (9.0, 1.0):
            denoiser(x, sigma, labels)
        denoiser.load_state_dict(others.state_dict())
        for sigma in (9.0, 0.1, 1.0):
            assert torch.equal(denoiser(x, sigma, labels).x_0, others(x, sigma, labels).x_0)


def test_resident_is_checked():
    denoiser, _ = experts_of((0.5, 3.0))
    for wrong in (0, 4):
        with pytest.raises(ValueError, match=r"resident is in \[1, 3\]"):
            denoiser.reside("cpu", wrong)


def pipelines():
    torch.manual_seed(0)
    return [
        Pipeline(awake(network), Sampler(num_steps=4), class_names=("a", "b", "c"))
        for network in (IUNet(TINY_IUNET), DiffiTUNet(TINY_DIFFIT))
    ]


def test_a_merged_pipeline_is_saved_and_comes_back(tmp_path):
    near, far = pipelines()
    pipe = MEMEPipeline.merged([near, far], (1.5,))
    before = [t for b in pipe.stream(range(3)) for t in b.images]
    pipe.save_pretrained(tmp_path / "meme")
    again = load_pipeline(tmp_path / "meme")
    assert isinstance(again, MEMEPipeline)
    assert again.network.config.boundaries == (1.5,)
    assert again.network.config.networks == ("IUNet", "DiffiTUNet")
    after = [t for b in again.to("cpu", resident=1).stream(range(3)) for t in b.images]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert again.device.type == "cpu"
    assert again.num_classes == 3
    with pytest.raises(OvertoneError, match="resident is for models of experts"):
        near.to("cpu", resident=1)
    with pytest.raises(OvertoneError, match=r"resident is in \[1, 2\]"):
        again.to("cpu", resident=3)
    with pytest.raises(OvertoneError, match="weights stay in float32"):
        near.to(torch.float16)
    pipe.network.save_pretrained(tmp_path / "network")
    pipe.network.save_pretrained(tmp_path / "network")  # over itself, as any network
    assert Experts.from_pretrained(tmp_path / "network").config == pipe.network.config


def test_second_stages_merge_into_a_relay(tmp_path):
    first = Pipeline(ADMUNet(dataclasses.replace(TINY_ADM, resolution=8)), Sampler(3))
    stages = []
    for _ in range(2):
        network = IUNet(dataclasses.replace(TINY_IUNET, resolution=16))
        stages.append(RelayPipeline(network, process=RelayProcess(patch=2)))
        stages[-1].first = first
    pipe = MEMEPipeline.merged(stages, (0.1,))
    assert isinstance(pipe, RelayPipeline)
    # A budget by interval begins where the stages' own sampler does.
    for number, stage in enumerate(stages):
        stage.sampler = Sampler(12, sigma_min=0.01, truncation_sigma=0.9)
        stage.save_pretrained(tmp_path / str(number))
    models = [str(tmp_path / "0"), str(tmp_path / "1")]
    out = str(tmp_path / "budget")
    main(["merge", *models, "--boundaries", "0.1", "--steps", "3", "4", "--out", out])
    levels = load_pipeline(out).sampler.levels
    assert levels[0] == stages[0].sampler.sigma_start < 0.9
    assert levels[-1] == pytest.approx(0.01)
    pipe.save_pretrained(tmp_path / "relay")
    again = load_pipeline(tmp_path / "relay")
    assert isinstance(again.network, Experts)
    assert again.first is not None
    assert len(again([0, 1], class_labels=1, steps=4)) == 2
    with pytest.raises(OvertoneError, match="is a relay's second stage: load_pipeline or"):
        MEMEPipeline.from_pretrained(tmp_path / "relay")
    assert isinstance(Pipeline.from_pretrained(tmp_path / "relay"), RelayPipeline)
    # Experts upscale, as any second stage does.
    assert len(again.upscale(torch.zeros(2, 1, 8, 8), class_labels=0, steps=4)) == 2


def test_merged_pipelines_belong_together():
    near, far = pipelines()
    far.denoiser.has_null_class = False
    with pytest.raises(OvertoneError, match="their null classes differ"):
        MEMEPipeline.merged([near, far], (1.5,))
    both = MEMEPipeline.merged([near, near], (1.5,))
    with pytest.raises(OvertoneError, match="none of them experts itself"):
        MEMEPipeline.merged([both, both], (1.5,))
    far.denoiser.has_null_class = True
    for known in ((near, far), (far, near)):
        known[0].training, known[1].training = {"images seen": 10}, {}
        assert "images seen" not in MEMEPipeline.merged([near, far], (1.5,)).training
    far.class_names = ("a", "b", "d")
    with pytest.raises(OvertoneError, match="1 and 2 do not belong together: their classes"):
        MEMEPipeline.merged([near, far], (1.5,))
    with pytest.raises(OvertoneError, match="no experts to merge"):
        MEMEPipeline.merged([], ())
    with pytest.raises(OvertoneError, match="2 intervals of noise levels for 1 experts"):
        MEMEPipeline.merged([near], (1.5,))


SCHEDULES = [
    QuantileSchedule(),
    VPLinearSchedule(),
    DiscreteSchedule(),
    DiscreteSchedule(num_steps=10, beta_start=0.02, beta_end=0.9),
]
EXPERTS = DenoisingRecipe(
    about="",
    data="builtin:digits",
    network=dataclasses.replace(TINY_IUNET, num_classes=0, head_channels=4),
    class_conditional=True,
    label_dropout=0.1,
    experts=ExpertSettings((0.3, 2.0), (0.8, 0.4, 0.2)),
    training=Training(
        total_images=64, batch_size=32, lr=1e-3, lr_rampup_images=32, ema_halflife_images=100,
        precision="fp32",
    ),
    reporting=Reporting(report_images=32, checkpoint_images=64, held_out_images=32, keep=1),
)  # fmt: skip


def with_experts(**changes):
    return dataclasses.replace(EXPERTS, experts=dataclasses.replace(EXPERTS.experts, **changes))


@pytest.mark.parametrize("probabilities", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.8, 0.4, 0.0)])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_are_drawn_from_each_interval_with_its_exact_probability(probabilities, schedule):
    """p_n + (1 - p_n) |I_n| of the mass on its own interval, (1 - p_n) |I_m| on another."""
    recipe = dataclasses.replace(with_experts(probabilities=probabilities), schedule=schedule)
    count = 2**16
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    intervals = [recipe.expert(m).interval for m in (1, 2, 3)]
    shares = [high - low for low, high in (recipe.expert(m).shares for m in (1, 2, 3))]
    for n, p in enumerate(probabilities, 1):
        own = recipe.expert(n)
        t = schedule.drawn(soft_interval(uniform, own.shares, own.probability))
        assert bool((t.diff() >= 0).all())
        sigma = schedule.sigma(t)
        for m, ((low, high), share) in enumerate(zip(intervals, shares, strict=True), 1):
            drawn = float(((sigma > low) & (sigma <= high)).double().mean())
            assert drawn == pytest.approx((1 - p) * share + p * (n == m), abs=1e-4)
            # Within an interval the draws are even.
            inside = soft_interval(uniform, own.shares, own.probability)
            a, b = recipe.expert(m).shares
            within = inside[(inside > a) & (inside < b)]
            if len(within) > 1000:
                assert float(within.mean()) == pytest.approx((a + b) / 2, abs=1e-3)


def test_an_expert_that_could_learn_nothing_is_refused():
    relay = QuantileSchedule(prob_length=0.5)  # ends below sigma 2
    with pytest.raises(ValueError, match="expert 3 has nothing to learn"):
        dataclasses.replace(EXPERTS, schedule=relay)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boundaries": (2.0, 0.3)}, "boundaries between experts rise"),
        ({"probabilities": (1.0, 1.0)}, "probabilities has 2 entries for 3 experts"),
        ({"probabilities": (1.0, 1.0, 1.5)}, r"probabilities are in \[0, 1\]"),
        ({"networks": (TINY_ADM,)}, "networks has 1 entries for 3 experts"),
        ({"networks": (TINY_ADM,) * 3, "shapes": "published"}, "published shapes are an IUNet's"),
    ],
)
def test_expert_settings_that_can_not_be(changes, message):
    with pytest.raises(ValueError, match=message):
        with_experts(**changes)


def test_published_shapes_give_each_expert_its_ratios():
    recipe = dataclasses.replace(
        EXPERTS,
        network=dataclasses.replace(EXPERTS.network, inception_heads=()),
        experts=dataclasses.replace(EXPERTS.experts, shapes="published"),
    )
    heads = [recipe.expert(n).network.inception_heads for n in (1, 2, 3)]
    assert heads == [inception_heads((16, 32), 4, n, 3) for n in (1, 2, 3)]
    assert heads[0] != heads[2]
    with pytest.raises(ValueError, match="numbered 1 to 3, not 4"):
        recipe.expert(4)


def test_experts_of_any_kind_are_trained_and_merged(tmp_path):
    networks = TINY_IUNET, TINY_DIFFIT, dataclasses.replace(TINY_ADM, widths=(32, 64))
    networks = tuple(dataclasses.replace(n, num_classes=0) for n in networks)
    recipe = with_experts(networks=networks)
    assert train_experts(recipe, tmp_path / "run", only=2) == [2]
    with pytest.raises(OvertoneError, match=r"lacks expert 1, 3: overtone train .* --expert 1"):
        merged_run(tmp_path / "run")
    with pytest.raises(OvertoneError, match="holds experts, not merged yet: overtone merge"):
        find_checkpoint(tmp_path / "run")
    second = (tmp_path / "run" / "expert-2" / "log.jsonl").read_bytes()
    assert train_experts(recipe, tmp_path / "run") == [1, 2, 3]
    assert (tmp_path / "run" / "expert-2" / "log.jsonl").read_bytes() == second
    pipe = merged_run(tmp_path / "run")
    kinds = [type(network).__name__ for network in pipe.network.networks]
    assert kinds == ["IUNet", "DiffiTUNet", "ADMUNet"]
    assert pipe.training["images seen"] == 3 * 64
    assert "expert" not in pipe.training
    assert len(pipe(range(2), class_labels=3, guidance_scale=1.5, steps=4)) == 2


def test_an_expert_that_fails_leaves_the_others_alone(tmp_path, monkeypatch):
    real = Trainer.run

    def run(self, directory):
        if directory.name == "expert-2":
            raise RuntimeError("out of memory, say")
        return real(self, directory)

    monkeypatch.setattr(Trainer, "run", run)
    with pytest.raises(OvertoneError, match=r"not all experts .* \(expert 2: RuntimeError: out"):
        train_experts(EXPERTS, tmp_path / "run")
    assert finished_experts(tmp_path / "run", EXPERTS) == [1, 3]
    monkeypatch.undo()
    assert train_experts(EXPERTS, tmp_path / "run") == [1, 2, 3]


def test_a_run_of_experts_goes_on_only_as_it_began(tmp_path):
    # A job that began at the same time may have written something, or been killed in between.
    storage.write_json(tmp_path / "run" / "recipe.json", {})
    (tmp_path / "run" / ".writing-12ab34cd-run.json").write_text("{")
    train_experts(EXPERTS, tmp_path / "run", only=1)
    with pytest.raises(OvertoneError, match="made with other settings"):
        train_experts(with_experts(boundaries=(0.3, 2.5)), tmp_path / "run", only=1)
    # Other probabilities of another expert do not matter to this one; its own do.
    train_experts(with_experts(probabilities=(0.8, 0.1, 0.2)), tmp_path / "run", only=1)
    with pytest.raises(OvertoneError, match=r"expert 1: .* was made with other settings"):
        train_experts(with_experts(probabilities=(0.9, 0.4, 0.2)), tmp_path / "run", only=1)


def test_what_was_merged_while_an_expert_trained_is_merged_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write_json(tmp_path / "tiny.json", settings.dump(EXPERTS))
    main(["train", "tiny.json"])
    main(["merge", "runs/tiny", "--steps", "2", "2", "2"])
    main(["train", "tiny.json"])  # which has nothing to do: what was merged by hand stays
    assert load_pipeline("runs/tiny/merged").sampler.levels
    images = EXPERTS.training.total_images
    longer = ["train", "tiny.json", "--total-images", str(2 * images), "--expert"]
    for number in "12":
        main([*longer, number])
    real = Trainer.run

    def run(self, directory):
        main(["merge", "runs/tiny"])
        assert load_pipeline("runs/tiny/merged").training["images seen"] == 5 * images
        return real(self, directory)

    monkeypatch.setattr(Trainer, "run", run)
    main([*longer, "3"])
    assert load_pipeline("runs/tiny/merged").training["images seen"] == 6 * images


def test_an_expert_resumes_bit_for_bit(tmp_path):
    whole = dataclasses.replace(
        EXPERTS, training=dataclasses.replace(EXPERTS.training, total_images=128)
    )
    train_experts(whole, tmp_path / "whole", only=3)
    train_experts(EXPERTS, tmp_path / "parts", only=3)
    train_experts(whole, tmp_path / "parts", only=3)
    a, b = (find_checkpoint(tmp_path / run / "expert-3") for run in ("whole", "parts"))
    for file in ("training/weights.safetensors", "training/ema.safetensors"):
        assert (a / file).read_bytes() == (b / file).read_bytes()


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    storage.write_json(tmp_path / "tiny.json", settings.dump(EXPERTS))
    main(["train", "tiny.json"])
    assert "3 experts: runs/tiny/merged" in capsys.readouterr().out
    main(
        [
            "sample",
            "runs/tiny",
            "--seeds",
            "0-3",
            "--steps",
            "4",
            "--resident",
            "1",
            "--out",
            "a.png",
        ]
    )
    main(["merge", "runs/tiny", "--out", "models/tiny"])
    main(["sample", "models/tiny", "--seeds", "0-3", "--steps", "4", "--out", "b.png"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    main(
        ["merge", *(f"runs/tiny/expert-{n}" for n in (1, 3)), "--boundaries", "1.5", "--out", "two"]
    )
    assert len(load_pipeline("two").network.networks) == 2
    main(["info", "runs/tiny"])
    main(["info", "models/tiny"])
    said = capsys.readouterr().out
    assert "run of experts" in said
    assert "expert 3" in said


def test_each_expert_may_take_a_number_of_steps_of_its_own(tmp_path, capsys):
    for boundaries, steps in (((0.3, 2.0), (3, 5, 2)), ((0.3, 2.0), (1, 1, 1)), ((), (7,))):
        levels = budget_grid(boundaries, steps)
        sampler = Sampler(num_steps=sum(steps), levels=levels)
        assert sampler.sigmas == (*levels, 0.0)
        assert sampler.sigma_start == pytest.approx(80.0)
        counts = [sum(low < s <= high for s in levels) for low, high in intervals_of(boundaries)]
        assert tuple(counts) == steps
    # One interval is EDM's grid.
    assert budget_grid((), (7,)) == pytest.approx(Sampler(num_steps=7).sigmas[:-1], rel=1e-12)
    for number, pipe in enumerate(pipelines()):
        pipe.save_pretrained(tmp_path / str(number))
    models = [str(tmp_path / "0"), str(tmp_path / "1")]
    out = str(tmp_path / "both")
    main(["merge", *models, "--boundaries", "1.5", "--steps", "3", "6", "--out", out])
    sampler = load_pipeline(out).sampler
    assert sum(s > 1.5 for s in sampler.levels) == 6
    assert sum(s <= 1.5 for s in sampler.levels) == 3
    with pytest.raises(OvertoneError, match="9 noise levels are given one by one: 4 steps"):
        load_pipeline(out)([0], steps=4)
    for boundaries, steps, message in (
        ((1.0,), (3,), "2 intervals take one step or more each"),
        ((1.0,), (3, 0), "2 intervals take one step or more each"),
        ((100.0,), (3, 3), "do not rise from 0.002 to 80"),
    ):
        with pytest.raises(ValueError, match=message):
            budget_grid(boundaries, steps)
    with pytest.raises(ValueError, match="levels of a sampler fall"):
        Sampler(num_steps=2, levels=(1.0, 2.0))


def test_recipes_train_their_experts_on_their_intervals_as_published():
    assert meme_ffhq().experts.probabilities == (0.8, 0.4, 0.2, 0.1)
    for make in (meme_digits, meme_fashion_mnist, meme_celeba64, meme_ffhq, meme_celebahq):
        recipe = make()
        experts = [recipe.expert(n) for n in (1, 2, 3, 4)]
        for own, published in zip(experts, (0.85, 0.55, 0.4, 0.325), strict=True):
            share = own.shares[1] - own.shares[0]
            trained = own.probability + (1 - own.probability) * share
            assert trained == pytest.approx(max(published, share), abs=1e-3)
        heads = [own.network.inception_heads for own in experts]
        assert heads[0] != heads[1] != heads[3]
