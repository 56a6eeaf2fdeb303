"""The models there are, and how to open one. Importing this loads no PyTorch; `load_model` does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2l_core.models.base import ImageToImageModel


@dataclass(frozen=True)
class ModelSpec:
    """One model people can name."""

    name: str
    family: str
    title: str
    description: str
    licence: str
    source: str
    """Where the weights come from: shipped with the studio, or the publishers' address."""
    builtin: str | None = None
    """File below assets/builtin for the models that ship with the studio."""

    @property
    def path(self) -> Path | None:
        """The shipped weights, if this model has any and they are on disk."""
        if self.builtin is None:
            return None
        path = assets_folder() / "builtin" / self.builtin
        return path if path.is_file() else None


def assets_folder() -> Path:
    """The folder of shipped assets; the environment variable L2L_ASSETS overrides it."""
    return Path(os.environ.get("L2L_ASSETS") or Path(__file__).parents[2] / "assets")


def _published_mae(size: str, parameters: str) -> ModelSpec:
    return ModelSpec(
        name=f"mae-vit-{size}",
        family="mae",
        title=f"MAE ViT-{size.capitalize()}",
        description=f"ImageNet-1K, 224×224, {parameters} parameters with its decoder.",
        licence="CC BY-NC 4.0",
        source=f"facebook/vit-mae-{size} on the Hugging Face hub, or the authors' "
        f"mae_visualize_vit_{size}.pth",
    )


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="mae-fluent",
            family="mae",
            title="MAE Fluent",
            description="Demo weights: a small MAE, 64×64, trained on the built-in images.",
            licence="MIT",
            source="shipped with the studio; recipes/train_mae.py",
            builtin="mae-fluent.safetensors",
        ),
        _published_mae("base", "112 M"),
        _published_mae("large", "330 M"),
        _published_mae("huge", "657 M"),
    )
}
"""Name to spec. A new family is one file beside this one, one line here and in `_family`."""

FAMILIES = ("mae",)


def load_model(
    name: str = "mae-fluent",
    checkpoint: str | Path | None = None,
    *,
    device: str = "cpu",
    **options: Any,
) -> ImageToImageModel:
    """Open a model in evaluation mode, float32.

    Args:
        name: a name in `MODELS` or a family in `FAMILIES`. checkpoint: a weights file or hub
            folder; may be left out for models that ship with the studio. device: where to put it
            ("cpu", "cuda", "cuda:1", "mps"). options: what tensor shapes cannot tell, e.g. heads=…,
            decoder_heads=…, norm_pix_loss=….

    Raises:
        ValueError: unknown name, or no weights to open.
        CheckpointError: the weights are unsafe, damaged or of another model.
    """
    spec = MODELS.get(name)
    if spec is None and name not in FAMILIES:
        known = ", ".join([*MODELS, *FAMILIES])
        raise ValueError(f"There is no model “{name}”. Known models and families: {known}.")
    path = checkpoint or (spec.path if spec else None)
    if path is None:
        where = f" It comes from {spec.source}." if spec else ""
        raise ValueError(f"“{name}” needs a checkpoint: give the path of its weights.{where}")
    family = spec.family if spec else name
    return _family(family)(Path(path), **options).to(device).eval()


def _family(family: str) -> Any:
    """The function that opens a family's checkpoints: (path, **options) -> model."""
    if family == "mae":
        from l2l_core.models.mae import open_mae

        return open_mae
    raise ValueError(f"There is no family “{family}”.")
