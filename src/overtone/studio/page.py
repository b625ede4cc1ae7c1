"""The studio's page: a tab for each way of looking at models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from overtone.errors import OvertoneError, first_line
from overtone.studio import beside, generate, looking, pictures, receipts, stopwatch
from overtone.studio.limits import KEPT
from overtone.studio.studio import Studio
from overtone.studio.turns import SESSIONS, Turns

TABS = {
    "Make": generate.page,
    "Compare": beside.page,
    "Your pictures": pictures.page,
    "One evaluation": stopwatch.page,
    "Attention": looking.page,
    "Receipts": receipts.page,
}
REFUSED = "The form can't send such a request. Load the page again."
STYLE = """
.shown { width: 100%; max-width: 720px; image-rendering: pixelated; border-radius: 4px }
.pixels img { image-rendering: pixelated }
.min_value, .max_value { color: #595959 !important }
button[role="tab"].selected { color: #3b3fb6 !important }
footer { display: none !important }
"""
MENDED = "<script>" + (Path(__file__).parent / "mended.js").read_text("utf-8") + "</script>"
"""What gradio's components lack for those who hear a page instead of seeing it."""
LONGEST = 1_000
"""the most letters of a text that a visitor sends"""


class Page(gr.Blocks):
    """A page that refuses what its form could not have sent, without a traceback in the log."""

    def take_turns(self, most: int) -> Turns:
        """One request is computed at a time, and at most so many wait."""
        self.queue(max_size=most, default_concurrency_limit=1, api_open=False)
        turns = self._queue = Turns(
            live_updates=True,
            concurrency_count=self.max_threads,
            update_intervals=1,
            max_size=most,
            blocks=self,
            default_concurrency_limit=1,
        )
        return turns

    async def preprocess_data(self, block_fn: Any, inputs: Any, *given: Any, **more: Any) -> Any:
        """The values of a request as the functions take them.

        Raises `gr.Error`, which the visitor sees, for values that a component does not take, for
        files that were not uploaded here, and for long texts.
        """
        try:
            _check_sent(inputs, Path(get_upload_folder()))
            return await super().preprocess_data(block_fn, inputs, *given, **more)
        except Exception as error:
            print(f"overtone: a request was refused: {first_line(error)}", file=sys.stderr)
            raise gr.Error(REFUSED, print_exception=False) from None


def _check_sent(inputs: Any, uploads: Path) -> None:
    """Raises `OvertoneError` for a path that is not below `uploads`, however deep it lies in the
    values that were sent, and for a text that is longer than any of the form's."""
    waiting = [inputs]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and len(value) > LONGEST:
            raise OvertoneError("a text is longer than any that the form sends.")
        if isinstance(value, dict):
            if "path" in value and not _is_below(value["path"], uploads):
                raise OvertoneError("a file was named that was not uploaded here.")
            waiting += [part for name, part in value.items() if name not in ("path", "url")]
        elif isinstance(value, list | tuple):
            waiting += value


def _is_below(path: Any, folder: Path) -> bool:
    """Whether a path is that of a file below a folder, links followed."""
    if path is None:
        return True
    if not isinstance(path, str) or "\0" in path or len(path) > LONGEST:
        return False
    return Path(path).is_absolute() and Path(path).resolve().is_relative_to(folder.resolve())


def page_of(studio: Studio) -> Page:
    """All tabs."""
    with Page(title="Overtone studio", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown("# Overtone studio")
        with gr.Tabs():
            for name, tab in TABS.items():
                with gr.Tab(name):
                    tab(studio)
    page.take_turns(studio.limits.waiting)
    page.state_session_capacity = SESSIONS
    page.has_launched = True  # until then gradio takes a posted path to any file
    return page


def theme() -> Any:
    """Fonts of the visitor's own machine, and buttons whose letters stand out from them."""
    return gr.themes.Base(
        primary_hue="indigo",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        button_primary_background_fill="#3b3fb6",
        button_primary_background_fill_hover="#2f338f",
        button_primary_text_color="#ffffff",
        body_text_color_subdued="#595959",
        block_info_text_color="#595959",
    )
