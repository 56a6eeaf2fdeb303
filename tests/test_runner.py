"""One run from request to manifest, and the ways it can end."""

import json

import pytest
import torch

import l2l_core as l2l
from l2l_core.config import ConfigError, UnlearnRequest
from l2l_core.evaluation import evaluate
from l2l_core.jobs.client import CompareRequest
from l2l_core.jobs.completer import Completer
from l2l_core.jobs.opening import open_models
from l2l_core.jobs.runner import execute, measure
from l2l_core.jobs.store import RunError, RunStore
from l2l_core.models.checkpoints import file_digest, save_weights
from l2l_core.models.mae import MaskedAutoencoder
from l2l_core.unlearning.trainer import OtherOriginalError


@pytest.fixture
def run(request_settings):
    return RunStore().create(UnlearnRequest.from_dict(request_settings))


def test_a_run_leaves_everything(run, picture_folders):
    seen = []
    assert execute(run, on_event=seen.append) == "done"
    assert run.state.status == "done" and run.state.step == 4
    assert [e["step"] for e in run.events() if e["kind"] == "step"] == [1, 2, 3, 4]
    assert run.events() == seen
    for name in ("input", "original", "000000", "000002", "000004"):
        for kind in ("forget", "retain"):
            assert (run.previews / f"{kind}-{name}.png").is_file()
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["files"]["weights/unlearned.safetensors"] == file_digest(run.weights)
    assert manifest["model_before"] != manifest["model_after"]
    model = l2l.load_model("mae", checkpoint=run.weights)
    assert model.config.width == 24
    assert not run.checkpoint.exists()
    reports = ("report.html", "report.json", "weights/README.md")
    for name in ("events.jsonl", "metrics.json", "manifest.json", "state.json", *reports):
        assert picture_folders[0] not in (run.folder / name).read_text()


def test_metrics_have_before_after_and_the_noise_level(run):
    execute(run)
    sets = run.metrics["sets"]
    assert {name: sets[name]["n"] for name in ("retain", "forget")} == {"retain": 6, "forget": 6}
    for name in ("retain", "forget", "neighbours"):
        for metric in ("cosine", "psnr"):
            values = sets[name][metric]
            assert values["change"] == pytest.approx(values["after"] - values["before"], abs=1e-5)
            assert values["interval"][0] <= values["change"] <= values["interval"][1]
    assert "noise" in sets["forget"]["cosine"] and not sets["forget"]["held_out"]


def test_cancelled_within_a_step_and_keeps_its_weights(run):
    def cancel_at_three(event):
        if event["kind"] == "step" and event["step"] == 3:
            assert run.checkpoint.is_file()
            run.request_cancel()

    assert execute(run, on_event=cancel_at_three) == "cancelled"
    assert run.state.step == 3 and run.weights.is_file()
    assert not run.checkpoint.exists()  # a cancelled run never goes on


@pytest.mark.parametrize("completion", [1, 3, 5])  # the original, the first preview, the second
@pytest.mark.parametrize("status", ["cancelled", "interrupted"])
def test_left_within_a_step_of_a_completion(run, monkeypatch, completion, status):
    steps, leave = [], []

    def slowly(model, images, mask, *, on_step, **more):
        steps.append(0)
        for step in range(1, 101):
            steps[-1] = step
            if (len(steps), step) == (completion, 3):
                leave.append(True)
                if status == "cancelled":
                    run.request_cancel()
            on_step(step, 100, images)
        return images

    monkeypatch.setattr(MaskedAutoencoder, "complete", slowly)
    assert execute(run, should_stop=lambda: status == "interrupted" and bool(leave)) == status
    assert steps == [100] * (completion - 1) + [3]
    assert run.state.step == (2 if completion == 5 else 1)
    assert run.weights.is_file() == (status == "cancelled")
    assert run.checkpoint.is_file() == (status == "interrupted")


def test_cancelled_while_the_weights_are_written_is_not_measured(run):
    def cancel(event):
        if event["kind"] == "stage" and event["text"] == "Writing the weights":
            run.request_cancel()

    assert execute(run, on_event=cancel) == "cancelled"
    assert run.weights.is_file() and run.metrics is None
    assert run.state.message == "Cancelled before it was measured."


def test_cancelled_while_it_is_measured(run, monkeypatch):
    def cancel_and_score(*arguments):
        run.request_cancel()
        return scores(*arguments)

    scores = evaluate._scores
    monkeypatch.setattr(evaluate, "_scores", cancel_and_score)
    assert execute(run) == "cancelled" and run.metrics is None


def test_interrupted_and_resumed_is_the_same_run(run, request_settings):
    whole = RunStore().create(UnlearnRequest.from_dict(request_settings))
    execute(whole)
    assert execute(run, should_stop=lambda: run.state.step == 3) == "interrupted"
    assert run.state.step == 3 and run.checkpoint.is_file()
    assert execute(run) == "done"
    assert [e["step"] for e in run.events() if e["kind"] == "step"] == [1, 2, 3, 4]
    assert (
        json.loads((run.folder / "manifest.json").read_text())["model_after"]
        == (json.loads((whole.folder / "manifest.json").read_text())["model_after"])
    )


def replace_original(model, checkpoint):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    save_weights(model.state_dict(), checkpoint, model.describe())


def test_a_replaced_original_is_not_measured(run, tiny_mae, tiny_checkpoint):
    execute(run)
    assert measure(run, "centre:0.5")["sets"] and open_models(run, "cpu")
    replace_original(tiny_mae, tiny_checkpoint)
    for act in (lambda: measure(run, "centre:0.5"), lambda: open_models(run, "cpu")):
        with pytest.raises(OtherOriginalError, match="have been replaced"):
            act()


def test_a_replaced_original_is_not_compared(run, request_settings, tiny_mae, tiny_checkpoint):
    def before(completer, run):
        return [row["before"] for row in completer.compare(CompareRequest(run.id))[0]["rows"]]

    execute(run)
    warm = Completer(RunStore(), "cpu")
    assert before(warm, run)
    replace_original(tiny_mae, tiny_checkpoint)
    later = RunStore().create(UnlearnRequest.from_dict(request_settings))
    execute(later)
    assert before(warm, later) == before(Completer(RunStore(), "cpu"), later)
    with pytest.raises(OtherOriginalError, match="have been replaced"):
        warm.compare(CompareRequest(run.id))


def test_a_comparison_makes_do_with_less_memory(run, monkeypatch):
    execute(run)
    completer = Completer(RunStore(), "cpu")
    before, complete = completer.compare(CompareRequest(run.id))[0], MaskedAutoencoder.complete
    sizes = []

    def small_device(model, images, *rest, **options):
        sizes.append(len(images))
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return complete(model, images, *rest, **options)

    monkeypatch.setattr(MaskedAutoencoder, "complete", small_device)
    after = completer.compare(CompareRequest(run.id))[0]
    assert max(sizes) > 4 > min(sizes)
    for row, other in zip(before["rows"], after["rows"], strict=True):
        assert row == other | {"before": pytest.approx(other["before"], abs=1e-3)} | {
            "after": pytest.approx(other["after"], abs=1e-3)
        }


def test_images_that_cannot_be_read_are_told_without_their_names(run, picture_folders):
    forget, retain = picture_folders
    with open(f"{forget}/secret.png", "wb") as file:
        file.write(b"nothing")
    for number in range(2):
        with open(f"{retain}/secret-{number}.png", "wb") as file:
            file.write(b"nothing")
    assert execute(run) == "done"
    told = [event["text"] for event in run.events() if "text" in event]
    unread = "6 images (1 more could not be read)", "6 images (2 more could not be read)"
    assert "Unlearning {}, retaining {}".format(*unread) in told
    assert "secret" not in (run.folder / "events.jsonl").read_text()


def test_a_missing_set_fails_in_words(request_settings):
    run = RunStore().create(
        UnlearnRequest.from_dict(request_settings | {"forget": ["builtin:cars"]})
    )
    assert execute(run) == "failed"
    assert "no built-in group “cars”" in run.state.message


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(request_settings, monkeypatch):
    settings = UnlearnRequest.from_dict(request_settings | {"checkpoint_every": 1})
    run = RunStore().create(settings)
    saved = []

    def save(state, file):
        if saved:
            raise OSError(28, "No space left on device")
        saved.append(state["step"])
        file.write_bytes(b"first checkpoint")

    monkeypatch.setattr(torch, "save", save)
    assert execute(run) == "failed"
    assert run.state.message == "The disk is full."
    assert run.checkpoint.read_bytes() == b"first checkpoint" and saved == [1]


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, KeyError])
def test_a_librarys_words_are_not_shown(run, monkeypatch, caplog, kind):
    words = "a-secret" + "-name.png"  # not in the source line that a traceback quotes

    def explode(self, step):
        raise kind(words)

    monkeypatch.setattr("l2l_core.unlearning.trainer.Trainer.draw", explode)
    assert execute(run) == "failed"
    assert run.state.message == "Something unexpected went wrong; the log has the details."
    assert kind.__name__ in caplog.text and words not in caplog.text


def test_python_api(request_settings, tmp_path):
    run = l2l.unlearn(tmp_path / "out", **request_settings)
    assert run.folder == tmp_path / "out" and run.metrics is not None
    with pytest.raises(ConfigError, match="stepps"):
        l2l.unlearn(stepps=3, **request_settings)
    with pytest.raises(RunError, match="no built-in group"):
        l2l.unlearn(**request_settings | {"retain": ["builtin:cars"]})
