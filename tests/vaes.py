"""A small VAE on the disk, and settings for short trainings with it."""

import pytest

from helpers import tiny_vae
from overtone.training.configs.training import Reporting, Training

PLAN = Training(
    total_images=64, batch_size=16, lr=1e-3, lr_rampup_images=16, ema_halflife_images=16,
    precision="fp32",
)  # fmt: skip
REPORTS = Reporting(report_images=32, checkpoint_images=32, held_out_images=16, keep=1)


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "vae"
    folder.mkdir()
    vae = tiny_vae()
    vae.scaling_factor = 2.5
    vae.write_into(folder)
    return folder
