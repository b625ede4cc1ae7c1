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
        about="the same digits and network as a rectified flow",
        preconditioning=FlowPreconditioning(),
        schedule=FlowSchedule(),
    )
