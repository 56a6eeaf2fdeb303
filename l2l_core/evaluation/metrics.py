"""What a completion is worth, sample by sample."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from l2l_core.evaluation.features import FeatureNet

TELLING = 0.1
"""By how much cosines must differ for the eye to see that a completion knows its image."""


@torch.no_grad()
def embed(net: FeatureNet, images: Tensor, batch_size: int = 64) -> Tensor:
    """Unit-length embeddings (B, D), float32, of images (B, 3, H, W) in [0, 1]."""
    parts = [F.normalize(net.embed(part).float(), dim=1) for part in images.split(batch_size)]
    return torch.cat(parts)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine (B,) between features (B, D) of any length."""
    return F.cosine_similarity(a, b, dim=1)


def cosine_with_truth(net: FeatureNet, completions: Tensor, truth: Tensor) -> Tensor:
    """Cosine (B,) between the embeddings of completed and true images."""
    return (embed(net, completions) * embed(net, truth)).sum(dim=1)


def psnr_in_hole(completions: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB over the hole (H, W) only; images in [0, 1]."""
    error = (completions - truth).square()[:, :, mask].mean(dim=(1, 2))
    return -10 * error.clamp_min(1e-10).log10()


def ssim_in_hole(completions: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Structural similarity (B,), at most 1, averaged over the hole (H, W) only; images in [0, 1].

    Wang et al., IEEE TIP 2004, equation 13, by torchmetrics: a Gaussian window of 11 pixels and
    deviation 1.5, constants 0.01² and 0.03²; images need 6 pixels a side or more.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds

    _, everywhere = structural_similarity_index_measure(
        completions.double(),  # variances are small differences
        truth.double(),
        data_range=1.0,
        reduction="none",
        return_full_image=True,
    )
    return everywhere[:, :, mask].mean(dim=(1, 2))


def nearest(queries: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Positions (Q, count) of the candidates most similar to each query, by unit embeddings."""
    count = min(count, len(candidates))
    return (queries @ candidates.T).topk(count, dim=1).indices


def confidence_interval(
    values: Tensor, concepts: Tensor, generator: torch.Generator, draws: int = 1000
) -> tuple[float, float]:
    """95% interval of the mean of values (N,) by bootstrap over the concepts (N,) that the images
    show: a design in six skin tones says little more than in one (Field and Welsh, JRSS B 2007).
    """
    weights = resampled(concepts, generator, draws)
    return middle_95(weights @ values.double() / weights.sum(dim=1))


def resampled(concepts: Tensor, generator: torch.Generator, draws: int = 1000) -> Tensor:
    """How often each image (N,) comes up in each bootstrap draw over concepts: (draws, N)."""
    _, place = concepts.unique(return_inverse=True)
    count = int(place.max()) + 1
    index = torch.randint(count, (draws, count), generator=generator)
    times = torch.zeros(draws, count, dtype=torch.float64)
    return times.scatter_add_(1, index, torch.ones_like(times))[:, place]


def middle_95(drawn: Tensor) -> tuple[float, float]:
    """The interval that holds the middle 95% of bootstrap draws (draws,)."""
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def staying(before: Tensor, after: Tensor, noise: Tensor) -> dict[str, int]:
    """How many images are `known`, and how many of them `stay`, from cosines (N,) with the truth.

    Known are those that the original completes better than what it makes of noise by at least
    `TELLING`; of these stay those still nearer to where they were than to the noise level.
    """
    known = before - noise >= TELLING
    stay = known & (after > (before + noise) / 2)
    return {"known": int(known.sum()), "stay": int(stay.sum())}


def summary(
    before: Tensor, after: Tensor, concepts: Tensor, generator: torch.Generator
) -> dict[str, Any]:
    """Means before and after of values (N,) of the same images, and their change with interval.

    `moved` is the mean size of an image's own change: gains of some images and losses of others
    cancel in `change`, not in it. `concepts` (N,) says which images show the same; `interval` is
    None where all do.
    """
    change = after - before
    several = len(concepts.unique()) > 1
    return {
        "before": before.mean().item(),
        "after": after.mean().item(),
        "change": change.mean().item(),
        "moved": change.abs().mean().item(),
        "interval": confidence_interval(change, concepts, generator) if several else None,
    }
