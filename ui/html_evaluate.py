"""Fragments of the Evaluate tab: the full table, the map, and all runs on one plot."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from l2l_core.evaluation.html_page import table
from l2l_core.evaluation.html_report import map_note
from l2l_core.evaluation.plots import MapPoint, map_figure
from l2l_core.evaluation.report import INTERVAL, headings, measured_by, table_rows, verdict
from l2l_core.experiments.pareto import pareto_svg
from l2l_core.jobs.results import Measuring
from ui import text
from ui.evaluations import Evaluation, Tried
from ui.html import bar, note

TRIED_HEADS = ("", "Run", "How", "n", "Retain drift ↓", "Forget damage ↑", "Unbeaten")


def measuring(now: Measuring | None) -> str:
    """How far a measurement is, or why it failed."""
    if now is None:
        return ""
    if now.failed:
        return note(now.stage, "problem")
    return f'<div class="l2l-card"><b>{escape(now.stage)}</b>{bar(now.done, now.of)}</div>'


def measured(found: Evaluation) -> str:
    """The full table, or that there is none yet."""
    if found.metrics is None:
        return "" if found.busy else _empty(text.NOT_MEASURED, text.NOT_MEASURED_HINT)
    rows, firsts = [], []
    for number, row in enumerate(every := table_rows(found.metrics)):
        first = number == 0 or row.set_name != every[number - 1].set_name
        firsts += [number] if first else []
        rows.append(
            [
                f"<b>{escape(row.set_name)}</b>" if first else "",
                str(row.n) if first else "",
                escape(row.metric.label),
                *map(escape, row.cells),
            ]
        )
    told = text.ARROWS.format(
        interval=INTERVAL,
        mask=found.metrics["mask"],
        seed=found.metrics["seed"],
        sources=measured_by(found.metrics),
    )
    return _card(
        text.MEASURED_TITLE,
        f"<p>{escape(verdict(found.metrics))}</p>{table(headings(found.metrics), rows, firsts)}",
        told,
    )


def embedding_map(found: Evaluation) -> str:
    """The map, with its pictures to point at."""
    if found.map is None:
        return ""
    points = [MapPoint(**point) for point in found.map["points"]]
    return _card(text.MAP_TITLE, map_figure(points, found.pictures), map_note(found.map))


def tried(runs: Sequence[Tried]) -> str:
    """Drift against damage of all runs; the numbers on the plot are those of its table."""
    if not runs:
        return ""
    labels = [str(number) for number in range(1, len(runs) + 1)]
    rows = [
        [
            label,
            f"<b>{escape(run.title)}</b>",
            escape(run.how),
            " + ".join(map(str, run.n)),
            *(f"{value:.4f}" for value in run.point),
            "yes" if run.front else "",
        ]
        for label, run in zip(labels, runs, strict=True)
    ]
    plot = pareto_svg(labels, [run.point for run in runs])
    return _card(
        text.TRIED_TITLE,
        f'<figure class="l2l-pareto">{plot}</figure>{table(TRIED_HEADS, rows)}',
        text.TRIED_HINT,
    )


def links(found: Evaluation) -> str:
    """Links to one's own report; the server checks whose it is."""
    if found.metrics is None:
        return ""
    base = f"files/{found.run_id}"
    return (
        f'<a class="l2l-button" href="{base}/report.html" download>Download report</a>'
        f'<a class="l2l-button" href="{base}/report.json" download>JSON</a>'
    )


def nothing() -> str:
    """What stands there before the first run."""
    return _empty(text.NOTHING_TO_EVALUATE, text.NO_EVALUATION_HINT)


def _card(title: str, body: str, fine: str) -> str:
    return (
        f'<section class="l2l-card l2l-measured"><h3>{title}</h3>{body}'
        f'<p class="l2l-fine">{escape(fine)}</p></section>'
    )


def _empty(title: str, hint: str) -> str:
    return f'<div class="l2l-card l2l-empty"><h3>{title}</h3><p>{hint}</p></div>'
