"""models, unlearn, export, complete."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from l2l_core.cli.measuring import print_metrics
from l2l_core.cli.shared import (
    CONFIG,
    EXIT_CODES,
    StepProgress,
    console,
    find_run,
    given,
    measurable,
    merged,
    request_signature,
    stopped_by_signals,
)
from l2l_core.config import ConfigError, UnlearnRequest, load_mapping
from l2l_core.files import write_atomically
from l2l_core.jobs.store import Run, RunError, RunStore, create_run, is_main_process
from l2l_core.registry import FAMILIES, MODELS


def list_models() -> None:
    """List the models, where their weights come from, and each family's options."""
    name = Column("Name", no_wrap=True)
    weights = Column("Weights", overflow="fold")
    models = Table(name, "Size", "Licence", weights, title="Models (--model)")
    for spec in MODELS.values():
        here = "on disk" if spec.path else f"--checkpoint FILE: {spec.source}"
        models.add_row(spec.name, spec.size, spec.licence, here)
    console.print(models)
    title = "Options of a family (--model-options '{\"name\": value}')"
    options = Table(Column("Family", no_wrap=True), "Option", "What", title=title)
    for family, entry in FAMILIES.items():
        for option in entry.options:
            options.add_row(family, option.name, option.help)
        options.add_section()
    console.print(options)


def unlearn(
    preset: str | None,
    config: Path | None,
    out: Path | None,
    resume: Path | None,
    epochs: float | None,
    **flags: Any,
) -> None:
    """Make a model forget image sets; writes a run folder and prints what was measured."""
    from l2l_core.jobs.runner import execute
    from l2l_core.runtime import leave_process_group

    if resume is not None:
        if given(flags) or preset or config or out or epochs:
            raise ConfigError("--resume goes on with the run's own settings: leave out the others.")
        run = find_run(str(resume))
        if run.state.status in ("done", "cancelled"):
            raise RunError(f"This run cannot go on: it is {run.state.status}.")
    else:
        settings = merged(load_mapping(config) if config else {}, preset, flags)
        if epochs is not None:
            settings["steps"] = steps_of(epochs, settings)
        run = _new_run(UnlearnRequest.from_dict(settings), out)
    stopped = stopped_by_signals()
    main_process = is_main_process()
    with StepProgress(disable=not main_process) as progress:
        status = execute(run, should_stop=stopped, on_event=progress.show)
    leave_process_group()
    if not main_process:
        return
    if status == "done":
        print_metrics(run)
        console.print(f"Weights: {run.weights}", soft_wrap=True)
    else:
        console.print(f"{status}: {run.state.message}")
        if status == "interrupted":
            command = f"python -m l2l_core unlearn --resume {run.folder}"
            console.print(f"Go on with: {command}", soft_wrap=True)
    console.print(f"Run folder: {run.folder}", soft_wrap=True)
    if status in EXIT_CODES:
        raise typer.Exit(EXIT_CODES[status])


unlearn.__signature__ = request_signature(  # type: ignore[attr-defined]
    CONFIG
    | {
        "out": (Path, "Run folder to write; default: a new one below the data folder."),
        "resume": (Path, "Go on with an interrupted run: its id or folder."),
        "epochs": (float, "Instead of steps: how often each forget image is drawn on average."),
    }
)


def steps_of(epochs: float, settings: dict[str, Any]) -> int:
    """Steps in which each forget image of these settings is drawn `epochs` times on average.

    Raises:
        ConfigError: no epochs, or steps besides.
    """
    from l2l_core.datasets import load_image_set

    if epochs <= 0 or settings.get("steps") is not None:
        raise ConfigError("Give epochs above 0, or steps, or a preset: one of them.")
    request = UnlearnRequest.from_dict(settings)
    images = len(load_image_set(request.forget, 8, split=request.split))  # only to count them
    return math.ceil(epochs * images / request.batch_size)


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
    if is_main_process():
        return create_run(out.absolute(), request, status="running")
    while not (out / "state.json").is_file():
        time.sleep(0.1)
    return Run(out.absolute())


def export(
    run: Annotated[str, typer.Argument(help="A finished run: its id or folder.")],
    out: Annotated[Path, typer.Argument(help="File to write, e.g. 16_Network.pth.")],
) -> None:
    """Write a run's unlearned weights in the layout of the published files; a model card beside."""
    from l2l_core.jobs.reports import card_of
    from l2l_core.jobs.runner import full_disk_is_an_os_error
    from l2l_core.models import load_model
    from l2l_core.models.checkpoints import save_published

    found = measurable(run)
    model = load_model(found.request.model, found.weights)
    out.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_is_an_os_error():
        save_published(model.published_state(), out)
    card = out.with_suffix(".md")
    write_atomically(card, card_of(found, model, out))
    for path in (out, card):
        console.print(f"Written: {path}", soft_wrap=True)


def complete(
    images: Annotated[list[Path], typer.Argument(help="Pictures to complete.")],
    mask: Annotated[str, typer.Option(help="The hole; see l2l_core/masks.py.")] = "centre:0.5",
    model: Annotated[str, typer.Option(help="A name or family.")] = "mae-fluent",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to use.")] = None,
    run: Annotated[str | None, typer.Option(help="Use a run's unlearned weights.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("completed"),
    seed: Annotated[int, typer.Option(help="Seed of hole and completion.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a sampling model.")] = None,
    model_options: Annotated[
        str | None, typer.Option(help='Options of the family as JSON, e.g. {"heads": 12}.')
    ] = None,
) -> None:
    """Cut a hole into pictures and let a model fill it; writes PNG files."""
    import torch

    from l2l_core.evaluation.evaluate import BATCH
    from l2l_core.images import ImageError, read_image, to_pil, to_tensor
    from l2l_core.masks import parse_mask
    from l2l_core.models import load_model
    from l2l_core.runtime import choose_device, seeded

    if run is not None:
        found = find_run(run)
        model, checkpoint = found.request.model, found.weights
    options = given({"model_options": model_options}).get("model_options", {})
    network = load_model(model, checkpoint, device=str(choose_device(device)), **options)
    pictures = []
    for path in images:
        try:
            pictures.append(read_image(path).image)
        except ImageError as error:
            raise ImageError(f"{path.name}: {error}") from error
    tensors = to_tensor(pictures, network.image_size).to(network.device)
    hole = parse_mask(mask, network.image_size, seeded(seed, 30)).to(network.device)
    draws = seeded(seed, 31)
    parts = [network.complete(p, hole, steps=steps, generator=draws) for p in tensors.split(BATCH)]
    completed = torch.cat(parts)
    holed = torch.where(hole, torch.full_like(tensors, 0.5), tensors)
    out.mkdir(parents=True, exist_ok=True)
    for number, pair in enumerate(zip(to_pil(holed), to_pil(completed), strict=True), start=1):
        for name, picture in zip(("input", "completed"), pair, strict=True):
            picture.save(out / f"{number:04d}-{name}.png")
    console.print(f"{len(pictures)} completed in {out}")
