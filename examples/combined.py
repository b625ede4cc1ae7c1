"""The four systems in one model: an operator (DSNO) of a relay (RDM) whose two stages are experts
(MEME) that are DiffiTs. It makes a letter of 64 px in two evaluations.

    overtone train examples/combined.py:combined_16             the first stage: 16 px
    overtone train examples/combined.py:combined                the second: from there to 64 px
    overtone distill collect examples/combined.py:dsno_combined_16
    overtone distill train examples/combined.py:dsno_combined_16
    overtone distill collect examples/combined.py:dsno_combined
    overtone distill train examples/combined.py:dsno_combined
    overtone sample runs/dsno_combined --seeds 0-51 --columns 26 --out letters.png
    overtone compare runs/combined runs/dsno_combined --seeds 0-519

Each stage has two experts. The one near the noise attends in windows of 8 pixels, the one near the
image in windows of 2 or 4. An operator's student begins with the network of the expert that
sampling begins with.
"""

from __future__ import annotations

import dataclasses

from overtone.networks import DiffiTConfig
from overtone.training.configs.denoising import DenoisingRecipe, ExpertSettings
from overtone.training.recipes.dsno import dsno_glyphs, dsno_glyphs_16
from overtone.training.recipes.relay import relay_glyphs, relay_glyphs_16


def experts(
    resolution: int, widths: tuple[int, ...], windows: tuple[int, int], boundary: float
) -> ExpertSettings:
    """Two DiffiTs, the one nearest the image first, that attend in windows of these sizes. The
    boundary is the noise level between them, about the median of training's."""
    network = DiffiTConfig(
        resolution=resolution,
        widths=widths,
        num_cells=(1,) * len(widths),
        head_channels=8,
        token_width=192,
        mlp_ratio=2.0,
    )
    networks = tuple(dataclasses.replace(network, window=window) for window in windows)
    return ExpertSettings((boundary,), (0.6, 0.6), networks=networks)


def of_experts(
    recipe: DenoisingRecipe, own: ExpertSettings, images: int, about: str
) -> DenoisingRecipe:
    """The recipe with these experts, which see this many images each."""
    training = dataclasses.replace(
        recipe.training,
        total_images=images,
        lr_rampdown_images=images // 2,
        ema_halflife_images=images // 6,
    )
    return dataclasses.replace(
        recipe, about=about, network=own.networks[0], experts=own, training=training
    )


combined_16 = of_experts(
    relay_glyphs_16(), experts(16, (48, 96), (2, 8), 0.3), 60_000, "Two DiffiTs make 16 px letters."
)
combined = dataclasses.replace(
    of_experts(
        relay_glyphs(),
        experts(64, (24, 32, 64, 96), (4, 8), 0.13),
        20_000,
        "Two DiffiTs are the second stage of combined_16 and make 64 px letters.",
    ),
    first="runs/combined_16",
)
dsno_combined_16 = dataclasses.replace(
    dsno_glyphs_16(),
    about="An operator makes the images of combined_16 in one evaluation.",
    teacher="runs/combined_16",
)
dsno_combined = dataclasses.replace(
    dsno_glyphs(),
    about="An operator is the second stage of combined, which then takes two evaluations.",
    teacher="runs/combined",
    first="runs/dsno_combined_16",
)
