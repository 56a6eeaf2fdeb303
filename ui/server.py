"""The FastAPI application: who is asking, what may be uploaded, what may be downloaded, and the
page.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gradio as gr
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse

from l2l_core.jobs import queue
from l2l_core.jobs.store import RunError
from ui.layout import STYLE, build_page, theme
from ui.services import Studio
from ui.visitor import COOKIE, TOKEN, owner_of

COOKIE_SECONDS = 365 * 24 * 3600
BODY_LIMIT = 200 * 1024 * 1024
FILE_LIMIT = "20mb"


def build(root: Path, host: str = "127.0.0.1", port: int = 7860) -> FastAPI:
    """The whole web application over one data folder."""
    temporary = root / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # whatever uploads an earlier process left
    temporary.mkdir(parents=True, mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(temporary)
    studio = Studio(root)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        shutil.rmtree(temporary, ignore_errors=True)

    app = FastAPI(title="L2L Unlearning Studio", docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.middleware("http")
    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Limit bodies, name the visitor, and keep answers out of shared caches."""
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > BODY_LIMIT:
            return PlainTextResponse("Too much at once: send fewer or smaller images.", 413)
        response = await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        if not request.url.path.startswith(("/assets/", "/static/")):
            response.headers["Cache-Control"] = "no-store"
        if not TOKEN.fullmatch(request.cookies.get(COOKIE, "")) and request.url.path == "/":
            response.set_cookie(
                COOKIE,
                secrets.token_urlsafe(32),
                max_age=COOKIE_SECONDS,
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
            )
        return response

    @app.get("/healthz")
    def health() -> JSONResponse:
        """Whether the page and the training process are alive."""
        return JSONResponse({"page": "ok", "worker": queue.worker_alive(studio.store)})

    @app.get("/download/{run_id}/{what}")
    def download(run_id: str, what: str, request: Request) -> Response:
        """One's own weights, or the whole run without uploads and previews."""
        try:
            run = studio.owned(run_id, owner_of(request.cookies))
            if what == "weights" and run.weights.is_file():
                return FileResponse(run.weights, filename=f"{run.id}.safetensors")
            if what == "run":
                path = temporary / f"{run.id}-{secrets.token_hex(4)}.zip"
                studio.store.export(run.id, path)
                return FileResponse(path, filename=f"{run.id}.zip")
        except RunError:
            pass
        return PlainTextResponse("There is nothing to download here.", 404)

    page = build_page(studio)
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
