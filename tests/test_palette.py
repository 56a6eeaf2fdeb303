"""The diffusion network as an image-to-image model, its samplers and its checkpoints."""

import copy

import pytest
import torch

from l2l_core.config import UnlearnRequest
from l2l_core.masks import draw_masks, parse_mask
from l2l_core.models import load_model
from l2l_core.models.checkpoints import CheckpointError, save_published, save_weights
from l2l_core.models.palette import Palette
from l2l_core.models.palette_config import PaletteConfig
from l2l_core.models.palette_sampling import Diffusion, sample_fast, sample_renoising
from l2l_core.runtime import seeded
from l2l_core.unlearning.objective import squared_distance
from l2l_core.unlearning.trainer import Trainer
from tests.tiny_palette import OPTIONS, SIZES, build, same


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 16, generator=seeded(1))


HOLE = parse_mask("centre:0.5", 16)
SAMPLERS = {
    "fast": {},
    "renoising": {"sampler": "renoising"},
    "ancestral": {"sampler": "ancestral", "sampling_schedule": (6, 1e-3, 0.5)},
}


# --- completion ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("spec", ["centre:0.5", "brush:0.3", "centre:1"])
def test_visible_pixels_come_back_exactly(images, options, spec):
    hole = parse_mask(spec, 16, seeded(2))
    completed = build(**options).complete(images, hole, steps=3)
    assert torch.equal(completed[:, :, ~hole], images[:, :, ~hole])
    assert completed.min() >= 0 and completed.max() <= 1
    assert not torch.equal(completed[:, :, hole], images[:, :, hole])


def test_hidden_pixels_do_not_matter(model, images):
    other = torch.where(HOLE, torch.rand_like(images), images)
    first, second = (model.complete(i, HOLE, steps=3) for i in (images, other))
    assert torch.equal(first, second)


@pytest.mark.parametrize("options", SAMPLERS.values(), ids=SAMPLERS)
def test_seeds_decide_and_batch_mates_do_not(images, options):
    model = build(**options)
    first = model.complete(images, HOLE, steps=3, generator=seeded(5))
    again = model.complete(images[:2], HOLE, steps=3, generator=seeded(5))
    other = model.complete(images, HOLE, steps=3, generator=seeded(6))
    torch.testing.assert_close(first[:2], again, atol=1e-3, rtol=0)
    assert (first - other).abs().max() > 0.01


@pytest.mark.parametrize(("options", "total"), [({}, 4), (SAMPLERS["ancestral"], 6)])
def test_progress(images, options, total):
    seen = []
    completed = build(**options).complete(images, HOLE, steps=4, on_step=lambda *a: seen.append(a))
    assert [(step, steps) for step, steps, _ in seen] == [(i + 1, total) for i in range(total)]
    assert torch.equal(seen[-1][2], completed)
    assert all(torch.equal(i[:, :, ~HOLE], images[:, :, ~HOLE]) for *_, i in seen)


def test_steps_must_be_positive(model, images):
    with pytest.raises(ValueError, match="at least 1"):
        model.complete(images, HOLE, steps=0)


def for_gaussians(mean: float, deviation: float):
    """The best network for pixels from N(mean, deviation²)."""

    def predict(noisy, gammas):
        g = gammas.view(-1, 1, 1, 1)
        variance = g * deviation**2 + 1 - g
        return (1 - g).sqrt() * (noisy - g.sqrt() * mean) / variance

    return predict


@pytest.mark.parametrize("schedule", [(2000, 1e-6, 0.01), (1000, 1e-4, 0.09)])
def test_the_fast_solver_on_a_gaussian(schedule):
    """It is known where each noise ends."""
    noisy = torch.randn(64, 3, 4, 4, generator=seeded(3))
    predict, diffusion, steps = for_gaussians(0.2, 0.15), Diffusion(schedule), 20
    found = sample_fast(predict, diffusion, noisy, lambda y: y, steps, lambda *_: None)
    assert (found - (0.2 + 0.15 * noisy)).abs().max() < 0.03


def test_renoising_draws_around_the_mean_of_a_gaussian():
    """Fresh noise costs spread: what a step guesses is surer than what there is."""
    streams = seeded(3)

    def draw():
        return torch.randn(64, 3, 4, 4, generator=streams)

    predict, diffusion = for_gaussians(0.2, 0.15), Diffusion((1000, 1e-4, 0.0045))
    found = sample_renoising(predict, diffusion, draw(), lambda y: y, draw, 12, lambda *_: None)
    assert (found.mean() - 0.2).abs() < 0.01
    assert 0.05 < found.std() < 0.15


# --- unlearning ------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [16, 88, 120, 200])
def test_drawn_holes_cover_any_side(side):
    cell = build(image_size=side).cell
    assert draw_masks(["brush"], 2, side, cell, seeded(0)).shape == (2, side, side)


def test_a_view_is_drawn_from_its_generator(model, images):
    masks = HOLE.expand(3, 16, 16)
    first, again, other = (model.draw_view(images, masks, seeded(n)) for n in (7, 7, 8))
    assert torch.equal(first.gammas, again.gammas) and torch.equal(first.noise, again.noise)
    assert not torch.equal(first.gammas, other.gammas)
    assert ((first.gammas > 0) & (first.gammas < 1)).all()
    assert not torch.equal(first.noise, first.condition_noise)
    part = first.select(slice(1, 3))
    assert torch.equal(part.hole, first.hole[1:]) and torch.equal(part.gammas, first.gammas[1:])


@pytest.mark.parametrize("target", ["hole", "full", "published"])
def test_what_the_encoder_reads(images, target):
    model = build(noise_target=target)
    noise = torch.rand(images.shape, generator=seeded(4))
    view = model.draw_view(images, HOLE.expand(3, 16, 16), seeded(7))
    condition, noisy = model.encoder_input(images, view).chunk(2, dim=1)
    true, unit = 2 * images - 1, 2 * noise - 1
    assert torch.equal(condition[:, :, ~HOLE], true[:, :, ~HOLE])
    assert torch.equal(noisy[:, :, ~HOLE], true[:, :, ~HOLE])
    assert torch.equal(condition[:, :, HOLE], view.condition_noise[:, :, HOLE])
    g = view.gammas.view(-1, 1, 1, 1)
    torch.testing.assert_close(
        noisy[:, :, HOLE], (g.sqrt() * true + (1 - g).sqrt() * view.noise)[:, :, HOLE]
    )
    on_noise = model.noise_input(noise, images, view)
    condition, noisy = on_noise.chunk(2, dim=1)
    inside = view.noise if target == "published" else unit
    assert torch.equal(noisy[:, :, HOLE], inside[:, :, HOLE])
    visible = unit if target == "full" else true
    assert torch.equal(noisy[:, :, ~HOLE], visible[:, :, ~HOLE])
    assert torch.equal(condition[:, :, HOLE], view.condition_noise[:, :, HOLE])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_way_up_neither_runs_nor_moves(images, checkpointing):
    model = build().freeze_decoder().train()
    model.set_gradient_checkpointing(checkpointing)
    for name, module in model.unet.named_children():
        if name in ("up_blocks", "conv_norm_out", "conv_out"):
            module.register_forward_pre_hook(lambda *_: pytest.fail("the decoder ran"))
    view = model.draw_view(images, HOLE.expand(3, 16, 16), seeded(7))
    features = model.encode(model.encoder_input(images, view), view)
    squared_distance(features, [torch.zeros_like(f) for f in features]).sum().backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None}
    assert moved == model.encoder_parameters().keys()
    gradient = model.unet.conv_in.weight.grad
    model.set_gradient_checkpointing(False)
    model.zero_grad()
    features = model.encode(model.encoder_input(images, view), view)
    squared_distance(features, [torch.zeros_like(f) for f in features]).sum().backward()
    torch.testing.assert_close(gradient, model.unet.conv_in.weight.grad)


@pytest.mark.parametrize(("frozen", "left"), [(0, 5), (1, 2)])
def test_frozen_levels_are_neither_compared_nor_trained(images, frozen, left):
    """Two levels of one block: first convolution, block, way down; block; middle."""
    model = build(frozen_levels=frozen)
    view = model.draw_view(images, HOLE.expand(3, 16, 16), seeded(7))
    inputs = model.encoder_input(images, view)
    features, everything = model.encode(inputs, view), build().encode(inputs, view)
    assert len(features) == left and len(everything) == 5
    assert all(torch.equal(a, b) for a, b in zip(features, everything[-left:], strict=True))
    trained = {name.split(".")[1] for name in model.encoder_parameters()}
    deep = {name for name in model.encoder_parameters() if "down_blocks.0" in name}
    assert ("conv_in" in trained and "time_embedding" in trained and bool(deep)) is not bool(frozen)
    assert {"down_blocks", "mid_block"} <= trained


@pytest.mark.parametrize(("last", "left"), [(0, 2), (1, 4)])
def test_what_lies_below_the_last_level_is_neither_compared_nor_trained(images, last, left):
    """Two levels of one block: first convolution and block; way down and block."""
    model = build(last_level=last).freeze_decoder()
    view = model.draw_view(images, HOLE.expand(3, 16, 16), seeded(7))
    inputs = model.encoder_input(images, view)
    features, everything = model.encode(inputs, view), build().encode(inputs, view)
    assert len(features) == left
    assert all(torch.equal(a, b) for a, b in zip(features, everything[:left], strict=True))
    squared_distance(features, [torch.zeros_like(f) for f in features]).sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert moved == model.encoder_parameters().keys()
    assert not any("mid_block" in name for name in moved)


def test_unread_levels_are_trained_and_not_compared(images):
    """Where the decoder's weights for a level are 0, its features can be anything."""
    sizes = {"channel_mults": (2, 2), "norm_groups": 8}
    model = build(**sizes, unread_levels=(0,)).freeze_decoder()
    model.unet.silence((0,))
    view = model.draw_view(images, HOLE.expand(3, 16, 16), seeded(7))
    inputs = model.encoder_input(images, view)
    features, everything = model.encode(inputs, view), build(**sizes).encode(inputs, view)
    assert len(features) == 2  # the block of level 1 and the middle; not the three tensors before
    assert all(torch.equal(a, b) for a, b in zip(features, everything[3:], strict=True))
    squared_distance(features, [torch.zeros_like(f) for f in features]).sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert moved == model.encoder_parameters().keys()

    with pytest.raises(CheckpointError, match="shares groups"):
        build().unet.silence((0,))

    # Other features of an unread level change what is seen only by way of the levels below it.
    read, passed = [], model.unet.down_blocks[0].forward

    def other(**inputs):
        x, residuals = passed(**inputs)
        return x, tuple(torch.randn_like(r) for r in residuals)

    for forward in (passed, other):
        model.unet.down_blocks[0].forward = forward
        with torch.no_grad():
            read.append(model.reconstruct(inputs, view))
    torch.testing.assert_close(*read)


def test_extra_blocks_begin_by_adding_nothing_and_are_trained(images):
    plain, deep = Palette(PaletteConfig(**SIZES)), Palette(PaletteConfig(**SIZES, extra_blocks=2))
    missing = deep.load_state_dict(plain.state_dict(), strict=False).missing_keys
    start = "unet.down_blocks.1.resnets.0.extra."
    assert missing and all(name.startswith(start) for name in missing)
    view = plain.draw_view(images, HOLE.expand(3, 16, 16), seeded(7))
    inputs = plain.encoder_input(images, view)
    plain.eval(), deep.eval()
    assert torch.equal(plain.reconstruct(inputs, view), deep.reconstruct(inputs, view))
    assert set(missing) <= deep.encoder_parameters().keys()

    model = build(extra_blocks=1)
    features = model.encode(inputs, view)
    model.set_gradient_checkpointing(True)
    again = model.train().encode(inputs, view)
    assert all(torch.equal(a, b) for a, b in zip(features, again, strict=True))
    squared_distance(again, [torch.zeros_like(f) for f in again]).sum().backward()
    extra = {k: p for k, p in model.named_parameters() if k.startswith(start)}
    assert extra and all(p.grad is not None and p.grad.any() for p in extra.values())
    with pytest.raises(ValueError, match="no place for this network's extra_blocks"):
        model.published_state()


def test_the_built_in_decoder_reads_none_of_its_unread_levels():
    model = load_model("palette-fluent")
    before = copy.deepcopy(model)
    model.unet.silence(model.config.unread_levels)
    assert model.config.unread_levels == (1,) and same(model, before)
    model.unet.silence((2,))
    assert not same(model, before)


@pytest.mark.parametrize("method", ["ours", "max_loss"])
def test_runs_from_it_open_again(method, tmp_path):
    """Also those of baselines that train the decoder, which may then read all levels."""
    request = UnlearnRequest(
        model="palette-fluent", forget=("builtin:flags",), method=method, steps=1, batch_size=2
    )
    trainer = Trainer.from_request(request)
    trainer.train_step()
    path = tmp_path / "unlearned.safetensors"
    save_weights(trainer.student.state_dict(), path, trainer.student.describe())
    assert same(load_model("palette-fluent", path), trainer.student)


def test_the_trainer_moves_the_encoder_only(request_settings, model, tmp_path):
    save_published(model.published_state(), tmp_path / "16_Network.pth")
    request_settings |= {
        "model": "palette",
        "checkpoint": str(tmp_path / "16_Network.pth"),
        "model_options": OPTIONS,
        "steps": 2,
    }
    trainer = Trainer.from_request(UnlearnRequest(**request_settings))
    records = list(trainer.steps())  # ends with the check that all but the encoder is unchanged
    assert records[0].retain == 0 and records[0].forget > 0 and records[1].retain > 0
    assert not same(trainer.student, trainer.teacher)
