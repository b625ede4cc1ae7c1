"""`overtone studio` shows models in a browser: images on their way from noise, live.

    overtone studio                                    shows the models in models/ and runs/
    overtone studio runs/digits you/cats --port 8000   shows a run and a repository of the Hub

Only this machine can open the page unless --host says otherwise. It needs the extra studio.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from overtone.cli.options import parse
from overtone.errors import plain
from overtone.ranges import Port
from overtone.studio.limits import Limits


@dataclass(frozen=True)
class Options:
    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="[MODEL ...]", help_behavior_hint=""),
    ] = ()
    """Saved pipelines, runs, repositories of the Hub, or diffusers pipelines. If left out, they are
    those in models/ and runs/. Visitors can open no others."""
    host: str = "127.0.0.1"
    """The address that the studio listens at. 127.0.0.1 is this machine alone; 0.0.0.0 lets
    everyone in who can reach it."""
    port: Port = 7860
    """The port that the studio listens at; 0 takes any that is free."""
    limits: Annotated[Limits, tyro.conf.arg(name="limit")] = field(default_factory=Limits)


def main(arguments: Sequence[str]) -> None:
    options = parse(Options, "studio", __doc__, arguments)
    from overtone.cli.model import open_model
    from overtone.studio.serve import serve
    from overtone.studio.shelf import Shelf, models_here

    def tell(words: str) -> None:
        print(plain(words), file=sys.stderr)

    shelf = Shelf(options.models or models_here(), open_model, options.limits.loaded)
    if not options.models:  # nobody named them: one that is damaged does not stand in the way
        shelf.leave_out(tell)

    def opened(address: str) -> None:
        tell(f"Open {address} in a browser. Ctrl-C ends the studio.")

    serve(shelf, options.limits, options.host, options.port, opened)
