"""Measures and audits finished runs for the page, one after the other, beside the threads that
answer Compare.

It goes on when the page that asked is closed; results lie in the run's folder (`results.py`).
"""

from __future__ import annotations

import logging
import queue
import threading
from contextlib import suppress

import torch

from l2l_core.config import dump_json
from l2l_core.errors import PlainError
from l2l_core.evaluation import embedding_map as maps
from l2l_core.evaluation.audit_report import MODELS
from l2l_core.evaluation.evaluate import MASK, EvaluationSets
from l2l_core.evaluation.full import Instruments, evaluate_full, full_sets
from l2l_core.evaluation.membership import membership_audit
from l2l_core.evaluation.relearning import GENTLE, Attack, relearning_audit
from l2l_core.files import write_atomically
from l2l_core.jobs.opening import open_models
from l2l_core.jobs.reports import write_report
from l2l_core.jobs.results import (
    AUDITS,
    EVALUATION,
    MEASURING,
    TABLE,
    Measuring,
    measuring,
    tell,
    write_audit,
    write_map,
)
from l2l_core.jobs.runner import describe_error
from l2l_core.jobs.store import Run, RunError, RunStore
from l2l_core.models.base import ImageToImageModel
from l2l_core.registry import FAMILIES

LIMIT, MAP_LIMIT = 256, 100
"""Most images of a set in the table, and on the map, for models that complete in one pass; more
are for the command line. Two cores measure them in minutes.
"""
STEPWISE_LIMIT, STEPWISE_MAP_LIMIT = 128, 32
"""For models that complete step by step: the fewest that a FID in the built-in features takes."""
STAGES_OF_SET, STAGES_OF_MAP = 4, 5
CUT_SHORT = "Measuring was cut short. Ask for it again."
logger = logging.getLogger(__name__)


class Measurer:
    """Takes runs to measure; once started, measures them in their order."""

    def __init__(self, store: RunStore, device: torch.device) -> None:
        self.store, self.device = store, device
        self.waiting: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._asking = threading.Lock()

    def start(self) -> None:
        """Work in a thread; what an earlier process left unfinished must be asked for again."""
        for path in self.store.folder.glob(f"*/{MEASURING}"):
            run = Run(path.parent)
            now = measuring(run)
            if now and not now.failed:  # else it has said why
                tell(run, Measuring(CUT_SHORT, failed=True))
        threading.Thread(target=self._work, daemon=True).start()

    def ask(self, run_id: str, what: str = TABLE) -> None:
        """Have a run measured or audited when its turn comes; while it waits or is measured, not
        again.

        Raises:
            RunError: no such run, or it has no weights yet.
        """
        run = self.store.get(run_id)
        if not run.weights.is_file():
            raise RunError("This run has no weights yet. Wait until it is done.")
        with self._asking:
            now = measuring(run)
            if now is None or now.failed:
                tell(run, Measuring("Waiting for its turn"))
                self.waiting.put((run_id, what))

    def _work(self) -> None:
        while True:
            self.work_off()

    def work_off(self) -> None:
        """Measure the run whose turn it is; waits until there is one."""
        run_id, what = self.waiting.get()
        try:
            run = self.store.get(run_id)
        except RunError:  # erased while it waited
            return
        try:
            audit_run(run, self.device) if what == AUDITS else measure_run(run, self.device)
            tell(run, None)
        except Exception as error:
            if not run.folder.is_dir():  # erased meanwhile
                return
            known = isinstance(error, PlainError)
            if not known:
                logger.error("measuring a run failed with %s", describe_error(error))
            said = str(error) if known else "Measuring failed; the log has the details."
            with suppress(OSError):  # a full disk, say
                tell(run, Measuring(said, failed=True))


def measure_run(run: Run, device: torch.device) -> None:
    """Write the full table and the map of a run, telling how far it is.

    Raises:
        ValueError, OSError: a model or an image set cannot be had, or the run was erased.
    """
    tell(run, Measuring("Opening both models"))
    request = run.request
    before, after, reference = open_models(run, str(device))
    sets = _sets(run, before)
    tools = Instruments.open(device=str(device))
    of_set = STAGES_OF_SET + (reference is not None)
    done, stages = 0, of_set * len(sets.named()) + STAGES_OF_MAP

    def told(stage: str) -> None:
        nonlocal done
        tell(run, Measuring(stage[:1].upper() + stage[1:], done, stages))
        done += 1

    metrics = evaluate_full(request, before, after, sets, MASK, tools, reference, on_progress=told)
    write_atomically(run.folder / EVALUATION, dump_json(metrics))
    most = MAP_LIMIT if _in_one_pass(before) else STEPWISE_MAP_LIMIT
    shown = maps.shown_images(request, before, after, sets, MASK, most, told)
    told("map: arranging the images")
    points = maps.embedding_map(shown, request.seed, tools.extractor)
    found = maps.describe_map(points, MASK, request.seed, tools.extractor.name)
    write_map(run, found, maps.small_pictures(shown))
    write_report(run)


def audit_run(run: Run, device: torch.device) -> None:
    """Attack a run's model: relearning, and membership where unseen images of the kind are kept
    apart. Raises as `measure_run`.
    """
    tell(run, Measuring("Opening both models"))
    request, attack = run.request, Attack(GENTLE * run.request.learning_rate)
    before, after, reference = open_models(run, str(device))
    sets = _sets(run, before)
    count = 2 if reference else 1

    def told(name: str, step: int) -> None:
        done = step + attack.steps * (name == "gold")
        stage = f"Relearning, model: {MODELS[name].lower()}"
        tell(run, Measuring(stage, done, count * attack.steps + 1))

    found = relearning_audit(request, before, after, sets, reference, attack, told)
    write_audit(run, "relearning", found)
    if sets.seen:
        tell(run, Measuring("Membership", count * attack.steps, count * attack.steps + 1))
        write_audit(run, "membership", membership_audit(request, before, after, sets, reference))
    write_report(run)


def _sets(run: Run, model: ImageToImageModel) -> EvaluationSets:
    limit = LIMIT if _in_one_pass(model) else STEPWISE_LIMIT
    return full_sets(run.request, model.image_size, run.folder, limit)


def _in_one_pass(model: ImageToImageModel) -> bool:
    return FAMILIES[model.family].completion_steps is None
