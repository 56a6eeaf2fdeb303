"""Carry out one run: the path that the command line, the Python API and the worker share."""

from __future__ import annotations

import errno
import logging
import os
import platform
import re
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from safetensors import SafetensorError

from l2l_core import __version__
from l2l_core.config import UnlearnRequest, dump_json
from l2l_core.datasets import ImageSet
from l2l_core.errors import PlainError
from l2l_core.evaluation.evaluate import LIMIT, evaluate, evaluation_sets
from l2l_core.evaluation.report import verdict
from l2l_core.files import replacing, write_atomically
from l2l_core.jobs.previews import Previews, PreviewsLeft
from l2l_core.jobs.reports import write_report
from l2l_core.jobs.results import read_json
from l2l_core.jobs.store import Run, RunError, RunStore, create_run, is_main_process
from l2l_core.models import load_gold_standard, load_model, load_original
from l2l_core.models.base import ImageToImageModel
from l2l_core.models.checkpoints import file_digest, save_weights, state_digest
from l2l_core.registry import FAMILIES
from l2l_core.runtime import choose_device, describe_device, is_out_of_memory
from l2l_core.unlearning.trainer import OtherOriginalError, Trainer

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "safetensors", "pillow", "numpy")
STEPWISE_LIMIT = 64
"""Images of a set measured at the end of a run of a model that completes step by step."""
FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
logger = logging.getLogger(__name__)

Stop = Callable[[], bool]
OnEvent = Callable[[dict[str, Any]], None]


class Stopped(Exception):
    """Raised inside a run to leave its loop; carries the status it ends in."""


def execute(run: Run, *, should_stop: Stop = lambda: False, on_event: OnEvent | None = None) -> str:
    """Train, evaluate and write everything into the run's folder; returns the final status.

    A run that has a checkpoint goes on from it. `should_stop` is asked after every step; a stopped
    run is “interrupted” and can go on, a cancelled one keeps its weights so far. Errors end the run
    as “failed” with a plain message.

    Raises:
        RunError: another process executes this run.
    """
    session = _Session(run, on_event)
    try:
        with run.execution_lock() if session.is_main else nullcontext():
            return _execute(session, should_stop)
    except Timeout as error:
        raise RunError("Another process executes this run already.") from error


def _execute(session: _Session, should_stop: Stop) -> str:
    run = session.run
    try:
        session.begin()
        session.train(should_stop)
        session.finish()
        return "done"
    except Stopped as stopped:
        status, message = stopped.args
    except KeyboardInterrupt:
        status, message = "interrupted", "Interrupted; can go on from the last checkpoint."
    except PlainError as error:
        status, message = "failed", str(error)
    except OSError as error:
        status = "failed"
        message = "A file could not be read or written."
        if error.errno in FULL_DISK:
            message = "The disk is full."
        logger.error("Run %s: %s", run.id, errno.errorcode.get(error.errno or 0, "I/O error"))
    except Exception as error:
        status, message = "failed", "Something unexpected went wrong; the log has the details."
        if is_out_of_memory(error):
            message = "The device ran out of memory. Choose a smaller batch."
        else:
            logger.error("Run %s failed with %s", run.id, describe_error(error))
    session.end(status, message)
    return status


def describe_error(error: BaseException) -> str:
    """An error's type and where it arose; not its message, which may name somebody's file."""
    return type(error).__name__ + "\n" + "".join(traceback.format_tb(error.__traceback__))


def quick_limit(family: str) -> int:
    """Most images of a set in the look at the end of a run."""
    return LIMIT if FAMILIES[family].completion_steps is None else STEPWISE_LIMIT


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
    run = (
        create_run(place, request, status="running")
        if place
        else RunStore().create(request, status="running")
    )
    if execute(run) != "done":
        raise RunError(run.state.message)
    return run


def measure(run: Run, mask: str, device: str | None = None) -> dict[str, Any]:
    """Measure a finished run again, under another hole; on the run's device unless one is named.

    Raises:
        RunError: it has no weights.
        OtherOriginalError: the weights it started from have been replaced since.
    """
    if not run.weights.is_file():
        raise RunError("This run has no weights to measure.")
    request = run.request
    device = str(choose_device(device or request.device))
    before = open_original(run, device)
    after = load_model(request.model, run.weights, device=device)
    limit = quick_limit(before.family)
    sets = evaluation_sets(request, before.image_size, run.folder, limit, seen=True)
    gold = load_gold_standard(request, device)
    return evaluate(request, before, after, sets, mask, reference=gold)


def open_original(run: Run, device: str) -> ImageToImageModel:
    """The model that a run started from.

    Raises:
        ValueError: it cannot be had.
        OtherOriginalError: its weights have been replaced since the run ended.
    """
    model, known = load_original(run.request, device), original_digest(run)
    if known and state_digest(model.state_dict()) != known:
        raise OtherOriginalError(
            "The weights this run started from have been replaced since, so there is nothing to "
            "compare it with. Run it anew."
        )
    return model


def original_digest(run: Run) -> str:
    """Of all parameters of the model that a finished run started from; "" if it is not finished."""
    manifest = read_json(run.folder / "manifest.json") or {}
    return manifest.get("model_before", "")


class _Session:
    """One execution of a run."""

    def __init__(self, run: Run, on_event: OnEvent | None) -> None:
        self.run, self.request, self.on_event = run, run.request, on_event
        self.is_main = is_main_process()
        self.previews: Previews | None = None

    def begin(self) -> None:
        """Say that the run is being executed."""
        if self.is_main:
            self.run.clear_temporary()
            started = self.run.state.started or time.time()
            self.run.set_state(status="running", started=started, finished=None, message="")

    def train(self, should_stop: Stop) -> None:
        """Open everything, then step to the end."""
        self.event("stage", text="Opening the model and the images")
        self.trainer = trainer = Trainer.from_request(self.request, self.run.folder)
        if self.run.checkpoint.is_file():
            state = torch.load(self.run.checkpoint, map_location="cpu", weights_only=True)
            trainer.load_state_dict(state)
            self.event("stage", text=f"Going on after step {trainer.step}")
        if self.is_main:
            self.run.rewind_events(trainer.step)
            self.run.set_state(step=trainer.step)
        self.event(
            "stage",
            text=f"Unlearning {_count(trainer.forget)}, retaining {_count(trainer.retain)}",
            device=describe_device(trainer.device),
            precision=trainer.precision,
            processes=trainer.accelerator.num_processes,
        )
        started, first = time.monotonic(), trainer.step
        self.open_previews(lambda: self.run.cancel_requested() or should_stop())
        self.preview(trainer.step)
        for record in trainer.steps():
            rate = (time.monotonic() - started) / (record.step - first)
            eta = rate * (record.steps - record.step)
            self.event("step", **record.asdict(), eta=round(eta, 1))
            if self.is_main:
                self.run.set_state(step=record.step)
            last = record.step == record.steps
            if _due(self.request.preview_interval, record.step) or last:
                self.preview(record.step)
            cancelled, stopped = self.agree(self.run.cancel_requested(), should_stop())
            if cancelled and not last:
                self.save_weights()
                raise Stopped("cancelled", f"Cancelled after step {record.step}.")
            # Also after the last step: a run killed while it is measured is only measured again.
            every = self.request.checkpoint_every
            if stopped or _due(every, record.step) or (last and every):
                self.save_checkpoint()
            if stopped:
                raise Stopped("interrupted", f"Interrupted after step {record.step}; can go on.")

    def agree(self, *wishes: bool) -> list[bool]:
        """What any process wishes, the same in all: one that left alone would hang the others."""
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            return list(wishes)
        votes = torch.tensor(wishes, dtype=torch.float32, device=self.trainer.device)
        return [bool(vote) for vote in accelerator.reduce(votes, reduction="sum").tolist()]

    def finish(self) -> None:
        """Write the weights, measure, and close the folder with its manifest.

        A kill between any two of these lines leaves a run that goes on or counts as done.
        """
        if not self.is_main:
            return
        self.event("stage", text="Writing the weights")
        digest = self.save_weights()
        self.heed_cancel()
        self.event("stage", text="Measuring retain and forget images")
        trainer = self.trainer
        limit = quick_limit(trainer.student.family)
        size = trainer.student.image_size
        sets = evaluation_sets(self.request, size, self.run.folder, limit, seen=True)
        metrics = evaluate(
            self.request,
            trainer.teacher,
            trainer.student,
            sets,
            reference=load_gold_standard(self.request, str(trainer.device)),
            on_set=self.heed_cancel,
        )
        write_atomically(self.run.folder / "metrics.json", dump_json(metrics))
        self.event("metrics", text=verdict(metrics))
        self.event("end", status="done", message="")
        self.write_manifest(digest)
        self.run.set_state(status="done", finished=time.time(), message="")
        with suppress(OSError, RunError):  # it is done, whatever becomes of these
            self.run.drop_checkpoint()
            write_report(self.run)

    def heed_cancel(self) -> None:
        """Leave if somebody asked for that while the run is measured.

        Raises:
            Stopped: somebody did.
        """
        if self.run.cancel_requested():
            raise Stopped("cancelled", "Cancelled before it was measured.")

    def end(self, status: str, message: str) -> None:
        """The last word of an execution that did not finish."""
        with suppress(OSError):  # on a full disk the state matters more
            self.event("end", status=status, message=message)
        if self.is_main:
            self.run.set_state(status=status, finished=time.time(), message=message)
            if status == "cancelled":
                self.run.drop_checkpoint()

    def event(self, kind: str, **values: Any) -> None:
        """Log an event and pass it on."""
        if not self.is_main:
            return
        event = self.run.log(kind, **values)
        if self.on_event:
            self.on_event(event)

    def open_previews(self, leaving: Stop) -> None:
        """What all previews share; they stop between two steps of a completion when `leaving`.

        Only the main process has any, so the run itself is left after a step, where all agree.
        """
        if self.request.preview_interval and self.is_main:
            with suppress(PreviewsLeft):
                self.previews = Previews(self.trainer, self.run.previews, leaving)

    def preview(self, step: int) -> None:
        """What the student makes of the shown images now, unless the run is to be left."""
        with suppress(PreviewsLeft):
            if self.previews:
                self.previews.update(step)
                self.event("preview", step=step)

    def save_checkpoint(self) -> None:
        """Everything a resumed run needs, replaced atomically."""
        if not self.is_main:
            return
        state = self.trainer.state_dict()
        with full_disk_is_an_os_error(), replacing(self.run.checkpoint) as temporary:
            torch.save(state, temporary)
        if self.run.state.deaths:
            self.run.set_state(deaths=0)

    def save_weights(self) -> str:
        """The student as a file that `load_model(checkpoint=…)` opens; returns its digest."""
        if not self.is_main:
            return ""
        student = self.trainer.student
        description = student.describe() | {"run": self.run.id, "steps": self.trainer.step}
        with full_disk_is_an_os_error():
            return save_weights(student.state_dict(), self.run.weights, description)

    def write_manifest(self, weights_digest: str) -> None:
        """Versions and digests; its presence says that the folder is complete."""
        names = ("request.json", "metrics.json", "events.jsonl")
        manifest = {
            "run": self.run.id,
            "versions": {"l2l_core": __version__, "python": platform.python_version()}
            | {package: version(package) for package in PACKAGES},
            "device": describe_device(self.trainer.device),
            "threads": torch.get_num_threads(),
            "precision": self.trainer.precision,
            "model_before": self.trainer.original_digest,
            "model_after": state_digest(self.trainer.student.state_dict()),
            "files": {name: file_digest(self.run.folder / name) for name in names}
            | {"weights/unlearned.safetensors": weights_digest},
        }
        write_atomically(self.run.folder / "manifest.json", dump_json(manifest))


@contextmanager
def full_disk_is_an_os_error() -> Iterator[None]:
    """torch reports a full disk as a failed archive, safetensors as an error of its own."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.ENOSPC
        raise OSError(code, os.strerror(code)) from error


def _count(images: ImageSet) -> str:
    """How many images, and how many more could not be read."""
    unreadable = f" ({images.skipped} more could not be read)" if images.skipped else ""
    return f"{len(images)} image{'' if len(images) == 1 else 's'}{unreadable}"


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
