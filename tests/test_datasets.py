"""Image sets by name, and balanced batches."""

import pytest
import torch
from PIL import Image

from l2l_core.builtin import builtin_index
from l2l_core.datasets import (
    Batches,
    DatasetError,
    ImageSet,
    augment,
    forgotten_ids,
    load_image_set,
    share_of,
)
from l2l_core.runtime import seeded


def test_groups_subgroups_and_splits():
    flags = load_image_set(("builtin:flags",), 16)
    train, test = (load_image_set(("builtin:flags",), 16, split=s) for s in ("train", "test"))
    assert len(flags) == len(train) + len(test) == 253
    assert flags.pixels.shape == (253, 3, 16, 16) and flags.pixels.dtype == torch.uint8
    part = load_image_set(("builtin:flags/flag",), 16)
    assert 0 < len(part) < 253
    assert {source.subgroup for source in part.sources if source} == {"flag"}


def test_proxy_is_everything_that_is_not_forgotten():
    forgotten = forgotten_ids(("builtin:flags", "builtin:food/drink"))
    proxy = load_image_set(("proxy",), 16, without=forgotten)
    ids = {source.id for source in proxy.sources if source}
    assert ids.isdisjoint(forgotten)
    assert len(ids) + len(forgotten) == len(builtin_index())


def test_what_is_forgotten_is_not_retained(picture_folders):
    forget, retain = (load_image_set((folder,), 16) for folder in picture_folders)
    both = load_image_set((*picture_folders,), 16)
    assert torch.equal(both.less(forget).pixels, retain.pixels)
    assert retain.less(forget) is retain
    with pytest.raises(DatasetError, match="also to be forgotten"):
        forget.less(both)


def test_skin_tones_show_one_concept():
    hands = load_image_set(("builtin:people/hands",), 16)
    assert 1 < len(hands.concepts.unique()) < len(hands) / 4


def test_folders_files_and_inputs(picture_folders, tmp_path):
    forget, _ = picture_folders
    assert len(load_image_set((forget,), 16)) == 6
    assert len(load_image_set((f"{forget}/0.png",), 16)) == 1
    (tmp_path / "inputs").mkdir()
    (tmp_path / "forget").rename(tmp_path / "inputs" / "forget")
    assert len(load_image_set(("inputs:forget",), 16, base=tmp_path)) == 6


def test_unreadable_files_are_counted_not_fatal(picture_folders):
    forget, _ = picture_folders
    with open(f"{forget}/broken.png", "wb") as file:
        file.write(b"nothing")
    images = load_image_set((forget,), 16)
    assert (len(images), images.skipped) == (6, 1)
    assert images.subset([0, 2]).skipped == share_of(images, 0.5, seed=0).skipped == 1


@pytest.mark.parametrize(
    "spec",
    ["builtin:cars", "builtin:flags/cars", "/no/such/folder", "inputs:forget", "inputs:../x"],
)
def test_sets_that_do_not_exist(spec):
    with pytest.raises(DatasetError) as caught:
        load_image_set((spec,), 16)
    assert "/no/such" not in str(caught.value)


def test_an_empty_folder(tmp_path):
    with pytest.raises(DatasetError, match="No readable image"):
        load_image_set((str(tmp_path),), 16)


def numbered(count):
    """Images whose colour is their number."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    return ImageSet(pixels.contiguous(), (None,) * count)


def test_batches_follow_from_seed_and_step():
    batches = Batches(numbered(5), numbered(50), 8, seed=1, augment=True)
    first, again = batches.draw(3), batches.draw(3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], batches.draw(4)[0])
    assert first[0].shape == first[1].shape == (8, 3, 8, 8)


def test_every_forget_image_comes_equally_often():
    batches = Batches(numbered(5), numbered(9), 4, seed=1, augment=False)
    drawn = torch.cat([batches.draw(step)[1][:, 0, 0, 0] for step in range(5)])
    counts = (drawn * 255).round().long().bincount(minlength=5)
    assert counts.tolist() == [4] * 5


def test_skin_tones_do_not_crowd_out_the_rest():
    retain = load_image_set(("builtin:people",), 16)
    weights = Batches(retain, retain, 1, 0, False).retain_weights
    rowing = [
        w
        for w, s in zip(weights.tolist(), retain.sources, strict=True)
        if s.concept == "rowing boat"
    ]
    assert len(rowing) == 18
    assert sum(rowing) == pytest.approx(18**0.5, rel=1e-4)


def test_augmentation_keeps_shape_range_and_seed():
    images = torch.rand(4, 3, 16, 16, generator=seeded(0))
    changed = augment(images, seeded(1))
    assert changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(changed, augment(images, seeded(1)))
    assert not torch.equal(changed, images)
    # Without scale and shift an image stays as it is, or is mirrored.
    plain = augment(images, seeded(1), scale=(1, 1), shift=0)
    same = [torch.allclose(p, i, atol=1e-4) for p, i in zip(plain, images, strict=True)]
    mirrored = [torch.allclose(p, i.flip(2), atol=1e-4) for p, i in zip(plain, images, strict=True)]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))


def test_uploads_can_be_any_shape(tmp_path):
    Image.new("RGB", (30, 90), "red").save(tmp_path / "tall.png")
    assert load_image_set((str(tmp_path),), 16).pixels.shape == (1, 3, 16, 16)
