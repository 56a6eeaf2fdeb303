"""A protocol's measurement with everything open: models, image sets, holes, extractors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2l_core.config import ConfigError
from l2l_core.datasets import ImageSet, load_image_set
from l2l_core.evaluation.evaluate import BATCH, complete_batch
from l2l_core.evaluation.extractors import Extractor, open_extractor
from l2l_core.evaluation.metrics import psnr_in_hole
from l2l_core.evaluation.protocol import ORIGINAL, Protocol, ProtocolRequest
from l2l_core.evaluation.published import PUBLISHED, untrained
from l2l_core.masks import parse_mask
from l2l_core.models import load_model
from l2l_core.models.base import ImageToImageModel
from l2l_core.runtime import choose_device, choose_precision, seeded
from l2l_core.stored_images import StoredPixels

Rows = dict[str, Tensor]
"""What is kept of a shard's images, each (n, …): features, perhaps logits and embedding; psnr of
completions."""


@dataclass
class Job:
    """A request with everything open."""

    request: ProtocolRequest
    protocol: Protocol
    sets: dict[str, ImageSet]
    models: dict[str, ImageToImageModel]
    extractor: Extractor
    embedding: Extractor | None
    """None where the extractor's features serve."""
    holes: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        size, seed = self.models[ORIGINAL].image_size, self.request.seed
        self.holes = {m: parse_mask(m, size, seeded(seed, 20)) for m in self.protocol.masks}

    @property
    def unlearned(self) -> list[str]:
        """Names of the models beside the original."""
        return [name for name in self.models if name != ORIGINAL]

    @classmethod
    def open(
        cls,
        request: ProtocolRequest,
        device: torch.device | None = None,
        only_original: bool = False,
    ) -> Job:
        """Open models, image sets (none without a folder of data) and extractors.

        Args:
            device: instead of the request's. only_original: leave the unlearned weights alone;
                a published original whose file is not there gets random weights.

        Raises:
            ValueError: the protocol, a model, a set, an extractor or the device cannot be had.
        """
        device = device or choose_device(request.device)
        protocol = request.load_protocol()
        unlearned = [] if only_original else request.named_weights
        place = str(device)
        options = request.model_options  # the unlearned weights, our own files, hold theirs
        file = request.checkpoint
        if only_original and request.model in PUBLISHED and not (file and Path(file).exists()):
            original = untrained(request.model, place)
        else:
            original = load_model(request.model, file, device=place, **options)
        models = {ORIGINAL: original}
        models |= {name: load_model(request.model, f, device=place) for name, f in unlearned}
        size = models[ORIGINAL].image_size
        if any(model.image_size != size for model in models.values()):
            raise ConfigError("The models are of different image sizes.")
        specs = protocol.test_sets(request.data, request.classes, request.each)
        if not request.data:
            specs = {}
        return cls(
            request,
            protocol,
            {name: load_image_set((spec,), size, split="test") for name, spec in specs.items()},
            models,
            open_extractor(request.extractor, device),
            open_extractor(request.embedding, device) if request.embedding else None,
        )

    def complete(self, model: str, mask: str, batch: Tensor, number: int) -> Tensor:
        """One model's completions of a batch with this number."""
        request = self.request
        return complete_batch(
            self.models[model],
            batch,
            self.holes[mask],
            request.seed,
            number,
            request.precision,
            request.steps or None,
        )

    def extract(self, images: Tensor) -> Rows:
        """Features of images (n, 3, S, S)."""
        found = self.extractor(images)
        rows = {"features": found.features}
        if found.logits is not None:
            rows["logits"] = found.logits
        if self.embedding:
            rows["embedding"] = self.embedding.features(images)
        return rows

    def measure(self, completions: Tensor, truth: Tensor, mask: str) -> Rows:
        """Features of completions, and PSNR inside the hole."""
        return self.extract(completions) | {
            "psnr": psnr_in_hole(completions, truth, self.holes[mask])
        }

    def plan(self) -> dict[str, Any]:
        """All that must be the same for features in one folder to be comparable, but for models
        and holes, which folders are named by.
        """
        model = self.models[ORIGINAL]
        return {
            "protocol": self.protocol.title,
            "images": {
                name: {"n": len(images), "digest": _digest_of_set(images)}
                for name, images in self.sets.items()
            },
            "image_size": model.image_size,
            "batch": BATCH,
            "steps": self.request.steps,
            "seed": self.request.seed,
            "precision": choose_precision(self.request.precision, model.device),
            "extractor": self.extractor.name,
            "embedding": (self.embedding or self.extractor).name,
        }


def _digest_of_set(images: ImageSet) -> str:
    """SHA-256 of which files a set holds, in which order."""
    assert isinstance(images.pixels, StoredPixels)
    names = "\n".join(image.name for image in images.pixels.stored)
    return hashlib.sha256(names.encode()).hexdigest()
