"""Order, places, cancelling and recovering."""

import pytest

from l2l_core.config import UnlearnRequest
from l2l_core.jobs import queue
from l2l_core.jobs.store import RunError, RunStore


@pytest.fixture
def store():
    return RunStore()


def submit(store, owner="me"):
    return store.create(UnlearnRequest(forget=("builtin:flags",)), owner=owner)


def test_first_come_first_served(store):
    runs = [submit(store) for _ in range(3)]
    assert [run.id for run in queue.waiting(store)] == [run.id for run in runs]
    assert [queue.position(store, run) for run in runs] == [0, 1, 2]
    claimed = queue.claim_next(store)
    assert claimed is not None and claimed.id == runs[0].id and claimed.state.status == "running"
    assert [queue.position(store, run) for run in runs[1:]] == [1, 2]


def test_the_order_survives_a_restart(store):
    runs = [submit(store) for _ in range(3)]
    again = RunStore()
    taken = [queue.claim_next(again) for _ in range(3)]
    assert [run.id for run in taken if run] == [run.id for run in runs]
    assert queue.claim_next(again) is None


def test_cancelling(store):
    waiting, running = submit(store), submit(store)
    running.set_state(status="running")
    assert queue.cancel(store, waiting.id, "me") == "Cancelled."
    assert waiting.state.status == "cancelled" and queue.claim_next(store) is None
    assert "after the current step" in queue.cancel(store, running.id, "me")
    assert running.cancel_requested()
    assert "already ended" in queue.cancel(store, waiting.id, "me")


def test_only_the_owner_cancels(store):
    run = submit(store, owner="me")
    with pytest.raises(RunError, match="no such run"):
        queue.cancel(store, run.id, "somebody else")
    assert run.state.status == "queued"


def test_what_a_dead_worker_left_goes_on(store):
    run = submit(store)
    queue.claim_next(store)
    assert [r.id for r in queue.recover(store)] == [run.id]
    assert run.state.status == "queued"


def test_heartbeat(store):
    assert not queue.worker_alive(store) and queue.worker_device(store) == ""
    queue.beat(store, "CPU")
    assert queue.worker_alive(store) and queue.worker_device(store) == "CPU"
    assert not queue.worker_alive(store, patience=-1)
