"""Costly values that are kept while they are in use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class Warm:
    """The most recently used values of a costly function, by key."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value for a key, made if it is not there."""
        if key not in self.values:
            self.values[key] = make()
            if len(self.values) > self.size:
                self.values.popitem(last=False)
        self.values.move_to_end(key)
        return self.values[key]

    def drop(self, gone: Callable[[Any], bool]) -> None:
        """Let go of the values whose key says so."""
        for key in [key for key in self.values if gone(key)]:
            del self.values[key]
