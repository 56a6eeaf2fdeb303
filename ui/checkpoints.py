"""Checkpoints that visitors opened: files they sent, and paths where those may be given.

checkpoints/OWNER/ID/
    opened.json  what it is; absent until it could be opened, and never sent by anybody
    sent/        what was sent, if anything was: mae_visualize_vit_base.pth
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from l2l_core.config import ConfigError, dump_json
from l2l_core.files import write_atomically
from l2l_core.jobs.client import CompleterClient
from l2l_core.jobs.store import RunError, RunStore

OPENED = "opened:"
"""Begins the name of a model that is a checkpoint somebody opened; its id follows."""
UNUSED_SECONDS = 24 * 3600
"""How long a checkpoint is kept that no run started from."""
FREE_BYTES = 2 * 1024**3
"""What an upload must leave free on the disk."""
UPLOADS_KEPT = 2
"""How many uploads of the largest allowed size a visitor may keep."""
NOTHING_SENT = "Choose a file of weights, or give its path."
GONE = "This checkpoint is not here any more. Open it again."
SENT = "sent"
_ID = re.compile(r"[0-9a-f]{32}")
_BESIDE = (".json", ".yaml", ".yml", ".txt")


@dataclass(frozen=True)
class Opened:
    """A checkpoint that could be opened."""

    id: str
    title: str
    family: str
    size: str
    checkpoint: str
    options: Mapping[str, Any]
    uploaded: bool


class Checkpoints:
    """All visitors' checkpoints of one data folder; each sees only its own."""

    def __init__(self, store: RunStore, completer: CompleterClient, limit: int) -> None:
        self.store, self.completer, self.limit = store, completer, limit
        self.folder = store.root / "checkpoints"
        self.being_opened: list[Path] = []
        """Uploads whose opening has not ended; nothing in their folders shows it."""

    def place(self, owner: str, upload: str, name: str, size: int) -> Path:
        """Where a file that somebody is about to send belongs.

        Raises:
            ConfigError: too large, too much altogether, or no such upload.
        """
        self.sweep()
        if not _ID.fullmatch(owner) or not _ID.fullmatch(upload):
            raise ConfigError("This upload cannot be told apart from others. Reload the page.")
        own = self.folder / owner
        if size > self.limit:
            raise ConfigError(f"Files of up to {self.limit / 1e9:.1f} GB can be uploaded.")
        self._drop_unopened(own, but=upload)
        kept = sum(path.stat().st_size for path in own.rglob("*") if path.is_file())
        if kept + size > UPLOADS_KEPT * self.limit:
            raise ConfigError("Your checkpoints take too much space. Remove one first.")
        sent = own / upload / SENT
        sent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if shutil.disk_usage(own).free - size < FREE_BYTES:
            raise ConfigError("There is not enough space for this file on the machine.")
        return sent / (re.sub(r"[^\w.-]+", "_", name).lstrip(".")[-100:] or "checkpoint")

    def open(
        self, owner: str, family: str, options: Mapping[str, Any], path: str = "", upload: str = ""
    ) -> Opened:
        """Try a path or an upload; from then on it is one of the owner's models.

        An upload that cannot be opened stays for another try, until something else is sent.

        Raises:
            ConfigError: there is no such upload, or it went meanwhile. CompleterError: it cannot be
                opened, and why.
        """
        if path:
            place = Path(path).expanduser().absolute()
            upload = sha256(f"{place}".encode()).hexdigest()[:32]  # opened again, it is the same
        elif not _ID.fullmatch(upload):
            raise ConfigError(NOTHING_SENT)
        own = self.folder / owner / upload
        place = place if path else _main_file(own / SENT)
        self.being_opened.append(own)
        try:
            found = self.completer.try_checkpoint(str(place), family, options)
            if not place.exists():
                raise ConfigError(GONE)
            side = found.image_size
            opened = Opened(
                id=own.name,
                title=place.name,
                family=found.family,
                size=f"{found.parameters / 1e6:.1f} M parameters, {side}×{side}",
                checkpoint=str(place),
                options=dict(options),
                uploaded=not path,
            )
            own.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(own / "opened.json", dump_json(asdict(opened)))
        finally:
            self.being_opened.remove(own)
        return opened

    def all(self, owner: str) -> list[Opened]:
        """What the owner has opened, oldest first."""
        if not _ID.fullmatch(owner):
            return []
        found = sorted(
            (self.folder / owner).glob("*/opened.json"), key=lambda path: path.stat().st_mtime
        )
        return [Opened(**json.loads(path.read_bytes())) for path in found]

    def get(self, owner: str, checkpoint: str) -> Opened:
        """One of the owner's.

        Raises:
            ConfigError: there is none by this id.
        """
        for opened in self.all(owner):
            if opened.id == checkpoint:
                return opened
        raise ConfigError(GONE)

    def remove(self, owner: str, checkpoint: str) -> str:
        """Erase what was sent, or forget the path; returns a sentence on it.

        Raises:
            ConfigError: there is none by this id, or a run needs it.
        """
        opened = self.get(owner, checkpoint)
        if opened.uploaded and opened.checkpoint in self._used():
            raise ConfigError("A run started from this checkpoint. Erase the run first.")
        shutil.rmtree(self.folder / owner / opened.id)
        return "Erased the uploaded file." if opened.uploaded else "Forgot the path, not the file."

    def sweep(self) -> None:
        """Remove uploads that no run started from, and that nobody touched for a day."""
        used = self._used()
        for sent in self.folder.glob(f"*/*/{SENT}"):
            with suppress(OSError):  # removed meanwhile
                touched = max(sent.stat().st_mtime, sent.parent.stat().st_mtime)
                idle = time.time() - touched > UNUSED_SECONDS
                if idle and not any(str(path) in used for path in sent.iterdir()):
                    shutil.rmtree(sent.parent, ignore_errors=True)

    def _drop_unopened(self, own: Path, but: str) -> None:
        """Remove what an owner sent before and could not open: no card shows it."""
        for upload in own.glob("*"):
            wanted = upload.name == but or upload in self.being_opened
            arriving = any(upload.glob(f"{SENT}/*.part"))
            if not wanted and not arriving and not (upload / "opened.json").exists():
                shutil.rmtree(upload, ignore_errors=True)

    def _used(self) -> Collection[str]:
        used = set()
        for run in self.store.runs():
            with suppress(RunError):  # erased or damaged meanwhile
                used.add(run.request.checkpoint or "")
        return used


def _main_file(folder: Path) -> Path:
    """The model among what was sent: the largest file; what lies beside it is its company.

    Raises:
        ConfigError: nothing was sent, or only descriptions.
    """
    files = folder.iterdir() if folder.is_dir() else ()
    weights = [path for path in files if path.suffix not in (*_BESIDE, ".part")]
    if not weights:
        raise ConfigError(NOTHING_SENT)
    return max(weights, key=lambda path: path.stat().st_size)
