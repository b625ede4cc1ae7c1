"""`overtone COMMAND` finds the command's module and imports nothing else.

Errors that the user can mend are printed without a traceback; OVERTONE_DEBUG=1 brings it back.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence

from overtone.errors import SMALLER, OvertoneError, is_out_of_memory, plain, unknown
from overtone.launch import finish, lost_connection
from overtone.place import ADVICE, is_full

COMMANDS = {
    "recipes": "List what can be trained, with its size and its length.",
    "train": "Train a recipe, or resume a run.",
    "distill": "Distil a model into one that needs fewer function evaluations.",
    "sample": "Make images with a trained model.",
    "replay": "Make an image again from its receipt, and compare the two.",
    "edit": "Change a picture by a model: all of it, or only outside a mask.",
    "upscale": "Enlarge pictures of your own, of any size, by the second stage of relay diffusion.",
    "studio": "Show models in a browser: images on their way from noise, live.",
    "info": "Show what a directory holds: a run, a pipeline or a network.",
    "data": "Look at a data set, encode its latents, or compute its statistics.",
    "ema": "Make averages (EMA) of a run's weights, of any length, after training, and score them.",
    "merge": "Merge experts that were trained one by one into one model.",
    "fit": "Fit samplers of few function evaluations to a model.",
    "evaluate": "Score images: Fréchet distance, precision, recall and others, with intervals.",
    "compare": "Compare models on the same seeds: differences with intervals, at equal budgets.",
    "analyze": "Draw figures of attention, spectra, trajectories, guidance, eta, SNR and split.",
    "card": "Write a model to be handed on, with its licence, its scores and a grid of its images.",
    "export": "Export a model for use without Overtone: ONNX, torch.export, a script that samples.",
    "bench": "Measure speed and memory on this machine, beside other libraries.",
    "convert": "Convert published weights to a pipeline, with a certificate of what was done.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 for an error, 2 for bad options, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    if arguments[0] == "--version":
        from overtone import __version__

        print(f"overtone {__version__}")
        return
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged metadata, over many lines
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        name, *rest = _imported(arguments)
        if name not in COMMANDS:
            raise unknown("command", name, COMMANDS)
        importlib.import_module(f"overtone.cli.{name}").main(rest)
        finish()
    except OvertoneError as error:
        if os.environ.get("OVERTONE_DEBUG"):
            raise
        # Several processes would all report a user's Ctrl-C.
        if os.environ.get("RANK", "0") == "0" or error.exit_status == 1:
            print(f"overtone: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except BrokenPipeError:  # `overtone ... | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (MemoryError, OSError, RuntimeError, ValueError) as error:
        if is_full(error) and not os.environ.get("OVERTONE_DEBUG"):
            print(f"overtone: {plain(str(error))}: {ADVICE}.", file=sys.stderr)
            sys.exit(1)
        if is_out_of_memory(error) and not os.environ.get("OVERTONE_DEBUG"):
            print(f"overtone: memory is too small: {SMALLER}.", file=sys.stderr)
            sys.exit(1)
        if os.environ.get("WORLD_SIZE", "1") == "1" or not lost_connection(error):
            raise
        rank = os.environ.get("RANK", "?")
        print(f"overtone: process {rank} lost its connection: another one ended.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("overtone: interrupted.", file=sys.stderr)
        sys.exit(130)


def _imported(arguments: list[str]) -> list[str]:
    """The arguments without `--import MODULE|FILE.py`, each of which is imported: that registers
    whatever kinds of network, sampler and so on are defined there."""
    rest, given = [], iter(arguments)
    for argument in given:
        option, equals, value = argument.partition("=")
        if option != "--import":
            rest.append(argument)
            continue
        value = value if equals else next(given, "")
        if not value:
            raise OvertoneError("--import takes the name of a module, or a file that ends in .py.")
        from overtone.registry import import_module

        import_module(value)
    if not rest:
        raise OvertoneError("--import goes with a command: overtone COMMAND ... --import FILE.py.")
    return rest


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        (
            "Overtone: image diffusion models that use time and frequency.",
            "",
            "usage: overtone COMMAND ...      overtone COMMAND --help      overtone --version",
            "",
            *lines,
            "",
            "Every command takes --import MODULE or --import FILE.py, which is executed: it makes",
            "networks, samplers and other kinds of your own known.",
            "",
            "First steps:  overtone train diffit-digits --out runs/digits",
            "              overtone sample runs/digits --seeds 0-63 --out digits.png",
        )
    )
