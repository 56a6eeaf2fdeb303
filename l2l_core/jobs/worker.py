"""The training process: takes queued runs one at a time and stays warm between them."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType

from filelock import FileLock, Timeout

from l2l_core.datasets import load_image_set
from l2l_core.errors import PlainError
from l2l_core.jobs import queue
from l2l_core.jobs.runner import execute
from l2l_core.jobs.store import Run, RunError, RunStore
from l2l_core.models import load_model
from l2l_core.runtime import choose_device, describe_device

POLL_SECONDS = 0.3
GRACE_SECONDS = 8.0
"""How long a step or a measurement may still take after SIGTERM."""
logger = logging.getLogger(__name__)


class Worker:
    """Serves one data folder; a lock keeps a second worker out."""

    def __init__(self, store: RunStore, parent: int | None = None) -> None:
        self.store = store
        self.parent = parent
        self.stopping = threading.Event()
        self.run: Run | None = None

    def serve(self) -> None:
        """Work until told to stop (SIGTERM, SIGINT) or until the parent process is gone.

        Raises:
            Timeout: another worker serves this data folder.
        """
        with FileLock(self.store.root / "worker.lock", timeout=0):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)
            threading.Thread(target=self._keep_beating, daemon=True).start()
            queue.recover(self.store)
            self._warm_up()
            try:
                while not self.should_stop():
                    self.run = queue.claim_next(self.store)
                    if self.run is None:
                        self.stopping.wait(POLL_SECONDS)
                    else:
                        self._execute(self.run)
            finally:
                queue.rest(self.store)

    def should_stop(self) -> bool:
        """Whether to leave after the current step."""
        if self.parent is not None and os.getppid() != self.parent:
            self.stopping.set()
        return self.stopping.is_set()

    def _execute(self, run: Run) -> None:
        logger.info("Run %s: started", run.id)
        try:
            logger.info("Run %s: %s", run.id, execute(run, should_stop=self.should_stop))
        except RunError as error:
            logger.error("Run %s: %s", run.id, error)
            queue.give_up(run, str(error))

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self.stopping.is_set():
            self.stopping.set()
            deadline = threading.Timer(GRACE_SECONDS, self._leave_now)
            deadline.daemon = True
            deadline.start()

    def _leave_now(self) -> None:
        """Leave in the middle of something long; the run goes on from its last checkpoint."""
        try:
            if self.run is not None and self.run.state.status == "running":
                message = "Interrupted; can go on from the last checkpoint."
                self.run.set_state(status="interrupted", finished=time.time(), message=message)
                self.run.log("end", status="interrupted", message=message)
            queue.rest(self.store)
        finally:
            os._exit(0)

    def _keep_beating(self) -> None:
        device = describe_device(choose_device())
        while not self.stopping.is_set():
            with suppress(OSError):  # a full disk; try again
                queue.beat(self.store, device)
            self.stopping.wait(2)

    def _warm_up(self) -> None:
        """Decode the built-in images once, so that the first run starts at once."""
        try:
            load_image_set(("builtin",), load_model().image_size)
        except (PlainError, OSError) as error:
            logger.warning("Nothing to warm up with: %s", type(error).__name__)


def main(parent: int | None = None) -> int:
    """Serve the data folder; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker %(message)s")
    os.umask(0o077)
    try:
        Worker(RunStore(), parent).serve()
    except Timeout:
        logger.error("Another worker serves this data folder already.")
        return 1
    return 0
