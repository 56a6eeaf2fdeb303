"""Carry out one run: the path that the command line, the Python API and the worker share."""

from __future__ import annotations

import errno
import logging
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from l2l_core.config import UnlearnRequest, dump_json
from l2l_core.evaluation.evaluate import evaluate, evaluation_sets
from l2l_core.evaluation.report import verdict
from l2l_core.images import to_pil
from l2l_core.jobs.store import Run, RunError, RunStore, create_run, write_atomically
from l2l_core.masks import parse_mask
from l2l_core.models import load_model
from l2l_core.models.base import ImageToImageModel
from l2l_core.models.checkpoints import file_digest, save_weights, state_digest
from l2l_core.runtime import autocast, choose_device, describe_device
from l2l_core.unlearning.trainer import FrozenPartChangedError, NonFiniteLossError, Trainer

PREVIEW_MASK, PREVIEW_TILES, PREVIEW_SIDE, PREVIEW_GAP = "centre:0.5", 5, 128, 6
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "safetensors", "pillow", "numpy")
logger = logging.getLogger(__name__)

Stop = Callable[[], bool]
OnEvent = Callable[[dict[str, Any]], None]


class Stopped(Exception):
    """Raised inside a run to leave its loop; carries the status it ends in."""


def execute(run: Run, *, should_stop: Stop = lambda: False, on_event: OnEvent | None = None) -> str:
    """Train, evaluate and write everything into the run's folder; returns the final status.

    A run that has a checkpoint goes on from it. `should_stop` is asked after every step; a stopped
    run is “interrupted” and can go on, a cancelled one keeps its weights so far. Errors end the run
    as “failed” with a plain message."""
    session = _Session(run, on_event)
    try:
        session.train(should_stop)
        session.finish()
        status, message = "done", ""
    except Stopped as stopped:
        status, message = stopped.args
    except (NonFiniteLossError, FrozenPartChangedError, ValueError) as error:
        status, message = "failed", str(error)
    except torch.OutOfMemoryError:
        status, message = "failed", "The device ran out of memory. Choose a smaller batch."
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        status = "failed"
        message = "The disk is full." if full else "A file could not be read or written."
        logger.error("Run %s: %s", run.id, errno.errorcode.get(error.errno or 0, "I/O error"))
    except Exception as error:
        status, message = "failed", "Something unexpected went wrong; the log has the details."
        logger.error("Run %s failed with %s", run.id, type(error).__name__, exc_info=True)
    session.end(status, message)
    return status


def unlearn(folder: str | Path | None = None, **settings: Any) -> Run:
    """Unlearn here and now: the settings of `UnlearnRequest`, e.g. forget=["builtin:flags"],
    steps=30.

    Args:
        folder: the run folder to write; by default a new one below the data folder.
        settings: fields of `UnlearnRequest`.

    Returns:
        The finished run; `.weights` is its checkpoint, `.metrics` what was measured.

    Raises:
        ConfigError: a setting that cannot be.
        RunError: the run failed; the message says why.
    """
    request = UnlearnRequest.from_dict(settings)
    place = Path(folder).absolute() if folder else None
    run = create_run(place, request) if place else RunStore().create(request)
    if execute(run) != "done":
        raise RunError(run.state.message)
    return run


def measure(run: Run, mask: str) -> dict[str, Any]:
    """Measure a finished run again, under another hole.

    Raises:
        RunError: it has no weights.
    """
    if not run.weights.is_file():
        raise RunError("This run has no weights to measure.")
    request = run.request
    device = str(choose_device(request.device))
    before = load_model(request.model, request.checkpoint, device=device, **request.model_options)
    after = load_model(request.model, run.weights, device=device)
    sets = evaluation_sets(request, before.image_size, run.folder)
    return evaluate(request, before, after, sets, mask)


class _Session:
    """One execution of a run."""

    def __init__(self, run: Run, on_event: OnEvent | None) -> None:
        self.run, self.request, self.on_event = run, run.request, on_event
        self.is_main = int(os.environ.get("RANK", "0")) == 0

    def train(self, should_stop: Stop) -> None:
        """Open everything, then step to the end."""
        self.event("stage", text="Opening the model and the images")
        self.trainer = trainer = Trainer.from_request(self.request, self.run.folder)
        if self.run.checkpoint.is_file():
            trainer.load_state_dict(torch.load(self.run.checkpoint, weights_only=True))
            self.event("stage", text=f"Going on after step {trainer.step}")
        self.event(
            "stage",
            text=f"Unlearning {len(trainer.forget)} images, retaining {len(trainer.retain)}",
            device=describe_device(trainer.device),
            precision=trainer.precision,
            processes=trainer.accelerator.num_processes,
        )
        started, first = time.monotonic(), trainer.step
        self.preview_start()
        for record in trainer.steps():
            rate = (time.monotonic() - started) / (record.step - first)
            eta = rate * (record.steps - record.step)
            self.event("step", **record.asdict(), eta=round(eta, 1))
            if self.is_main:
                self.run.set_state(step=record.step)
            last = record.step == record.steps
            if _due(self.request.preview_every, record.step) or last:
                self.preview(record.step)
            if _due(self.request.checkpoint_every, record.step) and not last:
                self.save_checkpoint()
            if self.run.cancel_requested() and not last:
                self.save_weights()
                raise Stopped("cancelled", f"Cancelled after step {record.step}.")
            if should_stop() and not last:
                self.save_checkpoint()
                raise Stopped("interrupted", f"Interrupted after step {record.step}; can go on.")

    def finish(self) -> None:
        """Write the weights, measure, and close the folder with its manifest."""
        if not self.is_main:
            return
        self.event("stage", text="Writing the weights")
        digest = self.save_weights()
        self.event("stage", text="Measuring retain and forget images")
        trainer = self.trainer
        sets = evaluation_sets(self.request, trainer.student.image_size, self.run.folder)
        metrics = evaluate(self.request, trainer.teacher, trainer.student, sets)
        write_atomically(self.run.folder / "metrics.json", dump_json(metrics))
        self.event("metrics", text=verdict(metrics))
        self.run.checkpoint.unlink(missing_ok=True)
        self.write_manifest(digest)

    def end(self, status: str, message: str) -> None:
        """The last word of this execution."""
        self.event("end", status=status, message=message)
        if self.is_main:
            self.run.set_state(status=status, finished=time.time(), message=message)

    def event(self, kind: str, **values: Any) -> None:
        """Log an event and pass it on."""
        if not self.is_main:
            return
        event = self.run.log(kind, **values)
        if self.on_event:
            self.on_event(event)

    def preview_start(self) -> None:
        """What previews compare with: holes, and what the original makes of them."""
        if not self.request.preview_every or not self.is_main:
            return
        trainer = self.trainer
        size = trainer.student.image_size
        self.hole = parse_mask(PREVIEW_MASK, size)
        # Evenly spread over the set, so that groups in its order all show.
        self.shown = {
            name: images.images(
                torch.linspace(0, len(images) - 1, min(PREVIEW_TILES, len(images))).long()
            )
            for name, images in (("forget", trainer.forget), ("retain", trainer.retain))
        }
        for name, images in self.shown.items():
            holed = torch.where(self.hole, torch.full_like(images, 0.5), images)
            self.write_strip(f"{name}-input", holed)
            self.write_strip(f"{name}-original", self.completed(trainer.teacher, images))
        self.preview(trainer.step)

    def preview(self, step: int) -> None:
        """What the student makes of the shown images now."""
        if not self.request.preview_every or not self.is_main:
            return
        for name, images in self.shown.items():
            self.write_strip(f"{name}-{step:06d}", self.completed(self.trainer.student, images))
        self.event("preview", step=step)

    def completed(self, model: ImageToImageModel, images: Tensor) -> Tensor:
        """Completions under the preview's hole and seed."""
        generator = torch.Generator().manual_seed(self.request.seed)
        device = self.trainer.device
        with autocast(device, self.trainer.precision):
            return model.complete(images.to(device), self.hole.to(device), generator=generator)

    def write_strip(self, name: str, images: Tensor) -> None:
        """Pictures side by side as one file."""
        tiles, pitch = to_pil(images), PREVIEW_SIDE + PREVIEW_GAP
        strip = Image.new("RGBA", (pitch * len(tiles) - PREVIEW_GAP, PREVIEW_SIDE))
        for place, tile in enumerate(tiles):
            sized = tile.resize((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BICUBIC)
            strip.paste(sized, (pitch * place, 0))
        temporary = self.run.previews / f".{name}.png"
        strip.save(temporary)
        temporary.replace(self.run.previews / f"{name}.png")

    def save_checkpoint(self) -> None:
        """Everything a resumed run needs, replaced atomically."""
        if not self.is_main:
            return
        temporary = self.run.checkpoint.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(self.trainer.state_dict(), file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.run.checkpoint)
        except RuntimeError as error:  # torch reports a full disk as a failed archive
            raise OSError(errno.ENOSPC, "checkpoint not written") from error
        finally:
            temporary.unlink(missing_ok=True)

    def save_weights(self) -> str:
        """The student as a file that `load_model(checkpoint=…)` opens; returns its digest."""
        if not self.is_main:
            return ""
        student = self.trainer.student
        description = student.describe() | {"run": self.run.id, "steps": self.trainer.step}
        return save_weights(student.state_dict(), self.run.weights, description)

    def write_manifest(self, weights_digest: str) -> None:
        """Versions and digests; its presence says that the folder is complete."""
        names = ("request.json", "metrics.json", "events.jsonl")
        manifest = {
            "run": self.run.id,
            "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
            "device": describe_device(self.trainer.device),
            "threads": torch.get_num_threads(),
            "precision": self.trainer.precision,
            "model_before": state_digest(self.trainer.teacher.state_dict()),
            "model_after": state_digest(self.trainer.student.state_dict()),
            "files": {name: file_digest(self.run.folder / name) for name in names}
            | {"weights/unlearned.safetensors": weights_digest},
        }
        write_atomically(self.run.folder / "manifest.json", dump_json(manifest))


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
