"""Masked autoencoder (He et al., CVPR 2022) as an image-to-image model.

E = patch embedding + ViT over the visible patches (and a class token) + final norm.
D = the MAE decoder, which sees E's output and a mask token for every hidden patch.
Parameter names are the published ones, so the authors' files load unrenamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from l2l_core.errors import PlainError
from l2l_core.models.base import ImageToImageModel, OnStep, Representation, View, check_images
from l2l_core.models.checkpoints import (
    CheckpointError,
    build_strict,
    configuring,
    mae_from_hub,
    read_checkpoint,
)
from l2l_core.models.layers import depths, heads_of, run_blocks, sincos_position_table

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class MAEConfig:
    """Sizes of a masked autoencoder; all but heads and `norm_pix_loss` follow from shapes."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    overlap: int = 0
    """Pixels by which each predicted patch reaches into its neighbours (0 in published models)."""
    norm_pix_loss: bool = False
    """The decoder predicts pixels normalised by each patch's own mean and deviation."""

    def __post_init__(self) -> None:
        """Raises ValueError for heads that do not divide their width."""
        heads_of(self.width, self.heads, "heads")
        heads_of(self.decoder_width, self.decoder_heads, "decoder_heads")

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: int | None = None,
        decoder_heads: int | None = None,
        norm_pix_loss: bool = False,
    ) -> MAEConfig:
        """Read the sizes off the tensors; heads default to the published ones, else width / 64.

        Raises:
            ValueError: a tensor the sizes are read from is missing, or heads do not divide the
                width.
        """
        sources = (
            "patch_embed.proj.weight",
            "pos_embed",
            "decoder_pos_embed",
            "decoder_pred.weight",
        )
        missing = [key for key in sources if key not in state]
        if missing:
            raise PlainError(
                f"not a MAE checkpoint with its decoder: {', '.join(missing)} missing. "
                "Encoder-only files cannot complete images; use the file that includes the decoder."
            )
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        decoder_width = state["decoder_pos_embed"].shape[-1]
        predicted_side = round((state["decoder_pred.weight"].shape[0] / 3) ** 0.5)
        return cls(
            image_size=patch * round((state["pos_embed"].shape[1] - 1) ** 0.5),
            patch_size=patch,
            width=width,
            heads=heads_of(width, heads, "heads"),
            decoder_width=decoder_width,
            decoder_heads=heads_of(decoder_width, decoder_heads, "decoder_heads"),
            overlap=(predicted_side - patch) // 2,
            norm_pix_loss=norm_pix_loss,
            **depths(state),
        )


@dataclass(frozen=True)
class MAEView(View):
    """Positions (B, V) of each sample's visible patches, in the order the encoder reads them."""

    ids_keep: Tensor


class MaskedAutoencoder(ImageToImageModel):
    """MAE encoder and decoder over a square image cut into square patches."""

    family = "mae"
    fixed = ("pos_embed", "decoder_pos_embed")

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.cell = config.patch_size
        self.grid = config.image_size // config.patch_size
        tokens = self.grid**2 + 1
        norm = partial(nn.LayerNorm, eps=1e-6)
        block = partial(Block, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]

        self.patch_embed = PatchEmbed(config.image_size, config.patch_size, 3, config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(
            sincos_position_table(config.width, self.grid), requires_grad=False
        )
        self.blocks = nn.ModuleList(block(config.width, config.heads) for _ in range(config.depth))
        self.norm = norm(config.width)

        predicted_side = config.patch_size + 2 * config.overlap
        self.decoder_embed = nn.Linear(config.width, config.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_width))
        self.decoder_pos_embed = nn.Parameter(
            sincos_position_table(config.decoder_width, self.grid), requires_grad=False
        )
        self.decoder_blocks = nn.ModuleList(
            block(config.decoder_width, config.decoder_heads) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = norm(config.decoder_width)
        self.decoder_pred = nn.Linear(config.decoder_width, 3 * predicted_side**2)
        assert self.pos_embed.shape[1] == self.decoder_pos_embed.shape[1] == tokens

        self.mean: Tensor
        self.std: Tensor
        self.window: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.register_buffer("window", self._overlap_window(), persistent=False)

    # --- the encoder -------------------------------------------------------------------------

    def draw_view(self, images: Tensor, masks: Tensor, generator: torch.Generator) -> MAEView:
        """Keep the patches no hole touches; samples that show more than the rest hide some at
        random.

        A batch is one tensor, so all samples keep as many patches as the one that shows least.
        """
        hidden = self.hidden_patches(masks)  # (B, L)
        keep = int((~hidden).sum(dim=1).min())
        shuffle = torch.rand(hidden.shape, generator=generator, device=generator.device)
        order = (shuffle.to(hidden.device) + hidden).argsort(dim=1, stable=True)
        return MAEView(order[:, :keep].sort(dim=1).values)

    def encode(self, inputs: Tensor, view: View) -> Representation:
        """Class token and visible patches after the final norm, as one (B, 1 + V, width) tensor."""
        assert isinstance(view, MAEView)
        return [self.encode_normalised((inputs - self.mean) / self.std, view.ids_keep)]

    def encode_normalised(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """E for images already normalised with ImageNet's mean and deviation: (B, 1 + V, width)."""
        tokens = self.patch_embed(images) + self.pos_embed[:, 1:]
        visible = tokens.gather(1, ids_keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(images), -1, -1)
        x = torch.cat([cls, visible], dim=1)
        return self.norm(run_blocks(self.blocks, x, self.gradient_checkpointing))

    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """Class token, patch embedding, blocks and final norm; positions are fixed."""
        encoder = ("cls_token", "patch_embed.", "blocks.", "norm.")
        return {name: p for name, p in self.named_parameters() if name.startswith(encoder)}

    def published_state(self) -> dict[str, Any]:
        """The layout of `mae_visualize_vit_*.pth`."""
        if self.config.overlap:
            raise PlainError(
                "The published layout of MAE has no overlapping patches; use the safetensors file "
                "as it is."
            )
        return {"model": self.state_dict()}

    # --- the decoder -------------------------------------------------------------------------

    def decode(self, latent: Tensor, ids_keep: Tensor) -> Tensor:
        """Predicted patches (B, L, 3·side²), pixels in (row, column, rgb) order."""
        embedded = self.decoder_embed(latent)
        batch, _, width = embedded.shape
        patches = self.mask_token.to(embedded.dtype).repeat(batch, self.grid**2, 1)
        index = ids_keep.unsqueeze(-1).expand(-1, -1, width)
        patches = patches.scatter(1, index, embedded[:, 1:])
        x = torch.cat([embedded[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def reconstruct(self, inputs: Tensor, view: View) -> Tensor:
        """Predicted patches (B, L, 3·side²), as `decode` gives them."""
        assert isinstance(view, MAEView)
        return self.decode(self.encode(inputs, view)[0], view.ids_keep)

    def training_loss(self, output: Tensor, images: Tensor, view: View) -> Tensor:
        """Mean squared error (B,) of the hidden patches' pixels (He et al., section 3)."""
        assert isinstance(view, MAEView)
        target = self.patchify((images - self.mean) / self.std)
        if self.config.norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=2, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        error = (output.float() - target).square().mean(dim=2)  # (B, L)
        hidden = torch.ones_like(error).scatter(1, view.ids_keep, 0.0)
        return (error * hidden).sum(dim=1) / hidden.sum(dim=1).clamp_min(1)

    def patchify(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) laid out as predicted patches (B, L, 3·side²), borders reflected."""
        overlap = self.config.overlap
        side = self.config.patch_size + 2 * overlap
        padded = F.pad(images, [overlap] * 4, mode="reflect") if overlap else images
        columns = F.unfold(padded, side, stride=self.config.patch_size)  # (B, 3·side², L)
        patches = columns.unflatten(1, (3, side * side)).permute(0, 3, 2, 1)  # (B, L, side², 3)
        return patches.flatten(2)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """The inverse: predicted patches (B, L, 3·side²) as images, overlaps blended linearly."""
        overlap = self.config.overlap
        side = self.config.patch_size + 2 * overlap
        columns = patches.unflatten(2, (side * side, 3)).permute(0, 3, 2, 1).flatten(1, 2)
        if not overlap:
            return self._fold(columns)
        weights = self.window.flatten().repeat(3).view(1, -1, 1).to(columns)
        total = self._fold(weights.expand(1, -1, columns.shape[2]))
        return self._fold(columns * weights) / total

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
        """Fill the hole in one pass (`steps` and `generator` change nothing: MAE is deterministic).

        A patch is hidden if the hole touches it; true pixels outside the hole come back unchanged.
        With `norm_pix_loss` a hidden patch's mean and deviation, which the model does not predict,
        are estimated from the visible patches, nearer ones counting more.
        """
        masks = check_images(self, images, mask)
        hidden = self.hidden_patches(masks)
        visible_counts = (~hidden).sum(dim=1)
        predicted = torch.empty_like(images)
        for count in visible_counts.unique().tolist():
            rows = (visible_counts == count).nonzero().squeeze(1)
            order = hidden[rows].to(torch.int8).argsort(dim=1, stable=True)
            predicted[rows] = self._predict(images[rows], hidden[rows], order[:, :count])
        completed = torch.where(masks.unsqueeze(1), predicted.clamp(0, 1), images)
        if on_step:
            on_step(1, 1, completed)
        return completed

    def hidden_patches(self, masks: Tensor) -> Tensor:
        """Which patches (B, L) pixel masks (B, H, W) touch."""
        return F.max_pool2d(masks.float().unsqueeze(1), self.cell).flatten(1).bool()

    def _predict(self, images: Tensor, hidden: Tensor, ids_keep: Tensor) -> Tensor:
        normalised = (images - self.mean) / self.std
        patches = self.decode(self.encode_normalised(normalised, ids_keep), ids_keep).float()
        if self.config.norm_pix_loss:
            patches = self._denormalise(patches, self.patchify(normalised), hidden)
        return (self.unpatchify(patches) * self.std + self.mean).to(images.dtype)

    def _denormalise(self, patches: Tensor, true: Tensor, hidden: Tensor) -> Tensor:
        """Give each patch the mean and log variance of visible ones, weighted by 1 / distance²."""
        cells = torch.arange(self.grid, device=patches.device, dtype=torch.float32)
        places = torch.cartesian_prod(cells, cells)
        weights = 1 / (torch.cdist(places, places).square() + 1e-6)  # (L, L): own statistics win
        weights = weights * (~hidden).unsqueeze(1)  # (B, L, L)
        weights = weights / weights.sum(dim=2, keepdim=True).clamp_min(1e-12)
        mean = weights @ true.mean(dim=2, keepdim=True)
        log_var = weights @ (true.var(dim=2, keepdim=True) + 1e-6).log()
        return patches * (log_var / 2).exp() + mean

    def _fold(self, columns: Tensor) -> Tensor:
        side, overlap = self.config.patch_size + 2 * self.config.overlap, self.config.overlap
        size = (self.image_size, self.image_size)
        return F.fold(columns, size, side, padding=overlap, stride=self.config.patch_size)

    def _overlap_window(self) -> Tensor:
        """Weights (side, side) that fall linearly over the overlap on each side."""
        patch, overlap = self.config.patch_size, self.config.overlap
        if not overlap:
            return torch.ones(patch, patch)
        distance = torch.arange(patch + 2 * overlap) + 0.5
        ramp = (torch.minimum(distance, distance.flip(0)) / (2 * overlap)).clamp(max=1)
        return torch.outer(ramp, ramp)


def open_mae(path: Path, **options: Any) -> MaskedAutoencoder:
    """Open our own files, the authors' files with decoder, and the hub's `facebook/vit-mae-*`.

    Options: heads, decoder_heads, norm_pix_loss; a hub folder's config.json and the published file
    names answer them where it can.

    Raises:
        CheckpointError: not a MAE with its decoder, or keys and shapes that do not fit.
    """
    state, description = read_checkpoint(path)
    if "config" in description:
        if description.get("family") != MaskedAutoencoder.family:
            raise CheckpointError(f"“{path.name}” holds a {description.get('family')}, not a MAE.")
        with configuring(path.name):
            config = MAEConfig(**{**description["config"], **depths(state), **options})
    else:
        if any(key.startswith("vit.") for key in state):
            state = mae_from_hub(state)
        options = {**_published_options(path, description), **options}
        with configuring(path.name):
            config = MAEConfig.from_state_dict(state, **options)
    return build_strict(lambda: MaskedAutoencoder(config), state, path.name)


def _published_options(path: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a published file beyond its shapes."""
    if hub := description.get("hub"):
        return {
            "heads": hub.get("num_attention_heads"),
            "decoder_heads": hub.get("decoder_num_attention_heads"),
            "norm_pix_loss": hub.get("norm_pix_loss", False),
        }
    # The authors' "full" pre-training files were trained on normalised pixels, the "visualize" not.
    return {"norm_pix_loss": path.name.startswith("mae_pretrain_vit_")}
