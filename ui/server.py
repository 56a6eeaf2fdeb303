"""The FastAPI application: the page, downloads for their owners, and the limits around both."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import anyio
import gradio as gr
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.background import BackgroundTask
from starlette.middleware.cors import CORSMiddleware

from l2l_core.config import ConfigError
from l2l_core.jobs import queue
from l2l_core.jobs.store import RunError
from ui.guard import Guard
from ui.layout import STYLE, build_page, theme
from ui.services import Studio
from ui.visitor import is_loopback, owner_of

BODY_LIMIT = 200 * 1024 * 1024
FILE_LIMIT = "20mb"
CHECKPOINT_LIMIT = 2 * 1024**3
"""The published MAE and MAGE of the large size are 1.3 to 1.8 GB."""
SCRATCH_SECONDS, SWEEP_SECONDS = 3600, 600


def build(
    root: Path,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    server_paths: bool | None = None,
    checkpoint_limit: int = CHECKPOINT_LIMIT,
) -> FastAPI:
    """The whole web application over one data folder.

    Args:
        server_paths: whether visitors may name files on this machine; by default only where no
            other machine can reach the page.
        checkpoint_limit: bytes of an uploaded checkpoint's largest file.
    """
    scratch = root.absolute() / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)  # whatever uploads an earlier process left
    scratch.mkdir(parents=True, mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(scratch)
    if server_paths is None:
        server_paths = is_loopback(host)
    studio = Studio(root, server_paths, checkpoint_limit)

    async def sweep_regularly() -> None:
        while True:
            for sweep in (studio.checkpoints.sweep, partial(sweep_scratch, scratch)):
                with suppress(OSError):  # what one cannot read must not stop the other, or the next
                    await asyncio.to_thread(sweep)
            await asyncio.sleep(SWEEP_SECONDS)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(sweep_regularly())
        yield
        sweeping.cancel()
        shutil.rmtree(scratch, ignore_errors=True)

    app = FastAPI(title="L2L Unlearning Studio", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(CORSMiddleware, allow_origins=[])  # no other site; Gradio adds none then
    app.add_middleware(Guard, body_limit=BODY_LIMIT, large={"/checkpoints/": checkpoint_limit})

    @app.get("/healthz")
    def health() -> JSONResponse:
        """Whether the page and the training process are alive."""
        return JSONResponse({"page": "ok", "worker": queue.worker_alive(studio.store)})

    @app.get("/files/{run_id}/{name}")
    def download(run_id: str, name: str, request: Request) -> Response:
        """One's own weights, or the whole run without uploads and previews."""
        try:
            path = studio.download(run_id, owner_of(request.cookies), name, scratch)
        except RunError:
            return PlainTextResponse("There is nothing to download here.", 404)
        made = path.parent == scratch
        finish = BackgroundTask(path.unlink, missing_ok=True) if made else None
        return FileResponse(path, filename=f"{run_id}-{name}", background=finish)

    @app.put("/checkpoints/{upload}/{name}")
    async def receive(upload: str, name: str, request: Request) -> Response:
        """One file of a visitor's checkpoint, straight to its place; half a file is not kept."""
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return PlainTextResponse("The size of the file is missing.", 411)
        owner = owner_of(request.cookies)
        try:
            place = await anyio.to_thread.run_sync(
                studio.checkpoints.place, owner, upload, name, int(length)
            )
        except ConfigError as error:
            return PlainTextResponse(str(error), 413)
        part = place.with_name(f"{place.name}.part")
        try:
            async with await anyio.open_file(part, "wb") as file:
                async for chunk in request.stream():
                    await file.write(chunk)
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
        return Response(status_code=204)

    page = build_page(studio, scratch)
    page.queue(max_size=20, default_concurrency_limit=8, api_open=False)
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=host,
        server_port=port,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=FILE_LIMIT,
        ssr_mode=False,
        enable_monitoring=False,
        theme=theme(),
        css_paths=[STYLE],
    )


def sweep_scratch(scratch: Path) -> None:
    """Remove what has lain in the folder for uploads for an hour: Gradio does so with what it was
    sent whole, not with what a closed page left half sent.
    """
    for path in scratch.rglob("*"):
        with suppress(OSError):  # gone meanwhile
            if path.is_file() and time.time() - path.stat().st_mtime > SCRATCH_SECONDS:
                path.unlink()
