"""How a figure's command opens its models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from overtone.cli.model import ModelOptions, check_first, open_model, saved_options
from overtone.errors import OvertoneError
from overtone.sizes import shown

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline


def opened_with(arguments: Sequence[str], command: str) -> ModelOptions:
    """The settings of the model that the first argument names, as the defaults of its options."""
    check_first(arguments, command)
    return saved_options(arguments)


def open_beside(name: str, pipe: Pipeline, model: str) -> Pipeline:
    """A second model, to be looked at as the first one is: on the same seeds, by the first one's
    sampler, so that both pass the same noise levels. Raises `OvertoneError` where they can't be
    compared."""
    other = open_model(name)
    shapes = [
        f"{shown(p.network.config.resolution)} px with {p.network.config.channels} channels"
        for p in (pipe, other)
    ]
    if shapes[0] != shapes[1]:
        raise OvertoneError(
            f"--beside: {model} works on {shapes[0]}, and {name} on {shapes[1]}: only models of one"
            " size are looked at side by side."
        )
    classes = pipe.num_classes, other.num_classes
    if 0 not in classes and classes[0] != classes[1]:
        raise OvertoneError(
            f"--beside: {model} has {classes[0]} classes, and {name} has {classes[1]}: the same"
            " seeds would show other classes: compare models of the same classes."
        )
    if pipe.process != other.process:
        raise OvertoneError(
            f"--beside: {model} inverts a {pipe.process.kind}, and {name} a {other.process.kind} of"
            " other settings: compare models of the same process, whose noise levels mean the same."
        )
    if pipe.sampler.is_operator != other.sampler.is_operator:
        raise OvertoneError(
            "--beside: an operator has no noise levels: compare two operators, or two other models."
        )
    other.sampler = pipe.sampler
    if pipe.first is not None and other.first is None:
        other.first = pipe.first
    return other
