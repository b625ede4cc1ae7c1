"""Experts for intervals of noise levels: which is asked, which reside where, how they merge."""

import copy
import dataclasses
import math

import pytest
import torch

from helpers import TINY_ADM, TINY_DIFFIT, TINY_IUNET, awake, deviation
from overtone.cli.app import main
from overtone.denoisers import EDMDenoiser, ExpertDenoiser, GuidedDenoiser, VPDenoiser
from overtone.denoisers.intervals import intervals_of, time_shares
from overtone.denoisers.residence import Residence
from overtone.errors import OvertoneError
from overtone.networks import ADMUNet, DiffiTUNet, Experts, IUNet
from overtone.pipelines import MEMEPipeline, Pipeline, RelayPipeline, load_pipeline
from overtone.processes import GaussianProcess, RelayProcess, SeededNoise
from overtone.processes.discrete import step_shares
from overtone.samplers import Sampler, budget_grid


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


class Elsewhere(Residence):
    """On another device, as it were."""

    def _moved(self, tensor):
        return tensor.clone()


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
            for n, buffers in enumerate(residence.buffers):
                (buffer,) = buffers
                pairs = zip(buffer.tensors, buffer.on_host(), strict=True)
                assert {t.data_ptr() != h.data_ptr() for t, h in pairs} == {n in residence.there}
                kept = [getattr(m, "_kept", None) is not None for m in alone[n].modules()]
                assert n in residence.there or not any(kept)
                biases += sum(kept)
    assert biases
    # Room for two: the next one down is there before it is asked for.
    assert residence.log == {1: [2, 1, 0, 2], 2: [2, 1, 0, 2, 1], 3: [2, 1, 0]}[resident]


def test_experts_that_share_weights_leave_each_other_what_they_share():
    denoiser, alone = experts_of((0.5, 3.0))
    shared = ExpertDenoiser([alone[0], alone[1], alone[0]], denoiser.intervals)
    residence = Elsewhere(list(shared.experts), torch.device("cpu"), 2)
    (first,), (second,), (third,) = residence.buffers
    assert first is third
    weight, inner = first.tensors[0], second.tensors[0]
    for number in (2, 1):  # 2 has the tensors of 0
        residence.enter(number)
    residence.expect(0)  # for which 2 makes room
    assert weight.data_ptr() != first.host.data_ptr()
    residence.clear()
    assert weight.data_ptr() == first.host.data_ptr()
    assert inner.data_ptr() == second.host.data_ptr()


def test_what_some_experts_share_is_a_buffer_beside_their_own():
    denoiser, alone = experts_of((0.5, 3.0))
    trunk = next(alone[0].network.children())
    for expert in alone[1:]:
        setattr(expert.network, next(iter(dict(expert.network.named_children()))), trunk)
    x, labels, levels = torch.randn(1, 1, 8, 8), torch.tensor([1]), (9.0, 2.0, 0.1, 2.0, 9.0)
    with torch.no_grad():
        expected = [denoiser(x, sigma, labels).x_0 for sigma in levels]
        residence = denoiser.residence = Elsewhere(alone, torch.device("cpu"), 1)
        assert [len(buffers) for buffers in residence.buffers] == [2, 2, 2]
        shared = residence.buffers[0][0]
        assert {id(t) for t in shared.tensors} == {id(t) for t in trunk.parameters()}
        assert all(shared in buffers for buffers in residence.buffers)
        for sigma, wanted in zip(levels, expected, strict=True):
            assert torch.equal(denoiser(x, sigma, labels).x_0, wanted)


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
    assert twin.residence.buffers[0][0].tensors[0] is next(twin.experts[0].parameters())


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
    message = "9 noise levels of its own, which can't be made into 4 steps"
    with pytest.raises(OvertoneError, match=message):
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
