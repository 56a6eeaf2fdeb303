"""The loss curves, drawn as SVG so that they take the page's colours and redraw without a flash."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT = 640, 150
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 10, 22
MOST_POINTS = 300


def curves(losses: Sequence[tuple[int, float, float]], steps: int) -> str:
    """(step, retain, forget) of the steps so far, over the whole length of the run."""
    if len(losses) < 2:
        return ""
    shown = losses[:: -(-len(losses) // MOST_POINTS)]
    shown = shown if shown[-1] == losses[-1] else (*shown, losses[-1])
    top = _nice(max(max(retain, forget) for _, retain, forget in shown))

    def place(step: int, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / max(1, steps)
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(value, top) / top)
        return f"{x:.1f},{y:.1f}"

    lines = "".join(
        f'<polyline class="l2l-line-{name}" points="'
        + " ".join(place(point[0], point[column]) for point in shown)
        + '"/>'
        for column, name in ((1, "retain"), (2, "forget"))
    )
    grid = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * (1 - part):g}</text>'
        for part in (0, 0.5, 1)
        for y in [TOP + (HEIGHT - TOP - BOTTOM) * part]
    )
    ends = (
        f'<text x="{LEFT}" y="{HEIGHT - 5}">0</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">step {steps}</text>'
    )
    _, retain, forget = losses[-1]
    return (
        '<figure class="l2l-curves"><figcaption>Loss '
        f'<span class="l2l-key-forget">forget {forget:.3f}</span>'
        f'<span class="l2l-key-retain">retain {retain:.3f}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Losses up to step {losses[-1][0]} of {steps}">{grid}{ends}{lines}</svg>'
        "</figure>"
    )


def _nice(value: float) -> float:
    """The next round number above a value: 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** len(f"{int(value)}") if value >= 1 else 1.0
    while power / 10 >= value:
        power /= 10
    return next(power * part for part in (0.1, 0.2, 0.5, 1.0) if power * part >= value)
