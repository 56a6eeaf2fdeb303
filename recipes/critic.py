"""The adversary of the recipes."""

from __future__ import annotations

from torch import nn


class PatchDiscriminator(nn.Sequential):
    """Judges 64×64 images patch by patch (hinge loss), as in image-to-image GANs (Isola et al.,
    2017).
    """

    def __init__(self, width: int = 48) -> None:
        def layer(a: int, b: int, stride: int) -> list[nn.Module]:
            conv = nn.utils.spectral_norm(nn.Conv2d(a, b, 4, stride, 1))
            return [conv, nn.LeakyReLU(0.2)]

        super().__init__(
            *layer(3, width, 2),
            *layer(width, 2 * width, 2),
            *layer(2 * width, 4 * width, 1),
            nn.utils.spectral_norm(nn.Conv2d(4 * width, 1, 3, 1, 1)),
        )
