"""The inference process: completes images for Compare while the worker trains, models kept warm."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from l2l_core.config import UnlearnRequest
from l2l_core.datasets import DatasetError, ImageSet, forgotten_ids, load_image_set
from l2l_core.evaluation.evaluate import sample
from l2l_core.evaluation.features import load_feature_net
from l2l_core.evaluation.metrics import cosine_with_truth, embed, nearest
from l2l_core.images import ImageError, read_image, to_pil, to_png, to_tensor
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
from l2l_core.jobs.store import Run, RunError, RunStore
from l2l_core.masks import MaskError, mask_from_drawing, parse_mask
from l2l_core.models import load_model
from l2l_core.models.base import ImageToImageModel
from l2l_core.runtime import autocast, choose_device, choose_precision, seeded

SHOWN_SIDE = 256
HOLE_TONE = 0.55
logger = logging.getLogger(__name__)


class Warm:
    """The most recently used values of a costly function, by key."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value for a key, made if it is not there."""
        if key not in self.values:
            self.values[key] = make()
            if len(self.values) > self.size:
                self.values.popitem(last=False)
        self.values.move_to_end(key)
        return self.values[key]


class Completer:
    """Answers comparison requests for the runs of one data folder."""

    def __init__(self, store: RunStore, device: str = "auto") -> None:
        self.store = store
        self.device = choose_device(device)
        self.precision = choose_precision("auto", self.device)
        self.models = Warm(4)
        self.galleries = Warm(4)

    def compare(self, request: CompareRequest) -> Message:
        """Rows for one run, and their pictures in the order of `PICTURES`.

        Raises:
            RunError, MaskError, ImageError, DatasetError, ValueError: with a message for people.
        """
        run = self.store.get(request.run_id)
        if not run.weights.is_file():
            raise RunError("This run has no weights yet. Wait until it is done.")
        original, unlearned = self._models(run)
        size = original.image_size
        hole = self._hole(request, size)
        rows, images = self._samples(run, request, size)
        results = [self._completed(m, images, hole, request.seed) for m in (original, unlearned)]
        net = load_feature_net()
        scores = [cosine_with_truth(net, result, images).tolist() for result in results]
        holed = torch.where(hole, torch.full_like(images, HOLE_TONE), images)
        columns = dict(zip(PICTURES, (images, holed, *results), strict=True))
        shown = {name: [_shown(i) for i in to_pil(column)] for name, column in columns.items()}
        for number, row in enumerate(rows):
            row["before"], row["after"] = scores[0][number], scores[1][number]
        pictures = [shown[name][number] for number in range(len(rows)) for name in PICTURES]
        return {"rows": rows}, pictures

    def _models(self, run: Run) -> tuple[ImageToImageModel, ImageToImageModel]:
        request = run.request
        device = str(self.device)
        options = tuple(sorted(request.model_options.items()))
        original = self.models.get(
            (request.model, request.checkpoint, options),
            lambda: load_model(
                request.model, request.checkpoint, device=device, **request.model_options
            ),
        )
        stamp = run.weights.stat().st_mtime_ns
        unlearned = self.models.get(
            (run.id, stamp), lambda: load_model(request.model, run.weights, device=device)
        )
        return original, unlearned

    def _samples(
        self, run: Run, request: CompareRequest, size: int
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """Labelled rows and their images (B, 3, S, S): forget, nearest retain, retain, extra."""
        with autocast(self.device, self.precision):
            gallery = self.galleries.get(run.id, lambda: Gallery(run.request, size, run.folder))
        rows, images = gallery.page(request.page, request.count)
        for number, picture in enumerate(request.extra, start=1):
            label = "Your image" if len(request.extra) == 1 else f"Your image {number}"
            rows.append({"role": "extra", "label": label})
            images = torch.cat([images, to_tensor([read_image(picture).image], size)])
        return rows, images

    def _hole(self, request: CompareRequest, size: int) -> Tensor:
        if request.mask != "drawn":
            return parse_mask(request.mask, size, seeded(request.seed, 30))
        if request.drawing is None:
            raise MaskError("Draw the hole first.")
        hole = mask_from_drawing(read_drawing(request.drawing), size)
        if not hole.any():
            raise MaskError("The drawn hole is empty. Draw over the part to remove.")
        return hole

    def _completed(
        self, model: ImageToImageModel, images: Tensor, hole: Tensor, seed: int
    ) -> Tensor:
        with autocast(self.device, self.precision):
            completed = model.complete(
                images.to(self.device), hole.to(self.device), generator=seeded(seed, 31)
            )
        return completed.float().cpu()


class Gallery:
    """The images a run can be looked at with, in a fixed order of its seed."""

    def __init__(self, request: UnlearnRequest, size: int, base: Path) -> None:
        forgotten = forgotten_ids(request.forget)
        self.forget = _interleaved(
            [
                _shuffled(part, request.seed)
                for split in ("test", "train")
                if (part := _optional(request.forget, size, split, base)) is not None
            ]
        )
        kept = dict(split="train", base=base, without=forgotten)
        trained = sample(load_image_set(request.retain, size, **kept), 2048, request.seed)  # type: ignore[arg-type]
        net = load_feature_net()
        self.neighbours = trained.subset(
            nearest(embed(net, self.forget.images()), embed(net, trained.images()), 1)[
                :, 0
            ].tolist()
        )
        held_out = _optional(request.retain, size, "test", base, forgotten)
        self.retain = _shuffled(held_out or trained, request.seed)

    def page(self, page: int, count: int) -> tuple[list[dict[str, Any]], Tensor]:
        """Rows without scores, and their images."""
        rows: list[dict[str, Any]] = []
        images = []
        for role, source in (
            ("forget", self.forget),
            ("nearest", self.neighbours),
            ("retain", self.retain),
        ):
            wanted = range(page * count, (page + 1) * count)
            index = [i % len(source) for i in wanted][: len(source)]
            images.append(source.images(index))
            rows += [{"role": role, "label": _label(source, i)} for i in index]
        return rows, torch.cat(images)


def read_drawing(data: bytes) -> Image.Image:
    """A drawn mask as RGBA; `read_image` would flatten the transparency that says where it is
    drawn.

    Raises:
        MaskError: not a PNG of a sensible size.
    """
    import io

    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        if image.width * image.height > 4_000_000:
            raise MaskError("The drawing is too large.")
        return image.convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        raise MaskError("The drawing cannot be read. Draw it again.") from error


def serve(store: RunStore, device: str = "auto", parent: int | None = None) -> None:
    """Answer requests, one at a time, until SIGTERM or until the parent process is gone."""
    completer = Completer(store, device)
    place = address(store.root)
    if os.path.exists(place):
        os.unlink(place)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    threading.Thread(target=_warm_up, daemon=True).start()
    with Listener(place, authkey=authentication_key(store.root)) as listener:
        logger.info("ready on %s", completer.device)
        while True:
            try:
                with listener.accept() as connection:
                    _answer(completer, connection)
            except (OSError, EOFError, ValueError) as error:
                logger.warning("dropped a connection: %s", type(error).__name__)


def _answer(completer: Completer, connection: Connection) -> None:
    plain, pictures = receive(connection)
    try:
        head, answers = completer.compare(compare_request(plain, pictures))
    except (RunError, MaskError, ImageError, DatasetError, ValueError) as error:
        head, answers = {"error": str(error)}, []
    except Exception as error:
        logger.error("a comparison failed with %s", type(error).__name__, exc_info=True)
        head, answers = {"error": "The comparison failed; the log has the details."}, []
    send(connection, head, answers)


def _warm_up() -> None:
    """Decode the built-in images before somebody waits for them."""
    load_image_set(("builtin",), load_model().image_size)
    load_feature_net()


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def _optional(
    specs: tuple[str, ...],
    size: int,
    split: str,
    base: Path,
    without: frozenset[str] = frozenset(),
) -> ImageSet | None:
    try:
        return load_image_set(specs, size, split=split, base=base, without=without)
    except DatasetError:
        return None


def _shuffled(images: ImageSet, seed: int) -> ImageSet:
    return images.subset(torch.randperm(len(images), generator=seeded(seed, 32)).tolist())


def _interleaved(parts: list[ImageSet]) -> ImageSet:
    """Held-out and trained images in turn while there are both; uploads have one part only."""
    if len(parts) == 1 or all(source is None for source in parts[0].sources):
        return parts[0]
    first, second = parts
    pixels = torch.cat([first.pixels, second.pixels])
    sources = (*first.sources, *second.sources)
    pairs = zip(range(len(first)), range(len(first), len(pixels)), strict=False)
    turn = [place for pair in pairs for place in pair]
    rest = [place for place in range(len(pixels)) if place not in set(turn)]
    return ImageSet(pixels, sources).subset(turn + rest)


def _label(images: ImageSet, place: int) -> str:
    source = images.sources[place]
    if source is None:
        return f"Image {place + 1}"
    return f"{source.name} · {'held out' if source.split == 'test' else 'trained on'}"


def _shown(image: Image.Image) -> bytes:
    side = max(SHOWN_SIDE, image.width)
    return to_png(image.resize((side, side), Image.Resampling.BICUBIC))


def main(device: str = "auto", parent: int | None = None) -> int:
    """Serve the data folder; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s completer %(message)s")
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    serve(RunStore(), device, parent)
    return 0
