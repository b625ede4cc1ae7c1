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
    """what the image can be made again from; None where it shows more than seeds' images"""
    layout: Layout | None = None
    """where the images of a grid of samples are"""


class Task(ABC):
    """A model, what it is trained on, and what becomes of it.

    `export` and `picture` are given the averaged copy of `model`, in eval mode, and how far the run
    has come.
    """

    model: nn.Module
    """what is trained"""
    objective: Objective
    """how a batch is drawn, and its loss"""
    data: ImageData
    """what it is trained on"""
    held_out: ImageData | None = None
    """what the averaged model's loss is measured on; None: training data"""
    identity: dict[str, Any]
    """the JSON of all that the weights depend on, the data aside"""
    alone: bool = False
    """whether it trains in this process alone, even where a launcher started several"""
    loads_here: bool = False
    """whether its data can be loaded by the training process only"""
    what: ClassVar[str] = "images"
    """what the data are, in the plural"""
    one: ClassVar[str] = "image"
    """and in the singular"""

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
    """the name of the real images that `scored` images are compared with"""
    reading: Reading = PLAIN
    """how these are read"""

    def scored(self, average: nn.Module, progress: Progress) -> Pipeline | None:
        """The pipeline whose images are scored; None for models that make none by themselves."""
        return None

    @abstractmethod
    def opened(self, checkpoint: Path) -> Any:
        """What `export` wrote into a checkpoint, as users load it."""
