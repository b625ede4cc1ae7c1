"""diffusers' models as denoisers."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels
from overtone.denoisers.precond import Prediction, vp_estimate
from overtone.errors import OvertoneError
from overtone.processes import DiscreteSchedule

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


class DiffusersDenoiser(Denoiser):
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
        super().__init__()
        self.model = model
        self.conditioning = conditioning
        config = model.config
        transformer = getattr(config, "num_embeds_ada_norm", None)
        count = int(transformer or getattr(config, "num_class_embeds", None) or 0)
        # DiT embeds one class more than it names; a U-Net's last may have been trained as such.
        self.has_null_class = bool(transformer) if null_class is None else null_class
        self.num_classes = count - 1 if count and null_class and not transformer else count
        self.kind = "vp"
        name = type(scheduler).__name__
        if name == "ScoreSdeVeScheduler":
            self.kind = "ve"
            return
        if not name.startswith("EDM"):
            self.schedule = discrete_schedule(scheduler)
        prediction = scheduler.config.prediction_type
        if prediction not in PREDICTIONS:
            raise OvertoneError(f"{name} predicts '{prediction}', which is none of "
                                f"{', '.join(PREDICTIONS)}.")  # fmt: skip
        self.prediction = PREDICTIONS[prediction]
        if name.startswith("EDM"):
            self.kind, self.sigma_data = "edm", float(scheduler.config.sigma_data)
            if prediction == "sample":
                raise OvertoneError(f"{name} with prediction_type 'sample' is not known here.")

    def forward(
        self,
        x: Images,
        sigma: float | Float[Tensor, " batch"],
        class_labels: Labels | None = None,
    ) -> Estimate:
        level = sigma[:, None, None, None].to(x.dtype) if isinstance(sigma, Tensor) else sigma
        if self.kind == "ve":  # the model returns the score
            return Estimate(x + level**2 * self._call(x, sigma, x, class_labels))
        if self.kind == "edm":
            total = level**2 + self.sigma_data**2
            time = sigma.log() / 4 if isinstance(sigma, Tensor) else math.log(sigma) / 4
            out = self._call(total**-0.5 * x, time, x, class_labels)
            c_out = level * self.sigma_data / total**0.5
            # Under "v_prediction" diffusers turns the sign of c_out.
            c_out = -c_out if self.prediction == "v" else c_out
            return Estimate(self.sigma_data**2 / total * x + c_out * out)
        time = self.schedule.t(sigma) * (len(self.schedule.levels) - 1)
        out = self._call((1 + level**2) ** -0.5 * x, time, x, class_labels)
        variance = None
        if out.shape[1] == 2 * x.shape[1]:
            out, variance = out.chunk(2, dim=1)
        return Estimate(vp_estimate(x, level, out, self.prediction), variance)

    def relative_time(self, sigma: float) -> float | None:
        return self.schedule.share_below(sigma) if self.kind == "vp" else None

    def _call(
        self, scaled: Tensor, time: Tensor | float, x: Tensor, class_labels: Labels | None
    ) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        times = torch.as_tensor(time, dtype=torch.float32, device=x.device).expand(len(x))
        more = dict(self.conditioning)
        if self.num_classes:
            if class_labels is None and not self.has_null_class:
                raise OvertoneError(
                    f"{type(self.model).__name__} was trained with classes and has none for"
                    " 'no class': pass class labels, and no guidance."
                )
            if class_labels is None:
                class_labels = torch.full((len(x),), self.num_classes, device=x.device)
            more["class_labels"] = class_labels
        out = self.model(scaled.to(dtype), times, **more, return_dict=False)[0]
        return out.to(x.dtype)
