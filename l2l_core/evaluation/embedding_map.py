"""Where truth and completions lie in feature space, in two dimensions (the paper's t-SNE figures).

Forgetting worked where the unlearned completions of forget images leave the original's, and those
of retain images do not. Distances between far clusters of a t-SNE mean nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from l2l_core.config import UnlearnRequest
from l2l_core.errors import PlainError
from l2l_core.evaluation.evaluate import MASK, EvaluationSets, completed
from l2l_core.evaluation.extractors import Extractor, open_extractor
from l2l_core.evaluation.full import OnProgress
from l2l_core.evaluation.plots import MapPoint, Pictures
from l2l_core.images import to_pil
from l2l_core.masks import parse_mask
from l2l_core.models.base import ImageToImageModel
from l2l_core.runtime import seeded

SETS = ("retain", "forget")
LIMIT = 100
"""Images of a set on the map: each is three points."""
PERPLEXITY = 30.0

Images = dict[tuple[str, str], Tensor]
"""Images (N, 3, H, W) by (set, what): retain or forget; truth, original or unlearned."""


def shown_images(
    request: UnlearnRequest,
    before: ImageToImageModel,
    after: ImageToImageModel,
    sets: EvaluationSets,
    mask: str = MASK,
    limit: int = LIMIT,
    on_progress: OnProgress = lambda stage: None,
) -> Images:
    """Truth and completions of the first `limit` images of retain and forget."""
    hole = parse_mask(mask, before.image_size, seeded(request.seed, 20))
    images = {}
    for name in SETS:
        truth = images[name, "truth"] = sets.named()[name].images(slice(0, limit))
        for what, model in (("original", before), ("unlearned", after)):
            on_progress(f"{name}: {len(truth)} completions, {what} model")
            images[name, what] = completed(model, truth, hole, request)
    return images


def embedding_map(images: Images, seed: int, extractor: Extractor | None = None) -> list[MapPoint]:
    """The map of images: t-SNE of their features.

    Raises:
        ValueError: fewer than four points (see `map_points`).
    """
    extractor = extractor or open_extractor()
    return map_points({key: extractor.features(part) for key, part in images.items()}, seed)


def describe_map(
    points: Sequence[MapPoint], mask: str, seed: int, extractor: str
) -> dict[str, Any]:
    """A map as plain values: {mask, seed, extractor, points}."""
    return {
        "mask": mask,
        "seed": seed,
        "extractor": extractor,
        "points": [asdict(point) for point in points],
    }


def small_pictures(images: Images, side: int = 96) -> Pictures:
    """The images as WebP files of at most `side` pixels."""
    pictures = {}
    for (name, what), part in images.items():
        for index, picture in enumerate(to_pil(part)):
            picture.thumbnail((side, side))
            buffer = io.BytesIO()
            picture.save(buffer, "WEBP", quality=80)
            pictures[name, what, index] = buffer.getvalue()
    return pictures


def map_points(features: Mapping[tuple[str, str], Tensor], seed: int) -> list[MapPoint]:
    """t-SNE of features (N, D) by (set, what), compared by cosine; the same seed, the same map.

    Raises:
        ValueError: fewer than four points.
    """
    from sklearn.manifold import TSNE

    points = F.normalize(torch.cat(list(features.values())).double(), dim=1).numpy()
    if len(points) < 4:
        raise PlainError("A map needs at least four points: choose more images.")
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    sne = TSNE(perplexity=perplexity, init="pca", random_state=seed % 2**32)
    places = torch.from_numpy(sne.fit_transform(points))
    low, high = places.amin(dim=0), places.amax(dim=0)
    scaled = ((places - low) / (high - low).clamp_min(1e-12)).tolist()
    labels = [
        (name, what, index)
        for (name, what), values in features.items()
        for index in range(len(values))
    ]
    return [MapPoint(x, y, *label) for (x, y), label in zip(scaled, labels, strict=True)]
