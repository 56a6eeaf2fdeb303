"""Which model to start from: cards of what there is, and a way to open a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from l2l_core.errors import PlainError
from l2l_core.registry import FAMILIES, assets_folder
from ui import html, text
from ui.advanced import by_family, family_options
from ui.catalogue import builtin_cards, opened_cards, published_cards
from ui.checkpoints import OPENED
from ui.services import Studio
from ui.visitor import came_directly, owner

DEFAULT = "mae-fluent"
QUIET: dict[str, Any] = {"show_progress": "hidden"}


@dataclass(frozen=True)
class ModelPicker:
    """What the form wires."""

    model: gr.State
    """What is chosen, as `Form.model` has it; its change event tells of another choice."""
    refresh: dict[str, Any]
    """Arguments for an event that shows the cards anew."""


def build_model_picker(studio: Studio) -> ModelPicker:
    """Build the cards, and below them the panel that opens a checkpoint."""
    actions = _script("actions.js")
    model, upload = gr.State(DEFAULT), gr.State("")
    cards = gr.HTML(html.models(builtin_cards(), DEFAULT), elem_id="models", js_on_load=actions)
    with gr.Accordion(text.MORE_MODELS, open=False, elem_id="more-models"):
        gr.HTML(text.PUBLISHED, elem_classes="l2l-fine")
        gr.HTML(html.models(published_cards()), elem_id="published")
        gr.HTML(f"<h3>{text.OPEN_TITLE}</h3><p>{text.OPEN_HINT}</p>", elem_classes="l2l-fine")
        sent = gr.HTML(
            html.upload(studio.checkpoints.limit),
            elem_id="upload",
            js_on_load=_script("upload.js"),
        )
        path = gr.Textbox(label=text.PATH, visible=studio.server_paths, elem_id="path", max_lines=1)
        if not studio.server_paths:
            gr.HTML(text.NO_PATHS, elem_classes="l2l-fine")
        kinds = [(text.FIND_OUT, ""), *((f.title, name) for name, f in FAMILIES.items())]
        with gr.Row(equal_height=True, elem_classes="l2l-top"):
            family = gr.Dropdown(kinds, value="", label=text.FAMILY, elem_id="family", scale=3)
            open_it = gr.Button(text.OPEN, elem_id="open", min_width=110)
        options = family_options("", studio.server_paths)
        told = gr.HTML(elem_id="opened")

    def shown(chosen: str, request: gr.Request) -> str:
        mine = opened_cards(studio.checkpoints.all(owner(request)))
        return html.models([*builtin_cards(), *mine], chosen)

    def act(chosen: str, event: gr.EventData, request: gr.Request) -> tuple[Any, Any]:
        if event.action == "choose":
            return str(event.model), gr.skip()
        removed = str(event.model)
        try:
            gr.Info(studio.checkpoints.remove(owner(request), removed.removeprefix(OPENED)))
        except PlainError as error:
            raise gr.Error(str(error)) from error
        chosen = DEFAULT if chosen == removed else chosen
        return chosen, shown(chosen, request)

    def open_checkpoint(
        where: str, kind: str, sent_as: str, request: gr.Request, *values: Any
    ) -> tuple[Any, Any, str]:
        given = by_family(dict(zip(options.fields, values, strict=True))).get(kind, {})
        try:
            opened = studio.open_checkpoint(
                owner(request),
                kind,
                given,
                path=where,
                upload=sent_as,
                local=came_directly(request),
            )
        except PlainError as error:
            return gr.skip(), gr.skip(), html.note(str(error), "problem")
        chosen = OPENED + opened.id
        said = text.OPENED.format(
            title=opened.title, family=FAMILIES[opened.family].title, size=opened.size
        )
        return chosen, shown(chosen, request), html.note(said, "hint")

    opening: dict[str, Any] = {
        "fn": open_checkpoint,
        "inputs": [path, family, upload, *options.fields.values()],
        "outputs": [model, cards, told],
        "show_progress": "minimal",
        "show_progress_on": [told],
        "concurrency_id": "completer",
        "trigger_mode": "once",
    }
    cards.click(act, model, [model, cards], **QUIET)
    family.input(options.show, family, [*options.rows.values()], **QUIET)
    sent.upload(_uploaded, outputs=[upload, path], **QUIET).then(**opening)
    gr.on([open_it.click, path.submit], **opening)
    return ModelPicker(model, {"fn": shown, "inputs": model, "outputs": cards, **QUIET})


def _uploaded(event: gr.EventData) -> tuple[str, str]:
    return str(event.upload), ""  # what was typed as a path is not meant now


def _script(name: str) -> str:
    return (assets_folder() / name).read_text(encoding="utf-8")
