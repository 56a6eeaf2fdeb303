"""Does an unlearned model tell which images it forgot? An audit that is run on request.

An attacker who has both models sees how far each image's representation moved. If images that were
unlearned moved farther than unseen ones of the same kind, the pair of models tells them apart.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2l_core.config import ConfigError, UnlearnRequest
from l2l_core.datasets import ImageSet
from l2l_core.errors import PlainError
from l2l_core.evaluation.evaluate import MASK, EvaluationSets
from l2l_core.evaluation.full import representation_distances
from l2l_core.evaluation.metrics import middle_95, resampled
from l2l_core.masks import parse_mask
from l2l_core.models.base import ImageToImageModel
from l2l_core.runtime import seeded


def membership_audit(
    request: UnlearnRequest,
    before: ImageToImageModel,
    after: ImageToImageModel,
    sets: EvaluationSets,
    gold: ImageToImageModel | None = None,
    mask: str = MASK,
) -> dict[str, Any]:
    """`membership` of the sets of a run, by model; plain values for JSON.

    Args:
        gold: a model that never saw the forget images: the AUC that comes without unlearning, from
            how different the two sides are.

    Returns:
        {mask, seed, members, unseen, models: {name: {auc, interval}}}.

    Raises:
        ConfigError: the forget sets have no held-out side.
    """
    if sets.seen is None:
        raise ConfigError(
            "This audit needs unseen images of the kind that was forgotten: forget a built-in "
            "group or class folders, which keep some apart."
        )
    models = {"unlearned": after} | ({"gold": gold} if gold else {})
    found = {
        name: membership(request, before, model, sets.seen, sets.forget, mask)
        for name, model in models.items()
    }
    return {
        "mask": mask,
        "seed": request.seed,
        "members": len(sets.seen),
        "unseen": len(sets.forget),
        "models": {n: {key: row[key] for key in ("auc", "interval")} for n, row in found.items()},
    }


def membership(
    request: UnlearnRequest,
    before: ImageToImageModel,
    after: ImageToImageModel,
    members: ImageSet,
    unseen: ImageSet,
    mask: str = MASK,
) -> dict[str, Any]:
    """Can the distance ‖E(T(x)) − E0(T(x))‖² tell trained-on forget images from unseen ones?

    Args:
        members: forget images that were unlearned.
        unseen: images of the same kind that were not (the held-out side).

    Returns:
        {auc, interval, members, unseen}: the chance that an unlearned image moved farther than an
        unseen one, its 95% bootstrap interval, and the two counts. One half is a guess: forgetting
        carried over to all images of the kind.

    Raises:
        ValueError: a side is empty.
    """
    hole = parse_mask(mask, before.image_size, seeded(request.seed, 20))
    of_members, of_unseen = (
        representation_distances(before, after, images.images(), hole, request)[0]
        for images in (members, unseen)
    )
    concepts = (members.concepts, unseen.concepts)
    value, interval = auc(of_members, of_unseen, concepts, seeded(request.seed, 23))
    return {"auc": value, "interval": interval, "members": len(members), "unseen": len(unseen)}


def auc(
    positive: Tensor,
    negative: Tensor,
    concepts: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> tuple[float, tuple[float, float]]:
    """Area under the ROC curve of scores (P,) against (N,), ties counting half, and its 95%
    interval by bootstrap over the concepts (P,) and (N,) that the images of both sides show.

    Raises:
        ValueError: a side is empty.
    """
    if not len(positive) or not len(negative):
        raise PlainError("An AUC needs images on both sides: trained on, and unseen.")
    difference = positive.double().unsqueeze(1) - negative.double()
    wins = (difference > 0).double() + 0.5 * (difference == 0).double()  # (P, N)
    rows, columns = (resampled(side, generator) for side in concepts)
    won = (rows @ wins * columns).sum(dim=1)
    drawn = won / (rows.sum(dim=1) * columns.sum(dim=1))
    return wins.mean().item(), middle_95(drawn)
