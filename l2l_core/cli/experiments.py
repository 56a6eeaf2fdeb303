"""compare and sweep: several runs seen together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from l2l_core.cli.shared import (
    CONFIG,
    EXIT_CODES,
    INSTRUMENTS,
    StepProgress,
    absolute_sets,
    console,
    given,
    listed,
    merged,
    print_whole,
    request_signature,
    stopped_by_signals,
)
from l2l_core.config import METHODS, PAPER_METHODS, ConfigError, UnlearnRequest, load_mapping
from l2l_core.jobs.store import data_root
from l2l_core.registry import gold_standard

LISTS = {"alpha": float, "retain_fraction": float, "noise": str, "method": str}
"""Settings of which a sweep takes several values from a flag."""
GOLD: dict[str, tuple[Any, str]] = {
    "gold": (
        Path,
        "Weights of a model that never saw the forget images. [default: the shipped one, if any]",
    )
}


def compare(
    preset: str | None,
    config: Path | None,
    out: Path | None,
    methods: str | None,
    proxy: list[str] | None,
    gold: Path | None,
    mask: str | None,
    extractor: str | None,
    embedding: str | None,
    perceptual: str | None,
    limit: int | None,
    **flags: Any,
) -> None:
    """Run the baselines and ours on equal terms; prints the paper's table, writes compare.json.

    The same command goes on where it was interrupted; finished methods are not run again.
    """
    from l2l_core.experiments.compare import Comparison, compare_methods, compare_table
    from l2l_core.experiments.series import digest

    settings = merged(load_mapping(config) if config else {}, preset, flags)
    request = UnlearnRequest.from_dict(settings)
    how = {"mask": mask, "extractor": extractor, "perceptual": perceptual, "limit": limit}
    how |= {"embedding": embedding}
    chosen = tuple(listed(methods)) or PAPER_METHODS
    gold = gold or gold_standard(request.model, request.forget, request.checkpoint)
    comparison = Comparison(request, chosen, tuple(absolute_sets(proxy or ())), gold, **given(how))
    folder = _folder(out, "comparisons", digest(request.to_dict()))
    stopped = stopped_by_signals()
    with StepProgress() as progress:
        result = compare_methods(
            comparison,
            folder,
            should_stop=stopped,
            on_event=progress.show,
            on_progress=progress.console.print,
        )
    if "original" in result["rows"]:
        print_whole(compare_table(result))
    failures = {r["title"]: r["message"] for r in result["rows"].values() if "message" in r}
    _end(folder, stopped(), failures)


def sweep(
    preset: str | None,
    config: Path | None,
    out: Path | None,
    devices: str | None,
    gold: Path | None,
    **flags: Any,
) -> None:
    """Run every combination of some settings' values; prints and plots drift against damage.

    --alpha, --noise, --retain-fraction and --method take several values with commas between them.
    A configuration file can name any setting under `sweep:`, each with a list of values, and `mask`
    for holes to measure under. The same command goes on where it was interrupted; finished points
    are not run again.
    """
    from l2l_core.experiments.series import digest
    from l2l_core.experiments.sweep import grid, label_of, runs_of, sweep, sweep_table

    settings = load_mapping(config) if config else {}
    axes = settings.pop("sweep", {})
    if not isinstance(axes, Mapping) or not all(isinstance(v, list) for v in axes.values()):
        raise ConfigError("sweep must name settings, each with a list of values.")
    axes = {**axes, **_axes(flags)}
    settings = merged(settings, preset, flags)
    points = grid(settings, axes)
    folder = _folder(out, "sweeps", digest(settings))
    stopped = stopped_by_signals()
    places = listed(devices) or [points[0].request.device]
    with StepProgress() as progress:
        progress.update(progress.steps, visible=len(places) == 1)
        task = progress.add_task("Runs", total=len(runs_of(points)), losses="")
        result = sweep(
            settings,
            axes,
            folder,
            devices=places,
            gold=gold,
            should_stop=stopped,
            on_event=progress.show,
            on_progress=lambda done: progress.update(task, completed=done),
        )
    if result["front"]:
        print_whole(sweep_table(result))
    failures = {label_of(p["values"]): p["message"] for p in result["points"] if "message" in p}
    if result["waiting"] and not stopped():
        failures["Not run"] = f"{result['waiting']} runs, left to another process or by a dead one."
    _end(folder, stopped(), failures)


compare.__signature__ = request_signature(  # type: ignore[attr-defined]
    CONFIG
    | {
        "out": (Path, "Folder to write; default: one below the data folder, the same each time."),
        "methods": (
            str,
            f"Which of {', '.join(METHODS)}, with commas between them. "
            f"[default: {','.join(PAPER_METHODS)}]",
        ),
        "proxy": (
            list[str],
            "Image sets in place of the retain sets, for a further run of ours. Can be given "
            "several times. [default: images of another kind, if there are any]",
        ),
    }
    | GOLD
    | INSTRUMENTS
)
sweep.__signature__ = request_signature(  # type: ignore[attr-defined]
    CONFIG
    | {
        "out": (Path, "Folder to write; default: one below the data folder, the same each time."),
        "devices": (str, "Devices that share the runs, e.g. cuda:0,cuda:1."),
    }
    | GOLD,
    instead={name: (str, f"Values of {name}, with commas between them.") for name in LISTS},
)


def _axes(flags: dict[str, Any]) -> dict[str, list[Any]]:
    """Takes the flags of several values out of all flags."""
    axes: dict[str, list[Any]] = {}
    for name, kind in LISTS.items():
        parts = listed(flags.pop(name))
        try:
            values = [kind(part) for part in parts]
        except ValueError as error:
            raise ConfigError(f"{name} takes numbers with commas between them.") from error
        if values:
            axes[name] = values
    return axes


def _folder(out: Path | None, kind: str, name: str) -> Path:
    """Where a result goes: the same folder for the same command."""
    folder = out.absolute() if out else data_root() / kind / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _end(folder: Path, stopped: bool, failures: Mapping[str, str]) -> None:
    for what, message in failures.items():
        console.print(f"[red]{escape(what)}:[/] {escape(message)}", soft_wrap=True)
    console.print(f"Folder: {folder}", soft_wrap=True)
    if stopped:
        console.print("Interrupted. Go on with the same command.")
        raise typer.Exit(EXIT_CODES["interrupted"])
    if failures:
        raise typer.Exit(EXIT_CODES["failed"])
