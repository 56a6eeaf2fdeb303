"""The built-in feature net: what "similar" means where no published network is at hand.

A narrow ResNet trained by `recipes/train_features.py` to tell the concepts of the built-in images
apart. Its embeddings are centred (a batch norm without scale), so unrelated images have a cosine
near 0. It stands in for Inception or CLIP and every number from it is labelled so.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from l2l_core.models.checkpoints import CheckpointError, load_strict, read_checkpoint
from l2l_core.registry import assets_folder

EXTRACTOR = "built-in feature net"
WIDTHS = (32, 64, 128, 256)


class FeatureNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] of any size -> embeddings (B, 256)."""

    input_size = 96

    def __init__(self) -> None:
        super().__init__()
        self.trunk = ResNet(
            BasicBlock,  # type: ignore[arg-type]
            (1, 1, 1, 1),
            num_classes=0,
            channels=WIDTHS,
            stem_width=32,
        )
        self.centre = nn.BatchNorm1d(WIDTHS[-1], affine=False)

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, 256); compare them by cosine."""
        return self.centre(self.trunk(self._prepare(images)))

    forward = embed

    def perceptual_distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Per sample (B,): mean squared difference of unit-length features, summed over stages.

        The idea of LPIPS (Zhang et al., CVPR 2018) with this net and without learned weights.
        """
        distances = []
        both = self._prepare(torch.cat([a, b]))
        stages = self.trunk.forward_intermediates(both, intermediates_only=True)
        for stage in stages:
            assert isinstance(stage, Tensor)
            unit = F.normalize(stage.float(), dim=1, eps=1e-6)
            first, second = unit.chunk(2)
            distances.append((first - second).square().sum(dim=1).mean(dim=(1, 2)))
        return torch.stack(distances).sum(dim=0)

    def _prepare(self, images: Tensor) -> Tensor:
        resized = F.interpolate(images, self.input_size, mode="bilinear", align_corners=False)
        return (resized * 4 - 2).contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=1)
def load_feature_net() -> FeatureNet:
    """The shipped feature net on the CPU, in evaluation mode; callers share one copy.

    Raises:
        CheckpointError: its weights are missing or damaged.
    """
    path = assets_folder() / "builtin" / "features.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing from assets/builtin; reinstall the studio.")
    state, _ = read_checkpoint(path)
    net = FeatureNet()
    counter = "centre.num_batches_tracked"
    load_strict(net, {k: v.float() if k != counter else v for k, v in state.items()}, path.name)
    fold_norms(net.eval().requires_grad_(False))
    return net.to(memory_format=torch.channels_last)


def fold_norms(net: nn.Module) -> None:
    """Fold each batch norm of a network in evaluation mode into the convolution before it.

    The same function but for rounding (1e-6), a fifth faster on a CPU.
    """
    for module in list(net.modules()):
        for (name, layer), (following, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, norm))
                setattr(module, following, nn.Identity())
