"""What stands between the network and the page: limits, headers, and whose uploads are whose.

Gradio serves any file below its temporary folder to whoever knows the address. Here an upload
belongs to the visitors who sent it, and any other temporary file to the first who asks for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.visitor import new_cookie, owner_of

TOO_LARGE = "Too much at once: send fewer or smaller images."
PUBLIC = ("/assets/", "/static/", "/theme.css")
FILE_ROUTES = tuple(f"{top}/file{end}" for top in ("/gradio_api", "") for end in "=/")
"""Both spellings Gradio answers to; what follows is a path."""
UPLOAD_ROUTES = ("/gradio_api/upload", "/upload")


class Guard:
    """ASGI middleware over the whole application."""

    def __init__(self, app: ASGIApp, body_limit: int, large: Mapping[str, int]) -> None:
        self.app = app
        self.body_limit = body_limit
        self.large = large  # limits of addresses below which more may be sent
        self.owners: dict[str, set[str]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, headers = unquote(scope["path"]), Headers(scope=scope)
        visitor = owner_of(cookie_parser(headers.get("cookie", "")))
        route = next((route for route in FILE_ROUTES if path.startswith(route)), None)
        if route and not self._may_read(path.removeprefix(route), visitor):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
            return
        limit = next((self.large[top] for top in self.large if path.startswith(top)), None)
        limit = limit if limit is not None and visitor else self.body_limit
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            await PlainTextResponse(TOO_LARGE, 413)(scope, receive, send)
            return
        exchange = _Exchange(receive, send, limit)
        exchange.keep_answer = path in UPLOAD_ROUTES and scope["method"] == "POST"
        exchange.on_start = lambda found: self._finish(found, path, visitor, scope["scheme"])
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except Exception:
            if not exchange.refused:
                raise
        if exchange.keep_answer and not exchange.refused:
            self._remember(exchange.answer, visitor)

    def _finish(self, headers: MutableHeaders, path: str, visitor: str, scheme: str) -> None:
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "same-origin"
        if not path.startswith(PUBLIC):
            headers["Cache-Control"] = "no-store"
        if path == "/" and not visitor:
            headers.append("Set-Cookie", new_cookie(secure=scheme == "https"))

    def _may_read(self, file: str, visitor: str) -> bool:
        if not visitor or "://" in file:  # Gradio would fetch an address for the visitor
            return False
        place = os.path.realpath(file)  # one file, one name
        return os.path.isfile(place) and visitor in self.owners.setdefault(place, {visitor})

    def _remember(self, answer: bytes, visitor: str) -> None:
        try:
            files = json.loads(answer)
        except ValueError:
            return
        for file in files if isinstance(files, list) else ():
            self.owners.setdefault(os.path.realpath(str(file)), set()).add(visitor)


class _Exchange:
    """One request and its answer: counts what comes in, and sees what goes out."""

    on_start: Callable[[MutableHeaders], None]

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive, self._send = receive, send
        self.left = limit
        self.refused = False
        self.keep_answer = False
        self.answer = b""

    async def receive(self) -> Message:
        """The next part of the body; refuses a body that grows over the cap."""
        message = await self._receive()
        self.left -= len(message.get("body", b""))
        if self.left < 0 and not self.refused:
            self.refused = True
            await PlainTextResponse(TOO_LARGE, 413)({"type": "http"}, self._receive, self._send)
        if self.refused:
            raise ConnectionAbortedError(TOO_LARGE)
        return message

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on."""
        if self.refused:
            return
        if message["type"] == "http.response.start":
            self.on_start(MutableHeaders(scope=message))
        elif self.keep_answer:
            self.answer += message.get("body", b"")
        await self._send(message)
