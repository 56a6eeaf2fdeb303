"""Training images for the recipes: the built-in set in memory, sampled evenly and augmented."""

from __future__ import annotations

import torch
from torch import Tensor

from l2l_core.builtin import BuiltinImage, builtin_index, open_builtin
from l2l_core.datasets import augment
from l2l_core.images import to_bytes

SOURCE, STILL = 80, 64
"""Sides in pixels at which images are held before they are augmented, and where they are not."""


class TrainingImages:
    """One split of the built-in images, photographs taking a fixed share of the samples.

    With `still`, emoji come as they are: a small model that never sees the same picture twice
    learns colours and outlines, and no eyes.
    """

    def __init__(
        self,
        split: str,
        without: str | None = None,
        photo_share: float = 0.2,
        still: bool = False,
    ) -> None:
        self.images: list[BuiltinImage] = [
            i for i in builtin_index() if i.split == split and i.group != without
        ]
        self.pixels = to_bytes([open_builtin(i.id) for i in self.images], SOURCE)
        self.photo = torch.tensor([i.group == "photos" for i in self.images])
        self.still = to_bytes([open_builtin(i.id) for i in self.images], STILL) if still else None
        concepts: dict[str, int] = {}
        keys = [f"{i.group}/{i.concept}" for i in self.images]
        for key in keys:
            concepts[key] = concepts.get(key, 0) + 1
        # n skin tones of one design weigh √n, not n: else half of all samples are people.
        weights = torch.tensor([concepts[key] ** -0.5 for key in keys], dtype=torch.float64)
        photos = weights * self.photo
        others = weights - photos
        self.weights = (
            photo_share * photos / photos.sum() + (1 - photo_share) * others / others.sum()
        )

    def batch(self, count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(images (count, 3, size, size) in [0, 1], their positions in `self.images`).

        Flipped, shifted, scaled, made lighter or darker; photographs are cropped harder, emoji
        left alone if they are to be `still`.
        """
        picked = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        pixels = self.pixels[picked].float() / 255
        images = torch.empty(count, 3, size, size)
        for photo, scale, shift in ((True, (0.55, 1.0), 0.2), (False, (0.96, 1.05), 0.03)):
            rows = self.photo[picked] == photo
            if rows.any():
                images[rows] = augment(pixels[rows], generator, scale, shift, size)
        gamma = 0.92 + 0.17 * torch.rand(count, 1, 1, 1, generator=generator)
        images = images.clamp(1e-4, 1).pow(gamma)
        if self.still is not None:
            emoji = ~self.photo[picked]
            images[emoji] = self.still[picked[emoji]].float() / 255
        return images, picked
