"""What the Unlearn page holds when its button is pressed, and the request that comes of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from l2l_core.builtin import groups
from l2l_core.config import ConfigError, UnlearnRequest, preset_settings
from l2l_core.images import ImageError
from l2l_core.models import MODELS, defaults_of
from ui.catalogue import group_title, members
from ui.uploads import read_uploads


@dataclass(frozen=True)
class Form:
    """The page's values."""

    model: str = "mae-fluent"
    checkpoint: str = ""
    model_options: str = ""
    """What the checkpoint's shapes cannot tell, as JSON."""
    forget_files: tuple[str, ...] = ()
    forget_groups: tuple[str, ...] = ()
    retain_from: str = "proxy"
    """“proxy”, “groups” or “uploads”."""
    retain_files: tuple[str, ...] = ()
    retain_groups: tuple[str, ...] = ()
    preset: str = "balanced"
    settings: dict[str, Any] = field(default_factory=dict)
    """Advanced settings by the names of `UnlearnRequest`; empty values mean the default."""

    def title(self) -> str:
        """What is forgotten, in a few words."""
        return self._listed(group_title)

    def summary(self) -> str:
        """What would be done, in one sentence; empty while nothing is chosen."""
        if not self.title():
            return ""
        if self.retain_from == "uploads":
            kept = count(len(self.retain_files), "uploaded image")
        else:
            keys = self.retain_groups if self.retain_from == "groups" else tuple(groups())
            kept = count(len(_without(keys, self.forget_groups)), "built-in image")
        return f"Forgets {self._listed(_counted)}. Retains {kept}."

    def _listed(self, name: Callable[[str], str]) -> str:
        parts = [name(key) for key in self.forget_groups]
        if self.forget_files:
            parts.append(count(len(self.forget_files), "uploaded image"))
        return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


@dataclass(frozen=True)
class Order:
    """A checked form: the request, and the pictures that travel with it."""

    request: UnlearnRequest
    title: str
    forget_images: list[Image.Image]
    retain_images: list[Image.Image]


def check(form: Form) -> Order:
    """Everything that can be wrong is found here, before anything starts.

    Raises:
        ConfigError, ImageError: what is wrong and how to mend it, in a sentence.
    """
    if not form.forget_files and not form.forget_groups:
        raise ImageError("There is nothing to forget yet. Drop images or pick a built-in group.")
    spec = MODELS[form.model]
    checkpoint = form.checkpoint.strip() or None
    if spec.path is None and checkpoint is None:
        raise ConfigError(f"{spec.title} needs the path of its weights: {spec.source}.")
    forget = [f"builtin:{key}" for key in form.forget_groups]
    if form.forget_files:
        forget.append("inputs:forget")
    settings = {k: v for k, v in form.settings.items() if v not in (None, "", [])}
    request = UnlearnRequest(
        forget=tuple(forget),
        retain=_retain(form),
        model=form.model,
        checkpoint=checkpoint,
        model_options=_model_options(form.model_options) if checkpoint else {},
        **(preset_settings(form.preset, form.model) | settings),
    )
    retained = form.retain_files if form.retain_from == "uploads" else ()
    return Order(request, form.title(), read_uploads(form.forget_files), read_uploads(retained))


def defaults(model: str = "mae-fluent") -> dict[str, Any]:
    """Default of every setting that has one, for a model."""
    values = {
        f.name: f.default
        for f in dataclasses.fields(UnlearnRequest)
        if f.default is not dataclasses.MISSING
    }
    return values | defaults_of(model)


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _model_options(written: str) -> dict[str, Any]:
    try:
        options = json.loads(written or "{}")
    except json.JSONDecodeError:
        options = None
    if not isinstance(options, dict):
        raise ConfigError('Model options must be JSON, like {"heads": 12, "norm_pix_loss": true}.')
    return options


def _retain(form: Form) -> tuple[str, ...]:
    if form.retain_from == "uploads":
        if not form.retain_files:
            raise ImageError("There are no images to retain yet. Drop some, or keep the default.")
        return ("inputs:retain",)
    if form.retain_from == "groups":
        if not form.retain_groups:
            raise ConfigError("Choose a built-in group to retain, or keep the default.")
        if not _without(form.retain_groups, form.forget_groups):
            raise ConfigError("Everything to be retained is also to be forgotten.")
        return tuple(f"builtin:{key}" for key in form.retain_groups)
    if not _without(tuple(groups()), form.forget_groups):
        raise ConfigError("Everything built in is to be forgotten: drop your own images to retain.")
    return ("proxy",)


def _counted(key: str) -> str:
    trained = sum(image.split == "train" for image in members([key]))
    held_out = len(members([key])) - trained
    return f"{group_title(key)} ({count(trained, 'image')}, {held_out} more held out)"


def _without(keys: tuple[str, ...], forgotten: tuple[str, ...]) -> set[str]:
    """What is trained on of some groups, less what others hold."""
    gone = {i.id for i in members(forgotten)}
    return {i.id for i in members(keys) if i.split == "train"} - gone
