"""What the page can do, in plain values: no Gradio and no PyTorch here, so it is tested without
either.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from l2l_core.config import ConfigError
from l2l_core.images import ImageError
from l2l_core.jobs import queue
from l2l_core.jobs.client import CompareRequest, CompareRow, CompleterClient, CompleterError
from l2l_core.jobs.store import Run, RunError, RunStore
from ui import views
from ui.form import Form, Order, check
from ui.views import View

UserError = (ConfigError, ImageError, RunError, CompleterError, ValueError)
"""What a person can mend; the message says how."""

DOUBLE_CLICK_SECONDS = 5.0
LISTED = 50


@dataclass(frozen=True)
class Health:
    """What this instance is doing."""

    state: str  # ready, training or starting
    device: str
    waiting: int


class Studio:
    """The services of one data folder."""

    def __init__(self, root: Path) -> None:
        self.store = RunStore(root)
        self.completer = CompleterClient(self.store.root)
        self._submitting = threading.Lock()

    # --- starting --------------------------------------------------------------------------------

    def submit(self, form: Form, owner: str) -> str:
        """Check everything, queue the run; returns its id.

        A second click within seconds, with the same settings, is the same run.

        Raises:
            UserError: what is wrong, in a sentence; nothing was started and nothing is lost.
        """
        order = check(form)
        with self._submitting:
            if twin := self._twin(order, owner):
                return twin.id
            run = self.store.create(
                order.request,
                owner=owner,
                title=order.title,
                forget_images=order.forget_images,
                retain_images=order.retain_images,
            )
        return run.id

    # --- watching --------------------------------------------------------------------------------

    def health(self) -> Health:
        """Whether training is possible now, and on what."""
        statuses = [run.state.status for run in self.store.runs()]
        device = queue.worker_device(self.store)
        busy = "training" if "running" in statuses else "ready"
        return Health(busy if device else "starting", device, statuses.count("queued"))

    def current(self, owner: str) -> str:
        """The run the page shows when it opens: the active one, else the newest; "" for none."""
        runs = self.store.runs(owner)
        active = [run for run in runs if run.state.status in ("running", "queued")]
        return next((run.id for run in (*active[-1:], *runs[:1])), "")

    def view(self, run_id: str, owner: str) -> View:
        """How a run looks now.

        Raises:
            RunError: no such run, or it is somebody else's.
        """
        return self._view(self.owned(run_id, owner))

    def history(self, owner: str) -> list[View]:
        """One's runs, newest first."""
        return [self._view(run) for run in self.store.runs(owner)[:LISTED]]

    def comparable(self, owner: str) -> list[View]:
        """One's runs that have weights, newest first."""
        return [found for found in self.history(owner) if found.has_weights]

    def previews(self, run_id: str, owner: str, step: int) -> dict[str, bytes]:
        """Strips of the forget and retain samples as PNG: “forget-input”, “forget-original”,
        “forget-now” and the same for retain; those that exist.
        """
        folder = self.owned(run_id, owner).previews
        found = {}
        for kind in ("forget", "retain"):
            for name, stored in (("input", "input"), ("original", "original"), ("now", step)):
                file = f"{kind}-{stored:06d}" if isinstance(stored, int) else f"{kind}-{stored}"
                path = folder / f"{file}.png"
                if path.is_file():
                    found[f"{kind}-{name}"] = path.read_bytes()
        return found

    # --- acting ----------------------------------------------------------------------------------

    def cancel(self, run_id: str, owner: str) -> str:
        """Cancel a run; returns a sentence.

        Raises:
            RunError: no such run, or it is somebody else's.
        """
        return queue.cancel(self.store, run_id, owner)

    def compare(self, request: CompareRequest, owner: str) -> list[CompareRow]:
        """Rows of pictures for one's own run.

        Raises:
            RunError, CompleterError: with a sentence for the page.
        """
        self.owned(request.run_id, owner)
        return self.completer.compare(request)

    def erase(self, run_id: str, owner: str) -> str:
        """Erase one's own run; returns what was erased.

        Raises:
            RunError: no such run, somebody else's, or still running.
        """
        return self.store.delete(self.owned(run_id, owner).id)

    def download(self, run_id: str, owner: str, name: str, scratch: Path) -> Path:
        """A file of one's own run: “weights.safetensors”, or “run.zip”, written into `scratch`.

        Raises:
            RunError: no such run or file.
        """
        run = self.owned(run_id, owner)
        if name == "weights.safetensors" and run.weights.is_file():
            return run.weights
        if name == "run.zip":
            return self.store.export(run.id, scratch / f"{run.id}-{time.time_ns()}.zip")
        raise RunError("This run has no such file.")

    def owned(self, run_id: str, owner: str) -> Run:
        """One's own run; others' do not exist.

        Raises:
            RunError: no such run.
        """
        run = self.store.get(run_id)
        if not owner or run.state.owner != owner:
            raise RunError("There is no such run; it may have been erased.")
        return run

    def _view(self, run: Run) -> View:
        queued = run.state.status == "queued"
        ahead = queue.position(self.store, run) if queued else 0
        return views.view(run, ahead, not queued or queue.worker_alive(self.store))

    def _twin(self, order: Order, owner: str) -> Run | None:
        wanted = json.dumps(order.request.to_dict(), sort_keys=True)
        for run in self.store.runs(owner):
            if time.time() - run.state.submitted > DOUBLE_CLICK_SECONDS:
                return None
            same = json.dumps(run.request.to_dict(), sort_keys=True) == wanted
            images = sum(1 for _ in (run.folder / "inputs" / "forget").glob("*.png"))
            active = run.state.status in ("queued", "running")
            if same and active and images == len(order.forget_images):
                return run
        return None
