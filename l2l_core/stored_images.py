"""Images that stay on disk, in files or shards, and are decoded when they are asked for.

Importing this loads no PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from l2l_core.errors import PlainError
from l2l_core.images import ImageError, fit_square, read_image

if TYPE_CHECKING:
    from torch import Tensor

READERS = min(8, os.cpu_count() or 1)
"""Threads that decode images."""


class DatasetError(PlainError):
    """An image set that does not exist or holds no image."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """Where one image lies: a file, or a part of a shard."""

    path: str
    label: str
    """Its class id; empty without classes."""
    number: int
    """Its position in the class, from 1: messages tell it by this, not by its name."""
    offset: int = 0
    size: int = -1
    """Bytes from `offset`; -1 for the whole file."""

    @property
    def name(self) -> str:
        """Class, file and place in it; the same wherever the tree lies."""
        return f"{self.label}/{os.path.basename(self.path)}@{self.offset}"

    def read(self) -> bytes:
        """The encoded image."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class StoredPixels:
    """What a tensor (N, 3, S, S) uint8 would give when indexed, read from disk each time."""

    def __init__(self, stored: Sequence[StoredImage], size: int) -> None:
        self.stored, self.size = tuple(stored), size

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: Tensor | Sequence[int] | slice) -> Tensor:
        """Those images (B, 3, S, S), uint8.

        Raises:
            DatasetError: one of them cannot be read.
        """
        import torch

        chosen = self.only(index).stored
        if not chosen:
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        with ThreadPoolExecutor(READERS) as pool:
            pixels = np.stack(list(pool.map(self._read, chosen)))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def only(self, index: Tensor | Sequence[int] | slice) -> StoredPixels:
        """The same for some of the images; nothing is read."""
        places = range(len(self))[index] if isinstance(index, slice) else index
        return StoredPixels([self.stored[int(i)] for i in places], self.size)

    def _read(self, image: StoredImage) -> np.ndarray:
        """One image (S, S, 3), uint8."""
        try:
            return np.asarray(fit_square(read_image(image.read()).image, self.size))
        except (ImageError, OSError) as error:
            raise DatasetError(
                f"Image {image.number} of class “{image.label}”, in sorted order, cannot be used: "
                f"{error} Replace it, or take it away."
            ) from error
