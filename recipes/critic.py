"""The adversary of the recipes: a patch discriminator that learns along."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Sequential):
    """Judges 64×64 images patch by patch, as in image-to-image GANs (Isola et al., 2017)."""

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


class Adversary:
    """Hinge loss of both sides (Lim and Ye, 2017)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.critic = PatchDiscriminator().to(device)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), 2e-4, betas=(0.5, 0.9))
        self.parts: dict[str, Any] = {"critic": self.critic, "critic_optimizer": self.optimizer}

    def step(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Train the critic on images (B, 3, H, W); returns its loss and the maker's term."""
        with torch.autocast(self.device.type, torch.bfloat16):
            scores, made_scores = self.critic(real), self.critic(made.detach())
        loss = F.relu(1 - scores).mean() + F.relu(1 + made_scores).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.autocast(self.device.type, torch.bfloat16):
            term = -self.critic(made).mean()
        return {"critic": loss.detach(), "adversarial": term}
