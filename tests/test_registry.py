"""Families and models: every entry can be used as it stands."""

import dataclasses
import importlib
import inspect

import pytest

from l2l_core.config import PRESETS, ConfigError, UnlearnRequest, preset_settings
from l2l_core.errors import PlainError
from l2l_core.models import load_model
from l2l_core.models.checkpoints import save_published
from l2l_core.registry import (
    FAMILIES,
    MODELS,
    completion_steps,
    defaults_of,
    family_of,
    gold_standard,
)
from recipes import train_mage
from tests.tiny_palette import build

SETTINGS = {field.name for field in dataclasses.fields(UnlearnRequest)}


@pytest.mark.parametrize("name", FAMILIES)
def test_openers_exist_and_take_a_path_and_options(name):
    module, function = FAMILIES[name].opener.split(":")
    opener = getattr(importlib.import_module(module), function)
    kinds = [p.kind for p in inspect.signature(opener).parameters.values()]
    assert kinds[0] is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert inspect.Parameter.VAR_KEYWORD in kinds


@pytest.mark.parametrize("name", [*FAMILIES, *MODELS])
def test_defaults_make_a_request(name):
    """Settings left open take the model's values; the others stay as they are."""
    of_model = {"alpha", "learning_rate", "weight_decay", "betas", "steps", "batch_size"}
    assert set(defaults_of(name)) == of_model <= SETTINGS
    request = UnlearnRequest(forget=("builtin:flags",), model=name, alpha=0.125)
    assert request.alpha == 0.125
    for setting in of_model - {"alpha"}:
        assert getattr(request, setting) == defaults_of(name)[setting]
    again = UnlearnRequest.from_dict(request.to_dict())
    assert again == request


@pytest.mark.parametrize("name", MODELS)
def test_models_belong_to_a_family_and_say_what_they_are(name):
    spec = MODELS[name]
    assert spec.name == name and family_of(name) == spec.family in FAMILIES
    assert all((spec.title, spec.description, spec.size, spec.licence, spec.source))


def test_presets_follow_the_model():
    usual = defaults_of("mae-fluent")
    for preset, factors in PRESETS.items():
        expected = {name: factor * usual[name] for name, factor in factors.items()}
        assert preset_settings(preset, "mae-fluent") == pytest.approx(expected)
        assert isinstance(preset_settings(preset, "mae-fluent")["steps"], int)
    assert preset_settings("balanced", "mae-fluent") == {"steps": usual["steps"]}
    with pytest.raises(ConfigError, match="quick, balanced, thorough"):
        preset_settings("slow", "mae-fluent")


def test_unknown_models_and_options_are_named():
    with pytest.raises(ValueError, match="There is no model “vae”"):
        family_of("vae")
    with pytest.raises(ConfigError, match="There is no model “vae”"):
        UnlearnRequest(forget=("builtin",), model="vae")
    with pytest.raises(ValueError, match="no option patches"):
        load_model("mae-fluent", patches=3)


def test_shipped_models_open():
    shipped = [spec for spec in MODELS.values() if spec.path]
    assert shipped
    for spec in shipped:
        model = load_model(spec.name)
        assert model.family == spec.family
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        side = model.image_size
        assert spec.size == f"{millions:.1f} M parameters, {side}×{side}"
        assert spec.path.stat().st_size < 16 * 2**20


@pytest.mark.parametrize("name", [spec.name for spec in MODELS.values() if spec.gold])
def test_a_gold_standard_completes_alike_with_other_weights(name):
    """It may be smaller (MAGE's is), but reads the same tokens and samples the same way."""
    path = gold_standard(name, ["builtin:flags"], None)
    assert path is not None
    original, never = load_model(name), load_model(name, path)
    smaller = {"mage-fluent": train_mage.SIZES}.get(name, ())
    how, same = (dataclasses.asdict(model.config) for model in (never, original))
    for size in smaller:
        assert how.pop(size) <= same.pop(size)
    assert how == same
    weights = dict(original.named_parameters())
    for key, value in never.named_parameters():
        assert not key.startswith("vqgan.") or value.equal(weights[key])
    trained = original.encoder_parameters()
    differing = [n for n, p in never.encoder_parameters().items() if not p.equal(trained[n])]
    assert len(differing) > 0.9 * len(trained)


@pytest.mark.parametrize("name", [spec.name for spec in MODELS.values() if spec.builtin])
def test_the_usual_steps_are_those_in_the_weights(name):
    usual = completion_steps(name, {})
    assert usual == getattr(load_model(name).config, "steps", None)
    assert completion_steps(name, {"steps": 3}) == (usual and 3)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("mae-fluent", {"heads": "5"}, "heads must be a whole number"),
        ("mae-fluent", {"heads": True}, "heads must be a whole number"),
        ("mae-fluent", {"heads": 7}, "heads=7 does not divide the width"),
        ("mae-fluent", {"heads": -1}, "heads=-1 does not divide the width"),
        ("mae-fluent", {"norm_pix_loss": 1}, "norm_pix_loss must be true or false"),
        ("mage-fluent", {"steps": "x"}, "steps must be a whole number"),
        ("mage-fluent", {"decoder_heads": 5}, "decoder_heads=5 does not divide"),
        ("palette-fluent", {"sampler": "best"}, "sampler must be one of"),
    ],
)
def test_options_that_cannot_be_are_refused_in_words(name, options, problem):
    with pytest.raises(PlainError, match=problem):
        load_model(name, **options)


def test_an_option_that_is_none_is_left_open(tiny_mae, tiny_checkpoint, tmp_path):
    assert load_model("mae", tiny_checkpoint, heads=None).config == tiny_mae.config
    save_published(build().published_state(), tmp_path / "16_Network.pth")
    opened = load_model("palette", tmp_path / "16_Network.pth", image_size=16, head_channels=None)
    assert opened.config.head_channels == 32
