"""Small teachers, their trajectories and a student's run, for the tests of distillation."""

import dataclasses

import pytest
import torch

from helpers import TINY_DIFFIT, awake
from overtone.denoisers import IdealDenoiser, Preconditioning
from overtone.networks import DiffiTUNet, Network, NetworkConfig
from overtone.pipelines import DiffiTPipeline, Pipeline
from overtone.processes import QuantileSchedule, RelayProcess
from overtone.samplers import Sampler
from overtone.training.collect import collect
from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.configs.training import Reporting, Training
from overtone.training.loop import Trainer
from overtone.training.teacher import Teacher, teacher_of

TRAINING = Training(
    total_images=192,
    batch_size=32,
    lr=1e-3,
    lr_rampup_images=64,
    ema_halflife_images=100,
    precision="fp32",
)
REPORTING = Reporting(report_images=64, checkpoint_images=64, held_out_images=16, keep=1)
TINY = DistillationRecipe(
    about="",
    count=24,
    held_out=8,
    training=TRAINING,
    reporting=REPORTING,
)


def a_pipe(kind=DiffiTPipeline, steps=6, **changes):
    torch.manual_seed(3)
    network = awake(DiffiTUNet(dataclasses.replace(TINY_DIFFIT, **changes)))
    return kind(network, Sampler(num_steps=steps), precision="fp32", class_names=("a", "b", "c"))


@pytest.fixture(scope="module")
def pipe():
    return a_pipe()


@pytest.fixture
def teacher(pipe):
    return teacher_of(pipe, "tiny")


@dataclasses.dataclass(frozen=True)
class GaussianConfig(NetworkConfig, kind="TestGaussian"):
    resolution: int = 4
    channels: int = 1
    num_classes: int = 0

    def build(self):
        return GaussianNetwork(self)


class GaussianNetwork(Network):
    config_class = GaussianConfig

    def __init__(self, config):
        super().__init__(config)
        self.ideal, _, _ = a_gaussian()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, time, class_labels=None):
        return self.scale * self.ideal(x, time).x_0


@dataclasses.dataclass(frozen=True)
class Unscaled(Preconditioning, kind="test_unscaled"):
    """D(x; sigma) = F(x; sigma)."""

    def c_skip(self, sigma):
        return 0.0

    def c_out(self, sigma):
        return 1.0

    def c_in(self, sigma):
        return 1.0

    def c_noise(self, sigma):
        return sigma


def a_gaussian():
    """The ideal denoiser of a Gaussian on 4 x 4 images: its eigenbasis, eigenvalues and mean."""
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(1, 1, 4, 4, generator=generator) * 0.3
    factor = torch.randn(16, 16, generator=generator) * 0.25
    return IdealDenoiser(mean, factor @ factor.T), mean, factor @ factor.T


def gaussian_teacher(steps=40):
    """The ideal denoiser as anybody's network, under a preconditioning of its own."""
    network = GaussianNetwork(GaussianConfig())
    pipe = Pipeline(network, Sampler(num_steps=steps), preconditioning=Unscaled(), precision="fp32")
    return Teacher("gaussian", pipe)


def distilled(recipe, teacher, folder, run):
    trainer = Trainer.of(recipe, teacher=teacher, folder=folder, show=False)
    trainer.run(run)
    return trainer


@pytest.fixture(scope="module")
def kept(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "trajectories"
    collect(TINY, teacher_of(pipe, "tiny"), folder, show=False)
    return folder


@pytest.fixture(scope="module")
def run(pipe, kept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    distilled(TINY, teacher_of(pipe, "tiny"), kept, folder)
    return folder


def longer(recipe, **changes):
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, **changes))


PROCESS = RelayProcess(patch=2, schedule=QuantileSchedule(prob_length=0.93))
