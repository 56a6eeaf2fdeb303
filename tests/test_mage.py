"""MAGE beyond parity: completion, views, tokenizer files, unlearning on prepared tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from l2l_core.config import UnlearnRequest
from l2l_core.masks import draw_masks, parse_mask
from l2l_core.models import load_model
from l2l_core.models.checkpoints import CheckpointError, save_weights
from l2l_core.models.mage import MAGE
from l2l_core.models.mage_config import MAGEConfig
from l2l_core.models.mage_decoding import gumbel, hide_again, sample_tokens
from l2l_core.models.vqgan import VQGANConfig
from l2l_core.unlearning.tokens import PreparedInputs
from l2l_core.unlearning.trainer import Trainer

CONFIG = MAGEConfig(
    vqgan=VQGANConfig(codes=16, code_width=8, stem=8, widths=(8, 8, 16), blocks=1, norm_groups=4),
    grid=8,
    vocabulary=18,
    class_id=16,
    width=32,
    depth=2,
    heads=2,
    decoder_width=16,
    decoder_depth=1,
    decoder_heads=2,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = MAGE(CONFIG)
    for parameter in made.parameters():  # untrained norms and tokens would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights_file(model, tmp_path):
    path = tmp_path / "mage.safetensors"
    save_weights(model.state_dict(), path, model.describe())
    return path


def hole(spec="centre:0.5"):
    return parse_mask(spec, 32, None)


def test_true_pixels_stay_but_for_the_seam(model, images):
    mask = hole()
    completed = model.complete(images, mask, generator=torch.Generator().manual_seed(0))
    changed = (completed != images).any(dim=1).any(dim=0)
    assert changed[mask].any()
    near = torch.zeros(32, 32, dtype=torch.bool)
    near[8 - model.cell + 1 : 24 + model.cell - 1, 8 - model.cell + 1 : 24 + model.cell - 1] = True
    assert not changed[~near].any()
    assert completed.min() >= 0 and completed.max() <= 1


def test_same_seed_same_completion(model, images):
    def run(seed):
        return model.complete(images, hole(), generator=torch.Generator().manual_seed(seed))

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_a_sample_does_not_depend_on_the_others(model, images):
    """Another hole in the second sample leaves the first as it was."""
    masks = torch.stack([hole(), hole(), hole()])
    others = torch.stack([hole(), hole("left:0.5"), hole("border:0.25")])
    first = model.complete(images, masks, generator=torch.Generator().manual_seed(0))
    second = model.complete(images, others, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(first[0], second[0])


def test_no_hole_changes_nothing(model, images):
    empty = torch.zeros(32, 32, dtype=torch.bool)
    assert torch.equal(model.complete(images, empty), images)


def test_spread_steps_are_all_used(model, images):
    seen = []
    model.config = CONFIG.__class__(**{**vars(CONFIG), "spread_steps": True})
    model.complete(
        images, hole(), steps=6, on_step=lambda step, of, now: seen.append((step, of, now.shape))
    )
    assert [s[:2] for s in seen] == [(i, 6) for i in range(1, 7)]


def test_view_drops_half_and_hides_the_hole(model, images):
    masks = draw_masks(("centre",), 3, 32, model.cell, torch.Generator().manual_seed(0))
    view = model.draw_view(images, masks, torch.Generator().manual_seed(0))
    hidden = model.hidden_tokens(masks)
    assert view.ids_keep.shape == (3, 32)
    assert view.unknown[hidden].all()
    assert (view.unknown.sum(dim=1) == torch.clamp(hidden.sum(dim=1), min=32)).all()
    dropped = torch.ones(3, 64, dtype=torch.bool).scatter(1, view.ids_keep, False)
    assert view.unknown[dropped].all()


def test_scattered_holes_leave_something_to_see(model):
    """A margin around holes that are everywhere would hide all; a compact hole has its margin."""
    masks = torch.stack(
        [parse_mask("random:0.5", 32, torch.Generator().manual_seed(0)), parse_mask("left:0.5", 32)]
    )
    hidden = model.hidden_tokens(masks)
    touched = torch.nn.functional.max_pool2d(masks.float(), model.cell).flatten(1).bool()
    assert torch.equal(hidden[0], touched[0]) and not touched[0].all()
    assert hidden[1].reshape(8, 8)[:, 4].all() and not touched[1].reshape(8, 8)[:, 4].any()


def test_what_is_hidden_does_not_reach_the_encoder(model):
    ids = torch.randint(16, (2, 64), generator=torch.Generator().manual_seed(2))
    masks = hole().expand(2, 32, 32)
    view = model.draw_view(ids, masks, torch.Generator().manual_seed(0))
    changed = torch.where(view.unknown, (ids + 1) % 16, ids)
    assert torch.equal(model.encode(ids, view)[0], model.encode(changed, view)[0])
    visible = torch.where(view.unknown, ids, (ids + 1) % 16)
    assert not torch.equal(model.encode(ids, view)[0], model.encode(visible, view)[0])


def test_the_encoder_is_not_the_decoder(model):
    """Untied: no tensor that the encoder trains is read by the decoder."""
    assert "mlm_layer.word_embeddings" in dict(model.named_parameters())
    assert not any(name.startswith("mlm_layer") for name in model.encoder_parameters())


def test_saved_weights_open_again(model, weights_file):
    again = load_model("mage", weights_file, choice_temperature=1.5)
    assert again.config == CONFIG.__class__(**{**vars(CONFIG), "choice_temperature": 1.5})
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_batch_norms_keep_tokens_local_and_fixed():
    """A hole changes features near it only, and training mode no statistics of the tokenizer."""
    torch.manual_seed(0)
    model = MAGE(replace(CONFIG, vqgan=replace(CONFIG.vqgan, norm_groups=0), grid=32))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(0.3 * torch.randn_like(value).abs() + name.endswith("running_var"))
    assert VQGANConfig.from_state_dict(model.vqgan.state_dict()) == model.config.vqgan
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    holed = images.clone()
    holed[:, :, :8, :8] = 0.5
    before = {k: v.clone() for k, v in model.state_dict().items()}
    features = model.vqgan.encoder(images)
    other = model.train().vqgan.encoder(holed)
    changed = (features != other).any(dim=1).any(dim=0)
    assert changed[0, 0] and not changed[16:].any() and not changed[:, 16:].any()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_cold_model_draws_the_likeliest_tokens(model, weights_file):
    ids = torch.randint(16, (2, 64), generator=torch.Generator().manual_seed(2))
    images = model.vqgan.decode(ids).detach().clamp(0, 1)
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:4, :4] = True
    cold = load_model("mage", weights_file, sampling_temperature=1e-4)
    first, second = (
        cold.complete(images, mask, steps=1, generator=torch.Generator().manual_seed(n))
        for n in (0, 1)
    )
    assert torch.equal(first, second)
    first, second = (
        model.complete(images, mask, steps=1, generator=torch.Generator().manual_seed(n))
        for n in (0, 1)
    )
    assert not torch.equal(first, second)
    with pytest.raises(CheckpointError, match="above 0"):
        load_model("mage", weights_file, sampling_temperature=0)


def test_a_file_without_its_tokenizer_says_so(model, tmp_path):
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("vqgan.")}
    torch.save({"model": state}, tmp_path / "mage.pth")
    with pytest.raises(CheckpointError, match="holds no VQ-GAN"):
        load_model("mage", tmp_path / "mage.pth")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda config: config.update(colour=3), "another version: .*colour"),
        (lambda config: config.update(heads="two"), "another version"),
        (lambda config: config.pop("vqgan"), "'vqgan' is missing"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_told(model, tmp_path, damage, words):
    about = model.describe()
    damage(about["config"])
    save_weights(model.state_dict(), tmp_path / "mage.safetensors", about)
    with pytest.raises(CheckpointError, match=words):
        load_model("mage", tmp_path / "mage.safetensors")


def test_a_missing_token_embedding_is_named(model, tmp_path):
    state = model.state_dict()
    del state["token_emb.word_embeddings.weight"], state["mlm_layer.word_embeddings"]
    save_weights(state, tmp_path / "mage.safetensors", model.describe())
    with pytest.raises(CheckpointError, match=r"missing: .*token_emb\.word_embeddings"):
        load_model("mage", tmp_path / "mage.safetensors")


def test_another_family_is_named(weights_file):
    with pytest.raises(CheckpointError, match="holds a mage"):
        load_model("mae", weights_file)


def test_sampling_follows_the_scores():
    logits = torch.log(torch.tensor([[[0.2, 0.5, 0.3]]])).expand(1, 4, 3)
    uniform = torch.tensor([[0.1, 0.3, 0.69, 0.71]])
    assert sample_tokens(logits, uniform).tolist() == [[0, 1, 1, 2]]


def test_the_least_sure_are_hidden_again():
    sureness = torch.tensor([[0.9, 0.1, 0.5, 1e20]])
    again = hide_again(sureness, torch.zeros(1, 4), 0.0, torch.tensor([2]))
    assert again.tolist() == [[False, True, True, False]]
    assert gumbel(torch.tensor([0.0, 0.5, 1.0 - 1e-7])).isfinite().all()


def request_of(weights_file, **changes):
    return UnlearnRequest(
        forget=("builtin:flags",),
        model="mage",
        checkpoint=str(weights_file),
        steps=3,
        batch_size=4,
        device="cpu",
        precision="fp32",
        **changes,
    )


def test_unlearning_runs_on_prepared_tokens(weights_file, monkeypatch):
    """The tokenizer runs before the first step, never inside one."""
    trainer = Trainer.from_request(request_of(weights_file))
    trainer.draw(0)

    def refuse(images):
        raise AssertionError("tokenized inside a step")

    monkeypatch.setattr(trainer.teacher, "prepare", refuse)
    monkeypatch.setattr(trainer.student, "prepare", refuse)
    records = list(trainer.steps())
    assert len(records) == 3 and records[0].retain == 0 and records[-1].forget > 0


def test_prepared_views_follow_from_the_seed(weights_file):
    def drawn():
        trainer = Trainer.from_request(request_of(weights_file))
        assert isinstance(trainer.prepared, PreparedInputs)
        return [trainer.prepared.draw(step) for step in (2, 0)]

    for first, second in zip(drawn(), drawn(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert first[0].shape == (4, 64) and first[0].dtype == torch.int64


def test_unlearning_moves_forget_images_towards_noise(weights_file):
    request = request_of(weights_file, learning_rate=1e-2, alpha=1.0, masks=("centre",))
    trainer = Trainer.from_request(UnlearnRequest.from_dict(request.to_dict() | {"steps": 30}))
    losses = [record.forget for record in trainer.steps()]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
