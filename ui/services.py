"""What the page can do, in plain values: no Gradio and no PyTorch here, so it is tested without
either.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from l2l_core.config import ConfigError
from l2l_core.evaluation.html_report import to_html, to_json
from l2l_core.files import write_atomically
from l2l_core.jobs import queue
from l2l_core.jobs.client import (
    CompareRequest,
    CompareRow,
    CompleterClient,
    Progress,
)
from l2l_core.jobs.reports import export_run, report_of
from l2l_core.jobs.results import TABLE, Measuring, evaluation, measuring
from l2l_core.jobs.store import Run, RunError, RunStore
from l2l_core.registry import FAMILIES, completion_steps
from ui import views
from ui.checkpoints import OPENED, Checkpoints, Opened
from ui.evaluations import Attempt, Evaluation, Tried, aim_of, evaluation_of, tried
from ui.form import Form, Order, check, given
from ui.history import Differences, differences, form_of
from ui.views import Unreadable, View

DOUBLE_CLICK_SECONDS = 5.0
_REPORTS = {"report.html": to_html, "report.json": to_json}
LISTED = 50


@dataclass(frozen=True)
class Health:
    """What this instance is doing."""

    state: str  # ready, training or starting
    device: str


class Studio:
    """The services of one data folder."""

    def __init__(
        self, root: Path, server_paths: bool = False, checkpoint_limit: int = 2 * 1024**3
    ) -> None:
        self.store = RunStore(root)
        self.completer = CompleterClient(self.store.root)
        self.checkpoints = Checkpoints(self.store, self.completer, checkpoint_limit)
        self.server_paths = server_paths
        self._submitting = threading.Lock()

    # --- starting --------------------------------------------------------------------------------

    def submit(self, form: Form, owner: str, local: bool = True) -> str:
        """Check everything, queue the run; returns its id.

        A second click within seconds, with the same settings, is the same run. `local` says that
        no other machine passed the click on, which naming a file on this machine takes.

        Raises:
            PlainError: what is wrong, in a sentence; nothing was started and nothing is lost.
        """
        self._check_paths("", form.options, local)
        order = check(self._with_checkpoint(form, owner))
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

    def open_checkpoint(
        self,
        owner: str,
        family: str,
        options: Mapping[str, Any],
        *,
        path: str = "",
        upload: str = "",
        local: bool = True,
    ) -> Opened:
        """Open a path on this machine, or else an upload, as a family (“” to find out which).

        Raises:
            PlainError: it cannot be opened, and why; whatever was chosen before stays.
        """
        path = path.strip()
        self._check_paths(path, {family: options} if family else {}, local)
        wanted = given(family, options) if family else {}
        return self.checkpoints.open(owner, family, wanted, path, "" if path else upload)

    def _check_paths(
        self, path: str, options: Mapping[str, Mapping[str, Any]], local: bool
    ) -> None:
        """Who knows a path could take what lies there, so it must be one's own machine."""
        named = [path] + [
            values.get(option.name)
            for family, values in options.items()
            for option in FAMILIES[family].options
            if option.kind == "path"
        ]
        if any(named) and not (self.server_paths and local):
            raise ConfigError("Paths on this machine cannot be opened from here. Upload the file.")

    def base(self, model: str, owner: str) -> str:
        """The model or family whose defaults and options suit what is chosen.

        Raises:
            ConfigError: the checkpoint is not here any more.
        """
        if not model.startswith(OPENED):
            return model
        return self.checkpoints.get(owner, model.removeprefix(OPENED)).family

    def _with_checkpoint(self, form: Form, owner: str) -> Form:
        if not form.model.startswith(OPENED):
            return form
        opened = self.checkpoints.get(owner, form.model.removeprefix(OPENED))
        changed = given(opened.family, form.options.get(opened.family, {}))
        return replace(
            form,
            model=opened.family,
            checkpoint=opened.checkpoint,
            options={opened.family: {**opened.options, **changed}},
        )

    # --- watching --------------------------------------------------------------------------------

    def health(self) -> Health:
        """Whether training is possible now, and on what."""
        statuses = [state.status for _, state in self.store.states()]
        device = queue.worker_device(self.store)
        busy = "training" if "running" in statuses else "ready"
        return Health(busy if device else "starting", device)

    def current(self, owner: str) -> str:
        """The run the page shows when it opens: the active one, else the newest; "" for none."""
        runs = [(run, state) for run, state in self.store.states() if state.owner == owner]
        active = [pair for pair in runs if pair[1].status in ("running", "queued")]
        return next((run.id for run, _ in (*active[-1:], *runs[:1])), "")

    def view(self, run_id: str, owner: str) -> View:
        """How a run looks now.

        Raises:
            RunError: no such run, or it is somebody else's.
        """
        return self._view(self.store.owned(run_id, owner))

    def history(self, owner: str) -> list[View]:
        """One's runs, newest first."""
        found = []
        for run in self.store.runs(owner)[:LISTED]:
            with suppress(RunError):  # erased or damaged meanwhile
                found.append(self._view(run))
        return found

    def unreadable(self, owner: str) -> list[Unreadable]:
        """One's runs that can only be erased: damaged, or of another version; newest first."""
        found = []
        for run in self.store.runs(owner)[:LISTED]:
            try:
                _ = run.request
            except RunError as error:
                with suppress(RunError):  # erased meanwhile
                    found.append(Unreadable(run.id, run.state.title, str(error)))
        return found

    def comparable(self, owner: str) -> list[View]:
        """One's runs that have weights, newest first."""
        return [found for found in self.history(owner) if found.has_weights]

    def previews(self, run_id: str, owner: str, step: int) -> dict[str, bytes]:
        """Strips of the samples as `views.previews` has them. Raises as `view`."""
        return views.previews(self.store.owned(run_id, owner), step)

    def evaluation(self, run_id: str, owner: str) -> Evaluation:
        """What was measured of one's own run, with the pictures of its map.

        Raises:
            RunError: no such run, or it is somebody else's.
        """
        return evaluation_of(self.store.owned(run_id, owner))

    def measuring(self, run_id: str, owner: str) -> Measuring | None:
        """How far the measurement of one's own run is; None if none goes on. Raises as above."""
        return measuring(self.store.owned(run_id, owner))

    def usual_steps(self, run_id: str, owner: str) -> int | None:
        """In how many steps the model of one's own run completes; None if in one pass.

        Raises:
            RunError: no such run, or it is somebody else's.
        """
        request = self.store.owned(run_id, owner).request
        return completion_steps(request.model, request.model_options)

    def tried(self, run_id: str, owner: str) -> list[Tried]:
        """One's finished runs that make the same model forget the same images as this one: points
        of drift and damage, newest first; then the model that never saw them, if measured.

        Raises:
            RunError: no such run, or it is somebody else's.
        """
        found, asked = [], aim_of(self.store.owned(run_id, owner))
        for run in self.store.runs(owner)[:LISTED]:
            with suppress(RunError):  # erased or damaged meanwhile
                metrics = run.metrics if run.state.status == "done" else None
                if metrics and aim_of(run) == asked:
                    found.append(Attempt(self._view(run), run.request, metrics, evaluation(run)))
        return tried(found)

    def differences(self, first: str, second: str, owner: str) -> Differences:
        """What differs between two of one's own runs.

        Raises:
            RunError: no such run, or it is somebody else's.
        """
        return differences(self.store.owned(first, owner), self.store.owned(second, owner))

    def form_of(self, run_id: str, owner: str, scratch: Path) -> Form:
        """The form that asks for one's own run again, its uploads copied into `scratch`.

        Raises:
            PlainError: no such run, or it cannot be asked for here again; the message says why.
        """
        return form_of(self.store.owned(run_id, owner), self.checkpoints.all(owner), scratch)

    # --- acting ----------------------------------------------------------------------------------

    def cancel(self, run_id: str, owner: str) -> str:
        """Cancel a run; returns a sentence.

        Raises:
            RunError: no such run, or it is somebody else's.
        """
        return queue.cancel(self.store, run_id, owner)

    def resume(self, run_id: str, owner: str) -> str:
        """Let an interrupted or failed run go on; returns a sentence.

        Raises:
            RunError: no such run, somebody else's, or one that cannot go on.
        """
        return queue.resume(self.store, run_id, owner)

    def compare(self, request: CompareRequest, owner: str) -> Iterator[Progress | list[CompareRow]]:
        """How far a comparison of one's own run is, and at last its rows.

        Raises:
            RunError, CompleterError: with a sentence for the page.
        """
        self.store.owned(request.run_id, owner)
        return self.completer.watch_comparison(request)

    def measure(self, run_id: str, owner: str, what: str = TABLE) -> None:
        """Have one's own run measured, or audited (`AUDITS`); `measuring` says how far that is.

        Raises:
            RunError, CompleterError: with a sentence for the page.
        """
        self.completer.measure(self.store.owned(run_id, owner).id, what)

    def erase(self, run_id: str, owner: str) -> str:
        """Erase one's own run; returns what was erased.

        Raises:
            RunError: no such run, somebody else's, or still running.
        """
        return self.store.delete(self.store.owned(run_id, owner).id)

    def download(self, run_id: str, owner: str, name: str, scratch: Path) -> Path:
        """A file of one's own run: “weights.safetensors”; or one that is written into `scratch`:
        “run.zip”, “report.html” or “report.json”.

        Raises:
            RunError: no such run or file.
        """
        run = self.store.owned(run_id, owner)
        made = scratch / f"{run.id}-{time.time_ns()}-{name}"
        if name == "weights.safetensors" and run.weights.is_file():
            return run.weights
        if name == "run.zip":
            return export_run(run, made)
        if name in _REPORTS:
            write_atomically(made, _REPORTS[name](report_of(run)))
            return made
        raise RunError("This run has no such file.")

    def _view(self, run: Run) -> View:
        queued = run.state.status == "queued"
        ahead = queue.position(self.store, run) if queued else 0
        return views.view(run, ahead, not queued or queue.worker_alive(self.store))

    def _twin(self, order: Order, owner: str) -> Run | None:
        """The run that somebody asked for seconds ago by the same request and pictures."""
        wanted = json.dumps(order.request.to_dict(), sort_keys=True)
        for run, state in self.store.states():
            if state.owner != owner or state.status not in ("queued", "running"):
                continue
            if time.time() - state.submitted > DOUBLE_CLICK_SECONDS:
                return None
            with suppress(RunError, OSError):  # erased or damaged meanwhile
                same = json.dumps(run.request.to_dict(), sort_keys=True) == wanted
                inputs = run.folder / "inputs"
                if (
                    same
                    and _holds(inputs / "forget", order.forget_images)
                    and _holds(inputs / "retain", order.retain_images)
                ):
                    return run
        return None


def _holds(folder: Path, pictures: Sequence[Image.Image]) -> bool:
    """Whether a folder of uploads has these pictures, pixel for pixel, in their order."""
    stored = sorted(folder.glob("*.png"))
    return len(stored) == len(pictures) and all(
        _pixels(Image.open(path)) == _pixels(picture)
        for path, picture in zip(stored, pictures, strict=True)
    )


def _pixels(picture: Image.Image) -> tuple[tuple[int, int], bytes]:
    return picture.size, picture.convert("RGB").tobytes()
