"""What the audits found, in words and as rows: for the terminal and for the report."""

from __future__ import annotations

from typing import Any

TITLES = {
    "relearning": "Relearning: can it be made to remember?",
    "membership": "Membership: does it tell what it forgot?",
}
MODELS = {"unlearned": "Unlearned", "gold": "Never saw them"}
AUDIT_LIMIT = "An attack that finds nothing proves nothing about a stronger one."

Rows = tuple[list[str], list[list[str]]]
"""Headings, and cells by row."""


def audit_words(kind: str, found: dict[str, Any]) -> str:
    """One sentence for people: what it means."""
    return _relearning_words(found) if kind == "relearning" else _membership_words(found)


def audit_rows(kind: str, found: dict[str, Any]) -> Rows:
    """The numbers."""
    if kind == "membership":
        heads = ["Model", "AUC", "95% interval", "Unlearned images", "Unseen images"]
        counts = [str(found["members"]), str(found["unseen"])]
        return heads, [
            [MODELS[name], f"{row['auc']:.3f}", _interval(row["interval"]), *counts]
            for name, row in found["models"].items()
        ]
    heads, columns = ["Step"], []
    for name, curve in found["curves"].items():
        for key, title in (("tuned", "the attacker's"), ("others", "others")):
            if count := found[key]:
                heads.append(f"{MODELS[name]}: {title} (n {count})")
                columns.append([f"{point[key]:.3f}" for point in curve])
    steps = [str(point["step"]) for point in found["curves"]["unlearned"]]
    return heads, [list(row) for row in zip(steps, *columns, strict=True)]


def audit_note(kind: str, found: dict[str, Any]) -> str:
    """How it was measured."""
    if kind == "membership":
        return (
            "AUC: the chance that the representation of an unlearned image moved farther than that "
            f"of an unseen one of the same kind; 0.5 is a guess. Mask {found['mask']}, seed "
            f"{found['seed']}."
        )
    attack = found["attack"]
    return (
        f"Cosine with the truth by {found['extractor']}; the original has {found['original']:.3f} "
        f"on the attacker's images, and {found['halfway']:.3f} is halfway. The encoder is "
        f"fine-tuned with AdamW at {attack['learning_rate']:g}. Mask {attack['mask']}, seed "
        f"{found['seed']}."
    )


def _relearning_words(found: dict[str, Any]) -> str:
    now = found["reached"]["unlearned"]
    words = (
        f"Fine-tuned on {found['tuned']} forget images, the unlearned model is halfway back to the "
        f"original's completions of them {_when(now, found)}."
    )
    if "gold" not in found["reached"]:
        return (
            f"{words} How much of that is remembering cannot be told without a gold standard: any "
            "model learns a few images in time."
        )
    never = found["reached"]["gold"]
    if never == 0:
        return (
            f"{words} A model that never saw them completes them that well from the start, so this "
            "cannot tell remembering from learning."
        )
    faster = now is not None and (never is None or now < never)
    meaning = (
        "sooner, so something of them is left"
        if faster
        else "no sooner, which is no sign that something of them is left"
    )
    return (
        f"{words} A model that never saw them is there {_when(never, found)}; the unlearned one "
        f"{meaning}. The two start from different places, so a difference of few steps means "
        "little."
    )


def _when(step: int | None, found: dict[str, Any]) -> str:
    most = found["attack"]["steps"]
    return f"only after more than {most} steps, if ever" if step is None else f"after {step} steps"


def _membership_words(found: dict[str, Any]) -> str:
    row, never = found["models"]["unlearned"], found["models"].get("gold")
    low, high = row["interval"]
    if never and low <= never["auc"] <= high:
        return (
            "How far a representation moved tells unlearned images from unseen ones no better than "
            "with a model that never saw either: no sign of which images were unlearned."
        )
    if low <= 0.5 <= high:
        return (
            "How far a representation moved gives no sign of which images were unlearned: it is "
            "much the same for unseen ones of the same kind."
        )
    side = "farther" if row["auc"] > 0.5 else "less far"
    return (
        f"Unlearned images moved {side} than unseen ones of the same kind, and that can be seen in "
        f"{max(row['auc'], 1 - row['auc']):.0%} of all pairs: with both models in hand one can "
        "guess which images were unlearned."
    )


def _interval(ends: list[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"
