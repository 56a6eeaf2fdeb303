"""A run's numbers in words and as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table

SET_NAMES = {"retain": "Retain", "neighbours": "Nearest retain", "forget": "Forget"}
GONE = 0.95
"""Share of the way to the noise level from which nothing of an image is left to see."""
LIMITS = (
    "This is approximate unlearning: there is no formal guarantee, and fine-tuning can bring back "
    "what was forgotten.",
    "The original checkpoint still holds the data; publishing both models shows what was removed.",
    "A model retrained without the images would not answer with noise; this one does.",
)


def metrics_table(metrics: dict[str, Any]) -> Table:
    """Before and after for every set, as rich prints it; ↑ means higher is closer to the truth."""
    table = Table(
        title=f"Completions against the truth, mask {metrics['mask']}, seed {metrics['seed']}",
        caption=f"cosine: {metrics['extractor']}; PSNR: dB inside the hole; "
        "[ ]: 95% bootstrap interval of the change",
    )
    for heading in ("Set", "n", "Metric", "Original", "Unlearned", "Change", "Noise level"):
        table.add_column(heading, justify="left" if heading in ("Set", "Metric") else "right")
    for name, title in SET_NAMES.items():
        values = metrics["sets"][name]
        if name == "forget":
            title += " (held out)" if values["held_out"] else " (the images themselves)"
        for metric, label, digits in (("cosine", "cosine ↑", 4), ("psnr", "PSNR ↑", 2)):
            row = values[metric]
            low, high = row["interval"]
            table.add_row(
                title if metric == "cosine" else "",
                str(values["n"]) if metric == "cosine" else "",
                label,
                f"{row['before']:.{digits}f}",
                f"{row['after']:.{digits}f}",
                f"{row['change']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]",
                f"{row['noise']:.{digits}f}" if "noise" in row else "",
            )
    return table


def forgotten_share(cosine: dict[str, float]) -> float:
    """How far forget images went from where they were (0) to the noise level (1), from their mean
    cosines `before`, `after` and `noise`.
    """
    way = cosine["before"] - cosine["noise"]
    if way <= 0:  # the original could not complete them in the first place
        return 1.0
    return min(1.0, max(0.0, (cosine["before"] - cosine["after"]) / way))


def verdict(metrics: dict[str, Any]) -> str:
    """One sentence for people: what was kept, what was lost."""
    retain, forget = (metrics["sets"][name]["cosine"] for name in ("retain", "forget"))
    kept = abs(retain["change"]) <= 0.02
    share = forgotten_share(forget)
    gone = share >= GONE
    first = "Retain images look as before" if kept else "Retain images changed"
    second = (
        "forget images come out as if the model saw only noise"
        if gone
        else f"forget images are {share:.0%} of the way to noise"
    )
    return (
        f"{first}, and {second}: similarity to the truth went from {retain['before']:.2f} to "
        f"{retain['after']:.2f} on retain and from {forget['before']:.2f} to "
        f"{forget['after']:.2f} on forget images (noise gives {forget['noise']:.2f})."
    )
