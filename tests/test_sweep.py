"""Grids of runs: what is run, what is kept, and the Pareto front."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from l2l_core.cli import app, experiments
from l2l_core.config import MASK_KINDS, NOISE_KINDS, ConfigError, UnlearnRequest, load_mapping
from l2l_core.datasets import forgotten_ids
from l2l_core.evaluation.evaluate import evaluate, evaluation_sets
from l2l_core.experiments.pareto import pareto_front, pareto_page, pareto_svg, point_of
from l2l_core.experiments.series import Series
from l2l_core.experiments.sweep import (
    grid,
    label_of,
    measure_gold,
    runs_of,
    sweep,
    sweep_table,
)
from l2l_core.models import load_model
from l2l_core.models.checkpoints import read_checkpoint, save_weights
from l2l_core.runtime import seeded

ABLATIONS = sorted((Path(__file__).parents[1] / "recipes" / "paper" / "ablations").glob("*.yaml"))


@pytest.fixture
def settings(request_settings):
    return request_settings | {"steps": 2, "preview_every": 0, "checkpoint_every": 1}


# --- the front -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(0.3, 0.1)], [0]),
        # less drift and more damage beats both
        ([(0.2, 0.1), (0.1, 0.5), (0.3, 0.4)], [1]),
        # a trade: each is best at something, in order of drift
        ([(0.3, 0.9), (0.1, 0.2), (0.2, 0.5)], [1, 2, 0]),
        # as little drift but less damage, as much damage but more drift: beaten
        ([(0.1, 0.5), (0.1, 0.4), (0.2, 0.5)], [0]),
        # equals do not beat each other
        ([(0.1, 0.5), (0.1, 0.5)], [0, 1]),
    ],
)
def test_pareto_front_by_hand(points, front):
    assert pareto_front(points) == front


def test_retain_images_that_moved_towards_the_truth_drifted_too():
    def point(retain, forget):
        return point_of({"retain": {"cosine": {"change": retain}}, "forget": {"cosine": forget}})

    assert point(-0.02, {"change": -0.3}) == (0.02, 0.3)
    assert point(0.03, {"change": -0.3}) == (0.03, 0.3)
    assert point(0.0, {"change": 0.1}) == (0.0, -0.1)


def test_the_page_says_what_the_points_are():
    page = pareto_page("Sweep", ["<a>", "b"], [(0.1, 0.5), (0.2, 0.3)], "a note")
    assert page.count("class=front cx") == 1 and page.count("class=beaten cx") == 1
    assert "<td>&lt;a&gt;</td><td>0.1000</td><td>0.5000</td><td>yes</td>" in page
    assert "<td>b</td><td>0.2000</td><td>0.3000</td><td></td>" in page
    assert "<a>" not in page and "://" not in page and "a note" in page


def test_drift_is_drawn_from_zero():
    svg = pareto_svg(["a"], [(0.0, 0.3)])
    assert "cx=58 " in svg.replace("58.0", "58") and ">0.000<" in svg and ">-" not in svg


def test_what_does_not_compete_is_shown_beside_the_front():
    page = pareto_page("Sweep", ["a"], [(0.2, 0.3)], "note", {"Never saw": (0.0, 0.9)})
    assert page.count("class=front cx") == 1 and page.count("class=beside cx") == 1
    assert "<td>Never saw</td><td>0.0000</td><td>0.9000</td><td></td>" in page


# --- the grid --------------------------------------------------------------------------------


def test_every_combination_once(settings):
    points = grid(settings, {"alpha": [0.1, 0.5], "noise": ["uniform", "constant", "standard"]})
    assert len(points) == 6
    assert len({(p.request.alpha, p.request.noise) for p in points}) == 6
    assert all(p.values == {"alpha": p.request.alpha, "noise": p.request.noise} for p in points)
    assert {p.request.steps for p in points} == {2}


@pytest.mark.parametrize(
    ("axes", "word"),
    [
        ({}, "at least one setting"),
        ({"alpha": []}, "at least one setting"),
        ({"alpha": [0.1, -1]}, "alpha"),
        ({"alhpa": [0.1]}, "alhpa"),
        ({"noise": ["pink"]}, "pink"),
        ({"mask": ["circle:1"]}, "no mask"),
    ],
)
def test_mistakes_are_told_before_anything_runs(settings, axes, word, tmp_path):
    with pytest.raises(ValueError, match=word):
        sweep(settings, axes, tmp_path)
    assert not any(tmp_path.glob("runs"))


def test_a_device_that_is_not_there_is_told_before_anything_runs(settings, tmp_path):
    with pytest.raises(ValueError, match="no device “cuda:77”"):
        sweep(settings, {"alpha": [0.1]}, tmp_path, devices=["cpu", "cuda:77"])
    assert not (tmp_path / "runs").exists()


def test_there_is_an_ablation_for_each_question():
    assert {path.stem for path in ABLATIONS} == {
        "alpha",
        "retain_fraction",
        "proxy",
        "masks",
        "holes",
        "noise",
    }


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_the_papers_ablations(path):
    """Each varies one thing, on images that exist; holes are one run, measured in many ways."""
    ablation = load_mapping(path)
    axes = ablation.pop("sweep")
    points = grid(ablation, axes)
    (name,) = axes
    assert len({label_of(point.shown()) for point in points}) == len(points) > 3
    assert len(runs_of(points)) == (1 if name == "mask" else len(points))
    if name != "mask":
        assert len({json.dumps(p.request.to_dict() | {name: None}) for p in points}) == 1
    for point in points:
        for spec in point.request.forget + point.request.retain:
            assert spec == "proxy" or forgotten_ids([spec])
    if name == "noise":
        assert {p.request.noise for p in points} == set(NOISE_KINDS)
    if name == "masks":
        assert {k for p in points for k in p.request.masks} == set(MASK_KINDS)


# --- running it ------------------------------------------------------------------------------


def steps_of(folder):
    """Steps that each run's events tell of, by name of the run."""
    return {
        run.name: [
            event["step"]
            for line in (run / "events.jsonl").read_text().splitlines()
            if (event := json.loads(line))["kind"] == "step"
        ]
        for run in (folder / "runs").iterdir()
    }


@pytest.mark.slow
def test_nothing_runs_twice_and_axes_may_grow(settings, picture_folders, tmp_path):
    seen, counts = [], []
    axes = {"alpha": [0.1, 2.0]}
    first = sweep(settings, axes, tmp_path, devices=["cpu"], on_progress=counts.append)
    assert counts == [0, 1, 2] and first["waiting"] == 0
    written = (tmp_path / "sweep.json").read_text()
    assert json.loads(written) == first
    for point in first["points"]:
        run = Series(tmp_path).done(UnlearnRequest.from_dict(settings | point["values"]))
        retain, forget = (run.metrics["sets"][n]["cosine"] for n in ("retain", "forget"))
        assert point["retain_drift"] == retain["moved"] >= abs(retain["change"])
        assert point["forget_damage"] == -forget["change"]
        assert point["n"] == {"retain": 6, "forget": 6}
    again = sweep(settings, axes, tmp_path, devices=["cpu"], on_event=seen.append)
    assert not seen and again == first and (tmp_path / "sweep.json").read_text() == written
    grown = sweep(settings, {"alpha": [0.1, 0.7, 2.0]}, tmp_path, on_event=seen.append)
    assert [event["step"] for event in seen if event["kind"] == "step"] == [1, 2]
    assert [grown["points"][i] for i in (0, 2)] == first["points"]
    assert all(steps == [1, 2] for steps in steps_of(tmp_path).values())
    # The same elsewhere, to the digit.
    elsewhere = sweep(settings, axes, tmp_path / "other", devices=["cpu"])
    assert elsewhere == first
    page = (tmp_path / "sweep.html").read_text()
    for private in (str(tmp_path), *picture_folders):
        assert private not in page and private not in written


@pytest.mark.slow
def test_a_run_belongs_to_the_weights_it_started_from(settings, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(settings["checkpoint"]).read_bytes())
    request = UnlearnRequest.from_dict(settings | {"checkpoint": str(copy)})
    name = Series(tmp_path).name_of(request)
    assert Series(tmp_path).name_of(request) == name
    state, about = read_checkpoint(copy)
    save_weights({key: value + 1 for key, value in state.items()}, copy, about)
    assert Series(tmp_path).name_of(request) != name


def test_holes_are_measured_after_one_run(settings, tmp_path, monkeypatch):
    seen, settings = [], settings | {"learning_rate": 0.05}
    axes = {"mask": ["centre:0.5", "left:0.5", "centre:0.25"]}
    first = sweep(settings, axes, tmp_path, on_event=seen.append)
    assert [event["step"] for event in seen if event["kind"] == "step"] == [1, 2]
    assert [p["values"]["mask"] for p in first["points"]] == axes["mask"] == first["axes"]["mask"]
    assert len({p["run"] for p in first["points"]}) == 1
    run = Series(tmp_path).done(UnlearnRequest.from_dict(settings))
    for point in first["points"]:
        sets = evaluation_sets(run.request, 32)
        before = load_model("mae", settings["checkpoint"])
        after = load_model("mae", run.weights)
        mask = point["values"]["mask"]
        metrics = evaluate(run.request, before, after, sets, mask)
        change = metrics["sets"]["forget"]["cosine"]["change"]
        assert point["forget_damage"] == pytest.approx(-change, abs=2e-4)
    assert len({round(p["forget_damage"], 3) for p in first["points"]}) == 3
    assert first["front"] == [0, 1, 2]  # each alone under its hole

    def never(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr("l2l_core.experiments.sweep.measure", never)
    assert sweep(settings, axes, tmp_path) == first


def test_a_gold_standard_is_a_point_of_its_own(settings, tiny_mae, tmp_path, monkeypatch):
    """What the model that never saw lost against the original, measured once for each mask."""
    with torch.no_grad():
        for parameter in tiny_mae.encoder_parameters().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(1)))
    gold = tmp_path / "gold.safetensors"
    save_weights(tiny_mae.state_dict(), gold, tiny_mae.describe())
    points = grid(settings, {"mask": ["centre:0.5", "left:0.5"], "alpha": [0.1, 0.2]})
    found = measure_gold(Series(tmp_path), points, gold, lambda: False)
    request = points[0].request
    before = load_model("mae", settings["checkpoint"])
    metrics = evaluate(request, before, tiny_mae, evaluation_sets(request, 32), "left:0.5")
    assert [one["mask"] for one in found] == ["centre:0.5", "left:0.5"]
    damage = -metrics["sets"]["forget"]["cosine"]["change"]
    assert found[1]["forget_damage"] == pytest.approx(damage, abs=2e-4) and damage != 0
    monkeypatch.setattr("l2l_core.experiments.sweep.evaluate", None)  # nothing is measured again
    assert measure_gold(Series(tmp_path), points, gold, lambda: False) == found
    assert measure_gold(Series(tmp_path), points, None, lambda: False) == []
    shown = {
        "values": {"alpha": 0.1},
        "retain_drift": 0.0,
        "forget_damage": 0.0,
        "n": found[0]["n"],
    }
    told = {"axes": {"alpha": [0.1]}, "mask": "m", "extractor": "net", "front": [0]}
    table = sweep_table(told | {"points": [shown], "gold": found[1:]})
    assert [*table.columns[0].cells] == ["0.1", "Never saw"]
    assert [*table.columns[3].cells][1] == f"{found[1]['forget_damage']:+.4f}"


@pytest.mark.slow
def test_interrupted_it_goes_on(settings, tmp_path):
    steps = []

    def note(event):
        steps.extend([event["step"]] if event["kind"] == "step" else [])

    axes = {"alpha": [0.1, 2.0]}
    part = sweep(settings, axes, tmp_path, should_stop=lambda: len(steps) >= 3, on_event=note)
    assert len(part["points"]) == 1 and part["waiting"] == 1
    done = sweep(settings, axes, tmp_path, on_event=note)
    assert steps == [1, 2, 1, 2] and done["waiting"] == 0
    assert done["points"][0] == part["points"][0]


@pytest.mark.slow
def test_a_point_that_fails_says_why_and_the_others_go_on(settings, picture_folders, tmp_path):
    axes = {"retain": ["builtin:nowhere", picture_folders[1]]}
    result = sweep(settings, axes, tmp_path)
    assert "nowhere" in result["points"][0]["message"] and result["front"] == [1]
    console = Console(width=200)
    with console.capture() as shown:
        console.print(sweep_table(result))
    assert "failed" in shown.get() and "own images" in shown.get()
    assert label_of(result["points"][1]["values"]) == "retain own images"


@pytest.mark.slow
def test_two_devices_share_the_runs(settings, tmp_path):
    """Each run once, with the numbers that one device gives."""
    axes, counts = {"alpha": [0.1, 0.7, 2.0]}, []
    both = sweep(
        settings, axes, tmp_path / "two", devices=["cpu", "cpu"], on_progress=counts.append
    )
    assert both["waiting"] == 0 and counts[-1] == 3
    assert all(steps == [1, 2] for steps in steps_of(tmp_path / "two").values())
    one = sweep(settings, {"alpha": [0.7]}, tmp_path / "one", devices=["cpu"])
    alone, shared = one["points"][0], both["points"][1]
    assert alone["run"] == shared["run"]
    assert alone["forget_damage"] == pytest.approx(shared["forget_damage"], abs=1e-4)


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """What the command asks of `sweep`, which does nothing."""
    calls = []

    def record(settings, axes, folder, *, devices, **kwargs):
        calls.append((settings, axes, folder, devices))
        messages = [{"values": {"alpha": 0.1}, "message": "No [room] left."}]
        return {"points": messages, "front": [], "waiting": 1}

    monkeypatch.setattr("l2l_core.experiments.sweep.sweep", record)
    monkeypatch.setattr(experiments, "stopped_by_signals", lambda: lambda: False)
    return calls


def test_the_command(settings, asked, tmp_path):
    """A file's axes and a flag's; the folder is the same whatever the axes are."""
    config = tmp_path / "s.json"
    config.write_text(json.dumps(settings | {"sweep": {"noise": ["uniform"], "alpha": [0.3]}}))
    command = ["sweep", "--config", str(config), "--devices", "cpu,cpu"]
    result = CliRunner().invoke(app, [*command, "--alpha", "0.1, 1", "--steps", "7"])
    assert result.exit_code == 1
    assert "alpha 0.1: No [room] left." in result.output and "1 runs" in result.output
    CliRunner().invoke(app, [*command, "--retain-fraction", "0.5", "--steps", "7"])
    (first, axes, folder, devices), (_, second_axes, same_folder, _) = asked
    assert axes == {"noise": ["uniform"], "alpha": [0.1, 1.0]} and first["steps"] == 7
    assert second_axes == {"noise": ["uniform"], "alpha": [0.3], "retain_fraction": [0.5]}
    assert devices == ["cpu", "cpu"] and folder == same_folder and folder.is_dir()


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--forget", "builtin:flags"], "at least one setting"),
        (["--forget", "builtin:flags", "--alpha", "0.1,much"], "numbers"),
        (["--alpha", "0.1"], "forget"),
    ],
)
def test_mistakes_on_the_command_line(asked, flags, word):
    result = CliRunner().invoke(app, ["sweep", *flags])
    assert isinstance(result.exception, ConfigError) and word in str(result.exception)
    assert not asked
