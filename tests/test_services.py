"""What the page can do, without a browser, a worker or Gradio."""

import io
import time
from contextlib import nullcontext
from html import escape

import pytest
import torch
from PIL import Image

from l2l_core.builtin import builtin_index, groups
from l2l_core.config import ConfigError, UnlearnRequest, preset_settings
from l2l_core.images import ImageError
from l2l_core.jobs.client import CompareRequest
from l2l_core.jobs.store import RunError
from l2l_core.registry import FAMILIES, MODELS, defaults_of, family_of
from l2l_core.runtime import describe_device
from ui import html, text
from ui.catalogue import (
    builtin_cards,
    group_choices,
    group_title,
    members,
    published_cards,
    thumbnails,
)
from ui.form import Form, check_device, given
from ui.services import Studio
from ui.tab_compare import MOST_EXTRA, drawing, mask_text, tryable
from ui.text import GROUPS
from ui.uploads import check_uploads, recognised


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
    return Form(**{"forget_groups": ("flags",)} | changes)


def test_uploads_become_a_queued_run_without_their_names(studio, uploads):
    run = studio.store.get(studio.submit(Form(forget_files=uploads), "me"))
    assert run.request == UnlearnRequest(forget=("inputs:forget",))
    assert len(list((run.folder / "inputs" / "forget").iterdir())) == 3
    assert run.state.title == "3 uploaded images"
    everything = b"".join(p.read_bytes() for p in run.folder.rglob("*.json*"))
    assert b"aunt" not in everything


def test_uploads_and_groups_together(studio, uploads):
    form = Form(forget_files=uploads, forget_groups=("flags", "animals/animal-bird"))
    run = studio.store.get(studio.submit(form, "me"))
    assert run.request.forget == ("builtin:flags", "builtin:animals/animal-bird", "inputs:forget")
    assert run.state.title == "flags, animals › bird and 3 uploaded images"


def test_a_group_and_settings(studio):
    form = group_form(preset="quick", settings={"alpha": 0.5, "steps": None, "masks": ["centre"]})
    request = studio.store.get(studio.submit(form, "me")).request
    assert request.forget == ("builtin:flags",) and request.retain == ("proxy",)
    steps = preset_settings("quick", "mae-fluent")["steps"]
    assert (request.alpha, request.steps, request.masks) == (0.5, steps, ("centre",))


def test_typed_settings_and_options_are_numbers(studio):
    form = group_form(
        settings={"steps": "7", "learning_rate": "2e-4", "alpha": ""},
        options={"mae": {"heads": "", "norm_pix_loss": False}, "mage": {"heads": "12"}},
    )
    request = studio.store.get(studio.submit(form, "me")).request
    assert (request.steps, request.learning_rate) == (7, 2e-4)
    assert request.alpha == defaults_of("mae-fluent")["alpha"]
    assert request.model_options == {"norm_pix_loss": False}  # the other family's are no matter


def test_every_value_of_an_option_can_be_asked_for():
    """Also those published: the weights may hold others."""
    asked = {"choice_temperature": 6.0, "sampling_temperature": 1.0, "spread_steps": False}
    assert given("mage", asked | {"tied": "", "steps": ""}) == asked


@pytest.mark.parametrize(
    ("form", "word"),
    [
        (Form(), "nothing to forget"),
        (Form(forget_files=("missing.png",)), "missing.png"),
        (group_form(retain_from="groups"), "group to retain"),
        (group_form(retain_from="groups", retain_groups=("flags",)), "also to be forgotten"),
        (group_form(retain_from="uploads"), "no images to retain"),
        (group_form(forget_groups=tuple(groups())), "Everything built in"),
        (group_form(model="mae-vit-base"), "not on disk"),
        (group_form(model="opened:" + "0" * 32), "not here any more"),
        (group_form(settings={"steps": "many"}), "Steps is"),
        (group_form(options={"mae": {"heads": "two"}}), "Attention heads is “two”"),
        (group_form(options={"mage": {"tokenizer": "/etc/passwd"}}), "Upload the file"),
        (group_form(settings={"alpha": -1}), "α is -1"),
        (group_form(settings={"learning_rate": 1000}), "Learning rate is 1000"),
        (group_form(settings={"seed": 1.5}), "Seed is 1.5; it must be a whole number"),
        (group_form(settings={"masks": ["circle"]}), "Holes is"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_starts(studio, form, word):
    with pytest.raises((ConfigError, ImageError), match=word):
        studio.submit(form, "me")
    assert studio.store.runs() == []


def test_bad_uploads_are_named_and_good_ones_kept(studio, uploads, tmp_path):
    bad = tmp_path / "broken.png"
    bad.write_bytes(b"nothing")
    checked = check_uploads([*uploads, str(bad)])
    assert checked.good == list(uploads) and checked.notes == []
    assert len(checked.problems) == 1 and checked.problems[0].startswith("broken.png: ")
    assert recognised([*uploads, str(bad), "missing.png"]) == tuple(uploads)
    with pytest.raises(ImageError, match=r"broken\.png"):
        studio.submit(Form(forget_files=(*uploads, str(bad))), "me")


def test_a_double_click_is_one_run(studio, monkeypatch):
    first = studio.submit(group_form(), "me")
    assert studio.submit(group_form(), "me") == first
    assert studio.submit(group_form(), "somebody else") != first
    assert studio.submit(group_form(preset="quick"), "me") != first
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    assert studio.submit(group_form(), "me") != first
    assert len(studio.store.runs("me")) == 3


def test_other_pictures_are_another_run(studio, uploads):
    first, second, third = uploads
    one = studio.submit(Form(forget_files=(first,)), "me")
    assert studio.submit(Form(forget_files=(first,)), "me") == one
    assert studio.submit(Form(forget_files=(second,)), "me") != one

    def kept(*files):
        return Form(forget_files=(first,), retain_from="uploads", retain_files=files)

    one = studio.submit(kept(second), "me")
    assert studio.submit(kept(second), "me") == one
    assert studio.submit(kept(third), "me") != one
    assert studio.submit(kept(second, third), "me") != one


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
    assert view.active and view.losses == ((1, 0.01, 0.5), (2, 0.01, 0.5))
    assert text.LEAVE in html.status(view)
    assert view.facts[:2] == (("Step", "2 of 60"), ("Left", "about 30 s"))
    run.log("step", step=60, steps=60, retain=0.01, forget=0.5, eta=0.0, seconds=0.5)
    assert studio.view(run_id, "me").facts == (("Now", "Finishing"),)
    assert view.preview_step == 0
    run.request_cancel()
    view = studio.view(run_id, "me")
    assert view.stopping and text.LEAVE not in html.status(view)
    run.log("stage", text="Writing the weights")
    assert studio.view(run_id, "me").facts == (("Now", "Writing the weights"),)
    run.set_state(status="failed", message="The disk is full.")
    view = studio.view(run_id, "me")
    assert not view.active and "The disk is full." in view.headline


def test_the_page_opens_on_the_run_that_is_going(studio):
    assert studio.current("me") == ""
    first = studio.submit(group_form(), "me")
    second = studio.submit(group_form(preset="quick"), "me")
    assert studio.current("me") == first
    studio.store.get(first).set_state(status="done")
    assert studio.current("me") == second
    studio.store.get(second).set_state(status="done")
    assert studio.current("me") == second and studio.current("else") == ""


def test_others_runs_do_not_exist(studio):
    run_id = studio.submit(group_form(), "me")
    for act in (
        lambda: studio.view(run_id, "you"),
        lambda: studio.previews(run_id, "you", 0),
        lambda: studio.cancel(run_id, "you"),
        lambda: studio.resume(run_id, "you"),
        lambda: studio.erase(run_id, "you"),
        lambda: studio.download(run_id, "you", "run.zip", studio.store.root),
        lambda: studio.compare(CompareRequest(run_id), "you"),
    ):
        with pytest.raises(RunError, match="no such run"):
            act()
    assert studio.history("you") == [] and studio.comparable("you") == []


def test_a_run_that_was_interrupted_goes_on(studio):
    run = studio.store.get(studio.submit(group_form(), "me"))
    assert not studio.view(run.id, "me").can_go_on
    run.set_state(status="failed", message="The disk is full.")
    assert not studio.view(run.id, "me").can_go_on  # from what?
    run.checkpoint.write_bytes(b"so far")
    assert studio.view(run.id, "me").can_go_on
    run.set_state(status="interrupted", deaths=2)
    run.request_cancel()
    with pytest.raises(RunError):
        studio.resume(run.id, "you")
    studio.resume(run.id, "me")
    assert (run.state.status, run.state.deaths, run.cancel_requested()) == ("queued", 0, False)
    with pytest.raises(RunError, match="queued"):
        studio.resume(run.id, "me")


def test_erase_says_what_it_erased(studio, uploads):
    run_id = studio.submit(Form(forget_files=uploads), "me")
    said = studio.erase(run_id, "me")
    assert "of this run: 3 uploaded images and the settings." in said  # it was never started
    assert studio.history("me") == []
    run = studio.store.get(studio.submit(group_form(), "me"))
    run.log("step", step=1)
    run.weights.touch()
    (run.previews / "forget-input.png").touch()
    said = studio.erase(run.id, "me")
    assert "of this run: the previews, the weights, the events and the settings." in said


def test_groups_for_choosing():
    labels = dict(group_choices())
    assert labels[f"flags ({len(members(['flags']))})"] == "flags"
    assert any(value.startswith("people/") for value in labels.values())
    assert group_title("animals/animal-bird") == "animals › bird"
    assert group_title("animals/plant-flower") == "plants › flowers"
    assert all("/" not in value for value in list(labels.values())[: len(groups())])  # these first
    assert len(labels) == len(group_choices())  # no two are called the same
    assert GROUPS.keys() <= {*labels.values()}
    assert len(thumbnails(("flags",), 5)) == 5
    assert len(set(thumbnails(("flags", "food"), 8))) == 8


def test_the_summary_counts_what_is_forgotten_and_kept(uploads):
    assert Form().summary() == ""
    trained = [image for image in builtin_index() if image.split == "train"]
    flags = sum(image.group == "flags" for image in trained)
    said = Form(forget_files=uploads, forget_groups=("flags",)).summary()
    assert said.startswith(f"Forgets flags ({flags} images, ")
    assert said.endswith(
        " held out for testing) and 3 uploaded images. "
        f"Retains {len(trained) - flags:,} built-in images."
    )
    own = Form(forget_groups=("flags",), retain_from="uploads", retain_files=uploads).summary()
    assert "Retains 3 uploaded images" in own


def test_previews_of_the_step_that_is_asked_for(studio):
    run = studio.store.get(studio.submit(group_form(), "me"))
    for name in ("forget-input", "forget-000010", "forget-000020", "retain-original"):
        (run.previews / f"{name}.png").write_bytes(name.encode())
    found = studio.previews(run.id, "me", 20)
    assert found == {
        "forget-input": b"forget-input",
        "forget-now": b"forget-000020",
        "retain-original": b"retain-original",
    }


def test_a_waiting_run_tells_what_is_before_it_and_a_cancelled_one_has_no_bar(studio):
    first = studio.submit(group_form(), "me")
    second = studio.submit(group_form(preset="quick"), "me")
    studio.store.get(first).set_state(status="running", step=3, steps=60)
    waiting = html.status(studio.view(second, "me"), studio.view(first, "me"))
    assert "Before it: flags, step 3 of 60." in waiting and "l2l-bar" not in waiting
    assert "l2l-bar" in html.status(studio.view(first, "me"))
    studio.store.get(first).set_state(status="cancelled", message="Cancelled after step 3.")
    assert "l2l-bar" not in html.status(studio.view(first, "me"))


def test_the_empty_place_says_what_is_chosen_and_what_to_press():
    assert text.EMPTY_TITLE in html.empty([])
    shown = html.empty([], "Forgets <flags>.")
    assert "Forgets &lt;flags&gt;." in shown and text.PRESS in shown
    assert text.EMPTY_TITLE not in shown


@pytest.mark.parametrize(
    ("device", "known", "wrong"),
    [
        ("auto", "CPU, 2 threads", ""),
        ("cpu", "NVIDIA H100", ""),
        ("cuda:1", "NVIDIA H100", ""),
        ("cuda", "", ""),  # the worker has not said yet
        ("gpu9", "NVIDIA H100", "Device is “gpu9”"),
        ("cuda", "CPU, 2 threads", "not here: training runs on CPU, 2 threads"),
        ("mps", "NVIDIA H100", "not here"),
        ("cuda", "Apple GPU", "not here"),
    ],
)
def test_a_device_that_cannot_be_here_is_refused(device, known, wrong):
    with pytest.raises(ConfigError, match=wrong) if wrong else nullcontext():
        check_device(group_form(settings={"device": device}), known)


def test_a_cpu_is_told_from_others_by_its_words():
    assert describe_device(torch.device("cpu")).startswith("CPU")


def test_names_in_the_page_are_escaped(studio):
    run_id = studio.submit(group_form(), "me")
    studio.store.get(run_id).set_state(title="<script>alert(1)</script>", status="done")
    assert "<script>" not in html.status(studio.view(run_id, "me"))


def test_a_comparison_takes_some_own_images_and_says_so(tmp_path):
    broken, files = tmp_path / "broken.png", []
    broken.write_bytes(b"nothing")
    for number in range(MOST_EXTRA + 1):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path := tmp_path / f"{number}.png")
        files.append((str(path), None))
    first = [path for path, _ in files[:MOST_EXTRA]]
    assert tryable(None) == ([], []) and tryable(files[:MOST_EXTRA]) == (first, [])
    kept, problems = tryable([(str(broken), None), *files])
    assert kept == first and "broken.png" in problems[0]
    assert "At most 12 images can be tried at once" in problems[1]


def test_a_drawing_is_its_painted_layer():
    layer = Image.new("RGBA", (20, 20))
    assert drawing(None) is drawing({"layers": []}) is drawing({"layers": [layer]}) is None
    layer.putpixel((3, 4), (200, 0, 0, 255))
    painted = drawing({"layers": [layer]})
    assert painted is not None
    assert Image.open(io.BytesIO(painted)).getchannel("A").getbbox() == (3, 4, 4, 5)


@pytest.mark.parametrize(
    ("task", "text"),
    [("centre", "centre:0.5"), ("border", "border:0.5"), ("side", "left:0.5"), ("drawn", "drawn")],
)
def test_tasks_are_masks(task, text):
    assert mask_text(task, "left", 0.5) == text


def test_cards_say_what_a_model_is_and_what_is_missing():
    cards = {card.model: card for card in (*builtin_cards(), *published_cards())}
    assert cards.keys() == MODELS.keys()
    for name, card in cards.items():
        spec = MODELS[name]
        told = (card.family, card.about, card.size, card.licence)
        assert told == (
            FAMILIES[family_of(name)].title,
            spec.description,
            spec.size,
            spec.licence,
        )
        assert all(escape(part) in html.models([card]) for part in told)
        assert card.ready == (spec.path is not None) and spec.source in card.where
        shown = html.models([card], name)
        assert ("disabled" in shown) == (not card.ready) and "checked" in shown


def test_a_run_whose_request_cannot_be_read_can_only_be_erased(studio):
    good, bad = (studio.submit(group_form(preset=p), "me") for p in ("quick", "balanced"))
    folder = studio.store.get(bad).folder
    for damage in ('{"forget": ["builtin:flags"], "speed": 3}', "{", "null"):
        (folder / "request.json").write_text(damage)
        assert [view.run_id for view in studio.history("me")] == [good]
        assert [one.run_id for one in studio.unreadable("me")] == [bad]
        assert studio.unreadable("you") == [] and studio.tried(good, "me") == []
        assert studio.submit(group_form(preset="quick"), "me") == good  # a double click
    shown = html.runs(studio.history("me"), studio.unreadable("me"))
    assert shown.count(f'data-run="{bad}"') == 1 and "request cannot be read" in shown
    with pytest.raises(RunError, match="no such run"):
        studio.erase(bad, "you")
    (folder / "request.json").unlink()
    assert [one.run_id for one in studio.unreadable("me")] == [bad]
    assert "Erased" in studio.erase(bad, "me")
    assert studio.unreadable("me") == [] and not folder.exists()
