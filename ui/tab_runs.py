"""The Runs tab: one's own runs; watch, compare, keep or erase them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from l2l_core.models import assets_folder
from ui import html, text
from ui.services import Studio, UserError
from ui.visitor import owner

SCRIPT = assets_folder() / "runs.js"


@dataclass(frozen=True)
class Chosen:
    """The button that was pressed last, and its run."""

    action: str = ""
    run_id: str = ""


@dataclass(frozen=True)
class RunsTab:
    """What the page wires to other tabs."""

    chosen: gr.State
    acted: Any
    """The event after which `chosen` holds what was pressed."""
    refresh: dict[str, Any]
    """Arguments for an event that lists the runs anew."""


def build_runs(studio: Studio) -> RunsTab:
    """Build the tab."""
    chosen = gr.State(Chosen())
    listing = gr.HTML(html.runs([]), elem_id="runs", js_on_load=SCRIPT.read_text(encoding="utf-8"))
    gr.Markdown(text.RELOAD.format(model="mae-fluent"), elem_classes="l2l-fine")

    def refresh(request: gr.Request) -> str:
        return html.runs(studio.history(owner(request)))

    def act(event: gr.EventData, request: gr.Request) -> tuple[str, Chosen]:
        pressed = Chosen(str(event.action), str(event.run))
        try:
            if pressed.action == "cancel":
                gr.Info(studio.cancel(pressed.run_id, owner(request)), duration=6)
            elif pressed.action == "erase":
                gr.Info(studio.erase(pressed.run_id, owner(request)), duration=12)
        except UserError as error:
            raise gr.Error(str(error)) from error
        return refresh(request), pressed

    acted = listing.click(act, outputs=[listing, chosen], show_progress="hidden")
    return RunsTab(chosen, acted, {"fn": refresh, "outputs": listing, "show_progress": "hidden"})
