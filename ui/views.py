"""How a run looks to its owner: plain values the page turns into pictures and words."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from l2l_core.evaluation.report import GONE, forgotten_share, is_kept, told_staying
from l2l_core.jobs.queue import can_go_on
from l2l_core.jobs.store import FINISHED, Run
from l2l_core.registry import FAMILIES, MODELS, family_of
from ui.form import count

MOSTLY_GONE = 0.8
ROLES = {
    "forget": "forget",
    "forget_uploads": "uploads",
    "neighbours": "nearest",
    "retain": "retain",
}
"""What a measured set is called on the page."""


@dataclass(frozen=True)
class Score:
    """One line of the verdict; cosines with the true image."""

    role: str  # forget, uploads, nearest or retain
    n: int
    held_out: bool
    before: float
    after: float
    noise: float | None
    """What the original model gives when it sees only noise (forget sets only)."""
    never_saw: float | None
    """What a model gives that never saw the images, where there is one."""
    psnr: float | None
    """Its change inside the hole in dB (retain sets only)."""
    good: bool
    word: str

    @property
    def falls_short(self) -> bool:
        """Whether images to be forgotten are not, though they could be."""
        return self.noise is not None and not self.good and self.noise < self.before


@dataclass(frozen=True)
class View:
    """How a run looks now."""

    run_id: str
    status: str
    title: str
    model: str
    family: str
    step: int
    steps: int
    headline: str
    facts: tuple[tuple[str, str], ...]
    """(name, value) pairs for the status card."""
    losses: tuple[tuple[int, float, float], ...]
    """(step, retain, forget)"""
    preview_step: int | None
    scores: tuple[Score, ...]
    stay: str
    """How many of the images to be forgotten are not, if any."""
    extractor: str
    stopping: bool
    has_weights: bool
    can_go_on: bool
    submitted: float
    """Seconds since 1970."""

    @property
    def active(self) -> bool:
        """Whether it will still change by itself."""
        return self.status not in FINISHED

    @property
    def cancelled(self) -> bool:
        """Whether somebody ended it: nobody waits for what it was to become."""
        return self.status == "cancelled"


@dataclass(frozen=True)
class Unreadable:
    """A run whose request cannot be read."""

    run_id: str
    title: str
    problem: str


def view(run: Run, ahead: int, worker_alive: bool) -> View:
    """Read a run's folder; `ahead` runs are taken before it."""
    state, request, events = run.state, run.request, run.events()
    steps = [e for e in events if e["kind"] == "step"]
    preview_steps = [e["step"] for e in events if e["kind"] == "preview"]
    doing = [e for e in events if e["kind"] in ("stage", "step")][-1:]
    metrics = run.metrics if state.status in FINISHED else None
    stopping = state.status == "running" and run.cancel_requested()
    family = family_of(request.model)
    return View(
        run_id=run.id,
        status=state.status,
        title=state.title,
        model=(MODELS.get(request.model) or FAMILIES[family]).title,
        family=family,
        step=state.step,
        steps=state.steps,
        headline=_headline(run, ahead, worker_alive, stopping),
        facts=_facts(state.status, doing, steps),
        losses=tuple((e["step"], e["retain"], e["forget"]) for e in steps),
        preview_step=preview_steps[-1] if preview_steps else None,
        scores=scores(metrics) if metrics else (),
        stay=told_staying(metrics) if metrics else "",
        extractor=metrics["extractor"] if metrics else "",
        stopping=stopping,
        has_weights=state.status in FINISHED and run.weights.is_file(),
        can_go_on=can_go_on(run),
        submitted=state.submitted,
    )


def when(submitted: float) -> str:
    """As `moment`, in full."""
    return time.strftime("%d %b %Y, %H:%M:%S", time.localtime(submitted))


def moment(submitted: float, seconds: bool = False) -> str:
    """When a run was asked for, by this machine's clock, which is most people's own: the time, and
    the day if that is not today.
    """
    then, now = time.localtime(submitted), time.localtime()
    day = "" if then[:3] == now[:3] else "%d %b, " if then[0] == now[0] else "%d %b %Y, "
    return time.strftime(f"{day}%H:%M{':%S' * seconds}", then)


def previews(run: Run, step: int) -> dict[str, bytes]:
    """Strips of the forget and retain samples as PNG: “forget-input”, “forget-original”,
    “forget-now” and the same for retain; those that exist.
    """
    found = {}
    for kind in ("forget", "retain"):
        for name, stored in (("input", "input"), ("original", "original"), ("now", step)):
            file = f"{kind}-{stored:06d}" if isinstance(stored, int) else f"{kind}-{stored}"
            path = run.previews / f"{file}.png"
            if path.is_file():
                found[f"{kind}-{name}"] = path.read_bytes()
    return found


def scores(metrics: dict[str, Any]) -> tuple[Score, ...]:
    """The verdict in numbers, set by set."""
    found = []
    for name, role in ROLES.items():
        values = metrics["sets"].get(name)
        if not values:
            continue
        cosine = values["cosine"]
        noise = cosine.get("noise")
        psnr = None
        if noise is not None:
            share = forgotten_share(cosine)
            good = share is not None and share >= MOSTLY_GONE
            if share is None:
                word = "never better than noise"
            elif share >= GONE:
                word = "destroyed"
            else:
                word = f"{share:.0%} of the way to noise" if share else "still there"
        else:
            good = is_kept(values)
            psnr = values.get("psnr", {}).get("change")
            word = "kept" if good else "changed"
        held_out = values.get("held_out", False)  # runs of earlier versions do not tell
        found.append(
            Score(
                role,
                values["n"],
                held_out,
                cosine["before"],
                cosine["after"],
                noise,
                cosine.get("never_saw"),
                psnr,
                good,
                word,
            )
        )
    return tuple(found)


def _headline(run: Run, ahead: int, worker_alive: bool, stopping: bool) -> str:
    state = run.state
    if state.status == "queued":
        if not worker_alive:
            return "Waiting for the training process to start"
        return "Starting" if ahead == 0 else f"Waiting: {count(ahead, 'run')} before this one"
    if state.status == "running":
        return "Stopping after this step" if stopping else f"Forgetting {state.title}"
    return {
        "done": f"Done: {state.title}",
        "failed": f"This run failed. {state.message}",
        "cancelled": state.message or "Cancelled.",
        "interrupted": state.message or "Interrupted.",
    }[state.status]


def _facts(
    status: str, doing: list[dict[str, Any]], steps: list[dict[str, Any]]
) -> tuple[tuple[str, str], ...]:
    last = steps[-1] if steps else None
    facts = []
    if status in FINISHED and last:
        seconds = sum(event["seconds"] for event in steps)
        facts.append(("Steps", str(last["step"])))
        facts.append(("Training time", _duration(seconds)))
    elif status == "running" and doing and doing[0]["kind"] == "stage":
        return (("Now", doing[0]["text"]),)
    elif status == "running" and last and last["step"] == last["steps"]:
        return (("Now", "Finishing"),)
    elif status == "running" and last:
        facts.append(("Step", f"{last['step']} of {last['steps']}"))
        facts.append(("Left", f"about {_duration(last['eta'])}"))
    if last:
        facts.append(("Retain loss", f"{last['retain']:.3f}"))
        facts.append(("Forget loss", f"{last['forget']:.3f}"))
    return tuple(facts)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
