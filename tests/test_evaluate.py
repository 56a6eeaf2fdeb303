"""What a run is measured on, and completing within the memory there is."""

from pathlib import Path

import pytest
import torch

from l2l_core.config import UnlearnRequest
from l2l_core.evaluation.evaluate import (
    complete_batch,
    complete_in_parts,
    evaluate,
    evaluation_sets,
)
from l2l_core.masks import parse_mask
from l2l_core.models import load_gold, load_gold_standard, load_model
from l2l_core.runtime import seeded


@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
def test_less_memory_gives_the_same_completions(family, monkeypatch):
    """Where a device runs out of memory, fewer images are completed at once, to the same end."""
    model, sizes = load_model(f"{family}-fluent"), []
    images = torch.rand(5, 3, 64, 64, generator=seeded(0))
    hole = parse_mask("centre:0.25", 64)
    steps = None if family == "mae" else 2
    expected = complete_batch(model, images, hole, seed=3, number=1, precision="fp32", steps=steps)
    complete = model.complete

    def small_device(images, *rest, **options):
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return complete(images, *rest, **options)

    monkeypatch.setattr(model, "complete", small_device)
    found = complete_batch(model, images, hole, seed=3, number=1, precision="fp32", steps=steps)
    assert sizes == [5, 3, 2, 2, 1]
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_many_images_are_completed_in_batches(monkeypatch):
    """As if at once, and with their steps told as those of all."""
    model, hole, told = load_model("palette-fluent"), parse_mask("centre:0.25", 64), []
    images = torch.rand(5, 3, 64, 64, generator=seeded(0))
    expected = complete_in_parts(model, images, hole, (3, 31), "fp32", 2)
    monkeypatch.setattr("l2l_core.evaluation.evaluate.CPU_BATCH", 2)

    def on_step(step, steps, so_far):
        told.append((step, steps, len(so_far)))

    found = complete_in_parts(model, images, hole, (3, 31), "fp32", 2, on_step)
    assert told == [(1, 6, 2), (2, 6, 2), (3, 6, 4), (4, 6, 4), (5, 6, 5), (6, 6, 5)]
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_one_image_that_does_not_fit_is_an_error(monkeypatch):
    model = load_model("mae-fluent")

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model, "complete", full)
    with pytest.raises(torch.OutOfMemoryError):
        complete_batch(model, torch.rand(2, 3, 64, 64), parse_mask("centre:0.5", 64), 0, 0)


def test_what_is_forgotten_is_not_measured_as_retained(picture_folders, tmp_path):
    """Neither uploads nor the images of a group that also lie in the retain folder."""
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for folder in picture_folders:
        for file in Path(folder).iterdir():
            (mixed / f"{Path(folder).name}-{file.name}").write_bytes(file.read_bytes())
    request = UnlearnRequest(forget=("builtin:flags", picture_folders[0]), retain=(str(mixed),))
    sets = evaluation_sets(request, 64)
    forgotten = {image.tobytes() for image in (sets.uploads.images() * 255).byte().numpy()}
    assert forgotten
    for kept in (sets.retain, sets.neighbours):
        shown = {image.tobytes() for image in (kept.images() * 255).byte().numpy()}
        assert shown and not shown & forgotten


def test_own_images_beside_built_in_ones_are_measured(picture_folders):
    request = UnlearnRequest(
        forget=("builtin:flags",), retain=("builtin:symbols", picture_folders[1])
    )
    sets = evaluation_sets(request, 64, limit=10_000)
    own = [source for source in sets.retain.sources if source is None]
    assert len(own) == len(list(Path(picture_folders[1]).iterdir()))
    assert not sets.retain_is_held_out


def test_a_model_that_never_saw_the_forget_images_is_measured_beside_them():
    """On the forget set alone: as one that is the unlearned model itself, its values are those."""
    request = UnlearnRequest(forget=("builtin:flags",))
    before, never = load_model("mae-fluent"), load_gold_standard(request)
    sets = evaluation_sets(request, 64, limit=8)
    found = evaluate(request, before, never, sets, reference=never)["sets"]
    for metric in ("cosine", "psnr"):
        values = found["forget"][metric]
        assert values["never_saw"] == pytest.approx(values["after"]) != values["before"]
    assert all("never_saw" not in found[name]["cosine"] for name in ("retain", "neighbours"))
    assert load_gold_standard(UnlearnRequest(forget=("builtin:food",))) is None


def test_a_gold_standard_keeps_its_own_configuration(tiny_mae, tiny_checkpoint, tmp_path):
    """The original's options are for published files, which have none."""
    flags = {"forget": ("builtin:flags",)}
    never = load_gold_standard(
        UnlearnRequest(**flags, model="mage-fluent", model_options={"heads": 8})
    )
    assert never.config.heads == 4
    request = UnlearnRequest(**flags, model="mae", model_options={"heads": 3, "decoder_heads": 4})
    assert load_gold(request, tiny_checkpoint).config == tiny_mae.config
    torch.save({"model": tiny_mae.state_dict()}, tmp_path / "mae.pth")
    opened = load_gold(request, tmp_path / "mae.pth").config
    assert (opened.heads, opened.decoder_heads) == (3, 4)
