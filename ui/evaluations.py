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
    measuring: Measuring | None = None

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
        results.measuring(run),
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


def tried(runs: Sequence[tuple[View, UnlearnRequest, dict[str, Any]]]) -> list[Tried]:
    """Runs as points; their metrics are of the look at their end, so conditions are the same."""
    sets = [metrics["sets"] for _, _, metrics in runs]
    points = [point_of(part) for part in sets]
    front = pareto_front(points)
    return [
        Tried(
            view.title,
            f"{view.model}, {request.method.replace('_', ' ')}, α {request.alpha:g}, "
            f"{count(view.step, 'step')}",
            (part["retain"]["n"], part["forget"]["n"]),
            point,
            number in front,
        )
        for number, ((view, request, _), part, point) in enumerate(
            zip(runs, sets, points, strict=True)
        )
    ]
