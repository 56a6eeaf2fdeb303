"""Speed and memory of the built-in models: python -m benchmarks.speed [--device cuda].

For each model with its default settings: one unlearning step, and one completed image. Prints a
row of the table in benchmarks/README.md each. Ask it on an idle machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from l2l_core.config import UnlearnRequest
from l2l_core.masks import parse_mask
from l2l_core.runtime import autocast, choose_device, describe_device, seeded
from l2l_core.unlearning.trainer import Trainer

MODELS = ("mae-fluent", "mage-fluent", "palette-fluent")
WARM = 3
"""Repetitions that do not count: the first ones are slow."""
REPETITIONS = 20
IMAGES, HOLE = 16, "centre:0.5"
"""Completed at once, and the hole."""


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of some repetitions, until the device has finished."""
    taken = []
    for number in range(WARM + REPETITIONS):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARM:
            taken.append(time.perf_counter() - started)
    return median(taken)


def row(name: str, device: str) -> str:
    """What a step and a completion of a model take, as a row of the table."""
    request = UnlearnRequest(forget=["builtin:flags"], model=name, device=device)
    trainer = Trainer.from_request(request)
    on = trainer.device
    if on.type == "cuda":
        torch.cuda.reset_peak_memory_stats(on)
    step = seconds(trainer.train_step, on)
    peak = f"{torch.cuda.max_memory_allocated(on) / 2**20:.0f} MiB" if on.type == "cuda" else "–"
    images = trainer.retain.images(torch.arange(IMAGES)).to(on)
    hole = parse_mask(HOLE, trainer.teacher.image_size)

    def complete() -> None:
        with autocast(on, trainer.precision):
            trainer.teacher.complete(images, hole, generator=seeded(0))

    image = seconds(complete, on)
    batch = f"{request.batch_size} + {request.batch_size}"
    cells = (f"`{name}`", batch, trainer.precision, f"{1000 * step:.0f} ms", peak)
    return "| " + " | ".join((*cells, f"{1000 * image / IMAGES:.1f} ms")) + " |"


def main() -> None:
    """Print the table for one device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    arguments = parser.parse_args()
    print(f"{describe_device(choose_device(arguments.device))}, PyTorch {torch.__version__}\n")
    print("| model | images a step | precision | step | peak memory | completion |")
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        print(row(name, arguments.device), flush=True)


if __name__ == "__main__":
    main()
