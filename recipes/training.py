"""What the recipes share: a loop that logs, averages, saves and resumes.

A recipe keeps everything a resumed run needs in OUT/state.pt, its log in OUT/log.jsonl, and the
weights as shipped (the exponential moving average, in half precision) in OUT/NAME.safetensors. The
same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from l2l_core.models.checkpoints import save_weights
from recipes.sampling import TrainingImages, TrainingMasks

MASKS = ("random", "centre", "centre", "border", "half", "brush")
"""Kinds of hole, as often as they are drawn in training."""


Model = TypeVar("Model", bound=nn.Module)


class Recipe(ABC, Generic[Model]):
    """One training run of `self.model`; `self.parts` are further things with a state."""

    name: ClassVar[str]
    """File name of the weights."""
    batch: int
    size: ClassVar[int] = 64
    betas: ClassVar[tuple[float, float]] = (0.9, 0.95)
    weight_decay: ClassVar[float] = 0.05
    memory: ClassVar[float] = 0.999
    """Of the moving average of the weights, per step."""

    def __init__(self, args: argparse.Namespace, model: Model) -> None:
        self.args = args
        self.device = torch.device(args.device)
        self.batch = args.batch or self.batch
        self.generator = torch.Generator(self.device).manual_seed(args.seed)
        self.random: dict[str, Any] = {"generator": self.generator, "device": self.device}
        self.train = TrainingImages("train", args.without, args.still, args.more, self.device)
        self.test = TrainingImages("test", args.without)
        self.model = model.to(self.device)
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=self.betas, fused=True)
        self.parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}
        self.step, self.total = 0, math.ceil(args.images / self.batch)
        self.seconds, self.since = 0.0, 0.0
        """What earlier sessions of this run took, and when this one began."""
        self.out = Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def losses(self) -> dict[str, Tensor]:
        """Losses of a fresh batch; `loss` is minimised, the others are logged."""

    @abstractmethod
    def evaluate(self, model: Model) -> dict[str, float]:
        """Held-out numbers of the averaged weights, which `model` holds on the CPU."""

    @abstractmethod
    def fresh_model(self) -> Model:
        """A model of the same sizes, on the CPU."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What is written beside the weights."""

    def masks(self, count: int, cell: int) -> TrainingMasks:
        """Holes as the studio uses them, `count` at a time."""
        return TrainingMasks(MASKS, self.size, count, cell, self.generator)

    def progress(self) -> float:
        """Which share of the run is over, by its images or by its time."""
        spent = self.spent() / 60 / self.args.minutes if self.args.minutes else 0
        return min(1.0, max(self.step / self.total, spent))

    def spent(self) -> float:
        """Seconds of training so far, earlier sessions included."""
        return self.seconds + time.time() - self.since

    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step; returns the losses."""
        warm = min(1.0, (self.step + 1) / self.args.warmup)
        fall = 0.5 * (1 + math.cos(math.pi * self.progress()))
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * warm * (0.02 + 0.98 * fall)
        losses = self.losses()
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.update_average()
        return {name: value.detach() for name, value in losses.items()}

    @torch.no_grad()
    def update_average(self) -> None:
        """Exponential moving average of the weights, with a short memory at the start."""
        decay = self.memory
        if not self.args.start:
            decay = min(decay, (1 + self.step) / (10 + self.step))
        state = {k: v for k, v in self.model.state_dict().items() if v.is_floating_point()}
        torch._foreach_lerp_([self.average[k] for k in state], list(state.values()), 1 - decay)

    def averaged(self) -> Model:
        """A model on the CPU, in evaluation mode, with the averaged weights."""
        model = self.fresh_model().eval()
        model.load_state_dict({k: v.cpu() for k, v in self.average.items()})
        return model

    def save(self, model: Model) -> None:
        """Everything a resumed run needs, and the weights as shipped."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"average": self.average, "step": self.step, "seconds": self.spent()}
        state["generator"] = self.generator.get_state()
        torch.save(state, self.out / "state.tmp")
        (self.out / "state.tmp").replace(self.out / "state.pt")
        save_weights(model.state_dict(), self.out / self.name, self.describe(), half=True)

    def resume(self) -> None:
        """Go on where `save` left off, if it did."""
        if not (self.out / "state.pt").exists():
            return
        state = torch.load(self.out / "state.pt", weights_only=True, map_location=self.device)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())
        self.average, self.step = state["average"], state["step"]
        self.seconds = state["seconds"]

    def run(self) -> None:
        """Train to the end, logging to OUT/log.jsonl."""
        self.resume()
        sums: dict[str, Tensor] = {}
        count, last_save = 0, time.time()
        self.since = time.time()
        done = self.progress() == 1
        while not done:
            for name, value in self.train_step().items():
                sums[name] = sums[name] + value if name in sums else value
            count += 1
            done = self.progress() == 1
            if self.step % 100 == 0 or done:
                record = {name: round(value.item() / count, 5) for name, value in sums.items()}
                record |= {"images": self.step * self.batch}
                record |= {"seconds": round(self.spent())}
                sums, count = {}, 0
                if done or time.time() - last_save > 60 * self.args.save_minutes:
                    model = self.averaged()
                    self.save(model)
                    record |= {k: round(v, 3) for k, v in self.evaluate(model).items()}
                    last_save = time.time()
                with (self.out / "log.jsonl").open("a") as log:
                    print(json.dumps(record), file=log)


def psnr(predicted: Tensor, truth: Tensor, hole: Tensor | None = None) -> float:
    """Mean over images of the PSNR in dB, in the hole (H, W) or everywhere."""
    errors = (predicted - truth).square().flatten(2)
    if hole is not None:
        errors = errors[:, :, hole.flatten()]
    return (-10 * errors.mean(dim=(1, 2)).clamp_min(1e-6).log10()).mean().item()


def options(description: str, images: int, lr: float) -> argparse.ArgumentParser:
    """The options every recipe has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("out", help="folder for the state, the log and the weights")
    parser.add_argument("--without", metavar="GROUP", help="leave a group out (gold standard)")
    parser.add_argument("--start", metavar="WEIGHTS", help="begin with these weights")
    parser.add_argument(
        "--still", type=float, default=0, metavar="SHARE", help="of the emoji, taken as they are"
    )
    parser.add_argument("--more", type=Path, metavar="ZIP", help="from recipes.build_more")
    parser.add_argument("--minutes", type=float, help="end after so long, if not before")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--images", type=int, default=images, help="training images in total")
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--warmup", type=int, default=300, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-minutes", type=float, default=5)
    return parser
