"""What can be chosen: built-in groups with their pictures, and models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from l2l_core.builtin import BuiltinImage, builtin_index, groups, open_builtin
from l2l_core.images import fit_square, to_png
from l2l_core.registry import FAMILIES, MODELS, ModelSpec
from ui.checkpoints import OPENED, Opened
from ui.text import GROUPS


@lru_cache(maxsize=1)
def group_choices() -> list[tuple[str, str]]:
    """(label, value) of built-in groups, then of their subgroups, with the number of images."""
    counts = Counter(key for i in builtin_index() for key in (i.group, f"{i.group}/{i.subgroup}"))
    parts = [
        f"{group}/{subgroup}"
        for group, subgroups in groups().items()
        for subgroup in subgroups
        if len(subgroups) > 1
    ]
    return [(f"{group_title(key)} ({counts[key]:,})", key) for key in (*groups(), *parts)]


def group_title(key: str) -> str:
    """A group as people read it: “animals › bird” for "animals/animal-bird"."""
    if key in GROUPS:
        return GROUPS[key]
    group, _, subgroup = key.partition("/")
    if not subgroup:
        return group
    first, *rest = subgroup.split("-")
    repeats = rest and (group.startswith(first) or first.startswith(group.rstrip("s")))
    return f"{group} › {' '.join(rest if repeats else (first, *rest))}"


def members(keys: Collection[str]) -> list[BuiltinImage]:
    """The built-in images of some groups or subgroups."""
    return [i for i in builtin_index() if i.group in keys or f"{i.group}/{i.subgroup}" in keys]


@lru_cache(maxsize=128)
def thumbnails(keys: tuple[str, ...], count: int, side: int = 72) -> tuple[bytes, ...]:
    """PNG thumbnails spread over some groups."""
    found = members(keys)
    places = [round(i * len(found) / count) for i in range(count)] if len(found) > count else None
    spread = [found[place] for place in places] if places else found
    return tuple(to_png(fit_square(open_builtin(image.id), side)) for image in spread)


@dataclass(frozen=True)
class Card:
    """A model as people choose it."""

    model: str
    title: str
    about: str
    """What it was trained on, in a sentence."""
    family: str
    size: str
    """Parameters and image side."""
    licence: str
    where: str
    """Where its weights are, or what file to get."""
    ready: bool
    removable: bool = False


def builtin_cards() -> list[Card]:
    """The models that ship with the studio."""
    return [_card(spec) for spec in MODELS.values() if spec.builtin]


def published_cards() -> list[Card]:
    """The models whose weights others publish."""
    return [_card(spec) for spec in MODELS.values() if not spec.builtin]


def opened_cards(opened: Sequence[Opened]) -> list[Card]:
    """Checkpoints that a visitor opened."""
    return [
        Card(
            model=OPENED + one.id,
            title=one.title,
            about="A checkpoint of your own.",
            family=FAMILIES[one.family].title,
            size=one.size,
            licence="licence unknown",
            where="Uploaded by you" if one.uploaded else "On disk, at the path you gave",
            ready=True,
            removable=True,
        )
        for one in opened
    ]


def _card(spec: ModelSpec) -> Card:
    ready = spec.path is not None
    missing = "It is" if spec.builtin else "Get"
    return Card(
        model=spec.name,
        title=spec.title,
        about=spec.description,
        family=FAMILIES[spec.family].title,
        size=spec.size,
        licence=spec.licence,
        where=f"On disk, {spec.source}" if ready else f"Not on disk. {missing} {spec.source}.",
        ready=ready,
    )
