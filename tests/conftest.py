"""Shared fixtures: a tiny model, pictures, and a private data folder."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from PIL import Image

from l2l_core.models.checkpoints import save_weights
from l2l_core.models.mae import MAEConfig, MaskedAutoencoder


@pytest.fixture(autouse=True)
def private_data(tmp_path, monkeypatch):
    """No test sees another's runs, or the user's."""
    monkeypatch.setenv("L2L_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def tiny_mae():
    """A 32×32 MAE with every parameter random."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(MAEConfig(32, 8, 24, 2, 2, 16, 1, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def tiny_checkpoint(tiny_mae, tmp_path):
    """That model as a file."""
    path = tmp_path / "tiny.safetensors"
    save_weights(tiny_mae.state_dict(), path, tiny_mae.describe())
    return path


@pytest.fixture
def picture_folders(tmp_path):
    """Two folders of six pictures each: warm stripes to forget, cold ones to retain."""
    folders = []
    for name, colour in (("forget", (220, 90, 30)), ("retain", (30, 90, 220))):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(6):
            image = Image.new("RGB", (40, 40), colour)
            for row in range(0, 40, 4 + number):
                image.paste((250, 250, 250), (0, row, 40, row + 2))
            image.save(folder / f"{number}.png")
        folders.append(str(folder))
    return tuple(folders)


@pytest.fixture
def request_settings(tiny_checkpoint, picture_folders):
    """Settings of a run that takes a moment."""
    forget, retain = picture_folders
    return {
        "forget": [forget],
        "retain": [retain],
        "model": "mae",
        "checkpoint": str(tiny_checkpoint),
        "steps": 4,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "device": "cpu",
        "precision": "fp32",
        "preview_every": 2,
        "checkpoint_every": 2,
    }
