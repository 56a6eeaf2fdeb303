"""The images a run is compared on."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from l2l_core.config import UnlearnRequest
from l2l_core.jobs.gallery import Gallery


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    for shade in (10, 120, 240):
        Image.new("RGB", (20, 20), (shade, 0, 255 - shade)).save(folder / f"{shade}.png")
    return str(folder)


def gallery(*forget):
    request = UnlearnRequest(forget=forget, retain=("builtin:food",))
    return Gallery(request, 16, Path())


def test_held_out_trained_and_uploaded_images_take_turns(uploads):
    rows, images = gallery("builtin:flags", uploads).page(0, 9)
    forget = [row["label"] for row in rows if row["role"] == "forget"]
    kinds = [label.rpartition(" · ")[2] for label in forget]
    assert kinds[:2] == ["held out", "trained on"] == kinds[3:5] == kinds[6:8]
    assert all(kinds[place].startswith("Image") for place in (2, 5, 8))
    plain = images[[2, 5, 8]].flatten(2)
    assert torch.equal(plain.amin(dim=2), plain.amax(dim=2))  # each upload is one colour
    assert len({tuple(colour) for colour in plain[:, :, 0].tolist()}) == 3
    assert {row["role"] for row in rows} == {"forget", "nearest", "retain"}


def test_uploads_alone(uploads):
    rows, _ = gallery(uploads).page(0, 9)
    assert [r["label"] for r in rows if r["role"] == "forget"] == ["Image 1", "Image 2", "Image 3"]


def test_no_image_comes_twice():
    alone = gallery("builtin:flags").forget
    names = [source.id for source in alone.sources]
    assert len(names) == len(set(names)) > 200


def test_no_neighbour_comes_twice():
    """All flags have one of these few as their nearest."""
    request = UnlearnRequest(forget=("builtin:flags",), retain=("builtin:symbols/arrow",))
    near = Gallery(request, 16, Path()).neighbours
    names = [source.id for source in near.sources]
    assert len(names) == len(set(names)) > 1


def test_what_is_forgotten_is_no_retain_image(uploads, tmp_path):
    """Also where it lies in the retain folder, too, as the trainer leaves it out there."""
    for shade in (60, 200):
        Image.new("RGB", (20, 20), (0, shade, 0)).save(tmp_path / f"{shade}.png")
    for file in Path(uploads).iterdir():
        (tmp_path / f"copy-{file.name}").write_bytes(file.read_bytes())
    request = UnlearnRequest(forget=(uploads,), retain=(str(tmp_path),))
    rows, images = Gallery(request, 16, Path()).page(0, 9)
    greens = images[[row["role"] != "forget" for row in rows]][:, :, 0, 0]
    assert len(greens) == 3 and (greens[:, 1] > 0).all()  # two retain images, and the nearest


@pytest.mark.parametrize(("split", "trained"), [("train", {"train"}), ("all", {"train", "test"})])
def test_held_out_is_what_was_not_trained_on(split, trained):
    request = UnlearnRequest(forget=("builtin:flags",), retain=("builtin:food",), split=split)
    shown = Gallery(request, 16, Path())
    for place, source in enumerate(shown.forget.sources):
        assert shown._label(shown.forget, place).endswith("trained on") == (source.split in trained)
    rows, _ = shown.page(0, 9)
    assert any(row["label"].endswith("held out") for row in rows) == (split == "train")
