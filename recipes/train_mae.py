"""Train the built-in `mae-fluent`: python -m recipes.train_mae OUT [--without flags].

A masked autoencoder over 64×64 images in 8×8 patches that overlap by two pixels, on the built-in
images. Holes are drawn as the studio uses them (random patches, centre, border, halves, brush
strokes). It fits pixels (L1 + L2); with features of the feature net beside them it painted dots
that please that net alone. End with `--still --start WEIGHTS`: outlines come of many shifted
pictures, details of the pictures as they are.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2l_core.masks import parse_mask
from l2l_core.models import load_model
from l2l_core.models.layers import choose_attention
from l2l_core.models.mae import MAEConfig, MAEView, MaskedAutoencoder
from recipes.training import Recipe, options, psnr

KEPT = (8, 16, 24, 32, 40, 48, 56)  # few distinct lengths, so that kernels are chosen few times
CONFIG = MAEConfig(
    image_size=64,
    patch_size=8,
    width=320,
    depth=5,
    heads=5,
    decoder_width=192,
    decoder_depth=3,
    decoder_heads=3,
    overlap=2,
)


class MAERecipe(Recipe[MaskedAutoencoder]):
    """Encoder and decoder together, on the pixels of hidden patches."""

    name = "mae-fluent.safetensors"
    batch = 32

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        model = self.fresh_model()
        if args.start:
            model.load_state_dict(load_model("mae-fluent", args.start).state_dict())
        super().__init__(args, model)
        self.holes = self.masks(self.batch, self.model.cell)
        choose_attention(self.model, self.device)

    def fresh_model(self) -> MaskedAutoencoder:
        """An untrained MAE."""
        model = MaskedAutoencoder(CONFIG)
        nn.init.normal_(model.cls_token, std=0.02)
        nn.init.normal_(model.mask_token, std=0.02)
        return model

    def predict(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Completed images (B, 3, H, W) in [0, 1] space, not clamped, every patch predicted."""
        model = self.model
        normalised = (images - model.mean) / model.std
        with torch.autocast(self.device.type, torch.bfloat16):
            patches = model.decode(model.encode_normalised(normalised, ids_keep), ids_keep)
        return model.unpatchify(patches.float()) * model.std + model.mean

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """A batch, its visible patches (B, V), V in KEPT, and its hidden pixels (B, 1, H, W)."""
        grid = self.model.grid
        images, _ = self.train.batch(self.batch, self.size, self.generator)
        view = self.model.draw_view(images, self.holes.draw(self.generator), self.generator)
        keep = max((k for k in KEPT if k <= view.ids_keep.shape[1]), default=KEPT[0])
        shuffle = torch.rand(view.ids_keep.shape, **self.random)
        order = shuffle.argsort(dim=1)[:, :keep]
        view = MAEView(view.ids_keep.gather(1, order.sort(dim=1).values))
        visible = torch.zeros(self.batch, grid**2, device=self.device)
        visible = visible.scatter(1, view.ids_keep, 1.0)
        visible = visible.view(self.batch, 1, grid, grid)
        hidden = 1 - F.interpolate(visible, scale_factor=self.model.cell, mode="nearest")
        return images, view.ids_keep, hidden

    def losses(self) -> dict[str, Tensor]:
        """Pixels of the hidden patches."""
        images, ids_keep, hidden = self.draw()
        predicted = self.predict(images, ids_keep)
        error = (predicted - images) * hidden
        pixels = hidden.sum() * 3
        losses = {"l1": error.abs().sum() / pixels, "l2": error.square().sum() / pixels}
        return losses | {"loss": losses["l1"] + 4 * losses["l2"]}

    def describe(self) -> dict[str, Any]:
        """Family and sizes."""
        return self.model.describe()

    @torch.no_grad()
    def evaluate(self, model: MaskedAutoencoder) -> dict[str, float]:
        """Held-out PSNR in dB inside the hole."""
        images, scores = self.test.spread(256, self.size), {}
        for spec in ("centre:0.25", "centre:0.5", "left:0.5", "border:0.125"):
            hole = parse_mask(spec, self.size, None)
            scores[f"psnr {spec}"] = psnr(model.complete(images, hole), images, hole)
        return scores


def main() -> None:
    """Parse options and train."""
    parser = options(__doc__, images=1_000_000, lr=1e-3)
    MAERecipe(parser.parse_args()).run()


if __name__ == "__main__":
    main()
