"""Fragments of the page that Gradio has no component for; pictures travel inside them as data.

Pictures as data URIs leave no file behind whose address could be guessed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from l2l_core.evaluation.html_page import table
from ui import text
from ui.catalogue import Card
from ui.history import Difference, Differences
from ui.plots import curves
from ui.services import Health
from ui.views import Score, Unreadable, View, when

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
    return (
        f'<header class="l2l-header"><h1>{text.NAME}</h1><p>{text.PURPOSE}</p>'
        f'<div class="l2l-chips">{"".join(chips)}</div></header>'
    )


def heading(number: int, title: str, hint: str) -> str:
    """A numbered heading of the form."""
    return f'<h2 class="l2l-step"><i>{number}</i>{title}<small>{hint}</small></h2>'


def models(cards: Sequence[Card], chosen: str = "") -> str:
    """Models to choose from; `assets/actions.js` reports the choice."""
    shown = "".join(_model(card, card.model == chosen) for card in cards)
    return f'<div class="l2l-models" role="radiogroup" aria-label="Model">{shown}</div>'


def _model(card: Card, chosen: bool) -> str:
    state = " checked" * chosen + " disabled" * (not card.ready)
    remove = button("remove", "Remove", text.CONFIRM_REMOVE, model=card.model)
    return (
        f'<label class="l2l-model"><input type="radio" name="model" value="{card.model}"{state}>'
        f"<b>{escape(card.title)}</b><span>{escape(card.family)}</span>"
        f"<em>{escape(card.about)}</em><small>{escape(card.size)}, {escape(card.licence)}</small>"
        f"<small>{escape(card.where)}</small>"
        f"{remove if card.removable else ''}</label>"
    )


def upload(limit: int) -> str:
    """A chooser of files that `assets/upload.js` sends."""
    hint = text.UPLOAD_HINT.format(limit=limit / 1e9)
    return (
        f'<label class="l2l-button l2l-upload">{text.UPLOAD}'
        f'<input type="file" multiple data-limit="{limit}" data-hint="{hint}"></label>'
        f'<progress max="1" hidden></progress><output class="l2l-fine">{hint}</output>'
    )


def button(action: str, label: str, confirm: str = "", **data: str) -> str:
    """A button that `assets/actions.js` reports when it is pressed, with its data."""
    told = {"action": action, **({"confirm": confirm} if confirm else {}), **data}
    attributes = "".join(f' data-{name}="{escape(value)}"' for name, value in told.items())
    return f'<button type="button" class="l2l-button"{attributes}>{label}</button>'


def strip(pngs: Sequence[bytes], more: int) -> str:
    """Small pictures in a row, and how many are not shown."""
    tiles = "".join(picture(png, "") for png in pngs)
    rest = f"<span>+{more:,}</span>" if more > 0 else ""
    return f'<div class="l2l-strip">{tiles}{rest}</div>' if tiles else ""


def note(message: str, kind: str) -> str:
    """A boxed message; `kind` is "problem" or "hint"."""
    return f'<div class="l2l-note l2l-{kind}" role="alert">{escape(message)}</div>'


def notes(title: str, lines: Sequence[str], kind: str) -> str:
    """A boxed list, or nothing."""
    if not lines:
        return ""
    body = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="l2l-note l2l-{kind}" role="alert"><b>{title}</b><ul>{body}</ul></div>'


def empty(example: Sequence[bytes], chosen: str = "") -> str:
    """What stands where the run will be: the way to it, with pictures of the example group; or,
    once something is chosen, what that is and what to press.
    """
    bodies = [body for _, body in text.EMPTY_STEPS]
    if chosen:
        bodies[:2] = escape(chosen), text.PRESS
    steps = "".join(
        f"<li><i>{number}</i><div><b>{title}</b><p>{body}</p></div></li>"
        for number, ((title, _), body) in enumerate(zip(text.EMPTY_STEPS, bodies, strict=True), 1)
    )
    return (
        f'<div class="l2l-card l2l-empty{" l2l-chosen" if chosen else ""}">'
        f"<h3>{text.CHOSEN_TITLE if chosen else text.EMPTY_TITLE}</h3><ol>{steps}</ol>"
        f"{'' if chosen else strip(example, 0)}</div>"
    )


def status(view: View, before: View | None = None) -> str:
    """Where a run stands: headline, bar, facts, verdict; and one's own run that is taken before."""
    facts = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in view.facts
    )
    running = view.status == "running"
    far = bar(view.step, view.steps) if running or (view.step and not view.cancelled) else ""
    told = f'<dl class="l2l-facts">{facts}</dl>' if running or facts else ""
    leave = f'<p class="l2l-fine">{text.LEAVE}</p>' if view.active and not view.stopping else ""
    return (
        f'<div class="l2l-card l2l-status l2l-{view.status}"><h3>{escape(view.headline)}</h3>'
        f"{_before(before) if before else ''}{far}{told}{verdict(view)}{leave}</div>"
    )


def _before(view: View) -> str:
    running = view.status == "running"
    state = f"step {view.step} of {view.steps}" if running else "waiting, too"
    return f"<p>{escape(text.BEFORE_IT.format(title=view.title, state=state))}</p>"


def bar(done: int, of: int) -> str:
    """How far something is."""
    share = 100 * done / max(1, of)
    return (
        '<div class="l2l-bar" role="progressbar" aria-label="Progress" aria-valuemin="0" '
        f'aria-valuenow="{share:.0f}" aria-valuemax="100"><div style="width:{share:.1f}%"></div>'
        "</div>"
    )


def verdict(view: View) -> str:
    """What was kept and what was destroyed, with the numbers."""
    if not view.scores:
        return ""
    legend = text.VERDICT.format(extractor=escape(view.extractor))
    if any(score.never_saw is not None for score in view.scores):
        legend = f"{legend} {text.NEVER_SAW_HINT}"
    told = scores(view.scores, view.stay, _advice(view))
    return f'{told}<p class="l2l-fine">{legend}</p>'


def scores(found: Sequence[Score], *lines: str) -> str:
    """A tile for each set, and lines in words; empty ones are left out."""
    tiles = "".join(map(_score, found))
    said = "".join(f'<p class="l2l-stay">{escape(line)}</p>' for line in lines if line)
    return f'<div class="l2l-scores">{tiles}</div>{said}'


def _advice(view: View) -> str:
    """What to try next; empty where all is well, or where no other setting would help."""
    changed = any(score.noise is None and not score.good for score in view.scores)
    short = any(score.falls_short for score in view.scores)
    if short and changed:
        return text.FALLS_SHORT_AND_CHANGED
    return text.CHANGED if changed else text.FALLS_SHORT if short else ""


def _score(score: Score) -> str:
    title, _ = text.ROLES[score.role]
    seen = " held out" if score.held_out else ""
    level = f" · noise level {score.noise:.2f}" if score.noise is not None else ""
    if score.never_saw is not None:
        level += f" · never saw them {score.never_saw:.2f}"
    if score.psnr is not None:
        level = f" · PSNR {score.psnr:+z.1f} dB".replace("-", "−")
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


def runs(views: Sequence[View], unreadable: Sequence[Unreadable] = ()) -> str:
    """One's runs as cards; `assets/actions.js` reports which button was pressed."""
    if not views and not unreadable:
        return f'<div class="l2l-card l2l-fine">{text.NO_RUNS}</div>'
    return "".join([_run(view) for view in views] + [_unreadable(one) for one in unreadable])


def _unreadable(one: Unreadable) -> str:
    erase = button("erase", "Erase", text.CONFIRM_ERASE, run=one.run_id)
    return (
        f'<article class="l2l-card l2l-run"><h3>{escape(one.title)}</h3>'
        f"<p>{escape(one.problem)}</p><footer>{erase}</footer></article>"
    )


def _run(view: View) -> str:
    run = {"run": view.run_id}
    buttons = button("show", "Show", **run)
    if view.can_go_on:
        buttons += button("resume", "Go on", **run)
    if view.has_weights:
        buttons += button("compare", "Compare", **run) + button("evaluate", "Evaluate", **run)
    buttons += button("again", "Re-run with changes", **run) + downloads(view)
    if view.active:
        buttons += button("cancel", "Cancel", **run)
    if view.status != "running":
        buttons += button("erase", "Erase", text.CONFIRM_ERASE, **run)
    numbers = " · ".join(f"{s.role} {s.before:.2f} → {s.after:.2f}" for s in view.scores)
    message = view.headline if view.status in ("failed", "cancelled", "interrupted") else numbers
    return (
        f'<article class="l2l-card l2l-run"><h3>{escape(view.title)}'
        f'<span class="l2l-chip l2l-{view.status}">{STATUS_WORDS[view.status]}</span></h3>'
        f"<p>{when(view.submitted)} · {escape(view.model)} · step {view.step} of {view.steps}</p>"
        f"<p>{escape(message)}</p><footer>{buttons}</footer></article>"
    )


def differences(found: Differences) -> str:
    """What two runs were asked differently, and their numbers side by side."""
    rows = [_difference(one) for one in (*found.settings, *found.numbers)]
    groups = [len(found.settings)] if found.settings and found.numbers else []
    same = "" if found.settings else f"<p>{text.SAME_SETTINGS}</p>"
    return (
        f'<div class="l2l-measured l2l-two">{same}{table(("", *found.titles), rows, groups)}'
        f'<p class="l2l-fine">{text.DIFFERENCES_HINT}</p></div>'
    )


def _difference(one: Difference) -> list[str]:
    return [f"<b>{escape(one.name)}</b>", escape(one.first), escape(one.second)]
