"""worker, completer, serve: the processes behind the page."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Annotated

import typer


def worker(
    parent: Annotated[int | None, typer.Option(help="Leave when this process is gone.")] = None,
) -> None:
    """Execute queued runs of the data folder, one at a time."""
    from l2l_core.jobs.worker import main as work

    raise typer.Exit(work(parent))


def completer(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    parent: Annotated[int | None, typer.Option(help="Leave when this process is gone.")] = None,
) -> None:
    """Answer the page's requests for completions."""
    from l2l_core.jobs.completer import main as complete_for_page

    raise typer.Exit(complete_for_page(device, parent))


def serve(
    options: Annotated[list[str] | None, typer.Argument(help="As app.py takes them.")] = None,
) -> None:
    """Start the web application; takes the options of app.py."""
    script = Path(__file__).parents[2] / "app.py"
    sys.argv = [str(script), *(options or [])]
    runpy.run_path(str(script), run_name="__main__")
