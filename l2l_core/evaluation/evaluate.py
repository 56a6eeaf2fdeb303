"""Before and after on retain and forget images: the numbers behind a run's verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2l_core.config import UnlearnRequest
from l2l_core.datasets import ImageSet, forgotten_ids, load_image_set
from l2l_core.evaluation.features import EXTRACTOR, load_feature_net
from l2l_core.evaluation.metrics import (
    confidence_interval,
    cosine_with_truth,
    embed,
    nearest,
    psnr_in_hole,
)
from l2l_core.masks import parse_mask
from l2l_core.models.base import ImageToImageModel
from l2l_core.runtime import autocast, choose_precision, seeded
from l2l_core.unlearning.noise import NoiseSource

MASK = "centre:0.5"
LIMIT = 256
"""Images of a set that are measured, drawn by the seed; enough for the mean, quick on a CPU."""


@dataclass(frozen=True)
class EvaluationSets:
    """Images to measure on; held-out ones wherever a set has a held-out side."""

    forget: ImageSet
    forget_is_held_out: bool
    retain: ImageSet
    neighbours: ImageSet
    """For each forget image, the most similar images it was trained to retain."""


def evaluation_sets(
    request: UnlearnRequest,
    size: int,
    base: Path | None = None,
    limit: int = LIMIT,
    neighbours: int = 2,
) -> EvaluationSets:
    """Choose what to measure for a request.

    Forget images that were uploaded have no held-out side: they are measured themselves.

    Raises:
        DatasetError: a set of the request names nothing.
    """
    forgotten = forgotten_ids(request.forget)
    held_out = [s for s in request.forget if s.split(":")[0] == "builtin"]
    uploaded = [s for s in request.forget if s not in held_out]
    forget = load_image_set(uploaded or held_out, size, split="test", base=base)
    built_in = any(s == "proxy" or s.split(":")[0] == "builtin" for s in request.retain)
    retain_specs = ("builtin",) if built_in else request.retain
    retain = load_image_set(retain_specs, size, split="test", base=base, without=forgotten)
    trained = load_image_set(
        request.retain, size, split=request.split, base=base, without=forgotten
    )
    forget, retain = (sample(s, limit, request.seed) for s in (forget, retain))
    net = load_feature_net()
    shown = embed(net, forget.images(slice(0, 32)))
    candidates = sample(trained, 2048, request.seed)
    close = nearest(shown, embed(net, candidates.images()), neighbours)
    return EvaluationSets(
        forget=forget,
        forget_is_held_out=not uploaded,
        retain=retain,
        neighbours=candidates.subset(list(dict.fromkeys(close.flatten().tolist()))),
    )


@torch.no_grad()
def evaluate(
    request: UnlearnRequest,
    before: ImageToImageModel,
    after: ImageToImageModel,
    sets: EvaluationSets,
    mask: str = MASK,
) -> dict[str, Any]:
    """Measure both models on every set under one mask and seed; plain values, ready for JSON.

    For each set: n, and for `cosine` (completion against truth, in built-in features) and `psnr`
    (dB inside the hole) the means before and after, their change with a 95% bootstrap interval. For
    forget also `noise`, what the original model makes of noise in place of the visible pixels: the
    level that tells nothing about the image.
    """
    size, seed = before.image_size, request.seed
    hole = parse_mask(mask, size, seeded(seed, 20))
    measured: dict[str, dict[str, Any]] = {}
    for name in ("retain", "forget", "neighbours"):
        images = getattr(sets, name).images()
        scores = {}
        for when, model in (("before", before), ("after", after)):
            scores[when] = _scores(_completed(model, images, hole, request), images, hole)
        measured[name] = {"n": len(images)} | {
            metric: _summary(scores["before"][metric], scores["after"][metric], seed)
            for metric in ("cosine", "psnr")
        }
    truth = sets.forget.images()
    source = NoiseSource.fit("gaussian", truth)
    noise = source.draw(len(truth), size, seeded(seed, 21)).clamp(0, 1)
    blind = torch.where(hole, _completed(before, noise, hole, request), truth)
    for metric, values in _scores(blind, truth, hole).items():
        measured["forget"][metric]["noise"] = values.mean().item()
    measured["forget"]["held_out"] = sets.forget_is_held_out
    return {"mask": mask, "seed": seed, "extractor": EXTRACTOR, "sets": measured}


def _completed(
    model: ImageToImageModel, images: Tensor, hole: Tensor, request: UnlearnRequest
) -> Tensor:
    """Completions on the CPU, in the run's precision, from the run's seed."""
    precision = choose_precision(request.precision, model.device)
    parts = []
    for number, part in enumerate(images.split(64)):
        with autocast(model.device, precision):
            completed = model.complete(
                part.to(model.device),
                hole.to(model.device),
                generator=seeded(request.seed, 22, number),
            )
        parts.append(completed.float().cpu())
    return torch.cat(parts)


def _scores(completions: Tensor, truth: Tensor, hole: Tensor) -> dict[str, Tensor]:
    return {
        "cosine": cosine_with_truth(load_feature_net(), completions, truth),
        "psnr": psnr_in_hole(completions, truth, hole),
    }


def _summary(before: Tensor, after: Tensor, seed: int) -> dict[str, Any]:
    change = after - before
    return {
        "before": before.mean().item(),
        "after": after.mean().item(),
        "change": change.mean().item(),
        "interval": confidence_interval(change, seeded(seed, 23)),
    }


def sample(images: ImageSet, limit: int, seed: int) -> ImageSet:
    """At most `limit` images of a set, drawn by the seed, in their order."""
    if len(images) <= limit:
        return images
    chosen = torch.randperm(len(images), generator=seeded(seed, 24))[:limit].sort().values
    return images.subset(chosen.tolist())
