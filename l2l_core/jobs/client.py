"""How the web process asks the completer for pictures; no PyTorch here.

A message is a list of byte strings over a local connection: first a JSON object, then the pictures
it speaks of as PNG files. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from filelock import FileLock

from l2l_core.errors import PlainError
from l2l_core.files import write_atomically
from l2l_core.jobs.results import TABLE

PATIENCE_SECONDS = 120.0
"""How long the next sign of life may take; a run's first answer looks for its nearest images."""
Message = tuple[dict[str, Any], list[bytes]]


class CompleterError(PlainError):
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
    steps: int | None = None
    """Of models that complete step by step; None takes their usual number."""
    page: int = 0
    """Which samples: page 1 shows those after page 0."""
    drawing: bytes | None = field(default=None, repr=False)
    """A PNG, opaque where the hole is."""
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
    gold: bytes | None = field(default=None, repr=False)
    """What a model makes of it that never saw what was forgotten, where there is one."""


PICTURES = ("truth", "hole", "original", "unlearned", "gold")
"""In the order they are sent; the last only where there is one."""


@dataclass(frozen=True)
class Progress:
    """How far a comparison is."""

    model: str  # original, unlearned or gold
    step: int
    steps: int
    number: int = 0
    """Of the model, among all that are compared."""
    models: int = 2
    pictures: tuple[bytes, ...] = field(default=(), repr=False)
    """What the model has made of the samples so far, as PNG."""


@dataclass(frozen=True)
class OpenedModel:
    """What a checkpoint turned out to hold."""

    family: str
    parameters: int
    image_size: int


class CompleterClient:
    """Asks the completer of one data folder."""

    def __init__(self, root: Path, patience: float = PATIENCE_SECONDS) -> None:
        self.root, self.patience = root, patience

    def watch_comparison(self, request: CompareRequest) -> Iterator[Progress | list[CompareRow]]:
        """How far it is, as often as there is news, and at last the rows for a run: forget,
        nearest retain, retain, and any extra pictures.

        Raises:
            CompleterError: not running, or the request cannot be met (the message says why).
        """
        plain = asdict(request)
        pictures = [*plain.pop("extra")]
        drawing = plain.pop("drawing")
        plain |= {"question": "compare", "has_drawing": drawing is not None}
        for reply, answers in self._ask(plain, pictures + ([drawing] if drawing else [])):
            if "progress" in reply:
                yield Progress(**reply["progress"], pictures=tuple(answers))
                continue
            rows = reply["rows"]
            each = len(answers) // len(rows)
            parts = [answers[n * each :][:each] for n in range(len(rows))]
            yield [
                CompareRow(**{**row, **dict(zip(PICTURES, part, strict=False))})
                for row, part in zip(rows, parts, strict=True)
            ]

    def try_checkpoint(
        self, checkpoint: str, family: str = "", options: Mapping[str, Any] | None = None
    ) -> OpenedModel:
        """Open a checkpoint to see that it can be opened; without a family, as each there is.

        Raises:
            CompleterError: not running, or it cannot be opened (the message says why).
        """
        question = {"checkpoint": checkpoint, "family": family, "options": dict(options or {})}
        for reply, _ in self._ask({"question": "open", **question}, []):
            return OpenedModel(**reply["opened"])
        raise CompleterError(_NOT_READY)

    def measure(self, run_id: str, what: str = TABLE) -> None:
        """Have a run measured (`results.TABLE`) or audited (`AUDITS`); how far that is stands in
        the run's folder (`results.measuring`).

        Raises:
            CompleterError: not running, or it cannot be measured (the message says why).
        """
        for _ in self._ask({"question": "measure", "run_id": run_id, "what": what}, []):
            return
        raise CompleterError(_NOT_READY)

    def _ask(self, question: dict[str, Any], pictures: list[bytes]) -> Iterator[Message]:
        """Every message up to the answer, which is the first that is no progress."""
        try:
            with Client(address(self.root), authkey=authentication_key(self.root)) as connection:
                send(connection, question, pictures)
                while True:
                    if not connection.poll(self.patience):
                        raise CompleterError("This takes too long. Show fewer samples.")
                    reply, answers = receive(connection)
                    if "error" in reply:
                        raise CompleterError(reply["error"])
                    yield reply, answers
                    if "progress" not in reply:
                        return
        except (OSError, EOFError, AuthenticationError) as error:
            raise CompleterError(_NOT_READY) from error


_NOT_READY = "The inference process is not ready yet. Try again."


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
