# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Combine the four
#
# DiffiT changes the network, MEME the denoiser, RDM the process, DSNO the sampler. Each of them
# is one noun of a pipeline, so that they combine. This notebook trains small models for a few
# minutes on two CPU cores, to show how. Run it from the root of the repository.

# %%
from dataclasses import replace

from overtone import MEMEPipeline, find_recipe, load_pipeline, train
from overtone.pipelines.pictures import grid


def shown(images, columns=13, factor=1):
    picture = grid(images, columns, gap=1)
    return picture.resize((factor * picture.width, factor * picture.height), 0)


def short(recipe, images, **changes):
    """A recipe for a run of a minute or two."""
    training = replace(
        recipe.training,
        total_images=images,
        lr_rampup_images=images // 20,
        lr_rampdown_images=images // 2,
        ema_halflife_images=images // 20,
    )
    return replace(recipe, training=training, **changes)


# %% [markdown]
# ## MEME of DiffiTs
#
# Experts are any models of the same images. Here two DiffiTs of the repository's kind are trained
# for half of the noise levels each, and merged at sigma 0.5.

# %%
digits = find_recipe("diffit-digits")
near = train(short(digits, 12_000), "runs/notebook-near")
far = train(short(digits, 12_000, label_dropout=0.2), "runs/notebook-far")
experts = MEMEPipeline.merged([near, far], boundaries=(0.5,))
shown(next(experts.stream(range(26), guidance_scale=1.5)).images, factor=4)

# %% [markdown]
# ## DSNO of the experts
#
# The operator learns the experts' trajectories, and makes an image in one evaluation.

# %%
experts.save_pretrained("runs/notebook-experts")
operator = train(
    short(
        find_recipe("dsno-digits"),
        6_000,
        teacher="runs/notebook-experts",
        count=2_048,
        held_out=128,
    ),
    "runs/notebook-operator",
)
shown(next(operator.stream(range(26))).images, factor=4)

# %% [markdown]
# ## RDM from any first stage
#
# A relay's second stage goes on from whatever makes small images: a model, a function, or
# pictures. Its first stage here is trained for two minutes, and the second for three.

# %%
small = train(short(find_recipe("relay-glyphs-16"), 6_000), "runs/notebook-16")
shown(next(small.stream(range(26))).images, factor=2)

# %%
relay = train(
    short(find_recipe("relay-glyphs"), 2_000, first="runs/notebook-16"), "runs/notebook-64"
)
shown(next(relay.stream(range(26))).images)

# %% [markdown]
# ## All four
#
# `examples/combined.py` has the whole: an operator of a relay whose stages are experts that are
# DiffiTs. Its recipes are trained like any other, `overtone train
# examples/combined.py:combined_16` first.

# %%
load_pipeline("runs/notebook-operator").made_with()["network"]["kind"]
