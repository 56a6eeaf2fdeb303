"""The objective of Li et al. (ICLR 2024), as pure functions.

    L(θ) = mean over retain x of ‖E(T(x)) − E0(T(x))‖²
         + α · mean over forget x of ‖E(T(x)) − E0(T(n))‖²

E0 is the frozen original encoder and n a noise image; ‖·‖² is a mean over tokens and channels,
summed over the tensors of a representation (equation 8 with the squared distance of section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from l2l_core.errors import PlainError
from l2l_core.models.base import Representation

REDUCTIONS = ("class_mean", "published")


@dataclass(frozen=True)
class Losses:
    """Scalars of one step; `total` is what is minimised."""

    total: Tensor
    retain: Tensor
    forget: Tensor


def squared_distance(student: Representation, target: Representation) -> Tensor:
    """Per sample (B,): the mean squared difference of each tensor (B, ...), summed over tensors."""
    levels = [
        (a.float() - b.float()).square().flatten(1).mean(dim=1)
        for a, b in zip(student, target, strict=True)
    ]
    return sum(levels[1:], start=levels[0])


def unlearning_loss(
    distance: Tensor, forget: Tensor, alpha: float, reduction: str = "class_mean"
) -> Losses:
    """Weigh distances (B,) by class; `forget` (B,) is boolean, True where a sample is forgotten.

    `class_mean` averages each class over its own samples (a class without samples counts 0).
    `published` is what the authors' script computes, the mean over the whole batch of 2·[class]·d;
    the two agree when the batch is balanced.

    Raises:
        ValueError: unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise PlainError(f"reduction is “{reduction}”; it must be one of {', '.join(REDUCTIONS)}")

    def term(member: Tensor) -> Tensor:
        weights = member.to(distance.dtype)
        count = weights.sum().clamp_min(1) if reduction == "class_mean" else len(distance) / 2
        return (weights * distance).sum() / count

    retain_term, forget_term = term(~forget), term(forget)
    return Losses(retain_term + alpha * forget_term, retain_term, forget_term)
