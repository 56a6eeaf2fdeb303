"""Strips of pictures that show a run's progress: what the student makes of the same few images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from l2l_core.datasets import ImageSet
from l2l_core.files import replacing
from l2l_core.images import to_pil
from l2l_core.masks import parse_mask
from l2l_core.models.base import ImageToImageModel
from l2l_core.registry import completion_steps
from l2l_core.runtime import autocast
from l2l_core.unlearning.trainer import Trainer

MASK, TILES, SIDE, GAP = "centre:0.5", 5, 128, 6


class PreviewsLeft(Exception):
    """Raised between two steps of a completion when the run is to be left."""


class Previews:
    """Writes `forget-input.png` and `forget-original.png` at once, `forget-000010.png` and so on
    when asked, and the same for retain. Models that complete step by step take fewer steps here,
    and ask `leaving` after each.

    Raises:
        PreviewsLeft: when made or updated, as soon as `leaving` says so.
    """

    def __init__(self, trainer: Trainer, folder: Path, leaving: Callable[[], bool]) -> None:
        self.trainer, self.folder, self.leaving = trainer, folder, leaving
        request = trainer.request
        usual = completion_steps(request.model, request.model_options)
        self.steps = usual and max(4, usual // 3)
        self.hole = parse_mask(MASK, trainer.student.image_size)
        self.shown = {"forget": _spread(trainer.forget), "retain": _spread(trainer.retain)}
        for name, images in self.shown.items():
            self._write(f"{name}-input", torch.where(self.hole, 0.5, images))
            self._write(f"{name}-original", self._completed(trainer.teacher, images))

    def update(self, step: int) -> None:
        """Write what the student makes of the images after this step."""
        for name, images in self.shown.items():
            self._write(f"{name}-{step:06d}", self._completed(self.trainer.student, images))

    def _completed(self, model: ImageToImageModel, images: Tensor) -> Tensor:
        """Completions under the same hole and seed every time."""
        generator = torch.Generator().manual_seed(self.trainer.request.seed)
        device = self.trainer.device
        with autocast(device, self.trainer.precision):
            return model.complete(
                images.to(device),
                self.hole.to(device),
                steps=self.steps,
                generator=generator,
                on_step=self._heed,
            )

    def _heed(self, step: int, steps: int, so_far: Tensor) -> None:
        if self.leaving():
            raise PreviewsLeft

    def _write(self, name: str, images: Tensor) -> None:
        tiles, pitch = to_pil(images), SIDE + GAP
        strip = Image.new("RGBA", (pitch * len(tiles) - GAP, SIDE))
        for place, tile in enumerate(tiles):
            sized = tile.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            strip.paste(sized, (pitch * place, 0))
        with replacing(self.folder / f"{name}.png") as temporary:
            strip.save(temporary, format="PNG")


def _spread(images: ImageSet) -> Tensor:
    """A few images (n, 3, S, S), the middle of each equal part of the set, so that groups in its
    order all show.
    """
    count = min(TILES, len(images))
    return images.images(((torch.arange(count) + 0.5) * len(images) / count).long())
