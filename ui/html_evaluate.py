"""Fragments of the Evaluate tab: the full table, the map, and all runs on one plot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any

from l2l_core.evaluation.audit_report import AUDIT_LIMIT, TITLES
from l2l_core.evaluation.html_page import table
from l2l_core.evaluation.html_report import audit_part
from l2l_core.evaluation.plots import MapPoint, map_figure
from l2l_core.evaluation.report import (
    HEADINGS,
    INTERVAL,
    KEPT_WITHIN,
    Row,
    headings,
    measured_by,
    table_rows,
    told_staying,
)
from l2l_core.experiments.pareto import pareto_svg
from l2l_core.jobs.results import Measuring
from ui import text
from ui.evaluations import Evaluation, Tried
from ui.html import bar, note, scores
from ui.views import scores as scores_of

TRIED_HEADS = ("", "Run", "How", "n", "Retain drift ↓", "Forget damage ↑", "Unbeaten")
DIGITS = 3
"""On the page; what lies beyond is within every interval. Downloads have more."""


def measuring(now: Measuring | None) -> str:
    """How far a measurement is, or why it failed."""
    if now is None:
        return ""
    if now.failed:
        return note(now.stage, "problem")
    return f'<div class="l2l-card"><b>{escape(now.stage)}</b>{bar(now.done, now.of)}</div>'


def measured(found: Evaluation) -> str:
    """The full table, or that there is none yet."""
    metrics = found.metrics
    if metrics is None:
        return "" if found.busy else _empty(text.NOT_MEASURED, text.NOT_MEASURED_HINT)
    sets = groupby(table_rows(metrics, DIGITS), key=lambda row: (row.set_name, row.n))
    # Set and n are headings.
    heads = headings(metrics)[2:]
    tables = "".join(_set(name, n, heads, [*rows]) for (name, n), rows in sets)
    told = text.ARROWS.format(
        interval=INTERVAL,
        hole=hole_in_words(metrics["mask"]),
        seed=metrics["seed"],
        sources=measured_by(metrics),
    )
    words = [
        told,
        text.KID_HINT,
        text.NEVER_SAW_HINT if len(headings(metrics)) > len(HEADINGS) else "",
    ]
    tiles = scores(scores_of(metrics), told_staying(metrics))
    return _card(
        text.MEASURED_TITLE,
        f'{tiles}<p class="l2l-fine">{_differs(metrics, found.quick)}</p>{tables}',
        " ".join(filter(None, words)),
    )


def _differs(metrics: dict[str, Any], quick: dict[str, Any] | None) -> str:
    """What “kept” means, and why the look at the end of the run may have found something else."""
    said = text.KEPT.format(**KEPT_WITHIN)
    here, there = (m["sets"].get("neighbours") if m else None for m in (metrics, quick))
    if here and there and here["n"] != there["n"]:
        cosine, psnr = there["cosine"], there.get("psnr", {}).get("change")
        grain = f", PSNR {psnr:+z.1f} dB" if psnr is not None else ""
        said += " " + text.QUICK_LOOK.format(
            quick=f"{cosine['before']:.2f} → {cosine['after']:.2f}{grain}, n = {there['n']}"
        )
    return escape(_minus(said))


def _set(name: str, n: int, heads: Sequence[str], rows: Sequence[Row]) -> str:
    """One set: a table, or on a phone a small block for each metric (`assets/style.css`)."""
    titles = "".join(f"<th{_title(head)}>{escape(head)}</th>" for head in heads)
    body = "".join(f"<tr>{_cells(row, heads)}</tr>" for row in rows)
    meaning = next((told for part, told in text.SETS_TOLD.items() if part in name), "")
    return (
        f"<h4>{escape(name)} <small>n = {n}{f' · {meaning}' if meaning else ''}</small></h4>"
        f'<div class="wide"><table class="l2l-set"><thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cells(row: Row, heads: Sequence[str]) -> str:
    metric = f"<td{_title(row.metric.name)}><b>{escape(row.metric.label)}</b></td>"
    before, change = row.before, row.change
    if before == "–":  # not measured: the change says why
        return f'{metric}<td class="missing" colspan="{len(heads) - 1}">{escape(change)}</td>'
    return metric + "".join(
        f'<td data-head="{escape(head)}">{_number(cell)}</td>' if cell else "<td></td>"
        for head, cell in zip(heads[1:], row.cells, strict=True)
    )


def _number(cell: str) -> str:
    """A number, and in smaller print below it its spread or interval."""
    value, sign, rest = re.match(r"([^ ]*)( ± | )?(.*)", cell).groups()  # type: ignore[union-attr]
    below = f"<small>{'± ' * (sign == ' ± ')}{rest}</small>" if rest else ""
    return _minus(f"<span>{value}{below}</span>")


def _title(word: str) -> str:
    return f' title="{escape(text.WORDS[word])}"' if word in text.WORDS else ""


def _minus(said: str) -> str:
    return re.sub(r"-(?=\d)", "−", said)


def hole_in_words(mask: str) -> str:
    """A mask as people say it, where it is the usual one."""
    return text.HOLES.get(mask, f"mask {mask}")


def audited(found: Evaluation) -> str:
    """What the attacks found."""
    if not found.audits:
        return ""
    parts = "".join(
        f"<h4>{TITLES[kind]}</h4>{audit_part(kind, audit)}" for kind, audit in found.audits.items()
    )
    missing = "" if "membership" in found.audits else f" {text.NO_MEMBERSHIP}"
    body = f'<div class="l2l-audited">{parts}</div>'
    return _card(text.AUDITED_TITLE, body, AUDIT_LIMIT + missing)


def embedding_map(found: Evaluation) -> str:
    """The map, with its pictures to point at."""
    if found.map is None:
        return ""
    points = [MapPoint(**point) for point in found.map["points"]]
    told = text.MAP_HINT.format(
        extractor=found.map["extractor"],
        hole=hole_in_words(found.map["mask"]),
        seed=found.map["seed"],
    )
    return _card(text.MAP_TITLE, map_figure(points, found.pictures), told)


def tried(runs: Sequence[Tried]) -> str:
    """Drift against damage of all runs; the numbers on the plot are those of its table. One point
    alone is no plot.
    """
    if not runs:
        return ""
    competing = [run for run in runs if not run.is_gold]
    labels = [str(number) for number in range(1, len(competing) + 1)]
    beside = {run.title: run.point for run in runs if run.is_gold}
    rows = [
        [
            label,
            f"<b>{escape(run.title)}</b>",
            escape(run.how),
            " + ".join(map(str, run.n)),
            *(f"{value:.4f}" for value in run.point),
            "yes" if run.front and len(competing) > 1 else "",
        ]
        for label, run in zip([*labels, *[""] * len(beside)], runs, strict=True)
    ]
    plot = ""
    if len(runs) > 1:
        drawn = pareto_svg(labels, [run.point for run in competing], beside)
        plot = f'<figure class="l2l-pareto">{drawn}</figure>'
    hints = [text.TRIED_HINT, text.TRIED_LINE if len(competing) > 1 else text.TRIED_ONE]
    hints += [text.TRIED_GOLD] * len(beside)
    told = " ".join([*hints, text.TRIED_FROM])
    return _card(
        text.TRIED_TITLE, f'{plot}<div class="l2l-tried">{table(TRIED_HEADS, rows)}</div>', told
    )


def links(found: Evaluation) -> str:
    """Links to one's own report; the server checks whose it is."""
    if found.metrics is None and not found.audits:
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
