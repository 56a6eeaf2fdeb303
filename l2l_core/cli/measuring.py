"""evaluate and report: what a run's models are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from l2l_core.cli.protocol import measure_by_protocol, print_cost, settings_of_run
from l2l_core.cli.shared import (
    INSTRUMENTS,
    console,
    extended_signature,
    find_run,
    flags_of,
    given,
    measurable,
)
from l2l_core.config import ConfigError, dump_json
from l2l_core.evaluation.protocol import ProtocolRequest
from l2l_core.files import write_atomically
from l2l_core.jobs.reports import write_report
from l2l_core.jobs.results import EVALUATION, evaluation
from l2l_core.jobs.store import Run, RunError

if TYPE_CHECKING:
    from l2l_core.evaluation.html_report import Sample

RunName = Annotated[str, typer.Argument(help="A run's id or folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Extractor = Annotated[str, typer.Option(help="builtin, inception:FILE, clip:FOLDER, places:FILE.")]


def evaluate(
    run: Annotated[str | None, typer.Argument(help="A run's id or folder.")] = None,
    extractor: Extractor = "builtin",
    embedding: Annotated[str, typer.Option(help=INSTRUMENTS["embedding"][1])] = "",
    device: Device = "auto",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say how many images, hours and bytes it takes; data and weights may be "
            "left out.",
        ),
    ] = False,
    **flags: Any,
) -> None:
    """Measure a finished run with every metric, or weights by the paper's protocol.

    A run: writes evaluation.json into its folder. --protocol: measures --unlearned weights, or the
    run's, on the protocol's test sets, alone or under `accelerate launch`, and prints the paper's
    table; the same command goes on where it was interrupted.
    """
    by_run = given({name: flags[name] for name in _OF_RUN})
    by_protocol = given({name: flags[name] for name in _OF_PROTOCOL})
    if "protocol" in by_protocol:
        _refuse(by_run, "is fixed by a protocol: leave it out.")
        measured_by = {"extractor": extractor, "embedding": embedding, "device": device}
        settings = by_protocol | measured_by
        if run is not None:
            settings = settings_of_run(measurable(run), settings)
        if dry_run:
            print_cost(settings)
        else:
            measure_by_protocol(settings)
    else:
        _refuse(by_protocol | ({"dry_run": True} if dry_run else {}), "needs --protocol.")
        if run is None:
            raise ConfigError("Name a run to measure, or a protocol with --protocol.")
        _evaluate_run(measurable(run), extractor, embedding, device, **by_run)


_SHARED = ("extractor", "embedding", "device")
_OF_RUN = {
    **{name: flag for name, flag in INSTRUMENTS.items() if name not in _SHARED},
    "gold": (
        Path,
        "Weights of a model that never saw the forget images. [default: the shipped one, if any]",
    ),
}
_OF_PROTOCOL = {
    name: flag for name, flag in flags_of(ProtocolRequest).items() if name not in _SHARED
}
evaluate.__signature__ = extended_signature(  # type: ignore[attr-defined]
    evaluate, {"For a run's own sets": _OF_RUN, "By the paper's protocol": _OF_PROTOCOL}
)


def _refuse(flags: dict[str, Any], why: str) -> None:
    for name in flags:
        raise ConfigError(f"--{name.replace('_', '-')} {why}")


def _evaluate_run(
    run: Run,
    extractor: str,
    embedding: str,
    device: str,
    mask: str = "centre:0.5",
    perceptual: str = "builtin",
    gold: Path | None = None,
    limit: int = 1024,
) -> None:
    if limit < 1:
        raise ConfigError("limit must be 1 or more.")
    from l2l_core.evaluation.full import Instruments, evaluate_full, full_sets
    from l2l_core.jobs.opening import open_models

    before, after, reference = open_models(run, device, gold)
    tools = Instruments.open(extractor, perceptual, str(before.device), embedding)
    sets = full_sets(run.request, before.image_size, run.folder, limit)
    metrics = evaluate_full(
        run.request, before, after, sets, mask, tools, reference, on_progress=console.print
    )
    write_atomically(run.folder / EVALUATION, dump_json(metrics))
    write_report(run)
    _print(metrics, run.request.method)


def report(
    run: RunName,
    mask: Annotated[str | None, typer.Option(help="Measure again under this hole.")] = None,
    samples: Annotated[
        int,
        typer.Option(
            help="Images of each set to put into report.html: truth, original, unlearned. They "
            "show what was to be forgotten.",
            min=0,
        ),
    ] = 0,
    device: Device = "auto",
) -> None:
    """Print what was measured for a run; writes report.html, report.json and a model card.

    The numbers are those of `evaluate` if it was called, else of the look at the end of the run;
    what `map`, `audit` and `evaluate RUN --protocol` found is there, too.
    """
    found = find_run(run)
    metrics = print_metrics(found, mask, device)
    pictures = _samples(found, metrics["mask"], samples, device) if samples else []
    for path in write_report(found, metrics, pictures):
        console.print(f"Written: {path}", soft_wrap=True)


def print_metrics(run: Run, mask: str | None = None, device: str | None = None) -> dict[str, Any]:
    """Print a run's numbers, measured again if a mask is given; returns them.

    Raises:
        RunError: it has none.
    """
    metrics = evaluation(run) or run.metrics
    if mask is not None:
        from l2l_core.jobs.runner import measure

        metrics = measure(run, mask, device)
    if metrics is None:
        raise RunError(f"This run has no numbers: it is {run.state.status}.")
    _print(metrics, run.request.method)
    return metrics


def _print(metrics: dict[str, Any], method: str) -> None:
    from l2l_core.evaluation.report import limits_of, metrics_table, verdict

    console.print(metrics_table(metrics))
    console.print(verdict(metrics))
    for limit in limits_of(method):
        console.print(f"· {limit}", style="dim")


def _samples(run: Run, mask: str, count: int, device: str) -> list[Sample]:
    """The first images of retain and forget with their completions."""
    from l2l_core.evaluation.embedding_map import SETS, shown_images
    from l2l_core.evaluation.evaluate import evaluation_sets
    from l2l_core.evaluation.html_report import Sample
    from l2l_core.evaluation.plots import WHAT
    from l2l_core.images import to_pil, to_png
    from l2l_core.jobs.opening import open_models

    before, after, _ = open_models(run, device)
    sets = evaluation_sets(run.request, before.image_size, run.folder, limit=count)
    images = shown_images(run.request, before, after, sets, mask, count)
    pictures = {key: map(to_png, to_pil(part)) for key, part in images.items()}
    return [
        Sample(name.capitalize(), *row)
        for name in SETS
        for row in zip(*(pictures[name, what] for what in WHAT), strict=True)
    ]
