"""What every model family offers; the trainer, the evaluation, the CLI and the UI know only this.

An image-to-image model is h = D ∘ E (Li et al., ICLR 2024, section 3): an encoder E that is
unlearned and a decoder D that stays frozen. Images are float tensors (B, 3, H, W) in [0, 1], RGB;
masks are boolean, True where the hole is; every random draw comes from a generator that is passed
in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from l2l_core.errors import PlainError

Representation = list[Tensor]
"""What the objective compares: one or more tensors, each with the batch first."""

OnStep = Callable[[int, int, Tensor], None]
"""Called by `complete` after each step with (step from 1, number of steps, images so far)."""


@dataclass(frozen=True)
class View:
    """Everything T(·) shares between student and teacher for one batch; fields are (B, ...)
    tensors.
    """

    def select(self, index: slice | Tensor) -> Self:
        """The same view for part of the batch (a micro-batch, or one process's share)."""
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device) -> Self:
        """The same view on a device."""
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))


class ImageToImageModel(nn.Module, ABC):
    """An encoder that can forget, a decoder that cannot change."""

    family: ClassVar[str]
    config: Any
    """The family's frozen dataclass of sizes."""
    image_size: int
    cell: int
    """Side in pixels of the smallest square the model hides or shows (a patch, a token)."""
    tokenizes: ClassVar[bool] = False
    """`prepare` is dear and depends on the image alone: run it once an image, not once a step."""
    codes: int = 0
    """Where `prepare` gives token ids, how many there are; 0 where it gives images."""
    fixed: ClassVar[tuple[str, ...]] = ()
    """Prefixes of parameters that no method trains: tokenizers, and what nothing computes with."""
    gradient_checkpointing: bool = False
    """Compute the encoder's activations again in the backward pass instead of keeping them."""

    @abstractmethod
    def draw_view(self, images: Tensor, masks: Tensor, generator: torch.Generator) -> View:
        """Draw what T(·) leaves open for images (B, 3, H, W) under pixel masks (B, H, W)."""

    def prepare(self, images: Tensor) -> Tensor:
        """What the frozen front of the model makes of images (B, 3, H, W), e.g. token ids (B, L).

        `encoder_input` and `noise_input` take this or the images themselves.
        """
        return images

    def encoder_input(self, images: Tensor, view: View) -> Tensor:
        """What `encode` reads for these images under this view."""
        return images

    def noise_input(self, noise: Tensor, images: Tensor, view: View) -> Tensor:
        """What `encode` reads when noise (B, 3, H, W) stands in for the images: T(n)."""
        return noise

    @abstractmethod
    def encode(self, inputs: Tensor, view: View) -> Representation:
        """E(T(x)) for encoder inputs (B, ...)."""

    @abstractmethod
    def reconstruct(self, inputs: Tensor, view: View) -> Tensor:
        """D(E(T(x))) as the network puts it out (B, ...): pixels, scores of tokens, noise."""

    @abstractmethod
    def training_loss(self, output: Tensor, images: Tensor, view: View) -> Tensor:
        """The loss (B,) the family was trained with: `output` of `reconstruct` against images, or
        against what `prepare` made of them.
        """

    def noise_lesson(self, noise: Tensor, images: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """How noise is learned in place of images: what `reconstruct` reads, and the label that
        `training_loss` takes. `noise` and `images` are as `prepare` gives them.
        """
        return self.encoder_input(images, view), noise

    def forward(self, inputs: Tensor, view: View, whole: bool = False) -> Representation:
        """The trained part, encoder or whole model, under the name distributed wrappers call."""
        return [self.reconstruct(inputs, view)] if whole else self.encode(inputs, view)

    @abstractmethod
    def complete(
        self,
        images: Tensor,
        mask: Tensor,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Fill the hole: images (B, 3, H, W) in [0, 1], mask (H, W) or (B, H, W); same shape back.

        Pixels outside the hole come back unchanged, but for a narrow seam where a family says so.
        `steps` is for families that complete step by step; None takes their usual number.
        """

    @abstractmethod
    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """The trained part, by name; every other parameter stays bit-identical."""

    def describe(self) -> dict[str, Any]:
        """Family and sizes, as they are written beside the weights; enough to open them again."""
        return {"family": self.family, "config": asdict(self.config)}

    def published_state(self) -> dict[str, Any]:
        """What a file in the authors' own layout holds; our own opener reads it, too.

        Raises:
            PlainError: these weights do not fit that layout, or the family has none.
        """
        raise PlainError(
            "There is no published layout for these weights; use the safetensors file as it is."
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Trade time for memory in the encoder's backward pass; results stay the same."""
        self.gradient_checkpointing = enabled

    def whole_parameters(self) -> dict[str, nn.Parameter]:
        """What methods train that train encoder and decoder, by name; not what is `fixed`."""
        return {n: p for n, p in self.named_parameters() if not n.startswith(self.fixed)}

    def freeze_decoder(self) -> Self:
        """Let gradients reach the encoder only."""
        return self.train_only(self.encoder_parameters())

    def train_only(self, parameters: Mapping[str, nn.Parameter]) -> Self:
        """Let gradients reach these parameters only."""
        self.requires_grad_(False)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        return self


def check_images(model: ImageToImageModel, images: Tensor, mask: Tensor) -> Tensor:
    """The mask as (B, H, W) for these images.

    Raises:
        ValueError: images or mask have a shape, type or range the model does not take.
    """
    size = model.image_size
    if images.ndim != 4 or images.shape[1:] != (3, size, size):
        raise PlainError(f"images must be (B, 3, {size}, {size}), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise PlainError(f"images must be floats in [0, 1], got {images.dtype}")
    if mask.dtype != torch.bool or mask.shape[-2:] != (size, size) or mask.ndim not in (2, 3):
        raise PlainError(
            f"mask must be boolean ({size}, {size}) or (B, {size}, {size}), "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )
    return mask.to(images.device).expand(len(images), size, size)
