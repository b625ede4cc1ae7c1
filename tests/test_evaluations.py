"""Function evaluations: counted where networks are called, and known before they are."""

import contextlib
import dataclasses
import functools
import math

import diffusers
import pytest
import torch

import helpers
from helpers import DIFFUSERS_MARKS, awake
from overtone.denoisers import (
    ADM_DIFFUSION,
    GuidanceSettings,
    OperatorPreconditioning,
    VPPreconditioning,
)
from overtone.errors import OvertoneError
from overtone.networks import Experts, temporalize
from overtone.networks.configs.network import NetworkConfig
from overtone.networks.network import Network, compile_network
from overtone.pipelines import (
    ImageStart,
    Pipeline,
    RelayStart,
    Request,
    counting,
    evaluations_of,
    request_within,
)
from overtone.pipelines.edit import strength_sigma
from overtone.pipelines.evaluations import expected_evaluations
from overtone.processes import RelayProcess
from overtone.samplers import (
    AncestralSampler,
    OperatorSampler,
    ResamplingSampler,
    Sampler,
    SchedulerSampler,
)

pytestmark = DIFFUSERS_MARKS
replace = dataclasses.replace
VP = VPPreconditioning()
RELAY = RelayProcess(patch=2)


def adm(**changes):
    return awake(replace(helpers.TINY_ADM, **changes).build())


def a_pipe(sampler=None, **parts):
    return Pipeline(adm(), sampler or Sampler(5), **parts)


def experts(sampler=None, **parts):
    return Pipeline(Experts([adm() for _ in range(3)], (0.3, 3.0)), sampler or Sampler(5), **parts)


def relay(first, sampler=None, **parts):
    network = adm(resolution=16, attention_resolutions=(8,))
    sampler = sampler or Sampler(4, sigma_min=0.01, sigma_max=0.9, estimate="two_step")
    return Pipeline(network, sampler, process=RELAY, start=RelayStart(first), **parts)


def operator(**parts):
    return Pipeline(
        awake(temporalize(helpers.TINY_ADM.build())),
        OperatorSampler((80.0, 2.0, 0.5, 0.0)),
        preconditioning=OperatorPreconditioning(),
        **parts,
    )


def latent(**parts):
    return Pipeline(
        awake(helpers.TINY_TRANSFORMER.build()),
        AncestralSampler(6),
        preconditioning=ADM_DIFFUSION,
        vae=helpers.tiny_vae(),
        **parts,
    )


def scheduled(kind, **settings):
    scheduler = getattr(diffusers, kind)(**settings)
    return a_pipe(SchedulerSampler(scheduler, 7), preconditioning=VP)


PICTURES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
MASK = torch.arange(8) < 4


def edited(pipe, strength, resamples=1, mask=True):
    sigma = strength_sigma(pipe.sampler, strength)
    kept = MASK.expand(8, 8) if mask else None
    pipe.start = ImageStart(PICTURES, sigma, kept, resamples, base=pipe.start)
    return pipe


class Spied:
    """Rows that went into networks' own `forward`, which is another place than the hooks'."""

    def __init__(self, *pipes):
        self.rows = 0
        for pipe in pipes:
            for network in pipe.network.experts or [pipe.network]:
                network.forward = self.around(network.forward)

    def around(self, forward):
        def call(x, *others, **named):
            self.rows += len(x)
            return forward(x, *others, **named)

        return call


HEUN = 2 * 5 - 1
CASES = {
    "single": (lambda: a_pipe(Sampler(5, estimate="single")), {}, 5),
    "slopes": (a_pipe, {}, HEUN),
    "estimates": (lambda: a_pipe(Sampler(5, estimate="averaged_estimates")), {}, HEUN),
    "two steps": (lambda: a_pipe(Sampler(5, estimate="dpmpp_2m")), {}, 5),
    "other steps": (a_pipe, {"steps": 8}, 15),
    "one step": (a_pipe, {"steps": 1}, 1),
    "truncated": (lambda: a_pipe(Sampler(5, truncation_sigma=79.0)), {}, 7),
    "eta": (lambda: a_pipe(Sampler(5, eta=0.5)), {}, HEUN),
    "churn": (lambda: a_pipe(Sampler(5, S_churn=4.0)), {}, HEUN),
    "levels": (lambda: a_pipe(Sampler(2, levels=(9.0, 0.5))), {}, 3),
    "ancestral": (latent, {}, 6),
    "ancestral, guided": (latent, {"guidance_scale": 2.0}, 12),
    "guided": (a_pipe, {"guidance_scale": 2.0}, 2 * HEUN),
    "guided by the pipeline": (lambda: a_pipe(guidance=GuidanceSettings(2.0)), {}, 2 * HEUN),
    "told not to": (
        lambda: a_pipe(guidance=GuidanceSettings(2.0)),
        {"guidance_scale": 1.0},
        HEUN,
    ),
    # At 80, 17.5, 2.5, 0.17 and 0.002: Heun's slopes behind a step are at the next of them.
    "guided in an interval": (
        a_pipe,
        {"guidance_scale": 2.0, "guidance_interval": (1.0, 20.0)},
        HEUN + 2 + 2,
    ),
    "churned out of an interval": (  # to 1.4 times those levels
        lambda: a_pipe(Sampler(5, S_churn=2.0, estimate="single")),
        {"guidance_scale": 2.0, "guidance_interval": (1.0, 20.0)},
        5 + 1,
    ),
    "guided nowhere": (a_pipe, {"guidance_scale": 2.0, "guidance_interval": (90.0, 99.0)}, HEUN),
    "a guide": (a_pipe, {"guidance_scale": 2.0, "guide": a_pipe}, 2 * HEUN),
    "a guide of experts": (a_pipe, {"guidance_scale": 2.0, "guide": experts}, 2 * HEUN),
    "a guide in an interval": (
        lambda: a_pipe(Sampler(5, estimate="single")),
        {"guidance_scale": 0.0, "guide": a_pipe, "guidance_interval": (1.0, 20.0)},
        5 + 2,
    ),
    "a power of guidance": (
        lambda: latent(guidance=GuidanceSettings(2.0, channels=(0,), power=4.0)),
        {},
        12 - 1,  # at the first step, at time 1 almost, the scale is 1
    ),
    "experts": (experts, {}, HEUN),
    "experts, guided": (experts, {"guidance_scale": 2.0}, 2 * HEUN),
    "operator": (operator, {}, 1),
    "operator at times": (operator, {"times": (0.8, 0.4, 0.0)}, 1),
    "trajectory": (operator, {"return_trajectory": True}, 1),
    "DDIM": (lambda: scheduled("DDIMScheduler", clip_sample=False), {}, 7),
    "DPM-Solver": (lambda: scheduled("DPMSolverMultistepScheduler"), {"steps": 9}, 9),
    "Heun": (lambda: scheduled("HeunDiscreteScheduler"), {}, 13),
    "PNDM": (lambda: scheduled("PNDMScheduler", skip_prk_steps=True), {}, 8),
    "DDPM": (lambda: scheduled("DDPMScheduler"), {"guidance_scale": 2.0}, 14),
    "flow": (lambda: scheduled("FlowMatchEulerDiscreteScheduler"), {}, 7),
    "edited": (lambda: edited(a_pipe(), 0.4, mask=False), {}, 3),
    "edited by a scheduler": (
        lambda: edited(scheduled("HeunDiscreteScheduler"), 0.5, mask=False),
        {},
        7,
    ),
    "masked": (lambda: edited(a_pipe(), 0.8), {}, 7),
    "masked all the way": (lambda: edited(a_pipe(), 1.0), {}, HEUN),
    "resampled": (lambda: edited(a_pipe(), 0.8, 3), {"guidance_scale": 2.0}, 2 * (3 * 6 + 1)),
    "resampling": (
        lambda: a_pipe(ResamplingSampler(Sampler(4, estimate="single"), 2, jump=2)),
        {},
        2 + 2 + 2,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_expected_is_what_is_counted_and_what_networks_see(name):
    make, asked, wanted = CASES[name]
    pipe, asked = make(), dict(asked)
    if "guide" in asked:
        asked["guide"] = asked["guide"]()
    request = Request((0, 3, 5), batch_size=2, **asked)
    expected = evaluations_of(pipe, request)
    spied = Spied(pipe, *([asked["guide"]] if "guide" in asked else []))
    with counting(pipe, request.guide) as counter:
        pipe(request)
    assert spied.rows / 3 == counter.an_image(3).own == counter.an_image(3).total == expected
    assert expected == wanted


def test_edits_take_the_evaluations_of_their_start():
    pipe = a_pipe()
    with counting(pipe) as counter:
        pipe.edit(PICTURES, 0.4, class_labels=1)
    assert counter.an_image(2).total == evaluations_of(
        edited(a_pipe(), 0.4, mask=False), Request([0])
    )
    pipe = a_pipe()
    with counting(pipe) as counter:
        pipe.edit(PICTURES, 0.8, MASK.expand(8, 8), class_labels=1, resamples=2)
    assert counter.an_image(2).total == evaluations_of(edited(a_pipe(), 0.8, 2), Request([0]))


def test_networks_are_told_apart_by_name():
    guide = a_pipe()
    with counting(experts(Sampler(5, estimate="single")), guide) as counter:
        pass
    assert counter.own == {"expert 1": 0, "expert 2": 0, "expert 3": 0, "guide": 0}
    pipe = experts(Sampler(5, estimate="single"))  # at 80, 17.5, 2.5, 0.17, 0.002
    with counting(pipe, guide) as counter:
        pipe(range(2), guidance_scale=2.0, guidance_interval=(1.0, 90.0), guide=guide)
    assert counter.own == {"expert 1": 4, "expert 2": 2, "expert 3": 4, "guide": 6}
    # What is called behind is not counted.
    pipe(range(2))
    assert sum(counter.own.values()) == 16


def test_a_guide_that_is_the_model_is_counted_once_a_call():
    pipe = a_pipe()
    with counting(pipe, pipe) as counter:
        pipe(range(2), guidance_scale=2.0, guide=pipe)
    assert counter.an_image(2).own == 2 * HEUN
    assert evaluations_of(pipe, Request([0], guidance_scale=2.0, guide=pipe)) == 2 * HEUN


@pytest.mark.parametrize("steps", [1, 4])
def test_a_first_stage_is_counted_by_itself(steps):
    first = experts(Sampler(3), guidance=GuidanceSettings(2.0, (1.0, 100.0)))
    pipe = relay(first)
    request = Request((0, 1, 2), guidance_scale=1.5, steps=steps, batch_size=2)
    expected = expected_evaluations(pipe, request)
    with counting(pipe) as counter:
        pipe(request)
    assert counter.an_image(3) == expected
    # Heun's at 80, 2.5 and 0.002: guided at 80, and at 2.5, where it is asked twice.
    assert (expected.own, expected.first) == (2 * steps, 3 + 5)
    assert evaluations_of(pipe, request) == expected.total == 2 * steps + 8
    assert list(counter.first) == ["expert 1", "expert 2", "expert 3"]


def test_a_relay_that_begins_with_pictures_takes_no_first_stage():
    pictures = torch.rand(1, 1, 16, 16)
    pipe, request = relay(a_pipe()), Request([0])
    pipe.start = ImageStart(pictures, 0.5, base=pipe.start)
    assert expected_evaluations(pipe, request).first == 0
    pipe = relay(a_pipe())
    mask = torch.arange(256).view(16, 16) < 99
    pipe.start = ImageStart(pictures, None, mask, base=pipe.start)
    with counting(pipe) as counter:
        pipe(request)
    assert counter.an_image(1) == expected_evaluations(pipe, request)
    assert counter.an_image(1).first == HEUN


def test_images_take_no_evaluations_and_functions_any():
    low = torch.rand(3, 1, 8, 8)
    request = Request([0], class_labels=1)
    assert expected_evaluations(relay(low), request).first == 0
    pipe = relay(lambda seeds, labels: low[: len(seeds)])
    with counting(pipe) as counter:
        pipe(request)
    assert counter.an_image(1) == expected_evaluations(pipe, request)
    assert counter.an_image(1).first is counter.an_image(1).total is None
    for ask in (evaluations_of, lambda *own: request_within(*own, 50)):
        with pytest.raises(
            OvertoneError, match="of the first stage, a FunctionStage, can't be told"
        ):
            ask(pipe, request)


def test_a_first_stage_of_diffusers_is_counted_and_not_known_before():
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    first = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler())
    network = adm(resolution=16, attention_resolutions=(8,), num_classes=0)
    pipe = Pipeline(
        network,
        Sampler(4, sigma_max=0.9, estimate="single"),
        process=RELAY,
        start=RelayStart(first),
    )
    first.set_progress_bar_config(disable=True)
    with counting(pipe) as counter:
        pipe(range(2))
    assert (counter.own, counter.first) == ({"network": 8}, {"unet": 100})
    with pytest.raises(OvertoneError, match="a DiffusersStage, can't be told before it runs"):
        evaluations_of(pipe, Request([0]))


@dataclasses.dataclass(frozen=True)
class PlainConfig(NetworkConfig, kind="TestCounted"):
    resolution: int = 8
    channels: int = 1
    num_classes: int = 3

    def build(self):
        return Plain(self)


class Plain(Network):
    """A network without the tests' type checks, which are not to be compiled."""

    config_class = PlainConfig

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, time, class_labels=None):
        return self.scale * x


@pytest.mark.parametrize("before", [True, False])
def test_compiled_networks_count_as_others(before):
    """By a backend that does nothing but what Dynamo does; compiled before it is counted, and
    while it is."""
    torch.compiler.reset()
    pipe = Pipeline(Plain(PlainConfig()), Sampler(3))
    compile_network(pipe.network, backend="eager")
    if before:
        pipe([0], guidance_scale=2.0)
    with counting(pipe) as counter:
        pipe(range(2), guidance_scale=2.0)
    assert counter.an_image(2).own == 10 == evaluations_of(pipe, Request([0], guidance_scale=2.0))
    pipe(range(2))
    assert counter.an_image(2).own == 10


def test_nothing_of_a_model_is_touched_or_run():
    pipe = relay(a_pipe(), guidance=GuidanceSettings(2.0))
    for each in (pipe, pipe.first):
        each.network.forward = None
    denoiser, start, state = pipe.denoiser, pipe.start, torch.get_rng_state()
    assert evaluations_of(pipe, Request(range(10**5))) == 2 * 4 + HEUN
    assert pipe.denoiser is denoiser
    assert pipe.start is start
    assert torch.get_rng_state().equal(state)
    assert not pipe.denoiser._forward_hooks


def test_what_can_not_be_asked_is_refused_as_by_the_pipeline():
    small = Pipeline(adm(resolution=16), Sampler(5))
    bad = [
        (a_pipe(), {"guide": small, "guidance_scale": 2.0}, "the guide works on 16 px"),
        (a_pipe(), {"guide": a_pipe()}, "a guide does nothing"),
        (a_pipe(), {"class_labels": 9}, r"outside 0\.\.2"),
        (a_pipe(), {"steps": 0}, "num_steps"),
        (operator(), {"steps": 4}, "an operator makes images in one evaluation"),
        (operator(), {"guidance_scale": 2.0}, "an operator has the guidance"),
        (
            a_pipe(training={"label dropout": 0.0}),
            {"guidance_scale": 2.0},
            "no null class for classifier-free guidance",
        ),
    ]
    for pipe, asked, message in bad:
        for ask in (evaluations_of, Pipeline.__call__):
            with pytest.raises(OvertoneError, match=message):
                ask(pipe, Request([0], **asked))
    with pytest.raises(OvertoneError, match="there are no seeds"):
        evaluations_of(a_pipe(), Request([]))
    with counting(a_pipe()) as counter, pytest.raises(OvertoneError, match="one image or more"):
        counter.an_image(0)


# The other way.


@functools.cache
def every(name):
    make, asked = WITHIN[name]
    pipe, counts = make(), {}
    for steps in range(1, 50):
        with contextlib.suppress(OvertoneError):
            counts[steps] = evaluations_of(pipe, Request([4], steps=steps, **asked))
    return counts


def most(name, budget):
    """By trying every number of steps."""
    return max((steps for steps, count in every(name).items() if count <= budget), default=None)


WITHIN = {
    "slopes": (a_pipe, {}),
    "guided": (a_pipe, {"guidance_scale": 2.0}),
    "in an interval": (a_pipe, {"guidance_scale": 2.0, "guidance_interval": (1.0, 20.0)}),
    "a narrow interval": (a_pipe, {"guidance_scale": 2.0, "guidance_interval": (1.0, 1.3)}),
    "truncated": (lambda: a_pipe(Sampler(5, truncation_sigma=0.9)), {}),
    "edited": (lambda: edited(a_pipe(), 0.4, mask=False), {}),
    "resampled": (lambda: edited(a_pipe(), 0.8, 3), {}),
    "relay": (lambda: relay(a_pipe(Sampler(3))), {}),
    "ancestral": (latent, {"guidance_scale": 2.0}),
    "Heun": (lambda: scheduled("HeunDiscreteScheduler"), {}),
    "PNDM": (lambda: scheduled("PNDMScheduler", skip_prk_steps=True), {}),
    "few steps": (lambda: scheduled("DDIMScheduler", num_train_timesteps=12), {}),
}


@pytest.mark.parametrize("budget", [1, 7.5, 18])
@pytest.mark.parametrize("name", WITHIN)
def test_as_many_steps_as_fit(name, budget):
    make, asked = WITHIN[name]
    pipe, request = make(), Request([4, 5], **asked)
    wanted = most(name, budget)
    if wanted is None:
        with pytest.raises(OvertoneError, match=rf"fits into {budget:g} function evaluations") as e:
            request_within(pipe, request, budget)
        assert len(str(e.value).splitlines()) == 1
        fewest = float(str(e.value).partition("this model takes ")[2].split()[0])
        assert fewest > budget
        assert most(name, fewest) is not None
        return
    found = request_within(pipe, request, budget)
    assert found.steps == wanted
    assert replace(found, steps=None) == request
    assert evaluations_of(pipe, found) <= budget


def test_a_sampler_without_a_choice_comes_back_as_it_is_or_does_not_fit():
    request = Request([0])
    pipe = a_pipe(Sampler(2, levels=(9.0, 0.5)))
    assert evaluations_of(pipe, request_within(pipe, request, 3)) == 3
    with pytest.raises(OvertoneError, match="2 function evaluations per image: this model takes 3"):
        request_within(pipe, request, 2)
    assert evaluations_of(operator(), request_within(operator(), request, 9)) == 1
    with pytest.raises(OvertoneError, match="takes 6 or more, 5 of them for its first stage"):
        request_within(relay(a_pipe(Sampler(3))), request, 4)


@pytest.mark.parametrize("budget", [0, -1, 0.5, math.nan, math.inf, "9", None, True])
def test_no_budgets(budget):
    with pytest.raises(OvertoneError, match="a number of evaluations"):
        request_within(a_pipe(), Request([0]), budget)
