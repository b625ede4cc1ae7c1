"""`overtone recipes` lists what can be trained. `overtone recipes NAME` shows the networks of one
recipe, their sizes and, where there are experts, their noise levels."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from overtone.errors import OvertoneError


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("overtone recipes", description=__doc__)
    parser.add_argument(
        "name",
        nargs="?",
        help="The name of a recipe, a .json file that holds one, or FILE.py:NAME.",
    )
    name = parser.parse_args(arguments).name

    from overtone.training.recipes import PARAMETERS, RECIPES, find_recipe

    if name is not None:
        _networks(find_recipe(name))
        return
    rows = []
    for name in RECIPES:
        recipe = find_recipe(name)
        training, size = recipe.training, PARAMETERS.get(name)
        rows.append(
            (
                name,
                recipe.network_name,
                f"{size:.1f} M" if size else "",
                f"{training.total_images:,}",
                str(training.batch_size),
                recipe.about,
            )
        )
    _print(("recipe", "network", "parameters", "images seen", "batch size", "about"), rows)


def _networks(recipe: Any) -> None:
    """Each network, where it acts, its split of channels, its size."""
    from overtone.networks.network import build_empty, multiply_adds

    if recipe.network is None:
        raise OvertoneError(
            f"a recipe of distillation has no network of its own: its student has"
            f" {recipe.network_name}."
        )
    rows = []
    for number in range(1, recipe.num_experts + 1) or (0,):
        config, levels, drawn = recipe.network, "", ""
        if number:
            own = recipe.expert(number)
            share = own.shares[1] - own.shares[0]
            drawn = f"{own.probability + (1 - own.probability) * share:.0%}"
            config = own.network
            levels = "{:.3g} to {:.3g}".format(*own.interval)
        network = build_empty(config)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        split = getattr(config, "channel_split", None)  # a VAE has none, and no multiply-adds
        rows.append(
            (
                str(number or ""),
                levels,
                drawn,
                config.kind,
                split or "",
                f"{parameters / 1e6:.2f} M",
                "" if split is None else f"{multiply_adds(network) / 1e6:,.0f} M",
            )
        )
    _print(
        (
            "expert",
            "noise levels",
            "trained there",
            "network",
            "convolution:attention by level",
            "parameters",
            "multiply-adds",
        ),
        rows,
    )


def _print(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for column in columns:
        table.add_column(column, no_wrap=column != "about")
    for row in rows:
        table.add_row(*row)
    console = Console()
    # A file or a pipe has no width of its own: give the descriptions room.
    (console if console.is_terminal else Console(width=150)).print(table)
