"""Image sets named by text, and the forget and retain batches drawn from them.

    builtin               every built-in image; builtin:flags, builtin:people/hands: a part of it
proxy                 every built-in image that is not to be forgotten (retain only)
inputs:forget         the images uploaded with a run (a folder below the run's own)
a folder, a file      the images in it
classes:ROOT?…        class folders or shards, read as they are needed; see class_folders.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from l2l_core.builtin import BuiltinImage, builtin_index, groups, open_builtin
from l2l_core.class_folders import KIND as CLASSES
from l2l_core.class_folders import find_images
from l2l_core.images import SUFFIXES, ImageError, fit_square, read_image, to_bytes
from l2l_core.runtime import seeded
from l2l_core.stored_images import DatasetError, StoredPixels


@dataclass(frozen=True)
class ImageSet:
    """Square images, 8 bits a channel: in memory, or on disk and read when asked for."""

    pixels: Tensor | StoredPixels  # (N, 3, S, S) uint8
    sources: tuple[BuiltinImage | None, ...]  # the built-in image each one is, if it is one
    skipped: int = 0  # files that were no readable image when the set was opened

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, index: Tensor | Sequence[int] | slice = slice(None)) -> Tensor:
        """Those images as floats (B, 3, S, S) in [0, 1]."""
        return self.pixels[index].float() / 255

    def subset(self, index: Sequence[int]) -> ImageSet:
        """A set of only these images."""
        pixels, chosen = self.pixels, list(index)
        pixels = pixels.only(chosen) if isinstance(pixels, StoredPixels) else pixels[chosen]
        return ImageSet(pixels, tuple(self.sources[i] for i in chosen), self.skipped)

    def less(self, other: ImageSet) -> ImageSet:
        """A set without the images that another one holds, too: the same file of a class folder, or
        the same pixels.

        Raises:
            DatasetError: nothing is left.
        """
        if isinstance(self.pixels, StoredPixels) and isinstance(other.pixels, StoredPixels):
            gone, own = set(other.pixels.stored), self.pixels.stored
            kept = [i for i, image in enumerate(own) if image not in gone]
        elif isinstance(self.pixels, Tensor) and isinstance(other.pixels, Tensor):
            known = {image.numpy().tobytes() for image in other.pixels}
            kept = [i for i, p in enumerate(self.pixels) if p.numpy().tobytes() not in known]
        else:
            return self
        if not kept:
            raise DatasetError("Everything to be retained is also to be forgotten.")
        return self if len(kept) == len(self) else self.subset(kept)

    @property
    def concepts(self) -> Tensor:
        """Numbers (N,) that images of one built-in concept share; others have their own."""
        names = [f"{s.group}/{s.concept}" if s else i for i, s in enumerate(self.sources)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return torch.tensor([numbers[name] for name in names])

    def typical(self, most: int = 512) -> Tensor:
        """Images (n, 3, S, S) in [0, 1] to take statistics of: all that are in memory, or `most`
        spread evenly over those on disk.
        """
        if isinstance(self.pixels, Tensor):
            return self.images()
        return self.images(spread(len(self), most))


def spread(count: int, most: int) -> Tensor:
    """Positions of all of `count` images, or of `most` spread evenly over them."""
    return torch.linspace(0, count - 1, min(most, count)).round().long()


def load_image_set(
    specs: Sequence[str],
    size: int,
    *,
    split: str = "all",
    base: Path | None = None,
    without: frozenset[str] = frozenset(),
) -> ImageSet:
    """Open image sets and join them.

    Args:
        specs: what to open, as in this module's first lines.
        size: side of the square images, in pixels.
        split: “train”, “test” or “all” of the built-in images and of class folders; others have no
            split.
        base: the folder that `inputs:…` lies in.
        without: ids of built-in images to leave out.

    Raises:
        DatasetError: a spec names nothing, or nothing readable is left.
    """
    if any(_kind(spec) == CLASSES for spec in specs):
        return _stored(specs, size, split)
    chosen: dict[str, BuiltinImage] = {}
    pictures = []
    skipped = 0
    for spec in specs:
        if spec == "proxy" or spec.split(":")[0] == "builtin":
            for image in _builtin(spec, split):
                if image.id not in without:
                    chosen[image.id] = image
        else:
            for path in _files(spec, base):
                try:
                    pictures.append(fit_square(read_image(path).image, size))
                except ImageError:
                    skipped += 1
    if not chosen and not pictures:
        part = "" if split == "all" else f" in the {split} split"
        raise DatasetError(f"No readable image in {', '.join(_shown(s) for s in specs)}{part}.")
    pixels = [_builtin_pixels(size)[[_position(i) for i in chosen]]] if chosen else []
    if pictures:
        pixels.append(to_bytes(pictures, size))
    return ImageSet(torch.cat(pixels), (*chosen.values(), *[None] * len(pictures)), skipped)


def share_of(images: ImageSet, fraction: float, seed: int) -> ImageSet:
    """A fraction of a set, at least one image, drawn by the seed, in its order."""
    if fraction == 1:
        return images
    count = max(1, round(fraction * len(images)))
    chosen = torch.randperm(len(images), generator=seeded(seed, 13))[:count]
    return images.subset(chosen.sort().values.tolist())


def forgotten_ids(specs: Sequence[str]) -> frozenset[str]:
    """Ids of every built-in image, of either split, that these forget sets cover."""
    covered = [_builtin(s, "all") for s in specs if s.split(":")[0] == "builtin"]
    return frozenset(image.id for part in covered for image in part)


@dataclass(frozen=True)
class Batches:
    """Balanced batches: as many forget as retain images, each drawn anew from (seed, step).

    Nothing is remembered between steps, so a resumed run sees what an uninterrupted one would.
    """

    forget: ImageSet
    retain: ImageSet
    size: int  # images of each kind a step
    seed: int
    augment: bool

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """(retain, forget), each (size, 3, S, S) in [0, 1]."""
        retain, forget = self.pick(step)
        retain_images, forget_images = self.retain.images(retain), self.forget.images(forget)
        if self.augment:
            generator = seeded(self.seed, 10, step)
            retain_images = augment(retain_images, generator)
            forget_images = augment(forget_images, generator)
        return retain_images, forget_images

    def pick(self, step: int) -> tuple[Tensor, Tensor]:
        """Positions (size,) in the retain and in the forget set."""
        generator = seeded(self.seed, 1, step)
        weights = self.retain_weights
        retain = torch.multinomial(weights, self.size, replacement=True, generator=generator)
        return retain, self._next_forget(step)

    @cached_property
    def retain_weights(self) -> Tensor:
        """Built-in designs that exist in n skin tones weigh √n rather than n; other images 1."""
        counts: dict[str, int] = {}
        keys = [f"{s.group}/{s.concept}" if s else None for s in self.retain.sources]
        for key in keys:
            if key is not None:
                counts[key] = counts.get(key, 0) + 1
        return torch.tensor([1.0 if k is None else counts[k] ** -0.5 for k in keys])

    def _next_forget(self, step: int) -> Tensor:
        """Positions of this step's forget images: one shuffled pass over the set after another."""
        wanted = range(step * self.size, (step + 1) * self.size)
        return torch.tensor(
            [self._pass(i // len(self.forget))[i % len(self.forget)] for i in wanted]
        )

    def _pass(self, number: int) -> list[int]:
        return _permutation(len(self.forget), self.seed, number)


def augment(
    images: Tensor,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.85, 1.1),
    shift: float = 0.1,
    size: int | None = None,
) -> Tensor:
    """Flip, scale and shift each image (B, 3, S, S); edges are repeated where nothing is known.

    `scale` is the side of the part that is seen, in image sides; `shift` the largest offset of its
    centre, in half sides; `size` the side of the result, S by default.
    """
    count, size = len(images), size or images.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        drawn = torch.rand(count, generator=generator, device=generator.device)
        return (low + (high - low) * drawn).to(images.device)

    zoom, flip = uniform(*scale), torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = zoom * flip, zoom
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-shift, shift), uniform(-shift, shift)
    grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False).clamp(0, 1)


@lru_cache(maxsize=64)
def _permutation(length: int, seed: int, number: int) -> list[int]:
    return torch.randperm(length, generator=seeded(seed, 2, number)).tolist()


def has_split(spec: str) -> bool:
    """Whether a set has a test side, which training never sees; small built-in parts have none.

    Raises:
        DatasetError: no such built-in part.
    """
    kind = _kind(spec)
    return kind == CLASSES or (kind == "builtin" and bool(_builtin(spec, "test")))


def _stored(specs: Sequence[str], size: int, split: str) -> ImageSet:
    if any(_kind(spec) != CLASSES for spec in specs):
        raise DatasetError(f"“{CLASSES}:…” sets can only be joined with others of their kind.")
    found = [image for spec in specs for image in find_images(spec, split)]
    return ImageSet(StoredPixels(found, size), (None,) * len(found))


def _kind(spec: str) -> str:
    return spec.partition(":")[0]


def _builtin(spec: str, split: str) -> list[BuiltinImage]:
    _, _, part = spec.partition(":")
    group, _, subgroup = part.partition("/")
    if group and (group not in groups() or (subgroup and subgroup not in groups()[group])):
        known = groups().get(group)
        names = [f"{group}/{s}" for s in known] if known else list(groups())
        raise DatasetError(f"There is no built-in group “{part}”. There are: {', '.join(names)}.")
    return [
        image
        for image in builtin_index()
        if split in ("all", image.split)
        and group in ("", image.group)
        and subgroup in ("", image.subgroup)
    ]


def _files(spec: str, base: Path | None) -> list[Path]:
    kind, _, name = spec.partition(":")
    if kind == "inputs":
        if base is None or not name.isalnum():
            raise DatasetError(f"“{spec}” is only known inside a run.")
        folder = base / "inputs" / name
    else:
        folder = Path(spec).expanduser()
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DatasetError(
            f"There is no image set “{_shown(spec)}”: no such folder, file or group."
        )
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def _shown(spec: str) -> str:
    """A spec as messages may show it: paths by their last part only."""
    return spec if spec.split(":")[0] in ("builtin", "inputs", "proxy") else Path(spec).name


@lru_cache(maxsize=1)
def _builtin_pixels(size: int) -> Tensor:
    return to_bytes([open_builtin(image.id) for image in builtin_index()], size)


@lru_cache(maxsize=1)
def _positions() -> dict[str, int]:
    return {image.id: place for place, image in enumerate(builtin_index())}


def _position(image_id: str) -> int:
    return _positions()[image_id]
