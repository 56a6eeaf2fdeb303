"""L2L Unlearning Studio, the library: make an image-to-image model forget, and see what changed.

Layers, each importing only from those before it: errors; options; registry, files; config; runtime;
images, models; stored_images; masks, class_folders, builtin; datasets; unlearning; evaluation;
jobs; experiments; cli. `make lint` checks that (pyproject.toml).

    import l2l_core as l2l

    run = l2l.unlearn(forget=["builtin:flags"])
    model = l2l.load_model("mae-fluent", checkpoint=run.weights)

Names are loaded on first use, so that `import l2l_core` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "UnlearnRequest": "l2l_core.config",
    "load_model": "l2l_core.models",
    "load_image_set": "l2l_core.datasets",
    "parse_mask": "l2l_core.masks",
    "read_image": "l2l_core.images",
    "to_tensor": "l2l_core.images",
    "to_pil": "l2l_core.images",
    "Trainer": "l2l_core.unlearning.trainer",
    "unlearn": "l2l_core.jobs.runner",
    "evaluate": "l2l_core.evaluation.evaluate",
    "evaluation_sets": "l2l_core.evaluation.evaluate",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(_WHERE[name]), name)
