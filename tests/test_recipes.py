"""What the recipes share: pictures in the right shares, holes of one size, runs that go on."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from l2l_core.builtin import BuiltinImage
from l2l_core.evaluation.extractors import open_extractor
from l2l_core.models.palette import Palette
from recipes import sampling, train_palette, training
from recipes.quality import measure
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


def test_spread_pictures_come_from_the_whole_list_as_they_are(more: Path) -> None:
    images = TrainingImages("train").spread(2, 32)
    assert images.shape == (2, 3, 32, 32)
    red, grey = images.mean(dim=(2, 3))
    assert red == pytest.approx([1, 0, 0], abs=0.01)  # the first picture
    assert grey == pytest.approx([128 / 255] * 3, abs=0.01)  # the last
    assert len(TrainingImages("train").spread(10, 32)) == 3


@pytest.mark.parametrize("lacking", [{"attended_levels": ()}, {"extra_blocks": 0}])
def test_what_is_added_changes_nothing_at_first(lacking: dict[str, Any]) -> None:
    plain = Palette(replace(train_palette.SAVED, **lacking)).eval()
    fitted = train_palette.fitted(plain, train_palette.SAVED).eval()
    assert fitted.config == train_palette.SAVED
    noisy, gammas = torch.randn(2, 6, 64, 64), torch.tensor([0.3, 0.9])
    with torch.no_grad():
        found = fitted.unet(noisy, gammas, return_dict=False)[0]
        expected = plain.unet(noisy, gammas, return_dict=False)[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_saved_weights_of_a_palette_start_its_training_again() -> None:
    saved = Palette(train_palette.SAVED)
    trained = train_palette.fitted(saved, train_palette.CONFIG)
    assert trained.config == train_palette.CONFIG
    whole = saved.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in trained.state_dict().items())
    assert {name.split(".")[5] for name in whole.keys() - trained.state_dict().keys()} == {"extra"}


def test_weights_of_another_shape_do_not_start_a_palette() -> None:
    other = Palette(replace(train_palette.CONFIG, channel_mults=(1, 1, 1, 1)))
    with pytest.raises(SystemExit, match="--start must have"):
        train_palette.fitted(other, train_palette.CONFIG)


def test_a_palette_in_training_sees_what_it_would_by_the_full_resolution_of_others() -> None:
    unet = Palette(train_palette.CONFIG).unet
    unet.silence(train_palette.CONFIG.unread_levels)
    inputs, others = torch.randn(2, 2, 6, 64, 64)
    gammas = torch.tensor([0.3, 0.9])
    with torch.no_grad():
        own, other = train_palette.Predictor(unet)(inputs, others, gammas)
        features = unet.encode(inputs, gammas)
        full = unet.encode(others, gammas)[:3]  # first convolution, block, way down
        mixed = unet.decode([*full, *features[3:]], gammas)
        plain = unet(inputs, gammas, return_dict=False)[0]
    torch.testing.assert_close(own, plain, atol=0.05, rtol=0)  # bf16
    torch.testing.assert_close(other, mixed, atol=0.05, rtol=0)
    assert (own - other).abs().max() > 0.2


def test_quality_of_a_perfect_model_is_perfect() -> None:
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    perfect = SimpleNamespace(image_size=64, complete=lambda images, mask, generator: images)
    quality = measure(perfect, open_extractor(), images, "centre:0.5")  # type: ignore[arg-type]
    assert quality.fid == pytest.approx(0, abs=1e-3)
    assert quality.psnr > 50
    assert abs(quality.kid) <= 5 * quality.kid_error
