"""The command line: models, unlearn, complete, report, worker, completer, serve."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from l2l_core.config import (
    PRESETS,
    ConfigError,
    UnlearnRequest,
    field_docs,
    load_mapping,
    preset_settings,
)
from l2l_core.jobs.store import Run, RunError, RunStore, create_run
from l2l_core.registry import MODELS, defaults_of

app = typer.Typer(
    help="Make an image-to-image model forget chosen images, and see what changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
EXIT_CODES = {"failed": 1, "interrupted": 130}


@app.command("models")
def list_models() -> None:
    """List the models and where their weights come from."""
    table = Table("Name", "Family", "What", "Licence", "Weights")
    for spec in MODELS.values():
        here = "on disk" if spec.path else f"needs --checkpoint: {spec.source}"
        table.add_row(spec.name, spec.family, spec.description, spec.licence, here)
    console.print(table)


def unlearn(
    preset: str | None, config: Path | None, out: Path | None, resume: Path | None, **flags: Any
) -> None:
    """Make a model forget image sets; writes a run folder and prints what was measured."""
    from l2l_core.jobs.runner import execute

    if resume is not None:
        run = _find_run(str(resume))
        if run.state.status in ("done", "cancelled"):
            raise RunError(f"This run cannot go on: it is {run.state.status}.")
    else:
        settings = load_mapping(config) if config else {}
        if preset is not None:
            model = flags.get("model") or settings.get("model") or "mae-fluent"
            settings |= preset_settings(preset, model)
        settings |= {name: value for name, value in flags.items() if value not in (None, [])}
        if "model_options" in settings and isinstance(settings["model_options"], str):
            settings["model_options"] = _options(settings["model_options"])
        run = _new_run(UnlearnRequest.from_dict(settings), out)

    stopping: list[int] = []

    def stop(number: int, frame: object) -> None:
        if stopping and number == signal.SIGINT:  # asked again: do not wait for the step
            raise KeyboardInterrupt
        stopping.append(number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    main_process = int(os.environ.get("RANK", "0")) == 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("retain {task.fields[retain]:.4f}  forget {task.fields[forget]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not main_process) as progress:
        task = progress.add_task("Unlearning", total=run.request.steps, retain=0.0, forget=0.0)

        def show(event: dict[str, Any]) -> None:
            if event["kind"] == "step":
                losses = {name: event[name] for name in ("retain", "forget")}
                progress.update(task, completed=event["step"], **losses)
            elif event["kind"] == "stage":
                progress.console.print(event["text"])

        status = execute(run, should_stop=lambda: bool(stopping), on_event=show)
    if not main_process:
        return
    if status == "done":
        _print_metrics(run)
        console.print(f"Weights: {run.weights}", soft_wrap=True)
    else:
        console.print(f"{status}: {run.state.message}")
        if status == "interrupted":
            command = f"python -m l2l_core unlearn --resume {run.folder}"
            console.print(f"Go on with: {command}", soft_wrap=True)
    console.print(f"Run folder: {run.folder}", soft_wrap=True)
    if status in EXIT_CODES:
        raise typer.Exit(EXIT_CODES[status])


def _unlearn_signature() -> inspect.Signature:
    """Every field of UnlearnRequest as a flag, with its documentation."""
    docs = field_docs(UnlearnRequest)
    own = {
        "preset": (str, f"Starting point: {', '.join(PRESETS)}."),
        "config": (Path, "YAML or JSON file of settings; flags override it."),
        "out": (Path, "Run folder to write; default: a new one below the data folder."),
        "resume": (Path, "Go on with an interrupted run: its id or folder."),
    }
    parameters = [_flag(name, kind, text) for name, (kind, text) in own.items()]
    kinds = get_type_hints(UnlearnRequest)
    for field in dataclasses.fields(UnlearnRequest):
        default = None if field.default is dataclasses.MISSING else field.default
        kind: Any = kinds[field.name] if kinds[field.name] in (bool, int, float) else str
        text = " ".join(docs[field.name].split())
        if field.name == "betas":
            kind, text = list[float], f"{text or 'AdamW averages'}; give it twice"
        elif isinstance(default, tuple) or field.name == "forget":
            kind, text = list[str], f"{text} Can be given several times."
        if field.name in defaults_of("mae"):
            text += " [default: what suits the model]"
        elif default not in (None, ()):
            text += f" [default: {default}]"
        parameters.append(_flag(field.name, kind, text))
    return inspect.Signature(parameters)


def _flag(name: str, kind: Any, text: str) -> inspect.Parameter:
    option = typer.Option(help=text, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


unlearn.__signature__ = _unlearn_signature()  # type: ignore[attr-defined]
app.command("unlearn")(unlearn)


@app.command()
def complete(
    images: Annotated[list[Path], typer.Argument(help="Pictures to complete.")],
    mask: Annotated[str, typer.Option(help="The hole; see l2l_core/masks.py.")] = "centre:0.5",
    model: Annotated[str, typer.Option(help="A name or family.")] = "mae-fluent",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to use.")] = None,
    run: Annotated[str | None, typer.Option(help="Use a run's unlearned weights.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("completed"),
    seed: Annotated[int, typer.Option(help="Seed of hole and completion.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Cut a hole into pictures and let a model fill it; writes PNG files."""
    import torch

    from l2l_core.images import read_image, to_pil, to_tensor
    from l2l_core.masks import parse_mask
    from l2l_core.models import load_model
    from l2l_core.runtime import choose_device, seeded

    if run is not None:
        found = _find_run(run)
        model, checkpoint = found.request.model, found.weights
    network = load_model(model, checkpoint, device=str(choose_device(device)))
    pictures = [read_image(path).image for path in images]
    tensors = to_tensor(pictures, network.image_size).to(network.device)
    hole = parse_mask(mask, network.image_size, seeded(seed, 30)).to(network.device)
    completed = network.complete(tensors, hole, generator=seeded(seed, 31))
    holed = torch.where(hole, torch.full_like(tensors, 0.5), tensors)
    out.mkdir(parents=True, exist_ok=True)
    for number, parts in enumerate(zip(to_pil(holed), to_pil(completed), strict=True), start=1):
        for name, picture in zip(("input", "completed"), parts, strict=True):
            picture.save(out / f"{number:04d}-{name}.png")
    console.print(f"{len(pictures)} completed in {out}")


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A run's id or folder.")],
    mask: Annotated[str | None, typer.Option(help="Measure again under this hole.")] = None,
) -> None:
    """Print what was measured for a run."""
    found = _find_run(run)
    _print_metrics(found, mask)


@app.command()
def worker(
    parent: Annotated[int | None, typer.Option(help="Leave when this process is gone.")] = None,
) -> None:
    """Execute queued runs of the data folder, one at a time."""
    from l2l_core.jobs.worker import main as work

    raise typer.Exit(work(parent))


@app.command()
def completer(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    parent: Annotated[int | None, typer.Option(help="Leave when this process is gone.")] = None,
) -> None:
    """Answer the page's requests for completions."""
    from l2l_core.jobs.completer import main as complete_for_page

    raise typer.Exit(complete_for_page(device, parent))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
) -> None:
    """Start the web application."""
    script = Path(__file__).parents[1] / "app.py"
    sys.argv = [str(script), "--host", host, "--port", str(port)]
    runpy.run_path(str(script), run_name="__main__")


def _new_run(request: UnlearnRequest, out: Path | None) -> Run:
    """The run's folder; in a distributed run the main process makes it, the others wait."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if out is None:
            return RunStore().create(request, status="running")
        return create_run(out.absolute(), request, status="running")
    if out is None:
        raise ConfigError(
            "A distributed run needs --out, so that all processes agree on the folder."
        )
    if int(os.environ["RANK"]) == 0:
        return create_run(out.absolute(), request, status="running")
    while not (out / "state.json").is_file():
        time.sleep(0.1)
    return Run(out.absolute())


def _options(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError('model_options must be JSON, e.g. {"patch": 16}.') from error


def _find_run(name: str) -> Run:
    folder = Path(name)
    if (folder / "state.json").is_file():
        return Run(folder.absolute())
    return RunStore().get(name)


def _print_metrics(run: Run, mask: str | None = None) -> None:
    from l2l_core.evaluation.report import LIMITS, metrics_table, verdict

    metrics = run.metrics
    if mask is not None:
        from l2l_core.jobs.runner import measure

        metrics = measure(run, mask)
    if metrics is None:
        raise RunError(f"This run has no numbers: it is {run.state.status}.")
    console.print(metrics_table(metrics))
    console.print(verdict(metrics))
    for limit in LIMITS:
        console.print(f"· {limit}", style="dim")


def main() -> None:
    """Run a command; what the user can mend is one sentence, not a traceback."""
    try:
        app()
    except (ConfigError, RunError, ValueError, FileNotFoundError) as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {error}")
        sys.exit(2)
