"""Who an event comes from: a random token in a cookie, of which runs keep only a digest."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Mapping

import gradio as gr

COOKIE = "l2l_session"
COOKIE_SECONDS = 365 * 24 * 3600
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


def owner_of(cookies: Mapping[str, str]) -> str:
    """The owner a session cookie stands for (“” for none); runs keep only this digest of it."""
    token = cookies.get(COOKIE, "")
    return hashlib.sha256(token.encode()).hexdigest()[:32] if TOKEN.fullmatch(token) else ""


def came_directly(request: gr.Request) -> bool:
    """Whether no server in between passed this event on, and no foreign name led to this machine.

    A page that only this machine can reach is open to others through a server in between, and to
    any site whose name is made to stand for this machine's address. A plain proxy that adds no
    header and asks under a name of this machine is not noticed.
    """
    between = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
    if any(name in request.headers for name in between):
        return False
    asked = re.sub(r":\d*$", "", request.headers.get("host", "")).strip("[]")
    elsewhere = request.client is not None and not is_loopback(request.client.host)
    return elsewhere or is_loopback(asked)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on, or a name, stands for this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_cookie(secure: bool) -> str:
    """A Set-Cookie header for a new visitor.

    Lax, not strict: a strict cookie is not sent when a link elsewhere leads here, and the visitor
    would be taken for a new one and lose sight of all runs.
    """
    flags = f"Max-Age={COOKIE_SECONDS}; Path=/; HttpOnly; SameSite=lax" + "; Secure" * secure
    return f"{COOKIE}={secrets.token_urlsafe(32)}; {flags}"
