import math

import pytest
import torch

from helpers import TINY_DIFFIT, awake, gaussian
from overtone.denoisers import Denoiser, EDMDenoiser, Estimate, GuidedDenoiser, IdealDenoiser
from overtone.networks import DiffiTUNet
from overtone.processes import SeededNoise
from overtone.processes.noise import mix
from overtone.training.objectives import DenoisingObjective


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
    batch = objective.draw(
        torch.zeros(n, 1, 1, 4, dtype=torch.uint8), torch.zeros(n).long(), source
    )
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
    guided = GuidedDenoiser(denoiser, scale=2.5)
    out = guided(x, 1.0, torch.tensor([0, 1]))
    # cond 1 and 2, uncond 4: uncond + 2.5 (cond - uncond)
    assert out.x_0[:, 0, 0, 0].tolist() == [-3.5, -1.0]
    assert out.variance[:, 0, 0, 0].tolist() == [1 / 8, 2 / 8]  # stays conditional
    assert denoiser.calls == [4]


def test_guidance_acts_within_its_interval_only():
    denoiser, x, labels = Labelled(), torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    guided = GuidedDenoiser(denoiser, scale=3.0, interval=(0.2, 2.0))
    for sigma, acts in ((0.1, False), (0.2, True), (2.0, True), (2.1, False)):
        denoiser.calls.clear()
        out = guided(x, sigma, labels).x_0[0, 0, 0, 0]
        assert (float(out), denoiser.calls) == ((-5.0, [4]) if acts else (1.0, [2]))


def test_guidance_refuses_what_it_can_not_do():
    with pytest.raises(ValueError, match="unconditional"):
        GuidedDenoiser(gaussian()[0], scale=2.0)
    with pytest.raises(TypeError, match="sigma as a number"):
        GuidedDenoiser(Labelled(), 2.0)(
            torch.zeros(1, 1, 2, 2), torch.ones(1), torch.zeros(1).long()
        )
