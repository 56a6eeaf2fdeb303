"""A run's numbers in words and as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table

SET_NAMES = {"retain": "Retain", "neighbours": "Nearest retain", "forget": "Forget"}
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


def verdict(metrics: dict[str, Any]) -> str:
    """One sentence for people: what was kept, what was lost."""
    retain, forget = (metrics["sets"][name]["cosine"] for name in ("retain", "forget"))
    kept = abs(retain["change"]) <= 0.02
    gone = forget["after"] <= forget["noise"] + 0.02
    first = "Retain images look as before" if kept else "Retain images changed"
    second = (
        "forget images come out as if the model saw only noise"
        if gone
        else "forget images are only partly gone"
    )
    joined = f"{first}, and {second}" if kept == gone else f"{first}, but {second}"
    return (
        f"{joined}: similarity to the truth went from {retain['before']:.2f} to "
        f"{retain['after']:.2f} on retain and from {forget['before']:.2f} to "
        f"{forget['after']:.2f} on forget images (noise gives {forget['noise']:.2f})."
    )
