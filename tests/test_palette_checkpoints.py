"""Palette's own files and those of the published layout: what opens, and what is refused."""

import pytest
import torch

from l2l_core.models.checkpoints import CheckpointError, save_published, save_weights
from l2l_core.models.palette import open_palette
from l2l_core.models.palette_config import PaletteConfig
from tests.tiny_palette import OPTIONS, build, same


@pytest.fixture(scope="module")
def model():
    return build()


def published_state(model, tmp_path):
    save_published(model.published_state(), tmp_path / "16_Network.pth")
    return torch.load(tmp_path / "16_Network.pth", weights_only=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channel_mults": (1, 2, 2), "inner_channels": 32, "attended_levels": (0, 2)},
        {"res_blocks": 2, "head_channels": -1, "attended_levels": ()},
    ],
)
def test_published_layout_round_trip(changes, tmp_path):
    model = build(**changes)
    state = published_state(model, tmp_path)
    options = {**OPTIONS, "head_channels": changes.get("head_channels", 16)}
    opened = open_palette(tmp_path / "16_Network.pth", **options)
    assert opened.config == model.config and same(model, opened)
    save_published(opened.published_state(), tmp_path / "again.pth")
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert state.keys() == again.keys() and all(torch.equal(state[k], again[k]) for k in state)


def test_prefixes_averages_and_the_teacher(model, tmp_path):
    state = published_state(model, tmp_path)
    beside = {}
    for key, value in state.items():
        if key.startswith("denoise_fn."):
            beside[f"module.teacher_{key}"] = value + 1
            beside[f"module.ema.{key}"] = value + 2
            beside[f"module.denoise_fn_ema.{key.partition('.')[2]}"] = value + 3
        beside[f"module.{key}"] = value
    torch.save({"state_dict": beside}, tmp_path / "unlearned.pth")
    assert same(model, open_palette(tmp_path / "unlearned.pth", **OPTIONS))


def test_buffers_never_override_the_schedule(model, tmp_path):
    state = published_state(model, tmp_path)
    state["gammas"] = torch.full((10,), 0.5)
    torch.save(state, tmp_path / "other.pth")
    opened = open_palette(tmp_path / "other.pth", sampling_schedule=(10, 1e-3, 0.4), **OPTIONS)
    assert len(opened.sampling_levels.betas) == 10
    assert torch.equal(opened.training_levels.betas, model.training_levels.betas)


def damage_missing(state):
    del state["denoise_fn.middle_block.1.qkv.weight"]


def damage_extra(state):
    state["denoise_fn.extra.weight"] = torch.zeros(1)


def damage_shape(state):
    state["denoise_fn.out.2.weight"] = torch.zeros(3, 4, 3, 3)


def damage_all(state):
    for key in [k for k in state if "output_blocks" in k]:
        del state[key]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_missing, "missing: denoise_fn.middle_block.1.qkv.weight"),
        (damage_extra, "not part of this model: denoise_fn.extra.weight"),
        (damage_shape, "denoise_fn.out.2.weight is (3, 4, 3, 3), not (3, 32, 3, 3)"),
        (damage_all, "not a Palette network"),
    ],
)
def test_what_does_not_fit_is_named(model, tmp_path, damage, words):
    state = published_state(model, tmp_path)
    damage(state)
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError) as caught:
        open_palette(tmp_path / "broken.pth", **OPTIONS)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sampler": "slow"}, "sampler is"),
        ({"noise_target": "half"}, "noise_target is"),
        ({"frozen_levels": 2}, "frozen_levels is 2"),
        ({"last_level": 2}, "last_level is 2"),
        ({"frozen_levels": 1, "last_level": 0}, "last_level is 0"),
        ({"unread_levels": (1,)}, "finer than the last level"),
        ({"extra_blocks": -1}, "extra_blocks is -1"),
        ({"extra_blocks": 1}, "layout has no extra_blocks"),
        ({"head_channels": 24}, "does not divide"),
        ({"image_size": 15}, "halved"),
        ({"train_schedule": (1, 0.1, 0.2)}, "train_schedule"),
        ({"depth": 3}, "depth"),
    ],
)
def test_bad_options(model, tmp_path, options, word):
    published_state(model, tmp_path)
    with pytest.raises(CheckpointError, match=word):
        open_palette(tmp_path / "16_Network.pth", **{**OPTIONS, **options})


def test_our_own_file(model, tmp_path):
    path = tmp_path / "own.safetensors"
    save_weights(model.state_dict(), path, model.describe())
    opened = open_palette(path, noise_target="full", steps=5)
    assert same(model, opened)
    assert (opened.config.noise_target, opened.config.steps) == ("full", 5)
    save_weights(model.state_dict(), path, {**model.describe(), "family": "mae"})
    with pytest.raises(CheckpointError, match="not a Palette"):
        open_palette(path)


def test_schedules_can_be_written_as_text():
    config = PaletteConfig(train_schedule="500,1e-5,0.02", sampling_schedule="100, 1e-4, 0.1")
    assert config.train_schedule == (500, 1e-5, 0.02)
    assert config.sampling_schedule == (100, 1e-4, 0.1)
    for text in ("500", "500,a,b", "500,1e-5,2"):
        with pytest.raises(ValueError, match="train_schedule"):
            PaletteConfig(train_schedule=text)
