"""What people may set of a model family beyond what a checkpoint's shapes tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2l_core.errors import PlainError

KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "text": ((str,), "a text"),
    "choice": ((str,), "a text"),
    "path": ((str, Path), "a path"),
}
"""Kinds of option: the types of their values, and the words for them."""


@dataclass(frozen=True)
class Option:
    """Something a checkpoint's shapes cannot tell, or a family's own way of working."""

    name: str
    """Keyword of the family's opener; a key of `UnlearnRequest.model_options`."""
    title: str
    help: str
    kind: str = "int"
    """int, float, bool, text, choice, or path: a file on the machine that opens the checkpoint."""
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> None:
        """Whether the option can have this value; None leaves it open.

        Raises:
            PlainError: it cannot, with what it takes.
        """
        kinds, words = KINDS[self.kind]
        fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if value is not None and (not fits or (self.choices and value not in self.choices)):
            wanted = f"one of {', '.join(self.choices)}" if self.choices else words
            raise PlainError(f"{self.name} must be {wanted}, got {json.dumps(value, default=str)}.")
