"""Runs as something to learn from: what differs between two, and how to do one again."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2l_core.config import PRESETS, ConfigError, preset_settings
from l2l_core.jobs.store import Run
from l2l_core.registry import family_of
from ui.checkpoints import OPENED, Opened
from ui.form import Form, count, defaults, label
from ui.views import moment

SETS = {
    "forget": "Forget similarity",
    "forget_uploads": "Forget similarity (the images themselves)",
    "neighbours": "Nearest retain similarity",
    "retain": "Retain similarity",
}
IMAGES = {"forget": "Forget images", "retain": "Retain images"}


@dataclass(frozen=True)
class Difference:
    """One line in which two runs differ, or whose numbers are worth seeing side by side."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class Differences:
    """Two runs side by side."""

    titles: tuple[str, str]
    settings: list[Difference]
    """Only those that differ."""
    numbers: list[Difference]
    """Cosines with the truth, set by set, as the look at the end of each run found them."""


def differences(first: Run, second: Run) -> Differences:
    """What was asked differently, and what came of it."""
    asked = [_asked(run) for run in (first, second)]
    settings = [
        Difference(IMAGES.get(name) or label(name), *(_said(values.get(name)) for values in asked))
        for name in dict.fromkeys([*asked[0], *asked[1]])
        if asked[0].get(name) != asked[1].get(name)
    ]
    measured = [(run.metrics or {}).get("sets", {}) for run in (first, second)]
    numbers = [
        Difference(title, *(_change(sets.get(name)) for sets in measured))
        for name, title in SETS.items()
        if any(name in sets for sets in measured)
    ]
    return Differences(_titles(first, second), settings, numbers)


def form_of(run: Run, opened: list[Opened], scratch: Path) -> Form:
    """The form that asks for a run again; its pictures are copied into `scratch`.

    Args:
        opened: the checkpoints its owner has open; one of them, if the run started from one.

    Raises:
        ConfigError: the checkpoint is gone, or the run was asked for in a way the page has not.
    """
    request, values = run.request, run.request.to_dict()
    model = request.model
    if request.checkpoint:
        ids = [one.id for one in opened if one.checkpoint == request.checkpoint]
        if not ids:
            raise ConfigError("This run's checkpoint is not open any more. Open it again first.")
        model = OPENED + ids[-1]
    retain = request.retain
    source = "proxy" if retain == ("proxy",) else "uploads" if _own(retain) else "groups"
    usual = defaults(request.model)
    settings = {
        name: _listed(value)
        for name, value in values.items()
        if name in usual and name not in _PLACED and _listed(value) != _listed(usual[name])
    }
    presets = {name: preset_settings(name, request.model) for name in PRESETS}
    preset = next((p for p, given in presets.items() if given.items() <= values.items()), "")
    for name in presets.get(preset, ()):
        settings.pop(name, None)
    return Form(
        model=model,
        options={family_of(request.model): dict(request.model_options)},
        forget_files=_copies(run, "forget", scratch),
        forget_groups=_groups(request.forget),
        retain_from=source,
        retain_files=_copies(run, "retain", scratch) if source == "uploads" else (),
        retain_groups=_groups(retain) if source == "groups" else (),
        preset=preset or "balanced",
        settings=settings,
    )


_PLACED = ("retain", "model", "checkpoint", "model_options")


def _own(specs: tuple[str, ...]) -> bool:
    return any(spec.startswith("inputs:") for spec in specs)


def _groups(specs: tuple[str, ...]) -> tuple[str, ...]:
    others = [spec for spec in specs if not spec.startswith(("builtin:", "inputs:"))]
    if others:
        raise ConfigError("This run took images from folders. Start it from the command line.")
    return tuple(spec.removeprefix("builtin:") for spec in specs if spec.startswith("builtin:"))


def _copies(run: Run, name: str, scratch: Path) -> tuple[str, ...]:
    """A run's uploads where the page may show them; the address of the copies is one visitor's."""
    found = sorted((run.folder / "inputs" / name).glob("*.png"))
    if not found:
        return ()
    folder = scratch / secrets.token_hex(16)
    folder.mkdir(mode=0o700)
    return tuple(str(shutil.copy(path, folder)) for path in found)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _asked(run: Run) -> dict[str, Any]:
    """A request without paths: they say nothing beside the number of images."""
    values = run.request.to_dict()
    for name in ("forget", "retain"):
        images = sum(1 for _ in (run.folder / "inputs" / name).glob("*.png"))
        values[name] = [
            count(images, "uploaded image")
            if spec.startswith("inputs:")
            else spec.removeprefix("builtin:")
            for spec in values[name]
        ]
    if values["checkpoint"]:
        values["checkpoint"] = Path(values["checkpoint"]).name
    options = values.pop("model_options")
    return {**values, **{f"option {name}": value for name, value in options.items()}}


def _titles(first: Run, second: Run) -> tuple[str, str]:
    one, other = first.state, second.state
    close = (one.title, moment(one.submitted)) == (other.title, moment(other.submitted))
    return (
        f"{one.title}, {moment(one.submitted, close)}",
        f"{other.title}, {moment(other.submitted, close)}",
    )


def _said(value: Any) -> str:
    if value in (None, "", []):
        return "–"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _change(values: Mapping[str, Any] | None) -> str:
    if not values:
        return "–"
    cosine = values["cosine"]
    return f"{cosine['before']:.3f} → {cosine['after']:.3f} (n = {values['n']})"
