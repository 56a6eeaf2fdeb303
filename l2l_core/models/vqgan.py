"""The VQ-GAN that MAGE speaks: images to a grid of token ids and back (Esser et al., CVPR 2021).

It is the variant of Li et al. (MAGE, CVPR 2023), under its published parameter names. It has no
attention and no convolution around the quantiser, averages to go down, and a residual block that
changes the number of channels adds its projection to its own output, not to its input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2l_core.errors import PlainError

Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class VQGANConfig:
    """Sizes of the tokenizer; all follow from tensor shapes."""

    codes: int
    """Size of the codebook."""
    code_width: int
    stem: int
    """Channels after the encoder's first convolution."""
    widths: tuple[int, ...]
    """Channels of each level, finest first; each level but the last halves the side."""
    blocks: int
    """Residual blocks a level."""
    norm_groups: int = 32
    """Groups of every group norm; the published number, which shapes cannot tell. 0: batch norms,
    whose statistics stay as trained, so a hole changes no tokens far from it.
    """

    @property
    def factor(self) -> int:
        """Side in pixels of the cell a token stands for."""
        return 2 ** (len(self.widths) - 1)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> VQGANConfig:
        """Read the sizes off the tensors.

        Raises:
            ValueError: a tensor the sizes are read from is missing.
        """
        sources = ("encoder.conv_in.weight", "quantize.embedding.weight")
        if missing := [key for key in sources if key not in state]:
            raise PlainError(f"not a VQ-GAN of MAGE's kind: {', '.join(missing)} missing.")
        codes, code_width = state["quantize.embedding.weight"].shape
        widths: list[int] = []
        blocks = 0
        while (key := f"encoder.down.{len(widths)}.block.0.conv1.weight") in state:
            widths.append(state[key].shape[0])
        while f"encoder.down.0.block.{blocks}.conv1.weight" in state:
            blocks += 1
        stem = state["encoder.conv_in.weight"].shape[0]
        groups = 0 if "encoder.norm_out.running_mean" in state else 32
        return cls(codes, code_width, stem, tuple(widths), blocks, groups)


class ResidualBlock(nn.Module):
    """Norm, swish, convolution, twice; see the module's first lines for what is added."""

    def __init__(self, before: int, after: int, norm: Norm) -> None:
        super().__init__()
        self.norm1 = norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm2 = norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        if before != after:
            self.nin_shortcut = nn.Conv2d(after, after, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, before, H, W) -> (B, after, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(h) if hasattr(self, "nin_shortcut") else x)


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> features (B, code_width, H / factor, W / factor)."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        norm = _norm(config)
        self.conv_in = nn.Conv2d(3, config.stem, 3, padding=1, bias=False)
        self.down = nn.ModuleList()
        width = config.stem
        for after in config.widths:
            blocks = nn.ModuleList()
            for _ in range(config.blocks):
                blocks.append(ResidualBlock(width, after, norm))
                width = after
            self.down.append(nn.ModuleDict({"block": blocks}))
        self.mid = _middle(width, norm)
        self.norm_out = norm(width)
        self.conv_out = nn.Conv2d(width, config.code_width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Features before quantisation."""
        x = self.conv_in(images)
        for level, blocks in enumerate(self.down):
            if level:
                x = F.avg_pool2d(x, 2)
            for block in blocks["block"]:  # type: ignore[index]
                x = block(x)
        for block in self.mid.values():
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Codes (B, code_width, h, w) -> images (B, 3, h · factor, w · factor), not clamped."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        norm, width = _norm(config), config.widths[-1]
        self.conv_in = nn.Conv2d(config.code_width, width, 3, padding=1)
        self.mid = _middle(width, norm)
        levels: list[nn.Module] = []
        for level, after in reversed(list(enumerate(config.widths))):
            blocks = nn.ModuleList()
            for _ in range(config.blocks):
                blocks.append(ResidualBlock(width, after, norm))
                width = after
            parts: dict[str, nn.Module] = {"block": blocks}
            if level:
                conv = nn.Conv2d(width, width, 3, padding=1)
                parts["upsample"] = nn.ModuleDict({"conv": conv})
            levels.insert(0, nn.ModuleDict(parts))
        self.up = nn.ModuleList(levels)
        self.norm_out = norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Images of quantised features."""
        x = self.conv_in(codes)
        for block in self.mid.values():
            x = block(x)
        for level in reversed(self.up):
            for block in level["block"]:  # type: ignore[index]
                x = block(x)
            if "upsample" in level:  # type: ignore[operator]
                x = level["upsample"]["conv"](F.interpolate(x, scale_factor=2.0))  # type: ignore[index]
        return self.conv_out(F.silu(self.norm_out(x)))


class VQGAN(nn.Module):
    """Encoder, nearest-neighbour quantiser and decoder; images are in [0, 1]."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        embedding = nn.Embedding(config.codes, config.code_width)
        self.quantize = nn.ModuleDict({"embedding": embedding})

    @property
    def codebook(self) -> Tensor:
        """The codes (K, code_width)."""
        return self.get_parameter("quantize.embedding.weight")

    def nearest_codes(self, features: Tensor) -> Tensor:
        """Ids (B, h · w), row by row, of the codes nearest to features (B, code_width, h, w)."""
        flat = features.flatten(2).transpose(1, 2).float()  # (B, h · w, code_width)
        book = self.codebook.float()
        # |z|² is the same for every code, so it does not matter to which is nearest.
        return (book.square().sum(dim=1) - 2 * flat @ book.T).argmin(dim=2)

    @torch.no_grad()
    def tokenize(self, images: Tensor) -> Tensor:
        """Token ids (B, h · w), row by row, of images (B, 3, H, W)."""
        return self.nearest_codes(self.encoder(images))

    def decode(self, ids: Tensor) -> Tensor:
        """Images (B, 3, H, W), not clamped, of token ids (B, h · w) of a square grid."""
        side = round(ids.shape[1] ** 0.5)
        codes = F.embedding(ids, self.codebook).transpose(1, 2).unflatten(2, (side, side))
        return self.decoder(codes)


def _norm(config: VQGANConfig) -> Norm:
    if not config.norm_groups:
        return partial(nn.BatchNorm2d, eps=1e-6, momentum=0.05)
    return lambda channels: nn.GroupNorm(config.norm_groups, channels, eps=1e-6)


def _middle(width: int, norm: Norm) -> nn.ModuleDict:
    return nn.ModuleDict({f"block_{i}": ResidualBlock(width, width, norm) for i in (1, 2)})
