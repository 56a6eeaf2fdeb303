"""What the page can do, without a browser, a worker or Gradio."""

import time

import pytest
from PIL import Image

from l2l_core.config import ConfigError, UnlearnRequest
from l2l_core.images import ImageError
from l2l_core.jobs.client import CompareRequest
from l2l_core.jobs.store import RunError
from ui import html
from ui.services import Form, Studio, difference, group_choices, group_thumbnails
from ui.tab_compare import mask_text


@pytest.fixture
def studio(private_data):
    return Studio(private_data)


@pytest.fixture
def uploads(tmp_path):
    paths = []
    for number in range(3):
        path = tmp_path / f"aunt-{number}.png"
        Image.new("RGB", (30, 30), (200, number * 40, 10)).save(path)
        paths.append(str(path))
    return tuple(paths)


def group_form(**changes):
    return Form(**{"forget_from": "group", "forget_group": "flags"} | changes)


def test_uploads_become_a_queued_run_without_their_names(studio, uploads):
    run = studio.store.get(studio.submit(Form(forget_files=uploads), "me"))
    assert run.request == UnlearnRequest(forget=("inputs:forget",), steps=60)
    assert len(list((run.folder / "inputs" / "forget").iterdir())) == 3
    assert run.state.title == "3 uploaded images"
    everything = b"".join(p.read_bytes() for p in run.folder.rglob("*.json*"))
    assert b"aunt" not in everything


def test_a_group_and_settings(studio):
    form = group_form(preset="quick", settings={"alpha": 0.5, "steps": None, "masks": ["centre"]})
    request = studio.store.get(studio.submit(form, "me")).request
    assert request.forget == ("builtin:flags",) and request.retain == ("proxy",)
    assert (request.alpha, request.steps, request.masks) == (0.5, 30, ("centre",))


@pytest.mark.parametrize(
    ("form", "word"),
    [
        (Form(), "no images to forget"),
        (Form(forget_files=("missing.png",)), "missing.png"),
        (group_form(forget_group=""), "Choose a built-in group"),
        (group_form(retain_from="group"), "group to retain"),
        (group_form(retain_from="group", retain_group="flags"), "forgotten and retained"),
        (group_form(retain_from="uploads"), "no images to retain"),
        (group_form(model="mae-vit-base"), "needs the path"),
        (group_form(settings={"alpha": -1}), "alpha"),
        (group_form(checkpoint="w.pth", model_options="heads=3"), "JSON"),
        (group_form(settings={"masks": ["circle"]}), "masks"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_starts(studio, form, word):
    with pytest.raises((ConfigError, ImageError), match=word):
        studio.submit(form, "me")
    assert studio.store.runs() == []


def test_bad_uploads_are_named_and_good_ones_kept(studio, uploads, tmp_path):
    bad = tmp_path / "broken.png"
    bad.write_bytes(b"nothing")
    good, problems = studio.check_uploads([*uploads, str(bad)])
    assert good == list(uploads)
    assert len(problems) == 1 and problems[0].startswith("broken.png: ")
    with pytest.raises(ImageError, match=r"broken\.png"):
        studio.submit(Form(forget_files=(*uploads, str(bad))), "me")


def test_a_double_click_is_one_run(studio, monkeypatch):
    first = studio.submit(group_form(), "me")
    assert studio.submit(group_form(), "me") == first
    assert studio.submit(group_form(), "somebody else") != first
    assert studio.submit(group_form(preset="quick"), "me") != first
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    assert studio.submit(group_form(preset="quick"), "me") not in (first,)
    assert len(studio.store.runs("me")) == 3


def test_the_view_follows_the_run(studio):
    run_id = studio.submit(group_form(), "me")
    run = studio.store.get(run_id)
    assert "training process" in studio.view(run_id, "me").headline
    run.set_state(status="running", step=2, steps=60)
    run.log("stage", text="Unlearning 234 images, retaining 3217")
    for step in (1, 2):
        run.log("step", step=step, steps=60, retain=0.01, forget=0.5, eta=30.0, seconds=0.5)
    run.log("preview", step=0)
    view = studio.view(run_id, "me")
    assert view.active and view.losses == [(1, 0.01, 0.5), (2, 0.01, 0.5)]
    assert "Step 2 of 60 · about 30 s left" in view.detail and view.preview_step == 0
    run.set_state(status="failed", message="The disk is full.")
    view = studio.view(run_id, "me")
    assert not view.active and "The disk is full." in view.headline


def test_the_page_opens_on_the_run_that_is_going(studio):
    assert studio.current("me") is None
    first = studio.submit(group_form(), "me")
    second = studio.submit(group_form(preset="quick"), "me")
    assert studio.current("me") == first
    studio.store.get(first).set_state(status="done")
    assert studio.current("me") == second
    studio.store.get(second).set_state(status="done")
    assert studio.current("me") == second and studio.current("else") is None


def test_others_runs_do_not_exist(studio):
    run_id = studio.submit(group_form(), "me")
    for act in (
        lambda: studio.view(run_id, "you"),
        lambda: studio.preview(run_id, "you", "forget-input"),
        lambda: studio.cancel(run_id, "you"),
        lambda: studio.erase(run_id, "you"),
        lambda: studio.compare(CompareRequest(run_id), "you"),
    ):
        with pytest.raises(RunError, match="no such run"):
            act()
    assert studio.history("you") == [] and studio.comparable("you") == []


def test_erase_says_what_it_erased(studio, uploads):
    run_id = studio.submit(Form(forget_files=uploads), "me")
    assert "3 uploaded images" in studio.erase(run_id, "me")
    assert studio.history("me") == []


def test_groups_for_choosing():
    labels = dict(group_choices())
    assert labels["flags (253)"] == "flags"
    assert any(value.startswith("people/") for value in labels.values())
    assert len(group_thumbnails("flags", count=5)) == 5


def test_names_in_the_page_are_escaped(studio):
    run_id = studio.submit(group_form(), "me")
    studio.store.get(run_id).set_state(title="<script>alert(1)</script>", status="done")
    assert "<script>" not in html.status(studio.view(run_id, "me"))


def test_difference_is_black_where_pictures_agree():
    import io

    def png(colour):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
        return buffer.getvalue()

    def first_pixel(data):
        return Image.open(io.BytesIO(data)).getpixel((0, 0))

    assert first_pixel(difference(png((9, 9, 9)), png((9, 9, 9)))) == (0, 0, 0)
    assert first_pixel(difference(png((10, 0, 0)), png((0, 0, 200)))) == (30, 0, 255)


@pytest.mark.parametrize(
    ("task", "text"),
    [("centre", "centre:0.5"), ("border", "border:0.5"), ("side", "left:0.5"), ("drawn", "drawn")],
)
def test_tasks_are_masks(task, text):
    assert mask_text(task, "left", 0.5) == text
