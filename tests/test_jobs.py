"""The real worker and the real completer, as processes."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import psutil
import pytest
import torch

from l2l_core.config import UnlearnRequest
from l2l_core.images import read_image, to_png
from l2l_core.jobs import queue
from l2l_core.jobs.client import (
    CompareRequest,
    CompleterClient,
    CompleterError,
    address,
    authentication_key,
)
from l2l_core.jobs.measurer import CUT_SHORT, Measurer
from l2l_core.jobs.results import Measuring, measuring, tell
from l2l_core.jobs.store import Run, RunStore
from l2l_core.jobs.worker import Worker
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
    assert not queue.worker_alive(store)

    queue.resume(store, third.id, "me")
    reached = third.state.step
    start("worker")
    wait_for(lambda: third.state.step > reached, "the third run to go on")
    steps = [e["step"] for e in third.events() if e["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1))


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


def test_a_worker_leaves_in_the_middle_of_a_long_step(store, request_settings, monkeypatch):
    """SIGTERM outlasted by a step: the run is interrupted all the same."""
    run = submit(store, request_settings)
    left = []
    monkeypatch.setattr("l2l_core.jobs.worker.os._exit", left.append)
    worker = Worker(store)
    worker.run = queue.claim_next(store)
    worker._leave_now()
    assert left == [0] and run.state.status == "interrupted" and "go on" in run.state.message


def test_a_request_that_cannot_be_read_fails_and_the_next_run_is_taken(store, request_settings):
    damaged, following = submit(store, request_settings), submit(store, request_settings)
    (damaged.folder / "request.json").write_text('{"speed": 3}')
    worker, states = Worker(store), []
    for _ in range(2):
        claimed = queue.claim_next(store)
        assert claimed is not None
        worker._execute(claimed)
        states.append((claimed.id, claimed.state.status))
    assert states == [(damaged.id, "failed"), (following.id, "done")]
    assert "cannot be read" in damaged.state.message
    store.delete(damaged.id)


@pytest.mark.slow
def test_two_processes_stop_together(store, request_settings, tmp_path):
    """Only one is told; if it stopped alone, the other would wait for it in vain."""
    config = tmp_path / "run.json"
    config.write_text(json.dumps(request_settings | {"steps": 100_000, "preview_every": 0}))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines"]
    launch += ["1", "--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [*launch, "--main_process_port", "0", "-m", "l2l_core", "unlearn"]
    run = Run(tmp_path / "out")
    process = subprocess.Popen(
        [*command, "--config", str(config), "--out", str(run.folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    family = [psutil.Process(process.pid)]
    try:
        wait_for(lambda: stepped(run, 3), "the first steps")
        family += family[0].children(recursive=True)
        [second] = [p for p in family if p.environ().get("RANK") == "1"]
        second.terminate()
        process.wait(PATIENCE)
    finally:
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
    assert run.state.status == "interrupted" and run.checkpoint.is_file()


def compared(client, request):
    """The rows of a comparison, whatever is told before."""
    *_, rows = client.watch_comparison(request)
    return rows


@pytest.mark.slow
def test_the_completer(start, store, request_settings, picture_folders):
    client = CompleterClient(store.root)
    with pytest.raises(CompleterError, match="not ready"):
        compared(client, CompareRequest("20260101-000000-00000000"))
    run = submit(store, request_settings)
    start("worker")
    completer = start("completer")
    wait_for(lambda: run.state.status == "done", "the run")
    wait_for(lambda: os.path.exists(address(store.root)), "the completer")

    extra = to_png(read_image(f"{picture_folders[0]}/3.png").image)
    rows = compared(client, CompareRequest(run.id, "centre:0.5", count=2, extra=(extra,)))
    assert [row.role for row in rows] == ["forget"] * 2 + ["nearest"] * 2 + ["retain"] * 2 + [
        "extra"
    ]
    again = compared(client, CompareRequest(run.id, "centre:0.5", count=2, extra=(extra,)))
    assert rows == again
    for row in rows:
        pictures = [read_image(p).image for p in (row.truth, row.hole, row.original, row.unlearned)]
        assert {picture.size for picture in pictures} == {(256, 256)}
        corners = {picture.getpixel((2, 2)) for picture in pictures}
        assert len(corners) == 1  # outside the hole nothing differs
        assert -1 <= row.after <= 1

    other = compared(client, CompareRequest(run.id, "random:0.5", seed=1, count=1))
    assert other[0].hole != compared(client, CompareRequest(run.id, "random:0.5", count=1))[0].hole
    for bad, word in (
        (CompareRequest(run.id, "circle:1"), "no mask"),
        (CompareRequest(run.id, "file:hole.png"), "Draw"),
        (CompareRequest(run.id, "drawn"), "Draw"),
        (CompareRequest(run.id, "drawn", drawing=b"no picture"), "drawing"),
        (CompareRequest("20260101-000000-00000000"), "no such run"),
        (CompareRequest(run.id, extra=(b"no picture",)), "not an image"),
    ):
        with pytest.raises(CompleterError, match=word):
            compared(client, bad)

    with pytest.raises(AuthenticationError):  # a stranger is turned away, and the others served
        Client(address(store.root), authkey=b"guessed")
    assert compared(client, CompareRequest(run.id, count=1))[0].role == "forget"
    with pytest.raises(CompleterError, match="too long"):
        compared(CompleterClient(store.root, patience=0), CompareRequest(run.id, count=1))
    assert start("completer").wait(PATIENCE) == 1  # the lock keeps a second one out
    completer.send_signal(signal.SIGTERM)
    assert completer.wait(PATIENCE) == 0 and not os.path.exists(address(store.root))


def test_the_key_is_made_once_for_its_owner(private_data):
    private_data.mkdir()
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(authentication_key, [private_data] * 8))
    assert len(keys) == 1
    assert (private_data / "completer.key").stat().st_mode & 0o077 == 0


def test_why_measuring_failed_outlives_the_completer(store, request_settings):
    failed, cut = submit(store, request_settings), submit(store, request_settings)
    tell(failed, Measuring("The disk is full.", failed=True))
    tell(cut, Measuring("Opening both models"))
    Measurer(store, torch.device("cpu")).start()
    assert measuring(failed) == Measuring("The disk is full.", failed=True)
    assert measuring(cut) == Measuring(CUT_SHORT, failed=True)
