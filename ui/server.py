"""The FastAPI application: the page, downloads for their owners, and the limits around both."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gradio as gr
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.background import BackgroundTask
from starlette.middleware.cors import CORSMiddleware

from l2l_core.jobs import queue
from l2l_core.jobs.store import RunError
from ui.guard import Guard
from ui.layout import STYLE, build_page, theme
from ui.services import Studio
from ui.visitor import owner_of

BODY_LIMIT = 200 * 1024 * 1024
FILE_LIMIT = "20mb"


def build(root: Path, host: str = "127.0.0.1", port: int = 7860) -> FastAPI:
    """The whole web application over one data folder."""
    scratch = root.absolute() / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)  # whatever uploads an earlier process left
    scratch.mkdir(parents=True, mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(scratch)
    studio = Studio(root)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        shutil.rmtree(scratch, ignore_errors=True)

    app = FastAPI(title="L2L Unlearning Studio", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(CORSMiddleware, allow_origins=[])  # no other site; Gradio adds none then
    app.add_middleware(Guard, body_limit=BODY_LIMIT)

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
