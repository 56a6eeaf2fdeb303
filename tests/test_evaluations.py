"""Evaluate and Runs without a browser: measuring, what is kept, differences, runs done again."""

import json
import shutil
import time
import zipfile
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from l2l_core.config import ConfigError, UnlearnRequest
from l2l_core.evaluation.relearning import Attack
from l2l_core.jobs import measurer as measuring_module
from l2l_core.jobs import results
from l2l_core.jobs.client import CompareRequest, CompareRow
from l2l_core.jobs.completer import Completer
from l2l_core.jobs.measurer import CUT_SHORT, Measurer
from l2l_core.jobs.results import Measuring
from l2l_core.jobs.runner import execute
from l2l_core.jobs.store import RunError
from l2l_core.registry import MODELS, assets_folder, defaults_of, gold_standard
from ui import html, html_compare, html_evaluate, text
from ui.checkpoints import OPENED
from ui.evaluations import Evaluation, tried
from ui.form import Form
from ui.run_choice import run_labels, two_runs
from ui.services import Studio

ME, YOU = "a" * 32, "b" * 32


@pytest.fixture
def studio(private_data):
    return Studio(private_data)


@pytest.fixture
def measurer(studio):
    return Measurer(studio.store, torch.device("cpu"))


@pytest.fixture
def finished(studio, request_settings, picture_folders):
    """A run of six uploads to forget, done."""
    images = [
        Image.open(f"{picture_folders[0]}/{number}.png").convert("RGB") for number in range(6)
    ]
    request = UnlearnRequest.from_dict(
        request_settings | {"forget": ["inputs:forget"], "retain": [picture_folders[1]]}
    )
    run = studio.store.create(request, owner=ME, title="6 uploaded images", forget_images=images)
    run.set_state(status="running")
    execute(run)
    assert run.state.status == "done"
    return run


def metrics(drift, damage):
    def part(fell, **more):
        cosine = {"before": 0.9, "after": 0.9 - fell, "change": -fell, "noise": 0.4}
        return {"n": 9, "cosine": cosine, **more}

    return {
        "extractor": "built-in feature net",
        "sets": {"retain": part(drift), "forget": part(damage, held_out=True)},
    }


def group_run(studio, owner=ME, numbers=None, groups=("flags",), model="mae-fluent", **settings):
    form = Form(model=model, forget_groups=groups, settings=settings)
    run = studio.store.get(studio.submit(form, owner))
    if numbers:
        run.set_state(status="done")
        (run.folder / "metrics.json").write_text(json.dumps(numbers))
    return run


def test_measuring_writes_table_and_map_and_tells_how_far_it_is(
    studio, measurer, finished, monkeypatch
):
    told = []
    tell = results.tell

    def note(run, progress):
        told.append(progress)
        tell(run, progress)

    monkeypatch.setattr(measuring_module, "tell", note)
    found = studio.evaluation(finished.id, ME)
    assert (found.metrics, found.map, dict(found.pictures), found.busy) == (None, None, {}, False)
    measurer.ask(finished.id)
    measurer.ask(finished.id)  # a second click
    assert studio.measuring(finished.id, ME) == Measuring("Waiting for its turn")
    assert studio.evaluation(finished.id, ME).busy
    measurer.work_off()
    assert told[-1] is None and told.count(None) == 1
    counts = [one.done for one in told[2:-1]]
    assert counts == [*range(told[2].of)]  # the bar reaches its end, step by step
    found = studio.evaluation(finished.id, ME)
    assert not found.busy and found.measuring is None
    assert {"retain", "neighbours", "forget"} <= found.metrics["sets"].keys()
    assert found.metrics["sets"]["forget"]["n"] == 6
    keys = {(point["set"], point["what"], point["index"]) for point in found.map["points"]}
    assert keys == found.pictures.keys() and len(keys) == 36
    shown = html_evaluate.measured(found)
    for words in (
        "FID ↓",
        "too few",
        "Nearest retain",
        "built-in feature net",
        "<small>[",
        "n = 6",
    ):
        assert words in shown
    assert "Hole in the centre, half the side" in shown and "l2l-score" in shown
    assert "data:image/webp" in html_evaluate.embedding_map(found)


def test_attacks_are_told_on_the_page_and_in_the_report(studio, measurer, finished, monkeypatch):
    told, tell = [], results.tell
    monkeypatch.setattr(
        measuring_module, "tell", lambda run, now: (told.append(now), tell(run, now))
    )
    assert html_evaluate.audited(studio.evaluation(finished.id, ME)) == ""
    measurer.ask(finished.id, results.AUDITS)
    measurer.work_off()
    assert told[-1] is None
    assert [one.done for one in told[2:-1]] == [*range(51)] and told[2].of == 51
    found = studio.evaluation(finished.id, ME)
    assert found.audits.keys() == {"relearning"} and found.metrics is None
    assert found.audits["relearning"]["tuned"] == 6
    shown = html_evaluate.audited(found)
    for words in ("can it be made to remember?", "halfway back", "<polyline", text.NO_MEMBERSHIP):
        assert words in shown
    assert "can it be made to remember?" in (finished.folder / "report.html").read_text()


def test_membership_where_unseen_images_are_kept_apart(studio, measurer, monkeypatch):
    monkeypatch.setattr(measuring_module, "Attack", partial(Attack, steps=2, every=2))
    run = studio.store.create(UnlearnRequest(forget=("builtin:flags",), steps=1), owner=ME)
    run.set_state(status="running")
    execute(run)
    measurer.ask(run.id, results.AUDITS)
    measurer.work_off()
    found = studio.evaluation(run.id, ME)
    assert found.audits["membership"]["unseen"] == 19
    shown = html_evaluate.audited(found)
    assert text.NO_MEMBERSHIP not in shown and "does it tell what it forgot?" in shown
    assert "Never saw them" in shown


def test_a_measurement_that_fails_says_so_and_can_be_tried_again(studio, measurer, finished):
    for path in (finished.folder / "inputs" / "forget").iterdir():
        path.unlink()
    measurer.ask(finished.id)
    measurer.work_off()
    now = studio.measuring(finished.id, ME)
    assert now is not None and now.failed and str(finished.folder) not in now.stage
    assert not studio.evaluation(finished.id, ME).busy
    assert "l2l-problem" in html_evaluate.measuring(now)
    measurer.ask(finished.id)
    assert not studio.measuring(finished.id, ME).failed


def test_a_run_without_weights_or_erased_meanwhile(studio, measurer, finished):
    with pytest.raises(RunError, match="no weights"):
        measurer.ask(group_run(studio).id)
    measurer.ask(finished.id)
    studio.erase(finished.id, ME)
    measurer.work_off()
    assert not finished.folder.exists()


def test_what_a_dead_completer_left_is_said_to_be_cut_short(studio, measurer, finished):
    measurer.ask(finished.id)
    Measurer(studio.store, torch.device("cpu")).start()
    now = studio.measuring(finished.id, ME)
    assert now.failed and now.stage == CUT_SHORT


def test_others_measurements_do_not_exist(studio):
    mine, other = group_run(studio), group_run(studio, alpha=0.1)
    for act in (
        lambda: studio.measure(mine.id, YOU),
        lambda: studio.measuring(mine.id, YOU),
        lambda: studio.evaluation(mine.id, YOU),
        lambda: studio.tried(mine.id, YOU),
        lambda: studio.form_of(mine.id, YOU, studio.store.root),
        lambda: studio.differences(mine.id, other.id, YOU),
        lambda: studio.download(mine.id, YOU, "report.html", studio.store.root),
    ):
        with pytest.raises(RunError, match="no such run"):
            act()


def test_the_plot_holds_all_finished_runs_of_one_aim_and_marks_the_unbeaten(studio, finished):
    group_run(studio, alpha=0.3)  # still queued
    shown = group_run(studio, numbers=metrics(0.01, 0.4))
    group_run(studio, numbers=metrics(0.05, 0.3), alpha=0.1)
    group_run(studio, numbers=metrics(0.0, 0.9), groups=("food",))
    group_run(studio, numbers=metrics(0.0, 0.9), model="mage-fluent")
    found = studio.tried(shown.id, ME)
    assert sorted((one.how.split(", ")[2], one.front) for one in found) == [
        ("α 0.1", False),
        (f"α {defaults_of('mae-fluent')['alpha']}", True),
    ]
    assert max(one.point[1] for one in found) == pytest.approx(0.4)
    page = html_evaluate.tried(found)
    assert page.count("<circle") == 2 and "MAE Fluent, ours" in page and "dashed line" in page
    assert html_evaluate.tried(tried([])) == ""
    alone = html_evaluate.tried(found[:1])
    assert "<circle" not in alone and "dashed line" not in alone and "MAE Fluent, ours" in alone


def test_the_model_that_never_saw_the_images_is_a_point_that_does_not_compete(studio):
    run = group_run(studio, numbers=metrics(0.01, 0.4))
    full = metrics(0.02, 0.4)
    for part, value in (("retain", 0.86), ("forget", 0.8)):
        full["sets"][part]["cosine"] |= {"never_saw": value, "never_saw_moved": 0.05}
    (run.folder / "evaluation.json").write_text(json.dumps(full))
    newer = group_run(studio, numbers=metrics(0.02, 0.5), alpha=0.1)  # measured or not
    *runs, gold = studio.tried(newer.id, ME)
    assert len(runs) == 2 and gold.is_gold and not gold.front
    assert gold.point == pytest.approx((0.05, 0.1)) and gold.n == (9, 9)
    page = html_evaluate.tried([*runs, gold])
    assert page.count("class=beside") == 1 and "Never saw them" in page and "ring" in page
    full["extractor"] = "another"  # no number of one stands beside one of the other
    (run.folder / "evaluation.json").write_text(json.dumps(full))
    assert not any(one.is_gold for one in studio.tried(newer.id, ME))


def test_a_table_says_why_the_quick_look_found_something_else(studio):
    full, quick = metrics(0.01, 0.4), metrics(0.01, 0.4)
    near = {"cosine": {"before": 0.8, "after": 0.77, "change": -0.03, "interval": None}}
    full["sets"]["neighbours"] = near | {"n": 33}
    full |= {"mask": "centre:0.5", "seed": 0}
    for part in full["sets"].values():
        part["cosine"]["interval"] = (-0.0123, 0.0456)
    quick["sets"]["neighbours"] = near | {"n": 32, "psnr": {"change": -0.24}}
    page = html_evaluate.measured(Evaluation("id", full, None, {}, quick=quick))
    assert "(0.80 → 0.77, PSNR −0.2 dB, n = 32)" in page and "Nearest retain: <b>changed" in page
    assert "<span>−0.010<small>[−0.012, +0.046]</small></span>" in page
    assert "The look at the end" not in html_evaluate.measured(Evaluation("id", full, None, {}))


def test_uploads_are_told_apart_by_their_pixels(studio, finished):
    pictures = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in range(6)]
    other = studio.store.create(finished.request, owner=ME, forget_images=pictures)
    other.set_state(status="done")
    (other.folder / "metrics.json").write_text(json.dumps(metrics(0.0, 0.9)))
    assert len(studio.tried(finished.id, ME)) == len(studio.tried(other.id, ME)) == 1


def test_reports_hold_numbers_and_no_pictures(studio, finished, tmp_path):
    page = studio.download(finished.id, ME, "report.html", tmp_path).read_text()
    assert "Measured" in page and "<img" not in page and "uploaded images" in page
    plain = json.loads(studio.download(finished.id, ME, "report.json", tmp_path).read_text())
    assert plain["metrics"]["sets"]["forget"]["n"] == 6
    with pytest.raises(RunError, match="no numbers"):
        studio.download(group_run(studio).id, ME, "report.html", tmp_path)


def test_the_export_leaves_the_maps_pictures_out(studio, measurer, finished, tmp_path):
    measurer.ask(finished.id)
    measurer.work_off()
    with zipfile.ZipFile(studio.download(finished.id, ME, "run.zip", tmp_path)) as archive:
        assert not any("pictures" in name for name in archive.namelist())


def test_only_what_differs_between_two_runs(studio):
    first = group_run(studio, numbers=metrics(0.01, 0.4))
    second = group_run(studio, numbers=metrics(0.05, 0.3), alpha=0.1, steps="7")
    found, usual = studio.differences(first.id, second.id, ME), defaults_of("mae-fluent")
    assert {one.name: (one.first, one.second) for one in found.settings} == {
        "α": (str(usual["alpha"]), "0.1"),
        "Steps": (str(usual["steps"]), "7"),
    }
    assert [(one.name, one.first) for one in found.numbers] == [
        ("Forget similarity", "0.900 → 0.500 (n = 9)"),
        ("Retain similarity", "0.900 → 0.890 (n = 9)"),
    ]
    assert "0.1" in html.differences(found)
    other = group_run(studio, groups=("food",))
    asked = studio.differences(first.id, other.id, ME).settings
    assert [one.name for one in asked] == ["Forget images"]
    same = studio.differences(first.id, first.id, ME)
    assert same.settings == [] and "same way" in html.differences(same)


def test_runs_can_be_told_apart(studio):
    runs = [group_run(studio, alpha=alpha) for alpha in (0.1, 0.2, 0.3, 0.4)]
    noon = time.mktime((2026, 1, 2, 12, 30, 0, 0, 0, -1))
    for number, run in enumerate(runs):
        run.set_state(status="done", submitted=noon + 10 * number)
    runs[2].set_state(status="cancelled", step=2)
    runs[3].set_state(submitted=noon + 3600)
    labels = run_labels(studio.history(ME))
    assert [label.removeprefix("flags · ").rpartition(", ")[2] for label in labels] == [
        "13:30",
        "12:30 · cancelled at step 2",
        "12:30:10",
        "12:30:00",
    ]
    assert studio.differences(runs[0].id, runs[1].id, ME).titles[1].endswith("12:30:10")


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ((None, None), ("b", "a")),  # the newest, and the one before
        (("c", "b"), ("c", "b")),
        (("gone", "b"), ("a", "b")),
        (("a", "gone"), ("a", "b")),
        (("b", "b"), ("a", "b")),
    ],
)
def test_two_distinct_runs_stand_side_by_side(wanted, chosen):
    views = [SimpleNamespace(run_id=name) for name in "abc"]
    assert two_runs(views, *wanted) == chosen
    assert two_runs(views[:1], *wanted)[0] is None or two_runs(views[:1], *wanted)[1] is None


def test_a_run_done_again_asks_for_the_same(studio, tmp_path):
    pictures = []
    for number in range(3):
        path = tmp_path / f"aunt-{number}.png"
        Image.new("RGB", (30, 30), (200, number * 40, 10)).save(path)
        pictures.append(str(path))
    form = Form(
        forget_files=tuple(pictures[:2]),
        forget_groups=("flags",),
        retain_from="uploads",
        retain_files=tuple(pictures[2:]),
        preset="quick",
        settings={"alpha": "0.25", "method": "max_loss", "masks": ["centre"]},
        options={"mae": {"norm_pix_loss": True}},
    )
    run = studio.store.get(studio.submit(form, ME))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    again = studio.form_of(run.id, ME, scratch)
    assert (again.preset, again.retain_from, again.forget_groups) == (
        "quick",
        "uploads",
        ("flags",),
    )
    assert again.settings == {"alpha": 0.25, "method": "max_loss", "masks": ["centre"]}
    assert [len(again.forget_files), len(again.retain_files)] == [2, 1]
    assert all(scratch in path.parents for path in map(type(scratch), again.forget_files))
    assert studio.submit(again, ME) == run.id  # as a double click: nothing differs


def test_a_model_that_never_saw_it_is_a_column_only_where_there_is_one(
    studio, tiny_mae, tiny_checkpoint, tmp_path, monkeypatch
):
    spec = replace(MODELS["mae-fluent"], builtin="tiny", gold={"builtin:flags": "gold"})
    monkeypatch.setitem(MODELS, "mae-fluent", spec)
    folder = tmp_path / "assets" / "builtin"
    shutil.copytree(assets_folder() / "builtin", folder)
    monkeypatch.setenv("L2L_ASSETS", str(folder.parent))
    shutil.copy(tiny_checkpoint, folder / "tiny")
    run = group_run(studio)
    shutil.copy(tiny_checkpoint, run.weights)
    request = CompareRequest(run.id, count=1)
    head, pictures = Completer(studio.store, "cpu").compare(request)
    assert len(pictures) == 4 * len(head["rows"])
    shutil.copy(tiny_checkpoint, folder / "gold")
    _, pictures = Completer(studio.store, "cpu").compare(request)
    assert len(pictures) == 5 * len(head["rows"])
    assert gold_standard("mae-fluent", ("builtin:flags",), None) == folder / "gold"
    assert gold_standard("mae-fluent", ("builtin:flags",), "own.pth") is None
    assert gold_standard("mae-fluent", ("builtin:flags", "inputs:forget"), None) is None
    row = CompareRow("forget", "A", 0.9, 0.5, b"t", b"h", b"o", b"u", b"g")
    assert 'data-picture="gold"' in html_compare.comparison([row])
    assert "Never saw it" not in html_compare.comparison([replace(row, gold=None)])


def test_a_run_of_a_checkpoint_that_is_gone_cannot_be_done_again(studio, finished, tmp_path):
    with pytest.raises(ConfigError, match="not open any more"):
        studio.form_of(finished.id, ME, tmp_path)
    assert OPENED not in finished.request.model
