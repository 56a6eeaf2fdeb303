"""Names of the published Palette checkpoints and of diffusers' `UNet2DModel`, both ways.

The published file is a flat state dict: `denoise_fn.*` (a guided-diffusion U-Net) and six schedule
buffers; `module.` may stand in front of everything, an averaged copy and the teacher of an
unlearning run (`teacher_denoise_fn.*`) may lie beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from l2l_core.errors import PlainError

PREFIX = "denoise_fn."
BUFFERS = (
    "gammas",
    "sqrt_recip_gammas",
    "sqrt_recipm1_gammas",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
"""The published schedule buffers."""

_LAYERS = {
    "resnet": {
        "in_layers.0.": "norm1.",
        "in_layers.2.": "conv1.",
        "emb_layers.1.": "time_emb_proj.",
        "out_layers.0.": "norm2.",
        "out_layers.3.": "conv2.",
        "skip_connection.": "conv_shortcut.",
    },
    "attention": {"norm.": "group_norm.", "proj_out.": "to_out.0."},
    "plain": {"": ""},
}
_PLAIN = {
    "cond_embed.0.": "time_embedding.linear_1.",
    "cond_embed.2.": "time_embedding.linear_2.",
    "input_blocks.0.0.": "conv_in.",
    "out.0.": "conv_norm_out.",
    "out.2.": "conv_out.",
}


def network_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors of a published file: no `module.`, buffers, averages or teacher.

    Unknown keys stay, so that loading can name them.
    """
    kept = {}
    for key, value in state.items():
        name = re.sub(r"(^|\.)module\.", r"\1", key)
        first = name.split(".")[0].lower()
        if not (first.startswith("teacher") or "ema" in first.split("_") or name in BUFFERS):
            kept[name] = value
    return kept


@dataclass(frozen=True)
class Layout:
    """What decides the order of the published running indices."""

    levels: int
    res_blocks: int
    attended: frozenset[int]
    """Levels whose residual blocks are followed by attention; the middle always has it."""
    head_channels: int | None
    """Width of an attention head; None for a single head."""

    @classmethod
    def of(cls, state: Mapping[str, Tensor], head_channels: int | None) -> Layout:
        """Read the layout off a published network's keys.

        Raises:
            ValueError: the keys are not those of a guided-diffusion U-Net.
        """
        outputs = {int(m[1]) for k in state if (m := re.match(PREFIX + r"output_blocks\.(\d+)", k))}
        upsamplers = {
            m[1]
            for k in state
            if (m := re.match(PREFIX + r"output_blocks\.(\d+)\.[12]\.in_layers", k))
        }
        levels = len(upsamplers) + 1
        if not outputs or len(outputs) % levels or PREFIX + "cond_embed.0.weight" not in state:
            raise PlainError(
                "not a Palette network: denoise_fn.cond_embed and denoise_fn.output_blocks.* are "
                "missing or incomplete."
            )
        res_blocks = len(outputs) // levels - 1
        attended = frozenset(
            level
            for level in range(levels)
            if f"{PREFIX}input_blocks.{1 + level * (res_blocks + 1)}.1.norm.weight" in state
        )
        return cls(levels, res_blocks, attended, head_channels)

    def to_diffusers(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A complete published network under diffusers' names."""
        renamed = {}
        for published, ours, kind in self._modules():
            for key, value in state.items():
                if not key.startswith(PREFIX + published):
                    continue
                layer = key.removeprefix(PREFIX + published)
                if kind == "attention" and value.ndim == 3:
                    value = value.squeeze(2)  # a convolution over single pixels is a linear layer
                if layer.startswith("qkv."):
                    for name, part in zip("qkv", self._split(value), strict=True):
                        renamed[ours + layer.replace("qkv.", f"to_{name}.")] = part
                else:
                    renamed[ours + _rename(layer, _LAYERS[kind])] = value
        return renamed

    def to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A `UNet2DModel`'s tensors under the published names: the inverse of `to_diffusers`."""
        renamed = {}
        for published, ours, kind in self._modules():
            back = {new: old for old, new in _LAYERS[kind].items()}
            for key, value in state.items():
                if not key.startswith(ours):
                    continue
                layer = key.removeprefix(ours)
                if layer.startswith("to_q."):
                    parts = [state[ours + layer.replace("to_q.", f"to_{n}.")] for n in "qkv"]
                    value, layer = self._fuse(parts), layer.replace("to_q.", "qkv.")
                elif layer.startswith(("to_k.", "to_v.")):
                    continue
                else:
                    layer = _rename(layer, back)
                if kind == "attention" and value.ndim == 2:
                    value = value.unsqueeze(2)
                renamed[PREFIX + published + layer] = value
        return renamed

    def _modules(self) -> Iterator[tuple[str, str, str]]:
        """(published module, diffusers module, kind), names with a closing dot."""
        for published, ours in _PLAIN.items():
            yield published, ours, "plain"
        index = 1
        for level in range(self.levels):
            for j in range(self.res_blocks):
                yield f"input_blocks.{index}.0.", f"down_blocks.{level}.resnets.{j}.", "resnet"
                if level in self.attended:
                    name = f"down_blocks.{level}.attentions.{j}."
                    yield f"input_blocks.{index}.1.", name, "attention"
                index += 1
            if level < self.levels - 1:
                yield f"input_blocks.{index}.0.", f"down_blocks.{level}.downsamplers.0.", "resnet"
                index += 1
        yield "middle_block.0.", "mid_block.resnets.0.", "resnet"
        yield "middle_block.1.", "mid_block.attentions.0.", "attention"
        yield "middle_block.2.", "mid_block.resnets.1.", "resnet"
        for level in range(self.levels):
            attended = self.levels - 1 - level in self.attended
            for j in range(self.res_blocks + 1):
                block = f"output_blocks.{level * (self.res_blocks + 1) + j}."
                yield f"{block}0.", f"up_blocks.{level}.resnets.{j}.", "resnet"
                if attended:
                    yield f"{block}1.", f"up_blocks.{level}.attentions.{j}.", "attention"
            if level < self.levels - 1:
                yield (
                    f"{block}{2 if attended else 1}.",
                    f"up_blocks.{level}.upsamplers.0.",
                    "resnet",
                )

    def _split(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of rows that lie as (heads, 3, head channels)."""
        width = self.head_channels or len(fused) // 3
        rows = fused.unflatten(0, (-1, 3, width))
        q, k, v = (part.flatten(0, 1).contiguous() for part in rows.unbind(1))
        return q, k, v

    def _fuse(self, parts: list[Tensor]) -> Tensor:
        width = self.head_channels or len(parts[0])
        return torch.stack([p.unflatten(0, (-1, width)) for p in parts], dim=1).flatten(0, 2)


def _rename(layer: str, names: Mapping[str, str]) -> str:
    """A parameter below a module, its layer's name exchanged."""
    for old, new in names.items():
        if layer.startswith(old):
            return new + layer.removeprefix(old)
    raise KeyError(layer)
