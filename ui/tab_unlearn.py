"""The Unlearn tab: what to forget, what to keep, how hard; and the run as it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from l2l_core.config import MASK_KINDS, NOISE_KINDS, PRECISIONS, UnlearnRequest, field_docs
from l2l_core.models import MODELS
from ui import html, text
from ui.plots import curves
from ui.services import (
    Form,
    Studio,
    UserError,
    View,
    defaults,
    group_choices,
    group_thumbnails,
)
from ui.visitor import owner

EXAMPLE_GROUP = "flags"


@dataclass(frozen=True)
class UnlearnTab:
    """What the page wires to other tabs."""

    attach: Callable[..., Any]
    watched: list[gr.components.Component]
    to_compare: gr.Button


def build_unlearn(studio: Studio) -> UnlearnTab:
    """Build the tab."""
    groups = group_choices()
    run = gr.State("")
    seen = gr.State(())  # what the page shows already: (run, steps, preview, status)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes="l2l-setup"):
            example = gr.Button("Try the example: forget all flags", size="sm", elem_id="example")
            model = gr.Dropdown(
                [(spec.title, spec.name) for spec in MODELS.values()],
                value="mae-fluent",
                label="Model",
                info=MODELS["mae-fluent"].description,
                elem_id="model",
            )
            checkpoint = gr.Textbox(
                label="Path of its weights, on this machine", visible=False, elem_id="checkpoint"
            )
            model_options = gr.Textbox(
                label="Options its shapes cannot tell",
                placeholder='{"heads": 12, "norm_pix_loss": true}',
                visible=False,
                elem_id="model-options",
            )
            with gr.Group():
                forget_from = gr.Radio(
                    [("My own images", "uploads"), ("A built-in group", "group")],
                    value="uploads",
                    label="1 · Forget",
                    elem_id="forget-from",
                )
                forget_files = gr.Gallery(
                    interactive=True,
                    type="filepath",
                    file_types=["image"],
                    columns=5,
                    height=190,
                    object_fit="cover",
                    show_label=False,
                    sources=["upload", "clipboard"],
                    buttons=[],
                    elem_id="forget-files",
                )
                problems = gr.Markdown(visible=False, elem_id="problems", container=True)
                forget_group = gr.Dropdown(
                    groups, value=None, label="Group", visible=False, elem_id="forget-group"
                )
                group_strip = gr.HTML(visible=False)
            with gr.Group():
                retain_from = gr.Radio(
                    text.RETAIN_CHOICES, value="proxy", label="2 · Retain", elem_id="retain-from"
                )
                retain_group = gr.Dropdown(groups, value=None, label="Group", visible=False)
                retain_files = gr.Gallery(
                    interactive=True,
                    type="filepath",
                    file_types=["image"],
                    columns=5,
                    height=190,
                    object_fit="cover",
                    show_label=False,
                    sources=["upload", "clipboard"],
                    buttons=[],
                    visible=False,
                    elem_id="retain-files",
                )
            preset = gr.Radio(
                text.PRESETS, value="balanced", label="3 · How hard", elem_id="preset"
            )
            with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                advanced = _advanced_settings()
            start = gr.Button("Unlearn", variant="primary", size="lg", elem_id="start")
        with gr.Column(scale=7, min_width=320):
            status = gr.HTML(html.status(None), elem_id="status")
            with gr.Row():
                stop = gr.Button("Cancel", size="sm", visible=False, elem_id="stop")
                to_compare = gr.Button(
                    "Compare before and after",
                    variant="primary",
                    visible=False,
                    elem_id="to-compare",
                )
            links = gr.HTML(visible=False, elem_id="links")
            preview = gr.HTML(elem_id="preview")
            plot = gr.LinePlot(
                curves([]),
                x="step",
                y="loss",
                color="term",
                color_map={"retain": "#0d9488", "forget": "#e11d48"},
                height=220,
                show_label=False,
                visible=False,
                elem_id="curves",
                buttons=[],
            )
    timer = gr.Timer(1.0)
    watched = [run, seen, status, stop, to_compare, links, preview, plot, timer]

    def form(*values: Any) -> Form:
        names = (
            "model",
            "checkpoint",
            "model_options",
            "forget_from",
            "forget_files",
            "forget_group",
            "retain_from",
            "retain_files",
            "retain_group",
            "preset",
        )
        fields = dict(zip(names, values[: len(names)], strict=True))
        for name in ("forget_files", "retain_files"):
            fields[name] = tuple(path for path, _ in fields[name] or ())
        for name in ("forget_group", "retain_group", "checkpoint", "model_options"):
            fields[name] = fields[name] or ""
        settings = dict(zip(advanced, values[len(names) :], strict=True))
        default = defaults()
        changed = {k: v for k, v in settings.items() if _differs(v, default[k])}
        return Form(**fields, settings=changed)

    def submit(request: gr.Request, *values: Any) -> str:
        try:
            return studio.submit(form(*values), owner(request))
        except UserError as error:
            raise gr.Error(str(error), title="Not started", duration=12) from error

    def watch(run_id: str, shown: tuple[Any, ...], request: gr.Request) -> list[Any]:
        return _update(studio, run_id, shown, owner(request))

    def attach(request: gr.Request) -> list[Any]:
        return _update(studio, studio.current(owner(request)) or "", (), owner(request))

    def cancel(run_id: str, request: gr.Request) -> None:
        try:
            gr.Info(studio.cancel(run_id, owner(request)), duration=4)
        except UserError as error:
            raise gr.Error(str(error)) from error

    def check(files: list[Any] | None) -> tuple[Any, Any]:
        paths = [path for path, _ in files or ()]
        good, bad = studio.check_uploads(paths)
        told = "**Left out:**\n" + "\n".join(f"- {line}" for line in bad)
        return (good if bad else gr.skip()), gr.Markdown(told if bad else "", visible=bool(bad))

    model.change(
        lambda name: (
            gr.Textbox(visible=MODELS[name].path is None, info=MODELS[name].source),
            gr.Textbox(visible=MODELS[name].path is None),
            gr.Dropdown(info=f"{MODELS[name].description} Licence: {MODELS[name].licence}."),
        ),
        model,
        [checkpoint, model_options, model],
        show_progress="hidden",
    )
    forget_from.change(
        lambda kind: (
            gr.Gallery(visible=kind == "uploads"),
            gr.Dropdown(visible=kind == "group"),
            gr.HTML(visible=kind == "group"),
            gr.Markdown(visible=False),
        ),
        forget_from,
        [forget_files, forget_group, group_strip, problems],
        show_progress="hidden",
    )
    forget_group.change(
        lambda group: html.thumbnails(group_thumbnails(group), group) if group else "",
        forget_group,
        group_strip,
        show_progress="hidden",
    )
    forget_files.upload(check, forget_files, [forget_files, problems], show_progress="hidden")
    retain_files.upload(check, retain_files, [retain_files, problems], show_progress="hidden")
    retain_from.change(
        lambda kind: (gr.Dropdown(visible=kind == "group"), gr.Gallery(visible=kind == "uploads")),
        retain_from,
        [retain_group, retain_files],
        show_progress="hidden",
    )
    inputs = [
        model,
        checkpoint,
        model_options,
        forget_from,
        forget_files,
        forget_group,
        retain_from,
        retain_files,
        retain_group,
        preset,
        *advanced.values(),
    ]
    start.click(submit, inputs, run, trigger_mode="once", show_progress="minimal").success(
        watch, [run, seen], watched, show_progress="hidden"
    )
    example.click(
        lambda: ("group", EXAMPLE_GROUP, "proxy", "quick"),
        outputs=[forget_from, forget_group, retain_from, preset],
        show_progress="hidden",
    )
    timer.tick(watch, [run, seen], watched, show_progress="hidden")
    stop.click(cancel, run, show_progress="hidden")
    return UnlearnTab(attach, watched, to_compare)


def _advanced_settings() -> dict[str, gr.components.Component]:
    """A component for every setting that has no place of its own, by the setting's name."""
    default, docs = defaults(), field_docs(UnlearnRequest)

    def number(name: str, label: str, **more: Any) -> gr.Number:
        return gr.Number(default[name], label=label, info=docs[name], elem_id=name, **more)

    with gr.Row():
        alpha = number("alpha", "α", minimum=0, step=0.05)
        steps = gr.Number(
            None, label="Steps", info="Empty: the preset's.", precision=0, elem_id="steps"
        )
        batch = number("batch_size", "Batch", precision=0, minimum=1)
    with gr.Row():
        noise = gr.Dropdown(
            list(NOISE_KINDS), value=default["noise"], label="Noise", info="Where forget images go."
        )
        rate = number("learning_rate", "Learning rate", minimum=0, step=1e-5)
        warmup = number("warmup", "Warm-up", minimum=0, maximum=1, step=0.05)
    masks = gr.CheckboxGroup(
        list(MASK_KINDS), value=list(default["masks"]), label="Holes", info=docs["masks"]
    )
    with gr.Row():
        decay = number("weight_decay", "Weight decay", minimum=0, step=0.01)
        clip = number("clip", "Clip", minimum=0, step=0.5)
        seed = number("seed", "Seed", precision=0, minimum=0)
    augment = gr.Checkbox(default["augment"], label="Augment", info=docs["augment"])
    with gr.Row():
        device = gr.Textbox(default["device"], label="Device", info=docs["device"])
        precision = gr.Dropdown(
            list(PRECISIONS), value=default["precision"], label="Precision", info=docs["precision"]
        )
    return {
        "alpha": alpha,
        "steps": steps,
        "batch_size": batch,
        "noise": noise,
        "learning_rate": rate,
        "warmup": warmup,
        "masks": masks,
        "weight_decay": decay,
        "clip": clip,
        "seed": seed,
        "augment": augment,
        "device": device,
        "precision": precision,
    }


def _update(studio: Studio, run_id: str, shown: tuple[Any, ...], visitor: str) -> list[Any]:
    """Values for `watched`; what has not changed is skipped."""
    if not run_id:
        return [run_id, (), html.status(None), *[gr.skip()] * 6]
    try:
        view = studio.view(run_id, visitor)
    except UserError:
        hidden = gr.update(visible=False)
        return ["", (), html.status(None), hidden, hidden, hidden, "", hidden, gr.skip()]
    now = (view.run_id, view.status, view.headline, view.step, view.preview_step, view.detail)
    if tuple(shown) == now:
        return [gr.skip()] * 9
    fresh = not shown or shown[0] != view.run_id
    new_preview = fresh or shown[4] != view.preview_step
    done = view.status in ("done", "cancelled") and studio.store.get(run_id).weights.is_file()
    return [
        view.run_id,
        now,
        html.status(view),
        gr.Button(visible=view.active),
        gr.Button(visible=done),
        gr.HTML(html.download_links(run_id) if done else "", visible=done),
        _previews(studio, view, visitor) if new_preview else gr.skip(),
        gr.LinePlot(curves(view.losses), visible=len(view.losses) > 1),
        gr.skip(),
    ]


def _previews(studio: Studio, view: View, visitor: str) -> str:
    if view.preview_step is None:
        return ""
    strips = {
        f"{kind}-{name}": studio.preview(view.run_id, visitor, f"{kind}-{stored}")
        for kind in ("forget", "retain")
        for name, stored in (
            ("input", "input"),
            ("original", "original"),
            ("now", f"{view.preview_step:06d}"),
        )
    }
    return html.previews(strips, view.preview_step)


def _differs(value: Any, default: Any) -> bool:
    return (tuple(value) if isinstance(value, list) else value) != default
