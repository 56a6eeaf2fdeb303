"""Kills, full disks and crossing processes: a run is never lost, doubled or half written."""

import json
import random
import resource
import time
from multiprocessing import get_context

import pytest
import torch

from l2l_core.config import UnlearnRequest
from l2l_core.jobs import queue
from l2l_core.jobs.runner import execute
from l2l_core.jobs.store import Run, RunError, RunStore
from l2l_core.models.checkpoints import file_digest, read_checkpoint


def execute_within(folder, largest_file=None):
    """Execute a run in a process of its own, whose files cannot grow beyond a size."""
    torch.set_num_threads(1)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    execute(Run(folder))


@pytest.fixture(scope="module")
def processes():
    """Processes that start at once, because a server has imported everything for them."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["l2l_core.jobs.runner"])
    return context


def new_run(settings, **changes):
    return RunStore().create(UnlearnRequest.from_dict(settings | changes))


def executed(processes, run, largest_file=None):
    process = processes.Process(target=execute_within, args=(run.folder, largest_file))
    process.start()
    process.join()
    return run.state


def saved_step(run):
    if not run.checkpoint.exists():
        return 0
    return torch.load(run.checkpoint, weights_only=False)["step"]


@pytest.mark.slow
def test_killed_again_and_again_the_weights_are_the_same(processes, request_settings):
    """20 kills at random moments, also in the middle of writing; then the end, bit for bit.

    Every other one waits until a step more is saved, however slow the machine is; none waits for
    more than a few, however fast it is.
    """
    settings = request_settings | {"steps": 150, "checkpoint_every": 1, "preview_every": 5}
    whole, killed = new_run(settings), new_run(settings)
    assert executed(processes, whole).status == "done"
    moments = random.Random(0)
    progress = [0]
    for number in range(20):
        process = processes.Process(target=execute_within, args=(killed.folder,))
        process.start()
        moment = time.monotonic() + moments.uniform(0.2, 1.0)
        while process.is_alive() and saved_step(killed) < progress[-1] + 2:
            late = time.monotonic() > moment
            if late and not (number % 2 and saved_step(killed) == progress[-1]):
                break
            process.join(0.01)
        process.kill()
        process.join()
        progress.append(saved_step(killed))
    assert 10 <= progress[-1] < 150
    assert executed(processes, killed).status == "done"
    one, other = (read_checkpoint(run.weights)[0] for run in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [e["step"] for e in killed.events() if e["kind"] == "step"] == list(range(1, 151))
    assert not list(killed.folder.rglob(".*.tmp"))


@pytest.mark.parametrize("checkpoint_every", [1, 0])  # the checkpoint, then the weights, too large
def test_a_full_disk_is_said_and_the_last_checkpoint_loads(
    processes, request_settings, checkpoint_every
):
    run = new_run(request_settings, checkpoint_every=checkpoint_every, preview_every=0)
    assert execute(run, should_stop=lambda: True) == "interrupted"
    state = executed(processes, run, largest_file=20_000)
    assert (state.status, state.message) == ("failed", "The disk is full.")
    assert torch.load(run.checkpoint, weights_only=True)["step"] == 1
    assert not run.weights.exists() and not list(run.folder.rglob(".*.tmp"))
    assert execute(run) == "done"


def test_the_manifest_speaks_of_the_files_as_they_are(request_settings):
    run = new_run(request_settings)
    execute(run)
    files = json.loads((run.folder / "manifest.json").read_text())["files"]
    assert set(files) > {"events.jsonl", "metrics.json", "request.json"}
    for name, digest in files.items():
        assert digest == file_digest(run.folder / name), name


def test_a_run_is_executed_once_at_a_time(request_settings):
    """What the command line executes, the worker neither claims nor executes."""
    run, store = new_run(request_settings), RunStore()
    seen = []

    def meanwhile(event):
        if event["kind"] == "step" and not seen:
            with pytest.raises(RunError, match="Another process"):
                execute(run)
            with pytest.raises(RunError, match="Cancel it first"):
                store.delete(run.id)
            seen.append((run.state.status, queue.claim_next(store), queue.recover(store)))

    assert execute(run, on_event=meanwhile) == "done"
    assert seen == [("running", None, [])]


def test_stopped_after_the_last_step_it_is_only_measured_again(request_settings):
    run = new_run(request_settings)
    assert execute(run, should_stop=lambda: run.state.step == 4) == "interrupted"
    assert not run.weights.exists() and execute(run) == "done"
    assert [e["step"] for e in run.events() if e["kind"] == "step"] == [1, 2, 3, 4]


def test_a_saved_checkpoint_forgives_earlier_deaths(request_settings):
    run = new_run(request_settings)
    run.set_state(deaths=2)
    execute(run)
    assert run.state.deaths == 0


def test_the_log_says_where_but_not_whose_file(request_settings, monkeypatch, caplog):
    name = "-".join(("holiday", "with", "anna")) + ".png"

    def explode(self, step):
        raise RuntimeError(name)

    monkeypatch.setattr("l2l_core.unlearning.trainer.Trainer.draw", explode)
    run = new_run(request_settings)
    assert execute(run) == "failed"
    assert "RuntimeError" in caplog.text and "in train_step" in caplog.text
    assert name not in caplog.text + run.state.message
