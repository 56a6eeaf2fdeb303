"""Who an event comes from."""

from __future__ import annotations

import hashlib
import re

import gradio as gr

COOKIE = "l2l_session"
TOKEN = re.compile(r"[A-Za-z0-9_-]{32,64}")


def owner(request: gr.Request) -> str:
    """The owner behind an event.

    Raises:
        gr.Error: the browser sends no cookie, so nothing could be kept for it.
    """
    found = owner_of(dict(request.cookies))
    if not found:
        raise gr.Error("This page needs its cookie to keep your runs apart. Allow it and reload.")
    return found


def owner_of(cookies: dict[str, str]) -> str:
    """The owner a session cookie stands for (“” for none); runs keep only this digest of it."""
    token = cookies.get(COOKIE, "")
    return hashlib.sha256(token.encode()).hexdigest()[:32] if TOKEN.fullmatch(token) else ""
