"""The Advanced panel: every setting of a request that has no place of its own on the page."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import gradio as gr

from l2l_core.config import (
    MASK_KINDS,
    METHODS,
    NOISE_KINDS,
    PRECISIONS,
    UnlearnRequest,
    field_docs,
    preset_settings,
)
from l2l_core.options import Option
from l2l_core.registry import FAMILIES, defaults_of
from ui import text
from ui.form import defaults, label

PLACED = ("forget", "retain", "model", "checkpoint", "model_options")
"""Settings that stand elsewhere on the page."""
ONLY_BY_COMMAND = ("split", "betas", "preview_every", "checkpoint_every")
CHOICES = {"method": METHODS, "noise": NOISE_KINDS, "precision": PRECISIONS}
ROWS = (
    ("alpha", "steps", "batch_size"),
    ("learning_rate", "warmup", "weight_decay"),
    ("method", "retain_fraction"),
    ("masks",),
    ("noise", "clip", "seed"),
    ("device", "precision", "micro_batch_size"),
    ("augment", "gradient_checkpointing"),
)


def advanced_settings() -> dict[str, gr.components.Component]:
    """A component for each, by the setting's name; values are checked by `UnlearnRequest`.

    A setting that is new in `UnlearnRequest` appears by itself, below the others.
    """
    here = {name for row in ROWS for name in row}
    known = here | {*PLACED, *ONLY_BY_COMMAND}
    new = [f.name for f in dataclasses.fields(UnlearnRequest) if f.name not in known]
    components = {}
    for row in (*ROWS, *(new[i : i + 3] for i in range(0, len(new), 3))):
        with gr.Row():
            for name in row:
                components[name] = _component(name)
    return components


def suiting(model: str, preset: str) -> dict[str, gr.Textbox]:
    """The settings whose default follows the model, by name: empty, showing what that means."""
    values = defaults_of(model) | preset_settings(preset, model)
    return {
        name: gr.Textbox(placeholder=f"{value:g}")
        for name, value in values.items()
        if name not in ONLY_BY_COMMAND
    }


@dataclasses.dataclass(frozen=True)
class FamilyOptions:
    """The options of every family, of which one family's are shown."""

    rows: dict[str, gr.Group]
    fields: dict[str, gr.components.Component]
    """By “family.option”."""

    def show(self, family: str) -> list[gr.Group]:
        """What makes this family's visible, in the order of `rows`; none for “”."""
        return [gr.Group(visible=name == family) for name in self.rows]


def family_options(shown: str, server_paths: bool) -> FamilyOptions:
    """Components for what families let people set, built from `Family.options`."""
    options = FamilyOptions({}, {})
    for name, family in FAMILIES.items():
        with gr.Group(visible=name == shown, elem_classes="l2l-options") as options.rows[name]:
            gr.HTML(text.OPTIONS_OF.format(family=family.title), elem_classes="l2l-fine")
            with gr.Row():
                for option in family.options:
                    if option.kind != "path" or server_paths:
                        options.fields[f"{name}.{option.name}"] = _option(option)
    return options


def by_family(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Values of `FamilyOptions.fields`, by family and option."""
    found: dict[str, dict[str, Any]] = {name: {} for name in FAMILIES}
    for key, value in values.items():
        family, _, option = key.partition(".")
        found[family][option] = value
    return found


def _option(option: Option) -> gr.components.Component:
    told: dict[str, Any] = {"label": option.title, "info": option.help, "min_width": 150}
    if option.kind in ("bool", "choice"):
        choices = [("Yes", True), ("No", False)] if option.kind == "bool" else option.choices
        return gr.Dropdown([(text.FROM_WEIGHTS, ""), *choices], value="", **told)
    return gr.Textbox(placeholder=text.FROM_WEIGHTS, **told)  # a number field cannot be empty


def _component(name: str) -> gr.components.Component:
    default, called = defaults()[name], label(name)
    info = text.SETTINGS.get(name, ("", ""))[1]
    told = info or field_docs(UnlearnRequest)[name].split("\n\n")[0]
    if name == "masks":
        return gr.CheckboxGroup([*MASK_KINDS], value=[], label=called, info=told)
    if isinstance(default, bool):
        return gr.Checkbox(default, label=called, info=told, elem_id=name)
    if name in CHOICES:
        return gr.Dropdown(
            [*CHOICES[name]], value=default, label=called, info=told, elem_id=name, min_width=150
        )
    if name in defaults_of("mae"):  # empty follows the model, which a number field cannot be
        usual = f"{default:g}"
        return gr.Textbox(placeholder=usual, label=called, info=told, elem_id=name, min_width=150)
    if isinstance(default, str):
        return gr.Textbox(default, label=called, info=told, elem_id=name, min_width=150)
    whole = isinstance(default, int)
    return gr.Number(
        default,
        label=called,
        info=told,
        step=1 if whole else 10.0 ** math.floor(math.log10(default)),
        elem_id=name,
        min_width=150,
    )
