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
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
) -> None:
    """Start the web application."""
    script = Path(__file__).parents[2] / "app.py"
    sys.argv = [str(script), "--host", host, "--port", str(port)]
    runpy.run_path(str(script), run_name="__main__")
