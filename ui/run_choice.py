"""A dropdown of one's runs, as several tabs have it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import gradio as gr

from ui.views import View, moment

ENDS = {"queued": "waiting", "running": "running"}


def run_choice(views: Sequence[View], wanted: str | None) -> gr.Dropdown:
    """The dropdown with these runs; the wanted one is chosen, else the newest."""
    ids = [view.run_id for view in views]
    value = wanted if wanted in ids else next(iter(ids), None)
    return gr.Dropdown([*zip(run_labels(views), ids, strict=True)], value=value)


def run_labels(views: Sequence[View]) -> list[str]:
    """What a run forgets, when it was asked for, and how it ended unless all went well; with
    seconds where that is not enough to tell runs apart.
    """
    plain = [_label(view, seconds=False) for view in views]
    times = Counter(plain)
    return [
        _label(view, seconds=True) if times[label] > 1 else label
        for view, label in zip(views, plain, strict=True)
    ]


def two_runs(
    views: Sequence[View], first: str | None, second: str | None
) -> tuple[str | None, str | None]:
    """Two distinct runs, the wanted ones where there are; else the newest as the second."""
    ids = [view.run_id for view in views]
    if second not in ids:
        second = next((one for one in ids if one != first), None)
    if first not in ids or first == second:
        first = next((one for one in ids if one != second), None)
    return first, second


def _label(view: View, seconds: bool) -> str:
    label = f"{view.title} · {moment(view.submitted, seconds)}"
    if view.status == "done":
        return label
    step = f" at step {view.step}" if view.step and view.status not in ENDS else ""
    return f"{label} · {ENDS.get(view.status, view.status)}{step}"
