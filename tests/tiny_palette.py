"""A small Palette with random weights, as several tests have it."""

import torch

from l2l_core.models.palette import Palette
from l2l_core.models.palette_config import PaletteConfig

SIZES = {
    "image_size": 16,
    "inner_channels": 16,
    "channel_mults": (2, 4),
    "res_blocks": 1,
    "attended_levels": (1,),
    "head_channels": 16,
}
OPTIONS = {"image_size": 16, "head_channels": 16}
"""What the shapes of its published file do not tell."""


def build(**changes) -> Palette:
    """A 16×16 network with every parameter random."""
    torch.manual_seed(0)
    model = Palette(PaletteConfig(**{**SIZES, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def same(model, other):
    first, second = model.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
