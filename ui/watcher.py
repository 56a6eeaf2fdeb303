"""The run as it goes: its state, previews and losses, beside the form that started it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from l2l_core.errors import PlainError
from ui import html, text
from ui.catalogue import thumbnails
from ui.services import Studio
from ui.visitor import owner

SHOWN_THUMBNAILS = 14
QUIET: dict[str, Any] = {"show_progress": "hidden"}


@dataclass(frozen=True)
class Seen:
    """What the page shows already, so that only changes are sent."""

    run_id: str = ""
    stamp: tuple[Any, ...] = ()
    preview: int | None = None
    ticking: bool = False


def build_watcher(
    studio: Studio, run: gr.State, summary: gr.HTML
) -> tuple[dict[str, Any], gr.Button, gr.Button, gr.Button]:
    """The run as it goes: arguments of the event that shows it, and its buttons.

    While there is no run, its place follows `summary`, which says what the form would do.
    """
    seen = gr.State(Seen())
    timer = gr.Timer(1.0, active=False)
    example = thumbnails((text.EXAMPLE_GROUP,), SHOWN_THUMBNAILS)
    status = gr.HTML(html.empty(example), elem_id="status")
    with gr.Row(elem_classes="l2l-actions"):
        to_compare = gr.Button(
            "Compare before and after", variant="primary", visible=False, elem_id="to-compare"
        )
        links = gr.HTML(visible=False, elem_id="links")
        stop = gr.Button("Cancel", size="md", visible=False, elem_id="stop")
        go_on = gr.Button("Go on", size="md", visible=False, elem_id="go-on")
    preview = gr.HTML(elem_id="preview")
    plot = gr.HTML(elem_id="curves")

    def nothing_yet(would_do: str) -> str:
        return html.empty(example, "" if would_do == text.NOTHING_CHOSEN else would_do)

    def show(run_id: str, before: Seen, would_do: str, request: gr.Request) -> list[Any]:
        nothing = [
            Seen(),
            nothing_yet(would_do),
            *[gr.update(visible=False)] * 4,
            "",
            "",
            gr.Timer(active=False),
        ]
        if not run_id:
            return nothing
        visitor = owner(request)
        try:
            view = studio.view(run_id, visitor)
            first = studio.current(visitor) if view.status == "queued" else run_id
            earlier = studio.view(first, visitor) if first != run_id else None
        except PlainError:
            return nothing
        told = (earlier.status, earlier.step) if earlier else ()
        stamp = (view.status, view.headline, view.step, view.facts, told)
        fresh = before.run_id != run_id
        if not fresh and (before.stamp, before.preview) == (stamp, view.preview_step):
            return [gr.skip()] * 9
        pictures: Any = gr.skip()
        if view.preview_step is None:
            pictures = ""
        elif fresh or before.preview != view.preview_step:
            strips = studio.previews(run_id, visitor, view.preview_step)
            pictures = html.previews(strips, view.preview_step)
        turned = fresh or before.ticking != view.active
        return [
            Seen(run_id, stamp, view.preview_step, view.active),
            html.status(view, earlier),
            gr.Button(
                visible=view.has_weights, variant="secondary" if view.cancelled else "primary"
            ),
            gr.HTML(html.downloads(view), visible=view.has_weights),
            gr.Button(visible=view.active, interactive=not view.stopping),
            gr.Button(visible=view.can_go_on),
            pictures,
            html.losses(view),
            gr.Timer(active=view.active) if turned else gr.skip(),
        ]

    watch: dict[str, Any] = {
        "fn": show,
        "inputs": [run, seen, summary],
        "outputs": [seen, status, to_compare, links, stop, go_on, preview, plot, timer],
        "queue": False,
        **QUIET,
    }
    timer.tick(**watch)

    def prepare(run_id: str, would_do: str) -> Any:
        return gr.skip() if run_id else nothing_yet(would_do)

    summary.change(prepare, [run, summary], status, queue=False, **QUIET)
    return watch, to_compare, stop, go_on
