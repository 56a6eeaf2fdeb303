"""Everything that is measured about a model, set by set: the full table.

`measure` says what one model's completions of one set are worth, `compare` puts two models' side
by side, and `evaluate_full` does both for a run. A comparison of methods measures each model once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2l_core.config import UnlearnRequest
from l2l_core.evaluation.distribution import (
    KID_SUBSET,
    frechet_distance,
    frechet_minimum,
    half_sample_errors,
    inception_score,
    kernel_distance,
    squared_mmd,
)
from l2l_core.evaluation.evaluate import (
    BATCH,
    MASK,
    EvaluationSets,
    blind,
    completed,
    evaluation_sets,
)
from l2l_core.evaluation.extractors import Extracted, Extractor, open_extractor
from l2l_core.evaluation.metrics import cosine, psnr_in_hole, ssim_in_hole, staying, summary
from l2l_core.evaluation.perceptual import Perceptual, open_perceptual
from l2l_core.evaluation.report import FORGET_SETS
from l2l_core.masks import parse_mask
from l2l_core.models.base import ImageToImageModel
from l2l_core.runtime import autocast, choose_precision, seeded
from l2l_core.unlearning.noise import NoiseSource
from l2l_core.unlearning.objective import squared_distance

KID_MINIMUM = 4
OnProgress = Callable[[str], None]
Score = Callable[[Extracted, Tensor], tuple[float, ...]]
"""A score of the completions at some positions: its value, and its spread if it has one."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one model's completions of one set."""

    extracted: Extracted
    scores: dict[str, Tensor]  # values (N,) by metric: cosine, perceptual, psnr, ssim


@dataclass(frozen=True)
class Instruments:
    """What the measuring is done with."""

    extractor: Extractor
    perceptual: Perceptual
    embedding: Extractor | None = None
    """A second extractor, for a cosine of its own; the paper's is CLIP beside Inception."""

    @classmethod
    def open(
        cls,
        extractor: str = "builtin",
        perceptual: str = "builtin",
        device: str = "cpu",
        embedding: str = "",
    ) -> Instruments:
        """From the texts of `open_extractor` (also of `embedding`, which may be empty) and
        `open_perceptual`; raises as they do.
        """
        return cls(
            open_extractor(extractor, device),
            open_perceptual(perceptual, device),
            open_extractor(embedding, device) if embedding else None,
        )

    def extract(self, images: Tensor) -> Extracted:
        """What both extractors say about images (N, 3, H, W) in [0, 1]."""
        found = self.extractor(images)
        if self.embedding is None:
            return found
        return replace(found, embedding=self.embedding.features(images))

    def names(self) -> dict[str, str]:
        """The fields of results that name what measured them."""
        names = {"extractor": self.extractor.name, "classes": self.extractor.classes}
        names |= {"embedding": self.embedding.name} if self.embedding else {}
        return names | {"perceptual": self.perceptual.name}


def full_sets(
    request: UnlearnRequest, size: int, base: Path | None = None, limit: int = 1024
) -> EvaluationSets:
    """The sets of the full table: more images, neighbours sought among 20,000 retain images, and
    the forget images that were trained on beside the held-out ones. Raises as `evaluation_sets`.
    """
    return evaluation_sets(request, size, base, limit, candidates=20_000, seen=True)


def evaluate_full(
    request: UnlearnRequest,
    before: ImageToImageModel,
    after: ImageToImageModel,
    sets: EvaluationSets,
    mask: str = MASK,
    instruments: Instruments | None = None,
    reference: ImageToImageModel | None = None,
    draws: int = 50,
    on_progress: OnProgress = lambda stage: None,
) -> dict[str, Any]:
    """Measure both models with every metric; plain values, ready for JSON.

    Args:
        reference: a model that never saw the forget images (the gold standard), if there is one;
            adds `reference`, the cosine of completions with its completions, and to the other
            rows `never_saw`, its own value (beside cosine's `never_saw_moved`, as `moved`).
        draws: random halves behind the intervals of FID, KID and Inception Score.
        on_progress: called with what is being measured.

    Returns:
        {mask, seed, extractor, classes, perceptual, sets: {name: {n, held_out, metric: row}}}. A
        row has before, after, change and its 95% `interval` (bootstrap over concepts; for scores of
        whole sets ±1.96 standard errors over random halves); KID has its `spread` (before, after);
        forget sets have `noise`, the level that tells nothing about the image, and beside their
        rows the counts of `staying`. `embedding` names the second extractor, if there is one. A row
        that cannot be measured is {"missing": why}.

    Raises:
        MaskError: a mask that cannot be read.
    """
    tools = instruments or Instruments.open()
    hole = parse_mask(mask, before.image_size, seeded(request.seed, 20))
    table: dict[str, dict[str, Any]] = {}
    for name, images in sets.named().items():
        truth = images.images()
        on_progress(f"{name}: {len(truth)} true images")
        true = tools.extract(truth)
        measured = []
        for when, model in (("original", before), ("unlearned", after)):
            on_progress(f"{name}: {len(truth)} completions, {when} model")
            measured.append(
                measure(completed(model, truth, hole, request), truth, true, hole, tools)
            )
        on_progress(f"{name}: comparing")
        rows = compare(
            true, measured[0], measured[1], request.seed, draws, concepts=images.concepts
        )
        moved, level = representation_distances(before, after, truth, hole, request)
        rows["representation"] = summary(
            torch.zeros_like(moved), moved, images.concepts, seeded(request.seed, 23)
        ) | {"noise": level.mean().item()}
        if reference is not None:
            on_progress(f"{name}: {len(truth)} completions, model that never saw")
            never = measure(completed(reference, truth, hole, request), truth, true, hole, tools)
            known = never.extracted.features
            then, now = (cosine(m.extracted.features, known) for m in measured)
            rows["reference"] = summary(then, now, images.concepts, seeded(request.seed, 23))
            add_values(rows, "never_saw", true, never, request.seed)
            apart = never.scores["cosine"] - measured[0].scores["cosine"]
            rows["cosine"]["never_saw_moved"] = apart.abs().mean().item()
        if name in FORGET_SETS:
            noise = measure(blind(before, truth, hole, request), truth, true, hole, tools)
            add_values(rows, "noise", true, noise, request.seed)
            rows |= staying(*(m.scores["cosine"] for m in (*measured, noise)))
        table[name] = {"n": len(truth), "held_out": sets.is_held_out(name)} | rows
    return {
        "mask": mask,
        "seed": request.seed,
        **tools.names(),
        "sets": table,
    }


def measure(
    completions: Tensor, truth: Tensor, true: Extracted, hole: Tensor, tools: Instruments
) -> Measured:
    """Features and scores of completions (N, 3, H, W) against the true images."""
    found = tools.extract(completions)
    scores = {
        "cosine": cosine(found.features, true.features),
        "perceptual": tools.perceptual(completions, truth),
        "psnr": psnr_in_hole(completions, truth, hole),
        "ssim": ssim_in_hole(completions, truth, hole),
    }
    if found.embedding is not None and true.embedding is not None:
        scores["embedding"] = cosine(found.embedding, true.embedding)
    return Measured(found, scores)


def compare(
    true: Extracted,
    before: Measured,
    after: Measured,
    seed: int,
    draws: int = 50,
    *,
    concepts: Tensor | None = None,
    paired: bool = True,
) -> dict[str, Any]:
    """Every row of a set's table, from what was measured of two models on the same images.

    Args:
        concepts: (N,), which images show the same; by default each its own.
        paired: leave an image's own completion out of KID (`kid_apart`): right for small sets;
            False gives the published `kid`, for thousands of images.
    """
    if concepts is None:
        concepts = torch.arange(len(true.features))
    rows = _of_sets(true, before.extracted, after.extracted, concepts, seed, draws, paired)
    for metric, values in before.scores.items():
        rows[metric] = summary(values, after.scores[metric], concepts, seeded(seed, 23))
    return rows


def _of_sets(
    true: Extracted,
    before: Extracted,
    after: Extracted,
    concepts: Tensor,
    seed: int,
    draws: int,
    paired: bool,
) -> dict[str, Any]:
    """Rows of the scores that a whole set has: FID, KID and Inception Score."""
    count, dimensions = true.features.shape
    both = (before, after)

    def row(score: Score, error_of: Score | None = None, most: int = count) -> dict[str, Any]:
        def values(index: Tensor) -> Tensor:
            found = [(error_of or score)(made, index)[0] for made in both]
            return torch.tensor([*found, found[1] - found[0]], dtype=torch.float64)

        everything = torch.arange(count)
        (then, *spread), (now, *spread_now) = (score(made, everything) for made in both)
        change, interval = now - then, None
        if len(concepts.unique()) > 1:  # one design in many versions tells nothing of others
            error = half_sample_errors(values, concepts, seeded(seed, 25), draws, most)[2].item()
            interval = (change - 1.96 * error, change + 1.96 * error)
        found = {"before": then, "after": now, "change": change, "interval": interval}
        return found | ({"spread": (*spread, *spread_now)} if spread else {})

    def frechet(made: Extracted, index: Tensor) -> tuple[float]:
        return (frechet_distance(true.features[index], made.features[index]),)

    def kernel(made: Extracted, index: Tensor) -> tuple[float, float]:
        return kernel_distance(true.features[index], made.features[index], seed, paired=paired)

    def discrepancy(made: Extracted, index: Tensor) -> tuple[float]:
        return (squared_mmd(true.features[index], made.features[index], paired=paired),)

    def inception(made: Extracted, index: Tensor) -> tuple[float]:
        assert made.logits is not None
        return (inception_score(made.logits[index], seed)[0],)

    least = frechet_minimum(dimensions)
    few = "{} images are too few: {} are needed"
    rows = {
        "fid": row(frechet) if count >= least else {"missing": few.format(count, least)},
        "kid_apart" if paired else "kid": row(kernel, discrepancy, KID_SUBSET)
        if count >= KID_MINIMUM
        else {"missing": few.format(count, KID_MINIMUM)},
    }
    if before.logits is not None and count >= KID_MINIMUM:
        rows["is"] = row(inception)
    return rows


@torch.no_grad()
def representation_distances(
    before: ImageToImageModel,
    after: ImageToImageModel,
    images: Tensor,
    hole: Tensor,
    request: UnlearnRequest,
) -> tuple[Tensor, Tensor]:
    """Squared distances (N,) of E(T(x)) and of E0(T(n)) from E0(T(x)) under one view, as the
    objective measures them, on the CPU. The forget term drives the first to the second.
    """
    seed, device = request.seed, before.device
    source = NoiseSource.fit(request.noise, images)
    moved, noise = [], []
    for number, part in enumerate(images.split(BATCH)):
        view = before.draw_view(part, hole.expand(len(part), -1, -1), seeded(seed, 26, number))
        view, batch = view.to(device), part.to(device)
        drawn = source.draw(len(part), before.image_size, seeded(seed, 27, number)).to(device)
        with autocast(device, choose_precision(request.precision, device)):
            then = before.encode(before.encoder_input(batch, view), view)
            now = after.encode(after.encoder_input(batch, view), view)
            target = before.encode(before.noise_input(drawn, batch, view), view)
        moved.append(squared_distance(now, then).cpu())
        noise.append(squared_distance(target, then).cpu())
    return torch.cat(moved), torch.cat(noise)


def add_values(
    rows: dict[str, Any], name: str, true: Extracted, found: Measured, seed: int
) -> None:
    """Write what was measured of further completions into a set's rows, by this name."""
    for metric, values in found.scores.items():
        rows[metric][name] = values.mean().item()
    features, logits = found.extracted.features, found.extracted.logits
    if "missing" not in rows["fid"]:
        rows["fid"][name] = frechet_distance(true.features, features)
    if "missing" not in rows["kid_apart"]:
        rows["kid_apart"][name] = kernel_distance(true.features, features, seed, paired=True)[0]
    if "is" in rows and logits is not None:
        rows["is"][name] = inception_score(logits, seed)[0]
