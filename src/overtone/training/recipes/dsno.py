"""DSNO: models distilled to one evaluation."""

from __future__ import annotations

import dataclasses

from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.configs.training import Reporting, Training
from overtone.training.recipes.common import ramped, steady


def dsno_digits() -> DistillationRecipe:
    return DistillationRecipe(
        about="An operator makes the images of diffit-digits in one evaluation. It takes"
        " twenty minutes on 2 CPU cores.",
        teacher="runs/diffit-digits",
        guidance_scale=1.5,
        steps=10,
        training=ramped(80_000, 128, 2e-3, 5_000, 60_000, 5_000),
        reporting=Reporting(report_images=2_500, checkpoint_images=25_000, held_out_images=256),
    )


def dsno_fashion_mnist() -> DistillationRecipe:
    return DistillationRecipe(
        about="An operator makes the images of diffit-fashion-mnist in one evaluation. It"
        " learns from 50,000 trajectories.",
        teacher="models/diffit-fashion-mnist",
        count=50_000,
        training=ramped(1_000_000, 64, 1e-3, 20_000, 500_000, 20_000, ratio=0.05),
        reporting=Reporting(report_images=10_000, checkpoint_images=50_000, held_out_images=256),
    )


def dsno_glyphs_16() -> DistillationRecipe:
    return DistillationRecipe(
        about="An operator makes the images of relay-glyphs-16 in one evaluation, for"
        " dsno-glyphs. It takes 90 minutes on a CPU core.",
        teacher="runs/relay-glyphs-16",
        solver="dpmpp_2m",
        steps=14,
        count=12_000,
        training=ramped(60_000, 64, 1e-3, 5_000, 40_000, 3_000),
        reporting=Reporting(report_images=2_500, checkpoint_images=20_000, held_out_images=256),
    )


def dsno_glyphs() -> DistillationRecipe:
    return DistillationRecipe(
        about="An operator is the second stage of relay-glyphs, which then takes two"
        " evaluations. It takes an hour on a CPU core.",
        teacher="runs/relay-glyphs",
        first="runs/dsno-glyphs-16",
        count=3_000,
        held_out=128,
        num_times=2,
        training=ramped(12_000, 32, 1e-3, 1_500, 9_000, 1_000),
        reporting=Reporting(report_images=1_000, checkpoint_images=4_000, held_out_images=128),
    )


def dsno_cifar10() -> DistillationRecipe:
    return DistillationRecipe(
        about="An operator makes CIFAR-10 in one evaluation, as published, from a million"
        " trajectories. It takes days on GPUs.",
        teacher="runs/diffit-cifar10",
        count=1_000_000,
        solver="ddim",
        steps=512,
        training=_operator_training(400_000, 256, halved=(100_000, 200_000, 300_000)),
    )


def dsno_imagenet64() -> DistillationRecipe:
    return DistillationRecipe(
        about="An operator makes 64 px ImageNet in one evaluation, from 2.3 million"
        " trajectories of an undistilled teacher; the paper's was progressively distilled"
        " first. It takes days on 8 GPUs.",
        teacher="runs/relay-imagenet-64",
        count=2_300_000,
        solver="ddim",
        steps=16,
        spacing="uniform",
        training=_operator_training(480_000, 2048, halved=(200_000, 400_000)),
    )


def _operator_training(steps: int, batch_size: int, halved: tuple[int, ...]) -> Training:
    """As published: Adam at 2e-4 after 10,000 steps, halved at some, EMA 0.9999 a step."""
    return dataclasses.replace(
        steady(steps, batch_size, lr=2e-4),
        lr_rampup_images=10_000 * batch_size,
        lr_halved_images=tuple(step * batch_size for step in halved),
    )
