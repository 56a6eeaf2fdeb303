"""The masked autoencoder as an image-to-image model."""

import pytest
import torch

from l2l_core.masks import draw_masks, parse_mask
from l2l_core.models.mae import MAEConfig, MaskedAutoencoder
from l2l_core.runtime import seeded


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=seeded(1))


@pytest.mark.parametrize(
    "spec", ["centre:0.5", "border:0.2", "left:0.3", "random:0.9", "brush:0.3", "centre:1"]
)
def test_visible_pixels_come_back_exactly(tiny_mae, images, spec):
    hole = parse_mask(spec, 32, seeded(2))
    completed = tiny_mae.complete(images, hole)
    assert torch.equal(completed[:, :, ~hole], images[:, :, ~hole])
    assert completed.min() >= 0 and completed.max() <= 1
    assert not torch.equal(completed[:, :, hole], images[:, :, hole])


def test_hidden_pixels_do_not_matter(tiny_mae, images):
    hole = parse_mask("centre:0.5", 32)
    other = torch.where(hole, torch.rand_like(images), images)
    assert torch.equal(tiny_mae.complete(images, hole), tiny_mae.complete(other, hole))


def test_a_mask_for_each_image(tiny_mae, images):
    """Together or one by one, and whatever the others hide, an image is completed alike."""
    masks = torch.stack([parse_mask(s, 32) for s in ("centre:0.5", "left:0.5", "border:0.25")])
    together = tiny_mae.complete(images, masks)
    for number in range(3):
        alone = tiny_mae.complete(images[number : number + 1], masks[number])
        torch.testing.assert_close(together[number : number + 1], alone, atol=1e-5, rtol=1e-5)


def test_no_hole_is_the_image(tiny_mae, images):
    nothing = torch.zeros(32, 32, dtype=torch.bool)
    assert torch.equal(tiny_mae.complete(images, nothing), images)


def test_progress_is_reported_once(tiny_mae, images):
    seen = []
    hole = parse_mask("centre:0.5", 32)
    completed = tiny_mae.complete(images, hole, on_step=lambda *a: seen.append(a))
    assert [(step, steps) for step, steps, _ in seen] == [(1, 1)]
    assert torch.equal(seen[0][2], completed)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda i, m: (i[:, :, :16], m), "images must be"),
        (lambda i, m: ((i * 255).byte(), m), "floats"),
        (lambda i, m: (i, m.float()), "boolean"),
        (lambda i, m: (i, m[:16]), "mask must be"),
    ],
)
def test_wrong_inputs_are_named(tiny_mae, images, change, word):
    with pytest.raises(ValueError, match=word):
        tiny_mae.complete(*change(images, parse_mask("centre:0.5", 32)))


@pytest.mark.parametrize("kind", ["random", "centre", "border", "half", "brush"])
def test_a_view_keeps_only_visible_patches(tiny_mae, images, kind):
    masks = draw_masks((kind,), 3, 32, 8, seeded(4))
    view = tiny_mae.draw_view(images, masks, seeded(5))
    hidden = tiny_mae.hidden_patches(masks)
    assert not hidden.gather(1, view.ids_keep).any()
    assert view.ids_keep.shape[1] == (~hidden).sum(dim=1).min()
    assert torch.equal(view.ids_keep, tiny_mae.draw_view(images, masks, seeded(5)).ids_keep)
    assert torch.equal(view.select(slice(1, 3)).ids_keep, view.ids_keep[1:3])


def test_only_the_encoder_is_trained(tiny_mae):
    tiny_mae.freeze_decoder()
    trained = {name for name, p in tiny_mae.named_parameters() if p.requires_grad}
    assert trained == set(tiny_mae.encoder_parameters())
    assert (
        "cls_token" in trained and "norm.weight" in trained and "patch_embed.proj.bias" in trained
    )
    assert not any(name.startswith("decoder") or "pos_embed" in name for name in trained)
    assert "mask_token" not in trained


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_patches_put_together_are_the_image(images, overlap):
    model = MaskedAutoencoder(MAEConfig(32, 8, 24, 1, 2, 16, 1, 2, overlap=overlap))
    patches = model.patchify(images)
    assert patches.shape == (3, 16, 3 * (8 + 2 * overlap) ** 2)
    torch.testing.assert_close(model.unpatchify(patches), images)


@torch.no_grad()
def test_normalised_pixels_take_the_statistics_of_visible_neighbours(tiny_mae):
    """A decoder that predicts zeros then paints the mean colour of what is near."""
    config = MAEConfig(32, 8, 24, 2, 2, 16, 1, 2, norm_pix_loss=True)
    model = MaskedAutoencoder(config).eval()
    model.decoder_pred.weight.zero_()
    model.decoder_pred.bias.zero_()
    images = torch.full((1, 3, 32, 32), 0.5)
    images[:, :, :16] = 0.2
    grey = torch.zeros_like(images)
    grey[:] = images.mean(dim=1, keepdim=True)
    hole = torch.zeros(32, 32, dtype=torch.bool)
    hole[:8, 8:16] = True  # surrounded by the dark half
    completed = model.complete(grey, hole)
    mean_in_hole = completed[:, :, hole].mean().item()
    assert 0.15 < mean_in_hole < 0.32


@pytest.mark.parametrize(
    ("width", "depth", "decoder_heads"), [(768, 12, 16), (1024, 24, 16), (1280, 32, 16)]
)
def test_published_sizes_are_inferred(width, depth, decoder_heads):
    patch = 14 if width == 1280 else 16
    with torch.device("meta"):
        state = {
            "patch_embed.proj.weight": torch.empty(width, 3, patch, patch),
            "pos_embed": torch.empty(1, 1 + (224 // patch) ** 2, width),
            "decoder_pos_embed": torch.empty(1, 1 + (224 // patch) ** 2, 512),
            "decoder_pred.weight": torch.empty(3 * patch * patch, 512),
        }
        state |= {f"blocks.{i}.norm1.weight": torch.empty(width) for i in range(depth)}
        state |= {f"decoder_blocks.{i}.norm1.weight": torch.empty(512) for i in range(8)}
    config = MAEConfig.from_state_dict(state)
    assert (config.image_size, config.patch_size, config.depth) == (224, patch, depth)
    assert config.heads == {768: 12, 1024: 16, 1280: 16}[width]
    assert (config.decoder_heads, config.decoder_depth) == (decoder_heads, 8)
