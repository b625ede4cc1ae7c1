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
# # First steps
#
# A model of the repository makes images, and says what they depend on. Then a small one is
# trained. Run this from the root of the repository.

# %%
from overtone import load_pipeline, open_data, train
from overtone.analysis.plots import denoising_path
from overtone.pipelines.pictures import grid

pipe = load_pipeline("models/diffit-digits")
pipe.network.config

# %% [markdown]
# ## Images
#
# A seed is an image, in any batch. Here are thirty, whose classes take turns, enlarged.


# %%
def shown(images, columns=10):
    picture = grid(images, columns, gap=1)
    return picture.resize((6 * picture.width, 6 * picture.height), 0)


shown(next(pipe.stream(range(30))).images)

# %%
sevens = pipe(seeds=range(10), class_labels=7, evaluations=14)
sevens[3].resize((96, 96), 0)

# %%
alone = pipe(seeds=[3], class_labels=7, evaluations=14)
alone[0].tobytes() == sevens[3].tobytes()

# %% [markdown]
# ## From noise to image

# %%
path = denoising_path(pipe, range(10, 16))
path.resize((6 * path.width, 6 * path.height), 0)

# %% [markdown]
# ## What an image depends on
#
# `made_with` is the account that every receipt, report and card holds.

# %%
pipe.made_with()["sampler"]

# %% [markdown]
# ## Scores
#
# Two hundred images beside the real ones, on the features of a classifier of the digits, with 95
# % intervals.

# %%
from overtone import Request
from overtone.metrics import Evaluation
from overtone.training.classifier import classifier_of

evaluation = Evaluation(classifier_of("builtin:digits", 8, 1), open_data("builtin:digits", 8, 1))
request = Request(range(200))
batches = ((batch.images, batch.class_labels) for batch in pipe.stream(request))
report = evaluation(batches, pipe.made_with(request))
report.value("frechet_distance"), report.interval("frechet_distance")

# %% [markdown]
# ## Training
#
# A recipe is a dataclass of settings. This one is made short: 20,000 images, in a minute or two
# on two CPU cores. Run the cell again and it goes on, or says that it is done.

# %%
from dataclasses import replace

from overtone import find_recipe

recipe = find_recipe("diffit-digits")
recipe = replace(
    recipe,
    training=replace(
        recipe.training, total_images=20_000, lr_rampup_images=1_000, lr_rampdown_images=10_000
    ),
)
own = train(recipe, "runs/notebook-digits")
shown(next(own.stream(range(30), guidance_scale=1.5)).images)
