"""The paper's protocol at its own scale: which classes, which test images, which holes.

A protocol is a YAML file in `recipes/paper/` (Li et al., ICLR 2024, section 4): imagenet, places,
or one of your own. It becomes the settings of an unlearning run (`Protocol.unlearn_settings`) and a
measurement of its result (`ProtocolRequest`), which `sharded.evaluate_protocol` carries out and
`cost.estimate` foretells. Importing this loads no PyTorch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from l2l_core.class_folders import KIND, find_images, read_ranges, written
from l2l_core.config import PRECISIONS, ConfigError, load_mapping
from l2l_core.registry import defaults_of
from l2l_core.stored_images import DatasetError

RECIPES = Path(__file__).parents[2] / "recipes" / "paper"
SETS = ("retain", "forget")
ORIGINAL = "original"


@dataclass(frozen=True)
class Protocol:
    """What is forgotten and retained, and how it is measured."""

    title: str
    forget: str
    """First and last position in the class list, like 1-100."""
    retain: str
    each: int
    """Test images a class."""
    masks: tuple[str, ...]
    """Holes as `masks.py` reads them; random ones follow from the seed."""
    train_each: int = 0
    """Training images a class, to foretell the cost where there are no data to count."""
    epochs: float = 1.0
    """Passes over the forget classes' training images."""
    unlearn: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `UnlearnRequest`, over the model's own defaults."""

    def __post_init__(self) -> None:
        for name in SETS:
            if not re.fullmatch(r"[1-9]\d*-[1-9]\d*", str(getattr(self, name))):
                raise ConfigError(f"{name} of a protocol is two positions, like 1-100.")
        object.__setattr__(self, "masks", tuple(self.masks))
        if not self.masks or any(mask.startswith("file:") for mask in self.masks):
            raise ConfigError("A protocol needs masks, and takes none from files.")
        if self.each < 1 or self.epochs <= 0:
            raise ConfigError("each and epochs of a protocol must be above 0.")

    @classmethod
    def load(cls, name: str) -> Self:
        """A protocol by the name of its recipe, or by the path of a YAML file.

        Raises:
            ConfigError: no such protocol, or its settings are not right.
        """
        known = sorted(path.stem for path in RECIPES.glob("*.yaml"))
        path = RECIPES / f"{name}.yaml" if name in known else Path(name)
        if not path.is_file():
            raise ConfigError(f"There is no protocol “{path.name}”. Known: imagenet, places, PATH.")
        values = load_mapping(path)
        wanted = {f.name for f in fields(cls)}
        if values.keys() - wanted or not {"title", "forget", "retain", "each", "masks"} <= set(
            values
        ):
            raise ConfigError(f"“{path.name}” is no protocol: it has {', '.join(sorted(wanted))}.")
        return cls(**values)

    def set_of(self, name: str, data: str, classes: str | None = None, each: int = 0) -> str:
        """The image set (as text) of “forget”, “retain” or “others”, all classes but theirs.

        Args:
            data: folder of the data. classes: file with the class list. each: images a class, 0 for
                all.
        """
        parts = [f"list={classes}"] if classes else []
        if name == "others":
            taken = [r for part in SETS for r in read_ranges(part, getattr(self, part))]
            parts.append(f"except={written(taken)}")
        else:
            parts.append(f"take={getattr(self, name)}")
        parts += [f"each={each}"] if each else []
        return f"{KIND}:{data}?{'&'.join(parts)}"

    def count(self, each: int = 0) -> int:
        """Test images of all sets; `each` as `set_of`, 0 for the protocol's."""
        ends = [[int(end) for end in getattr(self, name).split("-")] for name in SETS]
        return sum(last - first + 1 for first, last in ends) * (each or self.each)

    def test_sets(self, data: str, classes: str | None = None, each: int = 0) -> dict[str, str]:
        """The image sets (as text) that are measured, from the test split; `each` as `set_of`."""
        return {name: self.set_of(name, data, classes, each or self.each) for name in SETS}

    def unlearn_settings(
        self, model: str, data: str, classes: str | None = None, retain: str = "retain"
    ) -> dict[str, Any]:
        """Settings of the `UnlearnRequest` that forgets this protocol's classes.

        Args:
            retain: “retain”, “others” (the proxy of all other classes), or the folder of another
                tree, such as COCO-2017.

        Raises:
            ConfigError, DatasetError: the model or the data are not there.
        """
        forget = self.set_of("forget", data, classes)
        kept = self.set_of(retain, data, classes) if retain in ("retain", "others") else None
        sets = {"forget": [forget], "retain": [kept or f"{KIND}:{retain}"]}
        settings: dict[str, Any] = {"model": model} | sets | dict(self.unlearn)
        count = len(find_images(forget, "train"))
        return settings | {"steps": math.ceil(self.epochs * count / self.batch_size(model))}

    def batch_size(self, model: str) -> int:
        """Images of each kind a step of unlearning."""
        return int(self.unlearn.get("batch_size") or defaults_of(model)["batch_size"])

    def count_steps(self, model: str, data: str = "", classes: str | None = None) -> int:
        """Steps of an unlearning run: counted in the data, or else from `train_each`."""
        if data:
            with suppress(DatasetError):  # a tree of test images only
                return int(self.unlearn_settings(model, data, classes)["steps"])
        first, last = map(int, self.forget.split("-"))
        images = (last - first + 1) * self.train_each
        return math.ceil(self.epochs * images / self.batch_size(model))


@dataclass(frozen=True)
class ProtocolRequest:
    """One measurement by a protocol."""

    protocol: str
    """imagenet, places, or the path of a protocol's YAML file."""
    data: str
    """Folder of the data set; may be empty where only the cost is asked for."""
    unlearned: tuple[str, ...]
    """Weights to measure beside the original's, as FILE or NAME=FILE."""
    out: str
    """Folder for features, scores and results.json; the same folder resumes. On several hosts it
    must be shared."""
    model: str = "mae-fluent"
    """A name or family that `load_model` knows."""
    checkpoint: str | None = None
    """The original's weights, where the model does not ship with the studio."""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """What a checkpoint's shapes cannot tell, e.g. {"heads": 12}."""
    classes: str | None = None
    """Text file with the class list, one id a line; without it sorted class folders."""
    each: int = 0
    """Test images a class; 0 for the protocol's."""
    extractor: str = "builtin"
    """Features of FID, KID and IS; the paper's is inception:FILE, for Places places:FILE."""
    embedding: str = ""
    """Embeddings whose cosine with the true image is shown; the paper's is clip:FOLDER. Empty
    takes the extractor."""
    steps: int = 0
    """Completion steps of models that complete step by step; 0 for their usual number."""
    seed: int = 0
    """All that is random follows from it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "auto"
    """auto takes bf16 where the device computes it natively, else fp32."""

    def __post_init__(self) -> None:
        unlearned = (self.unlearned,) if isinstance(self.unlearned, str) else tuple(self.unlearned)
        object.__setattr__(self, "unlearned", unlearned)
        names = [name for name, _ in self.named_weights]
        if not names or len({ORIGINAL, *names}) != len(names) + 1:
            raise ConfigError(
                "Name at least one file of unlearned weights, and each by another name: NAME=FILE."
            )
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}.")
        if min(self.each, self.steps, self.seed) < 0:
            raise ConfigError("each, steps and seed must be 0 or more.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From plain values, as flags and files give them.

        Raises:
            ConfigError: a setting is unknown, missing or not allowed.
        """
        known = {f.name for f in fields(cls)}
        if wrong := sorted(values.keys() - known):
            raise ConfigError(f"Unknown setting {', '.join(wrong)}.")
        needed = ["protocol", "data", "unlearned", "out"]
        if missing := [name for name in needed if name not in values]:
            raise ConfigError(f"A measurement also needs {', '.join(missing)}.")
        return cls(**values)

    @property
    def named_weights(self) -> list[tuple[str, str]]:
        """(name, file) of the unlearned weights."""
        pairs = (text.partition("=") for text in self.unlearned)
        return [(name, file) if mark else ("unlearned", name) for name, mark, file in pairs]

    def load_protocol(self) -> Protocol:
        """The protocol itself; raises as `Protocol.load`."""
        return Protocol.load(self.protocol)
