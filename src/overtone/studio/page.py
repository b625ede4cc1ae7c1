"""The studio's page: a tab for each way of looking at models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gradio as gr

from overtone.studio import beside, generate, looking, pictures, receipts, stopwatch
from overtone.studio.studio import Studio
from overtone.studio.telling import first_line

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
KEPT = 600
"""seconds after which an uploaded picture is removed, and how often that is looked after"""


class Page(gr.Blocks):
    """A page that refuses what its form could not have sent, without a traceback in the log."""

    async def preprocess_data(self, *given: Any, **more: Any) -> Any:
        """The values of a request as the functions take them.

        Raises `gr.Error`, which the visitor sees, for values that a component does not take.
        """
        try:
            return await super().preprocess_data(*given, **more)
        except Exception as error:
            print(f"overtone: a request was refused: {first_line(error)}", file=sys.stderr)
            raise gr.Error(REFUSED, print_exception=False) from None


def page_of(studio: Studio) -> gr.Blocks:
    """All tabs."""
    with Page(title="Overtone studio", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown("# Overtone studio")
        with gr.Tabs():
            for name, tab in TABS.items():
                with gr.Tab(name):
                    tab(studio)
    limits = studio.limits
    page.queue(max_size=limits.waiting, default_concurrency_limit=1)
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
