"""MAGE (Li et al., CVPR 2023) as an image-to-image model: a ViT over the tokens of a frozen VQ-GAN.

E = token embedding + ViT over the class token and the tokens that are not dropped + final norm.
D = MAGE's ViT decoder and token classifier, and the VQ-GAN's decoder.
Parameter names are the published ones, so the authors' files load unrenamed.

The published model uses one matrix both to embed tokens and, behind the decoder, to score them;
training "the encoder only" would then move the decoder. Here the decoder has its own copy, unless
`tied` asks for the published behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from l2l_core.errors import PlainError
from l2l_core.models.base import ImageToImageModel, OnStep, Representation, View, check_images
from l2l_core.models.checkpoints import CheckpointError, build_strict, configuring, read_checkpoint
from l2l_core.models.layers import depths, run_blocks
from l2l_core.models.mage_config import MAGEConfig
from l2l_core.models.mage_decoding import blend, decode_iteratively
from l2l_core.models.vqgan import VQGAN, VQGANConfig

HOLE_COLOUR = (0.485, 0.456, 0.406)
"""What a hole is filled with before the image is tokenized: ImageNet's mean, as published."""
UNUSED = (
    "cls_token",
    "pos_embed",
    "decoder_pos_embed",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    "decoder_pred.weight",
    "decoder_pred.bias",
    "token_emb.position_ids",
)
"""Tensors of the published files that no computation of MAGE reads; most are left from MAE."""
SMOOTHING = 0.1
MARGIN_TAKES = 0.5
"""Of the tokens a hole leaves visible, the largest share that the margin around it may hide."""
_EMBEDDED, _SCORED = "token_emb.word_embeddings.weight", "mlm_layer.word_embeddings"
TOKENIZER_FILE = "vqgan_jax_strongaug.ckpt"


@dataclass(frozen=True)
class MAGEView(View):
    """Which tokens the encoder gets: positions (B, K) in raster order, and which of all tokens
    (B, L) are unknown; unknown ones that it gets come as the mask token.
    """

    ids_keep: Tensor
    unknown: Tensor


class TokenEmbedding(nn.Module):
    """Words plus learned positions, then a layer norm."""

    def __init__(self, vocabulary: int, positions: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, N) of all positions -> (B, N, width)."""
        return self.LayerNorm(self.word_embeddings(ids) + self.position_embeddings.weight)


class TokenScores(nn.Module):
    """The classifier before its output matrix: (B, N, decoder width) -> (B, N, width)."""

    def __init__(self, decoder_width: int, width: int, vocabulary: int, tied: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(decoder_width, width)
        self.ln = nn.LayerNorm(width, eps=1e-5)
        self.bias = nn.Parameter(torch.zeros(1, 1, vocabulary))
        if not tied:
            self.word_embeddings = nn.Parameter(torch.zeros(vocabulary, width))

    def forward(self, x: Tensor) -> Tensor:
        """What the output matrix is applied to."""
        return self.ln(F.gelu(self.fc(x)))


class MAGE(ImageToImageModel):
    """MAGE's encoder, decoder and tokenizer over a square image."""

    family = "mage"
    tokenizes = True
    fixed = ("vqgan.", "mask_token")

    def __init__(self, config: MAGEConfig) -> None:
        super().__init__()
        self.config = config
        self.cell = config.vqgan.factor
        self.image_size = config.grid * self.cell
        self.mask_id = config.vocabulary - 1
        self.codes = config.vqgan.codes
        tokens = config.grid**2 + 1
        norm = partial(nn.LayerNorm, eps=1e-6)
        block = partial(Block, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]

        self.vqgan = VQGAN(config.vqgan).eval()
        self.token_emb = TokenEmbedding(config.vocabulary, tokens, config.width)
        self.blocks = nn.ModuleList(block(config.width, config.heads) for _ in range(config.depth))
        self.norm = norm(config.width)

        self.decoder_embed = nn.Linear(config.width, config.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, tokens, config.decoder_width))
        self.decoder_blocks = nn.ModuleList(
            block(config.decoder_width, config.decoder_heads) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = norm(config.decoder_width)
        self.mlm_layer = TokenScores(
            config.decoder_width, config.width, config.vocabulary, config.tied
        )
        self.hole_colour: Tensor
        colour = torch.tensor(HOLE_COLOUR).view(3, 1, 1)
        self.register_buffer("hole_colour", colour, persistent=False)

    def train(self, mode: bool = True) -> MAGE:
        """Training mode for all but the tokenizer, which is not trained here."""
        super().train(mode)
        self.vqgan.eval()
        return self

    # --- the encoder -------------------------------------------------------------------------

    def prepare(self, images: Tensor) -> Tensor:
        """Token ids (B, L) of images (B, 3, H, W), which are clamped to [0, 1] first."""
        return self.vqgan.tokenize(images.clamp(0, 1))

    def draw_view(self, images: Tensor, masks: Tensor, generator: torch.Generator) -> MAGEView:
        """Hide the tokens of `hidden_tokens`, and at least half of all, as published; drop half of
        all tokens, the other hidden ones come as the mask token.
        """
        hidden = self.hidden_tokens(masks)  # (B, L)
        half = hidden.shape[1] // 2
        order = torch.rand(hidden.shape, generator=generator, device=generator.device)
        ranked = (order.to(hidden.device) - hidden.float()).argsort(dim=1, stable=True)
        dropped = ranked[:, :half]
        unknown = hidden.scatter(1, dropped, True)
        return MAGEView(ranked[:, half:].sort(dim=1).values, unknown)

    def encoder_input(self, images: Tensor, view: View) -> Tensor:
        """Token ids (B, L) of images (B, 3, H, W), or of what `prepare` made of them."""
        return self.prepare(images) if images.is_floating_point() else images

    def noise_input(self, noise: Tensor, images: Tensor, view: View) -> Tensor:
        """Token ids (B, L) of noise images."""
        return self.encoder_input(noise, view)

    def encode(self, inputs: Tensor, view: View) -> Representation:
        """Class token and kept tokens after the final norm, as one (B, 1 + K, width) tensor."""
        assert isinstance(view, MAGEView)
        masked = torch.where(view.unknown, self.mask_id, inputs)
        x = self.token_emb(F.pad(masked, (1, 0), value=self.config.class_id))
        keep = F.pad(view.ids_keep + 1, (1, 0))  # the class token stays
        x = x.gather(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return [self.norm(run_blocks(self.blocks, x, self.gradient_checkpointing))]

    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """Token embedding, blocks and final norm."""
        encoder = ("token_emb.", "blocks.", "norm.")
        return {name: p for name, p in self.named_parameters() if name.startswith(encoder)}

    def published_state(self) -> dict[str, Any]:
        """The layout of `mage-vit*-1600.pth`, the VQ-GAN inside."""
        state = self.state_dict()
        scored = state.pop(_SCORED, None)
        if scored is not None and not torch.equal(scored, state[_EMBEDDED]):
            raise PlainError(
                "The published layout of MAGE has one token matrix for encoder and decoder, but "
                "unlearning changed the encoder's alone. Use the safetensors file as it is, or "
                "unlearn with the option tied."
            )
        return {"model": state}

    # --- the decoder -------------------------------------------------------------------------

    def decode(self, latent: Tensor, view: MAGEView) -> Tensor:
        """Scores (B, 1 + L, vocabulary) of every token; position 0 is the class token.

        Unknown positions start from the class token's embedding, as published.
        """
        embedded = self.decoder_embed(latent)
        batch, _, width = embedded.shape
        tokens = embedded[:, :1].expand(batch, view.unknown.shape[1], width)
        index = view.ids_keep.unsqueeze(-1).expand(-1, -1, width)
        known = ~view.unknown.gather(1, view.ids_keep).unsqueeze(-1)
        kept = torch.where(known, embedded[:, 1:], tokens.gather(1, index))
        tokens = tokens.scatter(1, index, kept)
        x = torch.cat([embedded[:, :1], tokens], dim=1) + self.decoder_pos_embed_learned
        for block in self.decoder_blocks:
            x = block(x)
        x = self.mlm_layer(self.decoder_norm(x))
        book = self.token_emb.word_embeddings.weight.detach()  # tied: no gradient, as published
        if not self.config.tied:
            book = self.mlm_layer.word_embeddings
        return x @ book.T + self.mlm_layer.bias

    def reconstruct(self, inputs: Tensor, view: View) -> Tensor:
        """Scores (B, 1 + L, vocabulary), as `decode` gives them."""
        assert isinstance(view, MAGEView)
        return self.decode(self.encode(inputs, view)[0], view)

    def training_loss(self, output: Tensor, images: Tensor, view: View) -> Tensor:
        """Cross-entropy (B,) of the unknown tokens, smoothed by 0.1, as published."""
        assert isinstance(view, MAGEView)
        ids = self.encoder_input(images, view)
        scores = output[:, 1:, : self.codes].float().transpose(1, 2)
        loss = F.cross_entropy(scores, ids, label_smoothing=SMOOTHING, reduction="none")
        unknown = view.unknown.float()
        return (loss * unknown).sum(dim=1) / unknown.sum(dim=1).clamp_min(1)

    def predict(self, ids: Tensor, unknown: Tensor) -> Tensor:
        """Scores (B, L, codes) for each token of ids (B, L) where `unknown` (B, L) ones are hidden
        and none is dropped.
        """
        everything = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        view = MAGEView(everything, unknown)
        return self.decode(self.encode(ids, view)[0], view)[:, 1:, : self.config.vqgan.codes]

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
        """Regenerate the tokens of `hidden_tokens` step by step.

        Iterative decoding (MAGE, section 3.2; MaskGIT, CVPR 2022) over `steps` steps of a cosine
        schedule. Each sample draws from its own seed. Outside the hole the true pixels stay,
        but for a seam narrower than a token, where they are blended.
        """
        masks = check_images(self, images, mask)
        unknown = self.hidden_tokens(masks)
        pixels = masks.unsqueeze(1)
        ids = self.prepare(torch.where(pixels, self.hole_colour, images))
        cuts = blend(masks, self.cell)

        def predict(ids: Tensor, unknown: Tensor) -> Tensor:
            return self.predict(ids, unknown) / self.config.sampling_temperature

        def show(tokens: Tensor) -> Tensor:
            generated = self.vqgan.decode(tokens).clamp(0, 1).to(images.dtype)
            return images.lerp(generated, cuts.to(images))

        for step, of, tokens in decode_iteratively(
            predict,
            ids,
            unknown,
            steps=steps or self.config.steps,
            temperature=self.config.choice_temperature,
            spread=self.config.spread_steps,
            generator=generator,
        ):
            if on_step and step < of:
                on_step(step, of, show(tokens))
        completed = show(tokens)
        if on_step:
            on_step(of, of, completed)
        return completed

    def hidden_tokens(self, masks: Tensor) -> Tensor:
        """Tokens (B, L) whose cell pixel masks (B, H, W) touch, and a margin of one cell, as
        published; no margin where it would hide nearly all that a scattered hole leaves visible.
        """
        cells = F.max_pool2d(masks.float().unsqueeze(1), self.cell)
        touched = cells.flatten(1).bool()
        near = F.max_pool2d(cells, 3, stride=1, padding=1).flatten(1).bool()
        visible, left = ((~hidden).sum(dim=1, keepdim=True) for hidden in (touched, near))
        return torch.where(left < (1 - MARGIN_TAKES) * visible, touched, near)


def open_mage(path: Path, *, tokenizer: str | Path | None = None, **options: Any) -> MAGE:
    """Open our own files and the authors' `mage-vit*-1600.pth`.

    The tokenizer is taken from the file itself, from `tokenizer`, or from the authors' file
    `vqgan_jax_strongaug.ckpt` beside it. Options: heads, decoder_heads, tied, choice_temperature,
    sampling_temperature, spread_steps, steps.

    Raises:
        CheckpointError: not a MAGE, no tokenizer, or keys and shapes that do not fit.
    """
    state, description = read_checkpoint(path)
    own = "config" in description
    if own and description.get("family") != MAGE.family:
        raise CheckpointError(f"“{path.name}” holds a {description.get('family')}, not a MAGE.")
    if not own:
        state = {k: v for k, v in state.items() if k not in UNUSED}
        state |= _tokenizer(path, state, tokenizer)
    with configuring(path.name):
        if own:
            sizes = dict(description["config"])
            vqgan = sizes.pop("vqgan")
            vqgan = VQGANConfig(**{**vqgan, "widths": tuple(vqgan["widths"])})
            config = MAGEConfig(vqgan=vqgan, **{**sizes, **depths(state), **options})
        else:
            vqgan = VQGANConfig.from_state_dict(_below(state, "vqgan."))
            config = MAGEConfig.from_state_dict(state, vqgan, **options)
    if not config.tied and _EMBEDDED in state:
        # A published file has one matrix for both uses.
        state.setdefault(_SCORED, state[_EMBEDDED])
    return build_strict(lambda: MAGE(config), state, path.name)


def _tokenizer(
    path: Path, state: Mapping[str, Tensor], tokenizer: str | Path | None
) -> dict[str, Tensor]:
    """The VQ-GAN's weights with the prefix they have in the model's file; empty if they are in."""
    beside = path.with_name(TOKENIZER_FILE)
    if tokenizer is None and any(key.startswith("vqgan.") for key in state):
        return {}
    if tokenizer is None and not beside.is_file():
        raise CheckpointError(
            f"“{path.name}” holds no VQ-GAN. Put {TOKENIZER_FILE} beside it, or give tokenizer=…"
        )
    weights, _ = read_checkpoint(tokenizer or beside)
    return {key if key.startswith("vqgan.") else f"vqgan.{key}": v for key, v in weights.items()}


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
