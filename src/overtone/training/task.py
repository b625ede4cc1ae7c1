"""A task: what a run trains. The loop knows nothing else of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from PIL.Image import Image
from torch import nn

from overtone.data.images import ImageData
from overtone.data.reading import PLAIN
from overtone.data.rules import Reading
from overtone.training.objectives import Objective
from overtone.training.progress import Progress

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline
    from overtone.pipelines.receipt import Receipt
    from overtone.pipelines.sheets import Layout


class Picture(NamedTuple):
    """What a run shows at a checkpoint."""

    image: Image
    receipt: Receipt | None = None
    """What the image can be made again from. None means that it shows more than the images of
    seeds."""
    layout: Layout | None = None
    """Where the images of a grid of samples are."""


class Task(ABC):
    """A model, what it is trained on, and what becomes of it.

    `export` and `picture` are given the averaged copy of `model`, in eval mode, and how far the run
    has come.
    """

    model: nn.Module
    """The model that is trained."""
    objective: Objective
    """How a batch is drawn, and its loss."""
    data: ImageData
    """The training data."""
    held_out: ImageData | None = None
    """The data that the averaged model's loss is measured on. None stands for training data."""
    identity: dict[str, Any]
    """The JSON of all that the weights depend on, except the data."""
    alone: bool = False
    """Whether the task trains in this process alone, even where a launcher started several."""
    loads_here: bool = False
    """Whether its data can be loaded by the training process only."""
    what: ClassVar[str] = "images"
    """The name of the data's items in the plural."""
    one: ClassVar[str] = "image"
    """The name of one of the data's items."""

    @property
    def name(self) -> str:
        """What is trained, in a word."""
        return type(getattr(self.model, "network", self.model)).__name__

    @property
    def of(self) -> str:
        """What it is trained on, behind the number of them."""
        return f"{self.what} of {self.data.name}"

    @abstractmethod
    def export(self, average: nn.Module, folder: Path, progress: Progress) -> None:
        """Write the averaged model as users load it, into a directory that exists."""

    def picture(self, average: nn.Module, progress: Progress) -> Picture | None:
        """A picture of what the averaged model makes; None for models that make none."""
        return None

    scored_beside: str = ""
    """The name of the real images that `scored` images are compared with."""
    reading: Reading = PLAIN
    """How those real images are read."""

    def scored(self, average: nn.Module, progress: Progress) -> Pipeline | None:
        """The pipeline whose images are scored; None for models that make none by themselves."""
        return None

    @abstractmethod
    def opened(self, checkpoint: Path) -> Any:
        """What `export` wrote into a checkpoint, as users load it."""
