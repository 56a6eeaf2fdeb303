"""Inputs of models whose frozen front is dear: each image view goes through it once, ahead.

The published scripts run MAGE's tokenizer three times a step, which takes most of it. Here the
steps to come say which views they will draw; new ones are prepared together, between steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l2l_core.datasets import Batches, ImageSet, augment
from l2l_core.models.base import ImageToImageModel
from l2l_core.runtime import seeded
from l2l_core.unlearning.noise import NoiseSource

View = tuple[str, int, int]
"""One augmented version of one image: (set, position, version)."""


class PreparedInputs:
    """Draws what `model.prepare` makes of the batches and of noise."""

    VERSIONS = 8
    """Augmented versions of an image."""
    AHEAD = 8
    """Steps whose views are prepared together: enough for full batches, few enough to cancel."""
    NOISE_POOL = 256
    """Noise images, prepared once."""
    AT_ONCE = 32

    def __init__(
        self, model: ImageToImageModel, batches: Batches, noise: NoiseSource, steps: int
    ) -> None:
        self.model, self.batches, self.steps = model, batches, steps
        self.kept: dict[View, Tensor] = {}
        generator = seeded(batches.seed, 7)
        size = model.image_size
        parts = [
            self._prepare(noise.draw(self.AT_ONCE, size, generator))
            for _ in range(0, self.NOISE_POOL, self.AT_ONCE)
        ]
        self.noise = torch.cat(parts)

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Prepared (retain, forget, noise) of a step, `batches.size` of each."""
        views = self._views(step)
        if any(view not in self.kept for view in views):
            self._keep(step)
        inputs = torch.stack([self.kept[view] for view in views])
        retain, forget = inputs.split(self.batches.size)
        generator = seeded(self.batches.seed, 4, step)
        picked = torch.randint(len(self.noise), (self.batches.size,), generator=generator)
        return retain, forget, self.noise[picked]

    def _views(self, step: int) -> list[View]:
        """Retain views, then forget views."""
        retain, forget = (positions.tolist() for positions in self.batches.pick(step))
        generator = seeded(self.batches.seed, 8, step)
        count = self.VERSIONS if self.batches.augment else 1
        versions = torch.randint(count, (2 * self.batches.size,), generator=generator).tolist()
        keys = [("retain", i) for i in retain] + [("forget", i) for i in forget]
        return [(*key, version) for key, version in zip(keys, versions, strict=True)]

    def _keep(self, first: int) -> None:
        """Prepare every new view of the steps from `first` on."""
        coming = range(first, min(first + self.AHEAD, self.steps))
        views = dict.fromkeys(view for step in coming for view in self._views(step))
        new = [view for view in views if view not in self.kept]
        for start in range(0, len(new), self.AT_ONCE):
            part = new[start : start + self.AT_ONCE]
            images = torch.cat([self._image(view) for view in part])
            self.kept.update(zip(part, self._prepare(images), strict=True))

    def _image(self, view: View) -> Tensor:
        """The augmented image (1, 3, S, S) of a view."""
        name, position, version = view
        images: ImageSet = getattr(self.batches, name)
        image = images.images(torch.tensor([position]))
        if not self.batches.augment:
            return image
        stream = (9, int(name == "forget"), position, version)
        return augment(image, seeded(self.batches.seed, *stream))

    @torch.no_grad()
    def _prepare(self, images: Tensor) -> Tensor:
        return self.model.prepare(images.to(self.model.device)).cpu()
