"""Figures of a report as inline SVG: curves, and the embedding map. Colours are report.css's."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import log10

WHAT = ("truth", "original", "unlearned")
WIDTH, HEIGHT = 640, 200

Pictures = Mapping[tuple[str, str, int], bytes]
"""Small WebP pictures by (set, what, index)."""


@dataclass(frozen=True)
class MapPoint:
    """One image on the map."""

    x: float  # in [0, 1]
    y: float  # in [0, 1]
    set: str  # retain or forget
    what: str  # truth, original or unlearned
    index: int  # its place in its evaluation set


@dataclass(frozen=True)
class Line:
    """One curve."""

    kind: str
    """Its class in report.css."""
    points: Sequence[tuple[float, float]]


def line_chart(
    lines: Sequence[Line], label: str, level: float | None = None, logarithmic: bool = False
) -> str:
    """Curves over steps, their axis from the lowest to the highest value.

    Args:
        label: what it shows, for those who do not see it. level: a value to draw as a dotted line.
        logarithmic: equal factors take equal space; values of 0 or less lie on the floor.
    """
    left, bottom, right = 52, 24, WIDTH - 8
    values = [y for line in lines for _, y in line.points]
    values += [] if level is None else [level]
    if logarithmic:
        values = [v for v in values if v > 0] or [1.0]
    lowest, highest = min(values), max(values)

    def height(value: float) -> float:
        return log10(max(value, lowest)) if logarithmic else value

    low, last = height(lowest), max(max(line.points[-1][0] for line in lines), 1)
    span = max(height(highest) - low, 1e-9)

    def place(step: float, value: float) -> str:
        x = left + (right - left) * step / last
        return f"{x:.1f},{8 + (HEIGHT - bottom - 8) * (1 - (height(value) - low) / span):.1f}"

    drawn = "".join(
        f'<polyline class="{line.kind}" points="{" ".join(place(*p) for p in line.points)}"/>'
        for line in lines
    )
    if level is not None:
        drawn += f'<polyline class=level points="{place(0, level)} {place(last, level)}"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{html.escape(label)}">'
        f"<text x=0 y=16>{highest:.2g}</text><text x=0 y={HEIGHT - bottom}>{lowest:.2g}</text>"
        f"<text x={left} y={HEIGHT - 6}>0</text>"
        f"<text x={right} y={HEIGHT - 6} text-anchor=end>step {last:g}</text>{drawn}</svg>"
    )


def loss_curve(losses: Sequence[tuple[int, float, float]]) -> str:
    """Retain and forget loss (step, retain, forget) as a figure, logarithmic so that both can be
    read.
    """
    lines = [
        Line(kind, [(row[0], row[column]) for row in losses])
        for kind, column in (("retain", 1), ("forget", 2))
    ]
    chart = line_chart(lines, f"Losses over {losses[-1][0]} steps", logarithmic=True)
    return (
        f"<figure>{chart}<figcaption><b class=forget>forget</b> and <b class=retain>retain</b> "
        "loss, logarithmic</figcaption></figure>"
    )


def map_figure(points: Sequence[MapPoint], pictures: Pictures | None = None) -> str:
    """The embedding map: circles retain, triangles forget; hollow the truth, pale the original's
    completion, solid the unlearned one's. Pointing at one joins it to the other two of its image,
    and shows their pictures, if there are any.
    """
    side, margin, width = 520, 12, 700 if pictures else 540

    def place(point: MapPoint) -> tuple[float, float]:
        inner = side - 2 * margin
        return round(margin + inner * point.x, 1), round(margin + inner * point.y, 1)

    drawn = []
    ordered = sorted(points, key=lambda p: (p.set != "retain", p.index, WHAT.index(p.what)))
    for (name, index), group in groupby(ordered, key=lambda p: (p.set, p.index)):
        own = list(group)
        way = " ".join(f"{x},{y}" for x, y in map(place, own))
        shown = [f'<polyline class=more points="{way}"/>']
        for number, point in enumerate(own):
            told = f"{name} {index + 1}, {point.what}"
            shown.append(_mark(point, *place(point), told))
            if picture := (pictures or {}).get((name, point.what, index)):
                top = margin + 168 * number
                data = base64.b64encode(picture).decode()
                shown.append(
                    f'<g class=more><image x=556 y={top} width=136 height=136 alt="{told}" '
                    f'href="data:image/webp;base64,{data}"/>'
                    f"<text x=556 y={top + 152}>{told}</text></g>"
                )
        drawn.append(f'<g class="image {name}" tabindex=0>{"".join(shown)}</g>')
    legend = (
        "<b class=retain>● retain</b>, <b class=forget>▲ forget</b>; hollow: the true image, pale: "
        "completed by the original, solid: by the unlearned model. Point at one to find the other "
        "two of its image. Only what lies together counts; distances between far groups say "
        "nothing."
    )
    return (
        f'<figure class=map><svg viewBox="0 0 {width} {side}" role=img '
        f'aria-label="Map of {len(points)} images and completions">{"".join(drawn)}</svg>'
        f"<figcaption>{legend}</figcaption></figure>"
    )


def _mark(point: MapPoint, x: float, y: float, told: str) -> str:
    title = f"<title>{html.escape(told)}</title>"
    if point.set == "retain":
        return f"<circle class={point.what} cx={x} cy={y} r=4>{title}</circle>"
    corners = f"{x},{y - 5} {x + 4.6:.1f},{y + 3.5:.1f} {x - 4.6:.1f},{y + 3.5:.1f}"
    return f'<polygon class={point.what} points="{corners}">{title}</polygon>'
