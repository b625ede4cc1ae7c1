"""Published settings: how the papers' models were sampled."""

from __future__ import annotations

from typing import Literal

from overtone.denoisers.guidance import GuidanceSettings
from overtone.processes.relay import RelayProcess
from overtone.processes.schedule import QuantileSchedule
from overtone.samplers.sampler import Sampler

_CHURN = Sampler(num_steps=256, S_churn=40, S_min=0.05, S_max=50, S_noise=1.003)
SAMPLERS = {
    "cifar10": Sampler(num_steps=18),
    "ffhq64": Sampler(num_steps=40),
    "afhqv2-64": Sampler(num_steps=40),
    "imagenet64": _CHURN,
    "relay-imagenet-64": _CHURN,
    "relay-celebahq-64": Sampler(num_steps=120, eta=0.05),
    "relay-imagenet-256": Sampler(
        num_steps=200, sigma_min=0.008, rho=100, truncation_sigma=0.9, eta=0.2
    ),
    "relay-celebahq-256": Sampler(num_steps=150, sigma_min=0.008, truncation_sigma=0.95, eta=0.2),
}
"""The samplers of the published results: EDM's, and both stages' of relay diffusion."""

RelayName = Literal["imagenet", "celebahq"]
PROCESSES: dict[RelayName, RelayProcess] = {
    "imagenet": RelayProcess(
        blur_sigma_max=3.0, normalised=False, schedule=QuantileSchedule(prob_length=0.93)
    ),
    # Trained with 0.89; sampled, as published, with 1.05, which blurs less.
    "celebahq": RelayProcess(
        blur_sigma_max=2.0, normalised=False, schedule=QuantileSchedule(prob_length=1.05)
    ),
}
"""The second stages' processes as their published generators have them."""

GUIDANCE: dict[RelayName, GuidanceSettings] = {
    "imagenet": GuidanceSettings(scale=3.5),
    "celebahq": GuidanceSettings(),
}

LATENT_GUIDANCE = {
    32: GuidanceSettings(scale=4.6, channels=(0, 1, 2), power=4.0),
    64: GuidanceSettings(scale=1.49, channels=(0, 1, 2)),
}
"""The published guidance, by the size of the latents: of the 256 px and of the 512 px network."""
