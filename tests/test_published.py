"""The published architectures: their sizes are known, and can be read off their files."""

import pytest
import torch

from l2l_core.evaluation.published import PUBLISHED
from l2l_core.models.mae import MAEConfig
from l2l_core.models.mage_config import MAGEConfig
from l2l_core.models.palette_config import PaletteConfig
from l2l_core.models.palette_keys import network_state
from l2l_core.registry import MODELS


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    """Parameters in millions, as the registry has them; MAGE's without the tokenizer's encoder."""
    with torch.device("meta"):
        named = PUBLISHED[name]().named_parameters()
        count = sum(p.numel() for key, p in named if not key.startswith("vqgan.encoder"))
    assert count / 1e6 == pytest.approx(float(MODELS[name].size.split()[0]), rel=0.01)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_tell_their_sizes(name):
    """What is read off the shapes of a published file is the published architecture."""
    with torch.device("meta"):
        model = PUBLISHED[name]()
    state = network_state(model.published_state()) if model.family == "palette" else {}
    found = {
        "mae": lambda: MAEConfig.from_state_dict(model.state_dict()),
        "mage": lambda: MAGEConfig.from_state_dict(model.state_dict(), model.config.vqgan),
        "palette": lambda: PaletteConfig.from_state_dict(state),
    }[model.family]()
    assert found == model.config
