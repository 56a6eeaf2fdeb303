"""What the page can do, in plain values: no Gradio and no PyTorch here, so it is tested without
either.
"""

from __future__ import annotations

import dataclasses
import io
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from l2l_core.builtin import builtin_index, groups, open_builtin
from l2l_core.config import PRESETS, ConfigError, UnlearnRequest
from l2l_core.images import ImageError, display_name, fit_square, read_image, to_png
from l2l_core.jobs import queue
from l2l_core.jobs.client import CompareRequest, CompareRow, CompleterClient, CompleterError
from l2l_core.jobs.store import FINISHED, Run, RunError, RunStore
from l2l_core.models import MODELS

UserError = (ConfigError, ImageError, RunError, CompleterError, ValueError)
"""What a person can mend; the message says how."""

DOUBLE_CLICK_SECONDS = 5.0
MOST_IMAGES = 500


@dataclass(frozen=True)
class Form:
    """What the Unlearn page holds when its button is pressed."""

    model: str = "mae-fluent"
    checkpoint: str = ""
    model_options: str = ""
    """What its shapes cannot tell, as JSON."""
    forget_from: str = "uploads"
    """“uploads” or “group”."""
    forget_files: tuple[str, ...] = ()
    forget_group: str = ""
    retain_from: str = "proxy"
    """“proxy”, “group” or “uploads”."""
    retain_files: tuple[str, ...] = ()
    retain_group: str = ""
    preset: str = "balanced"
    settings: dict[str, Any] = field(default_factory=dict)
    """Advanced settings by the names of `UnlearnRequest`; empty values mean the default."""


@dataclass(frozen=True)
class View:
    """How a run looks now."""

    run_id: str
    status: str
    title: str
    step: int
    steps: int
    headline: str
    detail: str
    losses: list[tuple[int, float, float]]  # (step, retain, forget)
    preview_step: int | None
    verdict: str

    @property
    def active(self) -> bool:
        """Whether it will still change by itself."""
        return self.status not in FINISHED


class Studio:
    """The services of one data folder."""

    def __init__(self, root: Path) -> None:
        self.store = RunStore(root)
        self.completer = CompleterClient(self.store.root)
        self.submitting = threading.Lock()

    # --- starting --------------------------------------------------------------------------------

    def submit(self, form: Form, owner: str) -> str:
        """Check everything, queue the run; returns its id.

        A second click within seconds, with the same settings, is the same run.

        Raises:
            UserError: what is wrong, in a sentence; nothing was started and nothing is lost.
        """
        forget, retain = [], ["proxy"]
        forget_images: list[Image.Image] = []
        retain_images: list[Image.Image] = []
        if form.forget_from == "uploads":
            forget_images = self.read_uploads(form.forget_files, "to forget")
            forget = ["inputs:forget"]
            title = _count(len(forget_images), "uploaded image")
        else:
            if not form.forget_group:
                raise ConfigError("Choose a built-in group to forget, or drop your own images.")
            forget = [f"builtin:{form.forget_group}"]
            title = form.forget_group
        if form.retain_from == "uploads":
            retain_images = self.read_uploads(form.retain_files, "to retain")
            retain = ["inputs:retain"]
        elif form.retain_from == "group":
            if not form.retain_group:
                raise ConfigError("Choose a built-in group to retain, or keep everything else.")
            if form.retain_group == form.forget_group and form.forget_from == "group":
                raise ConfigError("The same group cannot be forgotten and retained.")
            retain = [f"builtin:{form.retain_group}"]
        spec = MODELS[form.model]
        checkpoint = form.checkpoint.strip() or None
        if spec.path is None and checkpoint is None:
            raise ConfigError(f"{spec.title} needs the path of its weights: {spec.source}.")
        options = _model_options(form.model_options) if checkpoint else {}
        settings = {k: v for k, v in form.settings.items() if v not in (None, "", [])}
        request = UnlearnRequest(
            forget=tuple(forget),
            retain=tuple(retain),
            model=form.model,
            checkpoint=checkpoint,
            model_options=options,
            **(PRESETS[form.preset] | settings),
        )
        with self.submitting:
            run = self._twin(request, owner, len(forget_images)) or self.store.create(
                request,
                owner=owner,
                title=title,
                forget_images=forget_images,
                retain_images=retain_images,
            )
        return run.id

    def read_uploads(self, paths: Sequence[str], purpose: str) -> list[Image.Image]:
        """All uploaded pictures.

        Raises:
            ImageError: none were given, or which ones cannot be used and why.
        """
        if not paths:
            raise ImageError(f"There are no images {purpose} yet. Drop some, or pick a group.")
        if len(paths) > MOST_IMAGES:
            raise ImageError(
                f"{len(paths)} images at once are too many; at most {MOST_IMAGES}. "
                "Larger sets go through the command line, as a folder."
            )
        images, problems = [], []
        for path in paths:
            try:
                images.append(read_image(path).image)
            except ImageError as error:
                problems.append(f"{display_name(path)}: {error}")
        if problems:
            shown = " ".join(problems[:5])
            raise ImageError(f"Remove or replace these images and press again. {shown}")
        return images

    def check_uploads(self, paths: Sequence[str]) -> tuple[list[str], list[str]]:
        """(paths that can be used, a sentence for each that cannot)."""
        good, problems = [], []
        for path in paths:
            try:
                read_image(path)
                good.append(path)
            except ImageError as error:
                problems.append(f"{display_name(path)}: {error}")
        return good, problems

    # --- watching --------------------------------------------------------------------------------

    def current(self, owner: str) -> str | None:
        """The run the page shows when it opens: the active one, else the newest."""
        runs = self.store.runs(owner)
        active = [run for run in runs if run.state.status in ("running", "queued")]
        chosen = (active[-1:] or runs[:1]) if runs else []
        return chosen[0].id if chosen else None

    def view(self, run_id: str, owner: str) -> View:
        """How a run looks now.

        Raises:
            RunError: no such run, or it is somebody else's.
        """
        run = self.owned(run_id, owner)
        state, events = run.state, run.events()
        steps = [e for e in events if e["kind"] == "step"]
        previews = [e["step"] for e in events if e["kind"] == "preview"]
        verdict = next((e["text"] for e in reversed(events) if e["kind"] == "metrics"), "")
        stage = next((e["text"] for e in reversed(events) if e["kind"] == "stage"), "")
        return View(
            run_id=run.id,
            status=state.status,
            title=state.title,
            step=state.step,
            steps=state.steps,
            headline=self._headline(run),
            detail=_detail(state.status, stage, steps),
            losses=[(e["step"], e["retain"], e["forget"]) for e in steps],
            preview_step=previews[-1] if previews else None,
            verdict=verdict,
        )

    def preview(self, run_id: str, owner: str, name: str) -> bytes | None:
        """One preview strip as PNG, or None if it is not there."""
        path = self.owned(run_id, owner).previews / f"{name}.png"
        return path.read_bytes() if path.is_file() else None

    def cancel(self, run_id: str, owner: str) -> str:
        """Cancel a run; returns a sentence.

        Raises:
            RunError: no such run, or it is somebody else's.
        """
        return queue.cancel(self.store, run_id, owner)

    def device(self) -> str:
        """What trains, as the worker reports it."""
        return queue.worker_device(self.store)

    # --- comparing -------------------------------------------------------------------------------

    def compare(self, request: CompareRequest, owner: str) -> list[CompareRow]:
        """Rows of pictures for one's own run.

        Raises:
            RunError, CompleterError: with a sentence for the page.
        """
        self.owned(request.run_id, owner)
        return self.completer.compare(request)

    def comparable(self, owner: str) -> list[tuple[str, str]]:
        """(label, id) of one's runs that have weights, newest first."""
        return [(_label(run), run.id) for run in self.store.runs(owner) if run.weights.is_file()]

    # --- keeping and erasing ---------------------------------------------------------------------

    def history(self, owner: str) -> list[list[str]]:
        """Rows for the Runs table: started, what, status, steps, α, noise, id."""
        rows = []
        for run in self.store.runs(owner):
            state, request = run.state, run.request
            when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(state.submitted))
            rows.append(
                [
                    when,
                    f"forget {state.title}",
                    state.status,
                    f"{state.step}/{state.steps}",
                    f"{request.alpha:g}",
                    request.noise,
                    run.id,
                ]
            )
        return rows

    def erase(self, run_id: str, owner: str) -> str:
        """Erase one's own run; returns what was erased.

        Raises:
            RunError: no such run, somebody else's, or still running.
        """
        return self.store.delete(self.owned(run_id, owner).id)

    def owned(self, run_id: str, owner: str) -> Run:
        """One's own run; others' do not exist.

        Raises:
            RunError: no such run.
        """
        run = self.store.get(run_id)
        if run.state.owner != owner:
            raise RunError("There is no such run; it may have been erased.")
        return run

    def _twin(self, request: UnlearnRequest, owner: str, images: int) -> Run | None:
        wanted = json.dumps(request.to_dict(), sort_keys=True)
        for run in self.store.runs(owner):
            if time.time() - run.state.submitted > DOUBLE_CLICK_SECONDS:
                return None
            same = json.dumps(run.request.to_dict(), sort_keys=True) == wanted
            count = sum(1 for _ in (run.folder / "inputs" / "forget").glob("*.png"))
            if same and count == images and run.state.status in ("queued", "running"):
                return run
        return None

    def _headline(self, run: Run) -> str:
        state = run.state
        if state.status == "queued":
            ahead = queue.position(self.store, run)
            if not queue.worker_alive(self.store):
                return "Waiting for the training process to start"
            return "Starting" if ahead == 0 else f"Waiting: {_count(ahead, 'run')} before this one"
        return {
            "running": f"Forgetting {state.title}",
            "done": f"Done: {state.title} forgotten",
            "failed": "This run failed",
            "cancelled": "Cancelled",
            "interrupted": "Interrupted",
        }[state.status] + (f". {state.message}" if state.message else "")


def group_choices() -> list[tuple[str, str]]:
    """(label, value) of built-in groups and their subgroups, with the number of images."""
    counts: dict[str, int] = {}
    for image in builtin_index():
        for key in (image.group, f"{image.group}/{image.subgroup}"):
            counts[key] = counts.get(key, 0) + 1
    choices = []
    for group, subgroups in groups().items():
        choices.append((f"{group} ({counts[group]})", group))
        if len(subgroups) > 1:
            for subgroup in subgroups:
                key = f"{group}/{subgroup}"
                choices.append((f"{group} › {subgroup} ({counts[key]})", key))
    return choices


def group_thumbnails(group: str, count: int = 12, side: int = 64) -> list[bytes]:
    """PNG thumbnails spread over a built-in group."""
    name, _, subgroup = group.partition("/")
    members = [i for i in builtin_index() if i.group == name and subgroup in ("", i.subgroup)]
    spread = members[:: max(1, len(members) // count)][:count]
    return [to_png(fit_square(open_builtin(image.id), side)) for image in spread]


def defaults() -> dict[str, Any]:
    """Default of every setting that has one."""
    return {
        f.name: f.default
        for f in dataclasses.fields(UnlearnRequest)
        if f.default is not dataclasses.MISSING
    }


def difference(first: bytes, second: bytes, gain: float = 3.0) -> bytes:
    """How far two pictures differ, as a PNG: black where they agree, amplified."""
    from PIL import ImageChops

    a, b = (Image.open(io.BytesIO(data)).convert("RGB") for data in (first, second))
    return to_png(ImageChops.difference(a, b).point(lambda value: min(255, int(value * gain))))


def _model_options(written: str) -> dict[str, Any]:
    """The options of a checkpoint, from JSON.

    Raises:
        ConfigError: not a JSON object.
    """
    try:
        options = json.loads(written or "{}")
    except json.JSONDecodeError:
        options = None
    if not isinstance(options, dict):
        raise ConfigError('Model options must be JSON, like {"heads": 12, "norm_pix_loss": true}.')
    return options


def _detail(status: str, stage: str, steps: list[dict[str, Any]]) -> str:
    if status == "running" and steps and stage.startswith(("Unlearning", "Going on")):
        last = steps[-1]
        return (
            f"Step {last['step']} of {last['steps']} · about {_duration(last['eta'])} left · "
            f"retain loss {last['retain']:.3f} · forget loss {last['forget']:.3f}"
        )
    if status == "running":
        return stage
    if steps and status in FINISHED:
        seconds = sum(event["seconds"] for event in steps)
        return f"{_count(len(steps), 'step')} in {_duration(seconds)} of training"
    return ""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _label(run: Run) -> str:
    when = time.strftime("%H:%M", time.gmtime(run.state.submitted))
    return f"{run.state.title} · {run.state.step} steps · {when} UTC · {run.id[-4:]}"
