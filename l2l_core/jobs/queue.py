"""The queue is the set of runs that are queued, oldest first; there is nothing else to keep in
step.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from filelock import Timeout

from l2l_core.files import write_atomically
from l2l_core.jobs.store import Run, RunError, RunStore

MOST_DEATHS = 3
"""A run that kills its worker so often without getting further would block everybody else's."""
TOO_MANY_DEATHS = (
    f"The training process died {MOST_DEATHS} times at this run; perhaps memory ran out. "
    "Choose a smaller batch or model."
)


def waiting(store: RunStore) -> list[Run]:
    """Queued runs in the order they will be taken."""
    return [run for run, state in reversed(store.states()) if state.status == "queued"]


def position(store: RunStore, run: Run) -> int:
    """How many runs come before this one, the running one included; 0: it is running or next."""
    own = run.state
    if own.status == "running":
        return 0
    return sum(
        state.status == "running"
        or (state.status == "queued" and (state.submitted, other.id) < (own.submitted, run.id))
        for other, state in store.states()
        if other.id != run.id
    )


def claim_next(store: RunStore) -> Run | None:
    """Take the oldest queued run; only the holder of the worker's lock calls this."""
    if not waiting(store):
        return None
    with store.changing():
        for run in waiting(store):
            run.set_state(status="running", started=run.state.started or time.time(), message="")
            return run
    return None


def give_up(run: Run, message: str) -> None:
    """A claimed run that cannot begin has failed, unless another process executes it."""
    if not run.folder.is_dir():  # erased meanwhile; a lock would make the folder anew
        return
    with suppress(RunError, Timeout), run.execution_lock():
        if run.state.status == "running":
            _end(run, "failed", message)


def cancel(store: RunStore, run_id: str, owner: str) -> str:
    """Cancel a queued run at once, a running one after its step; returns a sentence on it.

    Raises:
        RunError: no such run, or it is somebody else's.
    """
    with store.changing():
        run = store.owned(run_id, owner)
        if run.state.status == "running":
            run.request_cancel()
            return "Stopping after the current step."
        if run.state.status == "queued":
            _end(run, "cancelled", "Cancelled while it was waiting.")
            return "Cancelled."
    return "This run has already ended."


def can_go_on(run: Run) -> bool:
    """Whether `resume` would take it: interrupted, or failed with a checkpoint to go on from."""
    status = run.state.status
    return status == "interrupted" or (status == "failed" and run.checkpoint.is_file())


def resume(store: RunStore, run_id: str, owner: str) -> str:
    """Queue an interrupted or failed run again; it goes on from its checkpoint.

    Returns a sentence on it.

    Raises:
        RunError: no such run, somebody else's, or one that cannot go on.
    """
    with store.changing():
        run = store.owned(run_id, owner)
        if not can_go_on(run):
            raise RunError(f"This run cannot go on: it is {run.state.status}.")
        (run.folder / "cancel").unlink(missing_ok=True)
        run.set_state(status="queued", finished=None, message="", deaths=0)
    return "It goes on when its turn comes."


def recover(store: RunStore) -> list[Run]:
    """Settle what a dead worker left running; called by a worker that holds the lock.

    Most runs are queued again and go on from their checkpoint. One that was already complete is
    done, one that was to be cancelled is cancelled, and one that keeps killing its worker has
    failed. A run that another process executes (the command line) is left alone.

    Returns:
        The runs that are queued again, newest first.
    """
    store.sweep()
    orphans = []
    for run, state in store.states():
        if state.status == "running" and not _is_executed(run):
            if (run.folder / "manifest.json").is_file():
                run.set_state(status="done", finished=time.time(), message="")
            elif run.cancel_requested():
                _end(run, "cancelled", "Cancelled when its process stopped.")
            elif state.deaths + 1 >= MOST_DEATHS:
                _end(run, "failed", TOO_MANY_DEATHS)
            else:
                message = "The worker stopped; this run goes on by itself."
                run.set_state(status="queued", message=message, deaths=state.deaths + 1)
                run.log("stage", text="The worker stopped; going on from the last checkpoint.")
                orphans.append(run)
    return orphans


def worker_alive(store: RunStore, patience: float = 15.0) -> bool:
    """Whether a worker has shown itself in the last seconds."""
    try:
        return time.time() - _heartbeat(store).stat().st_mtime < patience
    except FileNotFoundError:
        return False


def worker_device(store: RunStore) -> str:
    """What the worker trains on, in words; empty if none has shown itself."""
    with suppress(FileNotFoundError):
        return _heartbeat(store).read_text(encoding="utf-8") if worker_alive(store) else ""
    return ""


def beat(store: RunStore, device: str) -> None:
    """Say that the worker lives, and what it trains on."""
    write_atomically(_heartbeat(store), device)


def rest(store: RunStore) -> None:
    """Say that the worker has left."""
    _heartbeat(store).unlink(missing_ok=True)


def _heartbeat(store: RunStore) -> Path:
    return store.root / "worker.heartbeat"


def _end(run: Run, status: str, message: str) -> None:
    run.set_state(status=status, finished=time.time(), message=message)
    run.log("end", status=status, message=message)
    if status == "cancelled":
        run.drop_checkpoint()


def _is_executed(run: Run) -> bool:
    try:
        with run.execution_lock():
            return False
    except Timeout:
        return True
