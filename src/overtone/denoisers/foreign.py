"""diffusers' models as denoisers: their networks under rows of our table of preconditionings."""

from __future__ import annotations

from typing import Any

from torch import nn

from overtone.denoisers.network import NetworkDenoiser
from overtone.denoisers.preconditioning import (
    EDMPreconditioning,
    Preconditioning,
    Prediction,
    ScorePreconditioning,
    VPPreconditioning,
)
from overtone.errors import OvertoneError
from overtone.networks.foreign import DiffusersNetwork
from overtone.processes.discrete import DiscreteSchedule

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x", "v_prediction": "v"}


def discrete_schedule(scheduler: Any) -> DiscreteSchedule:
    """The noise levels that a diffusers scheduler was trained with.

    Raises `OvertoneError`, naming the scheduler, if it has none (flow matching, consistency models)
    or if they end in an infinite sigma (zero terminal SNR).
    """
    name, abar = type(scheduler).__name__, getattr(scheduler, "alphas_cumprod", None)
    if abar is None:
        raise OvertoneError(
            f"{name} has no alphas_cumprod: only schedulers of diffusion with a finite sigma_max"
            " can be used, not flow matching or consistency models."
        )
    if getattr(scheduler.config, "rescale_betas_zero_snr", False) or float(abar[-1]) <= 0:
        raise OvertoneError(
            f"{name} rescales its betas to zero terminal SNR (rescale_betas_zero_snr), where sigma"
            " is infinite: no finite noise level can start from there."
        )
    return DiscreteSchedule(abar=tuple(abar.double().tolist()))


def is_edm(scheduler: Any) -> bool:
    """Whether a diffusers scheduler is one of EDM's."""
    import diffusers

    kinds = diffusers.EDMEulerScheduler, diffusers.EDMDPMSolverMultistepScheduler
    return isinstance(scheduler, kinds)


def preconditioning_of(scheduler: Any) -> Preconditioning:
    """The row of the table that a diffusers scheduler's model is trained under.

    Raises `OvertoneError`, naming the scheduler, for what is none, and where sigma is infinite at
    the end.
    """
    import diffusers

    name = type(scheduler).__name__
    if isinstance(scheduler, diffusers.ScoreSdeVeScheduler):
        return ScorePreconditioning()
    schedule = None if is_edm(scheduler) else discrete_schedule(scheduler)
    prediction = getattr(scheduler.config, "prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise OvertoneError(
            f"{name} predicts '{prediction}', which is none of {', '.join(PREDICTIONS)}."
        )
    if schedule is not None:
        return VPPreconditioning(PREDICTIONS[prediction], schedule, len(schedule.sigmas) - 1)
    if prediction == "sample":
        raise OvertoneError(f"{name} with prediction_type 'sample' is not known here.")
    # Under "v_prediction" diffusers turns the sign of c_out.
    return EDMPreconditioning(float(scheduler.config.sigma_data), prediction == "v_prediction")


class DiffusersDenoiser(NetworkDenoiser):
    """Any diffusers model together with the scheduler it was trained under, as a denoiser.

        unet = diffusers.UNet2DModel.from_pretrained("google/ddpm-cifar10-32")
        denoiser = DiffusersDenoiser(unet, diffusers.DDPMScheduler.from_pretrained(...))

    Schedulers with `alphas_cumprod` (DDPM, DDIM, DPM-Solver++, UniPC, Euler, ...) with epsilon,
    sample or v_prediction, EDM's (`sigma_data`), and ScoreSdeVe. Times between the discrete steps
    are interpolated in ln sigma. `conditioning` (encoder_hidden_states, say) goes to every call of
    the model. `null_class` says that the last of a U-Net's class embeddings stands for "no class",
    which guidance needs (DiT has one by itself). A model with learned variance returns it as
    `Estimate.variance`.

    Raises `OvertoneError`, naming the scheduler, where sigma is infinite at the end.
    """

    def __init__(
        self,
        model: nn.Module,
        scheduler: Any,
        *,
        null_class: bool | None = None,
        **conditioning: Any,
    ) -> None:
        network = DiffusersNetwork.of(model, null_class, **conditioning)
        super().__init__(network, preconditioning_of(scheduler))
