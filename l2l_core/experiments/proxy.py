"""What stands in for the retain set where nobody named a proxy: images of another kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from l2l_core.builtin import builtin_index
from l2l_core.class_folders import KIND, Selection, find_images, written
from l2l_core.config import UnlearnRequest
from l2l_core.datasets import forgotten_ids
from l2l_core.stored_images import DatasetError


def default_proxy(request: UnlearnRequest) -> tuple[str, ...]:
    """The image sets of “ours with proxy”, as the paper's are: neither forgotten nor retained.

    For built-in forget sets the smallest built-in group that has none of their images and at least
    as many in training; for class folders every class outside the positions taken.

    Raises:
        DatasetError: there are no such images.
    """
    kinds = {spec.partition(":")[0] for spec in request.forget}
    if kinds == {"builtin"}:
        return (_other_group(request.forget),)
    if kinds == {KIND}:
        return (_other_classes([*request.forget, *request.retain]),)
    raise DatasetError("no proxy goes with one's own images: name one with --proxy")


def _other_group(forget: Sequence[str]) -> str:
    forgotten = forgotten_ids(forget)
    touched = {image.group for image in builtin_index() if image.id in forgotten}
    trained = [image for image in builtin_index() if image.split == "train"]
    wanted = sum(image.id in forgotten for image in trained)
    sizes = Counter(image.group for image in trained if image.group not in touched)
    enough = [group for group, size in sizes.items() if size >= wanted]
    if not enough:
        raise DatasetError("no built-in group is left that is as large as the forget set")
    return f"builtin:{min(enough, key=lambda group: sizes[group])}"


def _other_classes(specs: Sequence[str]) -> str:
    parts = [Selection.parse(spec) for spec in specs if spec.partition(":")[0] == KIND]
    places = {(part.root, part.list) for part in parts}
    if len(parts) < len(specs) or len(places) > 1 or not all(part.take for part in parts):
        raise DatasetError("the sets do not take classes of one tree: name a proxy with --proxy")
    order = f"list={parts[0].list}&" if parts[0].list else ""
    spec = (
        f"{KIND}:{parts[0].root}?{order}except={written([r for part in parts for r in part.take])}"
    )
    try:
        find_images(spec, "train")
    except DatasetError as error:
        raise DatasetError("the tree has no other classes") from error
    return spec
