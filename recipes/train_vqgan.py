"""Train the tokenizer of a small MAGE: python -m recipes.train_vqgan OUT [--without flags].

A small VQ-GAN of MAGE's kind: 64×64 images to 16×16 tokens. Pixels (L1), features of the built-in
feature net, and, from `--adversary-from` of the run on, a patch discriminator (hinge loss). Codes
that nothing was nearest to for a while start again at features of the current batch, rather at ones
that are far from every code: else white paper alone would take a quarter of the codebook.

Its norms are batch norms, whose statistics are fixed after training. Group norms look at the whole
image, so the colour that fills a hole would change the tokens of what is left visible (82% of them
at a left half). `--start` takes weights that had group norms, too.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2l_core.evaluation.features import load_feature_net
from l2l_core.masks import parse_mask
from l2l_core.models.checkpoints import read_checkpoint
from l2l_core.models.mage import HOLE_COLOUR
from l2l_core.models.vqgan import VQGAN, VQGANConfig
from recipes.critic import Adversary
from recipes.training import Recipe, options, psnr

CONFIG = VQGANConfig(
    codes=256, code_width=16, stem=16, widths=(16, 32, 96), blocks=1, norm_groups=0
)
COMMITMENT = 0.25


class TokenizerRecipe(Recipe[VQGAN]):
    """Encoder, codebook and decoder, and a discriminator that learns along."""

    name = "vqgan.safetensors"
    batch = 32
    weight_decay = 0.0
    memory = 0.99

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        model = self.fresh_model()
        if args.start:
            state, _ = read_checkpoint(Path(args.start))
            # Not strict: group norms have no statistics to hand on.
            model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
        super().__init__(args, model)
        self.features = copy.deepcopy(load_feature_net()).to(self.device)
        self.features.input_size = self.size  # not enlarged: half the cost
        self.adversary = Adversary(self.device)
        self.usage = nn.Module()
        self.usage.register_buffer("idle", torch.zeros(CONFIG.codes, device=self.device))
        self.parts |= self.adversary.parts | {"usage": self.usage}

    def fresh_model(self) -> VQGAN:
        """An untrained tokenizer."""
        return VQGAN(CONFIG)

    def describe(self) -> dict[str, Any]:
        """The tokenizer is not a model of its own."""
        return {"network": "VQGAN"}

    def losses(self) -> dict[str, Tensor]:
        """Reconstruction, commitment, features and adversary."""
        images, _ = self.train.batch(self.batch, self.size, self.generator)
        with torch.autocast(self.device.type, torch.bfloat16):
            features = self.model.encoder(images).float()
        if self.step == 0 and not self.args.start:
            self.restart(torch.ones_like(self.usage.idle).bool(), features)
        ids = self.model.nearest_codes(features.detach())
        codes = F.embedding(ids, self.model.codebook).transpose(1, 2).reshape_as(features)
        passed = features + (codes - features).detach()
        with torch.autocast(self.device.type, torch.bfloat16):
            predicted = self.model.decoder(passed)
        predicted = predicted.float()
        losses = {
            "l1": (predicted - images).abs().mean(),
            "codebook": (codes - features.detach()).square().mean(),
            "commitment": (features - codes.detach()).square().mean(),
        }
        with torch.autocast(self.device.type, torch.bfloat16):
            half = self.batch // 2  # enough to steer by, at half the cost
            distance = self.features.perceptual_distance(predicted[:half], images[:half])
            losses["features"] = distance.mean()
        loss = losses["l1"] + losses["features"] * self.args.features
        loss = loss + losses["codebook"] + COMMITMENT * losses["commitment"]
        if self.step >= self.args.adversary_from * self.total:
            losses |= self.adversary.step(predicted, images)
            loss = loss + self.args.adversarial * losses["adversarial"]
        self.revive(ids, features.detach())
        return losses | {"loss": loss}

    @torch.no_grad()
    def revive(self, ids: Tensor, features: Tensor) -> None:
        """Count how long each code was not used; move idle ones."""
        self.usage.idle += 1
        self.usage.idle[ids.unique()] = 0
        idle = self.usage.idle > 60
        if self.step < 0.7 * self.total and self.step % 20 == 0 and idle.any():
            self.restart(idle, features)

    @torch.no_grad()
    def restart(self, which: Tensor, features: Tensor) -> None:
        """Put codes at features (B, code_width, h, w), drawn by their squared distance from the
        nearest code.
        """
        flat = features.transpose(0, 1).flatten(1).T
        error = torch.cdist(flat, self.model.codebook).amin(dim=1).square()
        picked = torch.multinomial(error, int(which.sum()), generator=self.generator)
        self.model.codebook[which] = flat[picked]
        self.average["quantize.embedding.weight"][which] = flat[picked]
        self.usage.idle[which] = 0

    @torch.no_grad()
    def evaluate(self, model: VQGAN) -> dict[str, float]:
        """Held-out reconstruction, and how many codes are in use."""
        images = self.test.spread(128, self.size)
        ids = model.tokenize(images)
        rebuilt = model.decode(ids).clamp(0, 1)
        distance = load_feature_net().perceptual_distance(rebuilt, images).mean().item()
        scores = {"psnr": psnr(rebuilt, images), "distance": distance, "codes": len(ids.unique())}
        for spec in ("centre:0.5", "left:0.5"):
            hole = parse_mask(spec, self.size, None)
            holed = torch.where(hole, torch.tensor(HOLE_COLOUR).view(3, 1, 1), images)
            visible = ~hole[:: CONFIG.factor, :: CONFIG.factor].flatten()
            kept = (model.tokenize(holed) == ids)[:, visible]
            scores[f"tokens kept {spec}"] = kept.float().mean().item()
        return scores


def main() -> None:
    """Parse options and train."""
    parser = options(__doc__, images=80_000, lr=1e-3)
    parser.add_argument("--features", type=float, default=0.2, help="weight of features")
    parser.add_argument("--adversarial", type=float, default=0.03, help="weight of the adversary")
    parser.add_argument("--adversary-from", type=float, default=0.6, help="share of the run")
    TokenizerRecipe(parser.parse_args()).run()


if __name__ == "__main__":
    main()
