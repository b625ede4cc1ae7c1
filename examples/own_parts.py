"""A network, a preconditioning and a data set of your own in one file, through every command:

overtone train examples/own_parts.py:shapes
overtone sample runs/shapes --import examples/own_parts.py --out shapes.png
overtone evaluate runs/shapes --import examples/own_parts.py
overtone distill collect examples/own_parts.py:one_step
overtone distill train examples/own_parts.py:one_step
overtone sample runs/one_step --import examples/own_parts.py --out one_step.png
overtone merge runs/shapes runs/shapes --boundaries 1 --out runs/two --import examples/own_parts.py
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from overtone.data import data_set
from overtone.denoisers import Preconditioning
from overtone.networks import Network, NetworkConfig, Spot
from overtone.training import DenoisingRecipe, DistillationRecipe, Training


@dataclass(frozen=True)
class PlainConfig(NetworkConfig, kind="Plain"):
    resolution: int = 16
    channels: int = 1
    num_classes: int = 0
    width: int = 64
    """channels of the features"""

    def build(self) -> "Plain":
        return Plain(self)


class Plain(Network):
    """Residual convolutions, each shifted by the time and the class."""

    config_class = PlainConfig

    def __init__(self, config: PlainConfig) -> None:
        super().__init__(config)
        width = config.width
        self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(config.num_classes + 1, width)  # the last for "no class"
        self.stem = nn.Conv2d(config.channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=reach, dilation=reach) for reach in (1, 2, 4) * 2
        )
        self.head = nn.Conv2d(width, config.channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor | None = None) -> Tensor:
        if class_labels is None:
            class_labels = torch.full((len(x),), self.config.num_classes, device=x.device)
        shift = (self.time(time[:, None]) + self.classes(class_labels))[:, :, None, None]
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(F.silu(F.group_norm(x, 8) + shift))
        return self.head(x)

    def temporal_spots(self) -> Iterator[Spot]:
        """A distilled student gets a temporal layer behind each of these."""
        return (Spot(self.blocks, n, self.config.width) for n in range(len(self.blocks)))


@dataclass(frozen=True)
class ImagePrediction(Preconditioning, kind="image-prediction"):
    """The network returns the clean image."""

    sigma_data: float = 0.5
    """standard deviation of the data in [-1, 1]"""

    def c_skip(self, sigma: Any) -> Any:
        return 0.0

    def c_out(self, sigma: Any) -> Any:
        return 1.0

    def c_in(self, sigma: Any) -> Any:
        return (sigma**2 + self.sigma_data**2) ** -0.5

    def c_noise(self, sigma: Any) -> Any:
        return sigma**0.25


class Shapes:
    """Discs and squares, light on dark. Image i is a function of i, and its class is i mod 2."""

    class_names = ("disc", "square")

    def __init__(self, size: int, channels: int, numbers: range) -> None:
        self.size, self.channels, self.numbers = size, channels, numbers
        self.fingerprint = f"shapes {size} {channels} {numbers}"  # changes when the images do

    def __len__(self) -> int:
        return len(self.numbers)

    def fetch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        numbers = [self.numbers[index] for index in indices]
        return torch.stack([self.draw(n) for n in numbers]), torch.tensor([n % 2 for n in numbers])

    def draw(self, number: int) -> Tensor:
        left, top, size = torch.rand(3, generator=torch.Generator().manual_seed(number)).tolist()
        radius, grid = self.size * (0.15 + 0.15 * size), torch.arange(self.size) + 0.5
        x = (grid[None, :] - self.size * (0.35 + 0.3 * left)).abs()
        y = (grid[:, None] - self.size * (0.35 + 0.3 * top)).abs()
        distance = torch.maximum(x, y) if number % 2 else (x**2 + y**2).sqrt()
        return (255 * (0.5 + radius - distance).clamp(0, 1)).byte().expand(self.channels, -1, -1)


@data_set("shapes")
def open_shapes(resolution: int, channels: int, split: str) -> Shapes:
    return Shapes(resolution, channels, range(4000) if split == "train" else range(4000, 5000))


shapes = DenoisingRecipe(
    about="The images are discs and squares of 16 px. Training takes two minutes on 2 CPU cores.",
    data="shapes",
    network=PlainConfig(),
    preconditioning=ImagePrediction(),
    class_conditional=True,
    label_dropout=0.1,
    training=Training(total_images=30_000, batch_size=64, lr_rampup_images=2_000,
                      ema_halflife_images=3_000),
)  # fmt: skip

one_step = DistillationRecipe(
    about="the same in one evaluation",
    teacher="runs/shapes",
    count=2_000,
    training=Training(total_images=10_000, batch_size=32, lr_rampup_images=1_000,
                      ema_halflife_images=1_000),
)  # fmt: skip
