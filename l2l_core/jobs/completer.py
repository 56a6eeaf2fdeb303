"""The inference process: completes images for Compare while the worker trains, models kept warm."""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor

from l2l_core.datasets import load_image_set
from l2l_core.errors import PlainError
from l2l_core.evaluation.evaluate import complete_in_parts
from l2l_core.evaluation.features import load_feature_net
from l2l_core.evaluation.metrics import cosine_with_truth
from l2l_core.files import stamp_of
from l2l_core.images import read_image, to_pil, to_png, to_tensor
from l2l_core.jobs.client import (
    PICTURES,
    CompareRequest,
    Message,
    address,
    authentication_key,
    compare_request,
    receive,
    send,
)
from l2l_core.jobs.gallery import Gallery
from l2l_core.jobs.measurer import Measurer
from l2l_core.jobs.opening import try_checkpoint
from l2l_core.jobs.runner import describe_error, open_original, original_digest
from l2l_core.jobs.store import Run, RunError, RunStore
from l2l_core.jobs.warm import Warm
from l2l_core.masks import MaskError, mask_from_drawing, parse_mask
from l2l_core.models import load_model
from l2l_core.models.base import ImageToImageModel, OnStep
from l2l_core.registry import gold_standard, original_path
from l2l_core.runtime import autocast, choose_device, choose_precision, seeded

SHOWN_SIDE = 256
HOLE_TONE = 0.55
MOST_STEPS = 2000
NEWS_SECONDS = 0.5
"""How often at most progress is told."""
Tell = Callable[[dict[str, Any], list[bytes]], None]
"""Sends one message about progress."""
logger = logging.getLogger(__name__)


class Completer:
    """Answers comparison requests for the runs of one data folder."""

    def __init__(self, store: RunStore, device: str = "auto") -> None:
        self.store = store
        self.device = choose_device(device)
        self.precision = choose_precision("auto", self.device)
        self.originals, self.unlearned, self.galleries = Warm(3), Warm(3), Warm(4)
        self.measurer = Measurer(store, self.device)
        self.busy = threading.Lock()

    def compare(self, request: CompareRequest, tell: Tell = lambda head, pictures: None) -> Message:
        """Rows for one run, and their pictures in the order of `PICTURES`; `tell` hears how far
        it is.

        Raises:
            PlainError: no such run, a mask, a picture or an image set that cannot be read, or an
                original that has been replaced.
        """
        if request.steps is not None and not 1 <= request.steps <= MOST_STEPS:
            raise PlainError(f"Steps must be a number from 1 to {MOST_STEPS}.")
        with self.busy:
            return self._compare(request, tell)

    def drop_erased(self) -> None:
        """Let go of runs and checkpoints that no longer exist; later, if a comparison goes on."""
        if not self.busy.acquire(blocking=False):
            return
        try:
            for warm in (self.unlearned, self.galleries):
                warm.drop(lambda key: not (self.store.folder / key[0]).is_dir())
            self.originals.drop(lambda key: key[1] is not None and not Path(key[1]).exists())
        finally:
            self.busy.release()

    def _compare(self, request: CompareRequest, tell: Tell) -> Message:
        run = self.store.get(request.run_id)
        if not run.weights.is_file():
            raise RunError("This run has no weights yet. Wait until it is done.")
        models = self._models(run)
        size = models["original"].image_size
        hole = self._hole(request, size)
        rows, images = self._samples(run, request, size)
        results = [
            complete_in_parts(
                model,
                images,
                hole,
                (request.seed, 31),
                self.precision,
                request.steps,
                _throttled(tell, name, number, len(models)),
            )
            for number, (name, model) in enumerate(models.items())
        ]
        net = load_feature_net()
        scores = [cosine_with_truth(net, result, images).tolist() for result in results]
        holed = torch.where(hole, torch.full_like(images, HOLE_TONE), images)
        columns = dict(zip(PICTURES, (images, holed, *results), strict=False))
        shown = {name: [_shown(i) for i in to_pil(column)] for name, column in columns.items()}
        for number, row in enumerate(rows):
            row["before"], row["after"] = scores[0][number], scores[1][number]
        pictures = [shown[name][number] for number in range(len(rows)) for name in shown]
        return {"rows": rows}, pictures

    def _models(self, run: Run) -> dict[str, ImageToImageModel]:
        """The original, the unlearned one, and the gold standard where there is one."""
        request = run.request
        device = str(self.device)
        options = tuple(sorted(request.model_options.items()))
        stamp = stamp_of(original_path(request.model, request.checkpoint))
        original = self.originals.get(
            (request.model, request.checkpoint, options, stamp, original_digest(run)),
            lambda: open_original(run, device),
        )
        unlearned = self.unlearned.get(
            (run.id, stamp_of(run.weights)),
            lambda: load_model(request.model, run.weights, device=device),
        )
        models = {"original": original, "unlearned": unlearned}
        if gold := gold_standard(request.model, request.forget, request.checkpoint):
            models["gold"] = self.originals.get(
                (request.model, str(gold)),
                lambda: load_model(request.model, gold, device=device),
            )
        return models

    def _samples(
        self, run: Run, request: CompareRequest, size: int
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """Labelled rows and their images (B, 3, S, S): forget, nearest retain, retain, extra."""
        with autocast(self.device, self.precision):
            gallery = self.galleries.get((run.id,), lambda: Gallery(run.request, size, run.folder))
        rows, images = gallery.page(request.page, request.count)
        for number, picture in enumerate(request.extra, start=1):
            label = "Your image" if len(request.extra) == 1 else f"Your image {number}"
            rows.append({"role": "extra", "label": label})
            images = torch.cat([images, to_tensor([read_image(picture).image], size)])
        return rows, images

    def _hole(self, request: CompareRequest, size: int) -> Tensor:
        if request.mask.startswith("file:"):
            raise MaskError("Draw the hole here; files are for the command line.")
        if request.mask != "drawn":
            return parse_mask(request.mask, size, seeded(request.seed, 30))
        if request.drawing is None:
            raise MaskError("Draw the hole first.")
        hole = mask_from_drawing(read_drawing(request.drawing), size)
        if not hole.any():
            raise MaskError("The drawn hole is empty. Draw over the part to remove.")
        return hole


def _throttled(tell: Tell, model: str, number: int, models: int) -> OnStep:
    """Tell how far a model is, but not after every step if steps are quick."""
    told = time.monotonic()

    def on_step(step: int, steps: int, so_far: Tensor) -> None:
        nonlocal told
        if time.monotonic() - told > NEWS_SECONDS:
            pictures = [to_png(image) for image in to_pil(so_far.float().cpu().clamp(0, 1))]
            place = {"model": model, "number": number, "models": models}
            tell({"progress": {**place, "step": step, "steps": steps}}, pictures)
            told = time.monotonic()

    return on_step


def read_drawing(data: bytes) -> Image.Image:
    """A drawn mask as RGBA; `read_image` would flatten the transparency that says where it is
    drawn.

    Raises:
        MaskError: not a PNG of a sensible size.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        if image.width * image.height > 4_000_000:
            raise MaskError("The drawing is too large.")
        return image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MaskError("The drawing cannot be read. Draw it again.") from error


def serve(store: RunStore, device: str = "auto", parent: int | None = None) -> None:
    """Answer requests until SIGTERM or until the parent process is gone; models work on one at a
    time.

    Raises:
        Timeout: another completer serves this data folder.
    """
    place = address(store.root)
    # Some seconds, in which one that lost its parent leaves.
    with FileLock(store.root / "completer.lock", timeout=5):
        completer = Completer(store, device)
        completer.measurer.start()
        _remove(place)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: _leave(place))
        threading.Thread(target=_look_after, args=(completer, parent, place), daemon=True).start()
        threading.Thread(target=_warm_up, daemon=True).start()
        with Listener(place, backlog=16, authkey=authentication_key(store.root)) as listener:
            logger.info("ready on %s", completer.device)
            while True:
                with _dropping_connections():
                    arguments = (completer, listener.accept())
                    threading.Thread(target=_serve_one, args=arguments, daemon=True).start()


def _serve_one(completer: Completer, connection: Connection) -> None:
    with _dropping_connections(), connection:
        _answer(completer, connection)


@contextmanager
def _dropping_connections() -> Iterator[None]:
    """Outlive whoever left, or does not know the key."""
    try:
        yield
    except (OSError, EOFError, ValueError, AuthenticationError) as error:
        logger.warning("dropped a connection: %s", type(error).__name__)


def _answer(completer: Completer, connection: Connection) -> None:
    plain, pictures = receive(connection)

    def tell(head: dict[str, Any], pictures: list[bytes]) -> None:
        send(connection, head, pictures)

    try:
        question = plain.pop("question", "compare")
        if question == "open":
            with completer.busy:
                head, answers = try_checkpoint(**plain)
        elif question == "measure":
            completer.measurer.ask(**plain)
            head, answers = {}, []
        else:
            head, answers = completer.compare(compare_request(plain, pictures), tell)
    except PlainError as error:
        head, answers = {"error": str(error)}, []
    except ConnectionError:  # whoever asked has left, so there is no need to finish
        raise
    except Exception as error:
        logger.error("a request failed with %s", describe_error(error))
        head, answers = {"error": "This failed; the log has the details."}, []
    send(connection, head, answers)


def _warm_up() -> None:
    """Decode the built-in images before somebody waits for them."""
    load_image_set(("builtin",), load_model().image_size)
    load_feature_net()


def _look_after(completer: Completer, parent: int | None, place: str) -> None:
    """Every second: leave with the parent process, and forget what was erased."""
    while parent is None or os.getppid() == parent:
        completer.drop_erased()
        time.sleep(1)
    _leave(place)


def _leave(place: str) -> None:
    _remove(place)
    os._exit(0)


def _remove(place: str) -> None:
    with suppress(OSError):  # a Windows pipe goes by itself
        os.unlink(place)


def _shown(image: Image.Image) -> bytes:
    side = max(SHOWN_SIDE, image.width)
    return to_png(image.resize((side, side), Image.Resampling.BICUBIC))


def main(device: str = "auto", parent: int | None = None) -> int:
    """Serve the data folder; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s completer %(message)s")
    os.umask(0o077)
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    try:
        serve(RunStore(), device, parent)
    except Timeout:
        logger.error("Another completer serves this data folder already.")
        return 1
    return 0
