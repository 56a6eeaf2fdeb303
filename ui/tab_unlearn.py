"""The Unlearn tab: what to forget, what to keep, how hard; and the run as it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from l2l_core.config import preset_settings
from l2l_core.errors import PlainError
from l2l_core.registry import defaults_of, family_of
from ui import html, text
from ui.advanced import advanced_settings, by_family, family_options, suiting
from ui.catalogue import group_choices, members, thumbnails
from ui.form import Form, check_device, defaults
from ui.model_picker import DEFAULT, build_model_picker
from ui.services import Studio
from ui.uploads import check_uploads, recognised
from ui.visitor import came_directly, owner
from ui.watcher import SHOWN_THUMBNAILS, build_watcher

Component = gr.components.Component
QUIET: dict[str, Any] = {"show_progress": "hidden"}
TO_START = """() => setTimeout(() =>
    document.querySelector("#start").scrollIntoView({block: "center", behavior: "smooth"}), 300)"""
TO_PROBLEM_OR_RUN = """() => setTimeout(() => {
    const shown = document.querySelector("#problem .l2l-note") ? "#start" : "#status";
    document.querySelector(shown).scrollIntoView({block: "nearest"});
}, 50)"""
"""The page grows with what is told, so it is scrolled a moment later."""


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
    show_models: dict[str, Any]
    """Arguments for an event that shows the visitor's models."""
    fill: Callable[[str, gr.Request], list[Any]]
    """(run id, request) -> values of `filled`, as that run was asked for."""
    filled: list[Component]
    summarise: dict[str, Any]
    """Arguments for an event that says what the form would do."""


def build_unlearn(studio: Studio, scratch: Path) -> UnlearnTab:
    """Build the tab; a run's pictures go back to the form through the folder `scratch`."""
    run = gr.State("")
    with gr.Row(equal_height=False, elem_classes="l2l-columns"):
        with gr.Column(scale=5, min_width=320):
            fields, summary, problem, show_models, summarise = _form(studio)
            start = gr.Button("Unlearn", variant="primary", size="lg", elem_id="start")
        with gr.Column(scale=6, min_width=320):
            watch, to_compare, stop, go_on = build_watcher(studio, run, summary)

    def submit(request: gr.Request, *values: Any) -> tuple[Any, str]:
        try:
            form = _filled(fields, values)
            check_device(form, studio.health().device)
            return studio.submit(form, owner(request), came_directly(request)), ""
        except PlainError as error:
            return gr.skip(), html.note(str(error), "problem")

    def attach(request: gr.Request) -> str:
        return studio.current(owner(request))

    def fill(run_id: str, request: gr.Request) -> list[Any]:
        try:
            form = studio.form_of(run_id, owner(request), scratch)
        except PlainError as error:
            raise gr.Error(str(error)) from error
        gr.Info(text.REFILLED, duration=6)
        return _values(form, fields)

    def acting(act: Callable[[str, str], str]) -> Callable[[str, gr.Request], None]:
        def do(run_id: str, request: gr.Request) -> None:
            try:
                act(run_id, owner(request))
            except PlainError as error:
                raise gr.Error(str(error)) from error

        return do

    def cancel(run_id: str, request: gr.Request) -> str:
        """Cancel it; when nothing is left of it to watch, show what goes on."""
        acting(studio.cancel)(run_id, request)
        other = studio.current(owner(request))
        ended = other != run_id and not studio.view(run_id, owner(request)).active
        if not ended or not studio.view(other, owner(request)).active:
            return run_id
        gr.Info(text.CANCELLED_WAITING, duration=6)
        return other

    start.click(submit, [*fields.values()], [run, problem], trigger_mode="once", **QUIET).then(
        **watch
    ).then(None, js=TO_PROBLEM_OR_RUN)
    stop.click(cancel, run, run, **QUIET).then(**watch)
    go_on.click(acting(studio.resume), run, **QUIET).then(**watch)
    return UnlearnTab(
        run, attach, watch, to_compare, show_models, fill, [*fields.values()], summarise
    )


def _form(
    studio: Studio,
) -> tuple[dict[str, Component], gr.HTML, gr.HTML, dict[str, Any], dict[str, Any]]:
    """Every input by its name in `Form` or `UnlearnRequest`, where the summary and problems are
    told, and the events that show the visitor's models and the summary.
    """
    groups: dict[str, Any] = {
        "choices": group_choices(),
        "num_choices_shown": len(group_choices()),
        "value": [],
        "multiselect": True,
    }
    with gr.Row(elem_classes="l2l-top", equal_height=True):
        gr.HTML(text.MODEL_TITLE, elem_classes="l2l-model-title")
        example = gr.Button(text.EXAMPLE, size="md", elem_id="example", scale=0, min_width=150)
    picker = build_model_picker(studio)
    with gr.Column(elem_classes="l2l-card l2l-forget"):
        gr.HTML(html.heading(1, "Forget", text.FORGET_HINT))
        with gr.Row(equal_height=True):
            forget_files = _drop("forget-files")
            with gr.Column(min_width=200):
                forget_groups = gr.Dropdown(
                    **groups, label=text.FORGET_GROUPS, elem_id="forget-groups"
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
        retain_groups = gr.Dropdown(**groups, label="Groups", visible=False)
        retain_files = _drop("retain-files", visible=False)
        retain_notes = gr.HTML()
    with gr.Column(elem_classes="l2l-card"):
        gr.HTML(html.heading(3, "Strength", text.STRENGTH_HINT))
        preset = gr.Radio(
            _presets(DEFAULT),
            value="balanced",
            show_label=False,
            elem_id="preset",
            elem_classes="l2l-segments l2l-presets",
        )
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            settings = advanced_settings()
            options = family_options(family_of(DEFAULT), studio.server_paths)
    summary = gr.HTML(text.NOTHING_CHOSEN, elem_id="summary", elem_classes="l2l-fine")
    problem = gr.HTML(elem_id="problem")

    named: dict[str, Component] = {
        "model": picker.model,
        "forget_files": forget_files,
        "forget_groups": forget_groups,
        "retain_from": retain_from,
        "retain_files": retain_files,
        "retain_groups": retain_groups,
        "preset": preset,
    }

    def summarise(*values: Any) -> tuple[str, str]:
        form = _filled(named, values)
        counted = replace(
            form,
            forget_files=recognised(form.forget_files),
            retain_files=recognised(form.retain_files),
        )
        return counted.summary() or text.NOTHING_CHOSEN, ""

    def suit(model: str, chosen: str, request: gr.Request) -> list[Any]:
        base = studio.base(model, owner(request))
        suited = suiting(base, chosen)
        return [
            gr.Radio(_presets(base)),
            *(suited.get(name, gr.skip()) for name in settings),
            *options.show(family_of(base)),
        ]

    summarising: dict[str, Any] = {
        "fn": summarise,
        "inputs": [*named.values()],
        "outputs": [summary, problem],
        "queue": False,
        **QUIET,
    }
    suits = [preset, *settings.values(), *options.rows.values()]
    gr.on([picker.model.change, preset.change], suit, [picker.model, preset], suits, **QUIET)
    forget_groups.change(_thumbnails, forget_groups, forget_strip, **QUIET)
    for files, notes in ((forget_files, forget_notes), (retain_files, retain_notes)):
        files.upload(_sorted, files, [files, notes], **QUIET).then(**summarising)
    retain_from.change(
        lambda kind: (gr.Dropdown(visible=kind == "groups"), gr.Gallery(visible=kind == "uploads")),
        retain_from,
        [retain_groups, retain_files],
        **QUIET,
    )
    example.click(
        lambda: (
            None,
            [text.EXAMPLE_GROUP],
            _thumbnails([text.EXAMPLE_GROUP]),
            "proxy",
            "balanced",
            "",
        ),
        outputs=[forget_files, forget_groups, forget_strip, retain_from, preset, forget_notes],
        **QUIET,
    ).then(None, js=TO_START)
    summed_up: list[Any] = [
        forget_files,
        forget_groups,
        retain_from,
        retain_files,
        retain_groups,
    ]
    gr.on([field.change for field in summed_up], **summarising)
    fields = named | settings | options.fields
    others: list[Any] = [field for field in fields.values() if field not in summed_up]
    gr.on([field.change for field in others], None, outputs=problem, js="() => ''")
    return fields, summary, problem, picker.refresh, summarising


def _presets(model: str) -> list[tuple[str, str]]:
    """(label, value), with the steps that suit the model."""
    return [
        (label.format(**preset_settings(preset, model)), preset)
        for preset, label in text.PRESETS.items()
    ]


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


def _filled(fields: dict[str, Component], values: tuple[Any, ...]) -> Form:
    """The form from component values, given in the order of `fields`."""
    given = dict(zip(fields, values, strict=True))
    default = defaults()
    options = by_family({name: given.pop(name) for name in fields if "." in name})
    own = {name: given.pop(name) for name in Form.__dataclass_fields__ if name in given}
    for name in ("forget_files", "retain_files"):
        own[name] = tuple(path for path, _ in own[name] or ())
    for name in ("forget_groups", "retain_groups"):
        own[name] = tuple(own[name] or ())
    follows = {*defaults_of(DEFAULT), "masks"}  # empty unless set, whatever the model
    changed = {
        name: value
        for name, value in given.items()
        if name in follows or (tuple(value) if isinstance(value, list) else value) != default[name]
    }
    return Form(**own, options=options, settings=changed)


def _values(form: Form, fields: dict[str, Component]) -> list[Any]:
    """The inverse of `_filled`; what the form leaves open goes back to its default."""
    given = {name: getattr(form, name) for name in Form.__dataclass_fields__}
    default = defaults() | {name: "" for name in defaults_of(DEFAULT)} | {"masks": ()}
    values = []
    for name, field in fields.items():
        if "." in name:
            family, _, option = name.partition(".")
            value = form.options.get(family, {}).get(option, field.value)
        elif name in given:
            value = given[name]
        else:
            value = form.settings.get(name, default[name])
            value = str(value) if isinstance(field, gr.Textbox) else value
        values.append(list(value) if isinstance(value, tuple) else value)
    return values


def _thumbnails(keys: list[str]) -> str:
    pngs = thumbnails(tuple(keys), SHOWN_THUMBNAILS)
    return html.strip(pngs, len(members(keys)) - len(pngs))


def _sorted(files: list[Any] | None) -> tuple[Any, str]:
    """Keep what can be used; say why the rest cannot."""
    checked = check_uploads([path for path, _ in files or ()])
    told = html.notes(text.LEFT_OUT, checked.problems, "problem")
    told += html.notes(text.NOTED, checked.notes, "hint")
    return (checked.good if checked.problems else gr.skip()), told
