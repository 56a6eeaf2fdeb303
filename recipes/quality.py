"""Held-out quality of a built-in model: python -m recipes.quality mae-fluent [--checkpoint FILE].

Prints a row of the table in assets/builtin/README.md: PSNR in the hole, FID and KID of completions
in the built-in feature space, for four holes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor

from l2l_core.evaluation.distribution import frechet_distance, kernel_distance
from l2l_core.evaluation.evaluate import BATCH
from l2l_core.evaluation.extractors import Extractor, open_extractor
from l2l_core.evaluation.metrics import psnr_in_hole
from l2l_core.masks import parse_mask
from l2l_core.models import load_model
from l2l_core.models.base import ImageToImageModel
from l2l_core.runtime import seeded
from recipes.sampling import TrainingImages

HOLES = ("centre:0.5", "centre:0.25", "left:0.5", "border:0.125")


@dataclass(frozen=True)
class Quality:
    """Of completions of held-out pictures under one hole, one sample each."""

    psnr: float
    """dB inside the hole, mean over pictures."""
    fid: float
    kid: float
    """With each picture's own completion left out; KID counts from 0 upwards, lower is better."""
    kid_error: float

    def __str__(self) -> str:
        """A cell of the table."""
        return f"{self.psnr:.1f} / {self.fid:.1f} / {self.kid:.2f} ± {self.kid_error:.2f}"


def measure(model: ImageToImageModel, extractor: Extractor, images: Tensor, hole: str) -> Quality:
    """Complete images (N, 3, S, S) under a hole as `parse_mask` reads it, and compare."""
    mask = parse_mask(hole, model.image_size)
    parts = [
        model.complete(part, mask, generator=seeded(0, 22, number))
        for number, part in enumerate(images.split(BATCH))
    ]
    completed = torch.cat(parts)
    truth, found = extractor(images).features, extractor(completed).features
    kid, error = kernel_distance(truth, found, seed=0, paired=True)
    psnr = psnr_in_hole(completed, images, mask).mean().item()
    return Quality(psnr, frechet_distance(truth, found), kid, error)


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--checkpoint", help="other weights of the model's family")
    parser.add_argument("--without", metavar="GROUP", help="leave a group's pictures out")
    parser.add_argument("--count", type=int, default=128, help="pictures, spread over the groups")
    args = parser.parse_args()
    model = load_model(args.model, args.checkpoint)
    images = TrainingImages("test", args.without).spread(args.count, model.image_size)
    extractor = open_extractor()
    cells = [str(measure(model, extractor, images, hole)) for hole in HOLES]
    print("| PSNR / FID / KID |", " | ".join(HOLES), "|")
    print(f"| `{args.model}` |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
