"""Progressive distillation: models whose number of steps is halved again and again."""

from __future__ import annotations

from overtone.training.configs.halving import HalvingRecipe
from overtone.training.configs.training import Reporting
from overtone.training.recipes.common import ramped


def halve_digits() -> HalvingRecipe:
    return HalvingRecipe(
        about="Progressive distillation makes the images of diffit-digits in 8, 4, 2 and 1 steps.",
        teacher="runs/diffit-digits",
        guidance_scale=1.5,
        training=ramped(60_000, 128, 1e-3, 2_500, 55_000, 2_500),
        reporting=Reporting(report_images=2_500, checkpoint_images=20_000, held_out_images=256),
    )


def halve_fashion_mnist() -> HalvingRecipe:
    return HalvingRecipe(
        about="Progressive distillation makes the images of diffit-fashion-mnist in 8, 4, 2"
        " and 1 steps.",
        teacher="models/diffit-fashion-mnist",
        training=ramped(100_000, 64, 5e-4, 2_500, 95_000, 2_500),
        reporting=Reporting(report_images=2_500, checkpoint_images=25_000, held_out_images=512),
    )


def halve_glyphs() -> HalvingRecipe:
    return HalvingRecipe(
        about="Progressive distillation makes the second stage of relay-glyphs take 8, 4, 2"
        " and 1 steps.",
        teacher="runs/relay-glyphs",
        training=ramped(10_000, 32, 5e-4, 500, 9_500, 500),
        reporting=Reporting(report_images=1_000, checkpoint_images=5_000, held_out_images=128),
    )


def halve_images() -> HalvingRecipe:
    return HalvingRecipe(
        about="Progressive distillation makes the images of any model (--teacher) in 8, 4, 2"
        " and 1 steps. It trains on the model's own training images.",
        training=ramped(200_000, 64, 2e-4, 5_000, 190_000, 5_000),
        reporting=Reporting(report_images=5_000, checkpoint_images=25_000),
    )
