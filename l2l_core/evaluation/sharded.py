"""A protocol's measurement over any number of processes; only features are kept, never images.

The test images are cut into shards of whole batches; a completion's seed follows from its batch's
number, so who computes a shard, and when, does not matter: one process and many give the same
numbers, and a cut run goes on where it was. `protocol_store.py` says what is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import torch
from accelerate import InitProcessGroupKwargs

from l2l_core.config import ConfigError
from l2l_core.evaluation.evaluate import BATCH
from l2l_core.evaluation.protocol import SETS, ProtocolRequest
from l2l_core.evaluation.protocol_job import Job
from l2l_core.evaluation.protocol_store import TRUTH, Shard, Store
from l2l_core.runtime import accelerator_on, choose_device


@dataclass(frozen=True)
class Progress:
    """How far this process is with its share; passed to `on_progress`."""

    stage: str
    done: int
    """Completions, those of earlier runs among them; in the stage of scores, tables."""
    total: int
    seconds_left: float | None
    """None until something was computed."""


OnProgress = Callable[[Progress], None]


@torch.no_grad()
def evaluate_protocol(
    request: ProtocolRequest, on_progress: OnProgress = lambda progress: None
) -> dict[str, Any]:
    """Measure the original and the unlearned models on the protocol's test sets.

    Run it in one process, or in many with `accelerate launch`; all of them return the results.

    Returns:
        {protocol, seed, image_size, precision, extractor, classes, embedding, n, models, masks},
        where n is the number of images by set, models are digests by name, and masks[mask][model]
        [set] are rows as `full.compare` gives them, `before` being the original; `embedding` is the
        cosine with the true image. Also written to results.json.

    Raises:
        ConfigError: the folder holds features of another measurement, or lacks some of another
            process's. ValueError: as `Job.open`.
    """
    if not request.data:
        raise ConfigError("Name the folder of the data set.")
    patience = InitProcessGroupKwargs(timeout=timedelta(days=7))  # processes wait for the slowest
    accelerator = accelerator_on(choose_device(request.device), kwargs_handlers=[patience])
    job = Job.open(request, accelerator.device)
    store = Store(Path(request.out), job)
    if accelerator.is_main_process:
        store.agree()
    accelerator.wait_for_everyone()

    rank, world = accelerator.process_index, accelerator.num_processes
    share = list(store.shards())[rank::world]
    _gather_features(job, store, share, on_progress)
    accelerator.wait_for_everyone()

    tables = list(product(job.holes, job.unlearned, SETS))
    for number, (mask, model, name) in enumerate(mine := tables[rank::world], start=1):
        store.score(mask, model, name)
        on_progress(Progress("scores", number, len(mine), None))
    accelerator.wait_for_everyone()

    results = store.results()
    if accelerator.is_main_process:
        store.finish(results)
    accelerator.wait_for_everyone()
    return results


def _gather_features(job: Job, store: Store, shards: list[Shard], on_progress: OnProgress) -> None:
    """Compute what is missing of these shards; each image is decoded once for all holes."""
    ways = [(model, mask) for model in job.models for mask in job.holes]
    total = sum(len(shard.images) for shard in shards) * len(ways)
    done = computed = 0
    started = time.monotonic()
    for shard in shards:
        missing = [way for way in ways if not store.has(store.kind(*way), shard)]
        done += len(shard.images) * (len(ways) - len(missing))
        if not missing and store.has(TRUTH, shard):
            continue
        truth = job.sets[shard.set_name].images(torch.tensor(shard.images))
        first = shard.images.start // BATCH
        if not store.has(TRUTH, shard):
            store.save(TRUTH, shard, job.extract(truth))
        for model, mask in missing:
            parts = []
            for number, batch in enumerate(truth.split(BATCH), start=first):
                parts.append(job.measure(job.complete(model, mask, batch, number), batch, mask))
                done, computed = done + len(batch), computed + len(batch)
                left = (time.monotonic() - started) / computed * (total - done)
                on_progress(Progress(f"{model}, {mask}", done, total, left))
            rows = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            store.save(store.kind(model, mask), shard, rows)
