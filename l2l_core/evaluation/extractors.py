"""What turns images into features for FID, KID, Inception Score and cosine; always named.

    builtin             the built-in feature net; needs no file
    inception:FILE      torch-fidelity's InceptionV3 (the network of the published FID and IS)
    clip:FOLDER         a CLIP vision tower through transformers, from a folder or a hub id that is
                        already on disk (the paper: laion/CLIP-ViT-H-14-laion2B-s32B-b79K)
    places:FILE         the Places-365 ResNet-50, as published

Nothing is downloaded, and files are opened as weights only.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2l_core.builtin import builtin_index, open_builtin
from l2l_core.errors import PlainError
from l2l_core.evaluation.features import EXTRACTOR, load_feature_net
from l2l_core.images import to_tensor
from l2l_core.models.checkpoints import CheckpointError, load_strict, read_checkpoint

SPECS = "builtin, inception:FILE, clip:FOLDER, places:FILE"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Extracted:
    """What an extractor says about images."""

    features: Tensor  # (B, D) float32, on the CPU
    logits: Tensor | None  # (B, K) class logits, if it has classes; softmax gives probabilities
    embedding: Tensor | None = None  # (B, E) features of a second extractor, if there is one


@dataclass(frozen=True)
class Extractor:
    """A named network."""

    name: str
    """As tables show it, e.g. “FID, InceptionV3 (torch-fidelity)”."""
    dimensions: int
    classes: str
    """What its Inception Score counts, e.g. “ImageNet classes”; empty without classes."""
    network: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    """Images (B, 3, H, W) in [0, 1] -> features (B, D) and logits (B, K) or None."""

    @torch.no_grad()
    def __call__(self, images: Tensor, batch_size: int = 64) -> Extracted:
        """Features and logits of images (B, 3, H, W) in [0, 1], a batch at a time."""
        parts = [self.network(part) for part in images.split(batch_size)]
        logits = [logit.float().cpu() for _, logit in parts if logit is not None]
        return Extracted(
            torch.cat([features.float().cpu() for features, _ in parts]),
            torch.cat(logits) if logits else None,
        )

    def features(self, images: Tensor) -> Tensor:
        """Features (B, D) alone."""
        return self(images).features


def open_extractor(spec: str = "builtin", device: str | torch.device = "cpu") -> Extractor:
    """The extractor that a text names, as in this module's first lines.

    Raises:
        ValueError: no such extractor, or it needs a file.
        CheckpointError: the file is missing, unsafe, damaged or of another network.
    """
    kind, _, place = spec.partition(":")
    if kind == "builtin":
        return _builtin(torch.device(device))
    if kind not in _OPENERS:
        raise PlainError(f"There is no extractor “{kind}”. Write one of: {SPECS}.")
    if not place:
        raise PlainError(f"“{kind}” needs a file: write {kind}:PATH.")
    return _OPENERS[kind](place, torch.device(device))


def _builtin(device: torch.device) -> Extractor:
    """The built-in feature net, with the nearest built-in subgroup in place of a classifier.

    The net was trained with a softmax over 16 times the cosine to a vector for each subgroup, but
    ships without those vectors. The mean embedding of each subgroup's training images stands in for
    them, at the same scale, so its Inception Score is sharp where a completion looks like one kind
    of built-in image, and says nothing about published scores.
    """
    net = load_feature_net()
    if device.type != "cpu":
        net = load_feature_net.__wrapped__().to(device)

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        features = net.embed(images.to(device)).float()
        prototypes = _subgroup_prototypes().to(device)
        return features, 16 * F.normalize(features, dim=1) @ prototypes.T

    return Extractor(EXTRACTOR, 256, "nearest built-in subgroups", network)


@lru_cache(maxsize=1)
def _subgroup_prototypes(most: int = 8) -> Tensor:
    """Unit vectors (subgroups, 256): the mean embedding of up to `most` training images of each."""
    net = load_feature_net()
    chosen: dict[tuple[str, str], list[str]] = {}
    for image in builtin_index():
        if image.split == "train":
            chosen.setdefault((image.group, image.subgroup), []).append(image.id)
    means = []
    for ids in chosen.values():
        pictures = [open_builtin(image_id) for image_id in ids[:: -(-len(ids) // most)]]
        with torch.no_grad():
            means.append(F.normalize(net.embed(to_tensor(pictures, 64)), dim=1).mean(dim=0))
    return F.normalize(torch.stack(means), dim=1)


def _inception(place: str, device: torch.device) -> Extractor:
    """torch-fidelity's InceptionV3; the published file is weights-inception-2015-12-05-*.pth."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state, _ = read_checkpoint(place)
    safe = io.BytesIO()  # the class opens its file unsafely: it gets what was read safely instead
    torch.save(state, safe)
    safe.seek(0)
    try:
        net = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=safe
        ).to(device)
    except RuntimeError as error:
        raise CheckpointError(
            f"“{Path(place).name}” is not torch-fidelity's InceptionV3. "
            "Take weights-inception-2015-12-05-6726825d.pth from its releases."
        ) from error

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = net(_to_bytes(images).to(device))
        return features, logits

    return Extractor("InceptionV3 (torch-fidelity)", 2048, "Inception's classes", network)


def _clip(place: str, device: torch.device) -> Extractor:
    """The image embeddings of a CLIP, after its projection, with its own image processing."""
    from transformers import CLIPImageProcessor, CLIPModel

    name = Path(place).name
    try:
        loaded: Any = CLIPModel.from_pretrained(
            place, local_files_only=True, output_loading_info=True
        )
        processor = CLIPImageProcessor.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"No CLIP at “{name}”. Give a folder in transformers' layout (config.json, weights, "
            "preprocessor_config.json), or a hub id that was downloaded before."
        ) from error
    net, found = loaded
    if absent := sorted(found["missing_keys"]):
        raise CheckpointError(f"“{name}” is not a whole CLIP: {absent[0]} is missing.")
    vision, projection = (
        part.eval().requires_grad_(False).to(device)
        for part in (net.vision_model, net.visual_projection)
    )

    def network(images: Tensor) -> tuple[Tensor, None]:
        pixels = processor(images=_to_bytes(images), return_tensors="pt")["pixel_values"]
        return projection(vision(pixel_values=pixels.to(device)).pooler_output), None

    return Extractor(f"CLIP {name}", projection.out_features, "", network)


def _places(place: str, device: torch.device) -> Extractor:
    """The Places-365 ResNet-50 (`resnet50_places365.pth.tar`: {'state_dict': 'module.*'}).

    Features are those before its classifier. The whole image is resized to 224 pixels, not cropped,
    so that no part of a hole is lost.
    """
    from torchvision.models import resnet50

    state, _ = read_checkpoint(place)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    classes = len(state["fc.bias"]) if "fc.bias" in state else 365
    net = resnet50(num_classes=classes)
    counters = {k: v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}
    load_strict(net, counters | state, Path(place).name)  # old files have no counters
    head, net.fc = net.fc, nn.Identity()
    net, head = net.eval().requires_grad_(False).to(device), head.to(device)
    mean, std = (
        torch.tensor(v, device=device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD)
    )

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        resized = F.interpolate(images.to(device), (224, 224), mode="bilinear", antialias=True)
        features = net((resized - mean) / std)
        return features, head(features)

    return Extractor("ResNet-50 (Places-365)", 2048, "Places classes", network)


def _to_bytes(images: Tensor) -> Tensor:
    """Eight bits a channel, as published scores are computed from files."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


_OPENERS: dict[str, Callable[[str, torch.device], Extractor]] = {
    "inception": _inception,
    "clip": _clip,
    "places": _places,
}
