"""diffusers' models as denoisers: their networks under rows of our table of preconditionings."""

from __future__ import annotations

from typing import Any

from torch import nn

from overtone.denoisers.network import NetworkDenoiser
from overtone.denoisers.preconditioning import (
    EDMPreconditioning,
    FlowPreconditioning,
    Preconditioning,
    Prediction,
    ScorePreconditioning,
    VPPreconditioning,
)
from overtone.errors import OvertoneError
from overtone.networks.foreign import DiffusersNetwork
from overtone.processes.discrete import DiscreteSchedule
from overtone.processes.flow import FlowSchedule

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x", "v_prediction": "v"}


def discrete_schedule(scheduler: Any) -> DiscreteSchedule:
    """The noise levels that a diffusers scheduler was trained with.

    Raises `OvertoneError`, naming the scheduler, if it has none (consistency models) or
    if they end in an infinite sigma (zero terminal SNR).
    """
    name, abar = type(scheduler).__name__, getattr(scheduler, "alphas_cumprod", None)
    if abar is None:
        raise OvertoneError(
            f"{name} has no alphas_cumprod: schedulers of diffusion with a finite sigma_max can be"
            " used, EDM's, ScoreSdeVe and FlowMatchEulerDiscreteScheduler, not others."
        )
    rescaled = getattr(scheduler.config, "rescale_betas_zero_snr", False)
    betas = getattr(scheduler, "betas", abar)
    if rescaled or (len(abar) and float(betas.max()) <= 1 and float(abar[-1]) == 0):
        raise OvertoneError(
            f"{name} rescales its betas to zero terminal SNR (rescale_betas_zero_snr), where sigma"
            " is infinite: no finite noise level can start from there."
        )
    try:
        return DiscreteSchedule(abar=tuple(abar.double().tolist()))
    except ValueError as error:
        raise OvertoneError(
            f"the betas of this {name} are no diffusion's: its alphas_cumprod have to fall from"
            f" below 1 to above 0 ({error})."
        ) from None


def is_edm(scheduler: Any) -> bool:
    """Whether a diffusers scheduler is one of EDM's."""
    return is_a(scheduler, "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")


def is_flow(scheduler: Any) -> bool:
    """Whether a diffusers scheduler is one of flow matching."""
    return is_a(scheduler, "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


def is_a(scheduler: Any, *names: str) -> bool:
    """Whether a scheduler is of one of diffusers' classes of these names."""
    import diffusers

    return isinstance(scheduler, tuple(getattr(diffusers, name) for name in names))


def check_flow(scheduler: Any) -> None:
    """Raises `OvertoneError` for a scheduler of flow matching whose noise levels do not follow from
    its settings alone."""
    name, config = type(scheduler).__name__, scheduler.config
    if getattr(config, "use_dynamic_shifting", False):
        raise OvertoneError(
            f"{name} shifts its noise levels by a number that a pipeline computes for each image"
            " size (use_dynamic_shifting), which is not known here: set a fixed `shift`."
        )
    if getattr(config, "invert_sigmas", False):
        raise OvertoneError(
            f"{name} counts its noise levels from the other end (invert_sigmas), which is not known"
            " here."
        )
    if not getattr(config, "shift", 1.0) > 0:
        raise OvertoneError(f"{name} has the shift {config.shift}: it is a number above 0.")


def check_times(scheduler: Any) -> None:
    """Raises `OvertoneError` for a scheduler of diffusion that is set to tell its model other times
    than the numbers of its steps."""
    name, config = type(scheduler).__name__, scheduler.config
    if getattr(config, "use_flow_sigmas", False):
        raise OvertoneError(
            f"{name} is set to flow matching (use_flow_sigmas), whose sigma is infinite at the"
            " start."
        )
    continuous = getattr(config, "timestep_type", "discrete") == "continuous"
    if continuous and getattr(config, "prediction_type", "") == "v_prediction":
        raise OvertoneError(
            f"{name} is set to continuous times (timestep_type), a quarter of ln sigma, which are"
            " not known here."
        )


def preconditioning_of(scheduler: Any) -> Preconditioning:
    """The row of the table that a diffusers scheduler's model is trained under.

    Raises `OvertoneError`, naming the scheduler, for what is none, and where sigma is infinite at
    the end.
    """
    name = type(scheduler).__name__
    if is_a(scheduler, "ScoreSdeVeScheduler"):
        return ScorePreconditioning()
    if is_flow(scheduler):
        check_flow(scheduler)
        return FlowPreconditioning(float(scheduler.config.num_train_timesteps))
    check_times(scheduler)
    schedule = None if is_edm(scheduler) else discrete_schedule(scheduler)
    prediction = getattr(scheduler.config, "prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise OvertoneError(
            f"{name} with prediction_type '{prediction}' is not known here: it is one of"
            f" {', '.join(PREDICTIONS)}."
        )
    if schedule is not None:
        return VPPreconditioning(PREDICTIONS[prediction], schedule, len(schedule.sigmas) - 1)
    if prediction == "sample":
        raise OvertoneError(f"{name} with prediction_type 'sample' is not known here.")
    # Under "v_prediction" diffusers turns the sign of c_out.
    return EDMPreconditioning(float(scheduler.config.sigma_data), prediction == "v_prediction")


def noise_levels_of(scheduler: Any) -> tuple[float, float]:
    """The lowest and the highest noise level that a diffusers scheduler's model was trained on.

    Under flow matching, where the highest is infinite, they are those of `FlowSchedule`.
    """
    if is_flow(scheduler):
        flow = FlowSchedule()
        return flow.sigma_min, flow.sigma_max
    if is_edm(scheduler) or is_a(scheduler, "ScoreSdeVeScheduler"):
        return float(scheduler.config.sigma_min), float(scheduler.config.sigma_max)
    sigmas = discrete_schedule(scheduler).sigmas
    return sigmas[0], sigmas[-1]


class DiffusersDenoiser(NetworkDenoiser):
    """Any diffusers model together with the scheduler it was trained under, as a denoiser.

        unet = diffusers.UNet2DModel.from_pretrained("google/ddpm-cifar10-32")
        denoiser = DiffusersDenoiser(unet, diffusers.DDPMScheduler.from_pretrained(...))

    Schedulers with `alphas_cumprod` (DDPM, DDIM, DPM-Solver++, UniPC, Euler, ...) with epsilon,
    sample or v_prediction, EDM's (`sigma_data`), ScoreSdeVe and flow matching's are known. Times
    between discrete steps are interpolated in ln sigma. `conditioning` (encoder_hidden_states, say)
    goes to every call of the model. `null_class` says that the last of a U-Net's class embeddings
    stands for "no class", which guidance needs (DiT has one by itself). A model with learned
    variance returns it as `Estimate.variance`.

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
