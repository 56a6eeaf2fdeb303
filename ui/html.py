"""Fragments of the page that Gradio has no component for; pictures travel inside them as data.

Pictures as data URIs leave no file behind whose address could be guessed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from l2l_core.jobs.client import CompareRow
from ui import text
from ui.plots import curves
from ui.services import Health
from ui.views import Score, View

STATUS_WORDS = {
    "queued": "Waiting",
    "running": "Running",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "interrupted": "Interrupted",
}


def picture(png: bytes, alt: str, attributes: str = "") -> str:
    """An <img> that carries its own pixels."""
    data = base64.b64encode(png).decode()
    return f'<img {attributes} alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def header(health: Health) -> str:
    """Name, purpose, and what this instance is and does."""
    chips = [f'<span class="l2l-chip l2l-{health.state}">{text.STATES[health.state]}</span>']
    if health.device:
        chips.append(f'<span class="l2l-chip">{escape(health.device)}</span>')
    chips.append(f'<span class="l2l-chip l2l-demo">{text.DEMO}</span>')
    return (
        f'<header class="l2l-header"><h1>{text.NAME}</h1><p>{text.PURPOSE}</p>'
        f'<div class="l2l-chips">{"".join(chips)}</div></header>'
    )


def heading(number: int, title: str, hint: str) -> str:
    """A numbered heading of the form."""
    return f'<h2 class="l2l-step"><i>{number}</i>{title}<small>{hint}</small></h2>'


def strip(pngs: Sequence[bytes], more: int) -> str:
    """Small pictures in a row, and how many are not shown."""
    tiles = "".join(picture(png, "") for png in pngs)
    rest = f"<span>+{more:,}</span>" if more > 0 else ""
    return f'<div class="l2l-strip">{tiles}{rest}</div>' if tiles else ""


def note(message: str, kind: str) -> str:
    """A boxed sentence; `kind` is "problem" or "hint"."""
    return f'<div class="l2l-note l2l-{kind}" role="alert">{escape(message)}</div>'


def notes(title: str, lines: Sequence[str], kind: str) -> str:
    """A boxed list, or nothing."""
    if not lines:
        return ""
    body = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="l2l-note l2l-{kind}" role="alert"><b>{title}</b><ul>{body}</ul></div>'


def empty(example: Sequence[bytes]) -> str:
    """What stands where the run will be, with pictures of the example group."""
    steps = "".join(
        f"<li><i>{number}</i><div><b>{title}</b><p>{body}</p></div></li>"
        for number, (title, body) in enumerate(text.EMPTY_STEPS, start=1)
    )
    return (
        f'<div class="l2l-card l2l-empty"><h3>{text.EMPTY_TITLE}</h3><ol>{steps}</ol>'
        f"{strip(example, 0)}</div>"
    )


def status(view: View) -> str:
    """Where a run stands: headline, bar, facts, verdict."""
    share = 100 * view.step / max(1, view.steps)
    facts = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in view.facts
    )
    return (
        f'<div class="l2l-card l2l-status l2l-{view.status}"><h3>{escape(view.headline)}</h3>'
        f'<div class="l2l-bar" role="progressbar" aria-label="Progress" aria-valuemin="0" '
        f'aria-valuenow="{share:.0f}" aria-valuemax="100"><div style="width:{share:.1f}%"></div>'
        f'</div><dl class="l2l-facts">{facts}</dl>{verdict(view)}'
        f"{_LEAVE if view.active else ''}</div>"
    )


_LEAVE = f'<p class="l2l-fine">{text.LEAVE}</p>'


def verdict(view: View) -> str:
    """What was kept and what was destroyed, with the numbers."""
    if not view.scores:
        return ""
    tiles = "".join(_score(score) for score in view.scores)
    return (
        f'<div class="l2l-scores">{tiles}</div><p class="l2l-fine">Mean cosine between completion '
        f"and true image, {escape(view.extractor)}, hole in the centre. ↑ higher is closer to the "
        "truth; forget should fall to its noise level, the others should stay.</p>"
    )


def _score(score: Score) -> str:
    title, _ = text.ROLES[score.role]
    seen = " held-out" if score.held_out else ""
    level = f" · noise level {score.noise:.2f}" if score.noise is not None else ""
    return (
        f'<div class="l2l-score l2l-{score.role}{"" if score.good else " l2l-short"}">'
        f"<h4>{title}: <b>{score.word}</b></h4>"
        f"<p>{score.before:.2f} → <b>{score.after:.2f}</b></p>"
        f"<small>n = {score.n}{seen}{level}</small></div>"
    )


def previews(strips: dict[str, bytes], step: int) -> str:
    """The hole, the original's completion and the current one, for forget and retain samples."""
    blocks = []
    for kind in ("forget", "retain"):
        title, meaning = text.ROLES[kind]
        lines = "".join(
            f"<span>{label if name != 'now' else f'Step {step}'}</span>"
            f"{picture(strips[f'{kind}-{name}'], f'{title}: {label}')}"
            for name, label in text.PREVIEW_ROWS.items()
            if f"{kind}-{name}" in strips
        )
        if lines:
            blocks.append(
                f'<section class="l2l-preview l2l-{kind}"><h4>{title} <small>{meaning}</small>'
                f"</h4><div>{lines}</div></section>"
            )
    return f'<div class="l2l-previews">{"".join(blocks)}</div>' if blocks else ""


def losses(view: View) -> str:
    """The loss curves in a card."""
    drawn = curves(view.losses, view.steps)
    return f'<div class="l2l-card">{drawn}</div>' if drawn else ""


def downloads(view: View) -> str:
    """Links to one's own weights and run; the server checks whose they are."""
    if not view.has_weights:
        return ""
    base = f"files/{view.run_id}"
    return (
        f'<a class="l2l-button" href="{base}/weights.safetensors" download>Download weights</a>'
        f'<a class="l2l-button" href="{base}/run.zip" download>Download run</a>'
    )


def comparison(rows: Sequence[CompareRow]) -> str:
    """Samples by role; `assets/compare.js` opens one large when it is clicked."""
    sections = []
    for role, (title, meaning) in text.ROLES.items():
        samples = [_sample(row) for row in rows if row.role == role]
        if samples:
            body = _HEADS * min(2, len(samples)) + "".join(samples)
            sections.append(
                f'<section class="l2l-role l2l-{role}"><h3>{title} <small>{meaning}</small></h3>'
                f'<div class="l2l-samples">{body}</div></section>'
            )
    return "".join(sections) + _DIALOG


_HEADS = (
    '<div class="l2l-heads">'
    + "".join(f"<span>{name}</span>" for name in text.COLUMNS.values())
    + "</div>"
)


def _sample(row: CompareRow) -> str:
    label, score = escape(row.label), f"{row.before:.2f} → {row.after:.2f}"
    truth = picture(row.truth, f"{row.label}: true image", 'data-picture="truth"')
    columns = "".join(
        f"<span>{picture(getattr(row, name), f'{row.label}: {column}', _named(name))}"
        f"{truth if name == 'hole' else ''}</span>"
        for name, column in text.COLUMNS.items()
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
    "<figcaption>Difference × 3</figcaption></figure></div>"
    f'<p class="l2l-fine"><b data-score></b> {text.SCORE}</p></dialog>'
)


def runs(views: Sequence[View]) -> str:
    """One's runs as cards; `assets/runs.js` reports which button was pressed."""
    if not views:
        return f'<div class="l2l-card l2l-fine">{text.NO_RUNS}</div>'
    return "".join(_run(view) for view in views)


def _run(view: View) -> str:
    def button(action: str, label: str, confirm: str = "") -> str:
        asked = f' data-confirm="{escape(confirm)}"' if confirm else ""
        return (
            f'<button type="button" class="l2l-button" data-action="{action}"{asked} '
            f'data-run="{view.run_id}">{label}</button>'
        )

    buttons = button("show", "Show")
    if view.has_weights:
        buttons += button("compare", "Compare") + downloads(view)
    if view.active:
        buttons += button("cancel", "Cancel")
    if view.status != "running":
        buttons += button("erase", "Erase", text.CONFIRM_ERASE)
    numbers = " · ".join(f"{s.role} {s.before:.2f} → {s.after:.2f}" for s in view.scores)
    message = view.headline if view.status in ("failed", "cancelled", "interrupted") else numbers
    return (
        f'<article class="l2l-card l2l-run"><h3>{escape(view.title)}'
        f'<span class="l2l-chip l2l-{view.status}">{STATUS_WORDS[view.status]}</span></h3>'
        f"<p>{view.when} · {escape(view.model)} · step {view.step} of {view.steps}</p>"
        f"<p>{escape(message)}</p><footer>{buttons}</footer></article>"
    )


def compared(view: View) -> str:
    """What stands above the samples."""
    return verdict(view) + f'<p class="l2l-fine">{text.COMPARE_HINT}</p>'


def nothing_to_compare() -> str:
    """What stands there before the first run."""
    return (
        f'<div class="l2l-card l2l-empty"><h3>{text.NO_RUN_TO_COMPARE}</h3>'
        f"<p>{text.NO_RUN_HINT}</p></div>"
    )
