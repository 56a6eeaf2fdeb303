"""Train the built-in `mae-fluent`: python -m recipes.train_mae OUT [--without flags].

A masked autoencoder over 64×64 images in 8×8 patches that overlap by two pixels, on the built-in
images. Holes are drawn as the studio uses them (random patches, centre, border, halves, brush
strokes). Phase one fits pixels (L1 + L2). Phase two (`--sharpen --start WEIGHTS`) continues from
phase one's weights with features of the built-in feature net and a patch discriminator beside the
pixels, for edges a pixel loss leaves blurred.

The state is saved every few minutes in OUT; the same command resumes it. The exported weights are
the exponential moving average, in half precision.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2l_core.evaluation.features import load_feature_net
from l2l_core.masks import draw_masks, parse_mask
from l2l_core.models import load_model
from l2l_core.models.checkpoints import save_weights
from l2l_core.models.layers import choose_attention
from l2l_core.models.mae import MAEConfig, MAEView, MaskedAutoencoder
from recipes.sampling import TrainingImages

SIZE, BATCH = 64, 64
KEPT = (8, 16, 24, 32, 40, 48, 56)  # few distinct lengths, so that compiled graphs are reused
MASKS = ("random", "centre", "centre", "border", "half", "brush")
CONFIG = MAEConfig(
    image_size=SIZE,
    patch_size=8,
    width=320,
    depth=5,
    heads=5,
    decoder_width=192,
    decoder_depth=3,
    decoder_heads=3,
    overlap=2,
)


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


class Trainer:
    """One run: model, average, optimiser, generator, and what is needed to resume them."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args = args
        self.device = torch.device(args.device)
        self.generator = torch.Generator().manual_seed(args.seed)
        self.train = TrainingImages("train", args.without)
        self.test = TrainingImages("test", args.without)
        self.model = MaskedAutoencoder(CONFIG).to(self.device)
        nn.init.normal_(self.model.cls_token, std=0.02)
        nn.init.normal_(self.model.mask_token, std=0.02)
        choose_attention(self.model, self.device)
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=True)
        self.step, self.total = 0, args.images // BATCH
        self.forward = torch.compile(self.predict) if args.compile else self.predict
        if args.start:
            self.start_from(args.start)
        if args.sharpen:
            self.set_up_sharpening()
        self.out = Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        if (self.out / "state.pt").exists():
            self.load_state()

    def start_from(self, weights: str) -> None:
        """Begin with the weights of an earlier phase."""
        start = load_model("mae-fluent", weights).state_dict()
        self.model.load_state_dict(start)
        self.average = {k: v.detach().clone().to(self.device) for k, v in start.items()}

    def set_up_sharpening(self) -> None:
        """The feature net, and a discriminator that learns along."""
        self.features = copy.deepcopy(load_feature_net()).to(self.device)
        self.critic = PatchDiscriminator().to(self.device)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), 2e-4, betas=(0.5, 0.9))

    def predict(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Completed images (B, 3, H, W) in [0, 1] space, not clamped, every patch predicted."""
        model = self.model
        normalised = (images - model.mean) / model.std
        with torch.autocast(self.device.type, torch.bfloat16):
            patches = model.decode(model.encode_normalised(normalised, ids_keep), ids_keep)
        return model.unpatchify(patches.float()) * model.std + model.mean

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """A batch, its visible patches (B, V), V in KEPT, and its hidden pixels (B, 1, H, W)."""
        images, _ = self.train.batch(BATCH, SIZE, self.generator)
        masks = draw_masks(MASKS, BATCH, SIZE, 8, self.generator)
        view = self.model.draw_view(images, masks, self.generator)
        keep = max((k for k in KEPT if k <= view.ids_keep.shape[1]), default=KEPT[0])
        order = torch.rand(view.ids_keep.shape, generator=self.generator).argsort(dim=1)[:, :keep]
        view = MAEView(view.ids_keep.gather(1, order.sort(dim=1).values))
        visible = torch.zeros(BATCH, self.model.grid**2).scatter(1, view.ids_keep, 1.0)
        visible = visible.view(BATCH, 1, self.model.grid, self.model.grid)
        hidden = 1 - F.interpolate(visible, scale_factor=8, mode="nearest")
        return images.to(self.device), view.ids_keep.to(self.device), hidden.to(self.device)

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the losses."""
        progress = self.step / self.total
        warm = min(1.0, (self.step + 1) / self.args.warmup)
        rate = self.args.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images, ids_keep, hidden = self.draw()
        predicted = self.forward(images, ids_keep)
        error = (predicted - images) * hidden
        pixels = hidden.sum() * 3
        losses = {"l1": error.abs().sum() / pixels, "l2": error.square().sum() / pixels}
        loss = losses["l1"] + 4 * losses["l2"]
        if self.args.sharpen:
            completed = predicted * hidden + images * (1 - hidden)
            loss = loss + self.sharpening_loss(completed, images, losses)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.update_average()
        return {name: value.item() for name, value in losses.items()}

    def sharpening_loss(
        self, completed: Tensor, images: Tensor, losses: dict[str, Tensor]
    ) -> Tensor:
        """Feature and adversarial terms; also trains the discriminator."""
        with torch.autocast(self.device.type, torch.bfloat16):
            real_scores, fake_scores = self.critic(images), self.critic(completed.detach())
        critic_loss = F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()
        self.critic_optimizer.zero_grad(set_to_none=True)
        critic_loss.backward()
        self.critic_optimizer.step()
        with torch.autocast(self.device.type, torch.bfloat16):
            losses["features"] = self.features.perceptual_distance(completed, images).mean()
            losses["adversarial"] = -self.critic(completed).mean()
        losses["critic"] = critic_loss.detach()
        strength = min(1.0, self.step / 500)
        return losses["features"] * 1.0 + strength * self.args.adversarial * losses["adversarial"]

    @torch.no_grad()
    def update_average(self) -> None:
        """Exponential moving average of the weights, with a short memory at the start."""
        decay = 0.999 if self.args.start else min(0.999, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out PSNR in dB inside the hole (mean over images), of the averaged weights."""
        model = MaskedAutoencoder(CONFIG)
        model.load_state_dict({k: v.cpu() for k, v in self.average.items()})
        images = F.interpolate(self.test.pixels[::2].float() / 255, SIZE, mode="area")
        scores = {}
        for spec in ("centre:0.25", "centre:0.5", "left:0.5", "border:0.125"):
            mask = parse_mask(spec, SIZE, None)
            errors = (model.complete(images, mask) - images).square()[:, :, mask].mean(dim=(1, 2))
            scores[spec] = (-10 * errors.clamp_min(1e-6).log10()).mean().item()
        return scores

    def save_state(self) -> None:
        """Everything a resumed run needs, and the weights as shipped."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
        }
        if self.args.sharpen:
            state["critic"] = self.critic.state_dict()
            state["critic_optimizer"] = self.critic_optimizer.state_dict()
        torch.save(state, self.out / "state.tmp")
        (self.out / "state.tmp").replace(self.out / "state.pt")
        model = MaskedAutoencoder(CONFIG)
        model.load_state_dict({k: v.cpu() for k, v in self.average.items()})
        path = self.out / "mae-fluent.safetensors"
        save_weights(model.state_dict(), path, model.describe(), half=True)

    def load_state(self) -> None:
        """Resume where `save_state` left off."""
        state = torch.load(self.out / "state.pt", weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.average, self.step = state["average"], state["step"]
        if self.args.sharpen:
            self.critic.load_state_dict(state["critic"])
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])

    def run(self) -> None:
        """Train to the end, logging to OUT/log.jsonl."""
        sums: dict[str, float] = {}
        started, last_save = time.time(), time.time()
        while self.step < self.total:
            for name, value in self.train_step().items():
                sums[name] = sums.get(name, 0.0) + value
            done = self.step == self.total
            if self.step % 100 == 0 or done:
                record = {name: round(value / 100, 5) for name, value in sums.items()}
                record |= {"images": self.step * BATCH, "seconds": round(time.time() - started)}
                sums.clear()
                if done or time.time() - last_save > 60 * self.args.save_minutes:
                    record |= {f"psnr {k}": round(v, 2) for k, v in self.evaluate().items()}
                    self.save_state()
                    last_save = time.time()
                with (self.out / "log.jsonl").open("a") as log:
                    print(json.dumps(record), file=log)


def main() -> None:
    """Parse options and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="folder for the state, the log and the weights")
    parser.add_argument("--without", help="leave one group out (the gold standard)")
    parser.add_argument("--start", metavar="WEIGHTS", help="begin with these weights")
    parser.add_argument("--sharpen", action="store_true", help="phase two: features, adversary")
    parser.add_argument("--images", type=int, default=1_000_000, help="training images in total")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=500, help="steps")
    parser.add_argument("--adversarial", type=float, default=0.02, help="weight in phase two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save-minutes", type=float, default=5)
    Trainer(parser.parse_args()).run()


if __name__ == "__main__":
    main()
