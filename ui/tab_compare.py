"""The Compare tab: the same hole and seed for the original and the unlearned model."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from l2l_core.images import read_image, to_png
from l2l_core.jobs.client import CompareRequest
from ui import html, text
from ui.services import Studio, UserError
from ui.visitor import owner

CANVAS = 320


@dataclass(frozen=True)
class CompareTab:
    """What the page wires to other tabs."""

    run: gr.Dropdown
    inputs: list[gr.components.Component]
    shown: list[gr.components.Component]
    refresh: Callable[..., Any]
    show: Callable[..., Any]


def build_compare(studio: Studio) -> CompareTab:
    """Build the tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=260, elem_classes="l2l-setup"):
            run = gr.Dropdown([], label="Run", elem_id="compare-run")
            task = gr.Radio(text.TASKS, value="centre", label="Task", elem_id="task")
            side = gr.Radio(
                [("Left", "left"), ("Right", "right"), ("Top", "up"), ("Bottom", "down")],
                value="right",
                label="Side",
                visible=False,
            )
            extent = gr.Slider(
                0.1, 0.9, value=0.5, step=0.05, label="Size of the hole", elem_id="extent"
            )
            canvas = gr.ImageMask(
                value=None,
                type="pil",
                layers=False,
                fixed_canvas=True,
                canvas_size=(CANVAS, CANVAS),
                transforms=(),
                sources=(),
                brush=gr.Brush(colors=["#ffffff"], color_mode="fixed", default_size=36),
                label="Paint the hole",
                visible=False,
                elem_id="canvas",
            )
            extra = gr.File(
                label="Try further images",
                file_count="multiple",
                file_types=["image"],
                height=120,
                elem_id="extra",
            )
            with gr.Row():
                count = gr.Slider(1, 12, value=4, step=1, label="Samples", min_width=120)
                page = gr.Number(0, label="Page", precision=0, minimum=0, min_width=80)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80)
            go = gr.Button("Compare", variant="primary", elem_id="compare")
        with gr.Column(scale=3, min_width=320):
            verdict = gr.Markdown(text.PRESS_COMPARE, elem_id="verdict")
            grid = gr.HTML(elem_id="grid")
    sample = gr.State(None)  # the first true image that is shown, to draw on

    def refresh(request: gr.Request) -> Any:
        choices = studio.comparable(owner(request))
        value = choices[0][1] if choices else None
        return gr.Dropdown(choices, value=value, info=None if choices else text.NO_RUN_TO_COMPARE)

    def show(
        run_id: str | None,
        kind: str,
        where: str,
        share: float,
        drawn: dict[str, Any] | None,
        files: list[str] | None,
        samples: float,
        number: float,
        chance: float,
        request: gr.Request,
    ) -> tuple[str, str, bytes | None]:
        if not run_id:
            raise gr.Error(text.NO_RUN_TO_COMPARE)
        try:
            rows = studio.compare(
                CompareRequest(
                    run_id=run_id,
                    mask=mask_text(kind, where, share),
                    seed=int(chance),
                    count=int(samples),
                    page=int(number),
                    drawing=_drawing(drawn) if kind == "drawn" else None,
                    extra=tuple(to_png(read_image(path).image) for path in files or ()),
                ),
                owner(request),
            )
            view = studio.view(run_id, owner(request))
        except UserError as error:
            raise gr.Error(str(error), duration=10) from error
        verdict_text = view.verdict or text.PRESS_COMPARE
        return verdict_text, html.comparison(rows), rows[0].truth if rows else None

    def choose_task(kind: str, truth: bytes | None) -> tuple[Any, ...]:
        largest = 0.45 if kind == "border" else 0.9
        return (
            gr.Radio(visible=kind == "side"),
            gr.Slider(
                visible=kind != "drawn",
                maximum=largest,
                value=0.15 if kind == "border" else 0.75 if kind == "random" else 0.5,
            ),
            gr.ImageMask(
                value=_canvas(truth) if kind == "drawn" else None, visible=kind == "drawn"
            ),
        )

    inputs = [run, task, side, extent, canvas, extra, count, page, seed]
    task.change(choose_task, [task, sample], [side, extent, canvas], show_progress="hidden")
    go.click(
        show,
        inputs,
        [verdict, grid, sample],
        concurrency_id="completer",
        concurrency_limit=1,
        show_progress_on=[verdict],
    )
    return CompareTab(run, inputs, [verdict, grid, sample], refresh, show)


def mask_text(task: str, side: str, extent: float) -> str:
    """The hole in the words of `parse_mask`."""
    if task == "drawn":
        return "drawn"
    return f"{side if task == 'side' else task}:{extent:g}"


def _canvas(truth: bytes | None) -> Image.Image:
    """What is drawn on: a true image, else a plain square."""
    if truth is None:
        return Image.new("RGB", (CANVAS, CANVAS), "#64748b")
    return Image.open(io.BytesIO(truth)).convert("RGB").resize((CANVAS, CANVAS))


def _drawing(drawn: dict[str, Any] | None) -> bytes | None:
    """The painted layer as a PNG with its transparency."""
    layers = (drawn or {}).get("layers") or []
    if not layers:
        return None
    buffer = io.BytesIO()
    layers[0].convert("RGBA").save(buffer, "PNG")
    return buffer.getvalue()
