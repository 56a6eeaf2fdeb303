"""A dropdown of one's runs, as several tabs have it."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from ui.views import View


def run_choice(views: Sequence[View], wanted: str | None, other: int = 0) -> gr.Dropdown:
    """The dropdown with these runs; the wanted one is chosen, else the one at place `other`."""
    ids = [view.run_id for view in views]
    labels = [f"{view.title} · {view.when[13:18]}" for view in views]
    value = wanted if wanted in ids else next(iter(ids[other:]), None)
    return gr.Dropdown([*zip(labels, ids, strict=True)], value=value)
