"""Data frames behind the page's figures."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def curves(losses: Sequence[tuple[int, float, float]]) -> pd.DataFrame:
    """(step, retain, forget) as long-form rows: step, loss, term."""
    rows = [
        (step, value, term)
        for step, retain, forget in losses
        for term, value in (("retain", retain), ("forget", forget))
    ]
    return pd.DataFrame(rows, columns=["step", "loss", "term"])
