"""What a completion is worth, sample by sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2l_core.evaluation.features import FeatureNet


@torch.no_grad()
def embed(net: FeatureNet, images: Tensor, batch_size: int = 64) -> Tensor:
    """Unit-length embeddings (B, D) of images (B, 3, H, W) in [0, 1]."""
    return torch.cat([F.normalize(net.embed(part), dim=1) for part in images.split(batch_size)])


def cosine_with_truth(net: FeatureNet, completions: Tensor, truth: Tensor) -> Tensor:
    """Cosine (B,) between the embeddings of completed and true images."""
    return (embed(net, completions) * embed(net, truth)).sum(dim=1)


def psnr_in_hole(completions: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB over the hole (H, W) only; images in [0, 1]."""
    error = (completions - truth).square()[:, :, mask].mean(dim=(1, 2))
    return -10 * error.clamp_min(1e-10).log10()


def nearest(queries: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Positions (Q, count) of the candidates most similar to each query, by unit embeddings."""
    count = min(count, len(candidates))
    return (queries @ candidates.T).topk(count, dim=1).indices


def confidence_interval(
    values: Tensor, generator: torch.Generator, draws: int = 1000
) -> tuple[float, float]:
    """95% interval of the mean of values (N,) by bootstrap."""
    index = torch.randint(len(values), (draws, len(values)), generator=generator)
    means = values.double()[index].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
