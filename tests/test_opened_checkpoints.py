"""Checkpoints that visitors open: whose they are, how they arrive, and when they go."""

import json
import os
import time
from contextlib import suppress

import anyio
import gradio as gr
import pytest
import torch
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect, Request

from l2l_core.config import ConfigError, UnlearnRequest
from l2l_core.jobs.client import CompareRequest, CompleterError, OpenedModel
from l2l_core.jobs.completer import Completer
from l2l_core.jobs.opening import try_checkpoint
from l2l_core.jobs.runner import execute
from l2l_core.jobs.store import RunStore
from ui.checkpoints import OPENED, UNUSED_SECONDS, Checkpoints
from ui.form import Form
from ui.server import build
from ui.services import Studio
from ui.visitor import COOKIE, came_directly, is_loopback, owner_of

ME, YOU, UPLOAD = "a" * 32, "b" * 32, "c" * 32


class InProcess:
    """The completer without its process."""

    def try_checkpoint(self, checkpoint, family="", options=None):
        try:
            head, _ = try_checkpoint(checkpoint, family, dict(options or {}))
        except ValueError as error:
            raise CompleterError(str(error)) from error
        return OpenedModel(**head["opened"])


@pytest.fixture
def studio(private_data):
    studio = Studio(private_data, server_paths=True)
    completer = InProcess()
    studio.checkpoints = Checkpoints(studio.store, completer, 1_000_000)
    return studio


def send(studio, path, upload=UPLOAD, owner=ME, name="mae.pth"):
    content = path.read_bytes()
    place = studio.checkpoints.place(owner, upload, name, len(content))
    place.write_bytes(content)
    return place


def test_a_path_becomes_a_model_to_start_from(studio, tiny_checkpoint):
    opened = studio.open_checkpoint(ME, "", {}, path=f" {tiny_checkpoint} ")
    assert (opened.family, opened.title) == ("mae", tiny_checkpoint.name)
    assert "32×32" in opened.size and studio.base(OPENED + opened.id, ME) == "mae"
    run = studio.submit(Form(model=OPENED + opened.id, forget_groups=("flags",)), ME)
    request = studio.store.get(run).request
    assert (request.model, request.checkpoint) == ("mae", str(tiny_checkpoint))
    assert "not the file" in studio.checkpoints.remove(ME, opened.id)
    assert tiny_checkpoint.is_file() and studio.checkpoints.all(ME) == []


def test_an_upload_belongs_to_its_sender(studio, tiny_checkpoint):
    place = send(studio, tiny_checkpoint)
    opened = studio.open_checkpoint(ME, "mae", {}, upload=UPLOAD)
    assert opened.checkpoint == str(place) and [*studio.checkpoints.all(ME)] == [opened]
    assert studio.checkpoints.all(YOU) == studio.checkpoints.all("") == []
    form = Form(model=OPENED + opened.id, forget_groups=("flags",))
    for act in (
        lambda: studio.submit(form, YOU),
        lambda: studio.checkpoints.remove(YOU, opened.id),
        lambda: studio.open_checkpoint(YOU, "mae", {}, upload=UPLOAD),
    ):
        with pytest.raises(ConfigError):
            act()
    run = studio.submit(form, ME)
    with pytest.raises(ConfigError, match="Erase the run first"):
        studio.checkpoints.remove(ME, opened.id)
    studio.erase(run, ME)
    assert "Erased" in studio.checkpoints.remove(ME, opened.id) and not place.exists()


@pytest.mark.parametrize("upload", ["", "..", "../x", "/etc", "g" * 32, "a" * 31])
def test_an_upload_has_an_id_and_no_path(studio, upload):
    with pytest.raises(ConfigError, match="Choose a file of weights"):
        studio.checkpoints.open(ME, "", {}, upload=upload)
    assert not list(studio.store.root.rglob("opened.json"))


@pytest.mark.parametrize("content", [b"no weights", b"this is no picture", b"\x80\x02u.", b""])
def test_a_bad_checkpoint_says_why_and_can_be_tried_again(
    studio, tiny_checkpoint, tmp_path, content
):
    bad = tmp_path / "bad.pth"
    bad.write_bytes(content)
    send(studio, bad)
    with pytest.raises(CompleterError, match="can be opened safely"):
        studio.open_checkpoint(ME, "", {}, upload=UPLOAD)
    assert studio.checkpoints.all(ME) == []
    send(studio, tiny_checkpoint)
    with pytest.raises(CompleterError, match="not a MAGE"):
        studio.open_checkpoint(ME, "mage", {}, upload=UPLOAD)
    assert studio.open_checkpoint(ME, "", {}, upload=UPLOAD).family == "mae"


def test_what_fits_no_family_is_said_for_each(studio, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(CompleterError, match="No family can open") as caught:
        studio.open_checkpoint(ME, "", {}, path=str(path))
    assert len(str(caught.value).splitlines()) > 2


def test_the_model_is_the_largest_of_what_was_sent(studio, tiny_checkpoint):
    place = send(studio, tiny_checkpoint, name="../../model.safetensors")
    assert place.parent.parent.name == UPLOAD and place.name == "_.._model.safetensors"
    for name, content in (("vqgan.ckpt", b"small"), ("config.json", b"{}" * 10**5)):
        studio.checkpoints.place(ME, UPLOAD, name, len(content)).write_bytes(content)
    assert studio.open_checkpoint(ME, "mae", {}, upload=UPLOAD).checkpoint == str(place)


def test_paths_are_private_unless_this_machine_alone_reaches_the_page(studio, tiny_checkpoint):
    options = {"tokenizer": str(tiny_checkpoint)}
    with pytest.raises(ConfigError, match="Upload the file"):
        studio.open_checkpoint(ME, "mae", {}, path=str(tiny_checkpoint), local=False)
    with pytest.raises(ConfigError, match="Upload the file"):
        studio.open_checkpoint(ME, "mage", options, upload=UPLOAD, local=False)
    studio.server_paths = False
    with pytest.raises(ConfigError, match="Upload the file"):
        studio.open_checkpoint(ME, "mae", {}, path=str(tiny_checkpoint))


@pytest.mark.parametrize(
    ("host", "private"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_addresses_that_only_this_machine_reaches(host, private):
    assert is_loopback(host) is private


@pytest.mark.parametrize(
    ("client", "headers", "local"),
    [
        ("127.0.0.1", {"host": "127.0.0.1:7860"}, True),
        ("127.0.0.1", {"host": "localhost:8000"}, True),
        ("::1", {"host": "[::1]:7860"}, True),
        ("127.0.0.1", {"host": "evil.example:7860"}, False),  # whose name stands for 127.0.0.1
        ("127.0.0.1", {}, False),
        ("127.0.0.1", {"host": "localhost", "x-forwarded-for": "203.0.113.5"}, False),
        ("192.168.0.7", {"host": "box:7860"}, True),  # only --server-paths lets it name a path
    ],
)
def test_events_that_came_straight_from_a_visitor(client, headers, local):
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    asked = Request({"type": "http", "headers": raw, "client": (client, 50_000)})
    assert came_directly(gr.Request(asked)) is local


def test_limits(studio, tmp_path):
    limit = studio.checkpoints.limit
    with pytest.raises(ConfigError, match="up to"):
        studio.checkpoints.place(ME, UPLOAD, "big.pth", limit + 1)
    for number in range(2):
        sent = studio.checkpoints.place(ME, f"{number}" * 32, "a.pth", limit - 2)
        sent.write_bytes(b"0" * (limit - 2))
        (sent.parent.parent / "opened.json").write_text("{}")
    with pytest.raises(ConfigError, match="Remove one"):
        studio.checkpoints.place(ME, UPLOAD, "more.pth", 1)
    for owner, upload in (("", UPLOAD), (ME, "../x")):
        with pytest.raises(ConfigError, match="Reload"):
            studio.checkpoints.place(owner, upload, "a.pth", 1)


def test_nobody_can_send_what_the_studio_itself_notes(studio, tiny_checkpoint, tmp_path):
    """A sent `opened.json` neither opens a file of the machine nor removes a folder of it."""
    precious = tmp_path / "precious"
    precious.mkdir()
    forged = {"id": str(precious), "title": "x", "family": "mae", "size": "", "options": {}}
    forged |= {"checkpoint": str(tiny_checkpoint), "uploaded": False}
    content = json.dumps(forged).encode()
    studio.checkpoints.place(ME, UPLOAD, "opened.json", len(content)).write_bytes(content)
    assert studio.checkpoints.all(ME) == []
    for checkpoint in (UPLOAD, str(precious)):
        with pytest.raises(ConfigError, match="not here"):
            studio.checkpoints.remove(ME, checkpoint)
    assert precious.is_dir()


def test_what_could_not_be_opened_makes_room(studio):
    limit = studio.checkpoints.limit
    for number in range(4):
        sent = studio.checkpoints.place(ME, f"{number}" * 32, "a.pth", limit)
        sent.write_bytes(b"0" * limit)
    assert [path.name for path in (studio.checkpoints.folder / ME).iterdir()] == ["3" * 32]


def test_an_upload_stays_while_it_is_being_opened(studio, tiny_checkpoint):
    """Somebody sends the next file meanwhile, or this one goes all the same."""
    opening = studio.checkpoints.completer.try_checkpoint
    sent = send(studio, tiny_checkpoint)

    def meanwhile(*asked):
        send(studio, tiny_checkpoint, "d" * 32)
        return opening(*asked)

    studio.checkpoints.completer.try_checkpoint = meanwhile
    opened = studio.open_checkpoint(ME, "mae", {}, upload=UPLOAD)
    assert sent.is_file() and studio.checkpoints.all(ME) == [opened]

    def lost(*asked):
        found = opening(*asked)
        os.unlink(asked[0])
        return found

    studio.checkpoints.completer.try_checkpoint = lost
    with pytest.raises(ConfigError, match="not here any more"):
        studio.open_checkpoint(ME, "mae", {}, upload="d" * 32)
    assert studio.checkpoints.all(ME) == [opened]
    send(studio, tiny_checkpoint, "e" * 32)
    assert not (studio.checkpoints.folder / ME / ("d" * 32)).exists()


def test_what_no_run_started_from_goes_after_a_day(studio, tiny_checkpoint):
    used = send(studio, tiny_checkpoint)
    (used.parent.parent / "opened.json").write_text("{}")
    (studio.checkpoints.folder / ME / ".DS_Store").write_text("no upload")
    unused = send(studio, tiny_checkpoint, "d" * 32)
    request = UnlearnRequest(forget=("builtin:flags",), model="mae", checkpoint=str(used))
    studio.store.create(request, owner=ME)
    studio.checkpoints.sweep()
    assert unused.exists()
    for path in (used.parent, unused.parent, used.parent.parent, unused.parent.parent):
        os.utime(path, (time.time() - UNUSED_SECONDS - 60,) * 2)
    studio.checkpoints.sweep()
    assert used.exists() and not unused.exists()


@pytest.fixture
def client(private_data):
    with TestClient(build(private_data, checkpoint_limit=10_000)) as client:
        yield client


def test_files_arrive_in_place_or_not_at_all(client, private_data):
    client.get("/")
    folder = private_data / "checkpoints"
    assert client.put(f"/checkpoints/{UPLOAD}/a.pth", content=b"1" * 9_000).status_code == 204
    [file] = [path for path in folder.rglob("*") if path.is_file()]
    owner = owner_of(dict(client.cookies))
    assert file.relative_to(folder).parts == (owner, UPLOAD, "sent", "a.pth")
    assert file.read_bytes() == b"1" * 9_000
    assert client.put(f"/checkpoints/{UPLOAD}/b.pth", content=b"1" * 10_001).status_code == 413

    assert torn_upload(client, private_data, f"/checkpoints/{UPLOAD}/c.pth") == ["c.pth.part"]
    assert [path for path in folder.rglob("*") if path.is_file()] == [file]


def torn_upload(client, private_data, path):
    """A visitor who leaves after half a file; returns the partial files seen meanwhile."""
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    headers = [(b"cookie", cookie.encode()), (b"content-length", b"200")]
    scope = {"type": "http", "method": "PUT", "path": path, "headers": headers}
    scope |= {"query_string": b"", "scheme": "http", "http_version": "1.1"}
    messages = iter([{"type": "http.request", "body": b"1" * 100, "more_body": True}])
    seen = []

    async def receive():
        for message in messages:
            return message
        seen.extend(path.name for path in private_data.rglob("*.part"))
        return {"type": "http.disconnect"}

    async def ignore(message):
        pass

    with suppress(ClientDisconnect):
        anyio.run(client.app, scope, receive, ignore)
    return seen


def test_strangers_cannot_send(client, private_data):
    for cookies in (None, {COOKIE: "short"}):
        stranger = TestClient(client.app, cookies=cookies)
        assert stranger.put(f"/checkpoints/{UPLOAD}/a.pth", content=b"1").status_code == 413
    assert not (private_data / "checkpoints").exists()


def test_the_completer_forgets_what_was_erased(studio, request_settings):
    store = RunStore()
    run = store.create(UnlearnRequest.from_dict(request_settings), owner=ME)
    other = store.create(UnlearnRequest.from_dict(request_settings), owner=ME)
    assert execute(run) == execute(other) == "done"
    completer = Completer(store, "cpu")
    for each in (run, other):
        completer.compare(CompareRequest(each.id, count=1))
    store.delete(run.id)
    completer.drop_erased()
    kept = [key[0] for warm in (completer.unlearned, completer.galleries) for key in warm.values]
    assert kept == [other.id, other.id]
    assert len(completer.originals.values) == 1
    os.unlink(request_settings["checkpoint"])
    completer.drop_erased()
    assert not completer.originals.values
