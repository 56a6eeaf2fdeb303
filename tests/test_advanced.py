"""Settings on the page: each has a place, and what is left empty shows what suits the model."""

import dataclasses

import gradio as gr
import pytest

from l2l_core.config import UnlearnRequest, preset_settings
from l2l_core.registry import FAMILIES, MODELS, defaults_of
from ui.advanced import (
    ONLY_BY_COMMAND,
    PLACED,
    advanced_settings,
    by_family,
    family_options,
    suiting,
)


def test_every_setting_has_a_place():
    names = {f.name for f in dataclasses.fields(UnlearnRequest)}
    with gr.Blocks():
        shown = set(advanced_settings())
    assert not shown & {*PLACED, *ONLY_BY_COMMAND}
    assert shown | {*PLACED, *ONLY_BY_COMMAND} == names


@pytest.mark.parametrize("model", MODELS)
def test_what_is_left_empty_shows_what_suits_the_model(model):
    shown = suiting(model, "quick")
    assert shown["alpha"].placeholder == f"{defaults_of(model)['alpha']:g}"
    assert shown["steps"].placeholder == f"{preset_settings('quick', model)['steps']}"
    assert all(field.value is None for field in shown.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_options_of_one_family_show(family):
    with gr.Blocks():
        options = family_options(family, server_paths=True)
    assert [name for name, row in options.rows.items() if row.visible] == [family]
    other = next(name for name in FAMILIES if name != family)
    turned = dict(zip(options.rows, options.show(other), strict=True))
    assert [name for name, row in turned.items() if row.visible] == [other]
    values = by_family({name: field.value for name, field in options.fields.items()})
    assert {*values[family]} == {option.name for option in FAMILIES[family].options}


def test_no_option_names_a_file_where_paths_are_private():
    with gr.Blocks():
        fields = family_options("", server_paths=False).fields
    assert "mage.heads" in fields and "mage.tokenizer" not in fields
