"""The built-in images: an index and small pictures in one archive, made by
`recipes/build_images.py`.

Imports neither PyTorch nor NumPy: the web process lists groups and shows thumbnails with it.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from l2l_core.registry import assets_folder

GROUPS = (
    "smileys",
    "people",
    "animals",
    "food",
    "travel",
    "activities",
    "objects",
    "symbols",
    "flags",
    "photos",
)


@dataclass(frozen=True)
class BuiltinImage:
    """One built-in image."""

    id: str
    name: str
    group: str
    subgroup: str
    concept: str
    """What it shows, whatever its skin tone or crop; a concept lies wholly in one split."""
    split: str
    """“train” or “test”."""


@lru_cache(maxsize=1)
def builtin_index() -> tuple[BuiltinImage, ...]:
    """Every built-in image, in the archive's order.

    Raises:
        FileNotFoundError: the archive is not where the studio was installed.
    """
    return tuple(BuiltinImage(**entry) for entry in json.loads(_archive().read("index.json")))


def open_builtin(image_id: str) -> Image.Image:
    """One image, RGB on white.

    Raises:
        KeyError: no such id.
    """
    return Image.open(io.BytesIO(_archive().read(f"{image_id}.webp"))).convert("RGB")


@lru_cache(maxsize=1)
def groups() -> dict[str, tuple[str, ...]]:
    """Groups and their subgroups, in the order pages show them."""
    found: dict[str, dict[str, None]] = {}
    for image in builtin_index():
        found.setdefault(image.group, {})[image.subgroup] = None
    return {group: tuple(found[group]) for group in GROUPS if group in found}


@lru_cache(maxsize=1)
def _archive() -> zipfile.ZipFile:
    path = assets_folder() / "builtin" / "images.zip"
    if not path.is_file():
        raise FileNotFoundError("assets/builtin/images.zip is missing; reinstall the studio.")
    return zipfile.ZipFile(path)
