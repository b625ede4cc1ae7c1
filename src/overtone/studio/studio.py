"""What all pages of the studio stand on: the models, the limits, and where files go."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from overtone.errors import OvertoneError
from overtone.pipelines.batches import SampleBatch
from overtone.pipelines.load import public_model
from overtone.pipelines.pictures import read_picture, to_pil
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.receipt import Receipts
from overtone.pipelines.receipt_files import save_png
from overtone.pipelines.request import Request
from overtone.pipelines.sheets import sheet
from overtone.sizes import sides
from overtone.studio.limits import Limits
from overtone.studio.scratch import Scratch
from overtone.studio.shelf import Shelf
from overtone.studio.wish import Wish


@dataclass(frozen=True)
class Studio:
    """The models that are shown, what may be asked of them, and where pictures are written."""

    shelf: Shelf
    limits: Limits
    scratch: Scratch

    def asked(self, model: str, wish: Wish) -> tuple[Pipeline, Request]:
        """A model and what is asked of it. Raises `OvertoneError` for what is not allowed."""
        pipe = self.shelf[model]
        return pipe, wish.request(pipe, self.limits)

    def facts(self, model: str) -> str:
        """What is known of a model, in a line or two of Markdown."""
        pipe = self.shelf[model]
        high, wide = sides(pipe.resolution)
        parameters = pipe.network.num_parameters / 1e6
        said = [f"{pipe.network.config.kind}, {parameters:.2f} M parameters, {wide} x {high} px."]
        if pipe.guidance.acts:
            said.append(f"Guidance of scale {pipe.guidance.scale:g} was saved with it.")
        if pipe.budgets:
            budgets = ", ".join(str(budget.evaluations) for budget in pipe.budgets)
            said.append(f"Samplers were fitted to it for {budgets} evaluations.")
        return " ".join(said)

    def classes(self, model: str) -> list[str]:
        """The names of a model's classes."""
        pipe = self.shelf[model]
        return list(pipe.class_names) or [str(n) for n in range(pipe.num_classes)]

    def files(
        self, model: str, pipe: Pipeline, request: Request, batch: SampleBatch
    ) -> tuple[str, list[tuple[str, str]]]:
        """The images as files with receipts: the grid, and each image with a caption."""
        receipts = Receipts(pipe, request, model=public_model(model))
        labels = [] if batch.class_labels is None else batch.class_labels.tolist()
        picture, layout = sheet(batch.images, labels, pipe.class_names)
        whole = self.scratch.write(
            "grid.png", lambda file: save_png(picture, file, receipts.whole, layout)
        )
        names, singles = self.classes(model), []
        for place, (seed, image) in enumerate(zip(batch.seeds, batch.images, strict=True)):
            receipt = receipts.of_image(batch, place)

            def write(file: Path, image: Any = image, receipt: Any = receipt) -> None:
                save_png(to_pil(image), file, receipt)

            caption = f"seed {seed}" + (f", {names[labels[place]]}" if labels else "")
            singles.append((self.scratch.write(f"{seed}.png", write), caption))
        return whole, singles

    def shown(self, picture: Image.Image, words: str, *, last: bool = True) -> str:
        """A picture as HTML, with words for those who do not see it. What is on its way is
        compressed with loss."""
        if last:
            file = self.scratch.write("shown.png", lambda file: picture.save(file, "PNG"))
        else:
            file = self.scratch.write(
                "shown.webp", lambda file: picture.convert("RGB").save(file, "WEBP", quality=80)
            )
        return f'<img class="shown" src="/gradio_api/file={quote(file)}" alt="{escape(words)}">'

    def picture(self, path: str | None) -> Image.Image:
        """An uploaded picture, upright. Raises `OvertoneError` for none, for one that is too large,
        and for what is no picture."""
        return read_picture(self.uploaded(path), "the picture", most=self.limits.pixels)

    def uploaded(self, path: str | None) -> Path:
        """An uploaded file. Raises `OvertoneError` for none, for one that is too large, and for
        one that was removed."""
        if path is None:
            raise OvertoneError("Choose a picture first.")
        file = Path(path)
        if not file.is_file():
            raise OvertoneError("The file is no longer here: choose it again.")
        if file.stat().st_size > self.limits.upload:
            raise OvertoneError(f"A file has at most {self.limits.upload:,} bytes here.")
        return file
