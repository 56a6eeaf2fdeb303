"""The files of a protocol's measurement: features by shard, scores, results.

    plan.json                                   what makes features comparable; checked on resuming
    features/truth/forget-00003.safetensors     of the true images of a shard
    features/MODEL-HOLE/forget-00003.safetensors    of one model's completions under one hole
    scores/ORIGINAL/MODEL-HOLE/forget.json      rows of the table, against the original
    results.json                                everything, written last

Models are named by digests; nothing here names an image or a path.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from l2l_core.config import ConfigError, dump_json
from l2l_core.evaluation.evaluate import BATCH
from l2l_core.evaluation.extractors import Extracted
from l2l_core.evaluation.full import Measured, compare
from l2l_core.evaluation.metrics import cosine
from l2l_core.evaluation.protocol import ORIGINAL, SETS
from l2l_core.evaluation.protocol_job import Job, Rows
from l2l_core.files import write_atomically
from l2l_core.models.base import ImageToImageModel
from l2l_core.models.checkpoints import save_weights, state_digest

SHARD = 4 * BATCH
"""Images of a shard: what is lost at most when a run is cut."""
DRAWS = 10
"""Random halves behind the intervals of FID, KID and IS; each is another decomposition."""
TRUTH = "truth"


@dataclass(frozen=True)
class Shard:
    """Some whole batches of a set, perhaps with a shorter one at its end."""

    set_name: str
    number: int
    images: range


class Store:
    """The files of one measurement."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder, self.job = folder, job
        self.digests = {name: _digest_of_model(model) for name, model in job.models.items()}

    def agree(self) -> None:
        """Write the plan, or compare it with the one that is there.

        Raises:
            ConfigError: another measurement is in this folder.
        """
        path, plan = self.folder / "plan.json", self.job.plan()
        if path.is_file():
            there = json.loads(path.read_text(encoding="utf-8"))
            if changed := sorted(key for key in plan if plan[key] != there.get(key)):
                raise ConfigError(
                    f"“{self.folder.name}” holds a measurement with other {', '.join(changed)}. "
                    "Choose another folder, or ask for the same."
                )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, dump_json(plan))

    def shards(self) -> Iterator[Shard]:
        """All shards, in an order that every process agrees on."""
        for name, images in self.job.sets.items():
            for number, start in enumerate(range(0, len(images), SHARD)):
                yield Shard(name, number, range(start, min(start + SHARD, len(images))))

    def kind(self, model: str, mask: str) -> str:
        """The folder name of one model's completions under one hole."""
        return f"{self.digests[model][:16]}-{re.sub(r'[^a-z0-9.]', '-', mask)}"

    def file(self, kind: str, shard: Shard) -> Path:
        """Where the features of a shard are."""
        name = f"{shard.set_name}-{shard.number:05d}.safetensors"
        return self.folder / "features" / kind / name

    def has(self, kind: str, shard: Shard) -> bool:
        """Whether the features of a shard are there."""
        return self.file(kind, shard).is_file()

    def save(self, kind: str, shard: Shard, rows: Rows) -> None:
        """Write the features of a shard, whole or not at all."""
        save_weights(rows, self.file(kind, shard), {})

    def read(self, kind: str, set_name: str) -> Rows:
        """Features of a whole set.

        Raises:
            ConfigError: some are missing.
        """
        files = [self.file(kind, s) for s in self.shards() if s.set_name == set_name]
        if any(not file.is_file() for file in files):
            raise ConfigError(
                f"Features of another process are not in “{self.folder.name}”. "
                "Choose a folder that all hosts share."
            )
        parts = [load_file(file) for file in files]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def score(self, mask: str, model: str, set_name: str) -> None:
        """Compute the rows of one table, unless they are there."""
        file = self.score_file(mask, model, set_name)
        if file.is_file():
            return
        truth = self.read(TRUTH, set_name)
        before, after = (
            _measured(self.read(self.kind(name, mask), set_name), truth)
            for name in (ORIGINAL, model)
        )
        rows = compare(_extracted(truth), before, after, self.job.request.seed, DRAWS, paired=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, dump_json({"n": len(truth["features"])} | rows))

    def score_file(self, mask: str, model: str, set_name: str) -> Path:
        """Where the rows of one table are; they also depend on the original."""
        against = self.digests[ORIGINAL][:16]
        return self.folder / "scores" / against / self.kind(model, mask) / f"{set_name}.json"

    def results(self) -> dict[str, Any]:
        """Everything that was measured, as `sharded.evaluate_protocol` returns it."""
        job, plan = self.job, self.job.plan()
        kept = ("protocol", "seed", "image_size", "precision", "extractor", "embedding")
        return {key: plan[key] for key in kept} | {
            "classes": job.extractor.classes,
            "n": {name: len(images) for name, images in job.sets.items()},
            "models": self.digests,
            "masks": {
                mask: {
                    model: {
                        name: json.loads(self.score_file(mask, model, name).read_text("utf-8"))
                        for name in SETS
                    }
                    for model in job.unlearned
                }
                for mask in job.holes
            },
        }

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results."""
        write_atomically(self.folder / "results.json", dump_json(results))


def _extracted(rows: Rows) -> Extracted:
    return Extracted(rows["features"], rows.get("logits"))


def _measured(rows: Rows, truth: Rows) -> Measured:
    """Features as `full.compare` takes them, with the cosine to the true images."""
    key = "embedding" if "embedding" in rows else "features"
    scores = {"embedding": cosine(rows[key], truth[key]), "psnr": rows["psnr"]}
    return Measured(_extracted(rows), scores)


def _digest_of_model(model: ImageToImageModel) -> str:
    """SHA-256 of weights and configuration."""
    text = state_digest(model.state_dict()) + json.dumps(model.describe(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
