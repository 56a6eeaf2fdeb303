"""A visitor's way through the real application."""

from __future__ import annotations

import re

import psutil
import pytest
import torch
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from l2l_core.builtin import builtin_index, open_builtin
from l2l_core.config import preset_settings
from l2l_core.jobs.store import RunStore
from l2l_core.models import load_model
from l2l_core.models.checkpoints import save_weights
from l2l_core.models.palette import Palette
from l2l_core.models.palette_config import PaletteConfig
from l2l_core.registry import FAMILIES

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PATIENCE = 600_000
"""Milliseconds; a machine that trains something else, too, is slow."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five pictures to forget, a broken one, and one to try."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    animals = [image for image in builtin_index() if image.group == "animals"]
    for number, image in enumerate(animals[:5]):
        path = folder / f"my-{number}.png"
        open_builtin(image.id).save(path)
        paths.append(str(path))
    (folder / "broken.png").write_bytes(b"this is no picture")
    scene = Image.new("RGB", (300, 200), "skyblue")
    ImageDraw.Draw(scene).rectangle((0, 120, 300, 200), fill="seagreen")
    scene.save(folder / "scene.jpg")
    return paths, str(folder / "broken.png"), str(folder / "scene.jpg")


@pytest.fixture(scope="module")
def page(context, studio):
    page = context.new_page()
    page.set_default_timeout(30_000)
    open_page(page, studio[0])
    return page


def open_page(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.locator("#start")).to_be_visible(timeout=60_000)


def runs(studio):
    return RunStore(studio[1]).runs()


def test_the_first_screen(page):
    expect(page.get_by_text("an image-to-image model unlearns them")).to_be_visible()
    expect(page.locator("#models .l2l-model:has(:checked)")).to_contain_text("Demo weights")
    expect(page.locator("#status")).to_contain_text("Before and after will appear here")
    expect(page.locator("#header")).to_contain_text(re.compile("CPU|GPU|NVIDIA"), timeout=60_000)
    expect(page.locator(".l2l-chip.l2l-ready")).to_be_visible()
    page.get_by_text("What are forget and retain?").click()
    expect(page.get_by_text("This is approximate and comes with no guarantee.")).to_be_visible()
    page.get_by_text("What are forget and retain?").click()


def test_nothing_to_forget_is_said(page, studio):
    page.click("#start")
    expect(page.locator("#problem")).to_contain_text("There is nothing to forget yet")
    page.wait_for_timeout(500)  # it may scroll
    expect(page.locator("#problem")).to_be_in_viewport()
    expect(page.locator("#start")).to_be_in_viewport()
    assert runs(studio) == []


def test_the_example_says_what_it_chose_and_what_to_press(page):
    page.evaluate("scrollTo(0, 0)")
    page.click("#example")
    expect(page.locator("#status")).to_contain_text("Press “Unlearn”")
    expect(page.locator("#status")).to_contain_text("Forgets flags")
    expect(page.locator("#start")).to_be_in_viewport()
    expect(page.locator("#problem")).to_be_hidden()
    page.locator("#forget-groups .remove-all").click()
    expect(page.locator("#status")).to_contain_text("Before and after will appear here")


def test_uploads_and_a_bad_file(page, pictures):
    good, broken, _ = pictures
    page.locator("#forget-files input[type=file]").set_input_files(broken)
    expect(page.locator("#problems")).to_contain_text("broken.png")
    expect(page.locator("#summary")).to_have_text("Nothing chosen to forget yet.")
    page.locator("#forget-files input[type=file]").set_input_files([*good, broken])
    expect(page.locator("#problems")).to_contain_text("broken.png")
    expect(page.locator("#forget-files .gallery-item")).to_have_count(5)
    expect(page.locator("#summary")).to_contain_text("5 uploaded images")


def test_a_bad_checkpoint_says_why_and_nothing_is_lost(page, pictures):
    _, broken, _ = pictures
    page.locator("#more-models > button").click()
    expect(page.locator("#published input:enabled")).to_have_count(0)
    expect(page.locator("#published")).to_contain_text("Get facebook/vit-mae-base")
    page.locator("#upload input[type=file]").set_input_files(broken)
    told = page.locator("#opened")
    expect(told).to_contain_text(
        "is not a file of weights that can be opened safely", timeout=PATIENCE
    )
    page.locator("#path input, #path textarea").fill("/nowhere/model.pth")
    page.click("#open")
    expect(told).to_contain_text("No weights at “model.pth”", timeout=PATIENCE)
    expect(page.locator("#forget-files .gallery-item")).to_have_count(5)
    expect(page.locator("#models input:checked")).to_have_value("mae-fluent")


def test_another_model_brings_its_options_and_defaults(page, tmp_path):
    page.locator("#advanced > button").click()
    expect(page.locator("#advanced").get_by_text("Normalised pixels")).to_be_visible()
    page.locator("#alpha input, #alpha textarea").fill("0.3")
    path = tmp_path / "network.safetensors"
    tiny = {"inner_channels": 16, "channel_mults": (2,), "res_blocks": 1, "attended_levels": ()}
    model = Palette(PaletteConfig(image_size=16, head_channels=16, **tiny))
    save_weights(model.state_dict(), path, model.describe())
    page.locator("#upload input[type=file]").set_input_files(path)
    expect(page.locator("#opened")).to_contain_text("Diffusion (Palette)", timeout=PATIENCE)
    expect(page.locator("#advanced").get_by_text("Noise target")).to_be_visible()
    expect(page.locator("#advanced").get_by_text("Normalised pixels")).to_be_hidden()
    steps = f"{preset_settings('quick', 'palette')['steps']} steps"
    expect(page.locator("#preset")).to_contain_text(steps)
    batch = page.locator("#batch_size input, #batch_size textarea")
    expect(batch).to_have_attribute("placeholder", f"{FAMILIES['palette'].defaults['batch_size']}")
    expect(page.locator("#alpha input, #alpha textarea")).to_have_value("0.3")  # as it was set
    page.locator("#alpha input, #alpha textarea").fill("")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#models input:checked")).to_have_value("mae-fluent")
    expect(page.locator("#advanced").get_by_text("Normalised pixels")).to_be_visible()
    page.locator("#advanced > button").click()
    page.locator("#more-models > button").click()


def test_a_wrong_setting_is_said_until_it_is_mended(page, studio):
    page.locator("#advanced > button").click()
    for name, value in (("device", "gpu9"), ("seed", "1.5"), ("learning_rate", "1000")):
        field = page.locator(f"#{name} input, #{name} textarea")
        before = field.input_value()
        field.fill(value)
        page.click("#start")
        expect(page.locator("#problem")).to_contain_text(f"is {value};".replace("gpu9", "“gpu9”"))
        expect(page.locator("#start")).to_be_in_viewport()
        field.fill(before)
        expect(page.locator("#problem")).to_be_hidden()
    page.locator("#advanced > button").click()
    assert runs(studio) == []


def test_unlearning(page, studio):
    page.get_by_label("Quick").check(force=True)
    page.dblclick("#start")
    expect(page.locator("#status")).to_contain_text("Step", timeout=PATIENCE)
    assert len(runs(studio)) == 1


def test_a_reload_in_mid_run_loses_nothing(page, studio):
    open_page(page, studio[0])
    expect(page.locator("#status")).to_contain_text("5 uploaded images", timeout=30_000)
    expect(page.locator("#preview img")).to_have_count(6, timeout=PATIENCE)
    expect(page.locator("#status")).to_contain_text("Done", timeout=PATIENCE)
    expect(page.locator("#status .l2l-score")).to_have_count(3)
    steps = [e["step"] for e in runs(studio)[0].events() if e["kind"] == "step"]
    assert steps == [*range(1, preset_settings("quick", "mae-fluent")["steps"] + 1)]
    expect(page.locator("#curves polyline")).to_have_count(2)


def test_compare_shows_all_roles_and_a_slider(page):
    page.click("#to-compare")
    expect(page.locator(".l2l-sample").first).to_be_visible(timeout=PATIENCE)
    for role in ("forget", "nearest", "retain"):
        expect(page.locator(f".l2l-{role} .l2l-sample")).to_have_count(4)
    page.locator("#grid .l2l-forget .l2l-sample button").first.click()
    dialog = page.locator("dialog[open]")
    expect(dialog).to_be_visible()
    slider = dialog.locator("input[type=range]")
    slider.fill("20")
    assert "20%" in (dialog.locator(".l2l-slider").get_attribute("style") or "")
    label = dialog.locator("[data-label]").inner_text()
    dialog.get_by_label("Next").click()
    expect(dialog.locator("[data-label]")).not_to_have_text(label)
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)


def test_another_task_and_another_image(page, pictures):
    before = page.locator("#grid .l2l-retain img").first.get_attribute("src")
    page.get_by_text("Outpaint the border").click()  # a choice shows at once
    expect(page.locator("#grid .l2l-retain img").first).not_to_have_attribute(
        "src", before, timeout=PATIENCE
    )
    page.locator("#extra input[type=file]").set_input_files([pictures[1], pictures[2]])
    expect(page.locator("#grid .l2l-extra .l2l-sample")).to_have_count(1, timeout=PATIENCE)
    expect(page.locator("#extra-problems li")).to_have_text(re.compile("^broken.png: "))
    expect(page.locator("#extra .gallery-item")).to_have_count(1)


def test_a_seed_below_zero_is_refused(page):
    seed = page.get_by_label("Seed").locator("visible=true")
    seed.fill("-3")
    seed.blur()
    expect(page.locator("#verdict")).to_contain_text("whole number from 0", timeout=PATIENCE)
    seed.fill("0")
    seed.blur()
    expect(page.locator("#verdict .l2l-score").first).to_be_visible(timeout=PATIENCE)


def test_a_drawn_hole(page):
    page.get_by_text("Draw a hole").click()
    expect(page.locator("#verdict")).to_contain_text("Nothing is painted yet")
    expect(page.locator("#grid .l2l-sample")).to_have_count(0)  # of another hole
    canvas = page.locator("#canvas canvas").first
    expect(canvas).to_be_visible()
    page.wait_for_timeout(1000)  # the canvas lays itself out after it is shown
    box = canvas.bounding_box()
    assert box is not None
    page.click("#compare")
    expect(page.locator("#grid .l2l-sample")).to_have_count(0)
    middle_x, middle_y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle_x - 30, middle_y - 30)
    page.mouse.down()
    for step in range(6):
        page.mouse.move(middle_x - 30 + 12 * step, middle_y - 30 + 12 * step, steps=3)
    page.mouse.up()
    page.wait_for_timeout(500)
    page.click("#compare")
    expect(page.locator("#grid section").first).to_have_class(
        re.compile("l2l-extra"), timeout=PATIENCE
    )
    expect(page.locator("#verdict")).to_contain_text("the same in all images", timeout=PATIENCE)


def test_evaluate_goes_on_without_the_page_and_shows_table_map_and_plot(page, studio, tmp_path):
    page.get_by_role("tab", name="Evaluate").click()
    another = "Another run that forgets the same images"
    expect(page.locator("#tried")).to_contain_text(another, timeout=PATIENCE)
    expect(page.locator("#measured")).to_contain_text("Not measured yet")
    page.click("#measure")
    expect(page.locator("#measuring .l2l-bar")).to_be_visible(timeout=PATIENCE)
    open_page(page, studio[0])
    page.get_by_role("tab", name="Evaluate").click()
    table = page.locator("#measured")
    expect(table).to_contain_text("Nearest retain", timeout=PATIENCE)
    expect(table).to_contain_text("FID ↓")
    expect(table).to_contain_text("built-in feature net")
    expect(page.locator("#map svg")).to_be_visible(timeout=PATIENCE)
    image = page.locator("#map .image.forget").first
    expect(image.locator("image").first).to_be_hidden()
    image.focus()
    expect(image.locator("image").first).to_be_visible()
    with page.expect_download() as downloading:
        page.locator("#reports").get_by_text("Download report").click()
    report = tmp_path / "report.html"
    downloading.value.save_as(report)
    assert "Nearest retain" in report.read_text(encoding="utf-8")
    page.click("#audit")
    audits = page.locator("#audited")
    expect(audits).to_contain_text("can it be made to remember?", timeout=PATIENCE)
    expect(audits.locator("svg")).to_be_visible()
    expect(audits).to_contain_text("none were kept apart")  # no membership


def test_a_run_again_fills_the_form(page):
    page.get_by_role("tab", name="Runs").click()
    page.locator("#runs [data-action=again]").click()
    expect(page.locator("#forget-files .gallery-item")).to_have_count(5)
    expect(page.locator("#summary")).to_contain_text("5 uploaded images")
    expect(page.locator("#preset input:checked")).to_have_value("quick")


def test_weights_download_and_reopen(page, studio, tmp_path):
    page.get_by_role("tab", name="Unlearn").click()
    with page.expect_download() as downloading:
        page.locator("#links").get_by_text("Download weights").click()
    path = tmp_path / "weights.safetensors"
    downloading.value.save_as(path)
    ours, original = load_model("mae-fluent", path).state_dict(), load_model().state_dict()
    changed = {name for name in ours if not torch.equal(ours[name], original[name])}
    assert changed and changed <= set(load_model().encoder_parameters())


def test_a_long_run_starts(page, studio):
    page.click("#example")
    page.get_by_label("Thorough").check(force=True)
    page.click("#start")
    expect(page.locator("#status")).to_contain_text("Forgetting flags", timeout=PATIENCE)
    expect(page.locator("#status")).to_contain_text("Step", timeout=PATIENCE)


def test_an_interrupted_run_goes_on(page, studio):
    """Its worker is told to leave; the studio starts another."""
    run = runs(studio)[0]
    for process in psutil.Process().children(recursive=True):
        if "worker" in process.cmdline():
            process.terminate()
    expect(page.locator("#status")).to_contain_text("Interrupted", timeout=PATIENCE)
    reached = run.state.step
    page.get_by_role("tab", name="Runs").click()
    page.locator("#runs [data-action=resume]").click()
    expect(page.locator("#status")).to_contain_text("Forgetting flags", timeout=PATIENCE)
    expect(page.locator("#status")).to_contain_text("Step", timeout=PATIENCE)
    assert run.state.step >= reached > 0


def test_cancel(page, studio):
    page.click("#stop")
    expect(page.locator("#status")).to_contain_text("Cancelled", timeout=PATIENCE)
    steps = [e["step"] for e in runs(studio)[0].events() if e["kind"] == "step"]
    assert steps == [*range(1, len(steps) + 1)] and len(steps) < runs(studio)[0].state.steps


def test_another_visitor_sees_none_of_it(chromium, studio):
    stranger = chromium.new_context()
    page = stranger.new_page()
    open_page(page, studio[0])
    expect(page.locator("#status")).to_contain_text("Before and after will appear here")
    mine = next(run for run in runs(studio) if run.weights.is_file())
    assert page.request.get(f"{studio[0]}/files/{mine.id}/weights.safetensors").status == 404
    stranger.close()


def test_erase(page, studio):
    page.get_by_role("tab", name="Runs").click()
    # Not the list as it was before: buttons move when it is drawn anew.
    expect(page.locator("#runs .l2l-run").first).to_contain_text(re.compile("cancelled", re.I))
    first, second = (page.locator(f"#{name}-run input").first for name in ("first", "second"))
    expect(first).to_have_value(re.compile(r"flags · .*cancelled at step \d+"))
    expect(second).to_have_value(re.compile("uploaded images"))
    count = len(runs(studio))
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator("#runs [data-action=erase]").first.click()  # asked, and thought better of it
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#runs [data-action=erase]").first.click()
    expect(page.get_by_text(re.compile(r"Erased \d+ files")).first).to_be_visible()
    assert len(runs(studio)) == count - 1


def test_no_names_of_forgotten_images_are_left(studio):
    for path in studio[1].rglob("*"):
        if path.is_file() and "tmp" not in path.relative_to(studio[1]).parts:
            assert "my-0" not in path.name
            assert b"my-0.png" not in path.read_bytes(), path.name
