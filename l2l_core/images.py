"""The one door for untrusted images, and the way from pictures to tensors and back.

What comes out of `read_image` is plain 8-bit RGB with nothing else attached: no metadata, no hidden
colours under transparency, no further frames. PyTorch is imported only inside the tensor
functions, because the web process checks uploads and must not load it.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from l2l_core.errors import PlainError

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
# Multi-picture JPEGs (MPO) come in through JPEG.
SUFFIXES = {".png", ".jpg", ".jpeg", ".mpo", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
MAX_PIXELS = 40_000_000
MIN_SIDE = 8
MAX_ASPECT = 20
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_USE = "Use a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF image."


class ImageError(PlainError):
    """A picture that cannot be used; the message is a sentence for the person who offered it."""


@dataclass(frozen=True)
class LoadedImage:
    """A picture, and what was done to it that its owner should know."""

    image: Image.Image  # RGB
    notes: tuple[str, ...] = ()


def read_image(source: str | Path | bytes | BinaryIO) -> LoadedImage:
    """Open, check and clean one picture.

    Raises:
        ImageError: empty, damaged, too large, too small, of another format; the message names no
            path.
    """
    data = _read(source)
    if not data:
        raise ImageError("The file is empty.")
    if _is_heic(data):
        raise ImageError("This is a HEIC photograph. Convert it to JPEG first.")
    try:
        _check(data)
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        frames = getattr(image, "n_frames", 1)
        image.load()
        rgb = _to_rgb(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"This is not an image that can be read. {_USE}") from error
    except Image.DecompressionBombError as error:
        raise ImageError("The image has far too many pixels. Make it smaller.") from error
    except Exception as error:  # decoders meet arbitrary bytes and raise whatever they lead to
        raise ImageError("The image is damaged or incomplete. Export it again.") from error
    clean = Image.new("RGB", rgb.size)
    clean.paste(rgb)
    return LoadedImage(
        clean, (f"Only the first of {frames} frames is used.",) if frames > 1 else ()
    )


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, `size` pixels a side."""
    return ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)


def to_bytes(images: Sequence[Image.Image], size: int) -> Tensor:
    """Pictures as bytes (B, 3, size, size), the middle square of each."""
    import torch

    if not images:
        return torch.empty(0, 3, size, size, dtype=torch.uint8)
    pixels = np.stack([np.asarray(fit_square(image, size)) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def to_tensor(images: Sequence[Image.Image], size: int) -> Tensor:
    """Pictures as floats (B, 3, size, size) in [0, 1], the middle square of each."""
    return to_bytes(images, size).float() / 255


def to_pil(images: Tensor) -> list[Image.Image]:
    """Floats (B, 3, H, W) in [0, 1] as pictures; values outside are clipped."""
    import torch

    pixels = (images.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(picture) for picture in pixels.permute(0, 2, 3, 1).numpy()]


def to_png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def display_name(name: str, limit: int = 60) -> str:
    """A file name as pages may show it: its last part, without control or direction characters."""
    last = name.replace("\\", "/").split("/")[-1]
    visible = "".join(c for c in last if unicodedata.category(c)[0] != "C").strip(" .")
    return visible[:limit] or "image"


def _read(source: str | Path | bytes | BinaryIO) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, (str, Path)):
        try:
            return Path(source).read_bytes()
        except (OSError, ValueError) as error:
            raise ImageError("The file cannot be opened.") from error
    return source.read()


def _is_heic(data: bytes) -> bool:
    """Whether the brands are HEIC's; AVIF may share the leading one but names its own too."""
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    heic = data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS
    return heic and b"avif" not in brands and b"avis" not in brands


def _check(data: bytes) -> None:
    """Refuse by the header, before any pixel is decoded; then check the structure of the file."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"The image has {width} × {height} pixels; at most "
                f"{MAX_PIXELS // 10**6} million are accepted. Make it smaller."
            )
        if min(width, height) < MIN_SIDE:
            raise ImageError(
                f"The image has {width} × {height} pixels; each side needs at least {MIN_SIDE}."
            )
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ImageError(f"The image is too narrow: {width} × {height} pixels. Crop it.")
        image.verify()


def _upright(image: Image.Image) -> Image.Image:
    """EXIF orientation applied; unreadable EXIF is as good as none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the EXIF parser meets arbitrary bytes and raises whatever they lead to
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: deep greys scaled, transparency on white."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Grey levels (H, W) of 16 or 32 bits, or floats, as 8 bits: scaled, never clipped.

    Integers up to 65535 are taken as 16 bits, floats up to 1 as they are, anything else by its
    range.
    """
    if not np.isfinite(values).all():
        raise ValueError("not a number among the pixels")
    low, high = float(values.min()), float(values.max())
    whole = np.issubdtype(values.dtype, np.integer)
    full = 65535.0 if whole else 1.0
    if low < 0 or high > full:
        scaled = (values.astype(np.float64) - low) / max(high - low, 1e-12)
    else:
        scaled = values.astype(np.float64) / full
    return (scaled * 255).round().astype(np.uint8)
