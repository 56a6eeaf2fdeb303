"""The web application from outside: cookies, limits, downloads, and what it does not import."""

import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from fastapi.testclient import TestClient
from filelock import FileLock

from l2l_core.config import UnlearnRequest
from l2l_core.jobs.store import RunStore
from ui.server import SCRATCH_SECONDS, build, sweep_scratch
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
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie
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


def test_what_a_closed_page_left_half_sent_goes_after_an_hour(tmp_path):
    old, new = tmp_path / "old", tmp_path / "abc" / "new"
    new.parent.mkdir()
    for path in (old, new):
        path.write_bytes(b"face")
    os.utime(old, (time.time() - SCRATCH_SECONDS - 1,) * 2)
    sweep_scratch(tmp_path)
    assert not old.exists() and new.exists()


def test_a_second_studio_on_the_same_folder_is_refused(private_data):
    app = Path(__file__).parents[1] / "app.py"
    command = [sys.executable, str(app), "--port", "0", "--data", str(private_data)]
    with FileLock(private_data / "studio.lock"):
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 1 and "already" in told.stderr


def test_compare_takes_the_steps_of_the_run_that_was_chosen(private_data):
    """Choosing a run sets the slider first; what fills the holes comes after, and reads it."""
    with TestClient(build(private_data)) as client:
        config = client.get("/config").json()
    ids = {c["props"].get("elem_id"): c["id"] for c in config["components"]}
    chosen = [d for d in config["dependencies"] if [ids["compare-run"], "change"] in d["targets"]]
    assert len(chosen) == 1 and ids["completion-steps"] in chosen[0]["outputs"]
    after = [d for d in config["dependencies"] if d["trigger_after"] == chosen[0]["id"]]
    assert len(after) == 1 and ids["completion-steps"] in after[0]["inputs"]


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
    assert client.get(f"/files/{mine.id}/weights.safetensors").content == b"weights"
    assert client.get(f"/files/{mine.id}/run.zip").content.startswith(b"PK")
    for path in (
        f"/files/{theirs.id}/weights.safetensors",
        f"/files/{theirs.id}/run.zip",
        f"/files/{mine.id}/inputs",
        "/files/..%2f..%2fetc/weights.safetensors",
        f"/files/{mine.id}/..%2fstate.json",
    ):
        assert client.get(path).status_code == 404, path
    assert list((private_data / "tmp").glob("*.zip")) == []  # made for one download
    client.cookies.clear()
    assert client.get(f"/files/{mine.id}/weights.safetensors").status_code == 404


def test_a_body_that_grows_too_large_is_cut_off(private_data, monkeypatch):
    monkeypatch.setattr("ui.server.BODY_LIMIT", 10_000)
    with TestClient(build(private_data)) as client:
        client.get("/")

        def endless():
            yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            for _ in range(100):
                yield b"0" * 1000

        sent = {"content-type": "multipart/form-data; boundary=x"}  # and no content-length
        answer = client.post("/gradio_api/upload", content=endless(), headers=sent)
        assert answer.status_code == 413
        assert client.get("/healthz").status_code == 200


def test_no_other_site_may_read_answers(client):
    for host in ("localhost", "studio.example"):
        headers = {"origin": "https://evil.example", "host": host}
        for answer in (
            client.get("/config", headers=headers),
            client.options("/config", headers=headers | {"access-control-request-method": "GET"}),
        ):
            assert "access-control-allow-origin" not in answer.headers


def upload(client, content=b"not even a picture"):
    client.get("/")
    answer = client.post("/gradio_api/upload", files={"files": ("face.png", content)})
    assert answer.status_code == 200
    return answer.json()[0]


def test_uploads_are_for_those_who_sent_them(client):
    mine = upload(client)
    assert client.get(f"/gradio_api/file={mine}").content == b"not even a picture"
    app = client.app
    folder, name = mine.rsplit("/", 1)
    for cookies in (None, {COOKIE: "s" * 40}):
        stranger = TestClient(app, cookies=cookies)
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/file/"):
            for spelling in (mine, f"/{mine}", f"{folder}/x/%2e%2e/{name}", os.path.relpath(mine)):
                assert stranger.get(route + spelling).status_code == 404, route + spelling
    twin = TestClient(app)
    assert upload(twin) == mine  # the same picture, sent by somebody else too
    assert twin.get(f"/gradio_api/file={mine}").status_code == 200
    assert client.get(f"/gradio_api/file={mine}").status_code == 200


def test_cookies_of_other_programs_do_not_end_a_visit(client):
    mine = upload(client)
    token = client.cookies[COOKIE]
    for others in ('prefs={"a": 1}; ', "foo=bar baz; ", "@x=1; a/b=2; "):
        visitor = TestClient(client.app, headers={"cookie": f"{others}{COOKIE}={token}"})
        assert visitor.get(f"/gradio_api/file={mine}").status_code == 200
        assert "set-cookie" not in visitor.get("/").headers


def test_a_file_made_for_one_visitor_is_not_another_ones(client, private_data):
    made = private_data / "tmp" / "canvas.png"
    made.write_bytes(b"picture")
    client.get("/")
    assert client.get(f"/gradio_api/file={made}").status_code == 200
    stranger = TestClient(client.app, cookies={COOKIE: "s" * 40})
    assert stranger.get(f"/gradio_api/file={made}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../README.md",
        "%2e%2e/README.md",
        "file:///etc/passwd",
        "http://127.0.0.1:22/",
    ],
)
def test_gradio_serves_no_files_of_the_machine(client, path):
    client.get("/")
    place = f"/gradio_api/file={path}"
    assert client.portal.call(status_of, client.app, place, dict(client.cookies)) in (403, 404)


async def status_of(app, path, cookies):
    """What the application answers to a path as it stands; a client would tidy it up first."""
    statuses = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        statuses.append(message.get("status"))

    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"cookie", cookie.encode())],
        "client": ("127.0.0.1", 5000),
        "server": ("testserver", 80),
    }
    await app(scope, receive, send)
    return statuses[0]


def test_owners_are_digests():
    token = "t" * 43
    assert owner_of({COOKIE: token}) and token not in owner_of({COOKIE: token})
    assert owner_of({}) == owner_of({COOKIE: "short"}) == owner_of({COOKIE: "x" * 99}) == ""
