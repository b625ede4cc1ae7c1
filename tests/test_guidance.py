"""Guidance by the null class: published numbers, channels, and where it acts."""

import math

import pytest
import scipy.fft
import torch

from helpers import DIFFUSERS_MARKS, TINY_TRANSFORMER, awake, deviation
from latent_diffit import published
from overtone.denoisers import (
    ADM_DIFFUSION,
    Denoiser,
    EDMDenoiser,
    Estimate,
    GuidanceSettings,
    GuidedDenoiser,
    VPDenoiser,
)
from overtone.networks import DiffiTTransformer
from overtone.pipelines import Pipeline, Request
from overtone.processes import DiscreteSchedule
from overtone.samplers import Sampler

pytestmark = DIFFUSERS_MARKS

PUBLISHED = ("diffit_latent", "diffit_latent_512_guidance")


@pytest.mark.parametrize("name", PUBLISHED)
def test_guidance_gives_the_published_numbers(name):
    # Given for [conditional; null], both fed the first half's samples; ours is the first half.
    golden, _, network = published(name)
    settings = GuidanceSettings(
        scale=golden.config["cfg_scale"],
        channels=(0, 1, 2),
        power=golden.config.get("scale_pow"),
    )
    guided = GuidedDenoiser(VPDenoiser(network, ADM_DIFFUSION), settings)
    for i in range(len(golden["cfg.sample"]) // 2):
        sigma = float(ADM_DIFFUSION.schedule.levels[int(golden["cfg.timestep"][i])])
        x = golden["cfg.sample"][i : i + 1] * math.sqrt(1 + sigma**2)
        with torch.no_grad():
            x_0, variance = guided(x, sigma, golden["cfg.class_labels"][i : i + 1])
        out = torch.cat(((x - x_0) / sigma, variance), dim=1)
        assert deviation(out, golden["cfg.out"][i : i + 1]) < 2e-6


def test_the_power_cosine_starts_at_nothing_and_ends_at_the_scale():
    settings = GuidanceSettings(scale=4.6, power=4.0)
    assert settings.scale_at(0.0) == pytest.approx(4.6)
    assert settings.scale_at(0.999) == pytest.approx(1.0)
    assert settings.scale_at(0.35) == pytest.approx(1 + 3.6 * (1 - math.cos(math.pi * 0.65**4)) / 2)


class Counted(VPDenoiser):
    def __init__(self):
        super().__init__(awake(DiffiTTransformer(TINY_TRANSFORMER)), ADM_DIFFUSION)
        self.batches = []

    def forward(self, x, sigma, class_labels=None):
        self.batches.append(len(x))
        return super().forward(x, sigma, class_labels)


def test_guided_channels_and_no_others_are_guided():
    model = Counted()
    x, labels = torch.randn(2, 4, 8, 8), torch.tensor([0, 2])
    with torch.no_grad():
        own, null = model(x, 1.0, labels), model(x, 1.0, torch.full_like(labels, 3))
        out = GuidedDenoiser(model, GuidanceSettings(3.0, channels=(1, 3)))(x, 1.0, labels)
    # Both halves went through the network in one batch, which rounds otherwise.
    assert torch.allclose(out.x_0[:, [0, 2]], own.x_0[:, [0, 2]], atol=1e-5)
    reference = null.x_0 + 3 * (own.x_0 - null.x_0)
    assert torch.allclose(out.x_0[:, [1, 3]], reference[:, [1, 3]], atol=1e-4)
    assert torch.allclose(out.variance, own.variance, atol=1e-6)
    assert model.batches == [2, 2, 4]


def test_the_null_class_is_asked_only_where_guidance_acts():
    model, labels = Counted(), torch.tensor([0, 2])
    guided = GuidedDenoiser(model, GuidanceSettings(4.6, interval=(0.5, 50.0), power=4.0))
    # At sigma 40 the step is number 836 and the scale 1.000005; at 80, outside.
    for sigma in (0.4, 0.6, 40.0, 80.0):
        guided(torch.randn(2, 4, 8, 8), sigma, labels)
    assert model.batches == [2, 4, 4, 2]
    near_noise = GuidedDenoiser(model, GuidanceSettings(4.6, power=4.0))
    near_noise(torch.randn(2, 4, 8, 8), float(DiscreteSchedule().levels[950]), labels)
    assert model.batches[-1] == 2  # in float32 the scale is 1


def test_guidance_refuses_what_has_no_meaning():
    model = Counted()
    for wrong in ({"channels": ()}, {"channels": (0, 0)}, {"channels": (-1,)}, {"power": 0.0}):
        with pytest.raises(ValueError, match="guidance"):
            GuidanceSettings(2.0, **wrong)
    edm = EDMDenoiser(model.network)
    with pytest.raises(ValueError, match="power needs a denoiser with a time of its own"):
        GuidedDenoiser(edm, GuidanceSettings(2.0, power=4.0))


def test_a_denoiser_of_diffusers_dit_takes_guidance_in_three_channels():
    # Our settings on their network.
    from diffusers import DDPMScheduler, DiTTransformer2DModel

    from overtone.denoisers import DiffusersDenoiser

    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1,
        sample_size=8, num_embeds_ada_norm=7, norm_num_groups=2,
    ).eval()  # fmt: skip
    denoiser = DiffusersDenoiser(model, DDPMScheduler())
    x, labels = torch.randn(2, 4, 8, 8), torch.tensor([0, 6])
    settings = GuidanceSettings(4.0, channels=(0, 1, 2), power=4.0)
    with torch.no_grad():
        out, own = GuidedDenoiser(denoiser, settings)(x, 1.0, labels), denoiser(x, 1.0, labels)
    assert torch.allclose(out.x_0[:, 3], own.x_0[:, 3], atol=1e-5)
    assert not torch.allclose(out.x_0[:, :3], own.x_0[:, :3], atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
@pytest.mark.parametrize("band", [0.5, 0.26])
def test_two_bands_are_scaled_apart(size, band):
    """Beside scipy's DCT of the difference, whose low block is scaled by one number and the rest by
    another."""

    class Fixed(Denoiser):
        num_classes = 3

        def forward(self, x, sigma, class_labels=None):
            rows = torch.arange(len(x))
            asked = torch.where(class_labels == 3, rows % 4, 4 + rows % 4)
            return Estimate(images[asked])

    images = torch.randn(8, 2, *size, dtype=torch.float64)
    settings = GuidanceSettings(1.5, high_scale=4.0, band=band, channels=(1,))
    x, labels = torch.zeros(4, 2, *size, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    out = GuidedDenoiser(Fixed(), settings)(x, 1.0, labels).x_0
    worse, own = images[:4].numpy(), images[4:].numpy()
    spectrum = scipy.fft.dctn(own - worse, axes=(2, 3), norm="ortho")
    rows, columns = (max(1, round(band * side)) for side in size)
    scales = 4.0 * torch.ones(size, dtype=torch.float64)
    scales[:rows, :columns] = 1.5
    guided = worse + scipy.fft.idctn(spectrum * scales.numpy(), axes=(2, 3), norm="ortho")
    assert torch.equal(out[:, 0], images[4:, 0])
    assert torch.allclose(out[:, 1], torch.from_numpy(guided)[:, 1], atol=1e-13)


def test_one_scale_for_all_frequencies_is_exactly_what_it_was():
    x, labels = torch.randn(4, 4, 8, 8), torch.tensor([0, 1, 2, 0])
    denoiser = Counted().eval()
    with torch.no_grad():
        plain = GuidedDenoiser(denoiser, GuidanceSettings(2.0))(x, 1.0, labels).x_0
        equal = GuidedDenoiser(denoiser, GuidanceSettings(2.0, high_scale=2.0))(x, 1.0, labels).x_0
        low = GuidedDenoiser(denoiser, GuidanceSettings(1.0, high_scale=2.0))
        assert torch.equal(plain, equal)
        assert low.calls_at(1.0) == 2
        assert not torch.equal(low(x, 1.0, labels).x_0, denoiser(x, 1.0, labels).x_0)
    assert GuidedDenoiser(denoiser, GuidanceSettings(1.0, high_scale=1.0)).calls_at(1.0) == 1


def test_a_requests_scale_is_for_all_frequencies():
    pipe = Pipeline(
        awake(DiffiTTransformer(TINY_TRANSFORMER)),
        Sampler(4),
        preconditioning=ADM_DIFFUSION,
        guidance=GuidanceSettings(1.2, high_scale=3.0),
    )
    asked = [
        pipe.guidance_of(Request(range(2), guidance_scale=scale, guidance_high_scale=high))
        for scale, high in ((None, None), (1.0, None), (2.0, None), (2.0, 4.0), (None, 5.0))
    ]
    scales = [(guidance.scale, guidance.high_scale) for guidance in asked]
    assert scales == [(1.2, 3.0), (1.0, None), (2.0, None), (2.0, 4.0), (1.2, 5.0)]
    assert [guidance.acts for guidance in asked] == [True, False, True, True, True]
    with pytest.raises(ValueError, match=r"guidance_band must be in \(0, 1\)"):
        GuidanceSettings(2.0, band=1.0)
