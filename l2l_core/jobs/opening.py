"""Opening a run's models, or a checkpoint that somebody wants to start from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from l2l_core.errors import PlainError
from l2l_core.jobs.client import Message
from l2l_core.jobs.runner import describe_error, open_original
from l2l_core.jobs.store import Run
from l2l_core.models import load_gold, load_gold_standard, load_model
from l2l_core.models.base import ImageToImageModel
from l2l_core.registry import FAMILIES
from l2l_core.runtime import choose_device

logger = logging.getLogger(__name__)


def try_checkpoint(checkpoint: str, family: str, options: dict[str, Any]) -> Message:
    """What a checkpoint holds, opened as one family, or ("") as the first that can open it.

    Raises:
        PlainError: it cannot be opened.
    """
    problems = {}
    for name in [family] if family else FAMILIES:
        try:
            model = load_model(name, checkpoint, **options)
        except PlainError as error:
            problems[name] = str(error)
        except Exception as error:
            logger.warning("%s cannot open a checkpoint: %s", name, describe_error(error))
            problems[name] = "It could not be read; the log has the details."
        else:
            parameters = sum(parameter.numel() for parameter in model.parameters())
            size = {"parameters": parameters, "image_size": model.image_size}
            return {"opened": {"family": model.family, **size}}, []
    if len(set(problems.values())) == 1:
        raise PlainError(next(iter(problems.values())))
    reasons = [f"{FAMILIES[name].title}: {problem}" for name, problem in problems.items()]
    raise PlainError("\n".join(["No family can open this checkpoint.", *reasons]))


def open_models(
    run: Run, device: str, gold: Path | None = None
) -> tuple[ImageToImageModel, ImageToImageModel, ImageToImageModel | None]:
    """A run's model before and after, and one that never saw the forget images: the one named, or
    the shipped one, if there is one.

    Raises:
        ValueError: a model or the device cannot be had.
        OtherOriginalError: the weights the run started from have been replaced since.
    """
    request, place = run.request, str(choose_device(device))
    return (
        open_original(run, place),
        load_model(request.model, run.weights, device=place),
        load_gold(request, gold, place) if gold else load_gold_standard(request, place),
    )
