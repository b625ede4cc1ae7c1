"""What every kind of recipe has in common."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from overtone.data.names import absolute
from overtone.registry import Kind, resolve
from overtone.training.configs.training import Reporting, Training

if TYPE_CHECKING:
    from overtone.training.task import Task


class Recipe(Kind, family="recipe", home="overtone.training"):
    """All settings of a run, from its data to what it saves. Each field is an option.

    A kind names in `makes` what makes its task; the loop knows nothing else of it.
    """

    if TYPE_CHECKING:
        about: str
        training: Training
        reporting: Reporting

    makes: ClassVar[str] = ""
    """The function or class that makes the recipe's task, as PACKAGE.MODULE:NAME."""
    trains: ClassVar[str] = "overtone.training.train:train_model"
    """The function that trains the recipe from beginning to end."""
    command: ClassVar[str] = "train"
    """The command that trains the recipe."""

    def anywhere(self) -> Self:
        """These settings with absolute paths in the place of those that are relative to where the
        command was given."""
        places = {
            n: getattr(self, n)
            for n in ("data", "vae", "first", "teacher", "init")
            if hasattr(self, n)
        }
        changes = {name: absolute(place) for name, place in places.items()}
        return replace(self, **changes)  # type: ignore[type-var]

    def tried(self) -> Self:
        """These settings for a dry run, which prepares no more data than it trains on."""
        return self

    @property
    def begins_with(self) -> str:
        """The model whose weights it begins with; "" for random ones."""
        return getattr(self, "init", "")

    @property
    def num_experts(self) -> int:
        """How many models it trains one by one; 0 for a recipe of one model."""
        return 0

    @property
    def network_name(self) -> str:
        """What it trains, in a word."""
        return str(getattr(self, "network").kind)  # noqa: B009, a field of most kinds

    def task(self, number: int | None = None, **given: Any) -> Task:
        """The task that the loop runs: of expert `number`, where there are experts. `given` are
        further arguments of what `makes` names, which takes `show` at least: whether to say what
        is read and encoded."""
        numbered = {} if number is None else {"number": number}
        return resolve(self.makes, self, "makes")(self, **numbered, **given)


def teachers_network(teacher: str) -> str:
    """What a student's network is called that is made from its teacher's."""
    return f"the network of {teacher}" if teacher else "the teacher's network"
