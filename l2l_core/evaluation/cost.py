"""What a protocol's measurement costs, before it is begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l2l_core.evaluation.evaluate import BATCH
from l2l_core.evaluation.protocol import ORIGINAL, ProtocolRequest
from l2l_core.evaluation.protocol_job import Job, Rows
from l2l_core.runtime import autocast, choose_precision, describe_device, seeded
from l2l_core.unlearning.objective import squared_distance

CPU_SAMPLE = 4
"""Images timed on a CPU; elsewhere a whole batch, since they are quicker in company."""


@dataclass(frozen=True)
class Cost:
    """A measurement in numbers; `seconds` are of one image on one device."""

    images: int
    models: int
    bytes_of_truth: int
    """Features kept of a true image."""
    bytes_of_completion: int
    reading: float
    """Seconds to open an image; 0 without data."""
    features: float
    """Seconds to extract its features."""
    completing: Mapping[str, float]
    """Seconds to complete it, by mask."""
    sample: int
    """Images that were timed."""
    device: str
    steps: int = 0
    """Of one unlearning run; 0 where nothing says how many."""
    step: float = 0.0
    """Seconds of each."""

    @property
    def completions(self) -> int:
        """Images × masks × models."""
        return self.images * len(self.completing) * self.models

    @property
    def bytes(self) -> int:
        """Size of all features."""
        return self.images * self.bytes_of_truth + self.completions * self.bytes_of_completion

    @property
    def hours(self) -> float:
        """On one device: each image is read once, and goes through each model under each mask."""
        completing = sum(self.completing.values()) + len(self.completing) * self.features
        return self.images * (self.reading + self.features + self.models * completing) / 3600

    def describe(self) -> str:
        """The cost in words."""
        rates = ", ".join(f"{mask} {1000 * s:,.1f}" for mask, s in self.completing.items())
        reading = f"reading {1000 * self.reading:,.1f}" if self.reading else "reading not counted"
        return (
            f"{self.images:,} test images, {len(self.completing)} masks, {self.models} models: "
            f"{self.completions:,} completions, {self.bytes / 1e6:,.1f} MB of features.\n"
            f"About {self.hours:,.2f} hours on one device like this ({self.device}), half as long "
            "on two. The scores that follow from the features are not counted.\n"
            f"{self._unlearning()}\n"
            f"Timed on {self.sample} images, in ms an image: {reading}, "
            f"features {1000 * self.features:,.1f}, completing: {rates}.\n"
            "For another device, ask again on it."
        )

    def _unlearning(self) -> str:
        if not self.steps:
            return "Unlearning is not counted: nothing says how many training images there are."
        hours = self.steps * self.step / 3600
        return (
            f"Unlearning before that: {self.steps:,} steps of {self.step:,.2f} s, about "
            f"{hours:,.2f} hours for each model; reading its images is not counted."
        )


@torch.no_grad()
def estimate(request: ProtocolRequest) -> Cost:
    """Time a few completions of the original under every mask, and multiply; writes nothing.

    The unlearned weights are counted, not opened: ask before there are any. Without a folder of
    data the protocol's own counts are taken, and noise is completed.

    Raises:
        ValueError: as `Job.open`.
    """
    job = Job.open(request, only_original=True)
    device = job.models[ORIGINAL].device
    sample = CPU_SAMPLE if device.type == "cpu" else BATCH
    if job.sets:
        count = sum(len(images) for images in job.sets.values())
        sample = min(sample, len(job.sets["forget"]))
        truth, reading = _timed(partial(job.sets["forget"].images, torch.arange(sample)))
    else:
        count, reading = job.protocol.count(request.each), 0.0
        size = job.models[ORIGINAL].image_size
        truth = torch.rand(sample, 3, size, size, generator=seeded(request.seed))
    first = next(iter(job.holes))
    job.measure(job.complete(ORIGINAL, first, truth, 0), truth, first)  # the first call is slow
    rows, features = _timed(partial(job.measure, truth, truth, first))
    completing = {}
    for mask in job.holes:
        _, seconds = _timed(partial(job.complete, ORIGINAL, mask, truth, 0))
        completing[mask] = seconds / sample
    pair = _seconds_of_training(job, truth, job.holes[first])
    return Cost(
        images=count,
        models=1 + len(request.named_weights),
        bytes_of_truth=_bytes(job.extract(truth)) // sample,
        bytes_of_completion=_bytes(rows) // sample,
        reading=reading / sample,
        features=features / sample,
        completing=completing,
        sample=sample,
        device=describe_device(device),
        steps=job.protocol.count_steps(request.model, request.data, request.classes),
        step=pair * job.protocol.batch_size(request.model),
    )


def _seconds_of_training(job: Job, truth: Tensor, hole: Tensor) -> float:
    """Seconds that a retain and a forget image take in a step of ours: both go through the original
    encoder, then through the trained one and back. Leaves the model as it was.
    """
    model, both = job.models[ORIGINAL], torch.cat([truth, truth])
    view = model.draw_view(both, hole.expand(len(both), -1, -1), seeded(job.request.seed, 28))
    view, both = view.to(model.device), both.to(model.device)
    precision = choose_precision(job.request.precision, model.device)

    def step() -> Tensor:
        with autocast(model.device, precision):
            inputs = model.encoder_input(both, view)
            target = model.encode(inputs, view)
            with torch.enable_grad():
                output = model.encode(inputs, view)
                loss = squared_distance(output, target).mean()
        loss.backward()
        return loss.detach().cpu()

    model.freeze_decoder()
    try:
        step()  # the first is slow
        _, seconds = _timed(step)
    finally:
        model.zero_grad(set_to_none=True)
        model.requires_grad_(False)
    return seconds / len(truth)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work returns, and the seconds it took. Its result must be on the CPU, which makes
    the device finish.
    """
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _bytes(rows: Rows) -> int:
    return sum(_size(values) for values in rows.values())


def _size(values: Tensor) -> int:
    return values.numel() * values.element_size()
