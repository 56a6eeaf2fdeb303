"""A run is a folder that survives crashes and forgets names."""

import os

import pytest
from PIL import Image

from l2l_core.config import UnlearnRequest
from l2l_core.jobs.store import (
    Run,
    RunError,
    RunStore,
    create_run,
    data_root,
    write_atomically,
)


@pytest.fixture
def store():
    return RunStore()


@pytest.fixture
def request_():
    return UnlearnRequest(forget=("inputs:forget",), steps=5)


def test_a_run_keeps_its_request_state_and_pictures(store, request_):
    picture = Image.new("RGB", (20, 20), "red")
    picture.info["comment"] = "somebody"
    run = store.create(request_, owner="me", title="red", forget_images=[picture, picture])
    again = store.get(run.id)
    assert again.request == request_
    assert (again.state.status, again.state.owner, again.state.steps) == ("queued", "me", 5)
    names = sorted(p.name for p in (run.folder / "inputs" / "forget").iterdir())
    assert names == ["0001.png", "0002.png"]
    assert run.folder.parent.parent == data_root()
    assert run.folder.stat().st_mode & 0o077 == 0


def test_others_runs_do_not_exist_and_nobody_owns_an_unowned_one(store, request_):
    mine, nobodys = store.create(request_, owner="me"), store.create(request_)
    assert store.owned(mine.id, "me").id == mine.id
    for run, owner in ((mine, "you"), (mine, ""), (nobodys, "me"), (nobodys, "")):
        with pytest.raises(RunError, match="no such run"):
            store.owned(run.id, owner)


def test_state_changes_are_whole(store, request_):
    run = store.create(request_)
    assert run.set_state(status="running", step=2) == run.state
    assert (run.state.status, run.state.step, run.state.steps) == ("running", 2, 5)


def test_events_survive_a_torn_line(store, request_):
    run = store.create(request_)
    run.log("step", step=1)
    with (run.folder / "events.jsonl").open("ab") as file:
        file.write('{"kind": "stage", "text": "“'.encode()[:-1])  # torn inside a character
    assert [e["step"] for e in run.events()] == [1]
    run.log("step", step=2)
    assert [e["step"] for e in run.events()] == [1, 2]
    assert [e["step"] for e in run.events(start=1)] == [2]


def test_a_resumed_run_takes_its_steps_once(store, request_):
    run = store.create(request_)
    run.log("stage", text="Unlearning")
    for step in (1, 2, 3):
        run.log("step", step=step)
    run.log("preview", step=3)
    run.rewind_events(1)
    assert [(e["kind"], e.get("step")) for e in run.events()] == [("stage", None), ("step", 1)]


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "/etc/passwd", "%2e%2e", "20261123-071503-0000000g", "x" * 300]
)
def test_ids_that_are_no_ids(store, name):
    with pytest.raises(RunError, match="no such run"):
        store.get(name)


def test_newest_first_and_by_owner(store, request_):
    first, second = store.create(request_, owner="a"), store.create(request_, owner="b")
    assert [run.id for run in store.runs()] == [second.id, first.id]
    assert [run.id for run in store.runs("a")] == [first.id]


def test_erasing_says_what_and_leaves_nothing(store, request_):
    run = store.create(request_, forget_images=[Image.new("RGB", (9, 9))] * 3)
    assert "3 uploaded images" in store.delete(run.id)
    assert list(store.folder.iterdir()) == []
    with pytest.raises(RunError):
        store.get(run.id)


def test_a_running_run_is_not_erased(store, request_):
    run = store.create(request_)
    run.set_state(status="running")
    with pytest.raises(RunError, match="Cancel it first"):
        store.delete(run.id)


def test_one_damaged_or_vanished_run_does_not_hide_the_others(store, request_):
    damaged, whole, empty = (store.create(request_) for _ in range(3))
    (damaged.folder / "state.json").write_text('{"status": "que')
    (empty.folder / "state.json").unlink()
    assert [run.id for run in store.runs()] == [whole.id]
    with pytest.raises(RunError, match="damaged"):
        _ = damaged.state
    with pytest.raises(RunError, match="no such run"):
        _ = empty.state


def test_a_submission_that_fails_leaves_no_picture(store, request_, monkeypatch):
    def fail(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("l2l_core.jobs.store.write_atomically", fail)
    with pytest.raises(OSError):
        store.create(request_, forget_images=[Image.new("RGB", (9, 9))])
    assert list(store.folder.iterdir()) == []


def test_sweeping_finishes_what_a_kill_left(store, request_):
    kept = store.create(request_)
    erased = store.folder / ".20260101-000000-00000000.erased"
    abandoned = store.folder / ".20260101-000000-00000001.new"
    arriving = store.folder / ".20260101-000000-00000002.new"
    for folder in (erased, abandoned, arriving):
        (folder / "inputs").mkdir(parents=True)
    os.utime(abandoned, (0, 0))
    store.sweep()
    assert {path.name for path in store.folder.iterdir()} == {kept.id, arriving.name}


def test_a_run_clears_half_written_files(store, request_):
    run = store.create(request_)
    (run.folder / "checkpoints" / ".last.pt.tmp").write_bytes(b"half")
    run.checkpoint.write_bytes(b"whole")
    run.clear_temporary()
    assert [path.name for path in run.checkpoint.parent.iterdir()] == ["last.pt"]


def test_an_existing_folder_is_left_alone(store, request_, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunError, match="exists already"):
        create_run(tmp_path / "mine", request_)
    run = create_run(tmp_path / "new", request_)
    assert Run(tmp_path / "new").state == run.state


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_atomically(path, "old")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError):
        write_atomically(path, "new")
    assert path.stat().st_mode & 0o077 == 0
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["state.json"]
