"""map and audit: a closer look at a finished run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from l2l_core.cli.measuring import Device, Extractor, RunName
from l2l_core.cli.shared import console, measurable, print_whole
from l2l_core.files import write_atomically
from l2l_core.jobs.results import write_audit, write_map

Mask = Annotated[str, typer.Option(help="The hole; see l2l_core/masks.py.")]


class Kind(StrEnum):
    """The audits."""

    RELEARNING = "relearning"
    MEMBERSHIP = "membership"


def map_run(
    run: RunName,
    mask: Mask = "centre:0.5",
    extractor: Extractor = "builtin",
    limit: Annotated[int, typer.Option(help="Most images of a set.", min=1)] = 100,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures",
            help="Put small pictures into map.html, to be seen when a point is pointed at. They "
            "show what was to be forgotten.",
        ),
    ] = False,
    device: Device = "auto",
) -> None:
    """Map truth and completions of a run by t-SNE; writes map.html and map.json into its folder.

    Small pictures of the images, those to be forgotten, too, lie beside them in map-pictures.zip:
    the Evaluate view shows them to the owner of the run. They are never exported.
    """
    from l2l_core.evaluation import embedding_map as maps
    from l2l_core.evaluation.evaluate import evaluation_sets
    from l2l_core.evaluation.extractors import open_extractor
    from l2l_core.evaluation.html_report import map_page
    from l2l_core.jobs.opening import open_models

    found = measurable(run)
    request = found.request
    before, after, _ = open_models(found, device)
    opened = open_extractor(extractor, before.device)
    sets = evaluation_sets(request, before.image_size, found.folder, limit)
    images = maps.shown_images(request, before, after, sets, mask, limit, console.print)
    console.print("Placing them")
    points = maps.embedding_map(images, request.seed, opened)
    told = maps.describe_map(points, mask, request.seed, opened.name)
    small = maps.small_pictures(images)
    write_map(found, told, small)
    path = found.folder / "map.html"
    page = map_page(f"Map of {request.model}", told, small if pictures else None)
    write_atomically(path, page)
    console.print(f"Written: {path}", soft_wrap=True)
    if not pictures:
        console.print("With --pictures, pointing at a point of map.html shows its images.")


def audit(
    run: RunName,
    kind: Annotated[Kind, typer.Option(help="Which audit.")],
    gold: Annotated[
        Path | None,
        typer.Option(help="Weights of a model that never saw the forget images; see `evaluate`."),
    ] = None,
    images: Annotated[int, typer.Option(help="Relearning: forget images of the attacker.")] = 8,
    steps: Annotated[int, typer.Option(help="Relearning: steps of fine-tuning.")] = 50,
    every: Annotated[int, typer.Option(help="Relearning: steps between looks.")] = 5,
    learning_rate: Annotated[
        float | None, typer.Option(help="Relearning: rate of AdamW; by default 0.3 of the run's.")
    ] = None,
    mask: Mask = "centre:0.5",
    limit: Annotated[int, typer.Option(help="Most images of a set.", min=1)] = 1024,
    device: Device = "auto",
) -> None:
    """Attack an unlearned model; prints a table, writes audit-KIND.json into the run's folder.

    relearning: how many steps on a few forget images bring the completions back? membership: does
    the distance between both models' representations tell unlearned images from unseen ones?
    """
    from l2l_core.evaluation.audit_report import TITLES, audit_note, audit_rows, audit_words
    from l2l_core.evaluation.full import full_sets
    from l2l_core.evaluation.membership import membership_audit
    from l2l_core.evaluation.relearning import GENTLE, Attack, relearning_audit
    from l2l_core.jobs.opening import open_models

    found = measurable(run)
    request = found.request
    rate = GENTLE * request.learning_rate if learning_rate is None else learning_rate
    attack = Attack(rate, images, steps, every, mask)
    before, after, reference = open_models(found, device, gold)
    sets = full_sets(request, before.image_size, found.folder, limit)
    if kind is Kind.RELEARNING:
        with AuditProgress() as progress:
            progress.expect(["unlearned", *(["gold"] if reference else [])], steps)
            result = relearning_audit(
                request, before, after, sets, reference, attack, progress.show
            )
    else:
        console.print("Comparing representations")
        result = membership_audit(request, before, after, sets, reference, mask)
    path = write_audit(found, kind, result)
    heads, rows = audit_rows(kind, result)
    table = Table(*heads, title=TITLES[kind], caption=audit_note(kind, result))
    for row in rows:
        table.add_row(*row)
    print_whole(table)
    console.print(audit_words(kind, result))
    console.print(f"Written: {path}", soft_wrap=True)


class AuditProgress(Progress):
    """A bar for the fine-tuning of each model."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("Relearning, {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        )

    def expect(self, models: list[str], steps: int) -> None:
        """Show what is to come."""
        self.bars = {name: self.add_task(name, total=steps) for name in models}

    def show(self, model: str, step: int) -> None:
        """Take in a step."""
        self.update(self.bars[model], completed=step)
