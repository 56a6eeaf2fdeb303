"""Sizes and options of MAGE, and how they are read off a published file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from l2l_core.errors import PlainError
from l2l_core.models.layers import depths, heads_of
from l2l_core.models.vqgan import VQGANConfig


@dataclass(frozen=True)
class MAGEConfig:
    """Sizes of MAGE; all but heads and options follow from shapes."""

    vqgan: VQGANConfig
    grid: int
    """Tokens a side."""
    vocabulary: int
    """Codes, then class labels, then the mask token as the last."""
    class_id: int
    """The one label every image gets (codes + 76 in the published models)."""
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    tied: bool = False
    """One matrix embeds tokens and scores them, as published: then unlearning moves the decoder."""
    choice_temperature: float = 6.0
    """Randomness in the order in which tokens are settled."""
    spread_steps: bool = False
    """Use all decoding steps on the hole; False skips those for larger holes, as published."""
    sampling_temperature: float = 1.0
    """What scores are divided by before codes are drawn; below 1 likely codes are drawn more."""
    steps: int = 20
    """Decoding steps unless the caller says otherwise."""

    def __post_init__(self) -> None:
        """Raises ValueError for heads, a temperature or a number of steps that cannot be."""
        heads_of(self.width, self.heads, "heads")
        heads_of(self.decoder_width, self.decoder_heads, "decoder_heads")
        if self.sampling_temperature <= 0 or self.steps < 1:
            raise PlainError("sampling_temperature must be above 0, and steps at least 1.")

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        vqgan: VQGANConfig,
        *,
        heads: int | None = None,
        decoder_heads: int | None = None,
        **options: Any,
    ) -> MAGEConfig:
        """Read the sizes off the tensors; heads default to the published ones, else width / 64.

        Raises:
            ValueError: a tensor the sizes are read from is missing, or heads do not divide the
                width.
        """
        sources = (
            "token_emb.word_embeddings.weight",
            "token_emb.position_embeddings.weight",
            "decoder_embed.weight",
        )
        if missing := [key for key in sources if key not in state]:
            raise PlainError(f"not a MAGE checkpoint: {', '.join(missing)} missing.")
        vocabulary, width = state[sources[0]].shape
        decoder_width = state[sources[2]].shape[0]
        return cls(
            vqgan=vqgan,
            grid=round((state[sources[1]].shape[0] - 1) ** 0.5),
            vocabulary=vocabulary,
            class_id=vqgan.codes + (76 if vocabulary > vqgan.codes + 77 else 0),
            width=width,
            heads=heads_of(width, heads, "heads"),
            decoder_width=decoder_width,
            decoder_heads=heads_of(decoder_width, decoder_heads, "decoder_heads"),
            **depths(state),
            **options,
        )
