"""Ours and the four baselines of Li et al. (ICLR 2024, section 4), and a target that is no noise.

A method says what the trained part reads, what its output is compared with, and how. The trainer
does the rest alike for all: batches, views, seeds, micro-batches, optimiser. `original` is the
model before unlearning (E0, D0), `forget` comes in with `retain` in balanced numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from l2l_core.models.base import ImageToImageModel, Representation, View
from l2l_core.runtime import seeded
from l2l_core.unlearning.objective import squared_distance


@dataclass(frozen=True)
class Samples:
    """What one pass computes on: r retain and f forget samples, as `prepare` gives images."""

    retain: Tensor  # (r, ...)
    forget: Tensor  # (f, ...)
    noise: Tensor  # (f, ...), what `Method.noise` made of noise images
    view: View  # of concat(retain, forget)
    seeds: Sequence[Sequence[int]]
    """Of each forget sample, the stream of whatever is drawn for it inside the pass."""

    @property
    def retain_view(self) -> View:
        """The retain samples' part of the view."""
        return self.view.select(slice(0, len(self.retain)))

    @property
    def forget_view(self) -> View:
        """The forget samples' part of the view."""
        return self.view.select(slice(len(self.retain), None))

    @property
    def images(self) -> Tensor:
        """All samples (r + f, ...)."""
        return torch.cat([self.retain, self.forget])

    @property
    def partners(self) -> list[int]:
        """For each forget sample, the position of a retain sample to put in its place."""
        return [i % len(self.retain) for i in range(len(self.forget))]


class Method(ABC):
    """One way of unlearning."""

    title: ClassVar[str]
    trains_decoder: ClassVar[bool] = False
    """The whole model is trained, and `output` is the decoder's; else the encoder."""
    sign: ClassVar[float] = 1.0
    """-1 where the forget term is driven up."""

    def __init__(self, original: ImageToImageModel) -> None:
        self.original = original

    def parameters(self, model: ImageToImageModel) -> dict[str, nn.Parameter]:
        """What of a model this method may change, by name."""
        return model.whole_parameters() if self.trains_decoder else model.encoder_parameters()

    def fit(self, draw: Callable[[], Samples]) -> None:  # noqa: B027 - most need no samples
        """Estimate statistics before the first step, from samples that `draw` gives."""

    def noise(self, noise: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
        """A step's noise (f, ...) for forget samples, from noise images as `prepare` gives them and
        all the step's samples (r + f, ...).
        """
        return noise

    @abstractmethod
    def lesson(self, samples: Samples) -> tuple[Tensor, Representation]:
        """What the trained part reads (r + f, ...), and the target of its output."""

    def distance(self, output: Representation, target: Representation, samples: Samples) -> Tensor:
        """How far each output is from its target (r + f,)."""
        return squared_distance(output, target)


class Ours(Method):
    """Encoder outputs stay on retain samples and go to those of noise images on forget samples."""

    title = "ours"

    def lesson(self, samples: Samples) -> tuple[Tensor, Representation]:
        """E(T(x)) against E0(T(x)) and E0(T(n))."""
        original, forget_view = self.original, samples.forget_view
        retain = original.encoder_input(samples.retain, samples.retain_view)
        forget = original.encoder_input(samples.forget, forget_view)
        noise = original.noise_input(samples.noise, samples.forget, forget_view)
        target = original.encode(torch.cat([retain, noise]), samples.view)
        return torch.cat([retain, forget]), target


class Ignorance(Method):
    """As ours, but forget samples go to retain samples instead of noise (a target in the spirit of
    arXiv 2502.04260: a model that never saw an image would not answer with noise).

    Every step pairs them anew, so what is learned is the mean of what retain images would give: a
    smooth, neutral shape. The most similar retain image as the partner lets colours leak through.
    """

    title = "ignorance"

    def lesson(self, samples: Samples) -> tuple[Tensor, Representation]:
        """E(T(x)) against E0(T(x)) and E0(T(x')), x' a retain sample under the view of x."""
        original, forget_view = self.original, samples.forget_view
        inputs = original.encoder_input(samples.images, samples.view)
        retain = inputs[: len(samples.retain)]
        others = original.encoder_input(samples.retain[samples.partners], forget_view)
        return inputs, original.encode(torch.cat([retain, others]), samples.view)


class RandomEncoder(Method):
    """As ours, but with Gaussian noise drawn in embedding space as the target of forget samples."""

    title = "random encoder"
    moments: list[tuple[Tensor, Tensor]]
    """Mean and deviation of each tensor of the original's representation."""

    def fit(self, draw: Callable[[], Samples]) -> None:
        """Take the moments from the samples' representation."""
        samples = draw()
        inputs = self.original.encoder_input(samples.images, samples.view)
        found = self.original.encode(inputs, samples.view)
        self.moments = [(level.mean(), level.std()) for level in found]

    def lesson(self, samples: Samples) -> tuple[Tensor, Representation]:
        """E(T(x)) against E0(T(x)) and noise."""
        inputs = self.original.encoder_input(samples.images, samples.view)
        kept = self.original.encode(inputs[: len(samples.retain)], samples.retain_view)
        drawn = self.draw(kept, samples.seeds)
        return inputs, [torch.cat(pair) for pair in zip(kept, drawn, strict=True)]

    def draw(self, like: Representation, seeds: Sequence[Sequence[int]]) -> Representation:
        """Noise of the shapes of `like`, one stream a sample."""
        streams = [seeded(*seed) for seed in seeds]
        drawn = []
        for level, (mean, deviation) in zip(like, self.moments, strict=True):
            shape = level.shape[1:]
            normal = torch.stack([torch.randn(shape, generator=stream) for stream in streams])
            drawn.append((normal.to(level.device) * deviation + mean).to(level.dtype))
        return drawn


class MaxLoss(Method):
    """The training loss goes up on forget samples and stays down on retain samples."""

    title = "max loss"
    trains_decoder = True
    sign = -1.0

    def lesson(self, samples: Samples) -> tuple[Tensor, Representation]:
        """The true images."""
        inputs = self.original.encoder_input(samples.images, samples.view)
        return inputs, [samples.images]

    def distance(self, output: Representation, target: Representation, samples: Samples) -> Tensor:
        """The family's training loss."""
        return self.original.training_loss(output[0], target[0], samples.view)


class NoisyLabel(MaxLoss):
    """Ordinary training, with Gaussian noise as the label of forget samples."""

    title = "noisy label"
    sign = 1.0

    def noise(self, noise: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
        """Noise images; for token ids, rounded Gaussian ones like the step's own, as published."""
        if not self.original.codes:
            return noise
        return gaussian_ids(images, torch.randn(noise.shape, generator=generator), self.original)

    def lesson(self, samples: Samples) -> tuple[Tensor, Representation]:
        """True images to retain, noise to forget."""
        original, retain = self.original, samples.retain
        inputs, label = original.noise_lesson(samples.noise, samples.forget, samples.forget_view)
        kept = original.encoder_input(retain, samples.retain_view)
        return torch.cat([kept, inputs]), [torch.cat([retain, label])]


class RetainLabel(Method):
    """Outputs stay on retain samples and become those of a retain sample on forget samples."""

    title = "retain label"
    trains_decoder = True

    def lesson(self, samples: Samples) -> tuple[Tensor, Representation]:
        """D(E(T(x))) against D0(E0(T(x))) and D0(E0(T(x'))), x' from the retain samples."""
        inputs = self.original.encoder_input(samples.images, samples.view)
        kept = self.original.reconstruct(inputs[: len(samples.retain)], samples.retain_view)
        return inputs, [torch.cat([kept, kept[samples.partners]])]


METHODS: dict[str, type[Method]] = {
    "max_loss": MaxLoss,
    "noisy_label": NoisyLabel,
    "retain_label": RetainLabel,
    "random_encoder": RandomEncoder,
    "ours": Ours,
    "ignorance": Ignorance,
}
"""Name to method, in the order of the paper's tables, then what it does not have."""


def gaussian_ids(ids: Tensor, normal: Tensor, model: ImageToImageModel) -> Tensor:
    """Standard normal draws (f, L) as token ids with mean and deviation of `ids` (B, L)."""
    drawn = normal * ids.float().std() + ids.float().mean()
    return drawn.clamp(0, model.codes - 1).round().long()
