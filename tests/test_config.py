"""Requests are checked before anything heavy starts."""

import subprocess
import sys

import pytest

from l2l_core.config import ConfigError, UnlearnRequest, field_docs


def test_round_trip(tmp_path):
    request = UnlearnRequest(forget=("builtin:flags",), alpha=0.5, masks=("centre",), seed=3)
    assert UnlearnRequest.from_dict(request.to_dict()) == request
    path = tmp_path / "run.yaml"
    path.write_text("forget: [builtin:flags]\nalpha: 0.5\nmasks: [centre]\nseed: 3\n")
    assert UnlearnRequest.load(path) == request


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"forget": ()}, "forget"),
        ({"forget": ("proxy",)}, "retain only"),
        ({"retain": ()}, "retain"),
        ({"alpha": -1}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"batch_size": "many"}, "batch_size"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"noise": "pink"}, "gaussian_full"),
        ({"masks": ("circle",)}, "centre"),
        ({"precision": "fp8"}, "bf16"),
        ({"split": "validation"}, "train"),
        ({"betas": (0.9,)}, "betas"),
        ({"betas": ("0.9", "0.95")}, "betas"),
        ({"forget": None}, "forget must be a list"),
        ({"retain": 3}, "retain must be a list"),
        ({"seed": -1}, "seed"),
        ({"augment": "false"}, "augment is .false.; it must be true or false"),
        ({"gradient_checkpointing": "no"}, "true or false"),
        ({"checkpoint": 5}, "checkpoint is 5; it must be text"),
        ({"device": 0}, "device"),
        ({"model": ["mae"]}, "model"),
        ({"method": None}, "method is None"),
        ({"forget": [5]}, "forget .* list of texts"),
        ({"retain": ["proxy", None]}, "retain .* list of texts"),
        ({"lerning_rate": 1}, "lerning_rate"),
    ],
)
def test_what_cannot_be_is_named(changes, word):
    with pytest.raises(ConfigError, match=word):
        UnlearnRequest.from_dict({"forget": ("builtin:flags",)} | changes)


def test_files_that_are_no_settings(tmp_path):
    for text in ("just words", "a: [1", "- 1"):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"run\.yaml"):
            UnlearnRequest.load(path)


def test_every_setting_is_documented():
    assert field_docs(UnlearnRequest).keys() == UnlearnRequest.__dataclass_fields__.keys()


@pytest.mark.parametrize("module", ["l2l_core", "l2l_core.config", "l2l_core.jobs.client"])
def test_light_modules_load_no_pytorch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_holes_follow_the_family_unless_named():
    assert UnlearnRequest(forget=("builtin",), model="palette").masks == ("hybrid",)
    assert len(UnlearnRequest(forget=("builtin",)).masks) == 5
    assert UnlearnRequest(forget=("builtin",), model="palette", masks=("half",)).masks == ("half",)


def test_long_runs_have_no_more_previews():
    def every(**settings):
        return UnlearnRequest(forget=("builtin",), **settings).preview_interval

    assert every(steps=20) == 10 and every(steps=250) == 20
    assert every(steps=1000) == 83
    assert every(steps=1000, model="mage-fluent") == 125  # completing takes longer there
    assert every(steps=1000, preview_every=0) == 0
    assert every(steps=1000, preview_every=5) == 5
    with pytest.raises(ConfigError, match="preview_every"):
        every(preview_every="often")
