"""The web application from outside: cookies, limits, downloads, and what it does not import."""

import subprocess
import sys

import pytest
from fastapi.testclient import TestClient

from l2l_core.config import UnlearnRequest
from l2l_core.jobs.store import RunStore
from ui.server import build
from ui.visitor import COOKIE, owner_of


@pytest.fixture
def client(private_data):
    with TestClient(build(private_data)) as client:
        yield client


def test_the_web_process_loads_no_pytorch():
    code = "import sys, ui.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_page_opens_and_names_its_visitor(client):
    answer = client.get("/")
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in client.get("/").headers  # it is known now


def test_health(client):
    assert client.get("/healthz").json() == {"page": "ok", "worker": False}


def test_uploads_of_an_earlier_process_are_gone(private_data):
    left = private_data / "tmp" / "abc" / "face.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"face")
    with TestClient(build(private_data)):
        assert not left.exists()


def test_too_large_a_body_is_refused(client):
    answer = client.post("/gradio_api/upload", headers={"content-length": str(10**9)}, content=b"")
    assert answer.status_code == 413


def test_downloads_are_for_the_owner(client, private_data):
    client.get("/")
    owner = owner_of(dict(client.cookies))
    assert owner
    store = RunStore(private_data)
    mine = store.create(UnlearnRequest(forget=("builtin:flags",)), owner=owner)
    theirs = store.create(UnlearnRequest(forget=("builtin:flags",)), owner="0" * 32)
    for run in (mine, theirs):
        run.weights.write_bytes(b"weights")
    assert client.get(f"/download/{mine.id}/weights").content == b"weights"
    assert client.get(f"/download/{mine.id}/run").content.startswith(b"PK")
    for path in (
        f"/download/{theirs.id}/weights",
        f"/download/{theirs.id}/run",
        f"/download/{mine.id}/inputs",
        "/download/..%2f..%2fetc/weights",
        f"/download/{mine.id}/..%2fstate.json",
    ):
        assert client.get(path).status_code == 404, path
    client.cookies.clear()
    assert client.get(f"/download/{mine.id}/weights").status_code == 404


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../README.md", "%2e%2e/README.md", "file:///etc/passwd"]
)
def test_gradio_serves_no_files_of_the_machine(client, path):
    assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_owners_are_digests():
    token = "t" * 43
    assert owner_of({COOKIE: token}) and token not in owner_of({COOKIE: token})
    assert owner_of({}) == owner_of({COOKIE: "short"}) == owner_of({COOKIE: "x" * 99}) == ""
