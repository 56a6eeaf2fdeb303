"""What the recipes draw from, held on the device they train on: images, and holes."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from l2l_core.builtin import BuiltinImage, builtin_index, open_builtin
from l2l_core.datasets import augment
from l2l_core.images import to_bytes
from l2l_core.masks import draw_masks

SOURCE, STILL = 80, 64
"""Sides in pixels at which images are held before they are augmented, and where they are not."""
PHOTO_SHARE, MORE_SHARE = 0.2, 0.25
"""Of the samples: photographs, and the drawings of `recipes/build_more.py` where they are given."""


class TrainingImages:
    """One split of the built-in images, and `more` pictures if given.

    `still` is the share of emoji that come as they are: a small model that never sees the same
    picture twice learns colours and outlines, and no eyes.
    """

    def __init__(
        self,
        split: str,
        without: str | None = None,
        still: float = 0.0,
        more: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        images = [i for i in builtin_index() if i.split == split and i.group != without]
        pictures = [open_builtin(i.id) for i in images]
        self.built_in = len(images)
        self.still_share = still
        self.still = to_bytes(pictures if still else [], STILL).to(device)
        if more:
            archive = zipfile.ZipFile(more)
            entries = [BuiltinImage(**entry) for entry in json.loads(archive.read("index.json"))]
            entries = [i for i in entries if i.split == split and i.group != without]
            images += entries
            for i in entries:
                pictures.append(Image.open(io.BytesIO(archive.read(f"{i.id}.webp"))))
        self.images = images
        self.pixels = to_bytes(pictures, SOURCE).to(device)
        self.photo = torch.tensor([i.group == "photos" for i in images], device=device)
        # n skin tones of one design weigh √n, not n: else half of all samples are people.
        kinds = ["photos" if i.group == "photos" else "emoji" for i in images]
        kinds[self.built_in :] = [k.replace("emoji", "more") for k in kinds[self.built_in :]]
        designs = [(k, i.group, i.concept) for k, i in zip(kinds, images, strict=True)]
        many = Counter(designs)
        weights = torch.tensor([many[design] ** -0.5 for design in designs], dtype=torch.float64)
        shares = {"photos": PHOTO_SHARE, "more": MORE_SHARE if more else 0.0}
        shares["emoji"] = 1 - sum(shares.values())
        for kind, share in shares.items():
            rows = torch.tensor([k == kind for k in kinds])
            weights[rows] *= share / weights[rows].sum()
        self.weights = weights.to(device)

    def batch(self, count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(images (count, 3, size, size) in [0, 1], their positions in `self.images`).

        Flipped, shifted, scaled, made lighter or darker; photographs are cropped harder, a share
        of the emoji left alone if there is one to be `still`.
        """
        picked = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        pixels = self.pixels[picked].float() / 255
        device = pixels.device
        images = torch.empty(count, 3, size, size, device=device)
        for photo, scale, shift in ((True, (0.55, 1.0), 0.2), (False, (0.96, 1.05), 0.03)):
            rows = self.photo[picked] == photo
            if rows.any():
                images[rows] = augment(pixels[rows], generator, scale, shift, size)
        gamma = 0.92 + 0.17 * torch.rand(count, 1, 1, 1, generator=generator, device=device)
        images = images.clamp(1e-4, 1).pow(gamma)
        if self.still_share:
            still = ~self.photo[picked] & (picked < self.built_in)
            still &= torch.rand(count, generator=generator, device=device) < self.still_share
            images[still] = self.still[picked[still]].float() / 255
        return images, picked

    def spread(self, count: int, size: int) -> Tensor:
        """At most `count` pictures as they are, (N, 3, size, size), spread over the groups."""
        chosen = torch.linspace(0, len(self.pixels) - 1, count).long().unique()
        return F.interpolate(self.pixels[chosen].float() / 255, size, mode="area")


class TrainingMasks:
    """Holes of the given kinds, drawn once and dealt turned and mirrored: drawing them takes longer
    than a step does on a GPU.
    """

    held = 2**15

    def __init__(
        self, kinds: Sequence[str], size: int, count: int, cell: int, generator: torch.Generator
    ) -> None:
        seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        drawing = torch.Generator().manual_seed(seed)
        self.cell = cell
        sets = [
            draw_masks(kinds, count, size, cell, drawing)[:, ::cell, ::cell]
            for _ in range(max(64, self.held // count))
        ]
        self.sets = torch.stack(sets).to(generator.device)  # (sets, count, grid, grid)

    def draw(self, generator: torch.Generator) -> Tensor:
        """One set (count, size, size): one kind and one ratio, as `draw_masks` gives."""
        device = generator.device
        number, turn, mirror = torch.randint(2**31, (3,), generator=generator, device=device)
        cells = self.sets[int(number) % len(self.sets)]
        cells = cells.transpose(1, 2) if turn % 2 else cells
        cells = cells.flip(2) if mirror % 2 else cells
        return cells.repeat_interleave(self.cell, dim=1).repeat_interleave(self.cell, dim=2)
