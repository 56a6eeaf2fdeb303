"""Iterative parallel decoding of masked tokens (MaskGIT, CVPR 2022; MAGE, CVPR 2023).

At each step every unknown token is drawn from the model's scores; the drawn tokens it is surest of
are settled, the others are hidden again and drawn at the next step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from l2l_core.runtime import stream_per_sample


def decode_iteratively(
    predict: Callable[[Tensor, Tensor], Tensor],
    ids: Tensor,
    unknown: Tensor,
    *,
    steps: int,
    temperature: float,
    spread: bool,
    generator: torch.Generator | None,
) -> Iterator[tuple[int, int, Tensor]]:
    """Fill unknown tokens (B, L) of ids (B, L); yields (step from 1, number of steps, ids).

    Args:
        predict: (ids, unknown) -> scores (B, L, codes). steps, temperature: number of steps of the
            cosine schedule, and of the noise on confidences at its start. spread: start the
            schedule at the share that is unknown; False skips the steps whose share is above it, as
            published. generator: gives each sample a seed of its own.
    """
    generators = stream_per_sample(len(ids), generator)
    ids, start = ids.clone(), unknown
    left = unknown.sum(dim=1)
    plan = _plan(start.sum(dim=1), ids.shape[1], steps, spread)
    if not plan:
        yield 1, 1, ids
    for number, (heat, lengths) in enumerate(plan, start=1):
        # A sample whose hole is too small for this step of the schedule waits.
        rows = ((lengths < start.sum(dim=1)) & (left > 0)).nonzero().squeeze(1)
        logits = predict(ids[rows], unknown[rows])
        draws = [generators[row] for row in rows.tolist()]
        sampled = sample_tokens(logits, _uniform(draws, ids.shape[1]).to(logits))
        settled = torch.where(unknown[rows], sampled, ids[rows])
        last = number == len(plan)
        if not last:
            noise = gumbel(_uniform(draws, ids.shape[1])).to(logits)
            probabilities = confidence(logits, sampled, unknown[rows])
            count = torch.minimum(lengths[rows], left[rows] - 1).clamp_min(1)
            again = hide_again(probabilities, noise, temperature * heat, count)
            unknown = unknown.index_copy(0, rows, again)
            left = unknown.sum(dim=1)
        ids = ids.index_copy(0, rows, settled)
        yield number, len(plan), ids


def _plan(unknown: Tensor, tokens: int, steps: int, spread: bool) -> list[tuple[float, Tensor]]:
    """For each step that is run: the share of the temperature, and how many tokens (B,) to hide
    again after it.
    """
    plan = []
    for step in range(1, steps + 1):
        share = math.cos(math.pi / 2 * step / steps)
        whole = unknown if spread else torch.full_like(unknown, tokens)
        lengths = (whole * share).floor().long()
        if step == steps or (lengths < unknown).any():
            plan.append((1 - step / steps, lengths))
    return plan if unknown.any() else []


def sample_tokens(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw a code (B, L) from scores (B, L, codes) with uniform numbers (B, L) in [0, 1)."""
    below = logits.float().softmax(dim=2).cumsum(dim=2)
    return (
        (below < uniform.unsqueeze(2) * below[..., -1:]).sum(dim=2).clamp_max(logits.shape[2] - 1)
    )


def confidence(logits: Tensor, sampled: Tensor, unknown: Tensor) -> Tensor:
    """Probability (B, L) of the drawn codes; known tokens get one that nothing exceeds."""
    chosen = logits.float().softmax(dim=2).gather(2, sampled.unsqueeze(2)).squeeze(2)
    return torch.where(unknown, chosen, torch.full_like(chosen, 1e20))


def hide_again(probabilities: Tensor, noise: Tensor, temperature: float, count: Tensor) -> Tensor:
    """The `count` (B,) least sure tokens of each sample: boolean (B, L)."""
    sureness = probabilities.log() + temperature * noise
    ranks = sureness.argsort(dim=1, stable=True).argsort(dim=1)
    return ranks < count.unsqueeze(1)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel draws from uniform ones in [0, 1)."""
    return -(-uniform.clamp_min(1e-20).log()).clamp_min(1e-20).log()


def blend(masks: Tensor, cell: int) -> Tensor:
    """How much of the generated pixel counts (B, 1, H, W): 1 in the hole of masks (B, H, W), and
    falling to 0 within a token outside it.
    """
    hole = masks.float().unsqueeze(1)
    reach = max(1, cell // 2)
    wide = F.max_pool2d(hole, 2 * reach + 1, stride=1, padding=reach)
    soft = gaussian_blur(wide, 2 * reach + 1, reach / 2).clamp(0, 1)
    edge = F.max_pool2d(hole, 2 * cell - 1, stride=1, padding=cell - 1)
    return torch.maximum(hole, soft * edge)


def _uniform(generators: list[torch.Generator], length: int) -> Tensor:
    rows = [torch.rand(length, generator=g) for g in generators]
    return torch.stack(rows) if rows else torch.empty(0, length)
