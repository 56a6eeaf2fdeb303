"""Images in class folders or shards, found by class and read when they are needed.

    classes:ROOT                          every image
    classes:ROOT?take=1-100               the first 100 classes, in sorted order
    classes:ROOT?list=FILE&take=101-200   classes 101 to 200 in a text file's order, one id a line
    classes:ROOT?list=FILE&except=1-200   every class of the tree but these
    classes:ROOT?take=1-100&each=50       the first 50 images of each class

Several ranges are joined by commas: take=1-50,91-100. Which split is read is said apart: “train” is
the folder ROOT/train or train2017, “test” is val, validation or val2017. Such a folder holds one of

    <class>/IMAGE            ImageNet-1K, Places-365
    <letter>/<class>/IMAGE   Places-365 in its first form; <letter>/<class>/<part>/IMAGE, too
    IMAGE                    COCO-2017: no classes
    *.tar                    webdataset shards: KEY.jpg, and its class in KEY.cls

and shards may also lie in ROOT itself, with the split in their names. Nothing is extracted: a shard
is scanned once, then its images are read in place. Importing this loads no PyTorch.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from l2l_core.images import SUFFIXES
from l2l_core.stored_images import DatasetError, StoredImage

KIND = "classes"
FORM = "classes:ROOT?list=FILE&take=1-100&each=50"
SPLIT_NAMES = {"train": ("train", "train2017"), "test": ("val", "validation", "val2017")}


Ranges = tuple[tuple[int, int], ...]
"""Positions in a class list, first and last of each range, from 1."""


@dataclass(frozen=True)
class Selection:
    """The parts of a `classes:` text."""

    root: Path
    list: Path | None = None
    take: Ranges = ()
    leave: Ranges = ()
    """`except` in the text."""
    each: int | None = None

    @classmethod
    def parse(cls, spec: str) -> Self:
        """Read a text of the forms above.

        Raises:
            DatasetError: it has another form.
        """
        root, _, query = spec.removeprefix(f"{KIND}:").partition("?")
        given = dict(part.partition("=")[::2] for part in query.split("&") if part)
        if not root or (unknown := given.keys() - {"list", "take", "except", "each"}):
            what = f"an unknown part “{min(unknown)}”" if root else "no folder"
            raise DatasetError(f"The image set has {what}. Write it as {FORM}.")
        if {"take", "except"} <= given.keys():
            raise DatasetError("An image set has either take= or except=, not both.")
        each = given.get("each")
        if each is not None and not (each.isdecimal() and int(each) > 0):
            raise DatasetError(f"each={each}: it must be a number of images, 1 or more.")
        return cls(
            Path(root).expanduser(),
            Path(given["list"]).expanduser() if "list" in given else None,
            read_ranges("take", given["take"]) if "take" in given else (),
            read_ranges("except", given["except"]) if "except" in given else (),
            int(each) if each else None,
        )

    def choose(self, tree: Sequence[str]) -> Sequence[str]:
        """The wanted ones among a tree's sorted class ids.

        Raises:
            DatasetError: the list is unreadable, too short, or names a class the tree lacks.
        """
        order = tree if self.list is None else read_class_list(self.list)
        ranges = self.take or self.leave or ((1, len(order)),)
        last = max(end for _, end in ranges)
        if last > len(order):
            where = "the tree" if self.list is None else f"“{self.list.name}”"
            wanted = written(ranges)
            raise DatasetError(f"Classes {wanted} are wanted, but {where} has {len(order)}.")
        if absent := [name for name in order[:last] if name not in set(tree)]:
            raise DatasetError(
                f"“{self.root.name}” has no class “{absent[0]}” ({len(absent)} are missing). "
                "Check the class list, and that the tree is whole."
            )
        named = [name for start, end in ranges for name in order[start - 1 : end]]
        return [name for name in tree if name not in set(named)] if self.leave else named


def find_images(spec: str, split: str) -> list[StoredImage]:
    """The images of a `classes:` text, class by class, files in sorted order.

    Args:
        split: “train”, “test” or “all”.

    Raises:
        DatasetError: no such tree, split or class, or no image in it.
    """
    selection = Selection.parse(spec)
    root = selection.root
    if not root.is_dir():
        raise DatasetError(f"There is no folder “{root.name}” with class folders.")
    found: list[StoredImage] = []
    for part in ("train", "test") if split == "all" else (split,):
        if not (places := _split_places(root, part)):
            names = ", ".join(SPLIT_NAMES[part])
            raise DatasetError(f"“{root.name}” has none of the folders {names}, nor such shards.")
        tree = _tree(places)
        for name in selection.choose(_class_order(root, part)):
            if name not in tree:
                if selection.leave:  # “all but these” names no class that must be there
                    continue
                raise DatasetError(f"“{root.name}” has class “{name}”, but not in {part}.")
            content = tree[name]
            images = _files(content, name) if isinstance(content, Path) else content
            found += images[: selection.each]
    if not found:
        raise DatasetError(f"There is no image in “{root.name}”.")
    return found


def read_class_list(path: Path) -> list[str]:
    """Class ids of a text file, one a line; empty lines and those starting with # do not count.

    The published Places list has lines like “/b/bazaar/indoor 41”: its class is bazaar-indoor.

    Raises:
        DatasetError: the file cannot be read, is empty, or names a class twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The class list “{path.name}” cannot be read.") from error
    texts = (re.sub(r"\s+\d+$", "", line.strip()) for line in lines)
    names = [_class_id(text.strip("/").split("/")) for text in texts if text and text[0] != "#"]
    if not names or len(set(names)) < len(names):
        problem = "names a class twice" if names else "is empty"
        raise DatasetError(f"The class list “{path.name}” {problem}.")
    return names


def _class_id(parts: Sequence[str]) -> str:
    """A class by the folders that lead to it; a leading letter only sorts, as in Places-365."""
    return "-".join(parts[1:] if len(parts) > 1 and len(parts[0]) == 1 else parts)


def written(ranges: Iterable[tuple[int, int]]) -> str:
    """Ranges of positions as `take` and `except` have them, in order, joined where they meet."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1] + 1:
            start, end = joined[-1][0], max(end, joined.pop()[1])
        joined.append((start, end))
    return ",".join(f"{start}-{end}" for start, end in joined)


def read_ranges(name: str, text: str) -> Ranges:
    """The ranges of a text like “1-100” or “1-50,91-100”; `name` is what an error calls it.

    Raises:
        DatasetError: it has another form.
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)-(\d+)", part)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise DatasetError(f"{name}={text}: write first and last position, like {name}=1-100.")
        found.append((int(match[1]), int(match[2])))
    return tuple(found)


def _split_places(root: Path, split: str) -> tuple[Path, ...]:
    """The folder of a split, or its shards."""
    for name in SPLIT_NAMES[split]:
        if (folder := root / name).is_dir():
            return tuple(sorted(folder.glob("*.tar"))) or (folder,)
    return tuple(sorted({p for name in SPLIT_NAMES[split] for p in root.glob(f"*{name}*.tar")}))


def _class_order(root: Path, split: str) -> list[str]:
    """Sorted class ids. The folders of both splits count, so that a class that one of them lacks
    does not shift the others; shards are only scanned for their own split.
    """
    names: set[str] = set()
    for part in SPLIT_NAMES:
        places = _split_places(root, part)
        if places and (part == split or places[0].is_dir()):
            names |= _tree(places).keys()
    if len(names) > 1:
        names.discard("")  # one split without classes
    return sorted(names, key=lambda n: (0, int(n), n) if n.isdecimal() else (1, 0, n))


@lru_cache(maxsize=4)
def _tree(places: tuple[Path, ...]) -> dict[str, Path | list[StoredImage]]:
    """Class id to its folder, or to its images in shards."""
    return dict(_scan(places)) if places[0].is_file() else dict(_class_folders(places[0]))


def _class_folders(folder: Path) -> dict[str, Path]:
    """Class id to folder; a folder without folders is itself the only, nameless class."""
    found: dict[str, Path] = {}
    for outer in _folders(folder):
        for inner in _folders(outer) if len(outer.name) == 1 else [outer]:
            deeper = _folders(inner) if inner != outer else []
            for last in deeper or [inner]:
                found[_class_id(last.relative_to(folder).parts)] = last
    return found or {"": folder}


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())


def _files(folder: Path, label: str) -> list[StoredImage]:
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if os.path.splitext(e.name)[1].lower() in SUFFIXES)
    paths = enumerate((os.path.join(folder, name) for name in names), start=1)
    return [StoredImage(path, label, number) for number, path in paths]


def _scan(shards: Sequence[Path]) -> dict[str, list[StoredImage]]:
    """Images of webdataset shards by class, in their order."""
    found: dict[str, list[StoredImage]] = {}
    for shard in shards:
        images: dict[str, tuple[int, int]] = {}
        labels: dict[str, str] = {}
        try:
            with tarfile.open(shard, "r:") as tar:
                for member in tar:
                    folder, _, base = member.name.rpartition("/")
                    key, _, extension = base.partition(".")
                    key = f"{folder}/{key}"
                    if not member.isreg():
                        continue
                    if "." + extension.lower() in SUFFIXES:
                        images[key] = (member.offset_data, member.size)
                    elif extension == "cls" and (file := tar.extractfile(member)):
                        labels[key] = file.read(200).decode("utf-8", "replace").strip()
        except (tarfile.TarError, OSError) as error:
            raise DatasetError(
                f"The shard “{shard.name}” is damaged, or compressed: use plain tar files."
            ) from error
        for key, (offset, size) in images.items():
            label = labels.get(key, "")
            known = found.setdefault(label, [])
            known.append(StoredImage(str(shard), label, len(known) + 1, offset, size))
    return found
