"""More pictures to train on, that do not ship: python -m recipes.build_more [--work FOLDER].

The same emoji as other hands drew them (never those whose concept is held out), clip art, and sixty
crops of each photograph trained on, the first sixteen those that ship. Writes build/more.zip, laid
out as images.zip; the recipes take it with `--more build/more.zip`. LICENSES.md names the sources.
Needs npm, apt-get and dpkg-deb, and resvg-py (`pip install resvg-py==0.5.0`), which draws SVG.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from l2l_core.builtin import BuiltinImage
from recipes.build_images import (
    emoji_names,
    fetch,
    fetch_debian,
    fetch_npm,
    normalised_code,
    npm_folder,
    on_white,
    pack,
    photographs,
)

STYLES = {  # npm package -> where its pictures lie
    "@lobehub/fluent-emoji-modern@1.0.0": "assets/*.svg",
    "@lobehub/fluent-emoji-flat@1.1.0": "assets/*.svg",
    "emoji-datasource-google@16.0.0": "img/google/64/*.png",
    "emoji-datasource-twitter@16.0.0": "img/twitter/64/*.png",
}
CLIPART = "openclipart-png"
SIDE, QUALITY, CROPS = 64, 75, 60


def drawn(path: Path) -> Image.Image:
    """A picture file, SVG included."""
    if path.suffix == ".svg":
        import resvg_py

        return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=256))))
    return Image.open(path)


def other_styles(work: Path) -> Iterator[tuple[BuiltinImage, Image.Image]]:
    """Emoji trained on, by other hands."""
    for package, pattern in STYLES.items():
        known = emoji_names(work)
        folder = npm_folder(package, work)
        for path in sorted((folder / "package").glob(pattern)):
            about = known.pop(normalised_code(path.stem), None)
            if about and about.split == "train":
                yield replace(about, id=f"{folder.name}-{about.id}"), on_white(drawn(path), SIDE)


def clipart(work: Path) -> Iterator[tuple[BuiltinImage, Image.Image]]:
    """Clip art without flags, so that a model that never saw a flag never sees one here."""
    root = work / CLIPART / "usr" / "share" / "openclipart" / "png"
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        if "flag" in str(path.relative_to(root)).lower():
            continue
        try:
            picture = on_white(Image.open(path), SIDE)
        except (OSError, Image.DecompressionBombError):  # a few are no pictures, or huge
            continue
        about = BuiltinImage(
            f"clipart-{number:04d}", path.stem, "objects", "clipart", path.stem, "train"
        )
        yield about, picture


def main() -> None:
    """Fetch, build, and say what was built."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/images"))
    parser.add_argument("--out", type=Path, default=Path("build/more.zip"))
    args = parser.parse_args()
    fetch(args.work)
    for package in STYLES:
        fetch_npm(package, args.work)
    fetch_debian(CLIPART, args.work)
    photos = [
        (replace(about, id=f"more-{about.id}"), picture.resize((SIDE, SIDE)))
        for about, picture in photographs(args.work, CROPS)
        if about.split == "train"
    ]
    images = [*other_styles(args.work), *clipart(args.work), *photos]
    pack(images, args.out, QUALITY)
    print(f"{len(images)} pictures, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
