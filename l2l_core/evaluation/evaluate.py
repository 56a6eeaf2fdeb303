"""Before and after on retain and forget images: the numbers behind a run's verdict.

`evaluate` is the quick look at the end of every run; `full.py` measures everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2l_core.config import UnlearnRequest
from l2l_core.datasets import ImageSet, forgotten_ids, has_split, load_image_set, share_of
from l2l_core.evaluation.features import EXTRACTOR, load_feature_net
from l2l_core.evaluation.metrics import embed, nearest, psnr_in_hole, staying, summary
from l2l_core.evaluation.report import FORGET_SETS
from l2l_core.masks import parse_mask
from l2l_core.models.base import ImageToImageModel, OnStep
from l2l_core.runtime import (
    autocast,
    choose_precision,
    is_out_of_memory,
    release_memory,
    seeded,
)
from l2l_core.unlearning.noise import NoiseSource

MASK = "centre:0.5"
LIMIT = 256
"""Images of a set that are measured, drawn by the seed; enough for the mean, quick on a CPU."""
CANDIDATES = 1024
"""Retain images among which the quick look seeks neighbours; the full table looks at all."""
BATCH = 64
"""Images completed together; part of what a seed means for models that draw while completing."""
CPU_BATCH = 16
"""Of these so many at once on a CPU, whose caches hold no more: 64 at once took MAGE a third longer
and Palette a quarter. The completions are the same but for rounding."""


@dataclass(frozen=True)
class EvaluationSets:
    """Images to measure on; held-out ones wherever a set has a held-out side."""

    forget: ImageSet
    forget_is_held_out: bool
    retain: ImageSet
    retain_is_held_out: bool
    neighbours: ImageSet
    """For each forget image, the most similar images it was trained to retain."""
    uploads: ImageSet | None = None
    """Forget images without a held-out side, where `forget` is that of the other forget sets."""
    seen: ImageSet | None = None
    """The forget images that were trained on, where `forget` is the held-out side."""

    def named(self) -> dict[str, ImageSet]:
        """The sets by the names that results carry."""
        sets = {"retain": self.retain, "neighbours": self.neighbours, "forget": self.forget}
        more = {"forget_uploads": self.uploads, "seen": self.seen}
        return sets | {name: images for name, images in more.items() if images}

    def is_held_out(self, name: str) -> bool:
        """Whether training saw none of the images of a set of `named`."""
        return {"retain": self.retain_is_held_out, "forget": self.forget_is_held_out}.get(
            name, False
        )


def evaluation_sets(
    request: UnlearnRequest,
    size: int,
    base: Path | None = None,
    limit: int = LIMIT,
    neighbours: int = 2,
    candidates: int = CANDIDATES,
    seen: bool = False,
) -> EvaluationSets:
    """Choose what to measure for a request.

    Forget images that were uploaded have no held-out side: they are measured themselves, apart
    from the held-out side of groups that are forgotten with them. Where any built-in images are
    retained, all that are not forgotten are measured: more must stay than what stands for it.

    Args:
        base: the folder that `inputs:…` sets lie in.
        limit: most images of a set.
        neighbours: retain images sought for each forget image (of the first 32 of each set).
        candidates: most retain images they are sought among.
        seen: also take the forget images that were trained on, where there is a held-out side.

    Raises:
        DatasetError: a set of the request names nothing.
    """
    forgotten = forgotten_ids(request.forget)
    held_out = [s for s in request.forget if has_split(s)]
    uploaded = [s for s in request.forget if s not in held_out]
    split = "test" if held_out else request.split
    forget = load_image_set(held_out or uploaded, size, split=split, base=base)
    uploads = None
    if held_out and uploaded:
        uploads = load_image_set(uploaded, size, split=request.split, base=base)
    kept_apart = request.split == "train"  # or the test side was trained on, too
    own = [s for s in request.retain if not _is_built_in(s)]
    retain_specs = ("builtin", *own) if len(own) < len(request.retain) else request.retain
    retain = load_image_set(retain_specs, size, split="test", base=base, without=forgotten)
    trained = load_image_set(
        request.retain, size, split=request.split, base=base, without=forgotten
    )
    unlearned = load_image_set(request.forget, size, split=request.split, base=base)
    trained = share_of(trained.less(unlearned), request.retain_fraction, request.seed)
    retain = retain.less(forget).less(unlearned)
    forget, retain = (sample(s, limit, request.seed) for s in (forget, retain))
    uploads = sample(uploads, limit, request.seed) if uploads else None
    pool = sample(trained, candidates, request.seed)
    forgotten_images = [s.images(slice(0, 32)) for s in (forget, uploads) if s]
    shown = _quick_embed(torch.cat(forgotten_images))
    known = [_quick_embed(pool.images(part)) for part in torch.arange(len(pool)).split(16 * BATCH)]
    close = nearest(shown, torch.cat(known), neighbours)
    before = None
    if seen and held_out and kept_apart:
        before = load_image_set(held_out, size, split=request.split)
        before = sample(before, limit, request.seed)
    return EvaluationSets(
        forget=forget,
        forget_is_held_out=bool(held_out) and kept_apart,
        retain=retain,
        retain_is_held_out=all(map(has_split, retain_specs)) and kept_apart,
        neighbours=pool.subset(list(dict.fromkeys(close.flatten().tolist()))),
        uploads=uploads,
        seen=before,
    )


@torch.no_grad()
def evaluate(
    request: UnlearnRequest,
    before: ImageToImageModel,
    after: ImageToImageModel,
    sets: EvaluationSets,
    mask: str = MASK,
    reference: ImageToImageModel | None = None,
    on_set: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure both models on every set under one mask and seed; plain values, ready for JSON.

    `reference` is a model that never saw the forget images (the gold standard), if there is one;
    `on_set` is called before each set.

    For each set: n, `held_out`, and for `cosine` (completion against truth, in built-in features)
    and `psnr` (dB inside the hole) the means before and after, their change with a 95% bootstrap
    interval. For forget sets also `noise`, what the original model makes of noise in place of the
    visible pixels: the level that tells nothing about the image; and the counts of `staying`;
    for the forget set itself `never_saw`, what the reference makes of it.
    """
    seed = request.seed
    hole = parse_mask(mask, before.image_size, seeded(seed, 20))
    measured: dict[str, dict[str, Any]] = {}
    for name, images in sets.named().items():
        on_set()
        truth = images.images()
        features = _quick_embed(truth)
        then, now = (
            _scores(completed(model, truth, hole, request), truth, features, hole)
            for model in (before, after)
        )
        measured[name] = {"n": len(truth), "held_out": sets.is_held_out(name)} | {
            metric: summary(then[metric], now[metric], images.concepts, seeded(seed, 23))
            for metric in then
        }
        if name in FORGET_SETS:
            level = _scores(blind(before, truth, hole, request), truth, features, hole)
            for metric, values in level.items():
                measured[name][metric]["noise"] = values.mean().item()
            measured[name] |= staying(then["cosine"], now["cosine"], level["cosine"])
        if name == "forget" and reference is not None:
            never = _scores(completed(reference, truth, hole, request), truth, features, hole)
            for metric, values in never.items():
                measured[name][metric]["never_saw"] = values.mean().item()
    return {"mask": mask, "seed": seed, "extractor": EXTRACTOR, "sets": measured}


def blind(model: ImageToImageModel, truth: Tensor, hole: Tensor, request: UnlearnRequest) -> Tensor:
    """True images whose hole holds what the model makes of noise in place of what is visible."""
    noise = NoiseSource.fit("gaussian", truth).draw(
        len(truth), model.image_size, seeded(request.seed, 21)
    )
    return torch.where(hole, completed(model, noise.clamp(0, 1), hole, request), truth)


def completed(
    model: ImageToImageModel, images: Tensor, hole: Tensor, request: UnlearnRequest
) -> Tensor:
    """Completions on the CPU, in the run's precision, from the run's seed."""
    parts = enumerate(images.split(BATCH))
    precision = request.precision
    return torch.cat(
        [complete_batch(model, part, hole, request.seed, n, precision) for n, part in parts]
    )


def complete_batch(
    model: ImageToImageModel,
    images: Tensor,
    hole: Tensor,
    seed: int,
    number: int,
    precision: str = "auto",
    steps: int | None = None,
) -> Tensor:
    """Completions, on the CPU, of the batch with this number (from 0), at most `BATCH` images."""
    return complete_in_parts(model, images, hole, (seed, 22, number), precision, steps)


def complete_in_parts(
    model: ImageToImageModel,
    images: Tensor,
    hole: Tensor,
    seeds: tuple[int, ...],
    precision: str = "auto",
    steps: int | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Completions, on the CPU, of any number of images, `BATCH` or `CPU_BATCH` at once.

    A device that runs out of memory gets half as many images at once. Samples draw from seeds of
    their own, taken in order, so the completions are the same. `on_step` hears of the steps of all
    parts together.
    """
    device = model.device
    size = min(CPU_BATCH if device.type == "cpu" else BATCH, len(images))
    while True:
        draws, parts = seeded(*seeds), images.split(size)
        done: list[Tensor] = []
        watch = _counting(on_step, done, len(parts)) if on_step else None
        try:
            with autocast(device, choose_precision(precision, device)):
                for part in parts:
                    there = part.to(device), hole.to(device)
                    done.append(model.complete(*there, steps=steps, generator=draws, on_step=watch))
            return torch.cat(done).float().cpu()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or size == 1:
                raise
        done.clear()
        size = math.ceil(size / 2)
        release_memory(device)


def _counting(on_step: OnStep, done: list[Tensor], parts: int) -> OnStep:
    """Tells the steps of one part after another as those of all."""

    def told(step: int, steps: int, so_far: Tensor) -> None:
        on_step(len(done) * steps + step, parts * steps, torch.cat([*done, so_far]))

    return told


def _scores(
    completions: Tensor, truth: Tensor, features: Tensor, hole: Tensor
) -> dict[str, Tensor]:
    """Values (B,) of completions, given the embeddings of the true images."""
    return {
        "cosine": (_quick_embed(completions) * features).sum(dim=1),
        "psnr": psnr_in_hole(completions, truth, hole),
    }


def _is_built_in(spec: str) -> bool:
    return spec == "proxy" or spec.split(":")[0] == "builtin"


def _quick_embed(images: Tensor) -> Tensor:
    """Embeddings in this CPU's quickest arithmetic: twice as fast in bf16 where that is native.

    A mean cosine is the same to three digits (differences of 1e-4 were measured).
    """
    cpu = torch.device("cpu")
    with autocast(cpu, choose_precision("auto", cpu)):
        return embed(load_feature_net(), images)


def sample(images: ImageSet, limit: int, seed: int) -> ImageSet:
    """At most `limit` images of a set, drawn by the seed, in their order."""
    if len(images) <= limit:
        return images
    chosen = torch.randperm(len(images), generator=seeded(seed, 24))[:limit].sort().values
    return images.subset(chosen.tolist())
