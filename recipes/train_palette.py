"""Train a small Palette on the built-in images: python -m recipes.train_palette OUT [--without G].

A small diffusion network (the published U-Net's blocks, 64×64) over the built-in images. It learns
to find the noise inside the hole, nothing else, at noise levels that are continuous. Against the
published recipe three things are changed so that few images are enough. Noise levels are drawn
around those that decide what a picture shows, and noisy ones weigh more, because an error in ε
grows by σ on its way to the image (log-normal σ and weights: Karras et al., 2022, table 1). The
schedule ends at σ = 3; there the network is shown pure noise, as when it completes, and learns the
noise that would leave the true image: what it makes of the visible part alone.

Attention at 16×16 lets the encoder tell what an image shows, so unlearning compares this level
alone (`frozen_levels`, `last_level`). Finer features are so local that one cannot forget by them
without changing retain images, so from them the decoder is not to learn what belongs in a hole. Of
32×32 it reads nothing (`unread_levels`). The full resolution it needs, for the noise in the hole;
so it predicts a second time with that of another visible part, noise or another image's, and is to
find the same. At 16×16 the weights get `extra_blocks` as they are saved: layers that add nothing,
so that unlearning finds an encoder deep enough to tell forget images from retain images.

The state is saved every few minutes in OUT; the same command resumes it. The exported weights are
the exponential moving average, in half precision.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2l_core.masks import parse_mask
from l2l_core.models.palette import Palette, PaletteUNet, PaletteView, open_palette
from l2l_core.models.palette_config import PaletteConfig
from l2l_core.models.palette_sampling import Diffusion
from l2l_core.runtime import seeded
from recipes.training import Recipe, options, psnr

CELLS = (4, 8, 8, 8)
"""Each quarter of a batch has holes of one kind, in whole cells of this many pixels."""
SIGMAS = (0.01, 2.7)
SIGMA_MEDIAN, SIGMA_SPREAD = 0.6, 1.2
DATA_DEVIATION = 0.5
AGREEMENT = 2.0
"""Weight of the difference that another visible part makes at full resolution."""
CONFIG = PaletteConfig(
    image_size=64,
    inner_channels=32,
    channel_mults=(0.5, 1, 3, 3),  # full resolution takes half of all arithmetic even so
    res_blocks=1,
    attended_levels=(2,),
    head_channels=32,
    norm_groups=8,
    train_schedule=(2000, 1e-6, 0.0023),  # both schedules end near σ = 3
    sampling_schedule=(1000, 1e-4, 0.0045),
    sampler="renoising",
    steps=12,
    noise_target="full",
    frozen_levels=1,
    last_level=2,
    unread_levels=(1,),
)
SAVED = replace(CONFIG, extra_blocks=2)
LAST_GAMMA = Diffusion(CONFIG.sampling_schedule).exact_gammas[-1].item()


class Predictor(nn.Module):
    """The network with the full resolution of its own inputs, and of others."""

    def __init__(self, unet: PaletteUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, inputs: Tensor, others: Tensor, gammas: Tensor) -> tuple[Tensor, Tensor]:
        """The noise (B, 3, H, W) that it sees in inputs (B, 6, H, W), and what it sees if the
        decoder reads the full resolution, and its way down, of others.
        """
        full = CONFIG.res_blocks + 2
        with torch.autocast(inputs.device.type, torch.bfloat16, cache_enabled=False):
            features = self.unet.encode(inputs, gammas)
            swapped = [*self.unet.encode(others, gammas, last=1)[:full], *features[full:]]
            own, other = (self.unet.decode(f, gammas) for f in (features, swapped))
        return own.float(), other.float()


class PaletteRecipe(Recipe[Palette]):
    """The network, trained to predict the noise in the hole."""

    name = "palette-fluent.safetensors"
    batch = 8
    betas = (0.9, 0.99)
    weight_decay = 0.01

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        if args.start:
            model = fitted(open_palette(Path(args.start)), CONFIG)
        else:
            model = self.fresh_model()
            nn.init.zeros_(model.unet.conv_out.weight)
        model.unet.silence(CONFIG.unread_levels)
        super().__init__(args, model)
        share, rest = divmod(self.batch, len(CELLS))
        if rest:
            raise SystemExit(f"--batch {self.batch} must be a multiple of {len(CELLS)}.")
        self.holes = [self.masks(share, cell) for cell in CELLS]
        pixels = self.train.spread(512, self.size)
        self.std, self.mean = torch.std_mean(pixels, dim=(0, 2, 3), keepdim=True)
        self.forward: Callable[..., Any] = Predictor(self.model.unet)
        if self.device.type == "cuda":  # small kernels: starting them takes two thirds of a step
            examples = torch.zeros(2, self.batch, 6, self.size, self.size, device=self.device)
            self.forward = torch.cuda.make_graphed_callables(
                self.forward,
                (*examples, torch.ones(self.batch, device=self.device)),
                allow_unused_input=True,
            )

    def fresh_model(self) -> Palette:
        """A model of the recipe's sizes."""
        return Palette(CONFIG)

    def update_average(self) -> None:
        """After an optimiser step, which must not let D read an unread level."""
        self.model.unet.silence(CONFIG.unread_levels)
        super().update_average()

    def save(self, model: Palette) -> None:
        """With the extra blocks, which are not trained here."""
        super().save(fitted(model, SAVED))

    def describe(self) -> dict[str, Any]:
        """What is written beside the weights."""
        return self.model.describe() | {"config": asdict(SAVED)}

    def draw(self) -> tuple[Tensor, PaletteView]:
        """A batch and everything random about it."""
        images, _ = self.train.batch(self.batch, self.size, self.generator)
        masks = torch.cat([holes.draw(self.generator) for holes in self.holes])
        sigmas = torch.randn(self.batch, **self.random) * SIGMA_SPREAD
        gammas = 1 / (1 + (SIGMA_MEDIAN * sigmas.exp()).clamp(*SIGMAS).square())
        condition, noise = torch.randn(2, *images.shape, **self.random)
        last = slice(None, None, len(CELLS))  # a quarter: as sampling starts, from noise alone
        gammas[last] = LAST_GAMMA
        clean = 2 * images[last] - 1
        noise[last] = (condition[last] - LAST_GAMMA**0.5 * clean) / (1 - LAST_GAMMA) ** 0.5
        return images, PaletteView(masks.unsqueeze(1), gammas, condition, noise)

    def losses(self) -> dict[str, Tensor]:
        """The weighted error of the predicted noise, with the image's own full resolution and with
        another's, and how far the two predictions differ; the plain error is logged. All are means
        over the hole.
        """
        images, view = self.draw()
        inputs = self.model.encoder_input(images, view)
        visible = images.roll(1, dims=0)
        noise = torch.randn(images.shape, **self.random) * self.std + self.mean
        visible[::2] = noise[::2]
        others = torch.where(view.hole, inputs, (2 * visible - 1).repeat(1, 2, 1, 1))
        own, other = self.forward(inputs, others, view.gammas)
        variance = (1 - view.gammas) / view.gammas  # σ²
        weight = 1 + variance / DATA_DEVIATION**2

        def error(found: Tensor, wanted: Tensor) -> Tensor:
            squares = ((found - wanted) * view.hole).square().sum(dim=(1, 2, 3))
            return squares / (3 * view.hole.sum(dim=(1, 2, 3)))  # (B,)

        plain = error(own, view.noise)
        loss = (plain + error(other, view.noise)) / 2 + AGREEMENT * error(own, other)
        return {"loss": (weight * loss).mean(), "noise": plain.detach().mean()}

    def evaluate(self, model: Palette) -> dict[str, float]:
        """Held-out PSNR in dB inside the hole, one sample an image."""
        images, scores = self.test.spread(24, self.size), {}
        for spec in ("centre:0.5", "left:0.5"):
            mask = parse_mask(spec, self.size)
            completed = model.complete(images, mask, steps=8, generator=seeded(0))
            scores[f"psnr {spec}"] = psnr(completed, images, mask)
        return scores


def fitted(model: Palette, config: PaletteConfig) -> Palette:
    """A network of other attention and extra blocks with a model's weights, as far as it has them;
    what these lack begins as layers that add nothing.
    """
    kept = {f: getattr(config, f) for f in ("attended_levels", "unread_levels", "extra_blocks")}
    if replace(model.config, **kept) != config:
        raise SystemExit("--start must have the recipe's sizes.")
    whole = Palette(config)
    given = {k: v for k, v in model.state_dict().items() if k in whole.state_dict()}
    for name in whole.load_state_dict(given, strict=False).missing_keys:
        if ".to_out." in name:
            nn.init.zeros_(whole.get_parameter(name))
    return whole


def main() -> None:
    """Parse options and train."""
    PaletteRecipe(options(__doc__, images=240_000, lr=8e-4).parse_args()).run()


if __name__ == "__main__":
    main()
