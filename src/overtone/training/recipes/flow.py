"""Rectified flow."""

from __future__ import annotations

import dataclasses

from overtone.denoisers.preconditioning import FlowPreconditioning
from overtone.processes.flow import FlowSchedule
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.recipes.diffit import diffit_digits


def flow_digits() -> DenoisingRecipe:
    return dataclasses.replace(
        diffit_digits(),
        about="A rectified flow makes the digits of diffit-digits with the same network.",
        preconditioning=FlowPreconditioning(),
        schedule=FlowSchedule(),
    )
