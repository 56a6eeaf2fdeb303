"""Class folders and shards in the layouts of the published sets, as miniatures."""

import io
import tarfile

import pytest
import torch
from PIL import Image

from l2l_core.class_folders import find_images, read_class_list, written
from l2l_core.config import UnlearnRequest
from l2l_core.datasets import load_image_set
from l2l_core.evaluation.evaluate import evaluation_sets
from l2l_core.stored_images import DatasetError, StoredPixels
from l2l_core.unlearning.trainer import Trainer

SYNSETS = ["n01440764", "n01443537", "n01484850", "n01491361"]


def picture(number, side=20):
    """A grey picture whose level is its number."""
    return Image.new("RGB", (side + 4, side), (number, number, number))


def write(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number).save(path)


@pytest.fixture
def imagenet(tmp_path):
    """Four classes, three training and two validation images each; grey level 10 × class + i."""
    root = tmp_path / "imagenet"
    for c, name in enumerate(SYNSETS):
        for split, count in (("train", 3), ("val", 2)):
            for i in range(count):
                write(root / split / name / f"{name}_{i}.png", 10 * c + i)
                (root / split / name / f"{name}_{i}.png").rename(
                    root / split / name / f"{name}_{i}.JPEG"
                )
        (root / "train" / name / "notes.txt").write_text("not an image")
    return root


def levels(images):
    """Grey levels of a set."""
    return images.pixels[:][:, 0, 0, 0].tolist()


def classes_of(spec, split="train"):
    return list(dict.fromkeys(image.label for image in find_images(spec, split)))


def test_imagenet_in_sorted_order(imagenet):
    assert levels(load_image_set((f"classes:{imagenet}?take=2-3",), 16, split="train")) == [
        *(10, 11, 12),
        *(20, 21, 22),
    ]
    assert levels(load_image_set((f"classes:{imagenet}?take=2-3",), 16, split="test")) == [
        *(10, 11),
        *(20, 21),
    ]
    assert len(find_images(f"classes:{imagenet}", "all")) == 4 * 3 + 4 * 2
    assert len(find_images(f"classes:{imagenet}?each=1", "train")) == 4


def test_a_list_gives_the_order_and_its_complement_is_the_proxy(imagenet, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"# forgotten first\n{SYNSETS[3]}\n\n{SYNSETS[1]}\n")
    with_list = f"classes:{imagenet}?list={listed}"
    assert classes_of(with_list) == [SYNSETS[3], SYNSETS[1]]
    assert classes_of(f"{with_list}&take=1-1") == [SYNSETS[3]]
    assert classes_of(f"{with_list}&take=2-2") == [SYNSETS[1]]
    assert classes_of(f"{with_list}&except=1-2") == [SYNSETS[0], SYNSETS[2]]
    assert classes_of(f"{with_list}&except=1-1") == SYNSETS[:3]
    assert classes_of(f"classes:{imagenet}?except=1-1,3-3") == [SYNSETS[1], SYNSETS[3]]
    assert classes_of(f"classes:{imagenet}?take=4-4,1-2") == [SYNSETS[3], *SYNSETS[:2]]


def test_ranges_are_joined_where_they_meet():
    assert written(((101, 200), (1, 100))) == "1-200"
    assert written(((91, 100), (1, 10), (5, 12))) == "1-12,91-100"


def test_a_class_without_validation_images_does_not_shift_the_others(imagenet):
    for file in (imagenet / "val" / SYNSETS[0]).iterdir():
        file.unlink()
    (imagenet / "val" / SYNSETS[0]).rmdir()
    assert classes_of(f"classes:{imagenet}?take=2-2", "test") == [SYNSETS[1]]
    with pytest.raises(DatasetError, match="not in test"):
        find_images(f"classes:{imagenet}?take=1-2", "test")
    assert classes_of(f"classes:{imagenet}?except=2-2", "test") == SYNSETS[2:]


def test_places_with_letters_and_nested_classes(tmp_path):
    root = tmp_path / "places"
    for number, name in enumerate(("a/airfield", "b/bar", "b/bazaar/indoor", "b/bazaar/outdoor")):
        write(root / "train" / name / "00000001.jpg", number)
    for name in ("airfield", "bar", "bazaar-indoor", "bazaar-outdoor"):
        write(root / "val" / name / "Places365_val_00000001.jpg", 0)
    expected = ["airfield", "bar", "bazaar-indoor", "bazaar-outdoor"]
    assert classes_of(f"classes:{root}") == classes_of(f"classes:{root}", "test") == expected
    listed = tmp_path / "categories.txt"
    listed.write_text("/b/bazaar/indoor 41\n/a/airfield 0\n")
    assert read_class_list(listed) == ["bazaar-indoor", "airfield"]
    assert classes_of(f"classes:{root}?list={listed}&take=1-1") == ["bazaar-indoor"]


def test_coco_has_no_classes(tmp_path):
    for number in (1, 2):
        write(tmp_path / "coco" / "train2017" / f"00000000000{number}.jpg", number)
    write(tmp_path / "coco" / "val2017" / "000000000009.jpg", 9)
    assert levels(load_image_set((f"classes:{tmp_path}/coco",), 16, split="train")) == [1, 2]
    assert levels(load_image_set((f"classes:{tmp_path}/coco",), 16, split="test")) == [9]


def write_shard(path, samples):
    """A webdataset shard of (key, class, grey level)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, label, number in samples:
            buffer = io.BytesIO()
            picture(number).save(buffer, "PNG")
            for name, data in ((f"{key}.cls", label.encode()), (f"{key}.png", buffer.getvalue())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("name", ["train/{:06d}.tar", "imagenet1k-train-{:04d}.tar"])
def test_shards_give_what_folders_give(tmp_path, name):
    """Classes are numbers here, and sort as numbers."""
    samples = [(f"{n:08d}", str(label), n) for n, label in enumerate((10, 2, 10, 0, 2))]
    write_shard(tmp_path / name.format(0), samples[:3])
    write_shard(tmp_path / name.format(1), samples[3:])
    spec = f"classes:{tmp_path}"
    assert classes_of(spec) == ["0", "2", "10"]
    assert levels(load_image_set((spec,), 16, split="train")) == [3, 1, 4, 0, 2]
    assert levels(load_image_set((f"{spec}?take=3-3",), 16, split="train")) == [0, 2]


def test_compressed_shards_are_refused(tmp_path):
    (tmp_path / "train").mkdir()
    with tarfile.open(tmp_path / "train" / "0.tar", "w:gz"):
        pass
    with pytest.raises(DatasetError, match="plain tar"):
        find_images(f"classes:{tmp_path}", "train")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?take=1-9", "has 4"),
        ("?take=3-2", "first and last"),
        ("?take=1-2&except=1-2", "not both"),
        ("?first=3", "unknown part “first”"),
        ("?each=0", "1 or more"),
        ("?list=/no/such/list.txt", "list.txt” cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(imagenet, query, message):
    with pytest.raises(DatasetError, match=message) as caught:
        find_images(f"classes:{imagenet}{query}", "train")
    assert str(imagenet.parent) not in str(caught.value) and "/no/such" not in str(caught.value)


def test_lists_that_do_not_fit_are_refused(imagenet, tmp_path):
    listed = tmp_path / "list.txt"
    for text, message in (
        ("n99999999\n", "no class “n99999999”"),
        ("a\na\n", "twice"),
        ("", "emp"),
    ):
        listed.write_text(text)
        with pytest.raises(DatasetError, match=message):
            find_images(f"classes:{imagenet}?list={listed}", "train")


def test_nothing_is_read_before_it_is_asked_for(imagenet):
    images = load_image_set((f"classes:{imagenet}",), 16, split="train")
    for file in (imagenet / "train" / SYNSETS[0]).glob("*.JPEG"):
        file.write_bytes(b"nothing")
    assert len(images) == 12 and isinstance(images.pixels, StoredPixels)
    assert levels(images.subset([3, 11])) == [10, 32]
    with pytest.raises(DatasetError, match=f"Image 2 of class “{SYNSETS[0]}”") as caught:
        images.images([1])
    assert "JPEG" not in str(caught.value).split("cannot be used")[0]


def test_streamed_and_loaded_pixels_are_equal(imagenet):
    """Whether a folder is loaded or read as needed makes no difference to a pixel."""
    loaded = load_image_set((str(imagenet / "train"),), 16)
    streamed = load_image_set((f"classes:{imagenet}",), 16, split="train")
    assert torch.equal(loaded.pixels, streamed.pixels[:])
    index = torch.tensor([5, 0, 5])
    assert torch.equal(loaded.images(index), streamed.images(index))
    assert torch.equal(loaded.images(slice(1, 4)), streamed.images(slice(1, 4)))


def test_streams_are_joined_only_with_streams(imagenet):
    parts = (f"classes:{imagenet}?take=1-1", f"classes:{imagenet}?take=4-4")
    assert levels(load_image_set(parts, 16, split="train")) == [0, 1, 2, 30, 31, 32]
    with pytest.raises(DatasetError, match="others of their kind"):
        load_image_set((parts[0], "builtin"), 16)


def test_statistics_are_taken_from_a_spread_of_a_stream(imagenet):
    images = load_image_set((f"classes:{imagenet}",), 16, split="train")
    assert (images.typical(3)[:, 0, 0, 0] * 255).round().tolist() == [0, 20, 32]
    assert len(images.typical()) == len(images)


def test_a_run_trains_on_class_folders_and_is_measured_on_validation(imagenet, request_settings):
    settings = {
        "forget": [f"classes:{imagenet}?take=1-2"],
        "retain": [f"classes:{imagenet}?take=3-4"],
        "steps": 2,
    }
    request = UnlearnRequest.from_dict(request_settings | settings)
    trainer = Trainer.from_request(request)
    assert (len(trainer.forget), len(trainer.retain)) == (6, 6)
    assert [record.step for record in trainer.steps()] == [1, 2]
    sets = evaluation_sets(request, 32)
    assert sets.forget_is_held_out
    assert levels(sets.forget) == [0, 1, 10, 11] and levels(sets.retain) == [20, 21, 30, 31]
