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
# # Your own images
#
# From a folder of pictures to a model with a card. The folder is made here, of letters in two
# classes; put the path of yours in its place. Run this from the root of the repository.

# %%
from pathlib import Path

from overtone import load_pipeline, open_data, train
from overtone.pipelines.pictures import grid, to_pil

PICTURES = Path("runs/notebook-pictures")
if not PICTURES.exists():
    letters = open_data("builtin:glyphs", 48, 3)
    pixels, labels = letters.fetch([n for n in range(26 * 60) if n % 26 < 2])
    for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        file = PICTURES / "AB"[label] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        to_pil(image).save(file)

# %% [markdown]
# ## What is in the folder
#
# Sub-folders are classes. The settings follow from what is found and from the machine.

# %%
from overtone.training.fitting import Asked, fit

recipe = fit("images", Asked(str(PICTURES), resolution=16)).recipe
recipe.network

# %% [markdown]
# ## A first model
#
# It sees 4,000 images, in a minute or two on two CPU cores; by itself the recipe takes hundreds
# of thousands.

# %%
from dataclasses import replace

short = replace(recipe, training=replace(recipe.training, total_images=4_000))
pipe = train(short, "runs/notebook-images")


def shown(images, columns=8):
    picture = grid(images, columns, gap=1)
    return picture.resize((4 * picture.width, 4 * picture.height), 0)


shown(next(pipe.stream(range(16))).images)

# %% [markdown]
# ## Fine-tuning
#
# The next model begins with the weights of this one. A model of the repository, published
# weights, or a pipeline of diffusers' would do as well.

# %%
again = replace(short, init="runs/notebook-images")
tuned = train(again, "runs/notebook-tuned")
shown(next(tuned.stream(range(16))).images)

# %% [markdown]
# ## Handing it on
#
# What is saved holds data only: JSON and safetensors. The card says what is known of the model.

# %%
tuned.license = "cc-by-4.0"
tuned.save_pretrained("runs/notebook-model")
print(Path("runs/notebook-model/README.md").read_text()[:400])

# %%
same = load_pipeline("runs/notebook-model")
same(seeds=[0])[0].tobytes() == tuned(seeds=[0])[0].tobytes()
