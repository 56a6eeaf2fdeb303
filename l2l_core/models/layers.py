"""Small parts that several families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from l2l_core.errors import PlainError

PUBLISHED_HEADS = {
    "heads": {768: 12, 1024: 16, 1280: 16},
    "decoder_heads": {512: 16, 768: 16, 1024: 16},
}
"""Attention heads of the published MAE and MAGE transformers, by width; the decoder of the smaller
MAGE has more of them than its encoder.
"""


def sincos_position_table(width: int, grid: int) -> Tensor:
    """Fixed two-dimensional sine-cosine positions (1, 1 + grid², width), zeros for the class token.

    The first half of the channels encodes the column, the second the row, as in the published MAE.
    """
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(grid, dtype=torch.float64).outer(omega)  # (grid, width / 4)
    one_axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, width / 2)
    columns = one_axis.repeat(grid, 1)
    rows = one_axis.repeat_interleave(grid, dim=0)
    table = torch.cat([columns, rows], dim=1)
    return torch.cat([torch.zeros(1, width), table]).unsqueeze(0).float()


def choose_attention(model: nn.Module, device: torch.device) -> None:
    """Use fused attention except on CPUs, where its backward pass is slow for short sequences.

    On two cores with 33 to 65 tokens the fused kernel took 42% of a training step.
    """
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused_attn = device.type != "cpu"  # type: ignore[misc]


def run_blocks(blocks: nn.ModuleList, x: Tensor, checkpointing: bool) -> Tensor:
    """Apply transformer blocks one after another; with `checkpointing`, activations inside a block
    are computed again in the backward pass instead of kept.
    """
    for block in blocks:
        if checkpointing and torch.is_grad_enabled():
            x = checkpoint(block, x, use_reentrant=False)
        else:
            x = block(x)
    return x


def count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """One more than the highest number of a checkpoint's blocks (`prefix0.…`, `prefix1.…`), but not
    more than it has keys.
    """
    numbers = {int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)}
    return min(max(numbers, default=-1) + 1, len(state))


def depths(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Blocks of a checkpoint's encoder and decoder, by the fields of MAE's and MAGE's sizes."""
    names = {"depth": "blocks.", "decoder_depth": "decoder_blocks."}
    return {name: count_blocks(state, prefix) for name, prefix in names.items()}


def heads_of(width: int, heads: int | None, option: str) -> int:
    """Attention heads: as asked, else as in the published models of this width, else width / 64;
    `option` is "heads" (the encoder's) or "decoder_heads".

    Raises:
        ValueError: they do not divide the width.
    """
    heads = heads or PUBLISHED_HEADS[option].get(width, max(1, width // 64))
    if heads < 1 or width % heads:
        raise PlainError(f"{option}={heads} does not divide the width {width}; pass {option}=…")
    return heads
