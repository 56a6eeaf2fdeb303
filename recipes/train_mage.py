"""Train a small MAGE on the built-in images: python -m recipes.train_mage OUT --tokenizer WEIGHTS.

A small MAGE over the tokens of `recipes/train_vqgan.py`. Each training image is tokenized in
several augmented versions at the start, each whole and with one hole as the studio uses them; after
that only the transformer runs. It learns to tell the whole image's tokens under the hole from those
that stay visible beside it, half of the tokens being dropped as published, in every other batch
none, as when it completes. Two things make few images enough: tokens start out as
near to each other as their codes are, and codes about as near as the tokenizer's own error share
the label. What it has learned so is vague, so it ends with labels that are shared no more
(`--start WEIGHTS --nearness 0.02`). `--start` together with `--tokenizer` moves a transformer to
another tokenizer, best to one whose codes began as those of its own.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2l_core.masks import parse_mask
from l2l_core.models.checkpoints import read_checkpoint
from l2l_core.models.layers import choose_attention
from l2l_core.models.mage import MAGE, MAGEView
from l2l_core.models.mage_config import MAGEConfig
from recipes.train_vqgan import CONFIG as VQGAN_CONFIG
from recipes.training import Recipe, options, psnr

CONFIG = MAGEConfig(
    vqgan=VQGAN_CONFIG,
    grid=16,
    vocabulary=VQGAN_CONFIG.codes + 2,
    class_id=VQGAN_CONFIG.codes,
    width=256,
    depth=4,
    heads=4,
    decoder_width=192,
    decoder_depth=3,
    decoder_heads=3,
    choice_temperature=20.0,  # almost any order: the surest tokens are plain background
    sampling_temperature=0.6,
    spread_steps=True,
    steps=8,
)


SIZES = ("width", "depth", "heads", "decoder_width", "decoder_depth", "decoder_heads")
"""What `--start` decides."""


class MAGERecipe(Recipe[MAGE]):
    """The transformer; the tokenizer is given and stays."""

    name = "mage-fluent.safetensors"
    batch = 48

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.config = CONFIG
        if args.start:
            start, description = read_checkpoint(Path(args.start))
            given = description["config"]
            self.config = replace(CONFIG, **{name: given[name] for name in SIZES})
        model = self.fresh_model()
        if args.start:  # strict but for a tokenizer that had other norms
            model.load_state_dict({k: v.float() for k, v in start.items()}, strict=False)
        if args.tokenizer:
            state, description = read_checkpoint(Path(args.tokenizer))
            prefix = "" if description.get("network") == "VQGAN" else "vqgan."
            found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            model.vqgan.load_state_dict(found)
        if not args.start:
            self.embed_codes(model)
        model.vqgan.requires_grad_(False)
        super().__init__(args, model)
        book = self.model.vqgan.codebook.detach()
        self.labels = (-torch.cdist(book, book).square() / args.nearness).softmax(dim=1)
        choose_attention(self.model, self.device)
        self.tokens = self.tokenized()

    def fresh_model(self) -> MAGE:
        """An untrained MAGE."""
        model = MAGE(self.config)
        for name, parameter in model.named_parameters():
            if name.endswith(("mask_token", "embed_learned", "embeddings.weight", "_embeddings")):
                nn.init.normal_(parameter, std=0.02)
        return model

    @torch.no_grad()
    def embed_codes(self, model: MAGE) -> None:
        """Put the tokens of the encoder and of the classifier where the codes are, projected."""
        book = model.vqgan.codebook
        book = (book - book.mean(dim=0)) / book.std()
        projection = torch.randn(book.shape[1], self.config.width) / book.shape[1] ** 0.5
        placed = 0.06 * book @ projection
        model.token_emb.word_embeddings.weight[: len(book)] = placed
        model.mlm_layer.word_embeddings[: len(book)] = placed

    @torch.no_grad()
    def tokenized(self) -> dict[str, Tensor]:
        """Augmented training images as token ids (versions, L), whole and with holes (versions, S,
        S) in them, kept in OUT/tokens.pt.
        """
        path = self.out / "tokens.pt"
        if path.exists():
            return torch.load(path, weights_only=True, map_location=self.device)
        holes, parts = self.masks(self.batch, self.model.cell), []
        for _ in range(self.args.versions // self.batch):
            images, _ = self.train.batch(self.batch, self.size, self.generator)
            masks = holes.draw(self.generator)
            holed = torch.where(masks.unsqueeze(1), self.model.hole_colour, images)
            parts.append({"whole": self.ids(images), "holed": self.ids(holed), "holes": masks})
        tokens = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        torch.save(tokens, path)
        return tokens

    def ids(self, images: Tensor) -> Tensor:
        """Token ids (B, L) of images, in few bytes."""
        with torch.autocast(self.device.type, torch.bfloat16):
            features = self.model.vqgan.encoder(images).float()
        return self.model.vqgan.nearest_codes(features).short()

    def scores(self, ids: Tensor, ids_keep: Tensor, unknown: Tensor) -> Tensor:
        """Scores (B, L, codes) of every code."""
        view = MAGEView(ids_keep, unknown)
        with torch.autocast(self.device.type, torch.bfloat16):
            scores = self.model.decode(self.model.encode(ids, view)[0], view)
        return scores[:, 1:, : VQGAN_CONFIG.codes].float()

    def losses(self) -> dict[str, Tensor]:
        """Cross-entropy of the hidden tokens, against labels that near codes share."""
        versions = len(self.tokens["whole"])
        picked = torch.randint(versions, (self.batch,), **self.random)
        ids, masks = self.tokens["whole"][picked].long(), self.tokens["holes"][picked]
        hidden = self.model.hidden_tokens(masks)
        view = self.model.draw_view(ids, masks, self.generator)
        if self.step % 2:
            # As in decoding: nothing dropped, and any share of the hole already settled.
            share = torch.rand(self.batch, 1, **self.random) ** 0.5
            settled = torch.rand(ids.shape, **self.random) > share
            everything = torch.arange(ids.shape[1], device=self.device).expand_as(ids)
            view = MAGEView(everything, hidden & ~(settled & hidden))
        given = torch.where(hidden, ids, self.tokens["holed"][picked].long())
        scores = self.scores(given, view.ids_keep, view.unknown)
        loss = -(self.labels[ids] * scores.log_softmax(dim=2)).sum(dim=2)
        right = (scores.argmax(dim=2) == ids)[view.unknown].float().mean()
        unknown = view.unknown.float()
        return {"loss": (loss * unknown).sum() / unknown.sum(), "right": right}

    def describe(self) -> dict[str, Any]:
        """Family and sizes."""
        return self.model.describe()

    def evaluate(self, model: MAGE) -> dict[str, float]:
        """Held-out PSNR in dB inside the hole, one sample each."""
        images, scores = self.test.spread(64, self.size), {}
        for spec in ("centre:0.25", "centre:0.5", "left:0.5"):
            hole = parse_mask(spec, self.size, None)
            seeded = torch.Generator().manual_seed(0)
            completed = model.complete(images, hole, generator=seeded)
            scores[f"psnr {spec}"] = psnr(completed, images, hole)
        return scores


def main() -> None:
    """Parse options and train."""
    parser = options(__doc__, images=800_000, lr=1e-3)
    parser.add_argument("--tokenizer", metavar="WEIGHTS", help="from recipes.train_vqgan, or MAGE")
    parser.add_argument("--versions", type=int, default=64_000, help="images tokenized ahead")
    parser.add_argument(
        "--nearness",
        type=float,
        default=0.5,
        help="squared distance of codes at which a shared label falls to 1/e; "
        "the tokenizer's mean error is 0.15",
    )
    args = parser.parse_args()
    if not (args.tokenizer or args.start):
        parser.error("give --tokenizer, or --start with weights that hold one")
    MAGERecipe(args).run()


if __name__ == "__main__":
    main()
