"""The Compare tab: the same hole and seed for the original and the unlearned model."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from l2l_core.errors import PlainError
from l2l_core.images import fit_square, to_png
from l2l_core.jobs.client import CompareRequest, CompareRow, Progress
from l2l_core.registry import assets_folder
from ui import html, html_compare, text
from ui.run_choice import run_choice
from ui.services import Studio
from ui.uploads import read_uploads
from ui.visitor import owner

SCRIPT = assets_folder() / "compare.js"
CANVAS = 320
INK = "#e11d48"
DEFAULT_EXTENT = {"centre": 0.5, "border": 0.2, "side": 0.5, "random": 0.75}
QUIET: dict[str, Any] = {"show_progress": "hidden"}


@dataclass(frozen=True)
class CompareTab:
    """What the page wires to other tabs."""

    run: gr.Dropdown
    choices: Callable[..., gr.Dropdown]
    """(wanted run id, request) -> the dropdown with one's runs; its change shows the run."""


@dataclass(frozen=True)
class Shown:
    """What the page shows: which comparison, and an image of it to draw on."""

    request: CompareRequest | None = None
    canvas: bytes | None = None


def build_compare(studio: Studio, scratch: Path) -> CompareTab:
    """Build the tab; pictures to draw on go through the folder `scratch`."""
    shown, page = gr.State(Shown()), gr.State(0)
    with gr.Row(equal_height=False, elem_classes="l2l-columns"):
        with gr.Column(scale=3, min_width=270, elem_classes="l2l-card"):
            run = gr.Dropdown([], label="Run", elem_id="compare-run")
            task = gr.Radio(
                text.TASKS,
                value="centre",
                label="Task",
                elem_id="task",
                elem_classes="l2l-segments l2l-list",
            )
            side = gr.Radio(
                text.SIDES,
                value="right",
                show_label=False,
                visible=False,
                elem_id="side",
                elem_classes="l2l-segments",
            )
            extent = gr.Slider(
                0.1, 0.9, 0.5, step=0.05, label=text.SIZES["centre"], elem_id="extent", buttons=[]
            )
            extra = gr.Gallery(
                label=text.TRY,
                interactive=True,
                type="filepath",
                columns=4,
                fit_columns=False,
                height=130,
                object_fit="cover",
                allow_preview=False,
                file_types=["image"],
                buttons=[],
                elem_id="extra",
                elem_classes="l2l-drop",
            )
            with gr.Row():
                count = gr.Slider(
                    1, 12, 4, step=1, label="Samples of each", min_width=120, buttons=[]
                )
                seed = gr.Number(0, label="Seed", precision=0, min_width=80)
            steps = gr.Slider(
                1,
                100,
                step=1,
                label=text.STEPS,
                visible=False,
                elem_id="completion-steps",
                buttons=[],
            )
            with gr.Row():
                more = gr.Button("Other samples", size="sm", elem_id="more")
                go = gr.Button("Compare", variant="primary", size="sm", elem_id="compare")
        with gr.Column(scale=9, min_width=320):
            told = gr.HTML(elem_id="verdict")
            canvas = gr.ImageMask(
                type="pil",
                layers=False,
                fixed_canvas=True,
                canvas_size=(CANVAS, CANVAS),
                transforms=(),
                sources=(),
                buttons=[],
                brush=gr.Brush(colors=[INK], color_mode="fixed", default_size=32),
                show_label=False,
                height=CANVAS + 110,
                visible=False,
                elem_id="canvas",
            )
            grid = gr.HTML(elem_id="grid", js_on_load=SCRIPT.read_text(encoding="utf-8"))

    def choices(wanted: str | None, request: gr.Request) -> gr.Dropdown:
        return run_choice(studio.comparable(owner(request)), wanted)

    def show(
        run_id: str | None,
        kind: str,
        where: str,
        share: float,
        drawn: dict[str, Any] | None,
        files: list[Any] | None,
        samples: float,
        chance: float | None,
        in_steps: float | None,
        number: int,
        before: Shown,
        request: gr.Request,
    ) -> Iterator[tuple[Any, Any, Any]]:
        if not run_id:
            yield html_compare.nothing_to_compare(), "", Shown()
            return
        painting = drawing(drawn) if kind == "drawn" else None
        if kind == "drawn" and painting is None:
            yield html.note(text.PAINT_FIRST, "hint"), gr.skip(), gr.skip()
            return
        try:
            usual = usual_steps(run_id, request)
            wanted = CompareRequest(
                run_id=run_id,
                mask=mask_text(kind, where, share),
                seed=int(chance or 0),
                count=int(samples),
                steps=int(in_steps) if usual and in_steps and in_steps != usual else None,
                page=number,
                drawing=painting,
                extra=tuple(map(to_png, read_uploads([path for path, _ in files or ()]))),
            )
            view = studio.view(run_id, owner(request))
            if wanted == before.request:
                yield html_compare.compared(view), gr.skip(), gr.skip()
                return
            for answer in studio.compare(wanted, owner(request)):
                if isinstance(answer, Progress):
                    yield html_compare.completing(answer), gr.skip(), gr.skip()
                else:
                    shown_now = Shown(wanted, _to_draw_on(answer))
                    yield html_compare.compared(view), html_compare.comparison(answer), shown_now
        except PlainError as error:
            # Its own pictures stay beside the message, another run's do not.
            same = before.request is not None and before.request.run_id == run_id
            rest = (gr.skip(), gr.skip()) if same else ("", Shown())
            yield html.note(str(error), "problem"), *rest

    def usual_steps(run_id: str | None, request: gr.Request) -> int | None:
        if not run_id:
            return None
        return studio.usual_steps(run_id, owner(request))

    def fit_run(run_id: str | None, request: gr.Request) -> gr.Slider:
        usual = usual_steps(run_id, request)
        return gr.Slider(value=usual or 1, visible=usual is not None)

    def choose_task(kind: str, now: Shown) -> tuple[Any, Any, Any]:
        drawing_on = _canvas_file(scratch, now.canvas) if kind == "drawn" else None
        return (
            gr.Radio(visible=kind == "side"),
            gr.Slider(
                visible=kind != "drawn",
                maximum=0.45 if kind == "border" else 0.9,
                value=DEFAULT_EXTENT.get(kind, 0.5),
                label=text.SIZES.get(kind, ""),
            ),
            gr.ImageMask(value=drawing_on, visible=kind == "drawn"),
        )

    comparing: dict[str, Any] = {
        "fn": show,
        "inputs": [run, task, side, extent, canvas, extra, count, seed, steps, page, shown],
        "outputs": [told, grid, shown],
        "concurrency_id": "completer",
        "concurrency_limit": 1,
        "show_progress": "minimal",
        "show_progress_on": [told],
        "trigger_mode": "always_last",
    }
    gr.on(
        [
            side.input,
            extent.release,
            count.release,
            seed.submit,
            steps.release,
            extra.upload,
            extra.delete,
            page.change,
            go.click,
        ],
        **comparing,
    )
    run.change(fit_run, run, steps, **QUIET).then(**comparing)  # in the steps of this run's model
    task.input(choose_task, [task, shown], [side, extent, canvas], **QUIET).then(**comparing)
    more.click(lambda number: number + 1, page, page, **QUIET)
    return CompareTab(run, choices)


def mask_text(task: str, side: str, extent: float) -> str:
    """The hole in the words of `parse_mask`."""
    if task == "drawn":
        return "drawn"
    return f"{side if task == 'side' else task}:{extent:g}"


def drawing(drawn: dict[str, Any] | None) -> bytes | None:
    """The painted layer as a PNG with its transparency; None if nothing is painted."""
    layers = (drawn or {}).get("layers") or []
    if not layers:
        return None
    layer = layers[0].convert("RGBA")
    return to_png(layer) if layer.getchannel("A").getbbox() else None


def _to_draw_on(rows: list[CompareRow]) -> bytes | None:
    own = [row.truth for row in rows if row.role == "extra"]
    return next(iter([*own, *(row.truth for row in rows)]), None)


def _canvas_file(scratch: Path, truth: bytes | None) -> str:
    """A picture to draw on, in a file of its own; without a sample a plain one."""
    image = Image.open(io.BytesIO(truth)) if truth else Image.new("RGB", (1, 1), "#cbd5e1")
    path = scratch / f"canvas-{secrets.token_hex(16)}.png"  # so that its address is one visitor's
    fit_square(image, CANVAS).save(path)
    return str(path)
