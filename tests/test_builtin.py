"""The built-in images: all there, on white, and split by concept."""

from l2l_core.builtin import GROUPS, builtin_index, groups, open_builtin
from l2l_core.registry import assets_folder

EXPECTED = {
    "people": 1881,
    "objects": 261,
    "flags": 253,
    "symbols": 223,
    "travel": 218,
    "smileys": 166,
    "animals": 157,
    "food": 128,
    "activities": 85,
}


def test_groups_are_complete():
    counts = {name: 0 for name in GROUPS}
    for image in builtin_index():
        counts[image.group] += 1
    photos = counts.pop("photos")
    assert counts == EXPECTED and photos >= 500
    assert tuple(groups()) == GROUPS
    assert 90 <= sum(len(subgroups) for subgroups in groups().values()) <= 120


def test_ids_are_unique_and_the_archive_is_small():
    ids = [image.id for image in builtin_index()]
    assert len(set(ids)) == len(ids)
    assert (assets_folder() / "builtin" / "images.zip").stat().st_size < 12_000_000


def test_a_concept_lies_in_one_split():
    splits: dict[tuple[str, str], set[str]] = {}
    for image in builtin_index():
        splits.setdefault((image.group, image.concept), set()).add(image.split)
    assert all(len(found) == 1 for found in splits.values())
    held_out = sum(found == {"test"} for found in splits.values()) / len(splits)
    assert 0.07 < held_out < 0.13
    for group in GROUPS:
        assert any(g == group and found == {"test"} for (g, _), found in splits.items())


def test_skin_tones_stay_together():
    tones = [i for i in builtin_index() if "skin tone" in i.name]
    assert len(tones) > 1000
    assert not any("skin tone" in image.concept for image in tones)


def test_pictures_open_on_white():
    for image in builtin_index()[::97]:
        picture = open_builtin(image.id)
        assert picture.mode == "RGB" and picture.size == (128, 128)
    corner = open_builtin("1f600").getpixel((1, 1))
    assert min(corner) > 245


def test_every_photograph_and_both_packages_are_in_the_licences():
    text = (assets_folder() / "builtin" / "LICENSES.md").read_text(encoding="utf-8")
    assert "Copyright (c) Microsoft Corporation" in text and "Permission is hereby granted" in text
    photographs = {image.concept for image in builtin_index() if image.group == "photos"}
    assert all(f"\n| {title} |" in text for title in photographs)
