"""Where truth and completions lie in feature space, in two dimensions (the paper's t-SNE figures).

Forgetting worked where the unlearned completions of forget images leave the original's, and those
of retain images do not. Distances between far clusters of a t-SNE mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from l2l_core.config import UnlearnRequest
from l2l_core.evaluation.evaluate import MASK, EvaluationSets, completed
from l2l_core.evaluation.extractors import Extractor, open_extractor
from l2l_core.masks import parse_mask
from l2l_core.models.base import ImageToImageModel
from l2l_core.runtime import seeded

SETS = ("retain", "forget")
LIMIT = 100
"""Images of a set on the map: each is three points."""
PERPLEXITY = 30.0


@dataclass(frozen=True)
class MapPoint:
    """One image on the map."""

    x: float  # in [0, 1]
    y: float  # in [0, 1]
    set: str  # retain or forget
    what: str  # truth, original or unlearned
    index: int  # its place in its evaluation set


def embedding_map(
    request: UnlearnRequest,
    before: ImageToImageModel,
    after: ImageToImageModel,
    sets: EvaluationSets,
    mask: str = MASK,
    extractor: Extractor | None = None,
    limit: int = LIMIT,
) -> list[MapPoint]:
    """The map of truth and completions; the first `limit` images of retain and forget.

    Raises:
        ValueError: fewer than four points (see `map_points`).
    """
    extractor = extractor or open_extractor()
    hole = parse_mask(mask, before.image_size, seeded(request.seed, 20))
    features = {}
    for name in SETS:
        truth = sets.named()[name].images(slice(0, limit))
        features[name, "truth"] = extractor.features(truth)
        for what, model in (("original", before), ("unlearned", after)):
            completions = completed(model, truth, hole, request)
            features[name, what] = extractor.features(completions)
    return map_points(features, request.seed)


def map_points(features: Mapping[tuple[str, str], Tensor], seed: int) -> list[MapPoint]:
    """t-SNE of features (N, D) by (set, what), compared by cosine; the same seed, the same map.

    Raises:
        ValueError: fewer than four points.
    """
    from sklearn.manifold import TSNE

    points = F.normalize(torch.cat(list(features.values())).double(), dim=1).numpy()
    if len(points) < 4:
        raise ValueError("A map needs at least four points: choose more images.")
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
