"""Preconditionings, objectives, guidance and ideal denoisers against their formulas."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers import TINY_DIFFIT, awake, gaussian
from overtone import settings
from overtone.denoisers import (
    Denoiser,
    EDMDenoiser,
    EDMPreconditioning,
    Estimate,
    GuidanceSettings,
    GuidedDenoiser,
    IdealDenoiser,
    NetworkDenoiser,
    ScorePreconditioning,
    VEDenoiser,
    VEPreconditioning,
    VPDenoiser,
    VPPreconditioning,
)
from overtone.networks import DiffiTUNet
from overtone.processes import DiscreteSchedule, SeededNoise, VPCosineSchedule
from overtone.processes.noise import mix
from overtone.training.objectives import DenoisingObjective

ROWS = [
    EDMPreconditioning(0.7),
    EDMPreconditioning(0.7, negated=True),
    VPPreconditioning("eps", DiscreteSchedule()),
    VPPreconditioning("x", VPCosineSchedule(-10, 10), 1.0),
    VPPreconditioning("v", DiscreteSchedule("cosine", 100), 99.0),
    VEPreconditioning(),
    ScorePreconditioning(),
]


def test_a_number_and_a_tensor_of_sigma_agree():
    denoiser = EDMDenoiser(awake(DiffiTUNet(TINY_DIFFIT)))
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 1])
    for sigma in (0.002, 0.7, 80.0):
        by_number = denoiser(sigma * x, sigma, labels).x_0
        by_tensor = denoiser(sigma * x, torch.full((2,), sigma), labels).x_0
        assert torch.allclose(by_number, by_tensor, atol=1e-5)


def test_edm_preconditioning_is_table_1():
    class Recorder(DiffiTUNet):
        def forward(self, x, time, class_labels=None):
            self.seen = x, time
            return torch.ones_like(x)

    network = Recorder(TINY_DIFFIT)
    x, sigma, s_d = torch.randn(1, 1, 8, 8), 3.0, 0.5
    out = EDMDenoiser(network, s_d)(x, sigma).x_0
    total = math.sqrt(sigma**2 + s_d**2)
    assert torch.allclose(network.seen[0], x / total)
    assert float(network.seen[1]) == pytest.approx(math.log(3) / 4)
    assert torch.allclose(out, x * s_d**2 / total**2 + sigma * s_d / total)


class Perfect(nn.Module):
    """A variance-preserving network that returns eps, x or v of a known image, by definition."""

    config = SimpleNamespace(num_classes=0)

    def __init__(self, x_0, prediction):
        super().__init__()
        self.x_0, self.prediction, self.times = x_0, prediction, []

    def forward(self, x_vp, time, class_labels=None):
        self.times.append(time)
        sigma = DiscreteSchedule().sigma(time.double() / 999)[:, None, None, None].float()
        alpha, s = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
        eps = (x_vp - alpha * self.x_0) / s
        out = {"eps": eps, "x": self.x_0, "v": alpha * eps - s * self.x_0}[self.prediction]
        return out.expand(len(x_vp), -1, -1, -1)


@pytest.mark.parametrize("prediction", ["eps", "x", "v"])
def test_vp_denoiser_recovers_the_image_from_any_prediction(prediction):
    x_0, steps = torch.rand(3, 1, 4, 4) - 0.5, torch.tensor([20, 400, 650])
    settings = VPPreconditioning(prediction, DiscreteSchedule(), time_scale=999)
    denoiser = VPDenoiser(Perfect(x_0, prediction), settings)
    sigma = DiscreteSchedule().levels[steps]
    x = x_0 + sigma[:, None, None, None].float() * torch.randn(3, 1, 4, 4)
    assert torch.allclose(denoiser(x, sigma).x_0, x_0, atol=1e-4)
    assert torch.allclose(denoiser.network.times[0], steps.float(), atol=1e-3)
    # A number for all is the same as a tensor of it.
    by_number = denoiser(x[1:2].expand(3, -1, -1, -1), float(sigma[1])).x_0
    assert torch.allclose(by_number[1], x_0[1], atol=1e-4)


@pytest.mark.parametrize("row", ROWS, ids=settings.brief)
def test_output_inverts_estimate_in_every_row(row):
    x, x_0 = torch.randn(2, 2, 1, 3, 3).double()
    for sigma in (0.01, 1.0, 150.0):
        out = row.output(x, sigma, x_0)
        assert torch.allclose(row.estimate(x, sigma, out), x_0)


@pytest.mark.parametrize("row", ROWS, ids=settings.brief)
def test_the_loss_is_the_error_of_the_networks_own_output(row):
    """In every row, under its own weight c_out^-2."""

    class Network(nn.Module):
        config = SimpleNamespace(num_classes=0)

        def forward(self, x, time, class_labels=None):
            self.output = torch.cos(3 * x) + 0.1 * time[:, None, None, None]
            return self.output

    x_0, noise = torch.randn(2, 4, 1, 4, 4).double()
    sigma = torch.tensor([0.05, 0.5, 2.0, 20.0], dtype=torch.float64)
    network = Network()
    batch = {"x_0": x_0, "noise": noise, "sigma": sigma}
    losses = DenoisingObjective(weighting=row).loss(NetworkDenoiser(network, row), batch)
    level = sigma[:, None, None, None]
    wanted = row.output(x_0 + level * noise, level, x_0)
    expected = (network.output - wanted).square().mean((1, 2, 3))
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-6)


def test_rows_of_noise_and_score_networks_are_what_their_papers_say():
    """From exact outputs: NCSN++ returns minus the noise, a score network -noise / sigma, EDM's
    network the target of its equation 8."""
    x_0, noise, sigma, s_d = *torch.randn(2, 3, 1, 4, 4).double(), 1.7, 0.7
    x, total = x_0 + sigma * noise, (1.7**2 + 0.7**2) ** 0.5
    target = (x_0 - s_d**2 / total**2 * x) * total / (sigma * s_d)
    for row, out in (
        (VEPreconditioning(), -noise),
        (ScorePreconditioning(), -noise / sigma),
        (EDMPreconditioning(s_d), target),
        (EDMPreconditioning(s_d, negated=True), -target),
    ):
        assert torch.allclose(row.estimate(x, sigma, out), x_0), row.kind


def test_an_edm_weight_on_another_network_stays_expressible():
    sigma = torch.tensor([0.1, 1.0, 10.0])
    objective = DenoisingObjective(weighting=EDMPreconditioning(0.5))
    batch = {"x_0": torch.zeros(3, 1, 2, 2), "noise": torch.zeros(3, 1, 2, 2), "sigma": sigma}

    class One(Denoiser):
        def forward(self, x, sigma, class_labels=None):
            return Estimate(torch.ones_like(x))

    assert torch.allclose(objective.loss(One(), batch), sigma**-2 + 0.5**-2)


def test_learned_variance_passes_through_untouched():
    both, x = torch.randn(1, 2, 4, 4), torch.randn(1, 1, 4, 4)
    estimate = VPDenoiser(Perfect(both, "x"), VPPreconditioning("x"))(x, 1.0)
    assert torch.equal(estimate.x_0, both[:, :1])
    assert torch.equal(estimate.variance, both[:, 1:])


def test_ve_denoiser_is_table_1():
    class Recorder(nn.Module):
        config = SimpleNamespace(num_classes=0)

        def forward(self, x, time, class_labels=None):
            self.seen = x, time
            return torch.ones_like(x)

    network, x = Recorder(), torch.randn(2, 1, 4, 4)
    assert torch.equal(VEDenoiser(network)(x, 3.0).x_0, x + 3.0)
    assert torch.equal(network.seen[0], x)
    assert network.seen[1].tolist() == pytest.approx([math.log(1.5)] * 2)


def test_autoguidance_extrapolates_from_the_weaker_model():
    class Constant(Denoiser):
        def __init__(self, value, num_classes=0):
            super().__init__()
            self.value, self.num_classes, self.labels = value, num_classes, []

        def forward(self, x, sigma, class_labels=None):
            self.labels.append(class_labels)
            return Estimate(torch.full_like(x, self.value))

    x, labels = torch.zeros(2, 1, 2, 2), torch.tensor([1, 2])
    model, guide = Constant(3.0, 4), Constant(1.0, 4)
    out = GuidedDenoiser(model, 2.0, guide=guide)(x, 1.0, labels).x_0
    assert out.unique().tolist() == [5.0]  # 1 + 2 (3 - 1)
    assert torch.equal(guide.labels[0], labels)  # the same class, not the null class
    # Also of unconditional models, and by an unconditional guide.
    assert GuidedDenoiser(Constant(3.0), 2.0, guide=Constant(1.0))(x, 1.0).x_0.unique() == 5
    unconditional = Constant(1.0)
    GuidedDenoiser(model, 2.0, guide=unconditional)(x, 1.0, labels)
    assert unconditional.labels == [None]
    calls = len(guide.labels)
    GuidedDenoiser(model, GuidanceSettings(2.0, interval=(0.2, 0.5)), guide)(x, 1.0, labels)
    assert len(guide.labels) == calls
    with pytest.raises(ValueError, match="the guide has 7 classes, the model 4"):
        GuidedDenoiser(model, 2.0, guide=Constant(1.0, 7))


def test_eps_weighting_is_the_error_of_the_noise():
    objective = DenoisingObjective(weighting=VPPreconditioning("eps"))
    x_0, sigma = torch.rand(3, 1, 4, 4), torch.tensor([0.1, 1.0, 10.0])
    noise, wrong = torch.randn(2, 3, 1, 4, 4)

    class OffByATenth(Denoiser):
        def forward(self, x, sigma, class_labels=None):
            return Estimate(x - sigma[:, None, None, None] * (noise + 0.1 * wrong))

    losses = objective.loss(OffByATenth(), {"x_0": x_0, "noise": noise, "sigma": sigma})
    assert torch.allclose(losses, (0.1 * wrong).square().mean((1, 2, 3)), rtol=1e-3)


def test_ideal_denoiser_of_a_gaussian_is_linear_regression():
    denoiser, mean, covariance = gaussian()
    x, sigma = torch.randn(5, 1, 1, 4, dtype=torch.float64), 0.8
    gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(4))
    expected = mean + (x.flatten(1) - mean) @ gain.T
    assert torch.allclose(denoiser(x, sigma).x_0.flatten(1), expected)
    each = torch.tensor([0.1, 0.3, 1.0, 3.0, 9.0], dtype=torch.float64)
    for i in range(5):
        alone = denoiser(x[i : i + 1], float(each[i])).x_0[0]
        assert torch.allclose(denoiser(x, each).x_0[i], alone)


def test_ideal_denoiser_of_a_data_set_is_the_posterior_mean():
    images = torch.randn(7, 2, 3, 3, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    denoiser, sigma = IdealDenoiser(images, class_labels=labels), 0.9
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64)

    def posterior_mean(x, candidates):
        log = torch.stack([-((x - c) ** 2).sum() / (2 * sigma**2) for c in candidates])
        return sum(w * c for w, c in zip(log.softmax(0), candidates, strict=True))

    for row, asked, candidates in ((0, 1, images[3:]), (1, 2, images)):  # 2 is the null class
        out = denoiser(x, sigma, torch.tensor([asked, asked])).x_0
        assert torch.allclose(out[row], posterior_mean(x[row], candidates))
    # At a small noise level it is the nearest image.
    assert torch.allclose(denoiser(images + 0.01, 0.02).x_0, images, atol=1e-6)


def test_edm_loss_of_the_ideal_denoiser_is_its_analytic_value():
    """E over sigma of weight(sigma) tr(S sigma^2 / (S + sigma^2)) / dims, by quadrature over t."""
    denoiser, mean, covariance = gaussian()
    objective = DenoisingObjective()
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    sigma = objective.schedule.sigma(t)[:, None]
    eigenvalues = torch.linalg.eigvalsh(covariance)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    analytic = float((weight * eigenvalues * sigma**2 / (eigenvalues + sigma**2)).mean())

    n = 20_000
    source = SeededNoise(mix(11, i) for i in range(n))
    batch = objective.draw(torch.zeros(n, 1, 1, 4), torch.zeros(n).long(), source)
    root = torch.linalg.cholesky(covariance)
    clean = mean + torch.randn(n, 4, generator=torch.Generator().manual_seed(3)).double() @ root.T
    batch = {name: value.double() for name, value in batch.items()} | {
        "x_0": clean.view(n, 1, 1, 4)
    }
    losses = objective.loss(denoiser, batch)
    # 5 standard errors: exceeded with probability 6e-7 by a right formula.
    assert abs(float(losses.mean()) - analytic) < 5 * float(losses.std()) / n**0.5


class Labelled(Denoiser):
    """Returns the label + 1 everywhere; counts its evaluations and their images."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x, sigma, class_labels=None):
        self.calls.append(len(x))
        labels = class_labels.to(x.dtype)[:, None, None, None] + 1
        return Estimate(labels.expand(x.shape), variance=labels.expand(x.shape) / 8)


def test_guidance_extrapolates_from_the_null_class():
    denoiser, x = Labelled(), torch.zeros(2, 1, 2, 2)
    guided = GuidedDenoiser(denoiser, 2.5)
    out = guided(x, 1.0, torch.tensor([0, 1]))
    # cond 1 and 2, uncond 4: uncond + 2.5 (cond - uncond)
    assert out.x_0[:, 0, 0, 0].tolist() == [-3.5, -1.0]
    assert out.variance[:, 0, 0, 0].tolist() == [1 / 8, 2 / 8]  # stays conditional
    assert denoiser.calls == [4]


def test_guidance_acts_within_its_interval_only():
    denoiser, x, labels = Labelled(), torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    guided = GuidedDenoiser(denoiser, GuidanceSettings(3.0, interval=(0.2, 2.0)))
    for sigma, acts in ((0.1, False), (0.2, True), (2.0, True), (2.1, False)):
        denoiser.calls.clear()
        out = guided(x, sigma, labels).x_0[0, 0, 0, 0]
        assert (float(out), denoiser.calls) == ((-5.0, [4]) if acts else (1.0, [2]))


def test_guidance_refuses_what_it_can_not_do():
    with pytest.raises(ValueError, match=r"\(lowest, highest\) sigma"):
        GuidanceSettings(2.0, interval=(2.0, 0.1))
    with pytest.raises(ValueError, match="unconditional"):
        GuidedDenoiser(gaussian()[0], 2.0)
    with pytest.raises(TypeError, match="sigma as a number"):
        GuidedDenoiser(Labelled(), 2.0)(
            torch.zeros(1, 1, 2, 2), torch.ones(1), torch.zeros(1).long()
        )
