"""What a run is asked to do: frozen dataclasses, validated on creation, to and from JSON and YAML.

Nothing here imports PyTorch, so that a bad request is refused before anything heavy starts.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, get_type_hints

import yaml

from l2l_core.errors import PlainError
from l2l_core.registry import FAMILIES, completion_steps, defaults_of, family_of

PAPER_METHODS = ("ours", "max_loss", "noisy_label", "retain_label", "random_encoder")
METHODS = (*PAPER_METHODS, "ignorance")
NOISE_KINDS = ("gaussian", "gaussian_full", "standard", "uniform", "constant")
MASK_KINDS = ("random", "centre", "border", "half", "brush", "hybrid")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SPLITS = ("train", "test", "all")


FROM_MODEL: Any = None
"""Default of settings whose value depends on the model; see `l2l_core/registry.py`."""
FROM_STEPS: Any = None
"""Default of a setting that stays open: it follows the number of steps."""


class ConfigError(PlainError):
    """A setting that cannot be; the message names it and says what is allowed."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, f"{name} is “{value}”; it must be one of {', '.join(allowed)}.")


@dataclass(frozen=True)
class UnlearnRequest:
    """One unlearning run. Where None is given, the model's own default takes its place.

    Image sets are written as text: `builtin:flags`, `builtin:people/hands`, `builtin` (all of it),
    a folder, an image file; `proxy` (retain only) is every built-in image not to be forgotten;
    `classes:ROOT?take=1-100` takes class folders or shards (see `class_folders.py`).
    """

    forget: tuple[str, ...]
    """Image sets the model must forget."""
    retain: tuple[str, ...] = ("proxy",)
    """Image sets on which it must stay as it was."""
    model: str = "mae-fluent"
    """A name or family that `load_model` knows."""
    checkpoint: str | None = None
    """Weights to start from, where the model does not ship with the studio."""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """What a checkpoint's shapes cannot tell, e.g. {"heads": 12}."""
    split: str = "train"
    """Which side of the built-in split is trained on; the test side is kept for evaluation."""
    retain_fraction: float = 1.0
    """Share of the retain images that is used, drawn by the seed."""

    method: str = "ours"
    """Ours, one of the paper's baselines, or ignorance; see `unlearning/methods.py`."""
    alpha: float = FROM_MODEL
    """Weight of the forget term against the retain term (equation 8's α)."""
    noise: str = "gaussian"
    """What forget images must look like to the encoder; see `unlearning/noise.py`."""
    masks: tuple[str, ...] = FROM_MODEL
    """Kinds of hole the steps cycle through; the model's family has its own default."""
    steps: int = FROM_MODEL
    """Optimiser steps."""
    batch_size: int = FROM_MODEL
    """Forget images a step, and as many retain images."""
    micro_batch_size: int = 0
    """How many of these the device computes at once, gradients adding up; 0 for all of them."""
    gradient_checkpointing: bool = False
    """Compute the encoder's activations twice instead of keeping them: less memory, same result."""
    learning_rate: float = FROM_MODEL
    """Peak rate of AdamW."""
    warmup: float = 0.1
    """Share of the steps over which the rate rises to its peak; then a half cosine down to 0."""
    weight_decay: float = FROM_MODEL
    """On weights; biases, norms and other vectors are not decayed."""
    betas: tuple[float, float] = FROM_MODEL
    """AdamW's two averaging factors."""
    clip: float = 3.0
    """Largest gradient norm."""
    augment: bool = False
    """Flip, shift and scale the images.

    Fresh holes in each step do nearly as much: without it mirrored and cropped forget images went
    almost as far, and retain images beside them suffered less.
    """

    seed: int = 0
    """All that is random follows from it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "auto"
    """auto takes bf16 where the device computes it natively, else fp32."""
    preview_every: int = FROM_STEPS
    """Steps between previews; 0 for none. Left open: every tenth, but not more than 12 or so a run,
    since each completes ten images; 8 for models that complete step by step.
    """
    checkpoint_every: int = 50
    """Steps between resumable checkpoints; 0 for none, but of an interrupted run."""

    def __post_init__(self) -> None:
        self._check_kinds()
        try:
            of_model = defaults_of(self.model)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        for name, value in of_model.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.masks is None:
            object.__setattr__(self, "masks", FAMILIES[family_of(self.model)].masks)
        for name in ("forget", "retain", "masks", "betas"):
            value = getattr(self, name)
            _require(isinstance(value, (str, list, tuple)), f"{name} must be a list of values.")
            as_tuple = (value,) if isinstance(value, str) else tuple(value)
            object.__setattr__(self, name, as_tuple)
        _require(bool(self.forget), "Nothing to forget: name at least one image set.")
        _require(bool(self.retain), "Nothing to retain: name at least one image set, or “proxy”.")
        _require("proxy" not in self.forget, "“proxy” means all but the forget set: retain only.")
        _require(
            isinstance(self.model_options, Mapping), "model_options must be a mapping of options."
        )
        _require(bool(self.masks), f"masks is empty; choose from {', '.join(MASK_KINDS)}.")
        for kind in self.masks:
            _one_of("masks", kind, MASK_KINDS)
        _one_of("method", self.method, METHODS)
        _one_of("noise", self.noise, NOISE_KINDS)
        _one_of("split", self.split, SPLITS)
        _one_of("precision", self.precision, PRECISIONS)
        numbers = vars(self) | ({"preview_every": 0} if self.preview_every is None else {})
        for name in (
            "steps",
            "batch_size",
            "micro_batch_size",
            "preview_every",
            "checkpoint_every",
            "seed",
        ):
            value = numbers[name]
            _require(isinstance(value, int), f"{name} is {value!r}; it must be a whole number.")
        for name, low, high in (
            ("alpha", 0, 100),
            ("retain_fraction", 0, 1),
            ("steps", 1, 1_000_000),
            ("batch_size", 1, 4096),
            ("micro_batch_size", 0, 4096),
            ("learning_rate", 0, 1),
            ("warmup", 0, 1),
            ("weight_decay", 0, 1),
            ("clip", 0, 1e6),
            ("preview_every", 0, 1_000_000),
            ("checkpoint_every", 0, 1_000_000),
            ("seed", 0, 2**63 - 1),
        ):
            value = numbers[name]
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            _require(
                number and low <= value <= high,
                f"{name} is {value!r}; it must be a number from {low} to {high}.",
            )
        _require(self.learning_rate > 0, "learning_rate must be above 0.")
        _require(self.clip > 0, "clip must be above 0.")
        _require(self.retain_fraction > 0, "retain_fraction must be above 0.")
        _require(
            len(self.betas) == 2
            and all(isinstance(b, (int, float)) and 0 <= b < 1 for b in self.betas),
            f"betas is {self.betas}; it must be two numbers from 0 to below 1.",
        )

    def _check_kinds(self) -> None:
        """Switches and texts, alone or in lists; what must be a number is checked with its range.

        A text in the place of a switch, “false” say, would be on.
        """
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if kind is bool:
                _require(isinstance(value, bool), f"{name} is {value!r}; it must be true or false.")
            elif kind in (str, str | None):
                _require(isinstance(value, kind), f"{name} is {value!r}; it must be text.")
            elif kind == tuple[str, ...] and isinstance(value, (list, tuple)):
                texts = all(isinstance(part, str) for part in value)
                _require(texts, f"{name} is {value!r}; it must be a list of texts.")

    @property
    def preview_interval(self) -> int:
        """Steps between previews, also where `preview_every` is left open; 0 for none."""
        if self.preview_every is not None:
            return self.preview_every
        most = 12 if completion_steps(self.model, self.model_options) is None else 8
        return max(10, self.steps // most)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or YAML."""
        plain = dataclasses.asdict(self)
        plain["model_options"] = dict(self.model_options)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: a name that is no setting, or a value that is not allowed.
        """
        _require(isinstance(values, Mapping), "A request is a mapping of settings.")
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ConfigError(
                f"Unknown setting {', '.join(unknown)}. Known: {', '.join(sorted(known))}."
            )
        _require("forget" in values, "Nothing to forget: “forget” is missing.")
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a request from a YAML or JSON file."""
        return cls.from_dict(load_mapping(path))


def load_mapping(path: str | Path) -> dict[str, Any]:
    """Settings from a YAML or JSON file.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"Cannot read settings from “{path.name}”: {error}") from error
    _require(isinstance(values, dict), f"“{path.name}” must hold settings as “name: value” lines.")
    return values


PRESETS: dict[str, dict[str, float]] = {
    "quick": {"steps": 0.5},
    "balanced": {"steps": 1},
    "thorough": {"steps": 3, "alpha": 2},  # with time to restore retain images, α may weigh more
}
"""Named starting points, as multiples of the settings that suit the model."""


def preset_settings(preset: str, model: str) -> dict[str, Any]:
    """Settings of a preset for a model or family.

    Raises:
        ConfigError: no such preset. ValueError: no such model.
    """
    _one_of("preset", preset, tuple(PRESETS))
    usual = defaults_of(model)
    scaled = {name: round(factor * usual[name], 6) for name, factor in PRESETS[preset].items()}
    return scaled | {"steps": max(1, round(scaled["steps"]))}


def field_docs(config: type) -> dict[str, str]:
    """What each field of a configuration means: the string written below it in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for node, following in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
            docs[node.target.id] = inspect.cleandoc(ast.literal_eval(following.value))  # type: ignore[union-attr]
    return docs


def dump_json(values: Any) -> str:
    """JSON as run folders hold it: indented, non-ASCII as it is."""
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"
