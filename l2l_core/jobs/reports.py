"""What people take away of a run: its report, the card beside its weights, and all of it as a zip.

Nothing in these names an image, a path or an owner, and there are no pictures but those the owner
chose to show.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2l_core.config import dump_json
from l2l_core.errors import PlainError
from l2l_core.evaluation.html_report import (
    RunReport,
    Sample,
    public_request,
    run_report,
    to_html,
    to_json,
)
from l2l_core.evaluation.model_card import model_card
from l2l_core.files import replacing, write_atomically
from l2l_core.jobs.results import audits, embedding_map, evaluation, read_json
from l2l_core.jobs.store import Run, RunError
from l2l_core.models import load_model
from l2l_core.registry import FAMILIES, MODELS

if TYPE_CHECKING:
    from l2l_core.models.base import ImageToImageModel

CARD = "weights/README.md"


def report_of(run: Run, metrics: dict[str, Any] | None = None) -> RunReport:
    """Everything measured of a run, without pictures; its title names the model, never a file.

    Args:
        metrics: a table to show in place of the one in its folder.

    Raises:
        RunError: nothing was measured.
    """
    metrics = metrics or evaluation(run) or run.metrics
    if metrics is None:
        raise RunError(f"This run has no numbers: it is {run.state.status}.")
    events = run.events()
    protocols = [read_json(path) for path in sorted(run.folder.glob("protocol/*/results.json"))]
    return run_report(
        f"Unlearning of {run.request.model}",
        run.request.to_dict(),
        metrics,
        [(e["step"], e["retain"], e["forget"]) for e in events if e["kind"] == "step"],
        environment_of(run),
        embedding_map=embedding_map(run),
        audits=audits(run),
        protocols=[found for found in protocols if found],
    )


def environment_of(run: Run) -> dict[str, Any]:
    """What a finished run was and ran on: id, times, versions, device, digests of both models."""
    manifest, state = read_json(run.folder / "manifest.json") or {}, run.state
    times = {"started": state.started, "finished": state.finished}
    found = {"run": run.id} | {
        name: datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")
        for name, time in times.items()
        if time
    }
    known = ("device", "threads", "precision", "model_before", "model_after")
    found |= {name: manifest[name] for name in known if name in manifest}
    return found | manifest.get("versions", {})


def report_files(run: Run, report: RunReport) -> dict[str, str]:
    """Content by name inside the run's folder: report.html, report.json and the weights' card."""
    return {
        "report.html": to_html(report),
        "report.json": to_json(report),
        CARD: _card(run, report, run.weights.name),
    }


def card_of(run: Run, model: ImageToImageModel, path: Path) -> str:
    """The model card of a run's model as it lies in a file of the published layout.

    Raises:
        RunError: nothing was measured.
    """
    return _card(run, report_of(run), path.name, lost_options(model, path))


def lost_options(model: ImageToImageModel, path: Path) -> dict[str, Any]:
    """What a model's file of the published layout has to be opened with, to be the same model."""
    try:
        opened = load_model(model.family, path).config
    except PlainError:  # so every option is needed
        opened = None
    lost = {}
    for option in FAMILIES[model.family].options:
        value = getattr(model.config, option.name, None)
        if value != getattr(opened, option.name, None):
            if isinstance(value, tuple):  # a schedule
                value = ",".join(map(str, value))
            lost[option.name] = -1 if value is None else value  # a single head, as published
    return lost


def _card(run: Run, report: RunReport, file: str, options: Mapping[str, Any] | None = None) -> str:
    name = run.request.model
    licence = MODELS[name].licence if name in MODELS else "other"
    return model_card(report, licence, name, file, options)


def write_report(
    run: Run, metrics: dict[str, Any] | None = None, samples: Sequence[Sample] = ()
) -> list[Path]:
    """Write a run's report and card into its folder; returns the files.

    Args:
        metrics: as `report_of` takes them. samples: pictures that the owner chose to show.

    Raises:
        RunError: nothing was measured.
    """
    report = replace(report_of(run, metrics), samples=tuple(samples))
    written = []
    for name, content in report_files(run, report).items():
        written.append(run.folder / name)
        write_atomically(written[-1], content)
    return written


def export_run(run: Run, path: Path) -> Path:
    """Write a zip of a run: request and events without what is private, numbers, report, weights
    with their card, and a manifest with the digests of these files.
    """
    files: dict[str, bytes] = {
        "request.json": dump_json(public_request(run.request.to_dict())).encode(),
        "events.jsonl": "".join(map(_public_line, run.events())).encode(),
    }
    if run.metrics:
        files["metrics.json"] = dump_json(report_of(run, run.metrics).metrics).encode()
        report = report_of(run)
        if evaluation(run):
            files["evaluation.json"] = dump_json(report.metrics).encode()
        files |= {name: text.encode() for name, text in report_files(run, report).items()}
    weights = str(run.weights.relative_to(run.folder))
    if manifest := read_json(run.folder / "manifest.json"):
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        digests[weights] = manifest["files"][weights]
        files["manifest.json"] = dump_json(manifest | {"files": digests}).encode()
    with (
        replacing(path, f".{secrets.token_hex(4)}") as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, content in files.items():
            archive.writestr(f"{run.id}/{name}", content)
        if run.weights.is_file():
            archive.write(run.weights, f"{run.id}/{weights}")
    return path


def _public_line(event: dict[str, Any]) -> str:
    """An event without messages of errors, which may name a file."""
    return json.dumps({name: value for name, value in event.items() if name != "message"}) + "\n"
