"""A protocol's results as the paper's table, and as the tables of every other report."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from l2l_core.evaluation.protocol import ORIGINAL, SETS
from l2l_core.evaluation.report import METRICS

COLUMNS = ("fid", "kid", "is", "embedding")
OPPOSITE = {"↓": "↑", "↑": "↓"}


def paper_rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The paper's table as text: hole and model by row, each score on retain and on forget.

    Arrows say what unlearning wants: on retain towards the truth, on forget away from it.
    """
    heads = ["Mask", "Model"]
    for name in SETS:
        for key in COLUMNS:
            arrow = METRICS[key].arrow
            arrow = OPPOSITE[arrow] if name == "forget" else arrow
            heads.append(f"{name}\n{METRICS[key].name} {arrow}")
    rows = []
    for mask, models in results["masks"].items():
        original = next(iter(models.values()))
        rows.append([mask, ORIGINAL, *_cells(original, "before")])
        rows += [["", model, *_cells(sets, "after")] for model, sets in models.items()]
    return heads, rows


def paper_note(results: dict[str, Any]) -> str:
    """On how many images it was measured, with what, and why a score is missing."""
    count = ", ".join(f"{n:,} {name}" for name, n in results["n"].items())
    classes = f", IS counts {results['classes']}" if results["classes"] else ""
    tables = (sets for models in results["masks"].values() for sets in models.values())
    missing = {
        f" {METRICS[key].name}: {row['missing']}."
        for sets in tables
        for key, row in ((key, sets[name].get(key, {})) for name in SETS for key in COLUMNS)
        if "missing" in row
    }
    return (
        f"{count} images, seed {results['seed']}. FID, KID and IS by {results['extractor']}"
        f"{classes}; cosine with the true image by {results['embedding']}."
        f"{''.join(sorted(missing))}"
    )


def paper_table(results: dict[str, Any]) -> Table:
    """The paper's table as rich prints it."""
    heads, rows = paper_rows(results)
    table = Table(title=results["protocol"], caption=paper_note(results))
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number > 1 else "left")
    for row, following in zip(rows, [*rows[1:], [""]], strict=True):
        table.add_row(*row, end_section=bool(following[0]))
    return table


def _cells(sets: dict[str, Any], when: str) -> list[str]:
    """Values of one model; a dash where too few images, or an extractor without classes, give
    none.
    """
    cells = []
    for name in SETS:
        for key in COLUMNS:
            row = sets[name].get(key, {})
            cells.append(f"{row[when]:.{METRICS[key].digits}f}" if when in row else "–")
    return cells
