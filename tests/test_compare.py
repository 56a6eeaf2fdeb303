"""Methods on equal terms: the table, going on, and being the same again."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from l2l_core.class_folders import find_images
from l2l_core.cli import app, experiments
from l2l_core.config import PAPER_METHODS, ConfigError, UnlearnRequest
from l2l_core.experiments.compare import TITLES, Comparison, compare_methods, compare_table
from l2l_core.experiments.pareto import point_of
from l2l_core.experiments.series import Series
from l2l_core.models import load_model
from l2l_core.unlearning.methods import MaxLoss
from tests.test_diffusion_inpainting import write_pipeline

PAIR = ("ours", "max_loss")


@pytest.fixture
def settings(request_settings):
    return request_settings | {"steps": 2, "preview_every": 0, "checkpoint_every": 1}


@pytest.fixture
def request_(settings):
    return UnlearnRequest.from_dict(settings)


@pytest.fixture
def no_runs(monkeypatch):
    """Calling it forbids any further run."""

    def forbid():
        def never(*args, **kwargs):
            raise AssertionError("something was run again")

        monkeypatch.setattr("l2l_core.experiments.series.execute", never)

    return forbid


def printed(result):
    shown = io.StringIO()
    Console(file=shown, width=400).print(compare_table(result))
    return shown.getvalue()


def test_the_default_is_the_papers_table(request_):
    assert Comparison(request_).methods == PAPER_METHODS
    names = list(Comparison(request_, proxy=("builtin:food",)).requests())
    assert names == [n for n in TITLES if n not in ("original", "ignorance", "gold")]
    assert set(TITLES) > set(PAPER_METHODS) | {"ignorance"}


def test_all_rows_have_the_same_seed_and_budget(request_):
    requests = Comparison(request_, proxy=("builtin:food",)).requests()
    assert requests["ours_proxy"].retain == ("builtin:food",)
    same = {json.dumps(r.to_dict() | {"method": "", "retain": ""}) for r in requests.values()}
    assert len(same) == 1
    assert {r.retain for n, r in requests.items() if n != "ours_proxy"} == {request_.retain}


def test_a_proxy_is_images_of_another_kind(request_, tmp_path):
    flags = UnlearnRequest(forget=("builtin:flags",))
    proxies = Comparison(flags, ("ours",)).requests()["ours_proxy"].retain
    assert proxies == ("builtin:photos",)  # of the groups with 234 training images the smallest
    assert "ours_proxy" not in Comparison(flags, ("max_loss",)).requests()
    assert "ours_proxy" not in Comparison(request_, PAIR).requests()
    assert "own images" in Comparison(request_, PAIR).describe_proxy()["no_proxy"]
    for number in range(5):
        (tmp_path / "train" / f"c{number}").mkdir(parents=True)
        (tmp_path / "train" / f"c{number}" / "x.png").touch()
    taken = {
        name: (f"classes:{tmp_path}?take={part}",)
        for name, part in (("forget", "1-2"), ("retain", "3-4"))
    }
    proxies = Comparison(UnlearnRequest(**taken), ("ours",)).requests()["ours_proxy"].retain
    assert proxies == (f"classes:{tmp_path}?except=1-4",)
    assert {image.label for image in find_images(proxies[0], "train")} == {"c4"}
    taken["retain"] = (f"classes:{tmp_path}?take=5-5",)  # what lies between is neither
    proxies = Comparison(UnlearnRequest(**taken), ("ours",)).requests()["ours_proxy"].retain
    assert {image.label for image in find_images(proxies[0], "train")} == {"c2", "c3"}


@pytest.mark.slow
def test_every_row(request_, picture_folders, tiny_checkpoint, tmp_path):
    """Also of a proxy and of a gold standard; here the latter is the original itself."""
    methods = ("ignorance", "max_loss")
    proxy = (f"{picture_folders[1]}/0.png",)
    comparison = Comparison(request_, methods, proxy=proxy, gold=tiny_checkpoint)
    result = compare_methods(comparison, tmp_path / "c")
    rows = result["rows"]
    assert list(rows) == ["original", "max_loss", "ours_proxy", "ignorance", "gold"]
    for row in rows.values():
        for cells in row["sets"].values():
            assert cells["n"] == 6 and "few" in cells["fid"]["missing"]
            assert 0 <= cells["reference"]["value"] <= 1.001
    for name in ("retain", "forget"):
        original, gold = rows["original"]["sets"][name], rows["gold"]["sets"][name]
        assert original["cosine"]["value"] == gold["cosine"]["value"]
        assert gold["cosine"]["change"] == 0
        assert gold["reference"]["value"] == pytest.approx(1, abs=1e-5)
    assert "gold" not in result["front"] and "original" not in result["front"]
    text = (tmp_path / "c" / "compare.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(result))
    assert not any(word in text for word in [str(tmp_path), *picture_folders])
    shown = printed(result)
    assert all(TITLES[name] in shown for name in rows)
    assert "Retain, n 6" in shown and "cosine with never-saw" in shown
    assert "Forget, FID: 6 images are too few" in shown and "FID ↓" not in shown


@pytest.mark.slow
def test_again_is_the_same_to_the_digit_and_nothing_runs_twice(request_, tmp_path, no_runs):
    comparison = Comparison(request_, PAIR)
    first = compare_methods(comparison, tmp_path / "a")
    other = compare_methods(comparison, tmp_path / "b")
    assert first == other and printed(first) == printed(other)
    points = {name: point_of(first["rows"][name]["sets"]) for name in PAIR}
    beaten = {
        name
        for name, (drift, damage) in points.items()
        for rival in points.values()
        if rival[0] <= drift and rival[1] >= damage and rival != (drift, damage)
    }
    assert set(first["front"]) == set(PAIR) - beaten and first["front"]
    no_runs()
    again = compare_methods(comparison, tmp_path / "a")
    assert json.dumps(again) == json.dumps(first)
    # Measured in another way, the rows are new; the runs are not.
    left = compare_methods(Comparison(request_, PAIR, mask="left:0.5"), tmp_path / "a")
    assert left["mask"] == "left:0.5" and left["rows"] != first["rows"]
    assert [r["run"] for n, r in left["rows"].items() if n in PAIR] == [
        r["run"] for n, r in first["rows"].items() if n in PAIR
    ]


@pytest.mark.slow
def test_interrupted_it_goes_on(request_, tmp_path):
    whole = compare_methods(Comparison(request_, PAIR), tmp_path / "whole")
    steps = []

    def after_three_steps():
        return len(steps) >= 3

    def note(event):
        steps.extend([event["step"]] if event["kind"] == "step" else [])

    comparison = Comparison(request_, PAIR)
    folder = tmp_path / "parts"
    part = compare_methods(comparison, folder, should_stop=after_three_steps, on_event=note)
    assert list(part["rows"]) == ["original", "max_loss"] and steps == [1, 2, 1]
    done = compare_methods(comparison, folder, on_event=note)
    assert steps == [1, 2, 1, 2]
    assert done == whole


@pytest.mark.slow
def test_a_method_that_fails_says_why(request_, tmp_path, monkeypatch):
    good = MaxLoss.distance
    monkeypatch.setattr(MaxLoss, "distance", lambda *args: good(*args) * float("nan"), raising=True)
    failed = compare_methods(Comparison(request_, PAIR), tmp_path / "c")
    assert "finite" in failed["rows"]["max_loss"]["message"]
    assert failed["front"] == ["ours"]
    assert "failed" in printed(failed)
    monkeypatch.undo()
    ran = []
    mended = compare_methods(Comparison(request_, PAIR), tmp_path / "c", on_event=ran.append)
    assert "sets" in mended["rows"]["max_loss"]
    assert mended["rows"]["ours"] == failed["rows"]["ours"]
    assert sum(event["kind"] == "step" for event in ran) == request_.steps


def test_a_runs_weights_hold_the_originals_options(settings, tmp_path):
    """They open without them; a prompt could not even be given again."""
    pipeline = write_pipeline(tmp_path / "pipeline")
    asked = {"model": "diffusers-inpainting", "checkpoint": str(pipeline)}
    asked["model_options"] = {"prompt": "a b", "steps": 3}
    request = UnlearnRequest.from_dict(settings | asked)
    result = compare_methods(Comparison(request, ("max_loss",)), tmp_path / "compared")
    assert "sets" in result["rows"]["max_loss"]
    [weights] = (tmp_path / "compared").rglob("unlearned.safetensors")
    assert load_model(request.model, weights).config.steps == 3


def test_what_held_out_images_are_too_few_for_is_shown_of_those_trained_on():
    few, many = {"fid": {"missing": "3 are too few"}}, {"fid": {"value": 12.345}}
    both = {"cosine": {"value": 0.5}, "kid_apart": {"value": 0.25, "spread": 0.125}}
    sets = {"retain": many | both, "forget": few | both, "seen": many | both}
    rows = {"original": {"title": "Original", "sets": {n: {"n": 3} | s for n, s in sets.items()}}}
    told = {"mask": "m", "seed": 0, "extractor": "net", "no_proxy": "none was found"}
    table = compare_table({"rows": rows, "front": [], **told})
    assert [*table.columns[0].cells] == ["Original", "Ours with proxy"]
    assert "Ours with proxy: none was found" in table.caption
    heads = [str(column.header).split("\n") for column in table.columns[1:-1]]
    assert heads == [
        ["Retain, n 3", "FID ↓"],
        ["Retain, n 3", "KID, own pairs left out ↓"],
        ["Retain, n 3", "cosine ↑"],
        ["Forget, n 3", "KID, own pairs left out ↓"],
        ["Forget, n 3", "cosine ↑"],
        ["Forget (trained on), n 3", "FID ↓"],
        ["Retain, n 3", "moved ↓"],
    ]
    cells = [next(iter(column.cells)) for column in table.columns]
    kid = "0.2500 ± 0.1250"
    assert cells == ["Original", "12.35", kid, "0.5000", kid, "0.5000", "12.35", "", ""]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"methods": ("theirs",)}, "theirs"),
        ({"methods": ()}, "Nothing to compare"),
        ({"limit": 0}, "limit must be 1"),
    ],
)
def test_mistakes(request_, changes, word):
    with pytest.raises(ConfigError, match=word):
        Comparison(request_, **changes)


def test_names_of_runs(request_, settings, tmp_path):
    """What changes the result changes the name; the device and the pictures of progress do not."""
    series = Series(tmp_path)
    same = UnlearnRequest.from_dict(settings | {"device": "auto", "preview_every": 1})
    other = UnlearnRequest.from_dict(settings | {"seed": 1})
    assert series.name_of(same) == series.name_of(request_) != series.name_of(other)


def test_the_command(settings, tmp_path, monkeypatch):
    """Flags reach the comparison; what it returns is printed, and failures end in 1."""
    asked = []
    sets = {
        n: {"n": 3, "fid": {"missing": "too few"}, "cosine": {"value": 0.25}}
        for n in ("retain", "forget")
    }

    def compare(comparison, folder, **kwargs):
        asked.append(comparison)
        rows = {
            "original": {"title": "Original", "sets": sets},
            "ours": {"title": "Ours", "run": "x", "message": "The [disk] is full."},
        }
        return {"rows": rows, "front": [], "mask": "m", "seed": 0, "extractor": "net"}

    monkeypatch.setattr("l2l_core.experiments.compare.compare_methods", compare)
    monkeypatch.setattr(experiments, "stopped_by_signals", lambda: lambda: False)
    config = tmp_path / "c.json"
    config.write_text(json.dumps(settings))
    flags = ["--methods", "ours, max_loss", "--limit", "9", "--mask", "left:0.5", "--seed", "5"]
    result = CliRunner().invoke(app, ["compare", "--config", str(config), *flags])
    assert result.exit_code == 1
    assert "0.2500" in result.output and "Ours: The [disk] is full." in result.output
    (found,) = asked
    assert (found.methods, found.limit, found.mask) == (PAIR, 9, "left:0.5")
    assert found.request.seed == 5
