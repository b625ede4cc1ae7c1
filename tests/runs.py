"""Runs that train in a second, for the tests of training."""

import dataclasses

from helpers import TINY_DIFFIT
from overtone.denoisers import EDMDenoiser
from overtone.pipelines import DiffiTPipeline, load_pipeline
from overtone.runs import find_checkpoint
from overtone.samplers import Sampler
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.configs.training import Reporting, Training
from overtone.training.loop import Trainer
from overtone.training.objectives import DenoisingObjective
from overtone.training.task import Task

TINY = DenoisingRecipe(
    about="",
    data="builtin:digits",
    network=dataclasses.replace(TINY_DIFFIT, num_classes=0, dropout=0.1),
    class_conditional=True,
    label_dropout=0.1,
    training=Training(
        total_images=256, batch_size=32, lr=1e-3, lr_rampup_images=64, ema_halflife_images=100,
        precision="fp32",
    ),
    reporting=Reporting(report_images=64, checkpoint_images=128, held_out_images=64, keep=1),
)  # fmt: skip


def changed(recipe=TINY, **changes):
    """A recipe with settings of its `training` and `reporting` changed by name."""
    for part in ("training", "reporting"):
        names = {f.name for f in dataclasses.fields(getattr(recipe, part))}
        own = {name: changes.pop(name) for name in list(changes) if name in names}
        recipe = dataclasses.replace(
            recipe, **{part: dataclasses.replace(getattr(recipe, part), **own)}
        )
    return dataclasses.replace(recipe, **changes)


QUICK = changed(
    total_images=64,
    checkpoint_images=32,
    report_images=32,
    held_out_images=32,
    sampler=Sampler(num_steps=2, estimate="single"),
)
"""two checkpoints, and pictures that take no time"""


def train(recipe, out):
    trainer = Trainer.of(recipe, show=False)
    trainer.run(out)
    return trainer


def weights_of(run):
    folder = find_checkpoint(run)
    return {
        name: (folder / name).read_bytes()
        for name in (
            "network/model.safetensors",
            "training/weights.safetensors",
            "training/ema.safetensors",
            "training/optimizer.safetensors",
        )
    }


class OnData(Task):
    """A task as one would write it: a denoiser on data that are there."""

    def __init__(self, recipe, data, objective=None):
        self.data, self.identity = data, {}
        self.model = EDMDenoiser(recipe.network.build())
        self.objective = objective or DenoisingObjective()

    def export(self, average, folder, progress):
        DiffiTPipeline(average.network).write_into(folder)

    def opened(self, checkpoint):
        return load_pipeline(checkpoint)
