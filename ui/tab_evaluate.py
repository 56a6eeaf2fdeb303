"""The Evaluate tab: every metric of a run, the map of its images, a plot of the runs like it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from l2l_core.errors import PlainError
from l2l_core.jobs.results import AUDITS, TABLE
from ui import html, html_evaluate, text
from ui.run_choice import run_choice
from ui.services import Studio
from ui.visitor import owner

QUIET: dict[str, Any] = {"show_progress": "hidden"}


@dataclass(frozen=True)
class EvaluateTab:
    """What the page wires to other tabs."""

    run: gr.Dropdown
    choices: Callable[..., gr.Dropdown]
    """(wanted run id, request) -> the dropdown with one's runs; its change shows the run."""
    show_tried: dict[str, Any]
    """Arguments for an event that draws the plot of the runs with the same aim anew."""


def build_evaluate(studio: Studio) -> EvaluateTab:
    """Build the tab."""
    timer = gr.Timer(1.0, active=False)
    with gr.Row(equal_height=False, elem_classes="l2l-columns"):
        with gr.Column(scale=3, min_width=270, elem_classes="l2l-card"):
            run = gr.Dropdown([], label="Run", elem_id="evaluate-run")
            measure = gr.Button(text.MEASURE, variant="primary", elem_id="measure")
            gr.HTML(text.MEASURE_HINT, elem_classes="l2l-fine")
            audit = gr.Button(text.AUDIT, elem_id="audit")
            gr.HTML(text.AUDIT_HINT, elem_classes="l2l-fine")
            links = gr.HTML(elem_id="reports")
        with gr.Column(scale=9, min_width=320):
            progress = gr.HTML(elem_id="measuring")
            table = gr.HTML(html_evaluate.nothing(), elem_id="measured")
            audits = gr.HTML(elem_id="audited")
            embedding_map = gr.HTML(elem_id="map")
            plot = gr.HTML(elem_id="tried")

    def choices(wanted: str | None, request: gr.Request) -> gr.Dropdown:
        return run_choice(studio.comparable(owner(request)), wanted)

    def show(run_id: str | None, request: gr.Request) -> list[Any]:
        """Everything there is of a run."""
        try:
            found = studio.evaluation(run_id or "", owner(request))
        except PlainError:
            off = gr.Button(interactive=False)
            return [off, off, "", html_evaluate.nothing(), "", "", "", gr.skip()]
        again = text.MEASURE if found.metrics is None else text.MEASURE_AGAIN
        attack = text.AUDIT_AGAIN if found.audits else text.AUDIT
        return [
            gr.Button(again, interactive=not found.busy),
            gr.Button(attack, interactive=not found.busy),
            html_evaluate.measuring(found.measuring),
            html_evaluate.measured(found),
            html_evaluate.audited(found),
            html_evaluate.embedding_map(found),
            html_evaluate.links(found),
            gr.Timer(active=found.busy),
        ]

    def watch(run_id: str | None, request: gr.Request) -> list[Any]:
        """Only how far it is, until it is done."""
        try:
            now = studio.measuring(run_id or "", owner(request))
        except PlainError:
            now = None
        if now is None or now.failed:
            return [*show(run_id, request)[:-1], gr.Timer(active=False)]
        return [gr.skip(), gr.skip(), html_evaluate.measuring(now), *[gr.skip()] * 5]

    def start(what: str, run_id: str | None, request: gr.Request) -> list[Any]:
        try:
            studio.measure(run_id or "", owner(request), what)
        except PlainError as error:
            told = html.note(str(error), "problem")
            return [gr.skip(), gr.skip(), told, *[gr.skip()] * 5]
        return show(run_id, request)

    def start_table(run_id: str | None, request: gr.Request) -> list[Any]:
        return start(TABLE, run_id, request)

    def start_audits(run_id: str | None, request: gr.Request) -> list[Any]:
        return start(AUDITS, run_id, request)

    def show_tried(run_id: str | None, request: gr.Request) -> str:
        try:
            return html_evaluate.tried(studio.tried(run_id or "", owner(request)))
        except PlainError:
            return ""

    outputs = [measure, audit, progress, table, audits, embedding_map, links, timer]
    shown: dict[str, Any] = {"inputs": run, "outputs": outputs, **QUIET}
    plotted: dict[str, Any] = {"fn": show_tried, "inputs": run, "outputs": plot, **QUIET}
    run.change(show, **shown)
    run.change(**plotted)
    timer.tick(watch, queue=False, **shown)
    measure.click(start_table, trigger_mode="once", **shown)
    audit.click(start_audits, trigger_mode="once", **shown)
    return EvaluateTab(run, choices, plotted)
