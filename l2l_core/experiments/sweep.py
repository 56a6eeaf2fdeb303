"""A grid of runs over some settings, and what each setting buys: retain drift, forget damage."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from l2l_core.config import ConfigError, UnlearnRequest, dump_json
from l2l_core.evaluation.evaluate import MASK, evaluate, evaluation_sets
from l2l_core.evaluation.html_report import public_mask, public_request
from l2l_core.experiments.pareto import pareto_front, pareto_page, point_of
from l2l_core.experiments.series import Series, digest
from l2l_core.files import write_atomically
from l2l_core.jobs.runner import OnEvent, Stop, measure, quick_limit
from l2l_core.jobs.store import Run
from l2l_core.masks import parse_mask
from l2l_core.models import load_gold, load_original
from l2l_core.models.checkpoints import file_digest
from l2l_core.registry import gold_standard
from l2l_core.runtime import choose_device

Axes = Mapping[str, Sequence[Any]]
"""Setting of `UnlearnRequest` -> the values it takes; also `mask`: holes to measure under."""


@dataclass(frozen=True)
class GridPoint:
    """One point of a grid: its values on the axes, its request, and the hole to measure under."""

    values: dict[str, Any]
    request: UnlearnRequest
    mask: str = MASK

    def shown(self) -> dict[str, Any]:
        """The values as reports may show them."""
        public = public_request(self.request.to_dict()) | {"mask": public_mask(self.mask)}
        return {name: public[name] for name in self.values}


def grid(settings: Mapping[str, Any], axes: Axes) -> list[GridPoint]:
    """Every combination of the axes' values, over settings of `UnlearnRequest`.

    Raises:
        ConfigError: no axes, an axis without values, or a value that is not allowed.
        MaskError: a mask that cannot be read.
    """
    if not axes or not all(axes.values()):
        raise ConfigError("A sweep needs at least one setting with values, e.g. --alpha 0.1,0.5.")
    points = []
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        asked = {**settings, **values}
        mask = str(asked.pop("mask", MASK))
        parse_mask(mask, 64)  # better refused now than after the runs
        points.append(GridPoint(values, UnlearnRequest.from_dict(asked), mask))
    return points


def sweep(
    settings: Mapping[str, Any],
    axes: Axes,
    folder: Path,
    *,
    devices: Sequence[str] = ("auto",),
    gold: Path | None = None,
    should_stop: Stop = lambda: False,
    on_event: OnEvent | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Carry out a grid; writes `sweep.json` and `sweep.html` into the folder.

    Run again with the same folder, it goes on: finished points are not run again, and the axes may
    have grown.

    Args:
        settings: what all runs share.
        axes: what differs.
        folder: where the runs and the result go.
        devices: as `choose_device` names them; the runs are shared out over them.
        should_stop, on_event, on_progress: as in `Series.carry_out_all`.

    Returns:
        {axes, request, mask, extractor, points, front, waiting}: a point is {values, run, n,
        retain_drift, forget_damage}, or {values, run, message} where a run failed; `front` holds
        positions in `points`; `waiting` counts the points that are still to be run.

    Raises:
        ConfigError, MaskError: as `grid`. ValueError, RunError: as `Series.carry_out_all`.
    """
    points = grid(settings, axes)
    series = Series(folder)
    series.carry_out_all(runs_of(points), devices, should_stop, on_event, on_progress)
    result = _gather(series, points, should_stop) | {
        "gold": measure_gold(series, points, gold, should_stop)
    }
    write_atomically(folder / "sweep.json", dump_json(result))
    if measured := _measured(result):
        names, places = [label_of(p["values"]) for p in measured], [_place(p) for p in measured]
        note = (
            "By cosine with the true image, in the mean: how far it moved on a retain image, up or "
            f"down, and how much of it forget images lost. Mask {result['mask']}, "
            f"{result['extractor']}; the dashed line joins what nothing beats."
        )
        never = {_gold_title(found, result): _place(found) for found in result["gold"]}
        page = pareto_page(f"Sweep over {', '.join(axes)}", names, places, note, never)
        write_atomically(folder / "sweep.html", page)
    return result


def runs_of(points: Sequence[GridPoint]) -> list[UnlearnRequest]:
    """The requests of a grid, each once: points may differ in how they are measured only."""
    return list({dump_json(p.request.to_dict()): p.request for p in points}.values())


def sweep_table(result: Mapping[str, Any]) -> Table:
    """The points as rich prints them; ● marks the Pareto front."""
    table = Table(
        title=f"Change of cosine with the truth, mask {result['mask']}",
        caption=f"{result['extractor']}; ●: no other run that forgets the same, measured under the "
        "same hole, has less drift and more damage",
    )
    for name in result["axes"]:
        table.add_column(name)
    for heading in ("Retain drift ↓", "n", "Forget damage ↑", "n", ""):
        table.add_column(heading, justify="right")
    for number, point in enumerate(result["points"]):
        values = [_said(value) for value in point["values"].values()]
        if "message" in point:
            table.add_row(*values, "failed")
            continue
        drift, damage = (f"{value:.4f}" for value in _place(point))
        counts = [str(point["n"][name]) for name in ("retain", "forget")]
        mark = "●" if number in result["front"] else ""
        table.add_row(*values, drift, counts[0], damage, counts[1], mark)
    for found in result["gold"]:
        drift, damage = (f"{value:.4f}" for value in _place(found))
        counts = [str(found["n"][name]) for name in ("retain", "forget")]
        blanks = [""] * (len(result["axes"]) - 1)
        title = _gold_title(found, result)
        table.add_row(title, *blanks, drift, counts[0], damage, counts[1], "")
    return table


def measure_gold(
    series: Series, points: Sequence[GridPoint], weights: Path | None, should_stop: Stop
) -> list[dict[str, Any]]:
    """How a model that never saw the forget images differs from the original, by mask, as runs are
    measured: {mask, retain_drift, forget_damage, n}; on the images of the first point's request.

    Empty where there is no such model, or it is not the same for all points.
    """
    files = {
        weights or gold_standard(p.request.model, p.request.forget, p.request.checkpoint)
        for p in points
    }
    gold = files.pop()
    if gold is None or files:
        return []
    request = points[0].request
    found = []
    for mask in dict.fromkeys(point.mask for point in points):
        of = {"gold": file_digest(gold), "mask": mask, "by": series.name_of(request)}
        path = series.folder / f"gold-{digest(of)}.json"
        if not path.is_file():
            if should_stop():
                break
            metrics = _evaluate_gold(request, gold, mask)
            drift, damage = point_of(metrics["sets"])
            counts = {name: metrics["sets"][name]["n"] for name in ("retain", "forget")}
            entry = {"mask": public_mask(mask), "retain_drift": drift, "forget_damage": damage}
            write_atomically(path, dump_json(entry | {"n": counts}))
        found.append(json.loads(path.read_bytes()))
    return found


def _evaluate_gold(request: UnlearnRequest, gold: Path, mask: str) -> dict[str, Any]:
    device = str(choose_device(request.device))
    before = load_original(request, device)
    never = load_gold(request, gold, device)
    limit = quick_limit(before.family)  # as many as runs are measured on
    sets = evaluation_sets(request, before.image_size, limit=limit)
    return evaluate(request, before, never, sets, mask)


def _gold_title(found: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    return "Never saw" if len(result["gold"]) == 1 else f"Never saw, {found['mask']}"


def _gather(series: Series, points: Sequence[GridPoint], should_stop: Stop) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    alike: dict[Any, list[int]] = {}  # positions of what was measured on the same images and hole
    extractor = ""
    for point in points:
        entry = {"values": point.shown(), "run": series.name_of(point.request)}
        run = series.find(point.request)
        if run and run.state.status == "failed":
            found.append(entry | {"message": run.state.message})
        elif run and run.state.status == "done" and (metrics := _metrics(run, point, should_stop)):
            sets, extractor = metrics["sets"], metrics["extractor"]
            drift, damage = point_of(sets)
            counts = {name: sets[name]["n"] for name in ("retain", "forget")}
            asked = point.request
            aim = (point.mask, asked.model, asked.checkpoint, asked.forget)
            alike.setdefault(aim, []).append(len(found))
            found.append(entry | {"retain_drift": drift, "forget_damage": damage, "n": counts})
    front = [
        same[i]
        for same in alike.values()
        for i in pareto_front([_place(found[number]) for number in same])
    ]
    shown = [point.shown() for point in points]
    return {
        "axes": {
            name: list(dict.fromkeys(_said(values[name]) for values in shown)) for name in shown[0]
        },
        "request": public_request(points[0].request.to_dict()),
        "mask": _said(list(dict.fromkeys(public_mask(point.mask) for point in points))),
        "extractor": extractor,
        "points": found,
        "front": sorted(front),
        "waiting": len(points) - len(found),
    }


def _metrics(run: Run, point: GridPoint, should_stop: Stop) -> dict[str, Any] | None:
    """What a finished run gives under the point's mask, measured unless it was; None if there is
    no time for it.
    """
    if point.mask == MASK:
        return run.metrics
    path = run.folder / f"metrics-{digest({'mask': point.mask})}.json"
    if not path.is_file():
        if should_stop():
            return None
        write_atomically(path, dump_json(measure(run, point.mask)))
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def _measured(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [point for point in result["points"] if "message" not in point]


def _place(point: Mapping[str, Any]) -> tuple[float, float]:
    return point["retain_drift"], point["forget_damage"]


def label_of(values: Mapping[str, Any]) -> str:
    """A point's values in one line."""
    return ", ".join(f"{name} {_said(value)}" for name, value in values.items())


def _said(value: Any) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)
