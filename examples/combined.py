"""The four systems in one model: an operator (DSNO) of a relay (RDM) whose two stages are experts
(MEME) that are DiffiTs. It makes a letter of 64 px in two evaluations.

    overtone train examples/combined.py:trunk_16                one DiffiT of 16 px
    overtone train examples/combined.py:combined_16             two experts that begin with it
    overtone train examples/combined.py:trunk                   from there to 64 px: one DiffiT
    overtone train examples/combined.py:combined                two experts that begin with it
    overtone distill collect examples/combined.py:dsno_combined_16
    overtone distill train examples/combined.py:dsno_combined_16
    overtone distill collect examples/combined.py:dsno_combined
    overtone distill train examples/combined.py:dsno_combined
    overtone sample runs/dsno_combined --seeds 0-51 --columns 26 --out letters.png
    overtone compare runs/combined runs/dsno_combined --seeds 0-519

Each stage has two experts. The one near the noise attends in windows of 8 pixels, the one near the
image in windows of 2 or 4. Both begin with the weights of a trunk, which was trained at all noise
levels, so that neither has to learn from its own images alone what both need. An operator's student
begins with the network of the expert that sampling begins with.
"""

from __future__ import annotations

import dataclasses

from overtone.networks import DiffiTConfig
from overtone.training.configs.denoising import DenoisingRecipe, ExpertSettings
from overtone.training.recipes.dsno import dsno_glyphs, dsno_glyphs_16
from overtone.training.recipes.relay import relay_glyphs, relay_glyphs_16


def network(resolution: int, widths: tuple[int, ...]) -> DiffiTConfig:
    """A DiffiT that attends in windows of 8 pixels."""
    return DiffiTConfig(
        resolution=resolution,
        widths=widths,
        num_cells=(1,) * len(widths),
        head_channels=8,
        token_width=192,
        mlp_ratio=2.0,
        window=8,
    )


def trunk_of(
    recipe: DenoisingRecipe, own: DiffiTConfig, images: int, about: str
) -> DenoisingRecipe:
    """The recipe with this network, which sees this many images at a learning rate that stays."""
    training = dataclasses.replace(
        recipe.training,
        total_images=images,
        lr_rampdown_images=0,
        ema_halflife_images=images // 20,
    )
    return dataclasses.replace(recipe, about=about, network=own, training=training)


def experts_of(
    trunk: DenoisingRecipe, window: int, boundary: float, images: int, init: str, about: str
) -> DenoisingRecipe:
    """Two experts that begin with the trunk of the run `init`, see this many images each, and end
    at a learning rate of zero. The one nearest the image attends in `window`. The boundary is the
    noise level between them, about the median of training's."""
    far: DiffiTConfig = trunk.network  # type: ignore[assignment]
    networks = dataclasses.replace(far, window=window), far
    training = dataclasses.replace(
        trunk.training,
        total_images=images,
        lr_rampup_images=images // 20,
        lr_rampdown_images=images * 9 // 10,
        ema_halflife_images=images // 10,
    )
    return dataclasses.replace(
        trunk,
        about=about,
        network=networks[0],
        experts=ExpertSettings((boundary,), (0.6, 0.6), networks=networks),
        training=training,
        init=init,
    )


trunk_16 = trunk_of(
    relay_glyphs_16(), network(16, (48, 96)), 240_000, "One DiffiT makes 16 px letters."
)
combined_16 = experts_of(
    trunk_16, 2, 0.3, 60_000, "runs/trunk_16", "Two DiffiTs make 16 px letters."
)
trunk = dataclasses.replace(
    trunk_of(
        relay_glyphs(),
        network(64, (24, 32, 64, 96)),
        30_000,
        "One DiffiT is the second stage of trunk_16 and makes 64 px letters.",
    ),
    first="runs/trunk_16",
)
combined = dataclasses.replace(
    experts_of(
        trunk,
        4,
        0.13,
        10_000,
        "runs/trunk",
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
