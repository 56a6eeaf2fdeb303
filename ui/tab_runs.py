"""The Runs tab: one's own runs; keep them, or erase them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui import html, text
from ui.services import Studio, UserError
from ui.visitor import owner

HEADINGS = ["Started (UTC)", "What", "Status", "Steps", "α", "Noise", "Run"]


@dataclass(frozen=True)
class RunsTab:
    """What the page wires to other tabs."""

    table: gr.Dataframe
    run: gr.Dropdown
    refresh: Callable[..., Any]


def build_runs(studio: Studio) -> RunsTab:
    """Build the tab."""
    table = gr.Dataframe(
        headers=HEADINGS, interactive=False, label="Your runs", elem_id="runs", buttons=[]
    )
    with gr.Row(equal_height=True):
        run = gr.Dropdown([], label="Run", elem_id="chosen-run", scale=3)
        stop = gr.Button("Cancel", scale=1)
        erase = gr.Button("Erase", elem_id="erase", scale=1)
    links = gr.HTML()
    gr.Markdown(text.RELOAD)

    def refresh(request: gr.Request) -> tuple[Any, Any]:
        rows = studio.history(owner(request))
        choices = [(f"{row[1]} · {row[0]} · {row[2]}", row[-1]) for row in rows]
        return rows, gr.Dropdown(choices, value=rows[0][-1] if rows else None)

    def act(action: Callable[[str, str], str]) -> Callable[..., None]:
        def handler(run_id: str | None, request: gr.Request) -> None:
            if not run_id:
                raise gr.Error("Choose a run first.")
            try:
                gr.Info(action(run_id, owner(request)), duration=10)
            except UserError as error:
                raise gr.Error(str(error)) from error

        return handler

    run.change(
        lambda run_id: html.download_links(run_id) if run_id else "",
        run,
        links,
        show_progress="hidden",
    )
    for button, action in ((stop, studio.cancel), (erase, studio.erase)):
        button.click(act(action), run, show_progress="hidden").success(
            refresh, outputs=[table, run], show_progress="hidden"
        )
    return RunsTab(table, run, refresh)
