"""A run's numbers in words and as a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table

FORGET_SETS = ("forget", "forget_uploads", "seen")
SET_NAMES = {
    "retain": "Retain",
    "neighbours": "Nearest retain",
    "forget": "Forget",
    "forget_uploads": "Forget (the images themselves)",
    "seen": "Forget (trained on)",
}
KEPT_WITHIN = {"cosine": 0.02, "psnr": 0.5}
"""Retain images whose means fall by no more count as kept: features tell what is shown, PSNR (in
dB, inside the hole) grain that features do not see.
"""
GONE = 0.95
"""Share of the way to the noise level from which nothing of an image is left to see."""
METHODS_TOLD = {
    "ours": "the encoder was trained until they land where noise images land; the decoder is "
    "unchanged",
    "max_loss": "encoder and decoder were trained to make their training loss large (a baseline)",
    "noisy_label": "encoder and decoder were trained with noise as their label (a baseline)",
    "retain_label": "encoder and decoder were trained with the original's answer to retain images "
    "as their label (a baseline)",
    "random_encoder": "the encoder was trained until they land on noise in embedding space (a "
    "baseline); the decoder is unchanged",
    "ignorance": "the encoder was trained until they land where a retain image seen through the "
    "same hole lands (not in the paper); the decoder is unchanged",
}
"""What each method did to images that are to be forgotten."""
LIMITS = (
    "This is approximate unlearning: there is no formal guarantee, and fine-tuning can bring back "
    "what was forgotten.",
    "The original checkpoint still holds the data; publishing both models shows what was removed.",
)
NOISE_LIMIT = "A model retrained without the images would not answer with noise; this one does."
ANSWERS_WITH_NOISE = ("ours", "noisy_label", "random_encoder")


def limits_of(method: str) -> tuple[str, ...]:
    """What a reader of a run's numbers must know, a sentence each."""
    return (*LIMITS, NOISE_LIMIT) if method in ANSWERS_WITH_NOISE else LIMITS


INTERVAL = (
    "[ ]: 95% interval of the change, by resampling what the images show (all images of one design "
    "together)"
)
SCORE_LIMITS = (
    "Scores depend on their extractor: those of the built-in feature net are not comparable with "
    "published ones, nor FID and IS with sets of another size.",
)


@dataclass(frozen=True)
class Metric:
    """How a metric is shown; ↑ or ↓ points towards the truth."""

    name: str
    arrow: str
    digits: int
    source: str = ""
    """Which field of the metrics names what measured it."""

    @property
    def label(self) -> str:
        """Name and direction."""
        return f"{self.name} {self.arrow}"


METRICS = {
    "fid": Metric("FID", "↓", 2, "extractor"),
    "kid": Metric("KID", "↓", 4, "extractor"),
    "kid_apart": Metric("KID, own pairs left out", "↓", 4, "extractor"),
    "is": Metric("IS", "↑", 2, "extractor"),
    "cosine": Metric("cosine", "↑", 4, "extractor"),
    "embedding": Metric("embedding cosine", "↑", 4, "embedding"),
    "perceptual": Metric("perceptual", "↓", 4, "perceptual"),
    "psnr": Metric("PSNR", "↑", 2),
    "ssim": Metric("SSIM", "↑", 4),
    "representation": Metric("representation moved", "↓", 4),
    "reference": Metric("cosine with never-saw", "↑", 4, "extractor"),
}


@dataclass(frozen=True)
class Row:
    """One line of the table, as text."""

    set_name: str
    n: int
    metric: Metric
    measured_by: str
    before: str
    after: str
    change: str
    noise: str
    never_saw: str | None
    """Of a model that never saw the forget images; None where the table has no such column."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The columns of numbers, as many as `headings` has."""
        known = () if self.never_saw is None else (self.never_saw,)
        return (self.before, self.after, self.change, self.noise, *known)


HEADINGS = ("Set", "n", "Metric", "Original", "Unlearned", "Change", "Noise level")


def headings(metrics: dict[str, Any]) -> tuple[str, ...]:
    """The table's columns, with “Never saw” where a gold standard was measured."""
    return (*HEADINGS, "Never saw") if _has_gold(metrics) else HEADINGS


def _has_gold(metrics: dict[str, Any]) -> bool:
    return any("never_saw" in values.get("cosine", {}) for values in metrics["sets"].values())


def table_rows(metrics: dict[str, Any], digits: int = 4) -> list[Row]:
    """Every set and metric that `evaluate` or `evaluate_full` measured, in reading order, with at
    most so many digits.
    """
    rows, gold = [], _has_gold(metrics)
    for name, title in SET_NAMES.items():
        values = metrics["sets"].get(name, {})
        if values.get("held_out"):
            title += " (held out)"
        elif name == "forget":
            title = SET_NAMES["forget_uploads"]
        for key, metric in METRICS.items():
            if key in values:
                source = metrics.get(metric.source, "")
                metric = replace(metric, digits=min(digits, metric.digits))
                never = _value(values[key], "never_saw", metric) if gold else None
                cells = _cells(values[key], metric)
                rows.append(Row(title, values["n"], metric, source, *cells, never))
    return rows


def _cells(row: dict[str, Any], metric: Metric) -> tuple[str, str, str, str]:
    """Before, after, change with interval, noise level."""
    if "missing" in row:
        return "–", "–", row["missing"], ""
    digits = metric.digits
    before, after = f"{row['before']:.{digits}f}", f"{row['after']:.{digits}f}"
    if "spread" in row:
        spread = [f" ± {value:.{digits}f}" for value in row["spread"]]
        before, after = before + spread[0], after + spread[1]
    change = f"{row['change']:+.{digits}f}"
    if ends := row["interval"]:
        change += " [{:+.{d}f}, {:+.{d}f}]".format(*ends, d=digits)
    return before, after, change, _value(row, "noise", metric)


def _value(row: dict[str, Any], name: str, metric: Metric) -> str:
    return f"{row[name]:.{metric.digits}f}" if name in row else ""


def measured_by(metrics: dict[str, Any]) -> str:
    """Which network or formula is behind which column, in one line."""
    rows = table_rows(metrics)
    sources: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.measured_by:
            sources.setdefault(row.measured_by, {})[row.metric.name] = None
    said = [f"{', '.join(names)}: {source}" for source, names in sources.items()]
    if classes := metrics.get("classes"):
        said.append(f"IS counts {classes}")
    return "; ".join([*said, "PSNR (dB) and SSIM: inside the hole"])


def metrics_table(metrics: dict[str, Any]) -> Table:
    """Before and after for every set, as rich prints it."""
    table = Table(
        title=f"Completions against the truth, mask {metrics['mask']}, seed {metrics['seed']}",
        caption=f"{measured_by(metrics)}; arrows point towards the truth; {INTERVAL}",
    )
    for heading in headings(metrics):
        table.add_column(heading, justify="left" if heading in ("Set", "Metric") else "right")
    shown = ""
    for row in table_rows(metrics):
        first = row.set_name != shown
        shown = row.set_name
        table.add_row(
            row.set_name if first else "",
            str(row.n) if first else "",
            row.metric.label,
            *row.cells,
        )
    return table


def forgotten_share(cosine: dict[str, float]) -> float | None:
    """How far forget images went from where they were (0) to the noise level (1), from their mean
    cosines `before`, `after` and `noise`; None where the original does no better than noise, so
    that there is nothing to see go.
    """
    way = cosine["before"] - cosine["noise"]
    if way <= 0:
        return None
    return min(1.0, max(0.0, (cosine["before"] - cosine["after"]) / way))


def is_kept(measured: dict[str, Any]) -> bool:
    """Whether a set of retain images is completed as before, by every mean in `KEPT_WITHIN`."""
    return all(
        measured[metric]["change"] >= -most
        for metric, most in KEPT_WITHIN.items()
        if metric in measured
    )


def _moved(measured: dict[str, Any]) -> str:
    """How the mean cosine moved, and PSNR where it was measured; either may rise."""
    psnr = f", PSNR by {measured['psnr']['change']:+z.1f} dB" if "psnr" in measured else ""
    return f"moved by {measured['cosine']['change']:+z.2f}{psnr}".replace("-", "−")


def verdict(metrics: dict[str, Any]) -> str:
    """Some words for people: what was kept, what was lost; of the forget set that lost least."""
    sets = metrics["sets"]
    retain = sets["retain"]["cosine"]
    lost = [sets[name]["cosine"] for name in ("forget", "forget_uploads") if name in sets]
    forget = min(lost, key=lambda cosine: forgotten_share(cosine) or 0.0)
    kept = is_kept(sets["retain"])
    first = "Retain images look as before" if kept else "Retain images changed"
    share = forgotten_share(forget)
    if share is None:
        second = "the original completes forget images no better than noise, so nothing can be told"
    elif share >= GONE:
        second = "forget images come out as if the model saw only noise"
    else:
        second = f"forget images are {share:.0%} of the way to noise"
    said = (
        f"{first}, and {second}: similarity to the truth went from {retain['before']:.2f} to "
        f"{retain['after']:.2f} on retain and from {forget['before']:.2f} to "
        f"{forget['after']:.2f} on forget images (noise gives {forget['noise']:.2f})."
    )
    if not kept:
        said += f" On retain images it {_moved(sets['retain'])}."
    elif not is_kept(near := sets.get("neighbours", {})):
        said += f" On the retain images nearest to what was forgotten it {_moved(near)}."
    return " ".join(filter(None, [said, told_staying(metrics)]))


def told_staying(metrics: dict[str, Any]) -> str:
    """How many of the very images to be forgotten are not; nothing if all are, or none was told.

    Held-out images like them do not count.
    """
    sets = metrics["sets"].items()
    asked = [s for name, s in sets if name in FORGET_SETS and not s.get("held_out")]
    stay, known = (sum(s.get(count, 0) for s in asked) for count in ("stay", "known"))
    if not stay:
        return ""
    is_are = "is" if stay == 1 else "are"
    return f"{stay} of {known} images to be forgotten {is_are} still completed much as before."
