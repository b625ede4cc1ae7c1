"""What is called otherwise now: old names are refused, and the new one is said.

docs/renamed.md lists them for readers. Files of former versions are another matter: they are
translated (`former.py`).
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from overtone.errors import OvertoneError

NAMES = {
    "AnyProcess": "Process",
    "AnySampler": "SamplingLoop",
    "AnySchedule": "Schedule",
    "DenoiserSettings": "Preconditioning",
    "EDMSettings": "EDMPreconditioning",
    "ImagePipeline": "Pipeline",
    "OperatorSettings": "OperatorPreconditioning",
    "VESettings": "VEPreconditioning",
    "VPSettings": "VPPreconditioning",
}
"""Classes."""

ARGUMENTS = {"denoiser": "preconditioning"}
"""Arguments of pipelines and of recipes."""

OPTIONS = {
    "--denoiser.kind": "a recipe file chooses another preconditioning",
    "--denoiser": "--preconditioning",
    "--inception-weights": "--extractor-weights",
    "--network.kind": "a recipe file chooses another network",
    "--process.kind": "a recipe file chooses another process",
    "--sampler.kind": "a recipe file chooses another sampler",
    "--schedule.kind": "a recipe file chooses another schedule",
}
"""Options, and what they are now: an option, or a sentence."""

OPTIONS_OF = {
    "train": {"--weighting": "a recipe file names the weight of the loss, by `weighting`"},
    "analyze spectrum": {"--steps": "--levels"},
}
"""The same for options of a command that others have."""


def attach(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What makes a package's names load when they are first used, as lazy_loader does, with the
    new name said for an old one."""
    import lazy_loader

    lazy, names, public = lazy_loader.attach_stub(package, file)

    def look_up(name: str) -> Any:
        new = NAMES.get(name)
        if new is not None and new in public:
            message = f"{package}.{name} is called {package}.{new} now"
            # `from package import name` would put a message of its own in the place of an
            # AttributeError's, which `hasattr` and `getattr` need.
            raise ImportError(message) if _is_import(sys._getframe(1)) else AttributeError(message)
        if name not in public:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return lazy(name)

    return look_up, names, public


def _is_import(frame: FrameType) -> bool:
    """Whether a frame is at a `from package import name`."""
    return frame.f_code.co_code[frame.f_lasti] == dis.opmap["IMPORT_FROM"]


def check_arguments(given: Iterable[str], what: str) -> None:
    """Raises `TypeError` for arguments that `what` does not take, naming what they are now."""
    for name in given:
        if name in ARGUMENTS:
            raise TypeError(f"'{name}' of a {what} is called '{ARGUMENTS[name]}' now")
        raise TypeError(f"a {what} takes no argument '{name}'")


def check_options(arguments: Iterable[str], command: str) -> None:
    """Raises `OvertoneError` for an option of a command that is called otherwise now."""
    own = (options for name, options in OPTIONS_OF.items() if f"{command} ".startswith(f"{name} "))
    known = OPTIONS | next(own, {})
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        for old, new in known.items():
            if option != old and not option.startswith(f"{old}."):
                continue
            if not new.startswith("--"):
                raise OvertoneError(f"{option} is not an option any more: {new}.")
            raise OvertoneError(f"{option} is called {new}{option.removeprefix(old)} now.")
