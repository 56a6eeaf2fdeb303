"""Noise images n: what a forgotten image is to look like to the encoder.

Among distributions with the forget set's mean and covariance the Gaussian has the largest entropy
(Li et al., Lemma 1). Natural image sets have a nearly diagonal covariance (their figure C.5), so
the default is white noise with the forget set's mean and deviation per channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from l2l_core.config import NOISE_KINDS
from l2l_core.datasets import spread
from l2l_core.errors import PlainError


@dataclass(frozen=True)
class NoiseSource:
    """Draws noise images like those of one forget set; values may leave [0, 1].

    kind:
        gaussian: white, the set's mean and deviation per channel. gaussian_full: the covariance
            estimated from at most 256 images, spread over the set, shrunk towards `gaussian`. Few
            images leave their own patterns in it; it is there to be compared.
        standard: white, mean 0.5 and deviation 0.5 everywhere (a unit Gaussian over [-1, 1]).
        uniform: each value uniform in [0, 1].
        constant: the set's mean colour, no noise.
    """

    kind: str
    mean: Tensor  # (3, 1, 1)
    std: Tensor  # (3, 1, 1)
    deviations: Tensor  # (N, 3, H, W), images minus `mean`; empty unless gaussian_full needs them

    SHRINKAGE = 0.5
    MOST_IMAGES = 256

    @classmethod
    def fit(cls, kind: str, images: Tensor) -> NoiseSource:
        """Estimate what `kind` needs from forget images (N, 3, H, W) in [0, 1].

        Raises:
            ValueError: unknown kind, or no images.
        """
        if kind not in NOISE_KINDS:
            raise PlainError(f"noise is “{kind}”; it must be one of {', '.join(NOISE_KINDS)}")
        if len(images) == 0:
            raise PlainError("cannot fit noise to an empty forget set")
        mean = images.mean(dim=(0, 2, 3)).view(3, 1, 1)
        std = images.std(dim=(0, 2, 3), correction=0).view(3, 1, 1)
        if kind == "standard":
            mean, std = torch.full_like(mean, 0.5), torch.full_like(std, 0.5)
        most = cls.MOST_IMAGES if kind == "gaussian_full" else 0
        return cls(kind, mean, std, images[spread(len(images), most)] - mean)

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """`count` noise images (count, 3, size, size), on the CPU."""
        shape = (count, 3, size, size)
        if self.kind == "uniform":
            return torch.rand(shape, generator=generator)
        if self.kind == "constant":
            return self.mean.expand(shape).clone()
        white = torch.randn(shape, generator=generator) * self.std
        if self.kind != "gaussian_full":
            return self.mean + white
        # Σ̂ = (1/N) Σ d dᵀ has the exact sampler d·g/√N; shrinkage keeps it of full rank.
        weights = torch.randn(count, len(self.deviations), generator=generator)
        estimated = torch.einsum("bn,nchw->bchw", weights, self.deviations)
        estimated = estimated / len(self.deviations) ** 0.5
        shrink = self.SHRINKAGE
        return self.mean + (1 - shrink) ** 0.5 * estimated + shrink**0.5 * white
