"""Fragments of the Compare tab."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from l2l_core.jobs.client import CompareRow, Progress
from ui import text
from ui.html import bar, picture, strip, verdict
from ui.views import View


def comparison(rows: Sequence[CompareRow]) -> str:
    """Samples by role; `assets/compare.js` opens one large when it is clicked."""
    gold = any(row.gold for row in rows)
    sections = [f'<p class="l2l-fine">{text.GOLD_HINT}</p>'] if gold else []
    for role, (title, meaning) in text.ROLES.items():
        samples = [_sample(row) for row in rows if row.role == role]
        if samples:
            body = _heads(gold) * min(2, len(samples)) + "".join(samples)
            sections.append(
                f'<section class="l2l-role l2l-{role}"><h3>{title} <small>{meaning}</small></h3>'
                f'<div class="l2l-samples{" l2l-four" if gold else ""}">{body}</div></section>'
            )
    return "".join(sections) + _DIALOG


def _heads(gold: bool) -> str:
    names = [title for name, title in text.COLUMNS.items() if gold or name != "gold"]
    return f'<div class="l2l-heads">{"".join(f"<span>{name}</span>" for name in names)}</div>'


def _sample(row: CompareRow) -> str:
    label, score = escape(row.label), f"{row.before:.2f} → {row.after:.2f}"
    truth = picture(row.truth, f"{row.label}: true image", 'data-picture="truth"')
    columns = "".join(
        f"<span>{picture(png, f'{row.label}: {column}', _named(name))}"
        f"{truth if name == 'hole' else ''}</span>"
        for name, column in text.COLUMNS.items()
        if (png := getattr(row, name))
    )
    return (
        f'<figure class="l2l-sample" data-label="{label}" data-score="{score}">'
        f'<button type="button" aria-label="Look closer: {label}">{columns}</button>'
        f'<figcaption><span>{label}</span><span title="{text.SCORE}">{score}</span></figcaption>'
        "</figure>"
    )


def _named(name: str) -> str:
    return f'data-picture="{name}"'


def _large(name: str) -> str:
    return f'<img data-picture="{name}" alt="{name}">'


_DIALOG = (
    '<dialog class="l2l-dialog"><header><button type="button" data-go="-1" aria-label="Previous">‹'
    '</button><b data-label></b><button type="button" data-go="1" aria-label="Next">›</button>'
    '<button type="button" data-close aria-label="Close">✕</button></header>'
    f'<div class="l2l-slider" style="--cut:50%">{_large("unlearned")}{_large("original")}'
    "<span>Original</span><span>Unlearned</span>"
    '<input type="range" min="0" max="100" value="50" aria-label="Original to unlearned"></div>'
    f'<div class="l2l-small"><figure>{_large("truth")}<figcaption>True image</figcaption></figure>'
    f"<figure>{_large('hole')}<figcaption>Input with hole</figcaption></figure>"
    f'<figure><div class="l2l-difference">{_large("original")}{_large("unlearned")}</div>'
    "<figcaption>Models' difference × 3</figcaption></figure></div>"
    f'<p class="l2l-fine"><b data-score></b> {text.SCORE}</p></dialog>'
)


def completing(progress: Progress) -> str:
    """How far a comparison is, with what there is so far."""
    done = text.COMPLETING.format(
        model=text.COLUMNS[progress.model], step=progress.step, steps=progress.steps
    )
    step = progress.number * progress.steps + progress.step
    return (
        f'<div class="l2l-card l2l-completing"><b>{done}</b>'
        f"{bar(step, progress.models * progress.steps)}{strip(progress.pictures, 0)}</div>"
    )


def compared(view: View, drawn: bool) -> str:
    """What stands above the samples."""
    known = verdict(view)  # which explains “held out”, too
    hints = [text.DRAWN_HINT * drawn, text.COMPARE_HINT, "" if known else text.HELD_OUT_HINT]
    return known + f'<p class="l2l-fine">{" ".join(filter(None, hints))}</p>'


def nothing_to_compare() -> str:
    """What stands there before the first run."""
    return (
        f'<div class="l2l-card l2l-empty"><h3>{text.NO_RUN_TO_COMPARE}</h3>'
        f"<p>{text.NO_RUN_HINT}</p></div>"
    )
