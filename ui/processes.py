"""Worker and completer as children of the web process: started, watched, stopped with it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

logger = logging.getLogger(__name__)
SOONEST, LATEST = 1.0, 30.0
"""Seconds to wait before a child is started again; doubles while it keeps dying at once."""


class Children:
    """Keeps one process per command of `python -m l2l_core` alive."""

    def __init__(self, root: Path, commands: tuple[str, ...] = ("worker", "completer")) -> None:
        self.root = root
        self.commands = commands
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._keepers: list[threading.Thread] = []

    def start(self) -> None:
        """Start all; each is started again when it dies."""
        for command in self.commands:
            self._launch(command)
            keeper = threading.Thread(target=self._keep, args=(command,), daemon=True)
            self._keepers.append(keeper)
            keeper.start()

    def stop(self, patience: float = 10.0) -> None:
        """Ask all to leave (the worker saves its run), then insist."""
        self._stopping.set()
        for keeper in self._keepers:
            keeper.join(2)
        for process in self.processes.values():
            process.terminate()
        until = time.monotonic() + patience
        for process in self.processes.values():
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def _launch(self, command: str) -> None:
        self.processes[command] = subprocess.Popen(
            [sys.executable, "-m", "l2l_core", command, "--parent", str(os.getpid())],
            env=os.environ | {"L2L_DATA": str(self.root)},
            cwd=Path(__file__).parents[1],
            start_new_session=True,  # Ctrl-C is ours to pass on, in order
        )

    def _keep(self, command: str) -> None:
        pause = SOONEST
        while not self._stopping.is_set():
            began = time.monotonic()
            while self.processes[command].poll() is None:
                if self._stopping.wait(0.5):
                    return
            pause = SOONEST if time.monotonic() - began > LATEST else min(2 * pause, LATEST)
            code = self.processes[command].returncode
            logger.warning("The %s stopped (%s); starting it again", command, code)
            if not self._stopping.wait(pause):
                self._launch(command)
