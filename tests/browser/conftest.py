"""The real application on a free port, and a browser that may only talk to it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """(address, data folder) of `python app.py`."""
    data = tmp_path_factory.mktemp("studio")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"L2L_DATA": str(data)}
    process = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)], cwd=ROOT, env=environment
    )
    address = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 120
    while True:
        assert process.poll() is None, "app.py ended"
        assert time.monotonic() < until, "app.py did not answer"
        try:
            urllib.request.urlopen(f"{address}/healthz")
            break
        except OSError:
            time.sleep(0.2)
    yield address, data
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def chromium():
    """Debian's browser where there is one, else Playwright's own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(chromium, studio):
    """One visitor; every request that leaves the machine fails the test."""
    visitor = chromium.new_context(viewport={"width": 1300, "height": 1000}, accept_downloads=True)
    foreign = []

    def note(request):
        if not request.url.startswith((studio[0], "data:", "blob:")):
            foreign.append(request.url)

    visitor.on("request", note)
    yield visitor
    assert foreign == []
    visitor.close()
