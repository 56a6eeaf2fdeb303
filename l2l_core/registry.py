"""The families and models there are. Importing this loads no PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2l_core.errors import PlainError
from l2l_core.options import Option


@dataclass(frozen=True)
class Family:
    """One architecture: where it is opened, and what people may set."""

    title: str
    opener: str
    """“module:function”; the function takes (path, **options) and returns the model."""
    defaults: Mapping[str, Any]
    """Settings of `UnlearnRequest` that suit the published checkpoints of this family."""
    masks: tuple[str, ...] = ("random", "centre", "border", "half", "brush")
    """Kinds of hole that unlearning cycles through unless a request names others."""
    options: tuple[Option, ...] = ()
    completion_steps: int | None = None
    """Usual number of steps of `complete`; None where it takes one pass."""


@dataclass(frozen=True)
class ModelSpec:
    """One model people can name."""

    name: str
    family: str
    title: str
    description: str
    size: str
    """Parameters and image side, as people read them."""
    licence: str
    source: str
    """Where the weights come from: shipped with the studio, or the publishers' address."""
    builtin: str | None = None
    """File below assets/builtin for the models that ship with the studio."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `UnlearnRequest` measured to suit this model, over the family's."""
    completion_steps: int | None = None
    """Usual number of steps of `complete`, where it is not the family's."""
    gold: Mapping[str, str] = field(default_factory=dict)
    """By forget set (“builtin:flags”): file below assets/builtin of a model that never saw it."""

    @property
    def path(self) -> Path | None:
        """The shipped weights, if this model has any and they are on disk."""
        return _shipped(self.builtin)


def assets_folder() -> Path:
    """The folder of shipped assets; the environment variable L2L_ASSETS overrides it."""
    return Path(os.environ.get("L2L_ASSETS") or Path(__file__).parents[1] / "assets")


def _shipped(name: str | None) -> Path | None:
    path = assets_folder() / "builtin" / name if name else None
    return path if path and path.is_file() else None


BETAS = (0.9, 0.95)
"""Of AdamW, published for MAE and MAGE."""
PER_256 = 1e-4
"""Published base rate of MAE and MAGE; it scales with batch / 256."""
_HEADS = (
    Option("heads", "Attention heads", "Of the encoder; the published number where none is known."),
    Option("decoder_heads", "Decoder heads", "Of the decoder; likewise."),
)

FAMILIES: dict[str, Family] = {
    "mae": Family(
        title="Masked autoencoder",
        opener="l2l_core.models.mae:open_mae",
        defaults={
            "alpha": 0.25,
            "learning_rate": PER_256 * 32 / 256,
            "weight_decay": 0.05,
            "betas": BETAS,
            "steps": 1000,
            "batch_size": 32,
        },
        options=(
            *_HEADS,
            Option(
                "norm_pix_loss",
                "Normalised pixels",
                "The decoder was trained on pixels normalised patch by patch.",
                kind="bool",
            ),
        ),
    ),
    "mage": Family(
        title="VQ-GAN (MAGE)",
        opener="l2l_core.models.mage:open_mage",
        defaults={
            "alpha": 0.25,
            "learning_rate": PER_256 * 32 / 256,
            "weight_decay": 0.05,
            "betas": BETAS,
            "steps": 1000,
            "batch_size": 32,
        },
        options=(
            *_HEADS,
            Option(
                "tokenizer",
                "Tokenizer file",
                "The VQ-GAN's own checkpoint, where the model file does not hold it.",
                kind="path",
            ),
            Option(
                "choice_temperature",
                "Choice temperature",
                "Randomness in the order tokens are settled; 0 settles the surest first; "
                "6 as published.",
                kind="float",
            ),
            Option(
                "sampling_temperature",
                "Sampling temperature",
                "Below 1 likely tokens are drawn more often, above 1 less; 1 as published.",
                kind="float",
            ),
            Option("steps", "Steps of completion", "Decoding steps; 20 as published."),
            Option(
                "spread_steps",
                "Spread decoding steps",
                "Use all steps on the hole. Published models skip those meant for larger holes.",
                kind="bool",
            ),
            Option(
                "tied",
                "Tied embeddings",
                "Let the decoder share the encoder's token matrix, as published; it then moves.",
                kind="bool",
            ),
        ),
        completion_steps=20,
    ),
    "palette": Family(
        title="Diffusion (Palette)",
        opener="l2l_core.models.palette:open_palette",
        defaults={
            "alpha": 0.25,
            "learning_rate": 5e-5,
            "weight_decay": 0.0,
            "betas": (0.9, 0.999),
            "steps": 1000,
            "batch_size": 12,
        },
        masks=("hybrid",),  # as the published network was trained
        options=(
            Option("image_size", "Image side", "In pixels; 256 as published."),
            Option(
                "head_channels",
                "Channels of an attention head",
                "32 as published; -1 for a single head.",
            ),
            Option(
                "sampler",
                "Sampler",
                "fast: a solver of a few steps. renoising: as many, with fresh noise in each; for "
                "small networks. ancestral: the published one, slow.",
                kind="choice",
                choices=("fast", "renoising", "ancestral"),
            ),
            Option(
                "noise_target",
                "Noise target",
                "What noise replaces in a forgotten image. hole: the hole. full: the visible part, "
                "too. published: the hole, with the noise the image itself was mixed with.",
                kind="choice",
                choices=("hole", "full", "published"),
            ),
            Option(
                "frozen_levels",
                "Frozen levels",
                "So many of the finest levels are left out of unlearning; empty means none for a "
                "published file.",
            ),
            Option(
                "last_level",
                "Last level",
                "The coarsest level that unlearning trains and compares, counted from 0; empty "
                "means all, and the middle block, for a published file.",
            ),
            Option(
                "train_schedule",
                "Training schedule",
                "Noise levels that unlearning draws from: steps, first β, last β; "
                "2000,1e-6,0.01 as published.",
                kind="text",
            ),
            Option(
                "sampling_schedule",
                "Sampling schedule",
                "Noise levels of completion: steps, first β, last β; 1000,1e-4,0.09 as published.",
                kind="text",
            ),
            Option("steps", "Steps of completion", "Of all samplers but the ancestral one."),
        ),
        completion_steps=24,
    ),
    "diffusers-inpainting": Family(
        title="Latent diffusion (diffusers)",
        opener="l2l_core.models.diffusion_inpainting:open_pipeline",
        defaults={
            "alpha": 0.25,
            "learning_rate": 1e-5,
            "weight_decay": 0.0,
            "betas": BETAS,
            "steps": 1000,
            "batch_size": 4,
        },
        options=(
            Option("prompt", "Prompt", "What the pipeline is told; empty by default.", kind="text"),
            Option("image_size", "Image side", "In pixels; empty means the U-Net's own."),
            Option("steps", "Steps of completion", "Denoising steps; 30 for a folder."),
        ),
        completion_steps=30,
    ),
}
"""Name to family. A new family is one file in `models/` and one entry here."""


def _fluent(family: str, title: str, parameters: str, **measured: Any) -> ModelSpec:
    return ModelSpec(
        name=f"{family}-fluent",
        family=family,
        title=title,
        description="Demo weights: small, trained on emoji and a few photographs.",
        size=f"{parameters} M parameters, 64×64",
        licence="MIT",
        source="shipped with the studio",
        builtin=f"{family}-fluent.safetensors",
        **measured,
    )


def _published_mae(size: str, parameters: str) -> ModelSpec:
    return ModelSpec(
        name=f"mae-vit-{size}",
        family="mae",
        title=f"MAE ViT-{size.capitalize()}",
        description="Trained on ImageNet-1K, with its decoder.",
        size=f"{parameters} M parameters, 224×224",
        licence="CC BY-NC 4.0",
        source=f"facebook/vit-mae-{size} on the Hugging Face hub, or the authors' "
        f"mae_visualize_vit_{size}.pth",
    )


def _published_mage(letter: str, size: str, parameters: str) -> ModelSpec:
    return ModelSpec(
        name=f"mage-vit-{size}",
        family="mage",
        title=f"MAGE ViT-{size.capitalize()}",
        description="Trained on ImageNet-1K, over a VQ-GAN's 16×16 tokens.",
        size=f"{parameters} M parameters, 256×256",
        licence="MIT",
        source=f"the authors' mage-vit{letter}-1600.pth, and vqgan_jax_strongaug.ckpt beside it",
    )


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _fluent(
            "mae",
            "MAE Fluent",
            "7.7",
            gold={"builtin:flags": "mae-fluent-without-flags.safetensors"},
            defaults={"alpha": 0.6, "learning_rate": 2e-3, "steps": 250, "batch_size": 16},
        ),
        _fluent(
            "mage",
            "MAGE Fluent",
            "6.0",
            completion_steps=8,
            gold={"builtin:flags": "mage-fluent-without-flags.safetensors"},
            defaults={"alpha": 0.15, "learning_rate": 2e-3, "steps": 175, "batch_size": 16},
        ),
        _fluent(
            "palette",
            "Palette Fluent",
            "3.6",
            completion_steps=12,
            defaults={
                "alpha": 0.2,
                "learning_rate": 2e-3,
                "betas": BETAS,
                "steps": 740,
                "batch_size": 6,
            },
        ),
        _published_mae("base", "112"),
        _published_mae("large", "330"),
        _published_mae("huge", "657"),
        _published_mage("b", "base", "176"),
        _published_mage("l", "large", "439"),
        ModelSpec(
            name="palette-inpainting",
            family="palette",
            title="Palette Inpainting",
            description="Trained on Places2, or any network of the same published layout.",
            size="63 M parameters, 256×256",
            licence="MIT",
            source="16_Network.pth of the Palette image-to-image diffusion repository",
        ),
    )
}
"""Name to spec: models with a name of their own."""


def gold_standard(model: str, forget: Sequence[str], checkpoint: str | None) -> Path | None:
    """Shipped weights of a built-in model that never saw exactly this forget set, if there are any;
    a checkpoint of one's own has none.
    """
    if checkpoint or model not in MODELS or len(forget) != 1:
        return None
    return _shipped(MODELS[model].gold.get(forget[0]))


def original_path(model: str, checkpoint: str | None) -> Path | None:
    """Where the weights lie that a run starts from; None if they do not."""
    if checkpoint:
        return Path(checkpoint).expanduser()
    return MODELS[model].path if model in MODELS else None


def completion_steps(model: str, options: Mapping[str, Any]) -> int | None:
    """Usual number of steps of `complete` of a model with these options; None for one pass.

    Raises:
        PlainError: unknown name.
    """
    usual = FAMILIES[family_of(model)].completion_steps
    own = MODELS[model].completion_steps if model in MODELS else None
    return usual and (options.get("steps") or own or usual)


def family_of(model: str) -> str:
    """The family of a model's name, or the name itself where it names a family.

    Raises:
        ValueError: unknown name.
    """
    if model in MODELS:
        return MODELS[model].family
    if model in FAMILIES:
        return model
    known = ", ".join([*MODELS, *FAMILIES])
    raise PlainError(f"There is no model “{model}”. Known models and families: {known}.")


def defaults_of(model: str) -> dict[str, Any]:
    """Settings of `UnlearnRequest` that suit a model or family.

    Raises:
        ValueError: unknown name.
    """
    family = FAMILIES[family_of(model)]
    return dict(family.defaults) | dict(MODELS[model].defaults if model in MODELS else {})
