"""The queue is the set of runs that are queued, oldest first; there is nothing else to keep in
step.
"""

from __future__ import annotations

import time
from pathlib import Path

from filelock import FileLock

from l2l_core.jobs.store import Run, RunError, RunStore, write_atomically


def waiting(store: RunStore) -> list[Run]:
    """Queued runs in the order they will be taken."""
    return [run for run in reversed(store.runs()) if run.state.status == "queued"]


def position(store: RunStore, run: Run) -> int:
    """How many runs come before this one, the running one included."""
    ahead = [r for r in store.runs() if r.state.status == "running" and r.id != run.id]
    for other in waiting(store):
        if other.id == run.id:
            break
        ahead.append(other)
    return len(ahead)


def claim_next(store: RunStore) -> Run | None:
    """Take the oldest queued run; only the holder of the worker's lock calls this."""
    with _changing(store):
        for run in waiting(store):
            run.set_state(status="running", started=run.state.started or time.time(), message="")
            return run
    return None


def cancel(store: RunStore, run_id: str, owner: str) -> str:
    """Cancel a queued run at once, a running one after its step; returns a sentence on it.

    Raises:
        RunError: no such run, or it is somebody else's.
    """
    with _changing(store):
        run = store.get(run_id)
        if run.state.owner != owner:
            raise RunError("There is no such run; it may have been erased.")
        if run.state.status == "running":
            run.request_cancel()
            return "Stopping after the current step."
        if run.state.status == "queued":
            run.set_state(status="cancelled", finished=time.time(), message="Cancelled.")
            run.log("end", status="cancelled", message="Cancelled before it began.")
            return "Cancelled."
    return "This run has already ended."


def recover(store: RunStore) -> list[Run]:
    """Queue again what a dead worker left running; called by a worker that holds the lock."""
    orphans = [run for run in store.runs() if run.state.status == "running"]
    for run in orphans:
        run.set_state(status="queued", message="The worker stopped; this run goes on by itself.")
        run.log("stage", text="The worker stopped; going on from the last checkpoint.")
    return orphans


def worker_alive(store: RunStore, patience: float = 15.0) -> bool:
    """Whether a worker has shown itself in the last seconds."""
    heartbeat = _heartbeat(store)
    return heartbeat.is_file() and time.time() - heartbeat.stat().st_mtime < patience


def worker_device(store: RunStore) -> str:
    """What the worker trains on, in words; empty if none has shown itself."""
    return _heartbeat(store).read_text() if worker_alive(store) else ""


def beat(store: RunStore, device: str) -> None:
    """Say that the worker lives, and what it trains on."""
    write_atomically(_heartbeat(store), device)


def _heartbeat(store: RunStore) -> Path:
    return store.root / "worker.heartbeat"


def _changing(store: RunStore) -> FileLock:
    """Held while a run leaves the queue, so that claiming and cancelling never cross."""
    return FileLock(store.root / "queue.lock")
