"""Holes: boolean tensors (H, W), True where pixels are removed.

People write them as text:

    centre:0.5      a square in the middle, its side half of the image's
    border:0.25     outpainting: a frame, a quarter of the side wide, is removed
    left:0.5        one side; also right, up, down
    random:0.75     three quarters of the cells of an 8 × 8 grid; random:0.75:16 for a 16 × 16 grid
    brush:0.3       brush strokes over about a third of the image
    hybrid:0.4      a box anywhere and brush strokes, each over about half of the share
    file:hole.png   white where the hole is
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from l2l_core.errors import PlainError
from l2l_core.images import ImageError, read_image

SPECS = (
    "centre:0.5, border:0.25, left|right|up|down:0.5, random:0.75, brush:0.3, hybrid:0.4, file:PATH"
)


class MaskError(PlainError):
    """A mask that cannot be read; the message says what can be written."""


def parse_mask(spec: str, size: int, generator: torch.Generator | None = None) -> Tensor:
    """The hole (size, size) that a text describes; `generator` draws random and brush holes.

    Raises:
        MaskError: the text is none of the forms above, or its hole is empty.
    """
    kind, _, rest = spec.partition(":")
    generator = generator or torch.Generator().manual_seed(0)
    if kind == "file":
        mask = _mask_from_file(rest, size)
    else:
        amount, _, grid = rest.partition(":")
        share = _share(spec, amount)
        if kind == "centre":
            mask = _centre(size, share)
        elif kind == "border":
            mask = _border(size, share)
        elif kind in ("left", "right", "up", "down"):
            mask = _side(size, kind, share)
        elif kind == "random":
            mask = _random(size, share, _whole_number(spec, grid or "8"), generator)
        elif kind == "brush":
            mask = _brush(size, share, generator)
        elif kind == "hybrid":
            mask = _hybrid(size, share, generator)
        else:
            raise MaskError(f"There is no mask “{spec}”. Write one of: {SPECS}.")
    if not mask.any():
        raise MaskError(f"The mask “{kind}” has no hole. Make it larger.")
    return mask


def mask_from_drawing(drawing: Image.Image, size: int) -> Tensor:
    """The hole (size, size) of a drawn picture: where it is opaque, or white if it has no alpha."""
    drawing = drawing if drawing.mode in ("RGBA", "LA") else drawing.convert("L")
    channel = drawing.getchannel("A") if "A" in drawing.getbands() else drawing
    small = channel.resize((size, size), Image.Resampling.BOX)
    threshold = 32 if "A" in drawing.getbands() else 127
    return torch.from_numpy(np.array(small) > threshold)


def draw_masks(
    kinds: Sequence[str], count: int, size: int, cell: int, generator: torch.Generator
) -> Tensor:
    """Training holes (count, size, size): one kind and one ratio, chosen by the generator.

    Holes are whole cells of `cell` pixels. All samples of a batch hide equally many, because a
    batch of kept patches is one tensor.
    """
    kind = kinds[_integer(0, len(kinds) - 1, generator)]
    grid = size // cell
    cells = _DRAWN[kind](count, grid, generator)
    return cells.repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)


def _draw_random(count: int, grid: int, generator: torch.Generator) -> Tensor:
    hidden = _integer(round(0.4 * grid**2), round(0.85 * grid**2), generator)
    order = torch.rand(count, grid**2, generator=generator).argsort(dim=1)
    return (order < hidden).view(count, grid, grid)


def _draw_centre(count: int, grid: int, generator: torch.Generator) -> Tensor:
    """Squares of a quarter to three quarters of the side, the middle shifted a little."""
    side = _integer(max(1, grid // 4), max(1, grid - grid // 4), generator)
    middle, room = (grid - side) // 2, max(1, grid // 4)
    cells = torch.zeros(count, grid, grid, dtype=torch.bool)
    for sample in cells:
        top, left = (
            min(max(middle + _integer(-room, room, generator), 0), grid - side) for _ in range(2)
        )
        sample[top : top + side, left : left + side] = True
    return cells


def _draw_border(count: int, grid: int, generator: torch.Generator) -> Tensor:
    width = _integer(1, max(1, (3 * grid) // 8), generator)
    cells = torch.ones(count, grid, grid, dtype=torch.bool)
    cells[:, width : grid - width, width : grid - width] = False
    return cells


def _draw_half(count: int, grid: int, generator: torch.Generator) -> Tensor:
    width = _integer(max(1, grid // 4), max(1, (5 * grid) // 8), generator)
    cells = torch.zeros(count, grid, grid, dtype=torch.bool)
    for sample in cells:
        turned = sample if _integer(0, 1, generator) else sample.T
        if _integer(0, 1, generator):
            turned[:width] = True
        else:
            turned[grid - width :] = True
    return cells


def _draw_brush(count: int, grid: int, generator: torch.Generator) -> Tensor:
    """The cells nearest to a wandering stroke, a quarter to six tenths of them."""
    hidden = _integer(max(1, grid**2 // 4), max(1, (6 * grid**2) // 10), generator)
    return _nearest(_stroke_distance(count, grid, generator), hidden).view(count, grid, grid)


def _stroke_distance(count: int, grid: int, generator: torch.Generator) -> Tensor:
    """How far (count, cells) each cell is from a wandering stroke, one a sample."""
    start = torch.rand(count, 1, 2, generator=generator) * grid
    turns = torch.randn(count, 6, 2, generator=generator) * grid / 3
    corners = torch.cat([start, (start + turns.cumsum(dim=1)).clamp(0, grid)], dim=1)
    ends = corners[:, :-1, None], corners[:, 1:, None]  # (B, segments, 1, 2)
    axis = torch.arange(grid) + 0.5
    places = torch.cartesian_prod(axis, axis)  # (cells, 2)
    along = ends[1] - ends[0]
    share = ((places - ends[0]) * along).sum(dim=3) / along.square().sum(dim=3).clamp_min(1e-6)
    nearest = ends[0] + share.clamp(0, 1).unsqueeze(3) * along
    return (places - nearest).norm(dim=3).amin(dim=1)


def _nearest(distance: Tensor, hidden: int) -> Tensor:
    """The `hidden` smallest distances of each row (B, cells), as booleans."""
    return distance.argsort(dim=1, stable=True).argsort(dim=1) < hidden


def _draw_hybrid(count: int, grid: int, generator: torch.Generator) -> Tensor:
    """A box anywhere, a quarter to half of the side, and a stroke: the union that the published
    Palette was trained on; the stroke is as wide as makes the holes of a batch equally large.
    """
    side = _integer(max(1, grid // 4), max(1, grid // 2), generator)
    box = torch.zeros(count, grid, grid, dtype=torch.bool)
    for sample in box:
        top, left = (_integer(0, grid - side, generator) for _ in range(2))
        sample[top : top + side, left : left + side] = True
    most = max(side**2, (6 * grid**2) // 10)
    hidden = _integer(min(most, side**2 + max(1, grid**2 // 10)), most, generator)
    distance = _stroke_distance(count, grid, generator).masked_fill(box.flatten(1), -1)
    return _nearest(distance, hidden).view(count, grid, grid)


_DRAWN: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "random": _draw_random,
    "centre": _draw_centre,
    "border": _draw_border,
    "half": _draw_half,
    "brush": _draw_brush,
    "hybrid": _draw_hybrid,
}


def _centre(size: int, share: float) -> Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    edge = round(size * (1 - share) / 2)
    mask[edge : size - edge, edge : size - edge] = True
    return mask


def _border(size: int, share: float) -> Tensor:
    if share >= 0.5:
        raise MaskError(
            "A border must be narrower than half the image: border:0.05 to border:0.45."
        )
    mask = torch.ones(size, size, dtype=torch.bool)
    width = round(size * share)
    mask[width : size - width, width : size - width] = False
    return mask


def _side(size: int, side: str, share: float) -> Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    width = round(size * share)
    turned = mask if side in ("up", "down") else mask.T
    if side in ("up", "left"):
        turned[:width] = True
    else:
        turned[size - width :] = True
    return mask


def _random(size: int, share: float, grid: int, generator: torch.Generator) -> Tensor:
    if not 1 <= grid <= size:
        raise MaskError(
            f"A random mask's grid must have from 1 to {size} cells a side, not {grid}."
        )
    hidden = torch.zeros(grid * grid, dtype=torch.bool)
    hidden[torch.randperm(grid * grid, generator=generator)[: round(share * grid * grid)]] = True
    places = torch.arange(size) * grid // size
    return hidden.view(grid, grid)[places][:, places]


def _brush(size: int, share: float, generator: torch.Generator) -> Tensor:
    """Strokes of random place, direction, length and width until they cover the share."""
    canvas = Image.new("L", (size, size))
    pencil = ImageDraw.Draw(canvas)
    while np.count_nonzero(np.asarray(canvas)) < share * size * size:
        x, y, angle, thickness = torch.rand(4, generator=generator).tolist()
        x, y, angle = x * size, y * size, angle * 2 * math.pi
        width = (0.06 + 0.1 * thickness) * size
        for turn, length in torch.rand(4, 2, generator=generator).tolist():
            angle += (turn - 0.5) * math.pi / 2
            step = (0.1 + 0.2 * length) * size
            end = (x + step * math.cos(angle), y + step * math.sin(angle))
            pencil.line([(x, y), end], fill=255, width=round(width))
            for centre in ((x, y), end):
                box = [c - width / 2 for c in centre] + [c + width / 2 for c in centre]
                pencil.ellipse(box, fill=255)
            x, y = end
    return torch.from_numpy(np.array(canvas) > 0)


def _hybrid(size: int, share: float, generator: torch.Generator) -> Tensor:
    """A box of half the share, anywhere, and strokes of the other half."""
    side = max(1, round(size * math.sqrt(share / 2)))
    top, left = (_integer(0, size - side, generator) for _ in range(2))
    mask = _brush(size, share / 2, generator)
    mask[top : top + side, left : left + side] = True
    return mask


def _mask_from_file(path: str, size: int) -> Tensor:
    try:
        return mask_from_drawing(read_image(path).image, size)
    except (ImageError, OSError) as error:
        raise MaskError(f"The mask file cannot be read: {error}") from error


def _share(spec: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise MaskError(f"“{spec}” needs a share above 0 and up to 1. Write one of: {SPECS}.")
    return share


def _whole_number(spec: str, text: str) -> int:
    if not text.isdecimal():
        raise MaskError(f"“{spec}” needs a whole number of cells a side, like random:0.75:16.")
    return int(text)


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=generator).item())
