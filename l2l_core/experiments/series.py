"""Runs that lie in one folder, each carried out once: what comparisons and sweeps share."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from l2l_core.config import UnlearnRequest, dump_json
from l2l_core.files import Stamp, stamp_of, write_atomically
from l2l_core.jobs.runner import OnEvent, Stop, execute
from l2l_core.jobs.store import Run, RunError, create_run
from l2l_core.models.checkpoints import file_digest
from l2l_core.registry import original_path
from l2l_core.runtime import choose_device

NOT_PART_OF_THE_RESULT = ("device", "preview_every", "checkpoint_every")


def digest(values: Mapping[str, Any]) -> str:
    """A short name for plain values: equal values, equal name."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Series:
    """A folder of runs, named after what they were asked; a finished one is never run again."""

    folder: Path

    def name_of(self, request: UnlearnRequest) -> str:
        """The name of a request's run: what was asked and the weights it starts from, for files
        that are replaced keep their names. The device makes no difference.
        """
        asked = {k: v for k, v in request.to_dict().items() if k not in NOT_PART_OF_THE_RESULT}
        return digest(asked | {"original": _original_digest(request)})

    def find(self, request: UnlearnRequest) -> Run | None:
        """The request's run, in whatever state it is."""
        folder = self.folder / "runs" / self.name_of(request)
        return Run(folder) if (folder / "state.json").is_file() else None

    def done(self, request: UnlearnRequest) -> Run | None:
        """The request's run if it is finished."""
        run = self.find(request)
        return run if run and run.state.status == "done" else None

    def carry_out(
        self,
        request: UnlearnRequest,
        should_stop: Stop = lambda: False,
        on_event: OnEvent | None = None,
    ) -> Run:
        """Run a request, or go on with what was interrupted or failed; a finished run comes back
        as it is. Its state says how it ended.

        Raises:
            RunError: another process executes it.
        """
        run = self.find(request)
        if run is None:
            folder = self.folder / "runs" / self.name_of(request)
            run = create_run(folder, request, status="running")
        elif run.state.status == "done":
            return run
        write_atomically(run.folder / "request.json", dump_json(request.to_dict()))
        execute(run, should_stop=should_stop, on_event=on_event)
        return run

    def carry_out_all(
        self,
        requests: Sequence[UnlearnRequest],
        devices: Sequence[str],
        should_stop: Stop = lambda: False,
        on_event: OnEvent | None = None,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Carry out many requests, one at a time on each device.

        With one device this happens here; with several, a process for each takes one request after
        another. Stops early when asked; what is finished stays.

        Args:
            on_event: told of the events of a run that is executed here.
            on_progress: told how many are finished.

        Raises:
            ValueError: a device does not exist here.
            RunError: another process executes one of them (with one device; several leave it out).
        """
        for device in devices:
            choose_device(device)  # one that does not exist would fail run after run
        if len(devices) > 1:
            self._in_processes(requests, devices, should_stop, on_progress)
            return
        for request in requests:
            on_progress(sum(self.done(r) is not None for r in requests))
            if should_stop():
                return
            self.carry_out(replace(request, device=devices[0]), should_stop, on_event)
        on_progress(sum(self.done(r) is not None for r in requests))

    def _in_processes(
        self,
        requests: Sequence[UnlearnRequest],
        devices: Sequence[str],
        should_stop: Stop,
        on_progress: Callable[[int], None],
    ) -> None:
        context = get_context("spawn")  # a forked process could not use CUDA
        tasks: Queue[dict[str, Any] | None] = context.Queue()
        for request in [r for r in requests if not self.done(r)]:
            tasks.put(request.to_dict())
        stop = context.Event()
        workers = []
        for device in devices:
            tasks.put(None)
            arguments = (self, device, tasks, stop)
            workers.append(context.Process(target=_work, args=arguments, daemon=True))
            workers[-1].start()
        while any(worker.is_alive() for worker in workers):
            if should_stop():
                stop.set()
            for worker in workers:
                worker.join(timeout=0.2)
            on_progress(sum(self.done(r) is not None for r in requests))
        tasks.cancel_join_thread()


def _original_digest(request: UnlearnRequest) -> str:
    path = original_path(request.model, request.checkpoint)
    if not (path and path.is_file()):  # a folder, or nothing yet: opening it will tell
        return ""
    return _file_digest(path, stamp_of(path))


@lru_cache(maxsize=32)
def _file_digest(path: Path, stamp: Stamp | None) -> str:
    return file_digest(path)


def _work(series: Series, device: str, tasks: Queue[dict[str, Any] | None], stop: Event) -> None:
    """One device's process; Ctrl-C reaches it too, but the parent decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while not stop.is_set() and (settings := tasks.get()) is not None:
        request = UnlearnRequest.from_dict(settings | {"device": device})
        try:
            series.carry_out(request, should_stop=stop.is_set)
        except RunError:  # somebody else executes it
            continue
