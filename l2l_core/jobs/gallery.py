"""The images a run is compared on: forget, their nearest retain images, and retain."""

from __future__ import annotations

from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2l_core.config import UnlearnRequest
from l2l_core.datasets import DatasetError, ImageSet, forgotten_ids, has_split, load_image_set
from l2l_core.evaluation.evaluate import sample
from l2l_core.evaluation.features import load_feature_net
from l2l_core.evaluation.metrics import embed, nearest
from l2l_core.runtime import seeded

MOST = 24
"""Samples of a role that one answer holds at most."""
POOL = 256
"""Images of each part of the forget set to choose from."""


class Gallery:
    """The images a run can be looked at with, in a fixed order of its seed."""

    def __init__(self, request: UnlearnRequest, size: int, base: Path) -> None:
        self.split = request.split
        forgotten = forgotten_ids(request.forget)
        grouped = tuple(spec for spec in request.forget if has_split(spec))
        uploaded = tuple(spec for spec in request.forget if not has_split(spec))
        parts = [(grouped, "test"), (grouped, "train"), (uploaded, request.split)]
        found = [_optional(specs, size, split, base) for specs, split in parts if specs]
        self.forget = _interleaved([_shuffled(part, request.seed) for part in found if part])
        unlearned = load_image_set(request.forget, size, split=request.split, base=base)
        trained = load_image_set(
            request.retain, size, split=request.split, base=base, without=forgotten
        ).less(unlearned)
        trained = sample(trained, 2048, request.seed)
        net = load_feature_net()
        close = nearest(embed(net, self.forget.images()), embed(net, trained.images()), 1)
        # Many forget images can have the same neighbour.
        self.neighbours = trained.subset(list(dict.fromkeys(close[:, 0].tolist())))
        held_out = _optional(request.retain, size, "test", base, forgotten)
        self.retain = _shuffled((held_out or trained).less(unlearned), request.seed)

    def page(self, page: int, count: int) -> tuple[list[dict[str, Any]], Tensor]:
        """Rows without scores, and their images; at most `MOST` of a role."""
        count = min(count, MOST)
        rows: list[dict[str, Any]] = []
        images = []
        for role, source in (
            ("forget", self.forget),
            ("nearest", self.neighbours),
            ("retain", self.retain),
        ):
            wanted = range(page * count, (page + 1) * count)
            index = [i % len(source) for i in wanted][: len(source)]
            images.append(source.images(index))
            rows += [{"role": role, "label": self._label(source, i)} for i in index]
        return rows, torch.cat(images)

    def _label(self, images: ImageSet, place: int) -> str:
        source = images.sources[place]
        if source is None:
            return f"Image {place + 1}"
        seen = self.split in ("all", source.split)
        return f"{source.name} · {'trained on' if seen else 'held out'}"


def _optional(
    specs: tuple[str, ...],
    size: int,
    split: str,
    base: Path,
    without: frozenset[str] = frozenset(),
) -> ImageSet | None:
    try:
        return load_image_set(specs, size, split=split, base=base, without=without)
    except DatasetError:
        return None


def _shuffled(images: ImageSet, seed: int) -> ImageSet:
    images = sample(images, POOL, seed)
    return images.subset(torch.randperm(len(images), generator=seeded(seed, 32)).tolist())


def _interleaved(parts: list[ImageSet]) -> ImageSet:
    """Held-out images, trained ones and uploads in turn, as long as there are any."""
    places = iter(range(sum(map(len, parts))))
    turns = zip_longest(*[list(islice(places, len(part))) for part in parts])
    pixels = torch.cat([part.pixels[:] for part in parts])
    joined = ImageSet(pixels, tuple(source for part in parts for source in part.sources))
    return joined.subset([place for turn in turns for place in turn if place is not None])
