"""Children of the web process: started again when they die, gone when it stops."""

import subprocess
import sys
import time

import pytest

from ui import processes
from ui.processes import Children

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def children(tmp_path, monkeypatch):
    launch = subprocess.Popen
    monkeypatch.setattr(processes, "SOONEST", 0.01)
    monkeypatch.setattr(processes.subprocess, "Popen", lambda command, **more: launch(SLEEPER))
    children = Children(tmp_path, ("worker", "completer"))
    children.start()
    yield children
    children.stop()


def test_a_child_that_dies_is_started_again(children):
    first = dict(children.processes)
    first["worker"].kill()
    until = time.monotonic() + 30
    while children.processes["worker"] is first["worker"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert children.processes["worker"].poll() is None
    assert children.processes["completer"] is first["completer"]


def test_none_is_left_or_started_again_after_stop(children):
    children.stop()
    assert all(process.poll() is not None for process in children.processes.values())
    assert not any(keeper.is_alive() for keeper in children._keepers)
