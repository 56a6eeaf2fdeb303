"""How different two pictures look: LPIPS where its weights are at hand, else the built-in net.

builtin             unit-length features of the built-in feature net, without learned weights
lpips-alex:FILE     LPIPS 0.1 (Zhang et al., CVPR 2018) by the lpips package, on torchvision's
lpips-vgg:FILE      AlexNet or VGG-16 weights; its learned weights come with the package
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from l2l_core.errors import PlainError
from l2l_core.evaluation.features import EXTRACTOR, load_feature_net
from l2l_core.models.checkpoints import CheckpointError, load_strict, read_checkpoint

SPECS = "builtin, lpips-alex:FILE, lpips-vgg:FILE"


@dataclass(frozen=True)
class Perceptual:
    """A named perceptual distance."""

    name: str
    distance: Callable[[Tensor, Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor, batch_size: int = 64) -> Tensor:
        """Distance (B,), 0 for equal pictures, of images (B, 3, H, W) in [0, 1]."""
        pairs = zip(a.split(batch_size), b.split(batch_size), strict=True)
        return torch.cat([self.distance(*pair).float().cpu() for pair in pairs])


def open_perceptual(spec: str = "builtin", device: str | torch.device = "cpu") -> Perceptual:
    """The distance that a text names, as in this module's first lines.

    Raises:
        ValueError: no such distance, or it needs a file.
        CheckpointError: the file is missing, unsafe, damaged or of another network.
    """
    kind, _, place = spec.partition(":")
    if kind == "builtin":
        return Perceptual(EXTRACTOR, load_feature_net().perceptual_distance)
    if kind not in ("lpips-alex", "lpips-vgg"):
        raise PlainError(f"There is no perceptual distance “{kind}”. Write one of: {SPECS}.")
    if not place:
        raise PlainError(f"“{kind}” needs a file: write {kind}:PATH.")
    return _lpips(kind.removeprefix("lpips-"), place, torch.device(device))


def _lpips(backbone: str, place: str, device: torch.device) -> Perceptual:
    from lpips import LPIPS

    with warnings.catch_warnings():  # it builds torchvision's network in an old way
        warnings.simplefilter("ignore")
        net = LPIPS(net=backbone, pnet_rand=True, verbose=False)
    state, _ = read_checkpoint(place)
    # torchvision's features.N is the package's net.sliceM.N.
    wanted = net.net.state_dict()
    renamed = {key: state.get("features." + key.split(".", 1)[1]) for key in wanted}
    if absent := [key for key, value in renamed.items() if value is None]:
        raise CheckpointError(
            f"“{Path(place).name}” is not torchvision's {backbone}: it lacks "
            f"features.{absent[0].split('.', 1)[1]}."
        )
    load_strict(net.net, {k: v for k, v in renamed.items() if v is not None}, Path(place).name)
    net = net.eval().requires_grad_(False).to(device)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return net(a.to(device), b.to(device), normalize=True).flatten()

    return Perceptual(f"LPIPS ({backbone})", distance)
