"""The README.md of exported weights, in the hub's form: what they are, and what they are not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from l2l_core.evaluation.html_report import RunReport
from l2l_core.evaluation.report import (
    METHODS_TOLD,
    SCORE_LIMITS,
    headings,
    limits_of,
    measured_by,
    table_rows,
    verdict,
)

PAPER = "https://arxiv.org/abs/2402.00351"


def model_card(
    report: RunReport,
    licence: str,
    base_model: str,
    file: str,
    options: Mapping[str, Any] | None = None,
) -> str:
    """README.md beside exported weights, in the hub's form.

    Args:
        licence: of the base model's weights, e.g. “MIT”.
        base_model: what it was unlearned from, e.g. “mae-fluent”.
        file: name of the weights' file.
        options: what it has to be opened with.
    """
    given = "".join(f", {name}={_literal(value)}" for name, value in (options or {}).items())
    columns = headings(report.metrics)
    lines = [f"| {' | '.join(columns)} |", f"|---|--:|---|{'--:|' * (len(columns) - 3)}"]
    for row in table_rows(report.metrics):
        cells = (row.set_name, row.n, row.metric.label, *row.cells)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    request = report.request
    return "\n".join(
        [
            "---",
            f"license: {licence.lower().replace(' ', '-')}",
            "pipeline_tag: image-to-image",
            "tags: [machine-unlearning]",
            "---",
            f"# {report.title}",
            "",
            verdict(report.metrics),
            "",
            f"From {base_model}, to forget {', '.join(request['forget'])} and to keep "
            f"{', '.join(request['retain'])}. Of images to forget: "
            f"{METHODS_TOLD[request['method']]}. Method “{request['method']}” of or beside Li et "
            f"al. (ICLR 2024, {PAPER}), α {request['alpha']:g}, {request['steps']} steps, noise "
            f"{request['noise']}, seed {request['seed']}.",
            "",
            "## Use",
            "",
            "```python",
            "import l2l_core as l2l",
            f'model = l2l.load_model("{base_model}", checkpoint="{file}"{given})',
            "```",
            "",
            "## Measured",
            "",
            f"Completions against the truth, mask {report.metrics['mask']}. "
            f"{measured_by(report.metrics)}. Arrows point towards the truth; "
            "[ ] is the change's 95% interval.",
            "",
            *lines,
            "",
            "## Limits",
            "",
            *(f"- {limit}" for limit in (*limits_of(request["method"]), *SCORE_LIMITS)),
            "",
        ]
    )


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)
