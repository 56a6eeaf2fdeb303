"""Uploaded pictures: which can be used, and what their owner should know about the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from l2l_core.images import FORMATS, ImageError, display_name, read_image

MOST_IMAGES = 500
LONGEST_SIDE = 1024
"""In pixels; no model reads more, and hundreds of photographs must fit in memory."""


@dataclass(frozen=True)
class Checked:
    """What became of some uploads."""

    good: list[str]
    """Paths that can be used."""
    problems: list[str]
    """One sentence for each that cannot, beginning with its name."""
    notes: list[str]
    """What was done to some of the good ones."""


def check_uploads(paths: Sequence[str]) -> Checked:
    """Sort uploads into usable and not."""
    checked = Checked([], [], [])
    for path in paths:
        name = display_name(path)
        try:
            loaded = read_image(path)
        except ImageError as error:
            checked.problems.append(f"{name}: {error}")
        else:
            checked.good.append(path)
            checked.notes.extend(f"{name}: {note}" for note in loaded.notes)
    return checked


def recognised(paths: Sequence[str]) -> tuple[str, ...]:
    """Those that begin like images: a quick look, to count them before they are checked."""
    return tuple(path for path in paths if _begins_well(path))


def _begins_well(path: str) -> bool:
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # as in `read_image`: arbitrary bytes raise whatever they lead to
        return False


def read_uploads(paths: Sequence[str]) -> list[Image.Image]:
    """All uploads as pictures, large ones made smaller.

    Raises:
        ImageError: too many, or which ones cannot be used and why.
    """
    if len(paths) > MOST_IMAGES:
        raise ImageError(
            f"{len(paths)} images at once are too many; at most {MOST_IMAGES}. "
            "Larger sets go through the command line, as a folder."
        )
    images, problems = [], []
    for path in paths:
        try:
            image = read_image(path).image
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            images.append(image)
        except ImageError as error:
            problems.append(f"{display_name(path)}: {error}")
    if problems:
        raise ImageError(f"Remove or replace these images first. {' '.join(problems[:5])}")
    return images
