"""The real worker and the real completer, as processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from l2l_core.config import UnlearnRequest
from l2l_core.images import read_image, to_png
from l2l_core.jobs import queue
from l2l_core.jobs.client import CompareRequest, CompleterClient, CompleterError, address
from l2l_core.jobs.store import RunError, RunStore
from l2l_core.models.checkpoints import read_checkpoint

PATIENCE = 120


def wait_for(condition, what):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


@pytest.fixture
def start(private_data):
    """Start `python -m l2l_core …` on the private data folder; all end with the test."""
    processes = []

    def launch(*arguments):
        environment = os.environ | {"L2L_DATA": str(private_data), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([sys.executable, "-m", "l2l_core", *arguments], env=environment)
        processes.append(process)
        return process

    yield launch
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def store():
    return RunStore()


def submit(store, settings, **changes):
    return store.create(UnlearnRequest.from_dict(settings | changes), owner="me")


def stepped(run, count):
    return sum(event["kind"] == "step" for event in run.events()) >= count


@pytest.mark.slow
def test_the_worker(start, store, request_settings):
    """Two submissions queue; cancelling frees the way; SIGTERM leaves a run that goes on."""
    first = submit(store, request_settings, steps=100_000, checkpoint_every=50)
    second = submit(store, request_settings)
    worker = start("worker")
    wait_for(lambda: stepped(first, 3), "the first run's steps")
    assert second.state.status == "queued" and queue.position(store, second) == 1
    assert queue.worker_alive(store) and "CPU" in queue.worker_device(store)

    assert start("worker").wait(PATIENCE) == 1  # the lock keeps a second one out

    step = len([e for e in first.events() if e["kind"] == "step"])
    queue.cancel(store, first.id, "me")
    wait_for(lambda: first.state.status == "cancelled", "the cancellation")
    assert first.state.step >= step and first.weights.is_file()
    wait_for(lambda: second.state.status == "done", "the second run")

    third = submit(store, request_settings, steps=100_000)
    wait_for(lambda: stepped(third, 3), "the third run's steps")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    assert third.state.status == "interrupted" and third.checkpoint.is_file()


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(start, store, request_settings):
    """Killed hard in mid-run, the next worker ends with the same weights, bit for bit."""
    settings = request_settings | {"steps": 30, "checkpoint_every": 3, "preview_every": 0}
    whole, killed = submit(store, settings), submit(store, settings)
    worker = start("worker")
    wait_for(lambda: whole.state.status == "done", "the whole run")
    wait_for(lambda: killed.checkpoint.is_file(), "a checkpoint")
    worker.kill()
    worker.wait()
    start("worker")
    wait_for(lambda: killed.state.status == "done", "the killed run")
    one, other = (read_checkpoint(run.weights)[0] for run in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_the_completer(start, store, request_settings, picture_folders):
    client = CompleterClient(store.root)
    with pytest.raises(CompleterError, match="not ready"):
        client.compare(CompareRequest("20260101-000000-00000000"))
    run = submit(store, request_settings)
    start("worker")
    start("completer")
    wait_for(lambda: run.state.status == "done", "the run")
    wait_for(lambda: os.path.exists(address(store.root)), "the completer")

    extra = to_png(read_image(f"{picture_folders[0]}/3.png").image)
    rows = client.compare(CompareRequest(run.id, "centre:0.5", count=2, extra=(extra,)))
    assert [row.role for row in rows] == ["forget"] * 2 + ["nearest"] * 2 + ["retain"] * 2 + [
        "extra"
    ]
    again = client.compare(CompareRequest(run.id, "centre:0.5", count=2, extra=(extra,)))
    assert rows == again
    for row in rows:
        pictures = [read_image(p).image for p in (row.truth, row.hole, row.original, row.unlearned)]
        assert {picture.size for picture in pictures} == {(256, 256)}
        corners = {picture.getpixel((2, 2)) for picture in pictures}
        assert len(corners) == 1  # outside the hole nothing differs
        assert -1 <= row.after <= 1

    other = client.compare(CompareRequest(run.id, "random:0.5", seed=1, count=1))
    assert other[0].hole != client.compare(CompareRequest(run.id, "random:0.5", count=1))[0].hole
    for bad, word in (
        (CompareRequest(run.id, "circle:1"), "no mask"),
        (CompareRequest(run.id, "drawn"), "Draw"),
        (CompareRequest(run.id, "drawn", drawing=b"no picture"), "drawing"),
        (CompareRequest("20260101-000000-00000000"), "no such run"),
        (CompareRequest(run.id, extra=(b"no picture",)), "not an image"),
    ):
        with pytest.raises(CompleterError, match=word):
            client.compare(bad)
    with pytest.raises(RunError):
        store.get("20260101-000000-00000000")
