"""A run as one HTML file and one JSON: to keep, print or publish.

The HTML asks for nothing from anywhere: styles, curves and samples are inside. Names and paths of
images never appear, and pictures only if they are handed over, which is the owner's to decide.
"""

from __future__ import annotations

import base64
import html
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import log10
from typing import Any

from l2l_core.config import dump_json
from l2l_core.evaluation.report import (
    LIMITS,
    SCORE_LIMITS,
    measured_by,
    table_rows,
    verdict,
)
from l2l_core.models import assets_folder

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy")
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
    environment: dict[str, str]
    metrics: dict[str, Any]
    losses: tuple[tuple[int, float, float], ...]
    """(step, retain, forget)"""
    samples: tuple[Sample, ...] = ()


def run_report(
    title: str,
    request: Mapping[str, Any],
    metrics: Mapping[str, Any],
    losses: Sequence[tuple[int, float, float]],
    device: str,
    samples: Sequence[Sample] = (),
) -> RunReport:
    """Gather a report from plain values and take out what is private.

    Args:
        title: what the run is called, e.g. “Forget flags”.
        request: `UnlearnRequest.to_dict()`.
        metrics: what `evaluate` or `evaluate_full` returned.
        losses: (step, retain, forget) of each step.
        device: as `describe_device` names it.
        samples: pictures to show; none unless the owner chose them.
    """
    return RunReport(
        title,
        public_request(request),
        environment(device),
        {**metrics, "mask": _public_mask(metrics["mask"])},
        tuple(losses),
        tuple(samples),
    )


def public_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request without paths: one's own images and checkpoints are only said to be that."""
    sets = {
        name: list(dict.fromkeys(_public_set(spec) for spec in request[name]))
        for name in IMAGE_SETS
    }
    own = {"checkpoint": "own checkpoint"} if request.get("checkpoint") else {}
    return _without_paths(request) | sets | own


def environment(device: str) -> dict[str, str]:
    """Versions and device, as numbers depend on them."""
    versions = {package: version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **versions, "device": device}


def to_json(report: RunReport) -> str:
    """Everything but the pictures."""
    return dump_json(
        {
            "title": report.title,
            "request": report.request,
            "environment": report.environment,
            "metrics": report.metrics,
            "losses": report.losses,
            "limits": [*LIMITS, *SCORE_LIMITS],
        }
    )


def to_html(report: RunReport) -> str:
    """One page, light and dark, that needs no network."""
    facts = {name: value for name, value in report.request.items() if value not in (None, {}, [])}
    parts = [
        f"<h1>{_text(report.title)}</h1><p class=lead>{_text(verdict(report.metrics))}</p>",
        "<h2>Measured</h2>",
        _table(report.metrics),
        f"<h2>Losses</h2>{loss_curve(report.losses)}" if len(report.losses) > 1 else "",
        _samples(report.samples),
        f"<h2>What this does not show</h2>{_list([*LIMITS, *SCORE_LIMITS])}",
        f"<h2>Request</h2>{_facts(facts)}<h2>Environment</h2>{_facts(report.environment)}",
    ]
    style = (assets_folder() / "report.css").read_text(encoding="utf-8")
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; "
        "style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{_text(report.title)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def loss_curve(losses: Sequence[tuple[int, float, float]]) -> str:
    """Retain and forget loss over the steps as inline SVG, logarithmic so that both can be read."""
    width, height, left, bottom = 640, 200, 52, 24
    positive = [v for _, *values in losses for v in values if v > 0] or [1.0]
    low, high = log10(min(positive)), log10(max(positive))
    span, last = max(high - low, 1e-9), max(losses[-1][0], 1)

    def place(step: int, value: float) -> str:
        x = left + (width - left - 8) * step / last
        share = (log10(max(value, min(positive))) - low) / span
        return f"{x:.1f},{8 + (height - bottom - 8) * (1 - share):.1f}"

    lines = "".join(
        f'<polyline class="{name}" points="'
        + " ".join(place(point[0], point[column]) for point in losses)
        + '"/>'
        for column, name in ((1, "retain"), (2, "forget"))
    )
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role=img '
        f'aria-label="Losses over {last} steps">'
        f"<text x=0 y=16>{10**high:.2g}</text><text x=0 y={height - bottom}>{10**low:.2g}</text>"
        f"<text x={left} y={height - 6}>0</text>"
        f"<text x={width - 8} y={height - 6} text-anchor=end>step {last}</text>{lines}</svg>"
        "<figcaption><b class=forget>forget</b> and <b class=retain>retain</b> loss, "
        "logarithmic</figcaption></figure>"
    )


def _public_set(spec: str) -> str:
    kind = spec.split(":")[0]
    if kind in ("builtin", "proxy"):
        return spec
    return "uploaded images" if kind == "inputs" else "own images"


def _without_paths(value: Any) -> Any:
    """The same plain values with every text that holds a path replaced."""
    if isinstance(value, Mapping):
        return {name: _without_paths(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(part) for part in value]
    return "own file" if isinstance(value, str) and set(value) & set("/\\") else value


def _public_mask(mask: str) -> str:
    return "own drawing" if mask.startswith("file:") else mask


def _table(metrics: dict[str, Any]) -> str:
    heads = ("Set", "n", "Metric", "Original", "Unlearned", "Change", "Noise level")
    rows, shown = [], ""
    for row in table_rows(metrics):
        first = row.set_name != shown
        shown = row.set_name
        source = f" <small>{_text(row.measured_by)}</small>" if row.measured_by else ""
        cells = (
            _text(row.set_name) if first else "",
            str(row.n) if first else "",
            _text(row.metric.label) + source,
            *map(_text, (row.before, row.after, row.change, row.noise)),
        )
        kind = " class=first" if first else ""
        rows.append(f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return (
        f"<div class=wide><table><thead><tr>{''.join(f'<th>{h}</th>' for h in heads)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f"<p class=fine>Completions against the truth, mask {_text(metrics['mask'])}, seed "
        f"{metrics['seed']}. Arrows point towards the truth: retain images should stay there, "
        f"forget images should leave. [ ]: 95% bootstrap interval of the change. "
        f"{_text(measured_by(metrics))}.</p>"
    )


def _samples(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    rows = "".join(
        f"<tr><td>{_text(sample.role)} {number}</td>"
        + "".join(
            f'<td><img alt="{what}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            for what, png in (
                ("truth", sample.truth),
                ("original", sample.original),
                ("unlearned", sample.unlearned),
            )
        )
        for number, sample in enumerate(samples, start=1)
    )
    return (
        "<h2>Samples</h2><div class=wide><table><thead><tr><th></th><th>Truth</th><th>Original</th>"
        f"<th>Unlearned</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _facts(values: Mapping[str, Any]) -> str:
    def said(value: Any) -> str:
        return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

    lines = (f"<dt>{_text(k)}</dt><dd>{_text(said(v))}</dd>" for k, v in values.items())
    return f"<dl>{''.join(lines)}</dl>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>"


def _text(value: str) -> str:
    return html.escape(value)
