"""The Unlearn tab: what to forget, what to keep, how hard; and the run as it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui import html, text
from ui.advanced import advanced_settings
from ui.catalogue import (
    group_choices,
    members,
    model_choices,
    model_note,
    needs_checkpoint,
    thumbnails,
)
from ui.form import Form, defaults
from ui.services import Studio, UserError
from ui.uploads import check_uploads
from ui.visitor import owner

SHOWN_THUMBNAILS = 14
Component = gr.components.Component
QUIET: dict[str, Any] = {"show_progress": "hidden"}


@dataclass(frozen=True)
class UnlearnTab:
    """What the page wires to other tabs."""

    run: gr.State
    """The id of the run that is shown."""
    attach: Callable[[gr.Request], str]
    """The run a page that opens should show."""
    watch: dict[str, Any]
    """Arguments for an event that shows `run` as it is now."""
    to_compare: gr.Button


@dataclass(frozen=True)
class Seen:
    """What the page shows already, so that only changes are sent."""

    run_id: str = ""
    stamp: tuple[Any, ...] = ()
    preview: int | None = None
    ticking: bool = False


def build_unlearn(studio: Studio) -> UnlearnTab:
    """Build the tab."""
    run = gr.State("")
    with gr.Row(equal_height=False, elem_classes="l2l-columns"):
        with gr.Column(scale=5, min_width=320):
            fields, problem = _form(studio)
            start = gr.Button("Unlearn", variant="primary", size="lg", elem_id="start")
        with gr.Column(scale=6, min_width=320):
            watch, to_compare, stop = _watcher(studio, run)

    def submit(request: gr.Request, *values: Any) -> tuple[Any, str]:
        try:
            return studio.submit(_filled(fields, values), owner(request)), ""
        except UserError as error:
            return gr.skip(), html.note(str(error), "problem")

    def attach(request: gr.Request) -> str:
        return studio.current(owner(request))

    def cancel(run_id: str, request: gr.Request) -> None:
        try:
            studio.cancel(run_id, owner(request))
        except UserError as error:
            raise gr.Error(str(error)) from error

    start.click(submit, [*fields.values()], [run, problem], trigger_mode="once", **QUIET).then(
        **watch
    ).then(None, js="() => document.querySelector('#status').scrollIntoView({block: 'nearest'})")
    stop.click(cancel, run, **QUIET).then(**watch)
    return UnlearnTab(run, attach, watch, to_compare)


def _form(studio: Studio) -> tuple[dict[str, Component], gr.HTML]:
    """Every input by its name in `Form` or `UnlearnRequest`, and where problems are told."""
    groups = group_choices()
    with gr.Row(elem_classes="l2l-top", equal_height=True):
        model = gr.Dropdown(
            model_choices(), value="mae-fluent", label="Model", elem_id="model", scale=3
        )
        example = gr.Button(text.EXAMPLE, size="md", elem_id="example", scale=1, min_width=150)
    model_info = gr.HTML(model_note("mae-fluent"), elem_classes="l2l-fine")
    checkpoint = gr.Textbox(label=text.CHECKPOINT, visible=False, elem_id="checkpoint")
    model_options = gr.Textbox(
        label=text.MODEL_OPTIONS,
        placeholder='{"heads": 12, "norm_pix_loss": true}',
        visible=False,
        elem_id="model-options",
    )
    with gr.Column(elem_classes="l2l-card l2l-forget"):
        gr.HTML(html.heading(1, "Forget", text.FORGET_HINT))
        with gr.Row(equal_height=True):
            forget_files = _drop("forget-files")
            with gr.Column(min_width=200):
                forget_groups = gr.Dropdown(
                    groups,
                    value=[],
                    multiselect=True,
                    label=text.FORGET_GROUPS,
                    elem_id="forget-groups",
                )
                forget_strip = gr.HTML(elem_id="forget-strip")
        forget_notes = gr.HTML(elem_id="problems")
    with gr.Column(elem_classes="l2l-card l2l-retain"):
        gr.HTML(html.heading(2, "Retain", text.RETAIN_HINT))
        retain_from = gr.Radio(
            text.RETAIN_CHOICES,
            value="proxy",
            show_label=False,
            elem_id="retain-from",
            elem_classes="l2l-segments",
        )
        retain_groups = gr.Dropdown(
            groups, value=[], multiselect=True, label="Groups", visible=False
        )
        retain_files = _drop("retain-files", visible=False)
        retain_notes = gr.HTML()
    with gr.Column(elem_classes="l2l-card"):
        gr.HTML(html.heading(3, "Strength", text.STRENGTH_HINT))
        preset = gr.Radio(
            text.PRESETS,
            value="balanced",
            show_label=False,
            elem_id="preset",
            elem_classes="l2l-segments l2l-presets",
        )
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            settings = advanced_settings()
    summary = gr.HTML(text.NOTHING_CHOSEN, elem_id="summary", elem_classes="l2l-fine")
    problem = gr.HTML(elem_id="problem")

    named: dict[str, Component] = {
        "model": model,
        "checkpoint": checkpoint,
        "model_options": model_options,
        "forget_files": forget_files,
        "forget_groups": forget_groups,
        "retain_from": retain_from,
        "retain_files": retain_files,
        "retain_groups": retain_groups,
        "preset": preset,
    }

    def summarise(*values: Any) -> tuple[str, str]:
        return _filled(named, values).summary() or text.NOTHING_CHOSEN, ""

    def choose_model(name: str) -> tuple[Any, Any, str]:
        asked = needs_checkpoint(name)
        return gr.Textbox(visible=asked), gr.Textbox(visible=asked), model_note(name)

    model.change(choose_model, model, [checkpoint, model_options, model_info], **QUIET)
    forget_groups.change(_thumbnails, forget_groups, forget_strip, **QUIET)
    forget_files.upload(_sorted, forget_files, [forget_files, forget_notes], **QUIET)
    retain_files.upload(_sorted, retain_files, [retain_files, retain_notes], **QUIET)
    retain_from.change(
        lambda kind: (gr.Dropdown(visible=kind == "groups"), gr.Gallery(visible=kind == "uploads")),
        retain_from,
        [retain_groups, retain_files],
        **QUIET,
    )
    example.click(
        lambda: (None, [text.EXAMPLE_GROUP], "proxy", "balanced", ""),
        outputs=[forget_files, forget_groups, retain_from, preset, forget_notes],
        **QUIET,
    )
    changes = [
        forget_files.change,
        forget_groups.change,
        retain_from.change,
        retain_files.change,
        retain_groups.change,
    ]
    gr.on(changes, summarise, [*named.values()], [summary, problem], queue=False, **QUIET)
    return named | settings, problem


def _drop(elem_id: str, visible: bool = True) -> gr.Gallery:
    return gr.Gallery(
        interactive=True,
        type="filepath",
        columns=4,
        fit_columns=False,
        height=190,
        object_fit="cover",
        show_label=False,
        allow_preview=False,
        file_types=["image"],
        buttons=[],
        visible=visible,
        elem_id=elem_id,
        elem_classes="l2l-drop",
        min_width=200,
    )


def _watcher(studio: Studio, run: gr.State) -> tuple[dict[str, Any], gr.Button, gr.Button]:
    """The run as it goes: arguments of the event that shows it, and its buttons."""
    seen = gr.State(Seen())
    timer = gr.Timer(1.0, active=False)
    nothing_yet = html.empty(thumbnails((text.EXAMPLE_GROUP,), SHOWN_THUMBNAILS))
    status = gr.HTML(nothing_yet, elem_id="status")
    with gr.Row(elem_classes="l2l-actions"):
        to_compare = gr.Button(
            "Compare before and after", variant="primary", visible=False, elem_id="to-compare"
        )
        links = gr.HTML(visible=False, elem_id="links")
        stop = gr.Button("Cancel", size="sm", visible=False, elem_id="stop")
    preview = gr.HTML(elem_id="preview")
    plot = gr.HTML(elem_id="curves")

    def show(run_id: str, before: Seen, request: gr.Request) -> list[Any]:
        nothing = [
            Seen(),
            nothing_yet,
            *[gr.update(visible=False)] * 3,
            "",
            "",
            gr.Timer(active=False),
        ]
        if not run_id:
            return nothing
        visitor = owner(request)
        try:
            view = studio.view(run_id, visitor)
        except UserError:
            return nothing
        stamp = (view.status, view.headline, view.step, view.facts)
        fresh = before.run_id != run_id
        if not fresh and (before.stamp, before.preview) == (stamp, view.preview_step):
            return [gr.skip()] * 8
        pictures: Any = gr.skip()
        if view.preview_step is None:
            pictures = ""
        elif fresh or before.preview != view.preview_step:
            strips = studio.previews(run_id, visitor, view.preview_step)
            pictures = html.previews(strips, view.preview_step)
        turned = fresh or before.ticking != view.active
        return [
            Seen(run_id, stamp, view.preview_step, view.active),
            html.status(view),
            gr.Button(visible=view.has_weights),
            gr.HTML(html.downloads(view), visible=view.has_weights),
            gr.Button(visible=view.active, interactive=not view.stopping),
            pictures,
            html.losses(view),
            gr.Timer(active=view.active) if turned else gr.skip(),
        ]

    watch: dict[str, Any] = {
        "fn": show,
        "inputs": [run, seen],
        "outputs": [seen, status, to_compare, links, stop, preview, plot, timer],
        "queue": False,
        **QUIET,
    }
    timer.tick(**watch)
    return watch, to_compare, stop


def _filled(fields: dict[str, Component], values: tuple[Any, ...]) -> Form:
    """The form from component values, given in the order of `fields`."""
    given = dict(zip(fields, values, strict=True))
    default = defaults()
    own = {name: given.pop(name) for name in Form.__dataclass_fields__ if name in given}
    for name in ("forget_files", "retain_files"):
        own[name] = tuple(path for path, _ in own[name] or ())
    for name in ("forget_groups", "retain_groups"):
        own[name] = tuple(own[name] or ())
    for name in ("checkpoint", "model_options"):
        own[name] = own[name] or ""
    changed = {
        name: value
        for name, value in given.items()
        if (tuple(value) if isinstance(value, list) else value) != default[name]
    }
    return Form(**own, settings=changed)


def _thumbnails(keys: list[str]) -> str:
    pngs = thumbnails(tuple(keys), SHOWN_THUMBNAILS)
    return html.strip(pngs, len(members(keys)) - len(pngs))


def _sorted(files: list[Any] | None) -> tuple[Any, str]:
    """Keep what can be used; say why the rest cannot."""
    checked = check_uploads([path for path, _ in files or ()])
    told = html.notes(text.LEFT_OUT, checked.problems, "problem")
    told += html.notes(text.NOTED, checked.notes, "hint")
    return (checked.good if checked.problems else gr.skip()), told
