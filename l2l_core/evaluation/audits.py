"""Two attacks on an unlearned model, run on request: can it be made to remember, and does it tell?

Both compare with what an honest answer looks like: a model that never saw the images relearns them
at its own speed, and an AUC of one half cannot tell seen from unseen images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l2l_core.config import UnlearnRequest
from l2l_core.evaluation.evaluate import MASK, completed
from l2l_core.evaluation.features import load_feature_net
from l2l_core.evaluation.full import representation_distances
from l2l_core.evaluation.metrics import cosine_with_truth
from l2l_core.masks import draw_masks, parse_mask
from l2l_core.models.base import ImageToImageModel
from l2l_core.runtime import seeded

ReconstructionLoss = Callable[[ImageToImageModel, Tensor, Tensor, torch.Generator], Tensor]
"""(model, images (B, 3, H, W), masks (B, H, W), generator) -> the family's own training loss, a
scalar with gradients."""


@dataclass(frozen=True)
class RelearningPoint:
    """How well completions match the truth after some steps of fine-tuning."""

    step: int
    tuned: float  # mean cosine with the truth on the images it was fine-tuned on
    others: float  # the same on forget images it was not


def relearning(
    request: UnlearnRequest,
    models: Mapping[str, ImageToImageModel],
    loss: ReconstructionLoss,
    tuned: Tensor,
    others: Tensor,
    *,
    steps: int = 50,
    every: int = 5,
    learning_rate: float = 1e-4,
    mask: str = MASK,
) -> dict[str, list[RelearningPoint]]:
    """Fine-tune the encoder of copies of `models` on a few forget images; a curve for each model.

    Put the gold standard (a model that never saw the images) beside the unlearned one: information
    is left in the unlearned model if it gets back faster. The models passed in do not change.

    Args:
        models: name -> model; all get the same steps on the same masks.
        loss: what the attacker minimises.
        tuned: the k forget images (k, 3, H, W) the attacker holds.
        others: other forget images (N, 3, H, W), only looked at.
    """
    return {
        name: _relearn(request, model, loss, tuned, others, steps, every, learning_rate, mask)
        for name, model in models.items()
    }


def _relearn(
    request: UnlearnRequest,
    original: ImageToImageModel,
    loss: ReconstructionLoss,
    tuned: Tensor,
    others: Tensor,
    steps: int,
    every: int,
    learning_rate: float,
    mask: str,
) -> list[RelearningPoint]:
    model = copy.deepcopy(original).eval().freeze_decoder()
    parameters = list(model.encoder_parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0)
    size, seed, device = model.image_size, request.seed, model.device
    hole = parse_mask(mask, size, seeded(seed, 20))
    net = load_feature_net()
    curve = []
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            means = [
                cosine_with_truth(net, completed(model, images, hole, request), images)
                for images in (tuned, others)
            ]
            curve.append(RelearningPoint(step, *(m.mean().item() for m in means)))
        if step == steps:
            break
        kind = request.masks[step % len(request.masks)]
        masks = draw_masks((kind,), len(tuned), size, model.cell, seeded(seed, 28, step))
        value = loss(model, tuned.to(device), masks.to(device), seeded(seed, 29, step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
    return curve


def steps_to_reach(curve: list[RelearningPoint], level: float) -> int | None:
    """The first measured step at which the tuned images are at `level` again; None if never."""
    return next((point.step for point in curve if point.tuned >= level), None)


def membership(
    request: UnlearnRequest,
    before: ImageToImageModel,
    after: ImageToImageModel,
    members: Tensor,
    unseen: Tensor,
    mask: str = MASK,
) -> dict[str, Any]:
    """Can the distance ‖E(T(x)) − E0(T(x))‖² tell trained-on forget images from unseen ones?

    Args:
        members: forget images (M, 3, H, W) that were unlearned.
        unseen: images (U, 3, H, W) of the same kind that were not (the held-out side).

    Returns:
        {auc, interval, members, unseen}: the chance that an unlearned image moved farther than an
        unseen one, its 95% bootstrap interval, and the two counts. One half is a guess: forgetting
        carried over to all images of the kind.

    Raises:
        ValueError: a side is empty.
    """
    hole = parse_mask(mask, before.image_size, seeded(request.seed, 20))
    of_members, of_unseen = (
        representation_distances(before, after, images, hole, request)[0]
        for images in (members, unseen)
    )
    value, interval = auc(of_members, of_unseen, seeded(request.seed, 23))
    return {"auc": value, "interval": interval, "members": len(members), "unseen": len(unseen)}


def auc(
    positive: Tensor, negative: Tensor, generator: torch.Generator, draws: int = 1000
) -> tuple[float, tuple[float, float]]:
    """Area under the ROC curve of scores (P,) against (N,), ties counting half, and its 95%
    bootstrap interval (both sides drawn again).

    Raises:
        ValueError: a side is empty.
    """
    if not len(positive) or not len(negative):
        raise ValueError("An AUC needs images on both sides: trained on, and unseen.")
    difference = positive.double().unsqueeze(1) - negative.double()
    wins = (difference > 0).double() + 0.5 * (difference == 0).double()  # (P, N)
    drawn = []
    for _ in range(draws):
        rows, columns = (
            torch.randint(len(side), (len(side),), generator=generator)
            for side in (positive, negative)
        )
        drawn.append(wins[rows][:, columns].mean())
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.stack(drawn).quantile(quantiles).tolist()
    return wins.mean().item(), (low, high)
