"""The Advanced panel: every setting of a request that has no place of its own on the page."""

from __future__ import annotations

import dataclasses
import math

import gradio as gr

from l2l_core.config import MASK_KINDS, NOISE_KINDS, PRECISIONS, UnlearnRequest, field_docs
from ui import text
from ui.form import defaults

PLACED = ("forget", "retain", "model", "checkpoint", "model_options")
"""Settings that stand elsewhere on the page."""
ONLY_BY_COMMAND = ("split", "betas", "preview_every", "checkpoint_every")
CHOICES = {"noise": NOISE_KINDS, "precision": PRECISIONS}
ROWS = (
    ("alpha", "steps", "batch_size"),
    ("learning_rate", "warmup", "weight_decay"),
    ("masks",),
    ("noise", "clip", "seed"),
    ("device", "precision"),
    ("augment",),
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


def _component(name: str) -> gr.components.Component:
    default = defaults()[name]
    label, info = text.SETTINGS.get(name, (name.replace("_", " ").capitalize(), ""))
    told = info or field_docs(UnlearnRequest)[name].split("\n\n")[0]
    if name == "masks":
        return gr.CheckboxGroup([*MASK_KINDS], value=[*default], label=label, info=told)
    if isinstance(default, bool):
        return gr.Checkbox(default, label=label, info=told, elem_id=name)
    if name in CHOICES:
        return gr.Dropdown(
            [*CHOICES[name]], value=default, label=label, info=told, elem_id=name, min_width=150
        )
    if isinstance(default, str):
        return gr.Textbox(default, label=label, info=told, elem_id=name, min_width=150)
    whole = isinstance(default, int)
    return gr.Number(
        None if name == "steps" else default,  # the preset's
        label=label,
        info=told,
        precision=0 if whole else None,
        step=1 if whole else 10.0 ** math.floor(math.log10(default)),
        elem_id=name,
        min_width=150,
    )
