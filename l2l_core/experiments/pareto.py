"""What forgetting costs: retain drift against forget damage, and the runs nobody beats at both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from l2l_core.evaluation.html_page import page, table, text

HEADS = ("Run", "Retain drift ↓", "Forget damage ↑", "On the front")
Point = tuple[float, float]
"""(retain drift, forget damage): how far the cosine with the truth moved on a retain image, up or
down, in the mean over images, for each is to be completed as before; and how much of it forget
images lost in the mean. Good runs have little of the first and much of the second.
"""


def point_of(sets: Mapping[str, Any]) -> Point:
    """The point of a measured run, from the sets of its metrics. Earlier versions measured only how
    the mean of retain images moved, in which gains and losses cancel.
    """
    retain, forget = (sets[name]["cosine"] for name in ("retain", "forget"))
    return retain.get("moved", abs(retain["change"])), -forget["change"]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Positions of the points that no other beats, in order of drift: none has as little drift and
    as much damage, and less of the one or more of the other. Equal points are all on the front.
    """

    def beaten(point: Point) -> bool:
        return any(p[0] <= point[0] and p[1] >= point[1] and p != point for p in points)

    front = [i for i, point in enumerate(points) if not beaten(point)]
    return sorted(front, key=lambda i: points[i])


def pareto_svg(
    labels: Sequence[str], points: Sequence[Point], beside: Mapping[str, Point] | None = None
) -> str:
    """The points as inline SVG, the front joined; a label shows when a point is pointed at.

    `beside` are points by label that do not compete: models that never saw the forget images.
    """
    beside = beside or {}
    width, height, left, bottom, top = 640, 360, 58, 44, 14
    drifts, damages = zip(*points, *beside.values(), strict=True)
    across, up = (0.0, _axis([0.0, *drifts])[1]), _axis(damages)

    def place(point: Point) -> tuple[float, float]:
        x = left + (width - left - 20) * (point[0] - across[0]) / (across[1] - across[0])
        y = top + (height - bottom - top) * (1 - (point[1] - up[0]) / (up[1] - up[0]))
        return round(x, 1), round(y, 1)

    front = pareto_front(points)
    line = " ".join(f"{x},{y}" for x, y in (place(points[i]) for i in front))
    marks = []
    kinds = ["front" if number in front else "beaten" for number in range(len(points))]
    every = [*zip(labels, points, kinds, strict=True)]
    every += [(label, point, "beside") for label, point in beside.items()]
    for label, point, kind in every:
        x, y = place(point)
        told = f"{label}: retain drift {point[0]:.4f}, forget damage {point[1]:.4f}"
        side = f"x={x - 8} text-anchor=end" if x > width / 2 else f"x={x + 8}"
        marks.append(
            f"<circle class={kind} cx={x} cy={y} r=5><title>{text(told)}</title></circle>"
            f"<text {side} y={y - 6}>{text(label)}</text>"
        )
    base = height - bottom
    return (
        f'<svg viewBox="0 0 {width} {height}" role=img aria-label="Retain drift against forget '
        f'damage of {len(points)} runs">'
        f'<polyline class=axis points="{left},{top} {left},{base} {width - 10},{base}"/>'
        f"<text x={left} y={base + 16}>{across[0]:.3f}</text>"
        f"<text x={width - 20} y={base + 16} text-anchor=end>{across[1]:.3f}</text>"
        f"<text x={left - 6} y={base} text-anchor=end>{up[0]:.3f}</text>"
        f"<text x={left - 6} y={top + 8} text-anchor=end>{up[1]:.3f}</text>"
        f"<text x={width / 2} y={height - 8} text-anchor=middle>retain drift (less is better)"
        f"</text><text x=12 y={height / 2} text-anchor=middle "
        f'transform="rotate(-90 12 {height / 2})">forget damage (more is better)</text>'
        f'<polyline class=front points="{line}"/>{"".join(marks)}</svg>'
    )


def pareto_page(
    title: str,
    labels: Sequence[str],
    points: Sequence[Point],
    note: str,
    beside: Mapping[str, Point] | None = None,
) -> str:
    """The plot and its table as one HTML file that needs no network, light and dark; `beside` as
    `pareto_svg`.
    """
    front = pareto_front(points)
    beside = beside or {}
    rows = [
        [text(label), f"{drift:.4f}", f"{damage:.4f}", "yes" if number in front else ""]
        for number, (label, (drift, damage)) in enumerate(
            zip([*labels, *beside], [*points, *beside.values()], strict=True)
        )
    ]
    return page(
        title,
        f"<h1>{text(title)}</h1><figure>{pareto_svg(labels, points, beside)}"
        f"<figcaption>{text(note)}</figcaption></figure>{table(HEADS, rows)}",
    )


def _axis(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis with a margin around its values."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.01
    return low - margin, high + margin
