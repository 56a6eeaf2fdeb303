"""A run as one HTML file and one JSON: to keep, print or publish.

The HTML asks for nothing from anywhere: styles, curves and samples are inside. Names and paths of
images never appear, and pictures only if they are handed over, which is the owner's to decide.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l2l_core.config import dump_json
from l2l_core.evaluation.audit_report import (
    AUDIT_LIMIT,
    TITLES,
    audit_note,
    audit_rows,
    audit_words,
)
from l2l_core.evaluation.html_page import bullets, facts, page, table, text
from l2l_core.evaluation.plots import Line, MapPoint, Pictures, line_chart, loss_curve, map_figure
from l2l_core.evaluation.protocol_table import paper_note, paper_rows
from l2l_core.evaluation.report import (
    INTERVAL,
    SCORE_LIMITS,
    headings,
    limits_of,
    measured_by,
    table_rows,
    verdict,
)

IMAGE_SETS = ("forget", "retain")


@dataclass(frozen=True)
class Sample:
    """One image as three PNG files; only what the owner chose to show."""

    role: str  # “Forget”, “Retain”, “Nearest retain”
    truth: bytes
    original: bytes
    unlearned: bytes


@dataclass(frozen=True)
class RunReport:
    """What a report says; nothing in it names an image or a path."""

    title: str
    request: dict[str, Any]
    environment: dict[str, Any]
    metrics: dict[str, Any]
    losses: tuple[tuple[int, float, float], ...]
    """(step, retain, forget)"""
    samples: tuple[Sample, ...] = ()
    map: dict[str, Any] | None = None
    """As `describe_map` gives it."""
    audits: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By kind, as `relearning_audit` and `membership_audit` give them."""
    protocols: tuple[dict[str, Any], ...] = ()
    """As `evaluate_protocol` gives them."""

    @property
    def limits(self) -> list[str]:
        """What this does not show, in plain words."""
        return [
            *limits_of(self.request["method"]),
            *SCORE_LIMITS,
            *([AUDIT_LIMIT] if self.audits else []),
        ]


def run_report(
    title: str,
    request: Mapping[str, Any],
    metrics: Mapping[str, Any],
    losses: Sequence[tuple[int, float, float]],
    environment: Mapping[str, Any],
    samples: Sequence[Sample] = (),
    embedding_map: Mapping[str, Any] | None = None,
    audits: Mapping[str, Any] | None = None,
    protocols: Sequence[Mapping[str, Any]] = (),
) -> RunReport:
    """Gather a report from plain values and take out what is private.

    Args:
        title: what the run is called, e.g. “Forget flags”.
        request: `UnlearnRequest.to_dict()`.
        metrics: what `evaluate` or `evaluate_full` returned.
        losses: (step, retain, forget) of each step.
        environment: what the run ran on, and digests of its models.
        samples: pictures to show; none unless the owner chose them.
        embedding_map, audits, protocols: what else was measured, as `RunReport` has it.
    """
    return RunReport(
        title,
        public_request(request),
        dict(environment),
        _without_paths(metrics),
        tuple(losses),
        tuple(samples),
        _without_paths(embedding_map),
        _without_paths(audits or {}),
        tuple(dict(results) for results in protocols),
    )


def public_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request without paths: one's own images and checkpoints are only said to be that."""
    sets = {
        name: list(dict.fromkeys(_public_set(spec) for spec in request[name]))
        for name in IMAGE_SETS
    }
    own = {"checkpoint": "own checkpoint"} if request.get("checkpoint") else {}
    return _without_paths(request) | sets | own


def to_json(report: RunReport) -> str:
    """Everything but the pictures."""
    return dump_json(
        {
            "title": report.title,
            "request": report.request,
            "environment": report.environment,
            "metrics": report.metrics,
            "map": report.map,
            "audits": report.audits,
            "protocols": report.protocols,
            "losses": report.losses,
            "limits": report.limits,
        }
    )


def to_html(report: RunReport) -> str:
    """One page, light and dark, that needs no network."""
    request = {name: value for name, value in report.request.items() if value not in (None, {}, [])}
    parts = [
        f"<h1>{text(report.title)}</h1><p class=lead>{text(verdict(report.metrics))}</p>",
        "<h2>Measured</h2>",
        _measured(report.metrics),
        *map(_protocol, report.protocols),
        _map(report.map) if report.map else "",
        *(
            f"<h2>{TITLES[kind]}</h2>{audit_part(kind, report.audits[kind])}"
            for kind in TITLES
            if kind in report.audits
        ),
        f"<h2>Losses</h2>{loss_curve(report.losses)}" if len(report.losses) > 1 else "",
        _samples(report.samples),
        f"<h2>What this does not show</h2>{bullets(report.limits)}",
        f"<h2>Request</h2>{facts(request)}<h2>Run</h2>{facts(report.environment)}",
    ]
    return page(report.title, "".join(parts))


def _public_set(spec: str) -> str:
    kind = spec.split(":")[0]
    if kind in ("builtin", "proxy"):
        return spec
    return "uploaded images" if kind == "inputs" else "own images"


def _without_paths(value: Any) -> Any:
    """The same plain values with every text that holds a path replaced."""
    if isinstance(value, str) and value.startswith("file:"):
        return public_mask(value)
    if isinstance(value, Mapping):
        return {name: _without_paths(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(part) for part in value]
    return "own file" if isinstance(value, str) and set(value) & set("/\\") else value


def public_mask(mask: str) -> str:
    """A mask's text without the path of a drawn one."""
    return "own drawing" if mask.startswith("file:") else mask


def _measured(metrics: dict[str, Any]) -> str:
    rows, firsts = [], []
    for number, row in enumerate(found := table_rows(metrics)):
        first = number == 0 or row.set_name != found[number - 1].set_name
        firsts += [number] if first else []
        source = f" <small>{text(row.measured_by)}</small>" if row.measured_by else ""
        rows.append(
            [
                text(row.set_name) if first else "",
                str(row.n) if first else "",
                text(row.metric.label) + source,
                *map(text, row.cells),
            ]
        )
    return (
        f"{table(headings(metrics), rows, firsts)}"
        f"<p class=fine>Completions against the truth, mask {text(metrics['mask'])}, seed "
        f"{metrics['seed']}. Arrows point towards the truth: retain images should stay there, "
        f"forget images should leave. {INTERVAL}. "
        f"{text(measured_by(metrics))}.</p>"
    )


def _protocol(results: dict[str, Any]) -> str:
    heads, rows = paper_rows(results)
    firsts = [number for number, row in enumerate(rows) if row[0]]
    cells = [[text(cell) for cell in row] for row in rows]
    return (
        f"<h2>Protocol: {text(results['protocol'])}</h2>"
        f"{table(heads, cells, firsts)}<p class=fine>{text(paper_note(results))}</p>"
    )


def _map(found: dict[str, Any]) -> str:
    points = [MapPoint(**point) for point in found["points"]]
    return f"<h2>Map</h2>{map_figure(points)}<p class=fine>{text(map_note(found))}</p>"


def map_page(title: str, found: Mapping[str, Any], pictures: Pictures | None = None) -> str:
    """A map alone, with pictures if the owner chose so, as a page."""
    public = _without_paths(found)
    points = [MapPoint(**point) for point in public["points"]]
    body = f"<h1>{text(title)}</h1>{map_figure(points, pictures)}"
    return page(title, f"{body}<p class=fine>{text(map_note(public))}</p>")


def map_note(found: Mapping[str, Any]) -> str:
    """How a map was drawn."""
    return (
        f"t-SNE of features by {found['extractor']}, compared by cosine; mask {found['mask']}, "
        f"seed {found['seed']}."
    )


def audit_part(kind: str, found: dict[str, Any]) -> str:
    """What an audit found: in words, as a chart where steps are counted, and as a table."""
    heads, rows = audit_rows(kind, found)
    chart = ""
    if kind == "relearning":
        lines = [
            Line(f"{name} {key}", [(p["step"], p[key]) for p in curve])
            for name, curve in found["curves"].items()
            for key in ("tuned", "others")
            if curve[0][key] is not None
        ]
        chart = (
            f"<figure>{line_chart(lines, 'Cosine over steps', found['halfway'])}<figcaption>"
            "<b class=forget>unlearned</b> and <b class=retain>never saw them</b>; whole: the "
            "attacker's images, dashed: other forget images, dotted: halfway back"
            "</figcaption></figure>"
        )
    cells = [[text(cell) for cell in row] for row in rows]
    return (
        f"<p>{text(audit_words(kind, found))}</p>{chart}"
        f"{table(heads, cells)}<p class=fine>{text(audit_note(kind, found))}</p>"
    )


def _samples(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""

    def picture(what: str, png: bytes) -> str:
        return f'<img alt="{what}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'

    rows = [
        [
            text(sample.role) if number == 0 or samples[number - 1].role != sample.role else "",
            picture("truth", sample.truth),
            picture("original", sample.original),
            picture("unlearned", sample.unlearned),
        ]
        for number, sample in enumerate(samples)
    ]
    return f"<h2>Samples</h2>{table(('', 'Truth', 'Original', 'Unlearned'), rows)}"
