"""Fragments of the page that Gradio has no component for; pictures travel inside them as data.

Pictures as data URIs leave no file behind whose address could be guessed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from l2l_core.jobs.client import CompareRow
from ui import text
from ui.services import View, difference


def picture(png: bytes, alt: str, css: str = "") -> str:
    """An <img> that carries its own pixels."""
    data = base64.b64encode(png).decode()
    return f'<img class="{css}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def header(device: str) -> str:
    """Name, purpose and what this instance runs on."""
    where = escape(device) if device else "starting …"
    return (
        f'<div class="l2l-header"><h1>{text.NAME}</h1><p>{text.PURPOSE}</p>'
        f'<p class="l2l-facts"><span class="l2l-chip">{where}</span> {text.DEMO_WEIGHTS}</p></div>'
    )


def thumbnails(pngs: Sequence[bytes], label: str) -> str:
    """A strip of small pictures."""
    tiles = "".join(picture(png, label) for png in pngs)
    return f'<div class="l2l-thumbs">{tiles}</div>'


def status(view: View | None) -> str:
    """Where a run stands: headline, bar, details, verdict."""
    if view is None:
        title, body = text.NOTHING_YET
        return f'<div class="l2l-status l2l-empty"><h3>{title}</h3><p>{body}</p></div>'
    share = 100 * view.step / max(1, view.steps)
    verdict = f'<p class="l2l-verdict">{escape(view.verdict)}</p>' if view.verdict else ""
    return (
        f'<div class="l2l-status l2l-{view.status}"><h3>{escape(view.headline)}</h3>'
        f'<div class="l2l-bar" role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" '
        f'aria-valuemax="100"><div style="width:{share:.1f}%"></div></div>'
        f"<p>{escape(view.detail) or '&nbsp;'}</p>{verdict}</div>"
    )


def previews(strips: dict[str, bytes | None], step: int) -> str:
    """Forget and retain strips under each other: input, original, now."""
    blocks = []
    for kind, title in (("forget", "Forget"), ("retain", "Retain")):
        rows = [
            ("Input", strips.get(f"{kind}-input")),
            ("Original", strips.get(f"{kind}-original")),
            (f"Step {step}", strips.get(f"{kind}-now")),
        ]
        lines = "".join(
            f"<span>{name}</span>{picture(png, f'{title}: {name}')}" for name, png in rows if png
        )
        if lines:
            blocks.append(
                f'<section class="l2l-preview l2l-{kind}"><h4>{title} '
                f"<small>{text.ROLES[kind][1]}</small></h4><div>{lines}</div></section>"
            )
    return "".join(blocks)


def comparison(rows: Sequence[CompareRow]) -> str:
    """Samples by role; a click opens a large slider between original and unlearned."""
    if not rows:
        return ""
    columns = ", ".join(name.lower() for name in text.COLUMNS)
    sections = [f'<p class="l2l-legend">{text.LEGEND.format(columns=columns)}</p>']
    for role, (title, meaning) in text.ROLES.items():
        members = [row for row in rows if row.role == role]
        if not members:
            continue
        body = "".join(_sample(row) for row in members)
        sections.append(
            f'<section class="l2l-role l2l-{role}"><h3>{title} <small>{meaning}</small></h3>'
            f'<div class="l2l-samples">{body}</div></section>'
        )
    return "".join(sections)


def _sample(row: CompareRow) -> str:
    label = escape(row.label)
    columns = "".join(
        picture(getattr(row, name), f"{row.label}: {column}")
        for name, column in zip(("hole", "original", "unlearned"), text.COLUMNS, strict=True)
    )
    score = f"{row.before:.2f} → {row.after:.2f}"
    large = (
        '<dialog class="l2l-dialog" onclick="if(event.target===this)this.close()">'
        f'<div><header><b>{label}</b><button type="button" aria-label="Close" '
        "onclick=\"this.closest('dialog').close()\">✕</button></header>"
        '<div class="l2l-slider" style="--cut:50%">'
        f"{picture(row.unlearned, f'{row.label}: unlearned')}"
        f"{picture(row.original, f'{row.label}: original', 'l2l-over')}"
        '<span class="l2l-left">Original</span><span class="l2l-right">Unlearned</span>'
        '<input type="range" min="0" max="100" value="50" aria-label="Original or unlearned" '
        "oninput=\"this.parentNode.style.setProperty('--cut', this.value + '%')\"></div>"
        '<div class="l2l-small">'
        f"<figure>{picture(row.truth, f'{row.label}: true image')}"
        "<figcaption>True image</figcaption></figure>"
        f"<figure>{picture(row.hole, f'{row.label}: input')}"
        "<figcaption>Input</figcaption></figure>"
        f"<figure>{picture(difference(row.original, row.unlearned), f'{row.label}: difference')}"
        "<figcaption>Difference × 3</figcaption></figure></div>"
        f"<p>{text.SCORE}: {score}</p></div></dialog>"
    )
    return (
        '<div class="l2l-sample"><button type="button" class="l2l-open" '
        f'title="Look closer: {label}" onclick="this.nextElementSibling.showModal()">{columns}'
        f"</button>{large}<p><span>{label}</span><span>{score}</span></p></div>"
    )


def download_links(run_id: str) -> str:
    """Links to one's own weights and run; the server checks whose they are."""
    return (
        '<p class="l2l-links">'
        f'<a href="/download/{run_id}/weights" download>Download the weights</a>'
        f'<a href="/download/{run_id}/run" download>Download the run</a></p>'
    )
