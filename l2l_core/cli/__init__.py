"""The command line: one function a command, gathered here."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.markup import escape

from l2l_core.cli import auditing, experiments, measuring, protocol, serving, unlearning
from l2l_core.errors import PlainError

app = typer.Typer(
    help="Make an image-to-image model forget chosen images, and see what changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("models")(unlearning.list_models)
app.command("map")(auditing.map_run)
for command in (
    unlearning.unlearn,
    unlearning.export,
    unlearning.complete,
    measuring.evaluate,
    auditing.audit,
    measuring.report,
    protocol.protocol,
    experiments.compare,
    experiments.sweep,
    serving.worker,
    serving.completer,
):
    app.command()(command)
app.command(add_help_option=False, context_settings={"ignore_unknown_options": True})(serving.serve)


def main() -> None:
    """Run a command; what the user can mend is one sentence, not a traceback."""
    try:
        app()
    except (PlainError, OSError) as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(_told(error))}")
        sys.exit(2)


def _told(error: PlainError | OSError) -> str:
    """An error's sentence; of the system's own errors the reason, and the file it is about."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: “{error.filename}”." if error.filename else f"{error.strerror}."
    return str(error)
