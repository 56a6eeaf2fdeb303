"""Attention of U-Nets: the faster way is chosen, and both give the same."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from l2l_core.models.unet_attention import ChosenAttention, choose_unet_attention
from tests.tiny_palette import build


@pytest.mark.parametrize("shape", [(2, 32, 8, 8), (2, 64, 32)], ids=["map", "tokens"])
def test_both_ways_give_the_same(shape):
    torch.manual_seed(0)
    chosen = Attention(32, heads=2, dim_head=16, residual_connection=len(shape) == 4)
    chosen = chosen.to(torch.bfloat16)
    fused = copy.deepcopy(chosen)
    choose_unet_attention(chosen), fused.set_processor(AttnProcessor2_0())
    x = torch.randn(shape, dtype=torch.bfloat16)
    torch.testing.assert_close(chosen(x), fused(x), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("x", "plain"),
    [
        (torch.zeros(1, 8, 16, 16, dtype=torch.bfloat16), True),
        (torch.zeros(1, 256, 8, dtype=torch.bfloat16), True),
        (torch.zeros(1, 8, 16, 16), False),
        (torch.zeros(1, 8, 17, 16, dtype=torch.bfloat16), False),
        (torch.zeros(1, 8, 16, 16, dtype=torch.bfloat16, device="meta"), False),
    ],
)
def test_which_way(x, plain):
    processor = ChosenAttention()
    processor.plain, processor.fused = (lambda *_: "plain"), (lambda *_: "fused")
    assert processor(None, x) == ("plain" if plain else "fused")


def test_all_of_a_u_net_choose():
    layers = [m for m in build().unet.modules() if isinstance(m, Attention)]
    assert layers and all(isinstance(m.processor, ChosenAttention) for m in layers)
