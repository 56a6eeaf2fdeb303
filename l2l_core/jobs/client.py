"""How the web process asks the completer for pictures; no PyTorch here.

A message is a list of byte strings over a local connection: first a JSON object, then the pictures
it speaks of as PNG files. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from filelock import FileLock

from l2l_core.jobs.store import write_atomically

PATIENCE_SECONDS = 120.0
"""How long an answer may take; the first one of a run looks for its nearest images."""
Message = tuple[dict[str, Any], list[bytes]]


class CompleterError(RuntimeError):
    """The completer is not there, or could not do what was asked; the message is for people."""


@dataclass(frozen=True)
class CompareRequest:
    """What to show for a run; the same hole and seed for every picture and model."""

    run_id: str
    mask: str = "centre:0.5"
    """As `parse_mask` reads it; “drawn” takes `drawing`."""
    seed: int = 0
    count: int = 4
    """Samples a role."""
    page: int = 0
    """Which samples: page 1 shows those after page 0."""
    drawing: bytes | None = field(default=None, repr=False)
    """A PNG, opaque or white where the hole is."""
    extra: tuple[bytes, ...] = field(default=(), repr=False)
    """Further pictures to try, as PNG."""


@dataclass(frozen=True)
class CompareRow:
    """One picture and what both models make of it; pictures are PNG bytes of equal size."""

    role: str  # forget, nearest, retain or extra
    label: str
    before: float  # cosine with the truth in built-in features, original model
    after: float  # the same, unlearned model
    truth: bytes = field(repr=False)
    hole: bytes = field(repr=False)
    original: bytes = field(repr=False)
    unlearned: bytes = field(repr=False)


PICTURES = ("truth", "hole", "original", "unlearned")


class CompleterClient:
    """Asks the completer of one data folder."""

    def __init__(self, root: Path, patience: float = PATIENCE_SECONDS) -> None:
        self.root, self.patience = root, patience

    def compare(self, request: CompareRequest) -> list[CompareRow]:
        """Rows for a run: forget, nearest retain, retain, and any extra pictures.

        Raises:
            CompleterError: not running, or the request cannot be met (the message says why).
        """
        plain = asdict(request)
        pictures = [*plain.pop("extra")]
        drawing = plain.pop("drawing")
        plain["has_drawing"] = drawing is not None
        reply, answers = self._ask(plain, pictures + ([drawing] if drawing else []))
        rows = reply["rows"]
        parts = [answers[i : i + len(PICTURES)] for i in range(0, len(answers), len(PICTURES))]
        return [
            CompareRow(**{**row, **dict(zip(PICTURES, part, strict=True))})
            for row, part in zip(rows, parts, strict=True)
        ]

    def _ask(self, question: dict[str, Any], pictures: list[bytes]) -> Message:
        try:
            with Client(address(self.root), authkey=authentication_key(self.root)) as connection:
                send(connection, question, pictures)
                if not connection.poll(self.patience):
                    raise CompleterError("The comparison takes too long. Show fewer samples.")
                reply, answers = receive(connection)
        except (OSError, EOFError, AuthenticationError) as error:
            raise CompleterError("The inference process is not ready yet. Try again.") from error
        if "error" in reply:
            raise CompleterError(reply["error"])
        return reply, answers


def compare_request(plain: dict[str, Any], pictures: list[bytes]) -> CompareRequest:
    """The request a message carries."""
    names = {f.name for f in fields(CompareRequest)}
    drawing = pictures.pop() if plain.get("has_drawing") else None
    known = {name: value for name, value in plain.items() if name in names}
    return CompareRequest(**known, drawing=drawing, extra=tuple(pictures))


def send(connection: Connection, head: dict[str, Any], pictures: list[bytes]) -> None:
    """Write one message."""
    connection.send_bytes(json.dumps({**head, "pictures": len(pictures)}).encode())
    for picture in pictures:
        connection.send_bytes(picture)


def receive(connection: Connection) -> Message:
    """Read one message."""
    head = json.loads(connection.recv_bytes())
    return head, [connection.recv_bytes() for _ in range(head.pop("pictures"))]


def address(root: Path) -> str:
    """Where the completer of a data folder listens; short, as socket paths must be."""
    name = "l2l-" + hashlib.sha256(str(root).encode()).hexdigest()[:16]
    return rf"\\.\pipe\{name}" if os.name == "nt" else str(Path(gettempdir()) / f"{name}.sock")


def authentication_key(root: Path) -> bytes:
    """A secret of the data folder that both sides read; made on first use, for its owner's eyes."""
    path = root / "completer.key"
    if not path.is_file():
        with FileLock(root / "completer.key.lock"):  # two that both make one would not agree
            if not path.is_file():
                write_atomically(path, secrets.token_bytes(32))
    return path.read_bytes()
