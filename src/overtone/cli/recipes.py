"""`overtone recipes`: what can be trained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("overtone recipes", description=__doc__)
    parser.parse_args(arguments)

    import torch
    from rich.console import Console
    from rich.table import Table

    from overtone.networks import NETWORKS
    from overtone.networks.vae import VAE
    from overtone.training.recipes import RECIPES

    table = Table(box=None)
    for column in ("recipe", "network", "parameters", "images", "batch"):
        table.add_column(column, no_wrap=True)
    table.add_column("about")
    for name, make in RECIPES.items():
        recipe = make()
        config: Any = recipe.network
        with torch.device("meta"):
            network = VAE.build(config) if config.kind == "VAE" else NETWORKS[config.kind](config)
        table.add_row(
            name,
            recipe.network.kind,
            f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M",
            f"{recipe.training.total_images / 1e6:,.1f} M",
            str(recipe.training.batch_size),
            recipe.about,
        )
    console = Console()
    # A file or a pipe has no width of its own: give the descriptions room.
    (console if console.is_terminal else Console(width=150)).print(table)
