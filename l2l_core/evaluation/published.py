"""The published models' sizes, with random weights: enough to time what real ones will take.

MAE: He et al. (CVPR 2022), MAGE: Li et al. (CVPR 2023), Palette: Saharia et al. (SIGGRAPH 2022), as
in their authors' files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from l2l_core.models.base import ImageToImageModel
from l2l_core.models.mae import MAEConfig, MaskedAutoencoder
from l2l_core.models.mage import MAGE
from l2l_core.models.mage_config import MAGEConfig
from l2l_core.models.palette import Palette
from l2l_core.models.palette_config import PaletteConfig
from l2l_core.models.vqgan import VQGANConfig


def _mae(patch: int, width: int, depth: int, heads: int) -> ImageToImageModel:
    return MaskedAutoencoder(MAEConfig(224, patch, width, depth, heads, 512, 8, 16))


def _mage(width: int, depth: int, heads: int) -> ImageToImageModel:
    codes = 1024
    tokenizer = VQGANConfig(codes, 256, 128, (128, 128, 256, 256, 512), 2)
    vocabulary, class_id = codes + 1000 + 1, codes + 76
    sizes = (16, vocabulary, class_id, width, depth, heads, width, 8, 16)
    return MAGE(MAGEConfig(tokenizer, *sizes))


PUBLISHED: dict[str, Callable[[], ImageToImageModel]] = {
    "mae-vit-base": partial(_mae, 16, 768, 12, 12),
    "mae-vit-large": partial(_mae, 16, 1024, 24, 16),
    "mae-vit-huge": partial(_mae, 14, 1280, 32, 16),
    "mage-vit-base": partial(_mage, 768, 12, 12),
    "mage-vit-large": partial(_mage, 1024, 24, 16),
    "palette-inpainting": lambda: Palette(PaletteConfig()),
}
"""Name in `MODELS` -> the architecture."""


def untrained(name: str, device: str | torch.device = "cpu") -> ImageToImageModel:
    """A published architecture with random weights, in evaluation mode.

    Raises:
        KeyError: its sizes are not known here.
    """
    return PUBLISHED[name]().to(device).eval()
