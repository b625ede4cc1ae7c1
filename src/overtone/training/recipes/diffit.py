"""DiffiT in image space, and the networks that it is compared with."""

from __future__ import annotations

import dataclasses

from overtone.networks.configs.adm import ADMConfig
from overtone.networks.configs.diffit import DiffiTConfig
from overtone.networks.configs.song import SongConfig
from overtone.samplers.sampler import Sampler
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.configs.training import Reporting, Training
from overtone.training.recipes.common import ramped


def diffit_digits() -> DenoisingRecipe:
    return DenoisingRecipe(
        about="DiffiT makes 8 px handwritten digits by class. Training takes minutes on 2 CPU"
        " cores.",
        data="builtin:digits",
        network=DiffiTConfig(
            resolution=8,
            channels=1,
            widths=(64, 64),
            num_cells=(1, 1),
            head_channels=32,
            token_width=128,
            mlp_ratio=2.0,
        ),
        class_conditional=True,
        label_dropout=0.1,
        training=ramped(150_000, 128, 2e-3, 10_000, 75_000, 20_000),
        reporting=Reporting(report_images=2_500, checkpoint_images=25_000),
    )


def adm_digits() -> DenoisingRecipe:
    recipe = diffit_digits()
    network = ADMConfig(
        resolution=8,
        channels=1,
        widths=(64, 96),
        num_cells=1,
        attention_resolutions=(4,),
        head_channels=32,
        embedding_width=128,
    )
    about = "ADM's U-Net makes the digits of diffit-digits, to compare the two networks."
    return dataclasses.replace(recipe, about=about, network=network)


def diffit_fashion_mnist() -> DenoisingRecipe:
    return DenoisingRecipe(
        about="DiffiT makes 32 px Fashion-MNIST by class. Training takes eight hours on 2 CPU"
        " cores.",
        data="fashion-mnist",
        network=DiffiTConfig(
            resolution=32,
            channels=1,
            widths=(32, 64, 64),
            num_cells=(1, 1, 2),
            token_width=256,
            head_channels=16,
            mlp_ratio=2.0,
        ),
        class_conditional=True,
        label_dropout=0.1,
        mirror=True,
        training=ramped(2_000_000, 64, 1e-3, 20_000, 0, 100_000, ratio=0.05),
        reporting=Reporting(report_images=10_000, checkpoint_images=50_000),
    )


def diffit_cifar10() -> DenoisingRecipe:
    return DenoisingRecipe(
        about="DiffiT makes 32 px CIFAR-10 from a folder, zip or hf:, in the published"
        " settings but without dropout, of which the paper says nothing. Training takes days"
        " on one GPU.",
        network=DiffiTConfig.cifar10(),
        augmentation=0.12,
        training=Training(total_images=200_000 * 512, batch_size=512, lr=1e-3, clip_norm=None),
    )


def ddpmpp_cifar10() -> DenoisingRecipe:
    about = (
        "EDM's DDPM++ makes 32 px CIFAR-10. --network.attention tmsa gives it DiffiT's attention."
    )
    return dataclasses.replace(diffit_cifar10(), about=about, network=SongConfig.ddpmpp())


def ncsnpp_cifar10() -> DenoisingRecipe:
    about = "EDM's NCSN++ makes 32 px CIFAR-10."
    return dataclasses.replace(diffit_cifar10(), about=about, network=SongConfig.ncsnpp())


def diffit_ffhq64() -> DenoisingRecipe:
    return DenoisingRecipe(
        about="DiffiT makes 64 px FFHQ from a folder, zip or hf:, in the published settings."
        " Training takes days on several GPUs.",
        network=DiffiTConfig.ffhq64(),
        augmentation=0.15,
        sampler=Sampler(num_steps=40),
        training=Training(total_images=200_000 * 256, batch_size=256, lr=2e-4, clip_norm=None),
    )
