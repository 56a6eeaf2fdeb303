"""One loop for every family: the student's encoder moves, the teacher and the decoder do not.

A step is one teacher pass over concat(retain, noise) and one student pass over concat(retain,
forget), under the same view. Every draw of a step follows from (seed, step), so a resumed run is
the same run, and each process of a distributed run draws the whole batch and takes its share.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from l2l_core.config import ConfigError, UnlearnRequest
from l2l_core.datasets import Batches, ImageSet, forgotten_ids, load_image_set
from l2l_core.masks import draw_masks
from l2l_core.models import load_model
from l2l_core.models.base import ImageToImageModel, View
from l2l_core.models.layers import choose_attention
from l2l_core.runtime import choose_device, choose_precision, release_memory, seeded
from l2l_core.unlearning.noise import NoiseSource
from l2l_core.unlearning.objective import squared_distance, unlearning_loss
from l2l_core.unlearning.tokens import PreparedInputs


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; nothing was updated with it."""


class FrozenPartChangedError(RuntimeError):
    """A parameter outside the encoder is not what it was; the result must not be used."""


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
        self.accelerator = _accelerator(self.device, self.precision)
        self.device = self.accelerator.device
        if request.batch_size % self.accelerator.num_processes:
            raise ConfigError(
                f"batch_size {request.batch_size} cannot be shared evenly by "
                f"{self.accelerator.num_processes} processes."
            )
        self.teacher = model.to(self.device).eval().requires_grad_(False)
        self.student = copy.deepcopy(model).freeze_decoder()
        choose_attention(self.teacher, self.device)
        choose_attention(self.student, self.device)
        self.student.set_gradient_checkpointing(request.gradient_checkpointing)

        self.forget, self.retain = forget, retain
        self.batches = Batches(forget, retain, request.batch_size, request.seed, request.augment)
        self.noise = NoiseSource.fit(request.noise, forget.images())
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

        parameters = self.student.encoder_parameters()
        self.optimizer = torch.optim.AdamW(
            decay_groups(parameters, request.weight_decay),
            lr=request.learning_rate,
            betas=request.betas,
            fused=self.device.type in ("cuda", "cpu"),
        )
        self.encoder, self.prepared_optimizer = self.accelerator.prepare(
            self.student, self.optimizer
        )
        self.step = 0

    @classmethod
    def from_request(cls, request: UnlearnRequest, base: Path | None = None) -> Trainer:
        """Open the model and the image sets; `base` is the folder that `inputs:…` sets lie in.

        Raises:
            ValueError: the model, its weights, the device or an image set cannot be had (the errors
                of `load_model`, `choose_device` and `load_image_set`).
        """
        model = load_model(request.model, request.checkpoint, **request.model_options)
        size, split = model.image_size, request.split
        forget = load_image_set(request.forget, size, split=split, base=base)
        retain = load_image_set(
            request.retain,
            size,
            split=split,
            base=base,
            without=forgotten_ids(request.forget),
        )
        return cls(request, model, forget, retain)

    def steps(self) -> Iterator[StepRecord]:
        """Train from `self.step` to the end; yields after each optimiser step.

        Raises:
            NonFiniteLossError: before an update that would spoil the weights.
            FrozenPartChangedError: at the end, if anything but the encoder changed.
        """
        while self.step < self.request.steps:
            yield self.train_step()
        self.check_frozen_parts()

    def train_step(self) -> StepRecord:
        """One update of the encoder."""
        request, step = self.request, self.step
        retain, forget, noise, masks = self.draw(step)
        started = time.perf_counter()
        rank, world = self.accelerator.process_index, self.accelerator.num_processes

        both = torch.cat([retain, forget])
        view = self.student.draw_view(both, masks, seeded(request.seed, 5, step))
        # Every process takes the same share of each class, so the mean of means is the whole mean.
        share = torch.arange(rank, len(retain), world)
        loss = self._backward_in_parts(retain, forget, noise, view, share)

        grad_norm = self.accelerator.clip_grad_norm_(self.encoder.parameters(), request.clip)
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
            "encoder": {n: p.detach() for n, p in self.student.encoder_parameters().items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        for name, parameter in self.student.encoder_parameters().items():
            parameter.copy_(state["encoder"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]

    def check_frozen_parts(self) -> None:
        """Compare all but the encoder, bit for bit, with the original."""
        encoder = self.student.encoder_parameters().keys()
        original = self.teacher.state_dict()
        for name, value in self.student.state_dict().items():
            if name not in encoder and not torch.equal(value, original[name]):
                raise FrozenPartChangedError(f"{name} changed although only the encoder may.")

    def _backward_in_parts(
        self, retain: Tensor, forget: Tensor, noise: Tensor, view: View, share: Tensor
    ) -> Tensor:
        """Gradients of the samples in `share`, added up over micro-batches; returns the losses.

        A device that runs out of memory gets half as many samples at once, and the step begins
        again: the gradients are the same.
        """
        while True:
            total = torch.zeros(3, device=self.device)
            parts = share.split(self.micro_batch)
            try:
                for number, part in enumerate(parts, start=1):
                    rows = torch.cat([part, part + len(retain)])
                    samples = [tensor[part].to(self.device) for tensor in (retain, forget, noise)]
                    weight = len(part) / len(share)
                    last = number == len(parts)
                    with nullcontext() if last else self.accelerator.no_sync(self.encoder):
                        total += self._backward(samples, view.select(rows).to(self.device), weight)
                break
            except (torch.OutOfMemoryError, MemoryError):
                # Processes that wait for each other cannot each choose their own size.
                if self.micro_batch == 1 or self.accelerator.num_processes > 1:
                    raise
            self.prepared_optimizer.zero_grad(set_to_none=True)
            self.micro_batch = math.ceil(min(self.micro_batch, len(share)) / 2)
            release_memory(self.device)
        losses = self.accelerator.reduce(total, reduction="mean")
        if not losses.isfinite().all():
            raise NonFiniteLossError(
                f"The loss is not a finite number at step {self.step + 1}. "
                "Lower the learning rate, or use fp32."
            )
        return losses

    def _backward(self, samples: list[Tensor], view: View, weight: float) -> Tensor:
        """Gradients of `weight` times the objective; returns its parts."""
        retain, forget, noise = samples
        half = len(retain)
        forget_rows = torch.arange(2 * half, device=self.device) >= half
        retain_view, forget_view = view.select(slice(0, half)), view.select(slice(half, None))
        with torch.no_grad(), self.accelerator.autocast():
            inputs = torch.cat(
                [
                    self.teacher.encoder_input(retain, retain_view),
                    self.teacher.noise_input(noise, forget, forget_view),
                ]
            )
            target = self.teacher.encode(inputs, view)
        with self.accelerator.autocast():
            inputs = self.student.encoder_input(torch.cat([retain, forget]), view)
            representation = self.encoder(inputs, view)
        losses = unlearning_loss(
            squared_distance(representation, target), forget_rows, self.request.alpha
        )
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


def _accelerator(device: torch.device, precision: str) -> Accelerator:
    """accelerate keeps its settings for a whole process; a warm worker needs new ones each run."""
    AcceleratorState._reset_state()
    mixed = "no" if precision == "fp32" else precision
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=mixed)
    if accelerator.num_processes == 1:
        accelerator.state.device = device
    return accelerator
