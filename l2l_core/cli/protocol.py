"""The paper's protocol on the command line: its settings for unlearning, and its measurement."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from l2l_core.cli.shared import EXIT_CODES, console, print_whole
from l2l_core.config import ConfigError
from l2l_core.evaluation.protocol import Protocol, ProtocolRequest
from l2l_core.jobs.store import Run, is_main_process

if TYPE_CHECKING:
    from l2l_core.evaluation.sharded import Progress

FROM_RUN = ("model", "checkpoint", "model_options")


def protocol(
    name: Annotated[str, typer.Argument(help="imagenet, places, or a protocol's YAML file.")],
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    model: Annotated[str, typer.Option(help="A name or family.")],
    classes: Annotated[Path | None, typer.Option(help="Class list, one id a line.")] = None,
    retain: Annotated[
        str,
        typer.Option(
            help="What stands for the retain classes in training: retain (themselves), others "
            "(every class but retain and forget), or the folder of another tree, e.g. COCO-2017."
        ),
    ] = "retain",
) -> None:
    """Print the settings that unlearn by the paper's protocol: a file for `unlearn --config`."""
    recipe = Protocol.load(name)
    if retain not in ("retain", "others"):
        retain = str(Path(retain).expanduser().absolute())
    settings = recipe.unlearn_settings(
        model, str(data.absolute()), str(classes.absolute()) if classes else None, retain
    )
    typer.echo(f"# {recipe.title} by the paper's protocol, for: unlearn --config FILE")
    typer.echo(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), nl=False)


def settings_of_run(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A measurement's settings where a run says which model it is, and holds the weights.

    Raises:
        ConfigError: the settings say it, too.
    """
    if said := [name for name in FROM_RUN if name in settings]:
        raise ConfigError(f"The run says already what {', '.join(said)} is: leave that out.")
    request = run.request
    others = tuple(settings.get("unlearned", ()))
    place = run.folder / "protocol" / Path(settings["protocol"]).stem
    return {
        "out": str(place),
        **settings,
        **{name: getattr(request, name) for name in FROM_RUN},
        "unlearned": (f"unlearned={run.weights}", *others),
    }


def print_cost(settings: Mapping[str, Any]) -> None:
    """Print what a measurement would take, weights and data or not; writes nothing."""
    from l2l_core.evaluation.cost import estimate

    unknown = {"data": "", "out": "", "unlearned": ("unlearned",)}
    cost = estimate(ProtocolRequest.from_dict(unknown | dict(settings)))
    if is_main_process():
        console.print(cost.describe())


def measure_by_protocol(settings: Mapping[str, Any]) -> None:
    """Measure, alone or as one of `accelerate launch`'s processes, and print the paper's table."""
    from l2l_core.evaluation.protocol_table import paper_table
    from l2l_core.evaluation.sharded import evaluate_protocol
    from l2l_core.runtime import leave_process_group

    request = ProtocolRequest.from_dict(settings)
    if is_main_process():
        console.print("Opening models and image sets")
    try:
        with MeasuringProgress(disable=not is_main_process()) as progress:
            results = evaluate_protocol(request, progress.show)
    except KeyboardInterrupt as error:
        if is_main_process():
            console.print("Interrupted; what was measured is kept. Go on with the same command.")
        raise typer.Exit(EXIT_CODES["interrupted"]) from error
    leave_process_group()
    if is_main_process():
        print_whole(paper_table(results))
        console.print(f"Written: {Path(request.out) / 'results.json'}", soft_wrap=True)


class MeasuringProgress(Bars):
    """A bar for completions and one for scores; how long is left is what the measuring says."""

    def __init__(self, disable: bool) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,}/{task.total:,}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=disable,
        )
        self.bars: dict[str, TaskID] = {}

    def show(self, progress: Progress) -> None:
        """Take in how far this process is."""
        kind = "Scores" if progress.stage == "scores" else "Completions"
        if kind not in self.bars:
            self.bars[kind] = self.add_task(kind, total=progress.total, left="")
        title = kind if kind == "Scores" else f"{kind} ({progress.stage})"
        seconds = progress.seconds_left
        left = "" if seconds is None else f"{timedelta(seconds=round(seconds))} left"
        self.update(self.bars[kind], completed=progress.done, description=title, left=left)
