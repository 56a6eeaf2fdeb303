"""Settings on the page: each has a place, and what is left empty shows what suits the model."""

import dataclasses
from types import SimpleNamespace

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
from ui.tab_compare import Shown, build_compare


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
    assert all(value in (None, "") for value in values[family].values())  # left to the weights


def test_no_option_names_a_file_where_paths_are_private():
    with gr.Blocks():
        fields = family_options("", server_paths=False).fields
    assert "mage.heads" in fields and "mage.tokenizer" not in fields


def test_the_steps_that_show_in_compare_are_those_taken(tmp_path, monkeypatch):
    """Also where the weights hold another number than their family's."""
    asked = []
    studio = SimpleNamespace(
        usual_steps=lambda run, owner: 20,
        view=lambda run, owner: None,
        compare=lambda wanted, owner: asked.append(wanted.steps) or [],
    )
    monkeypatch.setattr("ui.tab_compare.owner", lambda request: "me")
    with gr.Blocks() as page:
        build_compare(studio, tmp_path)
    show = next(one.fn for one in page.fns.values() if one.name == "show")
    list(show("run", "centre", "right", 0.5, None, [], 4, 0, 20, 0, Shown(), gr.Request()))
    assert asked == [20]
