"""Build the built-in images: python -m recipes.build_images [--work FOLDER].

Emoji: Microsoft Fluent Emoji 3D (MIT) from the npm package @lobehub/fluent-emoji-3d, named and
grouped by emojibase-data (MIT). Photographs: recipes/photos.csv, from Debian's wallpaper packages
and scikit-image's wheel. Writes assets/builtin/images.zip and LICENSES.md beside it; the same
sources give the same bytes. Needs npm, apt-get and dpkg-deb.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from l2l_core.builtin import GROUPS, BuiltinImage
from l2l_core.registry import assets_folder

EMOJI, NAMES = "@lobehub/fluent-emoji-3d@1.1.0", "emojibase-data@17.0.0"
WHEEL = "scikit-image"
WHEEL_VERSION = "0.26.0"
SIDE, QUALITY, CROPS = 128, 80, 16
TEST_SHARE = 10  # one concept in ten is held out
SHORT_GROUPS = {
    "smileys-emotion": "smileys",
    "people-body": "people",
    "animals-nature": "animals",
    "food-drink": "food",
    "travel-places": "travel",
}
ROLES = re.compile("(wo)?m[ae]n|person|people|boys?|girls?|child|adult|old(er)?|mrs?")
FAMILIES = {  # one design in several colours, sizes or directions, or with another numeral
    "facing fist": "people: .*-facing fist",
    "pushing hand": "people: .* pushing hand",
    "clock face": "travel: .*(o’clock|-thirty)",
    "moon phase": "travel: .* moon",
    "number key": "symbols: keycap.*",
    "coloured shape": "symbols: .*(square|circle|diamond|triangle pointed .*)",
    "arrow sign": "symbols: .*arrow.*",
    "punctuation": "symbols: .*(exclamation|question).* mark",
}
LICENCE_PAGES = {
    "Public domain": "https://creativecommons.org/publicdomain/mark/1.0/",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "GPL-2+": "https://www.gnu.org/licenses/old-licenses/gpl-2.0.html",
    "LGPL-3.0": "https://www.gnu.org/licenses/lgpl-3.0.html",
}
LICENCES = """# Licences of the built-in images

`recipes/build_images.py` makes `images.zip` from the works below. Each picture was scaled down,
put on white and compressed again; photographs were also cropped.

## Emoji: Microsoft Fluent Emoji 3D

From <https://github.com/microsoft/fluentui-emoji>, by way of the npm package
`{emoji_package}`. MIT License, Copyright (c) Microsoft Corporation.

## Names, groups and subgroups: emojibase

From <https://github.com/milesj/emojibase>, npm package `{names_package}`.

{names_licence}

The same text is the licence of Microsoft Fluent Emoji.

## Photographs

From Debian's packages, where each author's licence is recorded (for Plasma's wallpapers in each
one's metadata), and from scikit-image's wheel (in `skimage/data/_fetchers.py`). Crops
stay under the licence of their photograph.

| Title | Author | Licence | Package | File |
|---|---|---|---|---|
{photographs}

## Pictures trained on that are not here

`recipes/build_more.py` adds these to what `mae-fluent` and its gold standard are trained on; none
of them ships.

| Pictures | Licence | Package |
|---|---|---|
| Microsoft Fluent Emoji, “modern” and “flat” | MIT | `@lobehub/fluent-emoji-modern@1.0.0`, \
`@lobehub/fluent-emoji-flat@1.1.0` |
| Noto Emoji, Copyright Google | Apache-2.0 | `emoji-datasource-google@16.0.0` |
| Twemoji, Copyright Twitter, Inc and other contributors | \
[CC-BY-4.0]({by}) | `emoji-datasource-twitter@16.0.0` |
| Open Clip Art Library, without flags | public domain | Debian's `openclipart-png` |
| more crops of the photographs above that are in the training split | as above | |
"""


def fetch(work: Path) -> None:
    """Get and unpack what is not in the work folder yet."""
    work.mkdir(parents=True, exist_ok=True)
    for package in (EMOJI, NAMES):
        fetch_npm(package, work)
    for package in sorted({row["package"] for row in photo_table()}):
        if package != WHEEL:
            fetch_debian(package, work)
        elif not (work / package).is_dir():
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
            subprocess.run([*command, f"{WHEEL}=={WHEEL_VERSION}"], cwd=work, check=True)
            zipfile.ZipFile(next(work.glob("scikit_image-*.whl"))).extractall(work / package)


def npm_folder(package: str, work: Path) -> Path:
    """Where an npm package is unpacked, named as `npm pack` names its file: @a/b@1 -> a-b-1."""
    return work / package.removeprefix("@").replace("/", "-").replace("@", "-")


def fetch_npm(package: str, work: Path) -> None:
    """Get and unpack an npm package, name and version, if it is not there yet."""
    folder = npm_folder(package, work)
    if not folder.is_dir():
        subprocess.run(["npm", "pack", "--silent", package], cwd=work, check=True)
        folder.mkdir()
        command = ["tar", "xzf", f"{folder.name}.tgz", "-C", folder.name]
        subprocess.run(command, cwd=work, check=True)


def fetch_debian(package: str, work: Path) -> None:
    """Get and unpack a Debian package, if it is not there yet."""
    if not (work / package).is_dir():
        subprocess.run(["apt-get", "download", package], cwd=work, check=True)
        archive = next(work.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive.name, package], cwd=work, check=True)


def photo_table() -> list[dict[str, str]]:
    """Rows of photos.csv."""
    with Path(__file__).with_name("photos.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def normalised_code(code: str) -> str:
    """A hexcode as both packages can agree on: no variation selector, no leading zeros."""
    parts = [part.lstrip("0") or "0" for part in re.split("[-_]", code.lower())]
    return "-".join(part for part in parts if part != "fe0f")


def concept_of(label: str, group: str) -> str:
    """What an emoji shows without skin tone, gender or family members, or its family of designs."""
    for family, pattern in FAMILIES.items():
        if re.fullmatch(pattern, f"{group}: {label.split(':')[0] if group == 'people' else label}"):
            return family
    if group != "people":
        return label
    base = label.split(":")[0].lower()
    if base.startswith(("family", "couple with heart", "kiss")):
        return base
    return " ".join(w for w in re.findall("[a-z]+", base) if not ROLES.fullmatch(w)) or "person"


def split_of(group: str, concept: str) -> str:
    """Train or test, by a hash of the concept: adding images never moves one across."""
    number = int(hashlib.sha256(f"{group}/{concept}".encode()).hexdigest(), 16)
    return "test" if number % TEST_SHARE == 0 else "train"


def emoji_names(work: Path) -> dict[str, BuiltinImage]:
    """What emojibase says of every emoji of our groups, by its code."""
    folder = npm_folder(NAMES, work) / "package"
    entries = json.loads((folder / "en" / "data.json").read_text(encoding="utf-8"))
    names = json.loads((folder / "meta" / "groups.json").read_text(encoding="utf-8"))
    known: dict[str, BuiltinImage] = {}
    for entry in entries:
        if "group" not in entry:
            continue
        long_name = names["groups"][str(entry["group"])]
        group = SHORT_GROUPS.get(long_name, long_name)
        subgroup = names["subgroups"][str(entry["subgroup"])]
        if group not in GROUPS:
            continue
        for form in (entry, *entry.get("skins", ())):
            code, label = normalised_code(form["hexcode"]), form["label"]
            concept = concept_of(label, group)
            split = split_of(group, concept)
            known[code] = BuiltinImage(code, label, group, subgroup, concept, split)
    return known


def on_white(image: Image.Image, side: int) -> Image.Image:
    """A picture with alpha, made square, on white, `side` pixels wide."""
    image = image.convert("RGBA")
    square = Image.new("RGBA", (max(image.size),) * 2, "white")
    left, top = ((square.width - length) // 2 for length in image.size)
    square.alpha_composite(image, (left, top))
    return square.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def emoji(work: Path) -> Iterator[tuple[BuiltinImage, Image.Image]]:
    """Every emoji once (some are in the package under two spellings)."""
    known = emoji_names(work)
    for path in sorted((npm_folder(EMOJI, work) / "package" / "assets").glob("*.webp")):
        about = known.pop(normalised_code(path.stem), None)
        if about:
            yield about, on_white(Image.open(path), SIDE)


def photographs(work: Path, crops: int) -> Iterator[tuple[BuiltinImage, Image.Image]]:
    """Square crops of every photograph at several scales."""
    for row in photo_table():
        folder = work / row["package"]
        path = (folder if row["package"] == WHEEL else folder / "usr" / "share") / row["file"]
        photo = Image.open(path).convert("RGB")
        photo.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
        rng = random.Random(row["title"])
        short = min(photo.size)
        for number in range(crops):
            side = round(short * (1 if number == 0 else rng.uniform(max(0.3, SIDE / short), 0.9)))
            left, top = (rng.randint(0, length - side) for length in photo.size)
            crop = photo.crop((left, top, left + side, top + side))
            slug = re.sub(r"\W+", "-", row["title"].lower())
            about = BuiltinImage(
                f"photo-{slug}-{number:02d}",
                row["title"],
                "photos",
                row["kind"],
                row["title"],
                row["split"],
            )
            yield about, crop.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def pack(images: list[tuple[BuiltinImage, Image.Image]], path: Path, quality: int) -> None:
    """Write the archive: stored members in a fixed order with a fixed date."""
    images.sort(key=lambda p: (GROUPS.index(p[0].group), p[0].subgroup, p[0].id))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes, method: int = zipfile.ZIP_STORED) -> None:
            info = zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0))
            info.compress_type = method
            archive.writestr(info, content)

        index = json.dumps([asdict(about) for about, _ in images], ensure_ascii=False, indent=0)
        add("index.json", index.encode(), zipfile.ZIP_DEFLATED)
        for about, picture in images:
            buffer = io.BytesIO()
            picture.save(buffer, "WEBP", quality=quality, method=6)
            add(f"{about.id}.webp", buffer.getvalue())
    unfinished.replace(path)  # a studio that runs keeps reading the one it opened


def licences(work: Path) -> str:
    """LICENSES.md: the MIT text of both npm packages, and whose every photograph is."""
    rows = [
        f"| {row['title']} | {row['author']} | [{row['licence']}]({LICENCE_PAGES[row['licence']]}) "
        f"| {row['package']} | `{row['file']}` |"
        for row in photo_table()
    ]
    return LICENCES.format(
        emoji_package=EMOJI,
        by=LICENCE_PAGES["CC-BY-4.0"],
        names_package=NAMES,
        names_licence=(npm_folder(NAMES, work) / "package" / "LICENSE")
        .read_text(encoding="utf-8")
        .strip(),
        photographs="\n".join(rows),
    )


def main() -> None:
    """Fetch, build, and say what was built."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/images"))
    parser.add_argument("--out", type=Path, default=assets_folder() / "builtin" / "images.zip")
    args = parser.parse_args()
    fetch(args.work)
    images = [*emoji(args.work), *photographs(args.work, CROPS)]
    pack(images, args.out, QUALITY)
    args.out.with_name("LICENSES.md").write_text(licences(args.work), encoding="utf-8")
    for group in GROUPS:
        members = [about for about, _ in images if about.group == group]
        held_out = sum(about.split == "test" for about in members)
        print(f"{group:11} {len(members):5} images, {held_out:4} held out")
    print(f"{args.out.name}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
