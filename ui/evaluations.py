"""What the Evaluate tab shows of runs: plain values from their folders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from l2l_core.config import UnlearnRequest, dump_json
from l2l_core.evaluation.plots import Pictures
from l2l_core.experiments.pareto import Point, pareto_front, point_of
from l2l_core.jobs import results
from l2l_core.jobs.results import Measuring
from l2l_core.jobs.store import Run
from ui.form import count
from ui.views import View


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a run."""

    run_id: str
    metrics: dict[str, Any] | None
    """The full table, as `evaluate_full` gives it."""
    map: dict[str, Any] | None
    """As `describe_map` gives it."""
    pictures: Pictures = field(repr=False)
    audits: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By kind, as `relearning_audit` and `membership_audit` give them."""
    measuring: Measuring | None = None
    quick: dict[str, Any] | None = None
    """What the look at the end of the run found, as `evaluate` gives it."""

    @property
    def busy(self) -> bool:
        """Whether it is being measured."""
        return self.measuring is not None and not self.measuring.failed


def evaluation_of(run: Run) -> Evaluation:
    """Read a run's folder."""
    return Evaluation(
        run.id,
        results.evaluation(run),
        results.embedding_map(run),
        results.map_pictures(run),
        results.audits(run),
        results.measuring(run),
        run.metrics,
    )


def aim_of(run: Run) -> tuple[str, ...]:
    """Which model is to forget which images, as text and digests: only runs with the same aim are
    points of one plot.
    """
    request = run.request
    options = dump_json(request.model_options)
    model = (request.model, request.checkpoint or "", options, request.split)
    return (*model, *sorted(request.forget), *_uploads(run.folder / "inputs" / "forget"))


@lru_cache(maxsize=256)
def _uploads(folder: Path) -> tuple[str, ...]:
    """Digests of a run's uploads, which never change."""
    return tuple(sorted(hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.glob("*.png")))


@dataclass(frozen=True)
class Tried:
    """One run on the plot of all."""

    title: str
    how: str
    """Model, method and strength, in a few words."""
    n: tuple[int, int]
    """Retain and forget images that were measured."""
    point: Point
    front: bool
    is_gold: bool = False
    """It is the model that never saw the forget images, which does not compete."""


@dataclass(frozen=True)
class Attempt:
    """A finished run and its numbers."""

    view: View
    request: UnlearnRequest
    metrics: dict[str, Any]
    """Of the look at its end."""
    evaluation: dict[str, Any] | None = None
    """The full table, once it was measured."""


def tried(runs: Sequence[Attempt]) -> list[Tried]:
    """Runs of one aim as points; their metrics are of the look at their end, so conditions are the
    same. Last the model that never saw the forget images, if one of them was measured with it.
    """
    sets = [run.metrics["sets"] for run in runs]
    points = [point_of(part) for part in sets]
    front = pareto_front(points)
    golds = [gold for run in runs if (gold := _gold(run))]
    return [
        Tried(
            run.view.title,
            f"{run.view.model}, {run.request.method.replace('_', ' ')}, α {run.request.alpha:g}, "
            f"{count(run.view.step, 'step')}",
            (part["retain"]["n"], part["forget"]["n"]),
            point,
            number in front,
        )
        for number, (run, part, point) in enumerate(zip(runs, sets, points, strict=True))
    ] + golds[:1]


def _gold(run: Attempt) -> Tried | None:
    """The model that never saw the forget images, where it was measured as the run was."""
    full = run.evaluation
    if full is None or any(full.get(k) != run.metrics.get(k) for k in ("mask", "extractor")):
        return None
    parts = [full["sets"].get(name, {}) for name in ("retain", "forget")]
    cosines = [part.get("cosine", {}) for part in parts]
    if not all("never_saw_moved" in cosine for cosine in cosines):
        return None
    retain, forget = (
        {"cosine": {"change": c["never_saw"] - c["before"], "moved": c["never_saw_moved"]}}
        for c in cosines
    )
    return Tried(
        "Never saw them",
        f"{run.view.model}, trained without these images",
        (parts[0]["n"], parts[1]["n"]),
        point_of({"retain": retain, "forget": forget}),
        front=False,
        is_gold=True,
    )
