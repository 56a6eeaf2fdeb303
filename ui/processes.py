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
RESTART_SECONDS = 2.0


class Children:
    """Keeps one process per command of `python -m l2l_core` alive."""

    def __init__(self, root: Path, commands: tuple[str, ...] = ("worker", "completer")) -> None:
        self.root = root
        self.commands = commands
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.stopping = threading.Event()

    def start(self) -> None:
        """Start all, and a thread that starts again what dies."""
        for command in self.commands:
            self._launch(command)
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self, patience: float = 10.0) -> None:
        """Ask all to leave (the worker saves its run), then insist."""
        self.stopping.set()
        for process in self.processes.values():
            process.terminate()
        until = time.monotonic() + patience
        for process in self.processes.values():
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def _launch(self, command: str) -> None:
        environment = os.environ | {"L2L_DATA": str(self.root)}
        arguments = [sys.executable, "-m", "l2l_core", command, "--parent", str(os.getpid())]
        self.processes[command] = subprocess.Popen(
            arguments, env=environment, cwd=Path(__file__).parents[1]
        )

    def _watch(self) -> None:
        while not self.stopping.wait(RESTART_SECONDS):
            for command, process in list(self.processes.items()):
                if process.poll() is not None and not self.stopping.is_set():
                    logger.warning(
                        "The %s stopped (%s); starting it again", command, process.poll()
                    )
                    self._launch(command)
