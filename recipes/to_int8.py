"""Store weights in eight bits: python -m recipes.to_int8 WEIGHTS OUT.

Each matrix becomes int8 with one scale a row (its largest magnitude over 127), everything else half
precision. That halves a model that is only compared against, such as a gold standard.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from l2l_core.models.checkpoints import SCALE, read_checkpoint, save_weights


def to_int8(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state as `read_checkpoint` reads it back."""
    stored: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.ndim < 2:
            stored[name] = value.half() if value.is_floating_point() else value
            continue
        rows = tuple(range(1, value.ndim))
        scale = (value.float().abs().amax(dim=rows, keepdim=True) / 127).half()
        stored[name + SCALE] = scale
        stored[name] = (
            (value / scale.float().clamp_min(1e-12)).round().clamp(-127, 127).to(torch.int8)
        )
    return stored


def main() -> None:
    """Read, store, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    state, description = read_checkpoint(args.weights)
    save_weights(to_int8(state), args.out, description)


if __name__ == "__main__":
    main()
