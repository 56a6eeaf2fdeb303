"""One loop for every family and method: what the method trains moves, nothing else does.

A step of ours is one teacher pass over concat(retain, noise) and one student pass over
concat(retain, forget), under the same view; `methods.py` has the others. Every draw of a step
follows from (seed, step), so a resumed run is the same run, and each process of a distributed run
draws the whole batch and takes its share.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2l_core.config import ConfigError, UnlearnRequest
from l2l_core.datasets import Batches, ImageSet, forgotten_ids, load_image_set, share_of
from l2l_core.errors import PlainError
from l2l_core.masks import draw_masks
from l2l_core.models import load_original
from l2l_core.models.base import ImageToImageModel
from l2l_core.models.checkpoints import state_digest
from l2l_core.models.layers import choose_attention
from l2l_core.runtime import (
    accelerator_on,
    choose_device,
    choose_precision,
    is_out_of_memory,
    release_memory,
    seeded,
)
from l2l_core.unlearning.methods import METHODS, Samples
from l2l_core.unlearning.noise import NoiseSource
from l2l_core.unlearning.objective import unlearning_loss
from l2l_core.unlearning.tokens import PreparedInputs

logger = logging.getLogger(__name__)

FITTED = 8
"""Samples of each kind that a method may see before the first step."""


class NonFiniteLossError(PlainError, RuntimeError):
    """The loss or its gradient became NaN or infinite; nothing was updated with it."""


class OtherOriginalError(PlainError, RuntimeError):
    """A checkpoint belongs to a run that started from other weights."""


class FrozenPartChangedError(PlainError, RuntimeError):
    """A parameter that must not change did; the result must not be used."""


@dataclass(frozen=True)
class StepRecord:
    """What one step did. Losses are those before its update."""

    step: int
    steps: int
    total: float
    retain: float
    forget: float
    lr: float
    grad_norm: float
    seconds: float

    def asdict(self) -> dict[str, Any]:
        """Plain values for events and progress bars."""
        return asdict(self)


class Trainer:
    """Unlearning of one request; iterate `steps()` to train."""

    def __init__(
        self,
        request: UnlearnRequest,
        model: ImageToImageModel,
        forget: ImageSet,
        retain: ImageSet,
    ) -> None:
        self.request = request
        self.device = choose_device(request.device)
        self.precision = choose_precision(request.precision, self.device)
        mixed = "no" if self.precision == "fp32" else self.precision
        self.accelerator = accelerator_on(self.device, mixed_precision=mixed)
        self.device = self.accelerator.device
        if request.batch_size % self.accelerator.num_processes:
            raise ConfigError(
                f"batch_size {request.batch_size} cannot be shared evenly by "
                f"{self.accelerator.num_processes} processes."
            )
        self.teacher = model.to(self.device).eval().requires_grad_(False)
        self.method = METHODS[request.method](self.teacher)
        self.student = copy.deepcopy(model)
        self.student.train_only(self.trained_parameters())
        choose_attention(self.teacher, self.device)
        choose_attention(self.student, self.device)
        self.student.set_gradient_checkpointing(request.gradient_checkpointing)

        self.forget, self.retain = forget, retain
        self.batches = Batches(forget, retain, request.batch_size, request.seed, request.augment)
        self.noise = NoiseSource.fit(request.noise, forget.typical())
        self.micro_batch = request.micro_batch_size or request.batch_size
        """Samples of each kind computed at once; falls when memory runs out."""
        self.prepared = (
            PreparedInputs(self.teacher, self.batches, self.noise, request.steps)
            if model.tokenizes
            else None
        )
        # Each kind of hole gets its turn, in an order of the seed's.
        order = torch.randperm(len(request.masks), generator=seeded(request.seed, 3)).tolist()
        self.mask_cycle = [request.masks[i] for i in order]

        self.optimizer = torch.optim.AdamW(
            decay_groups(self.trained_parameters(), request.weight_decay),
            lr=request.learning_rate,
            betas=request.betas,
            fused=self.device.type in ("cuda", "cpu"),
        )
        self.network, self.prepared_optimizer = self.accelerator.prepare(
            self.student, self.optimizer
        )
        self.step = 0
        with torch.no_grad():
            self.method.fit(self._first_samples)

    @classmethod
    def from_request(cls, request: UnlearnRequest, base: Path | None = None) -> Trainer:
        """Open the model and the image sets; `base` is the folder that `inputs:…` sets lie in.

        Raises:
            ValueError: the model, its weights, the device or an image set cannot be had (the errors
                of `load_model`, `choose_device` and `load_image_set`).
        """
        model = load_original(request)
        size, split = model.image_size, request.split
        forget = load_image_set(request.forget, size, split=split, base=base)
        retain = load_image_set(
            request.retain,
            size,
            split=split,
            base=base,
            without=forgotten_ids(request.forget),
        ).less(forget)
        return cls(request, model, forget, share_of(retain, request.retain_fraction, request.seed))

    def steps(self) -> Iterator[StepRecord]:
        """Train from `self.step` to the end; yields after each optimiser step.

        Raises:
            NonFiniteLossError: before an update that would spoil the weights.
            FrozenPartChangedError: at the end, if anything changed that the method does not train.
        """
        while self.step < self.request.steps:
            yield self.train_step()
        self.check_frozen_parts()

    def train_step(self) -> StepRecord:
        """One update of what the method trains."""
        request, step = self.request, self.step
        batch = self.batch(step)
        started = time.perf_counter()
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        # Every process takes the same share of each class, so the mean of means is the whole mean.
        share = torch.arange(rank, len(batch.retain), world)
        loss = self._backward_in_parts(batch, share)

        grad_norm = self.accelerator.clip_grad_norm_(self.network.parameters(), request.clip)
        if self.accelerator.scaler is None:  # a scaler skips such a step and lowers its scale
            self._require_finite(grad_norm, "gradient")
        lr = learning_rate_at(step, request)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.prepared_optimizer.step()
        self.prepared_optimizer.zero_grad(set_to_none=True)
        self.step += 1
        total, retain_loss, forget_loss = loss.tolist()
        return StepRecord(
            step=self.step,
            steps=request.steps,
            total=total,
            retain=retain_loss,
            forget=forget_loss,
            lr=lr,
            grad_norm=float(grad_norm),
            seconds=time.perf_counter() - started,
        )

    def batch(self, step: int) -> Samples:
        """The whole batch of a step, on the CPU, and all that is random about it."""
        retain, forget, noise, masks = self.draw(step)
        seed, both = self.request.seed, torch.cat([retain, forget])
        view = self.student.draw_view(both, masks, seeded(seed, 5, step))
        noise = self.method.noise(noise, both, seeded(seed, 11, step))
        return Samples(
            retain, forget, noise, view, [(seed, 12, step, i) for i in range(len(noise))]
        )

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The student's parameters that the method may change, by name."""
        return self.method.parameters(self.student)

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The whole batch of a step: retain, forget, noise (n, 3, S, S), or (n, …) as `prepare`
        makes of them, and masks (2n, S, S).
        """
        model, seed = self.student, self.request.seed
        if self.prepared:
            retain, forget, noise = self.prepared.draw(step)
        else:
            retain, forget = self.batches.draw(step)
            noise = self.noise.draw(len(forget), model.image_size, seeded(seed, 4, step))
        kind = self.mask_cycle[step % len(self.mask_cycle)]
        masks = draw_masks(
            (kind,), 2 * len(forget), model.image_size, model.cell, seeded(seed, 6, step)
        )
        return retain, forget, noise, masks

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact resume needs."""
        return {
            "step": self.step,
            "original": self.original_digest,
            "trained": {n: p.detach() for n, p in self.trained_parameters().items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            OtherOriginalError: that was with another original.
        """
        if state.get("original") != self.original_digest:  # earlier versions did not write it
            raise OtherOriginalError(
                "The weights this run started from have been replaced since, or cannot be told, so "
                "it cannot go on. Start it anew."
            )
        for name, parameter in self.trained_parameters().items():
            parameter.copy_(state["trained"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]

    @cached_property
    def original_digest(self) -> str:
        """Of all parameters of the original."""
        return state_digest(self.teacher.state_dict())

    def check_frozen_parts(self) -> None:
        """Compare all that the method does not train, bit for bit, with the original."""
        trained = self.trained_parameters().keys()
        original = self.teacher.state_dict()
        for name, value in self.student.state_dict().items():
            if name not in trained and not torch.equal(value, original[name]):
                raise FrozenPartChangedError(
                    f"{name} changed although {self.method.title} does not train it."
                )

    def _first_samples(self) -> Samples:
        batch = self.batch(0)
        return self._part(batch, torch.arange(min(FITTED, len(batch.retain))))

    def _part(self, batch: Samples, part: Tensor) -> Samples:
        """The retain and forget samples at these positions of a batch, on the device."""
        rows = torch.cat([part, part + len(batch.retain)])
        return Samples(
            batch.retain[part].to(self.device),
            batch.forget[part].to(self.device),
            batch.noise[part].to(self.device),
            batch.view.select(rows).to(self.device),
            [batch.seeds[i] for i in part.tolist()],
        )

    def _backward_in_parts(self, batch: Samples, share: Tensor) -> Tensor:
        """Gradients of the samples in `share`, added up over micro-batches; returns the losses.

        A device that runs out of memory gets half as many samples at once, and the step begins
        again: the gradients are the same.
        """
        while True:
            total = torch.zeros(3, device=self.device)
            parts = share.split(self.micro_batch)
            try:
                for number, part in enumerate(parts, start=1):
                    weight = len(part) / len(share)
                    last = number == len(parts)
                    with nullcontext() if last else self.accelerator.no_sync(self.network):
                        total += self._backward(self._part(batch, part), weight)
                break
            except (RuntimeError, MemoryError) as error:
                # Processes that wait for each other cannot each choose their own size.
                alone = self.accelerator.num_processes == 1
                if not (is_out_of_memory(error) and alone and self.micro_batch > 1):
                    raise
            self.prepared_optimizer.zero_grad(set_to_none=True)
            self.micro_batch = math.ceil(min(self.micro_batch, len(share)) / 2)
            logger.warning("Out of memory: now %d samples of each kind at once.", self.micro_batch)
            release_memory(self.device)
        losses = self.accelerator.reduce(total, reduction="mean")
        self._require_finite(losses, "loss")
        return losses

    def _require_finite(self, values: Tensor, name: str) -> None:
        if not values.isfinite().all():
            raise NonFiniteLossError(
                f"The {name} is not a finite number at step {self.step + 1}. "
                "Lower the learning rate, or use fp32."
            )

    def _backward(self, samples: Samples, weight: float) -> Tensor:
        """Gradients of `weight` times the objective; returns its parts."""
        half = len(samples.retain)
        forget_rows = torch.arange(2 * half, device=self.device) >= half
        with torch.no_grad(), self.accelerator.autocast():
            inputs, target = self.method.lesson(samples)
        with self.accelerator.autocast():
            output = self.network(inputs, samples.view, self.method.trains_decoder)
        distance = self.method.distance(output, target, samples)
        losses = unlearning_loss(distance, forget_rows, self.method.sign * self.request.alpha)
        self.accelerator.backward(losses.total * weight)
        return torch.stack([losses.total, losses.retain, losses.forget]).detach() * weight


def learning_rate_at(step: int, request: UnlearnRequest) -> float:
    """Linear warm-up to the peak, then half a cosine towards 0; `step` counts from 0."""
    warmup = max(1, round(request.warmup * request.steps))
    if step < warmup:
        return request.learning_rate * (step + 1) / warmup
    progress = (step + 1 - warmup) / max(1, request.steps - warmup + 1)
    return request.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def decay_groups(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups: vectors and biases are not decayed."""
    decayed = [p for n, p in parameters.items() if p.ndim > 1 and not n.endswith(".bias")]
    others = [p for n, p in parameters.items() if p.ndim <= 1 or n.endswith(".bias")]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
