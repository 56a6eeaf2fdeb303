"""The Compare tab: the same hole and seed for the original and the unlearned model."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from l2l_core.errors import PlainError
from l2l_core.images import fit_square, to_png
from l2l_core.jobs.client import CompareRequest, Progress
from l2l_core.registry import assets_folder
from ui import html, html_compare, text
from ui.run_choice import run_choice
from ui.services import Studio
from ui.uploads import check_uploads, read_uploads
from ui.visitor import owner

SCRIPT = assets_folder() / "compare.js"
CANVAS = 320
MOST_EXTRA = 12
"""Images of one's own in a comparison."""
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
    shown, page, offered = gr.State(Shown()), gr.State(0), gr.State(b"")
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
            left_out = gr.HTML(elem_id="extra-problems")
            count = gr.Slider(1, 12, 4, step=1, label="Samples of each", buttons=[])
            seed = gr.Number(0, label="Seed", precision=0)
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
                more = gr.Button("Other samples", size="sm", elem_id="more", interactive=False)
                go = gr.Button(
                    "Compare", variant="primary", size="sm", elem_id="compare", interactive=False
                )
        with gr.Column(scale=9, min_width=320):
            told = gr.HTML(html_compare.nothing_to_compare(), elem_id="verdict")
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
        if kind == "drawn" and painting is None:  # what another hole gave would mislead
            said = text.PAINT_FIRST if before.canvas or files else text.NOTHING_TO_PAINT
            yield html.note(said, "hint"), "", replace(before, request=None)
            return
        if chance is not None and chance < 0:
            yield html.note(text.SEEDS, "problem"), gr.skip(), gr.skip()
            return
        try:
            usual = usual_steps(run_id, request)
            wanted = CompareRequest(
                run_id=run_id,
                mask=mask_text(kind, where, share),
                seed=int(chance or 0),
                count=int(samples),
                steps=int(in_steps) if usual and in_steps else None,
                page=number,
                drawing=painting,
                extra=tuple(map(to_png, read_uploads(tryable(files)[0]))),
            )
            view = studio.view(run_id, owner(request))
            if wanted == before.request:
                yield html_compare.compared(view, kind == "drawn"), gr.skip(), gr.skip()
                return
            for answer in studio.compare(wanted, owner(request)):
                if isinstance(answer, Progress):
                    yield html_compare.completing(answer), gr.skip(), gr.skip()
                else:
                    said = html_compare.compared(view, kind == "drawn")
                    yield said, html_compare.comparison(answer), Shown(wanted, answer[0].truth)
        except PlainError as error:
            # Its own pictures stay beside the message, another run's do not.
            same = before.request is not None and before.request.run_id == run_id
            rest = (gr.skip(), gr.skip()) if same else ("", Shown())
            yield html.note(str(error), "problem"), *rest

    def usual_steps(run_id: str | None, request: gr.Request) -> int | None:
        if not run_id:
            return None
        return studio.usual_steps(run_id, owner(request))

    def fit_run(run_id: str | None, request: gr.Request) -> tuple[Any, Any, Any]:
        usual, chosen = usual_steps(run_id, request), bool(run_id)
        return (
            gr.Slider(value=usual or 1, visible=usual is not None),
            gr.Button(interactive=chosen),
            gr.Button(interactive=chosen),
        )

    def sort(files: list[Any] | None) -> tuple[Any, str]:
        """Keep what can be used; say why the rest cannot."""
        kept, problems = tryable(files)
        told = html.notes(text.LEFT_OUT, problems, "problem")
        return (kept if problems else gr.skip()), told

    def choose_task(kind: str) -> tuple[Any, Any, Any, bytes]:
        return (
            gr.Radio(visible=kind == "side"),
            gr.Slider(
                visible=kind != "drawn",
                maximum=0.45 if kind == "border" else 0.9,
                value=DEFAULT_EXTENT.get(kind, 0.5),
                label=text.SIZES.get(kind, ""),
            ),
            gr.ImageMask(value=None, visible=False),
            b"",
        )

    def offer(
        run_id: str | None,
        kind: str,
        files: list[Any] | None,
        drawn: dict[str, Any] | None,
        now: Shown,
        before: bytes,
    ) -> tuple[Any, Any]:
        """Give a picture to paint on, one's own first, but never under what is painted already."""
        if kind != "drawn" or drawing(drawn) is not None:
            return gr.skip(), gr.skip()
        own = [to_png(image) for image in read_uploads(tryable(files)[0][:1])]
        picture = next(iter(own), now.canvas) if run_id else None
        if picture is None:
            return gr.ImageMask(value=None, visible=False), b""
        if picture == before:
            return gr.skip(), gr.skip()
        return gr.ImageMask(value=_canvas_file(scratch, picture), visible=True), picture

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
    offering: dict[str, Any] = {
        "fn": offer,
        "inputs": [run, task, extra, canvas, shown, offered],
        "outputs": [canvas, offered],
        **QUIET,
    }
    gr.on(
        [
            side.input,
            extent.release,
            count.release,
            seed.submit,
            seed.blur,
            steps.release,
            extra.change,
            page.change,
            go.click,
        ],
        **comparing,
    ).then(**offering)
    gr.on([extra.upload, extra.delete], sort, extra, [extra, left_out], **QUIET)
    extra.change(lambda files: gr.skip() if files else "", extra, left_out, **QUIET)
    # First the steps of this run's model, then the comparison.
    run.change(fit_run, run, [steps, more, go], **QUIET).then(**comparing).then(**offering)
    chosen = task.input(choose_task, task, [side, extent, canvas, offered], **QUIET)
    chosen.then(**comparing).then(**offering)
    more.click(lambda number: number + 1, page, page, **QUIET)
    return CompareTab(run, choices)


def tryable(files: Sequence[Any] | None) -> tuple[list[str], list[str]]:
    """Paths of the images that a comparison takes, and a sentence on each it leaves out."""
    checked = check_uploads([path for path, _ in files or ()])
    if len(checked.good) <= MOST_EXTRA:
        return checked.good, checked.problems
    fewer = text.TRY_FEWER.format(most=MOST_EXTRA)
    return checked.good[:MOST_EXTRA], [*checked.problems, fewer]


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


def _canvas_file(scratch: Path, picture: bytes) -> str:
    """A picture to draw on, in a file of its own."""
    image = Image.open(io.BytesIO(picture))
    path = scratch / f"canvas-{secrets.token_hex(16)}.png"  # so that its address is one visitor's
    fit_square(image, CANVAS).save(path)
    return str(path)
