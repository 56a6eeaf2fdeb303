"""What the Unlearn page holds when its button is pressed, and the request that comes of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from l2l_core.builtin import groups
from l2l_core.config import ConfigError, UnlearnRequest, preset_settings
from l2l_core.images import ImageError
from l2l_core.registry import FAMILIES, MODELS, defaults_of, family_of
from ui.catalogue import group_title, members
from ui.text import SETTINGS
from ui.uploads import read_uploads

DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class Form:
    """The page's values."""

    model: str = "mae-fluent"
    checkpoint: str = ""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options by family and name; those of other families than the model's are ignored."""
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
    spec, checkpoint = MODELS.get(form.model), form.checkpoint or None
    if checkpoint is None and (spec is None or spec.path is None):
        raise ConfigError("The weights of this model are not on disk. Choose another model.")
    family = family_of(form.model)
    forget = [f"builtin:{key}" for key in form.forget_groups]
    if form.forget_files:
        forget.append("inputs:forget")
    settings = {k: typed(v) for k, v in form.settings.items() if v not in (None, "", [])}
    retain, options = _retain(form), given(family, form.options.get(family, {}))
    try:
        request = UnlearnRequest(
            forget=tuple(forget),
            retain=retain,
            model=form.model,
            checkpoint=checkpoint,
            model_options=options,
            **(preset_settings(form.preset, form.model) | settings),
        )
    except ConfigError as error:
        name, _, rest = str(error).partition(" ")
        if name not in UnlearnRequest.__dataclass_fields__:
            raise
        raise ConfigError(f"{label(name)} {rest}") from error
    retained = form.retain_files if form.retain_from == "uploads" else ()
    return Order(request, form.title(), read_uploads(form.forget_files), read_uploads(retained))


def check_device(form: Form, known: str) -> None:
    """That the device asked for can be here, where `known` is what the worker chose by itself, in
    the words of `describe_device`; “” while it has not said so.

    Raises:
        ConfigError: what is wrong and how to mend it, in a sentence.
    """
    device = form.settings.get("device") or "auto"
    if not DEVICES.fullmatch(device):
        raise ConfigError(f"Device is “{device}”; it must be auto, cpu, cuda, cuda:N or mps.")
    best = "cpu" if known.startswith("CPU") else "mps" if known == "Apple GPU" else "cuda"
    if known and device.partition(":")[0] not in ("auto", "cpu", best):
        raise ConfigError(f"Device is “{device}”, which is not here: training runs on {known}.")


def label(setting: str) -> str:
    """What the page calls a setting."""
    return SETTINGS.get(setting, (setting.replace("_", " ").capitalize(),))[0]


def defaults(model: str = "mae-fluent") -> dict[str, Any]:
    """Default of every setting that has one, for a model."""
    values = {
        f.name: f.default
        for f in dataclasses.fields(UnlearnRequest)
        if f.default is not dataclasses.MISSING
    }
    return values | {"masks": FAMILIES[family_of(model)].masks} | defaults_of(model)


def given(family: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a family's options those that are not left to the weights.

    Raises:
        ConfigError: one that must be a number is none.
    """
    found = {}
    for option in FAMILIES[family].options:
        value = values.get(option.name)
        if option.kind in ("int", "float"):
            value = typed(value)
            kinds = (int, float)[: 2 if option.kind == "float" else 1]
            if value not in (None, "") and not isinstance(value, kinds):
                raise ConfigError(f"{option.title} is “{value}”; it must be a number.")
        if value not in (None, ""):
            found[option.name] = value
    return found


def typed(value: Any) -> Any:
    """What was typed into a text field, as a number where it is one."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(value) if isinstance(value, str) else value
    return value


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


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
    return f"{group_title(key)} ({count(trained, 'image')}, {held_out} more held out for testing)"


def _without(keys: tuple[str, ...], forgotten: tuple[str, ...]) -> set[str]:
    """What is trained on of some groups, less what others hold."""
    gone = {i.id for i in members(forgotten)}
    return {i.id for i in members(keys) if i.split == "train"} - gone
