"""Palette (Saharia et al., SIGGRAPH 2022): inpainting by diffusion as an image-to-image model.

A U-Net reads the condition (the image, Gaussian noise in the hole) beside the noisy image y_t and
the noise level γ, and predicts the noise. E = everything down to the middle block; its
representation is the list of feature maps that D, the way up, reads. The U-Net is diffusers'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from l2l_core.errors import PlainError
from l2l_core.models.base import ImageToImageModel, OnStep, Representation, View, check_images
from l2l_core.models.checkpoints import (
    CheckpointError,
    build_strict,
    check_fit,
    configuring,
    outline,
    read_checkpoint,
)
from l2l_core.models.palette_config import PaletteConfig
from l2l_core.models.palette_keys import network_state
from l2l_core.models.palette_sampling import (
    Diffusion,
    add_noise,
    sample_ancestral,
    sample_fast,
    sample_renoising,
)
from l2l_core.models.unet_attention import choose_unet_attention
from l2l_core.runtime import stream_per_sample


@dataclass(frozen=True)
class PaletteView(View):
    """What student and teacher share: the hole and everything random."""

    hole: Tensor  # (B, 1, H, W), boolean
    gammas: Tensor  # (B,)
    condition_noise: Tensor  # (B, 3, H, W), the condition's hole
    noise: Tensor  # (B, 3, H, W), ε of y_t


class DeepBlock(ResnetBlock2D):
    """A residual block, then `extra` times residual block, attention, residual block, each of which
    begins as a layer that adds nothing.
    """

    def __init__(self, extra: int, config: PaletteConfig, width: int, **sizes: Any) -> None:
        super().__init__(out_channels=width, **sizes)
        sizes["in_channels"] = width
        head = config.head_channels or width
        self.extra = nn.ModuleList()
        for _ in range(extra):
            first, last = (ResnetBlock2D(out_channels=width, **sizes) for _ in range(2))
            attention = Attention(
                width,
                heads=width // head,
                dim_head=head,
                norm_num_groups=config.norm_groups,
                bias=True,
                residual_connection=True,
                _from_deprecated_attn_block=True,
            )
            for layer in (first.conv2, attention.to_out[0], last.conv2):
                for parameter in layer.parameters():
                    nn.init.zeros_(parameter)
            self.extra.extend((first, attention, last))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Features (B, in, h, w) and the embedding of γ -> (B, out, h, w)."""
        x = super().forward(x, embedding)
        for layer in self.extra:
            x = layer(x, embedding) if isinstance(layer, ResnetBlock2D) else layer(x)
        return x


class PaletteUNet(UNet2DModel):
    """diffusers' U-Net in the published configuration, with its encoder half callable alone."""

    def __init__(self, config: PaletteConfig) -> None:
        levels = range(len(config.channels))
        attended = [level in config.attended_levels for level in levels]
        super().__init__(
            sample_size=config.image_size,
            in_channels=6,
            out_channels=3,
            block_out_channels=config.channels,
            layers_per_block=config.res_blocks,
            down_block_types=tuple(
                "AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attended
            ),
            up_block_types=tuple(
                "AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attended)
            ),
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift",
            attention_head_dim=config.head_channels,
            norm_num_groups=config.norm_groups,
            attn_norm_num_groups=config.norm_groups,
            norm_eps=1e-5,
            time_embedding_dim=4 * config.inner_channels,
        )
        if config.channels[0] != config.inner_channels:  # diffusers takes the first level's width
            inner = config.inner_channels
            self.time_proj = Timesteps(inner, True, 0)  # type: ignore[assignment]
            self.time_embedding = TimestepEmbedding(inner, 4 * inner)
        if config.extra_blocks:
            resnets: Any = self.down_blocks[config.coarsest].resnets
            resnets[-1] = DeepBlock(
                config.extra_blocks,
                config,
                config.channels[config.coarsest],
                in_channels=resnets[-1].in_channels,
                temb_channels=4 * config.inner_channels,
                groups=config.norm_groups,
                eps=1e-5,
                time_embedding_norm="scale_shift",
            )
        choose_unet_attention(self)

    def encode(
        self,
        sample: Tensor,
        gammas: Tensor,
        first: int = 0,
        last: int | None = None,
        unread: tuple[int, ...] = (),
    ) -> Representation:
        """First convolution, residuals of every block on the way down, and the middle block.

        `first` leaves out what comes before that level; `last` all that is coarser than that level,
        the middle block and the level's own way down included; `unread` these levels.
        """
        embedding = self.time_embedding(self.time_proj(gammas).to(self.dtype))
        x = self.conv_in(sample)
        features = [] if first or 0 in unread else [x]
        for level, block in enumerate(self.down_blocks):
            x, residuals = block(x, embedding)
            if level == last:
                way_down = 1 if block.downsamplers else 0
                return [*features, *residuals[: len(residuals) - way_down]]
            if level >= first and level not in unread:
                features.extend(residuals)
        assert self.mid_block is not None
        return [*features, self.mid_block(x, embedding)]

    def decode(self, features: Representation, gammas: Tensor) -> Tensor:
        """The way up: all feature maps that `encode` gives -> the noise (B, 3, H, W)."""
        embedding = self.time_embedding(self.time_proj(gammas).to(self.dtype))
        x, residuals = features[-1], features[:-1]
        up: Any = self.up_blocks
        for block in up:
            count = len(block.resnets)
            x = block(x, tuple(residuals[-count:]), embedding)
            residuals = residuals[:-count]
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))

    def silence(self, levels: tuple[int, ...]) -> None:
        """Let the way up read nothing of these levels: its weights for their residuals become 0."""
        for weight in self._readers(levels):
            weight.detach().zero_()

    def _readers(self, levels: tuple[int, ...]) -> Iterator[Tensor]:
        """Views (out, channels, k, k) of the weights for residuals of these levels.

        Raises:
            CheckpointError: such a residual is normalised together with other features.
        """
        down: Any = self.down_blocks
        up: Any = self.up_blocks
        labels = [0]  # the first convolution's residual, then each block's, its way down last
        for level, block in enumerate(down):
            labels.extend([level] * (len(block.resnets) + (1 if block.downsamplers else 0)))
        way_up = [resnet for block in up for resnet in block.resnets]
        for resnet, level in zip(way_up, reversed(labels), strict=True):
            if level not in levels:
                continue
            width = self.config["block_out_channels"][level]
            if width % (resnet.in_channels // resnet.norm1.num_groups):
                raise CheckpointError(f"Level {level} shares groups of a norm, so it is read.")
            yield resnet.conv1.weight[:, -width:]
            yield resnet.conv_shortcut.weight[:, -width:]


class Palette(ImageToImageModel):
    """Conditional diffusion over square images; the hole may have any shape, down to a pixel."""

    family = "palette"
    config: PaletteConfig

    def __init__(self, config: PaletteConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.training_levels = Diffusion(config.train_schedule)
        sides = range(1, max(1, config.image_size // 16) + 1)
        # For drawn holes: about a sixteenth of the side; others may have any edge.
        self.cell = max(side for side in sides if config.image_size % side == 0)
        self.sampling_levels = Diffusion(config.sampling_schedule)
        self.unet = PaletteUNet(config)

    # --- unlearning --------------------------------------------------------------------------

    def draw_view(self, images: Tensor, masks: Tensor, generator: torch.Generator) -> PaletteView:
        """Draw γ from the training schedule and the noise of condition and y_t."""
        device = generator.device
        shape = (2, *images.shape)
        gammas = self.training_levels.draw_gammas(len(images), generator)
        condition, noise = torch.randn(shape, generator=generator, device=device)
        view = PaletteView(masks.unsqueeze(1).to(device), gammas, condition, noise)
        return view.to(images.device)

    def encoder_input(self, images: Tensor, view: View) -> Tensor:
        """Condition and y_t, (B, 6, H, W) in [-1, 1] and noise; true pixels outside the hole."""
        assert isinstance(view, PaletteView)
        true = 2 * images - 1
        return self._inputs(true, add_noise(true, view.noise, view.gammas), view)

    def noise_input(self, noise: Tensor, images: Tensor, view: View) -> Tensor:
        """The same, with noise in the hole, or (`noise_target="full"`) everywhere."""
        assert isinstance(view, PaletteView)
        visible = noise if self.config.noise_target == "full" else images
        inside = view.noise if self.config.noise_target == "published" else 2 * noise - 1
        return self._inputs(2 * visible - 1, inside, view)

    def encode(self, inputs: Tensor, view: View) -> Representation:
        """The feature maps of E, each (B, C, h, w); the way up never runs."""
        assert isinstance(view, PaletteView)
        config = self.config
        first, last, unread = config.frozen_levels, config.last_level, config.unread_levels
        return self.unet.encode(inputs, view.gammas, first, last, unread)

    def reconstruct(self, inputs: Tensor, view: View) -> Tensor:
        """The noise (B, 3, H, W) the network sees in its inputs."""
        assert isinstance(view, PaletteView)
        return self.unet(inputs, view.gammas, return_dict=False)[0]

    def training_loss(self, output: Tensor, images: Tensor, view: View) -> Tensor:
        """Squared error (B,) of the noise in the hole, as a mean over all pixels, as published. The
        label is the view's noise, whatever the images.
        """
        assert isinstance(view, PaletteView)
        error = (output.float() - view.noise) * view.hole
        return error.square().flatten(1).mean(dim=1)

    def noise_lesson(self, noise: Tensor, images: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """Nothing but the view's noise in the hole, to be recognised as noise, as published."""
        assert isinstance(view, PaletteView)
        return self._inputs(2 * images - 1, view.noise, view), noise

    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """Embedding of γ, first convolution, way down and middle block; with `frozen_levels` and
        `last_level` only the blocks that `encode` takes features from.
        """
        frozen, last = self.config.frozen_levels, self.config.last_level
        levels = self.config.coarsest + 1
        first = () if frozen else ("unet.time_embedding.", "unet.conv_in.")
        down = (f"unet.down_blocks.{level}." for level in range(frozen, levels))
        middle = ("unet.mid_block.",) if last is None else ()
        parts = (*first, *down, *middle)
        unread = f"unet.down_blocks.{last}.downsamplers."
        return {
            name: p
            for name, p in self.named_parameters()
            if name.startswith(parts) and not name.startswith(unread)
        }

    def published_state(self) -> dict[str, Tensor]:
        """The layout of `16_Network.pth`: flat, with the buffers of the training schedule."""
        if self.config.extra_blocks:
            raise PlainError(
                "The published layout of Palette has no place for this network's extra_blocks. "
                "Use the safetensors file as it is."
            )
        state = self.config.layout.to_published(self.unet.state_dict())
        return {**self.training_levels.buffers, **state}

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Compute the blocks' activations again in the backward pass."""
        super().set_gradient_checkpointing(enabled)
        if enabled:
            self.unet.enable_gradient_checkpointing()
        else:
            self.unet.disable_gradient_checkpointing()

    # --- completion --------------------------------------------------------------------------

    @torch.no_grad()
    def complete(
        self,
        images: Tensor,
        mask: Tensor,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Denoise the hole step by step; true pixels outside are put back after each step.

        `steps` counts for all samplers but the ancestral one. Each sample has its own stream of
        noise, drawn from the generator by its place in the batch, whatever comes after it.
        """
        if steps is not None and steps < 1:
            raise PlainError(f"steps must be at least 1, got {steps}")
        hole = check_images(self, images, mask).unsqueeze(1)
        true = 2 * images.float() - 1
        draw = _noise_per_sample(images, generator)
        condition = torch.where(hole, draw(), true)

        def predict(noisy: Tensor, gammas: Tensor) -> Tensor:
            return self.unet(torch.cat([condition, noisy], dim=1), gammas, return_dict=False)[0]

        def impose(noisy: Tensor) -> Tensor:
            return torch.where(hole, noisy, true)

        def finish(noisy: Tensor) -> Tensor:
            filled = ((noisy + 1) / 2).clamp(0, 1).to(images.dtype)
            return torch.where(hole, filled, images)

        def watch(step: int, total: int, noisy: Tensor) -> None:
            if on_step:
                on_step(step, total, finish(noisy))

        levels = self.sampling_levels
        if self.config.sampler == "ancestral":
            return finish(sample_ancestral(predict, levels, condition, impose, draw, watch))
        count = steps or self.config.steps
        if self.config.sampler == "renoising":
            return finish(sample_renoising(predict, levels, condition, impose, draw, count, watch))
        return finish(sample_fast(predict, levels, condition, impose, count, watch))

    def _inputs(self, visible: Tensor, inside: Tensor, view: PaletteView) -> Tensor:
        condition = torch.where(view.hole, view.condition_noise, visible)
        return torch.cat([condition, torch.where(view.hole, inside, visible)], dim=1)


def _noise_per_sample(images: Tensor, generator: torch.Generator | None) -> Callable[[], Tensor]:
    """Draws standard normal noise (B, 3, H, W), each sample from a generator of its own."""
    streams, shape = stream_per_sample(len(images), generator), images.shape[1:]

    def draw() -> Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in streams]).to(images.device)

    return draw


def open_palette(path: Path, **options: Any) -> Palette:
    """Open our own files and published ones (`16_Network.pth`, its average, unlearned copies).

    Options: any field of `PaletteConfig`; for a published file the sizes are read off its shapes.
    The file's schedule buffers are never used.

    Raises:
        CheckpointError: not a Palette network, keys and shapes that do not fit, or unknown options.
    """
    state, description = read_checkpoint(path)
    if family := description.get("family"):
        if family != Palette.family:
            raise CheckpointError(f"“{path.name}” holds a {family}, not a Palette.")
        with configuring(path.name):
            config = PaletteConfig(**{**description["config"], **options})
        return build_strict(lambda: Palette(config), state, path.name)
    state = network_state(state)
    with configuring(path.name):
        config = PaletteConfig.from_state_dict(state, **options)
    expected = outline(lambda: Palette(config).unet, path.name)
    check_fit(config.layout.to_published(expected), state, path.name)
    model = Palette(config)
    model.unet.load_state_dict(config.layout.to_diffusers(state))
    return model
