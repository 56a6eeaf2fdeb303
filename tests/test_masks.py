"""Properties of holes."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from l2l_core.config import MASK_KINDS
from l2l_core.masks import MaskError, draw_masks, mask_from_drawing, parse_mask
from l2l_core.runtime import seeded


@pytest.mark.parametrize(
    ("spec", "share"),
    [
        ("centre:0.5", 0.25),
        ("centre:1", 1.0),
        ("border:0.25", 0.75),
        ("left:0.5", 0.5),
        ("right:0.25", 0.25),
        ("up:0.5", 0.5),
        ("down:0.125", 0.125),
        ("random:0.75", 0.75),
        ("random:0.5:16", 0.5),
    ],
)
def test_share_of_the_image(spec, share):
    mask = parse_mask(spec, 64, seeded(0))
    assert mask.dtype == torch.bool and mask.shape == (64, 64)
    assert mask.float().mean().item() == pytest.approx(share)


def test_sides_are_where_they_say():
    assert parse_mask("left:0.5", 64)[:, :32].all() and not parse_mask("left:0.5", 64)[:, 32:].any()
    assert parse_mask("right:0.5", 64)[:, 32:].all()
    assert parse_mask("up:0.5", 64)[:32].all() and not parse_mask("up:0.5", 64)[32:].any()
    assert parse_mask("down:0.5", 64)[32:].all()


@pytest.mark.parametrize("spec", ["centre:0.3", "border:0.15"])
@pytest.mark.parametrize("size", [64, 224, 37])
def test_centre_and_border_are_symmetric(spec, size):
    mask = parse_mask(spec, size)
    assert torch.equal(mask, mask.flip(0)) and torch.equal(mask, mask.T)


def test_brush_can_cover_everything():
    assert parse_mask("brush:1", 64).all()


def test_brush_covers_about_its_share():
    shares = [parse_mask("brush:0.3", 64, seeded(s)).float().mean().item() for s in range(10)]
    assert all(0.3 <= share < 0.45 for share in shares)


@pytest.mark.parametrize("spec", ["random:0.5", "brush:0.3"])
def test_the_seed_decides(spec):
    first, again, other = (parse_mask(spec, 64, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    "spec",
    [
        "centre",
        "centre:0",
        "centre:2",
        "centre:nan",
        "circle:0.5",
        "border:0.5",
        "random:0.5:x",
        "random:0.5:999",
        "centre:0.001",
        "file:/nowhere.png",
        "",
    ],
)
def test_what_cannot_be_read_is_said(spec):
    with pytest.raises(MaskError):
        parse_mask(spec, 64)


def test_a_mask_file_is_white_where_the_hole_is(tmp_path):
    image = Image.new("L", (128, 128))
    ImageDraw.Draw(image).rectangle((0, 0, 63, 127), fill=255)
    image.save(tmp_path / "hole.png")
    assert torch.equal(parse_mask(f"file:{tmp_path / 'hole.png'}", 64), parse_mask("left:0.5", 64))


def test_a_drawing_is_a_hole_where_it_is_opaque():
    drawing = np.zeros((128, 128, 4), np.uint8)
    drawing[:64, :, :] = 255
    assert torch.equal(mask_from_drawing(Image.fromarray(drawing), 64), parse_mask("up:0.5", 64))
    assert not mask_from_drawing(Image.fromarray(drawing * 0), 64).any()


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("cell", [4, 8, 16])
def test_training_holes(kind, cell):
    """Whole cells, something hidden and something visible, as many in each sample."""
    for seed in range(20):
        masks = draw_masks((kind,), 6, 64, cell, seeded(seed))
        assert masks.shape == (6, 64, 64)
        cells = masks[:, ::cell, ::cell]
        assert torch.equal(cells.repeat_interleave(cell, 1).repeat_interleave(cell, 2), masks)
        hidden = cells.flatten(1).sum(dim=1)
        assert hidden.min() > 0
        assert hidden.unique().numel() == 1 and hidden.max() < cells[0].numel()
    again = draw_masks((kind,), 6, 64, cell, seeded(19))
    assert torch.equal(again, masks)


def test_a_hybrid_hole_holds_a_box_and_more():
    masks = draw_masks(("hybrid",), 8, 64, 4, seeded(1))
    boxes = masks.unfold(1, 16, 1).unfold(2, 16, 1).flatten(3).all(dim=3)
    assert boxes.flatten(1).any(dim=1).all()  # at least a quarter of the side
    written = parse_mask("hybrid:0.4", 64, seeded(1)).float().mean()
    assert 0.2 <= written <= 0.5
