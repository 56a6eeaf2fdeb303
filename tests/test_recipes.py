"""What the recipes share: pictures in the right shares, holes of one size, runs that go on."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from l2l_core.builtin import BuiltinImage
from recipes import sampling, training
from recipes.sampling import MORE_SHARE, PHOTO_SHARE, TrainingImages, TrainingMasks
from recipes.training import Recipe, options

SHIPPED = [
    BuiltinImage("a1", "grin", "smileys", "face", "grin", "train"),
    BuiltinImage("b1", "flag: X", "flags", "flag", "flag: X", "train"),
    BuiltinImage("c1", "wood", "photos", "texture", "wood", "train"),
    BuiltinImage("d1", "frown", "smileys", "face", "frown", "test"),
]
COLOURS = {"a1": "red", "b1": "lime", "c1": "grey", "d1": "yellow"}


@pytest.fixture
def more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four shipped pictures of one colour each, and an archive with two more."""
    monkeypatch.setattr(sampling, "builtin_index", lambda: tuple(SHIPPED))
    monkeypatch.setattr(
        sampling, "open_builtin", lambda image_id: Image.new("RGB", (96, 96), COLOURS[image_id])
    )
    others = [
        BuiltinImage("other-a1", "grin", "smileys", "face", "grin", "train"),
        BuiltinImage("other-b1", "flag: X", "flags", "flag", "flag: X", "train"),
    ]
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("index.json", json.dumps([asdict(image) for image in others]))
        for image in others:
            buffer = io.BytesIO()
            Image.new("RGB", (64, 64), "black").save(buffer, "WEBP", lossless=True)
            archive.writestr(f"{image.id}.webp", buffer.getvalue())
    return tmp_path / "more.zip"


def test_kinds_of_picture_have_their_shares(more: Path) -> None:
    images = TrainingImages("train", more=more)
    shares = dict(zip([i.id for i in images.images], images.weights.tolist(), strict=True))
    assert shares["c1"] == pytest.approx(PHOTO_SHARE)
    assert shares["other-a1"] + shares["other-b1"] == pytest.approx(MORE_SHARE)
    assert sum(shares.values()) == pytest.approx(1)


def test_a_group_left_out_is_left_out_of_both(more: Path) -> None:
    images = TrainingImages("train", without="flags", more=more)
    assert [i.id for i in images.images] == ["a1", "c1", "other-a1"]
    assert images.weights.sum().item() == pytest.approx(1)


def test_held_out_pictures_stay_out(more: Path) -> None:
    assert "d1" not in {i.id for i in TrainingImages("train", more=more).images}
    assert [i.id for i in TrainingImages("test").images] == ["d1"]


def test_still_emoji_come_as_they_are_and_others_do_not(more: Path) -> None:
    images = TrainingImages("train", still=1.0, more=more)
    pixels, picked = images.batch(200, 64, torch.Generator().manual_seed(0))
    red = pixels[picked == 0]
    assert len(red) and (red == torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)).all()
    grey = pixels[picked == 2]  # made lighter or darker
    assert len(grey) > 10 and len(grey[:, 0, 0, 0].unique()) == len(grey)
    assert {0, 1, 2, 3, 4} == set(picked.tolist())


def test_holes_of_a_set_are_whole_cells_and_equally_large() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = ("random", "centre", "border", "half", "brush", "hybrid")
    masks = TrainingMasks(kinds, 64, 16, 8, generator)
    masks_again = TrainingMasks(kinds, 64, 16, 8, torch.Generator().manual_seed(0))
    assert torch.equal(masks.sets, masks_again.sets)
    sizes = set()
    for _ in range(20):
        holes = masks.draw(generator)
        assert holes.shape == (16, 64, 64) and holes.dtype == torch.bool
        assert len(holes.flatten(1).sum(dim=1).unique()) == 1
        cells = holes[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2)
        assert torch.equal(holes, cells)
        sizes.add(int(holes[0].sum()))
    assert len(sizes) > 5


class Clock:
    """A second passes in every step."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Tiny(Recipe[nn.Linear]):
    """A linear map, stopped before the step `stop`."""

    name = "tiny.safetensors"
    batch = 2
    stop: int | None = None
    clock = Clock()

    def losses(self) -> dict[str, Tensor]:
        if self.step == self.stop:
            raise KeyboardInterrupt
        self.clock.now += 1
        images, _ = self.train.batch(self.batch, 8, self.generator)
        return {"loss": self.model(images[:, :, 0, 0]).square().mean()}

    def fresh_model(self) -> nn.Linear:
        return nn.Linear(3, 1)

    def describe(self) -> dict[str, str]:
        return {}

    def evaluate(self, model: nn.Linear) -> dict[str, float]:
        return {}


def tiny(out: Path, *flags: str, stop: int | None = None) -> Tiny:
    torch.manual_seed(0)
    parser = options("Tiny.", images=300, lr=1e-2)
    recipe = Tiny(parser.parse_args([str(out), "--save-minutes", "0", *flags]), nn.Linear(3, 1))
    recipe.stop = stop
    return recipe


def stopped(out: Path, *flags: str, before: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        tiny(out, *flags, stop=before).run()


@pytest.fixture
def clock(more: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tiny, "clock", Clock())
    monkeypatch.setattr(training, "time", Tiny.clock)


def test_a_stopped_run_goes_on_as_if_it_had_not(clock: None, tmp_path: Path) -> None:
    whole = tiny(tmp_path / "whole")
    whole.run()
    stopped(tmp_path / "parts", before=130)
    second = tiny(tmp_path / "parts")
    second.run()
    assert second.step == whole.step == 150
    assert torch.equal(second.model.weight, whole.model.weight)
    assert torch.equal(second.average["weight"], whole.average["weight"])


def test_a_finished_run_is_not_trained_on(clock: None, tmp_path: Path) -> None:
    tiny(tmp_path).run()
    again = tiny(tmp_path, stop=150)  # would be interrupted
    again.run()
    assert again.step == 150


def test_time_counts_through_an_interruption(clock: None, tmp_path: Path) -> None:
    stopped(tmp_path, "--minutes", "2", before=110)  # saved at 100
    second = tiny(tmp_path, "--minutes", "2")
    second.run()
    assert second.step == 120
