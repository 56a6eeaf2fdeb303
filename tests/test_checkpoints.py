"""Weights open safely, strictly, and are written all or not at all."""

import json
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from l2l_core.models import load_model
from l2l_core.models.checkpoints import (
    CheckpointError,
    file_digest,
    read_checkpoint,
    save_weights,
    state_digest,
)
from l2l_core.models.layers import count_blocks
from l2l_core.registry import MODELS
from recipes.to_int8 import to_int8


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_round_trip_and_digest(tiny_mae, tmp_path):
    path = tmp_path / "w.safetensors"
    digest = save_weights(tiny_mae.state_dict(), path, tiny_mae.describe())
    assert digest == file_digest(path)
    assert same(load_model("mae", path), tiny_mae)
    assert state_digest(load_model("mae", path).state_dict()) == state_digest(tiny_mae.state_dict())


def test_eight_bits_are_read_as_floats(tiny_mae, tmp_path):
    path, state = tmp_path / "w.safetensors", tiny_mae.state_dict()
    save_weights(to_int8(state), path, tiny_mae.describe())
    assert {str(v.dtype) for v in load_file(path).values()} == {"torch.int8", "torch.float16"}
    opened = load_model("mae", path).state_dict()
    for name, value in state.items():
        largest = value.abs().amax(dim=tuple(range(1, value.ndim)), keepdim=True)
        assert ((opened[name] - value).abs() <= 0.005 * largest + 1e-7).all(), name


@pytest.mark.parametrize("name", ["mae.pth", "mae.ckpt", "mae.safetensors", "mae"])
def test_the_content_decides_not_the_name(tiny_mae, tmp_path, name):
    options = {"heads": 2, "decoder_heads": 2}
    torch.save({"model": tiny_mae.state_dict()}, tmp_path / name)
    assert same(load_model("mae", tmp_path / name, **options), tiny_mae)
    save_weights(tiny_mae.state_dict(), tmp_path / name, tiny_mae.describe())
    assert same(load_model("mae", tmp_path / name), tiny_mae)


class Harmful:
    def __reduce__(self):
        return os.system, ("touch l2l-was-here",)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.bin"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for write in (
        lambda p: torch.save({"model": Harmful()}, p),
        lambda p: p.write_bytes(pickle.dumps(Harmful())),
    ):
        write(tmp_path / name)
        with pytest.raises(CheckpointError, match="safely"):
            load_model("mae", tmp_path / name)
    assert not (tmp_path / "l2l-was-here").exists()


def test_damaged_files_are_refused(tiny_mae, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(tiny_mae.state_dict(), path, tiny_mae.describe())
    whole = path.read_bytes()
    for broken in (
        whole[: len(whole) // 2],
        struct.pack("<Q", 2**60) + whole[8:],
        b"",
        b"{}",
        whole[:8] + b"x" + whole[9:],
    ):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError):
            load_model("mae", path)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mae-fluent", "decoder_width"),
        ("mage-fluent", "decoder_width"),
        ("palette-fluent", "inner_channels"),
    ],
)
def test_a_header_gets_no_memory_for_what_its_file_does_not_hold(name, size, tmp_path):
    """Terabytes, here."""
    state, about = read_checkpoint(MODELS[name].path)
    about["config"][size] = 960_000
    save_weights(state, tmp_path / "w.safetensors", about)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(name, tmp_path / "w.safetensors")


def test_depth_is_what_the_file_holds(tiny_mae, tmp_path):
    about = tiny_mae.describe()
    about["config"]["depth"] = 10**9
    save_weights(tiny_mae.state_dict(), tmp_path / "w.safetensors", about)
    assert load_model("mae", tmp_path / "w.safetensors").config == tiny_mae.config
    assert count_blocks({"blocks.999999999.bias": torch.zeros(1)}, "blocks.") == 1


def test_what_is_no_state_dict_says_so(tiny_mae, tmp_path):
    torch.save({1: torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_model("mae", tmp_path / "w.pth")
    save_file(tiny_mae.state_dict(), tmp_path / "w.safetensors", metadata={"l2l": "[]"})
    with pytest.raises(CheckpointError, match="describes nothing"):
        load_model("mae", tmp_path / "w.safetensors")


def test_not_a_number_is_refused(tiny_mae, tmp_path):
    state = dict(tiny_mae.state_dict())
    state["norm.bias"] = torch.full_like(state["norm.bias"], float("nan"))
    save_weights(state, tmp_path / "w.safetensors", tiny_mae.describe())
    with pytest.raises(CheckpointError, match=r"norm\.bias"):
        load_model("mae", tmp_path / "w.safetensors")


def test_one_error_names_missing_extra_and_misshapen_keys(tiny_mae, tmp_path):
    state = dict(tiny_mae.state_dict())
    del state["norm.bias"]
    state["surplus"] = torch.zeros(1)
    state["decoder_norm.weight"] = torch.zeros(3)
    save_weights(state, tmp_path / "w.safetensors", tiny_mae.describe())
    with pytest.raises(CheckpointError) as caught:
        load_model("mae", tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "missing: norm.bias" in message and "surplus" in message
    assert "decoder_norm.weight is (3,), not (16,)" in message
    assert str(tmp_path) not in message


def test_an_encoder_alone_is_not_enough(tiny_mae, tmp_path):
    state = {k: v for k, v in tiny_mae.state_dict().items() if not k.startswith("decoder")}
    torch.save(state, tmp_path / "encoder.pth")
    with pytest.raises(CheckpointError, match="decoder_pos_embed"):
        load_model("mae", tmp_path / "encoder.pth")


def test_heads_that_do_not_divide(tiny_mae, tmp_path):
    torch.save(tiny_mae.state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="heads=7"):
        load_model("mae", tmp_path / "w.pth", heads=7)


def test_a_failed_write_leaves_the_old_file(tiny_mae, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(tiny_mae.state_dict(), path, tiny_mae.describe())
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("l2l_core.models.checkpoints.save_file", full)
    with pytest.raises(OSError):
        save_weights(tiny_mae.state_dict(), path, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_foreign_metadata_is_not_ours(tiny_mae, tmp_path):
    save_file(dict(tiny_mae.state_dict()), tmp_path / "w.safetensors", metadata={"format": "pt"})
    assert read_checkpoint(tmp_path / "w.safetensors")[1] == {}
    opened = load_model("mae", tmp_path / "w.safetensors", heads=2, decoder_heads=2)
    assert same(opened, tiny_mae)


def test_published_models_say_where_their_weights_are():
    with pytest.raises(ValueError, match="facebook/vit-mae-base"):
        load_model("mae-vit-base")
    with pytest.raises(ValueError, match="mae-fluent"):
        load_model("unknown")
    with pytest.raises(CheckpointError, match="No weights"):
        load_model("mae", "/nowhere/w.pth")


def test_the_built_in_model_ships_in_eight_bits_and_opens_in_full_precision():
    spec = MODELS["mae-fluent"]
    assert spec.path is not None and spec.path.stat().st_size <= 16_000_000
    model = load_model()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {v.dtype for v in load_file(spec.path).values()} == {torch.float16, torch.int8}
    assert json.dumps(model.describe())
