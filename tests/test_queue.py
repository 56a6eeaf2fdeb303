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
    assert [queue.position(store, run) for run in runs] == [0, 1, 2]


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


def test_a_cancelled_run_keeps_no_checkpoint(store):
    waiting, orphan = submit(store), submit(store)
    for run in (waiting, orphan):
        run.checkpoint.write_bytes(b"to go on")
    queue.cancel(store, waiting.id, "me")
    orphan.set_state(status="running")
    orphan.request_cancel()
    queue.recover(store)
    for run in (waiting, orphan):
        assert run.state.status == "cancelled" and not run.checkpoint.exists()
        assert not queue.can_go_on(run)


def test_only_the_owner_cancels(store):
    run = submit(store, owner="me")
    with pytest.raises(RunError, match="no such run"):
        queue.cancel(store, run.id, "somebody else")
    assert run.state.status == "queued"
    nobodys = submit(store, owner="")
    with pytest.raises(RunError, match="no such run"):
        queue.cancel(store, nobodys.id, "")


def test_what_a_dead_worker_left_goes_on(store):
    run = submit(store)
    queue.claim_next(store)
    assert [r.id for r in queue.recover(store)] == [run.id]
    assert run.state.status == "queued"


def test_a_run_another_process_executes_is_left_alone(store):
    run = submit(store)
    queue.claim_next(store)
    with run.execution_lock():
        assert queue.recover(store) == [] and run.state.status == "running"
    assert [r.id for r in queue.recover(store)] == [run.id]


def test_a_run_that_cannot_begin_gives_way_unless_another_process_executes_it(store):
    run = submit(store)
    queue.claim_next(store)
    with run.execution_lock():
        queue.give_up(run, "It cannot begin.")
        assert run.state.status == "running"
    queue.give_up(run, "It cannot begin.")
    assert (run.state.status, run.state.message) == ("failed", "It cannot begin.")
    store.delete(run.id)
    queue.give_up(run, "It cannot begin.")
    assert not run.folder.exists()


def test_recovering_settles_what_was_decided(store):
    done, cancelled = submit(store), submit(store)
    queue.claim_next(store), queue.claim_next(store)
    (done.folder / "manifest.json").write_text("{}")
    cancelled.request_cancel()
    assert queue.recover(store) == []
    assert (done.state.status, cancelled.state.status) == ("done", "cancelled")


def test_a_run_that_keeps_killing_its_worker_gives_way(store):
    poison, other = submit(store), submit(store)
    for _ in range(queue.MOST_DEATHS):
        claimed = queue.claim_next(store)
        assert claimed is not None and claimed.id == poison.id
        queue.recover(store)
    assert poison.state.status == "failed" and "memory" in poison.state.message
    following = queue.claim_next(store)
    assert following is not None and following.id == other.id


def test_an_interrupted_run_goes_on_when_its_owner_says_so(store):
    run = submit(store, owner="me")
    with pytest.raises(RunError, match="cannot go on"):
        queue.resume(store, run.id, "me")
    run.set_state(status="interrupted", step=5, finished=1.0)
    with pytest.raises(RunError, match="no such run"):
        queue.resume(store, run.id, "somebody else")
    queue.resume(store, run.id, "me")
    assert (run.state.status, run.state.step, run.state.finished) == ("queued", 5, None)


def test_heartbeat(store):
    assert not queue.worker_alive(store) and queue.worker_device(store) == ""
    queue.beat(store, "CPU")
    assert queue.worker_alive(store) and queue.worker_device(store) == "CPU"
    assert not queue.worker_alive(store, patience=-1)
    queue.rest(store)
    assert not queue.worker_alive(store) and queue.worker_device(store) == ""
