"""Can an unlearned model be made to remember? An audit that is run on request.

Somebody with a few of the forgotten images fine-tunes the encoder on them. A model that never saw
them learns them, too: information is left where the unlearned model gets back faster.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l2l_core.config import ConfigError, UnlearnRequest
from l2l_core.evaluation.evaluate import MASK, EvaluationSets, completed
from l2l_core.evaluation.features import EXTRACTOR, load_feature_net
from l2l_core.evaluation.metrics import cosine_with_truth
from l2l_core.masks import draw_masks, parse_mask
from l2l_core.models.base import ImageToImageModel
from l2l_core.runtime import seeded

GENTLE = 0.3
"""The attacker's learning rate, in the run's: slow enough to tell the models' speeds apart."""

ReconstructionLoss = Callable[[ImageToImageModel, Tensor, Tensor, torch.Generator], Tensor]
"""(model, images (B, 3, H, W), masks (B, H, W), generator) -> a scalar with gradients."""
OnStep = Callable[[str, int], None]
"""Called with a model's name and how many of its steps are done."""


@dataclass(frozen=True)
class Attack:
    """Fine-tuning of the encoder with AdamW (0.9, 0.95) at a constant rate, no decay."""

    learning_rate: float
    images: int = 8
    """Forget images the attacker holds; all of them are in every step."""
    steps: int = 50
    every: int = 5
    """Steps between looks at the completions."""
    mask: str = MASK
    """The hole that is looked at; training cycles through the run's kinds of hole."""

    def __post_init__(self) -> None:
        if min(self.images, self.steps, self.every) < 1 or self.learning_rate <= 0:
            raise ConfigError("images, steps, every and learning_rate must be above 0.")


@dataclass(frozen=True)
class RelearningPoint:
    """How well completions match the truth after some steps of fine-tuning."""

    step: int
    tuned: float  # mean cosine with the truth on the images it was fine-tuned on
    others: float | None  # the same on forget images it was not, if there are any


def reconstruction_loss(
    model: ImageToImageModel, images: Tensor, masks: Tensor, generator: torch.Generator
) -> Tensor:
    """The loss the model's family was trained with, as a mean over the images."""
    view = model.draw_view(images, masks, generator)
    with torch.no_grad():
        known = model.prepare(images)
    output = model.reconstruct(model.encoder_input(known, view), view)
    return model.training_loss(output, known, view).mean()


def relearning_audit(
    request: UnlearnRequest,
    before: ImageToImageModel,
    after: ImageToImageModel,
    sets: EvaluationSets,
    gold: ImageToImageModel | None = None,
    attack: Attack | None = None,
    on_step: OnStep = lambda model, step: None,
) -> dict[str, Any]:
    """How many steps on a few forget images bring the completions back; plain values for JSON.

    The attacker's images are drawn from those that were unlearned. The others are the held-out
    side, or, of uploads, what the attacker does not hold.

    Args:
        gold: a model that never saw the forget images; its speed is what an honest model has.
        attack: by default a fraction (`GENTLE`) of the run's learning rate.

    Returns:
        {attack, seed, extractor, tuned, others, original, halfway, curves, reached}: counts of
        images, the original's mean cosine on the tuned ones and the one halfway to it from where
        the unlearned model starts, and by model the points and the first step (or None) at which
        it was halfway.
    """
    attack = attack or Attack(GENTLE * request.learning_rate)
    known = sets.seen or sets.forget
    order = torch.randperm(len(known), generator=seeded(request.seed, 33)).tolist()
    tuned = known.subset(order[: attack.images]).images()
    rest = sets.forget if sets.seen else sets.forget.subset(order[attack.images :])
    models = {"unlearned": after} | ({"gold": gold} if gold else {})
    hole = parse_mask(attack.mask, before.image_size, seeded(request.seed, 20))
    original = _similarity(request, before, tuned, hole)
    curves = relearning(request, models, tuned, rest.images(), attack, on_step=on_step)
    assert original is not None
    halfway = (curves["unlearned"][0].tuned + original) / 2
    return {
        "attack": asdict(attack),
        "seed": request.seed,
        "extractor": EXTRACTOR,
        "tuned": len(tuned),
        "others": len(rest),
        "original": original,
        "halfway": halfway,
        "curves": {name: [asdict(point) for point in curve] for name, curve in curves.items()},
        "reached": {name: steps_to_reach(curve, halfway) for name, curve in curves.items()},
    }


def relearning(
    request: UnlearnRequest,
    models: Mapping[str, ImageToImageModel],
    tuned: Tensor,
    others: Tensor,
    attack: Attack,
    loss: ReconstructionLoss = reconstruction_loss,
    on_step: OnStep = lambda model, step: None,
) -> dict[str, list[RelearningPoint]]:
    """Fine-tune the encoder of copies of `models` on a few forget images; a curve for each model.

    Put the gold standard (a model that never saw the images) beside the unlearned one: information
    is left in the unlearned model if it gets back faster. The models passed in do not change.

    Args:
        models: name -> model; all get the same steps on the same masks.
        tuned: the forget images (k, 3, H, W) the attacker holds.
        others: other forget images (N, 3, H, W), only looked at; may be none.
        loss: what the attacker minimises.
    """
    return {
        name: _relearn(request, model, tuned, others, attack, loss, partial(on_step, name))
        for name, model in models.items()
    }


def _relearn(
    request: UnlearnRequest,
    original: ImageToImageModel,
    tuned: Tensor,
    others: Tensor,
    attack: Attack,
    loss: ReconstructionLoss,
    on_step: Callable[[int], None],
) -> list[RelearningPoint]:
    model = copy.deepcopy(original).eval().freeze_decoder()
    parameters = list(model.encoder_parameters().values())
    optimizer = torch.optim.AdamW(
        parameters, lr=attack.learning_rate, betas=(0.9, 0.95), weight_decay=0
    )
    size, seed, device = model.image_size, request.seed, model.device
    hole = parse_mask(attack.mask, size, seeded(seed, 20))
    curve = []
    for step in range(attack.steps + 1):
        if step % attack.every == 0 or step == attack.steps:
            now, elsewhere = (_similarity(request, model, s, hole) for s in (tuned, others))
            assert now is not None
            curve.append(RelearningPoint(step, now, elsewhere))
        on_step(step)
        if step == attack.steps:
            break
        kind = request.masks[step % len(request.masks)]
        masks = draw_masks((kind,), len(tuned), size, model.cell, seeded(seed, 28, step))
        value = loss(model, tuned.to(device), masks.to(device), seeded(seed, 29, step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
    return curve


@torch.no_grad()
def _similarity(
    request: UnlearnRequest, model: ImageToImageModel, images: Tensor, hole: Tensor
) -> float | None:
    """Mean cosine of a model's completions with the truth; None without images."""
    if not len(images):
        return None
    filled = completed(model, images, hole, request)
    return cosine_with_truth(load_feature_net(), filled, images).mean().item()


def steps_to_reach(curve: list[RelearningPoint], level: float) -> int | None:
    """The first measured step at which the tuned images are at `level` again; None if never."""
    return next((point.step for point in curve if point.tuned >= level), None)
