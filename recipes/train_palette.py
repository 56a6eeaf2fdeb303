"""Train the built-in `palette-fluent`: python -m recipes.train_palette OUT [--without flags].

A small diffusion network (the published U-Net's blocks, 64×64) over the built-in images. It learns
to find the noise inside the hole, nothing else, at noise levels that are continuous. Against the
published recipe two things are changed so that few images are enough: noise levels are drawn
around those that decide what a picture shows (log-normal σ, Karras et al., 2022, eq. 8 and
table 1), and noisy levels weigh more, because an error in ε grows by σ on its way to the image.

The state is saved every few minutes in OUT; the same command resumes it. The exported weights are
the exponential moving average, in half precision.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2l_core.masks import draw_masks, parse_mask
from l2l_core.models.checkpoints import save_weights
from l2l_core.models.palette import Palette, PaletteConfig, PaletteView, open_palette
from recipes.sampling import TrainingImages

SIZE, BATCH = 64, 32
MASKS = ("random", "centre", "centre", "border", "half", "brush")
CELLS = (4, 8, 8, 8)
"""Each quarter of a batch has holes of one kind, in whole cells of this many pixels."""
SIGMAS = (0.02, 20.0)
SIGMA_MEDIAN, SIGMA_SPREAD = 0.8, 1.3
DATA_DEVIATION, HEAVIEST = 0.5, 20.0
CONFIG = PaletteConfig(
    image_size=SIZE,
    inner_channels=32,
    channel_mults=(1, 2, 4, 6),
    res_blocks=1,
    attended_levels=(2,),
    head_channels=32,
    norm_groups=16,
    train_schedule=(2000, 1e-6, 0.006),  # both schedules end near σ = 20
    sampling_schedule=(1000, 1e-4, 0.012),
    steps=16,
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
        self.model = Palette(CONFIG).to(self.device)
        nn.init.zeros_(self.model.unet.conv_out.weight)
        nn.init.zeros_(self.model.unet.conv_out.bias)
        if args.start:
            self.model.load_state_dict(open_palette(Path(args.start)).state_dict())
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        groups = [
            {"params": [p for p in self.model.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in self.model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.99), fused=True)
        self.step, self.total = 0, math.ceil(args.images / BATCH)
        self.forward = torch.compile(self.predict) if args.compile else self.predict
        self.out = Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        if (self.out / "state.pt").exists():
            self.load_state()

    def predict(self, inputs: Tensor, gammas: Tensor) -> Tensor:
        """The noise (B, 3, H, W) the network sees in its inputs (B, 6, H, W)."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.model.unet(inputs, gammas, return_dict=False)[0].float()

    def draw(self) -> tuple[Tensor, PaletteView]:
        """A batch and everything random about it."""
        images, _ = self.train.batch(BATCH, SIZE, self.generator)
        share = BATCH // len(CELLS)
        masks = [draw_masks(MASKS, share, SIZE, cell, self.generator) for cell in CELLS]
        low, high = SIGMAS
        sigmas = torch.randn(BATCH, generator=self.generator) * SIGMA_SPREAD
        sigmas = (SIGMA_MEDIAN * sigmas.exp()).clamp(low, high)
        noise = torch.randn(2, *images.shape, generator=self.generator)
        hole = torch.cat(masks).unsqueeze(1)
        view = PaletteView(hole, 1 / (1 + sigmas.square()), noise[0], noise[1])
        return images.to(self.device), view.to(self.device)

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the losses."""
        warm = min(1.0, (self.step + 1) / self.args.warmup)
        progress = self.step / self.total
        rate = self.args.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images, view = self.draw()
        predicted = self.forward(self.model.encoder_input(images, view), view.gammas)
        error = ((predicted - view.noise) * view.hole).square().sum(dim=(1, 2, 3))
        error = error / (3 * view.hole.sum(dim=(1, 2, 3)))  # (B,), a mean over the hole
        variance = (1 - view.gammas) / view.gammas  # σ²
        weight = (1 + variance / DATA_DEVIATION**2).clamp(max=HEAVIEST)
        loss = (weight * error).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.update_average()
        return {"loss": loss.item(), "noise": error.mean().item()}

    @torch.no_grad()
    def update_average(self) -> None:
        """Exponential moving average of the weights, with a short memory at the start."""
        decay = min(0.999, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def averaged(self) -> Palette:
        """A model on the CPU with the averaged weights."""
        model = Palette(CONFIG).eval()
        model.load_state_dict({k: v.cpu() for k, v in self.average.items()})
        return model

    def evaluate(self) -> dict[str, float]:
        """Held-out PSNR in dB inside the hole (mean over images), one sample each."""
        chosen = torch.linspace(0, len(self.test.pixels) - 1, 32).long()
        images = F.interpolate(self.test.pixels[chosen].float() / 255, SIZE, mode="area")
        model, scores = self.averaged(), {}
        for spec in ("centre:0.5", "left:0.5"):
            mask = parse_mask(spec, SIZE)
            completed = model.complete(images, mask, steps=10)
            errors = (completed - images).square()[:, :, mask].mean(dim=(1, 2))
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
        torch.save(state, self.out / "state.tmp")
        (self.out / "state.tmp").replace(self.out / "state.pt")
        model = self.averaged()
        path = self.out / "palette-fluent.safetensors"
        save_weights(model.state_dict(), path, model.describe(), half=True)

    def load_state(self) -> None:
        """Resume where `save_state` left off."""
        state = torch.load(self.out / "state.pt", weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.average, self.step = state["average"], state["step"]

    def run(self) -> None:
        """Train to the end, logging to OUT/log.jsonl."""
        sums: dict[str, float] = {}
        count, started, last_save = 0, time.time(), time.time()
        while self.step < self.total:
            for name, value in self.train_step().items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            done = self.step == self.total
            if self.step % 100 == 0 or done:
                record = {name: round(value / count, 5) for name, value in sums.items()}
                record |= {"images": self.step * BATCH, "seconds": round(time.time() - started)}
                sums, count = {}, 0
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
    parser.add_argument("--images", type=int, default=200_000, help="training images in total")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save-minutes", type=float, default=5)
    Trainer(parser.parse_args()).run()


if __name__ == "__main__":
    main()
