"""Opening models. Importing this loads no PyTorch; `load_model` does."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2l_core.errors import PlainError
from l2l_core.registry import FAMILIES, MODELS, family_of, gold_standard

if TYPE_CHECKING:
    from l2l_core.config import UnlearnRequest
    from l2l_core.models.base import ImageToImageModel

__all__ = ["load_gold", "load_gold_standard", "load_model", "load_original"]


def load_model(
    name: str = "mae-fluent",
    checkpoint: str | Path | None = None,
    *,
    device: str = "cpu",
    **options: Any,
) -> ImageToImageModel:
    """Open a model in evaluation mode, float32.

    Args:
        name: a name in `MODELS` or a family in `FAMILIES`. checkpoint: a weights file or hub
            folder; may be left out for models that ship with the studio. device: where to put it
            ("cpu", "cuda", "cuda:1", "mps"). options: the family's options, e.g. heads=…; None
            leaves one open.

    Raises:
        ValueError: unknown name or option, or no weights to open.
        CheckpointError: the weights are unsafe, damaged or of another model.
    """
    family = FAMILIES[family_of(name)]
    spec = MODELS.get(name)
    path = checkpoint or (spec.path if spec else None)
    if path is None:
        where = f" It comes from {spec.source}." if spec else ""
        raise PlainError(f"“{name}” needs a checkpoint: give the path of its weights.{where}")
    known = {option.name: option for option in family.options}
    if unknown := sorted(options.keys() - known.keys()):
        raise PlainError(
            f"“{name}” has no option {', '.join(unknown)}. It has: {', '.join(known) or 'none'}."
        )
    for key, value in options.items():
        known[key].check(value)
    module, function = family.opener.split(":")
    opener = getattr(importlib.import_module(module), function)
    given = {key: value for key, value in options.items() if value is not None}
    return opener(Path(path), **given).to(device).eval()


def load_original(request: UnlearnRequest, device: str = "cpu") -> ImageToImageModel:
    """The model that a request starts from; raises as `load_model` does."""
    return load_model(request.model, request.checkpoint, device=device, **request.model_options)


def load_gold_standard(request: UnlearnRequest, device: str = "cpu") -> ImageToImageModel | None:
    """The shipped model that never saw what a request forgets, if there is one."""
    path = gold_standard(request.model, request.forget, request.checkpoint)
    if path is None:
        return None
    return load_model(request.model, path, device=device)


def load_gold(request: UnlearnRequest, weights: Path, device: str = "cpu") -> ImageToImageModel:
    """A model of these weights that never saw what a request forgets. The original's options are
    for a published file only: our own files hold their configuration, which may be another.
    """
    from l2l_core.models.checkpoints import describes_itself

    options = {} if describes_itself(weights) else request.model_options
    return load_model(request.model, weights, device=device, **options)
