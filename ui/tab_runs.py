"""The Runs tab: one's own runs; watch, compare, keep, repeat or erase them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from l2l_core.errors import PlainError
from l2l_core.registry import FAMILIES, assets_folder
from ui import html, text
from ui.run_choice import run_choice, two_runs
from ui.services import Studio
from ui.visitor import owner

SCRIPT = assets_folder() / "actions.js"


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
    with gr.Column(elem_classes="l2l-card", elem_id="differences"):
        gr.HTML(f"<h3>{text.DIFFERENCES_TITLE}</h3>")
        with gr.Row():
            first = gr.Dropdown([], label="First", elem_id="first-run", min_width=200)
            second = gr.Dropdown([], label="Second", elem_id="second-run", min_width=200)
        differing = gr.HTML(f'<p class="l2l-fine">{text.CHOOSE_TWO}</p>', elem_id="differing")
    families = ", ".join(FAMILIES)
    gr.Markdown(text.RELOAD.format(families=families), elem_classes="l2l-fine")

    def refresh(
        one: str | None, other: str | None, request: gr.Request
    ) -> tuple[str, gr.Dropdown, gr.Dropdown]:
        views = studio.history(owner(request))
        cards = html.runs(views, studio.unreadable(owner(request)))
        one, other = two_runs(views, one, other)
        return cards, run_choice(views, one), run_choice(views, other)

    def differ(one: str | None, other: str | None, request: gr.Request) -> str:
        if one == other:
            return f'<p class="l2l-fine">{text.CHOOSE_TWO}</p>'
        try:
            return html.differences(studio.differences(one or "", other or "", owner(request)))
        except PlainError:
            return f'<p class="l2l-fine">{text.CHOOSE_TWO}</p>'

    def act(event: gr.EventData, request: gr.Request) -> Chosen:
        pressed = Chosen(str(event.action), str(event.run))
        try:
            if pressed.action == "cancel":
                gr.Info(studio.cancel(pressed.run_id, owner(request)), duration=6)
            elif pressed.action == "resume":
                gr.Info(studio.resume(pressed.run_id, owner(request)), duration=6)
            elif pressed.action == "erase":
                gr.Info(studio.erase(pressed.run_id, owner(request)), duration=12)
        except PlainError as error:
            raise gr.Error(str(error)) from error
        return pressed

    listed: dict[str, Any] = {
        "fn": refresh,
        "inputs": [first, second],
        "outputs": [listing, first, second],
        "show_progress": "hidden",
    }
    acted = listing.click(act, outputs=chosen, show_progress="hidden").success(**listed)
    gr.on([first.change, second.change], differ, [first, second], differing, show_progress="hidden")
    return RunsTab(chosen, acted, listed)
