"""What was measured of a run after it ended: files of its folder, read without PyTorch.

evaluation.json     the full table, as `evaluate` of the command line writes it, too
map.json            the embedding map, as `map` writes it, too
audit-KIND.json     an audit of that kind, as `audit` writes it, too
map-pictures.zip    its pictures, for the owner's eyes; never exported
measuring.json      how far a measurement is, or why it failed; gone when it is done
"""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from l2l_core.config import dump_json
from l2l_core.evaluation.audit_report import TITLES
from l2l_core.evaluation.plots import Pictures
from l2l_core.files import write_atomically
from l2l_core.jobs.store import Run

EVALUATION, MAP, PICTURES, MEASURING = (
    "evaluation.json",
    "map.json",
    "map-pictures.zip",
    "measuring.json",
)


TABLE, AUDITS = "table", "audits"
"""What can be measured of a run: table and map, or the audits that suit what it forgot."""


@dataclass(frozen=True)
class Measuring:
    """How far the measurement of a run is."""

    stage: str
    """What is done now, or why it failed, in words."""
    done: int = 0
    of: int = 1
    failed: bool = False


def evaluation(run: Run) -> dict[str, Any] | None:
    """The full table, as `evaluate_full` gives it, once it was measured."""
    return read_json(run.folder / EVALUATION)


def audits(run: Run) -> dict[str, dict[str, Any]]:
    """By kind, what the audits found that were run."""
    found = {kind: read_json(_audit(run, kind)) for kind in TITLES}
    return {kind: audit for kind, audit in found.items() if audit}


def write_audit(run: Run, kind: str, found: dict[str, Any]) -> Path:
    """Keep what an audit found; returns its file."""
    write_atomically(_audit(run, kind), dump_json(found))
    return _audit(run, kind)


def embedding_map(run: Run) -> dict[str, Any] | None:
    """The map, as `describe_map` gives it, once it was drawn."""
    return read_json(run.folder / MAP)


def map_pictures(run: Run) -> Pictures:
    """The pictures of the map's points; none if it was drawn without."""
    pictures = {}
    with suppress(FileNotFoundError), zipfile.ZipFile(run.folder / PICTURES) as archive:
        for name in archive.namelist():
            of, what, index = name.split("/")
            pictures[of, what, int(index)] = archive.read(name)
    return pictures


def write_map(run: Run, found: dict[str, Any], pictures: Pictures) -> None:
    """Keep a map and its pictures."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for (of, what, index), picture in pictures.items():
            archive.writestr(f"{of}/{what}/{index}", picture)
    write_atomically(run.folder / PICTURES, buffer.getvalue())
    write_atomically(run.folder / MAP, dump_json(found))


def measuring(run: Run) -> Measuring | None:
    """How far a measurement is, or why the last one failed; None if there is neither."""
    found = read_json(run.folder / MEASURING)
    return Measuring(**found) if found else None


def tell(run: Run, progress: Measuring | None) -> None:
    """Write how far a measurement is; None: it is done."""
    if progress is None:
        (run.folder / MEASURING).unlink(missing_ok=True)
    else:
        write_atomically(run.folder / MEASURING, dump_json(asdict(progress)))


def _audit(run: Run, kind: str) -> Path:
    return run.folder / f"audit-{kind}.json"


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None without the file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
