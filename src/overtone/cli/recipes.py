"""`overtone recipes`: what can be trained; `overtone recipes NAME`: the networks of one of them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from overtone.errors import OvertoneError


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("overtone recipes", description=__doc__)
    parser.add_argument("name", nargs="?", help="of a recipe, or a .json file with one")
    name = parser.parse_args(arguments).name

    from overtone.training.recipes import RECIPES, find_recipe

    if name is not None:
        _experts(find_recipe(name))
        return
    rows = []
    for name, make in RECIPES.items():
        recipe: Any = make()
        several, network = getattr(recipe, "experts", None), recipe.network
        kind = f"of {recipe.teacher}" if network is None else network.kind
        rows.append(
            (
                name,
                f"{several.count} x {kind}" if several else kind,
                f"{_parameters(_network(network)) / 1e6:.1f} M" if network else "",
                f"{recipe.training.total_images:,}",
                str(recipe.training.batch_size),
                recipe.about,
            )
        )
    _print(("recipe", "network", "parameters", "images", "batch", "about"), rows)


def _experts(recipe: Any) -> None:
    """Each network, where it acts, its split of channels, its size."""
    from overtone.networks import IUNetConfig
    from overtone.networks.network import multiply_adds

    if recipe.network is None:
        raise OvertoneError(f"the network is made from that of the teacher, {recipe.teacher}.")
    rows = []
    experts = getattr(recipe, "experts", None)
    for number in range(1, experts.count + 1) if experts else (0,):
        config, levels, drawn = recipe.network, "", ""
        if experts:
            own = recipe.expert(number)
            share = own.shares[1] - own.shares[0]
            drawn = f"{own.probability + (1 - own.probability) * share:.0%}"
            config = own.network
            levels = "{:.3g} to {:.3g}".format(*own.interval)
        try:
            network, split = _network(config), ""
        except ValueError as error:
            raise OvertoneError(f"network settings: {error}.") from None
        if isinstance(config, IUNetConfig):
            low = [count * config.head_channels for count in config.attending]
            split = "  ".join(f"{w - d}:{d}" for w, d in zip(config.widths, low, strict=True))
        rows.append(
            (
                str(number or ""),
                levels,
                drawn,
                config.kind,
                split,
                f"{_parameters(network) / 1e6:.2f} M",
                "" if config.kind == "VAE" else f"{multiply_adds(network) / 1e6:,.0f} M",
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


def _network(config: Any) -> Any:
    import torch

    from overtone.networks import NETWORKS
    from overtone.networks.vae import VAE

    with torch.device("meta"):
        return VAE.build(config) if config.kind == "VAE" else NETWORKS[config.kind](config)


def _parameters(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


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
