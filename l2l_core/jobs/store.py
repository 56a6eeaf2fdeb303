"""A run is a folder: request, state, events, checkpoints, previews, weights, metrics; manifest
last.

    runs/20261123-071503-5f0a9c31/
        request.json  state.json  events.jsonl  metrics.json  manifest.json
        inputs/forget/0001.png …    uploads, re-encoded, without their names
        previews/forget-000010.png …
        checkpoints/last.pt         to resume
        weights/unlearned.safetensors

Files are replaced atomically; the web process reads them while the worker writes. No PyTorch here.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock
from PIL import Image

from l2l_core.config import UnlearnRequest, dump_json
from l2l_core.errors import PlainError
from l2l_core.files import write_atomically

FINISHED = ("done", "failed", "cancelled", "interrupted")
GONE = "There is no such run; it may have been erased."
_BUILDING, _ERASED = ".new", ".erased"
_BUILDING_SECONDS = 600  # nobody needs longer to write a submission
_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")


class RunError(PlainError):
    """A run that does not exist or may not be touched; the message is for people."""


def data_root() -> Path:
    """Where runs live: the environment variable L2L_DATA, else `data` in the working folder."""
    return Path(os.environ.get("L2L_DATA") or "data").absolute()


def is_main_process() -> bool:
    """Whether this process speaks and writes for all of `accelerate launch`."""
    return int(os.environ.get("RANK", "0")) == 0


@dataclass(frozen=True)
class RunState:
    """How far a run is; times in seconds since 1970."""

    status: str  # queued or running, or one of FINISHED
    owner: str = ""
    title: str = ""
    submitted: float = 0.0
    started: float | None = None
    finished: float | None = None
    message: str = ""
    step: int = 0
    steps: int = 0
    deaths: int = 0  # of workers that executed it, since its last checkpoint


class Run:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.previews = folder / "previews"
        self.weights = folder / "weights" / "unlearned.safetensors"
        self.checkpoint = folder / "checkpoints" / "last.pt"

    @property
    def id(self) -> str:
        """What the run is called in reports, exports and logs: the name the store gave its folder,
        else one of that form, since a folder's name can say what was to be forgotten.

        Raises:
            RunError: as `state`, where the store did not name it.
        """
        if _RUN_ID.fullmatch(self.folder.name):
            return self.folder.name
        submitted = self.state.submitted
        return f"{_stamp(submitted)}-{sha256(str(submitted).encode()).hexdigest()[:8]}"

    @property
    def request(self) -> UnlearnRequest:
        """What was asked.

        Raises:
            RunError: erased meanwhile, damaged, or written by a version with other settings.
        """
        try:
            settings = json.loads((self.folder / "request.json").read_bytes())
            return UnlearnRequest.from_dict(settings)
        except FileNotFoundError as error:
            raise RunError(GONE) from error
        except (ValueError, TypeError) as error:
            raise RunError(
                "This run is damaged or of another version; its request cannot be read."
            ) from error

    @property
    def state(self) -> RunState:
        """How far it is.

        Raises:
            RunError: erased meanwhile, or damaged.
        """
        try:
            return RunState(**json.loads((self.folder / "state.json").read_bytes()))
        except FileNotFoundError as error:
            raise RunError(GONE) from error
        except (ValueError, TypeError) as error:
            raise RunError("This run's folder is damaged; its state cannot be read.") from error

    def set_state(self, **changes: Any) -> RunState:
        """Change some fields of the state; returns the new state."""
        state = replace(self.state, **changes)
        write_atomically(self.folder / "state.json", dump_json(asdict(state)))
        return state

    @property
    def metrics(self) -> dict[str, Any] | None:
        """What `evaluate` measured, once it has."""
        path = self.folder / "metrics.json"
        return json.loads(path.read_bytes()) if path.is_file() else None

    def log(self, kind: str, **values: Any) -> dict[str, Any]:
        """Append one event; returns it."""
        event = {"kind": kind, "time": round(time.time(), 3), **values}
        line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
        with (self.folder / "events.jsonl").open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # torn by a kill; the new line must not share its fate
                    line = b"\n" + line
            file.write(line)
        return event

    def events(self, start: int = 0) -> list[dict[str, Any]]:
        """Events from number `start` on; a line that is still being written is left for later."""
        path = self.folder / "events.jsonl"
        if not path.is_file():
            return []
        found = []
        for line in path.read_bytes().split(b"\n")[:-1]:
            with suppress(ValueError):  # torn by a kill
                found.append(json.loads(line))
        return found[start:]

    def rewind_events(self, step: int) -> None:
        """Drop the records of steps after `step`: a resumed run takes them again."""
        kept = [event for event in self.events() if event.get("step", 0) <= step]
        lines = [json.dumps(event, ensure_ascii=False) + "\n" for event in kept]
        write_atomically(self.folder / "events.jsonl", "".join(lines))

    def execution_lock(self) -> FileLock:
        """Held by the process that executes the run; the system frees it when that process dies."""
        return FileLock(self.folder / "executing.lock", timeout=0)

    def request_cancel(self) -> None:
        """Ask whoever executes this run to stop after the current step."""
        (self.folder / "cancel").touch()

    def cancel_requested(self) -> bool:
        """Whether somebody asked."""
        return (self.folder / "cancel").exists()

    def drop_checkpoint(self) -> None:
        """Remove what a resumed run would need, once none can go on from it."""
        self.checkpoint.unlink(missing_ok=True)

    def clear_temporary(self) -> None:
        """Remove what a killed process left half written."""
        for path in self.folder.rglob(".*.tmp"):
            path.unlink(missing_ok=True)


def create_run(
    folder: Path,
    request: UnlearnRequest,
    *,
    owner: str = "",
    title: str = "",
    status: str = "queued",
    forget_images: Sequence[Image.Image] = (),
    retain_images: Sequence[Image.Image] = (),
) -> Run:
    """Write a run that waits; pictures become `inputs:forget` and `inputs:retain`, without names.

    Args:
        folder: the run's folder, which must not exist.
        request: what to do.
        owner: whose run it is, "" for nobody's in particular.
        title: a few words for lists.
        status: “queued” for the worker to take, “running” if the caller executes it.
        forget_images: uploads the request's `inputs:forget` stands for.
        retain_images: uploads the request's `inputs:retain` stands for.

    Raises:
        RunError: the folder exists already.
    """
    if folder.exists():
        raise RunError(f"“{folder.name}” exists already. Choose another folder.")
    # Built beside and renamed, so that no one ever claims half a run.
    building = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{_BUILDING}")
    building.mkdir(parents=True, mode=0o700)
    try:
        for name, images in (("forget", forget_images), ("retain", retain_images)):
            if images:
                (building / "inputs" / name).mkdir(parents=True)
            for number, image in enumerate(images, start=1):
                pixels = Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())
                pixels.save(building / "inputs" / name / f"{number:04d}.png")
        for name in ("previews", "checkpoints", "weights"):
            (building / name).mkdir()
        write_atomically(building / "request.json", dump_json(request.to_dict()))
        state = RunState(status, owner, title, submitted=time.time(), steps=request.steps)
        write_atomically(building / "state.json", dump_json(asdict(state)))
        building.rename(folder)
    except BaseException:  # a full disk, say: no uploads may stay behind
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Run(folder)


def _stamp(seconds: float) -> str:
    """A time as ids begin, in UTC."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))


def _contents(folder: Path) -> str:
    """What a run's folder holds, in words."""
    uploads = sum(1 for _ in (folder / "inputs").rglob("*.png"))
    named = {
        f"{uploads} uploaded image{'s' * (uploads != 1)}": uploads,
        "the previews": any((folder / "previews").glob("*.png")),
        "the weights": any((folder / "weights").glob("*.safetensors")),
        "the numbers": (folder / "metrics.json").is_file(),
        "the events": (folder / "events.jsonl").is_file(),
    }
    first = [name for name, is_there in named.items() if is_there]
    return " and ".join(filter(None, [", ".join(first), "the settings"]))


class RunStore:
    """All runs of one data folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or data_root()).absolute()
        self.folder = self.root / "runs"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def create(self, request: UnlearnRequest, **details: Any) -> Run:
        """Write a run into this data folder; details as in `create_run`."""
        run_id = f"{_stamp(time.time())}-{secrets.token_hex(4)}"
        return create_run(self.folder / run_id, request, **details)

    def get(self, run_id: str) -> Run:
        """The run with this id.

        Raises:
            RunError: no such run.
        """
        folder = self.folder / run_id
        if not _RUN_ID.fullmatch(run_id) or not (folder / "state.json").is_file():
            raise RunError(GONE)
        return Run(folder)

    def owned(self, run_id: str, owner: str) -> Run:
        """One's own run; others' do not exist, and nobody owns those without an owner.

        Raises:
            RunError: no such run.
        """
        run = self.get(run_id)
        if not owner or run.state.owner != owner:
            raise RunError(GONE)
        return run

    def states(self) -> list[tuple[Run, RunState]]:
        """All runs with their states, newest first; what is being erased or damaged is left out."""
        found = []
        for folder in self.folder.iterdir():
            if _RUN_ID.fullmatch(folder.name):
                with suppress(RunError):
                    found.append((Run(folder), Run(folder).state))
        return sorted(found, key=lambda pair: (pair[1].submitted, pair[0].id), reverse=True)

    def runs(self, owner: str | None = None) -> list[Run]:
        """All runs, or one owner's, newest first."""
        return [run for run, state in self.states() if owner is None or state.owner == owner]

    def changing(self) -> FileLock:
        """Held while a run is taken, cancelled or erased, so that these never cross."""
        return FileLock(self.root / "queue.lock")

    def delete(self, run_id: str) -> str:
        """Erase a run; returns a sentence on what was erased.

        Raises:
            RunError: no such run, or it is being executed.
        """
        with self.changing():
            run = self.get(run_id)
            if run.state.status == "running":
                raise RunError("This run is being executed. Cancel it first.")
            gone = run.folder.with_name(f".{run.id}{_ERASED}")
            run.folder.rename(gone)
        found = _contents(gone)
        files = [path for path in gone.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        shutil.rmtree(gone)
        return f"Erased {len(files)} files ({size / 1e6:.1f} MB) of this run: {found}."

    def sweep(self) -> None:
        """Finish erasing what a killed process left half erased or half written."""
        for folder in self.folder.glob(f".*{_ERASED}"):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in self.folder.glob(f".*{_BUILDING}"):
            if time.time() - folder.stat().st_mtime > _BUILDING_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
