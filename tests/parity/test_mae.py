"""MAE against the numbers of the reference implementation, and against transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from l2l_core.models import load_model
from l2l_core.models.mae import MAEView, MaskedAutoencoder
from l2l_core.unlearning.objective import squared_distance, unlearning_loss
from l2l_core.unlearning.trainer import decay_groups

from .conftest import references

REFERENCES = references("mae")


def open_reference(reference) -> MaskedAutoencoder:
    config = reference.index["config"]
    return load_model(
        "mae",
        reference.folder / "mae_checkpoint.pth",
        heads=config["num_heads"],
        decoder_heads=config["decoder_num_heads"],
        norm_pix_loss=config["norm_pix_loss"],
    )


def test_there_are_references():
    assert REFERENCES


def test_sizes_are_inferred(reference):
    expected, found = reference.index["config"], open_reference(reference).config
    assert (found.image_size, found.patch_size) == (expected["img_size"], expected["patch_size"])
    assert (found.width, found.depth) == (expected["embed_dim"], expected["depth"])
    assert found.decoder_width == expected["decoder_embed_dim"]
    assert found.decoder_depth == expected["decoder_depth"]
    assert found.overlap == 0


@torch.no_grad()
def test_random_masking(reference):
    model, images = open_reference(reference), reference["forward/images"]
    shuffle = reference["forward/random/noise"].argsort(dim=1)
    reference.check("forward/random/ids_shuffle", shuffle)
    reference.check("forward/random/ids_restore", shuffle.argsort(dim=1))
    mask = reference["forward/random/mask"]
    keep = int((mask[0] == 0).sum())
    latent = model.encode_normalised(images, shuffle[:, :keep])
    reference.check("forward/random/latent", latent)
    predicted = model.decode(latent, shuffle[:, :keep])
    reference.check("forward/random/pred", predicted)
    reference.check("forward/patchified", model.patchify(images)[:1])
    error = (predicted - targets(model, images)).square().mean(dim=2)
    reference.check_scalar("random/loss", ((error * mask).sum() / mask.sum()).item())


@torch.no_grad()
def test_block_mask(reference):
    model, images = open_reference(reference), reference["forward/images"]
    mask = reference["forward/block/mask"]
    keep = int((mask[0] == 0).sum())
    visible = reference["forward/block/ids_shuffle"][:, :keep]
    latent = model.encode_normalised(images, visible)
    reference.check("forward/block/latent", latent)
    predicted = model.decode(latent, visible)
    reconstruction = model.unpatchify(predicted)
    reference.check("forward/block/reconstruction", reconstruction)
    pixels = mask.view(-1, 1, model.grid, model.grid)
    pixels = pixels.repeat_interleave(model.cell, 2).repeat_interleave(model.cell, 3)
    reference.check("forward/block/pasted", torch.where(pixels.bool(), reconstruction, images))
    error = (predicted - targets(model, images)).square().mean(dim=2)
    reference.check_scalar("block/loss", ((error * mask).sum() / mask.sum()).item())


@torch.no_grad()
def test_complete_is_the_block_reconstruction(reference):
    """The public path, from [0, 1] images and a pixel mask, gives the same pixels."""
    model = open_reference(reference)
    if model.config.norm_pix_loss:
        pytest.skip("complete() de-normalises; the reference does not")
    normalised = reference["forward/images"]
    images = normalised * model.std + model.mean
    hole = reference["forward/block/mask"][0].view(model.grid, model.grid).bool()
    hole = hole.repeat_interleave(model.cell, 0).repeat_interleave(model.cell, 1)
    completed = model.complete(images, hole)
    expected = reference["forward/block/reconstruction"] * model.std + model.mean
    torch.testing.assert_close(
        completed[:, :, hole], expected.clamp(0, 1)[:, :, hole], atol=2e-5, rtol=2e-5
    )
    assert torch.equal(completed[:, :, ~hole], images[:, :, ~hole])


def test_unlearning_steps(reference):
    """Losses, gradient norms and parameters of the recorded AdamW steps."""
    settings = reference.index["unlearn"]
    teacher, student = open_reference(reference), open_reference(reference).freeze_decoder()
    start = {name: value.clone() for name, value in student.state_dict().items()}
    optimizer = torch.optim.AdamW(
        decay_groups(student.encoder_parameters(), settings["weight_decay"]),
        lr=settings["lr"],
        betas=settings["betas"],
        eps=settings["eps"],
    )
    forget = reference["unlearn/labels"] < 100
    for step in range(settings["steps"]):
        name = f"unlearn/step{step}"
        source = f"{name}/images" if f"{name}/images" in reference.index["tensors"] else None
        images = reference[source or "unlearn/step0/images"]
        shuffle = reference[f"{name}/ids_shuffle"]
        keep = round(shuffle.shape[1] * (1 - settings["mask_ratio"]))
        view = MAEView(shuffle[:, :keep])
        with torch.no_grad():
            on_images = teacher.encode_normalised(images, view.ids_keep)
            on_noise = teacher.encode_normalised(reference[f"{name}/noise_images"], view.ids_keep)
        latent = student.encode_normalised(images, view.ids_keep)
        if step == 0:
            reference.check(f"{name}/student_latent", latent.detach())
            reference.check(f"{name}/teacher_latent", on_images)
            reference.check(f"{name}/teacher_noise_latent", on_noise)
        target = torch.where(forget.view(-1, 1, 1), on_noise, on_images)
        losses = unlearning_loss(
            squared_distance([latent], [target]), forget, settings["forget_alpha"], "published"
        )
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), settings["grad_clip"])
        for label, value in (
            ("retain", losses.retain),
            ("forget", losses.forget),
            ("total", losses.total),
            ("grad_norm", norm),
        ):
            reference.check_scalar(f"{name}/{label}", value.item())
        optimizer.step()
        optimizer.zero_grad()
    check_parameters(reference, student, start)


def check_parameters(reference, student, start):
    after = student.state_dict()
    for name in reference.index["unchanged_parameters"]:
        assert torch.equal(after[name], start[name]), name
    deltas = reference.index["encoder_param_delta_norms_after_step3"]
    for name, norm in reference.index["encoder_param_norms_after_step3"].items():
        if name.endswith("attn.qkv.bias"):
            continue  # the exact gradient of the key bias is zero
        assert after[name].norm().item() == pytest.approx(norm, rel=1e-5), name
        assert (after[name] - start[name]).norm().item() == pytest.approx(deltas[name], rel=1e-2)
    checked = [n for n in reference.index["tensors"] if n.startswith("unlearn/after/")]
    assert checked
    for full in checked:
        name = full.removeprefix("unlearn/after/")
        change = after[name] - start[name]
        expected = reference[full] - start[name]
        if name.endswith("attn.qkv.bias"):
            third = len(change) // 3
            change, expected = (torch.cat([v[:third], v[2 * third :]]) for v in (change, expected))
        tolerance = reference.index["tensors"][full]["tolerance"]["delta_rel_l2"]
        assert (change - expected).norm() <= tolerance * expected.norm(), name


def targets(model, images):
    patches = model.patchify(images)
    if not model.config.norm_pix_loss:
        return patches
    mean, var = patches.mean(dim=2, keepdim=True), patches.var(dim=2, keepdim=True)
    return (patches - mean) / (var + 1e-6).sqrt()


@pytest.fixture(scope="module")
def hub_model():
    torch.manual_seed(3)
    config = ViTMAEConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        image_size=32,
        patch_size=8,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=128,
        layer_norm_eps=1e-6,
        mask_ratio=0.5,
        attn_implementation="sdpa",
    )
    model = ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def same_weights(first, second):
    a, b = first.state_dict(), second.state_dict()
    return first.config == second.config and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("layout", ["saved", "saved as pickle", "in memory"])
@torch.no_grad()
def test_transformers_agree(hub_model, layout, tmp_path):
    """The hub's layout opens, and the numbers equal transformers'."""
    if layout == "saved":
        hub_model.save_pretrained(tmp_path)
        ours = load_model("mae", tmp_path)
    elif layout == "saved as pickle":
        hub_model.config.save_pretrained(tmp_path)
        torch.save(hub_model.state_dict(), tmp_path / "pytorch_model.bin")
        ours = load_model("mae", tmp_path)
        assert same_weights(ours, load_model("mae", tmp_path / "pytorch_model.bin"))
    else:
        torch.save(hub_model.state_dict(), tmp_path / "model.bin")
        ours = load_model("mae", tmp_path / "model.bin", heads=4, decoder_heads=2)
    images = torch.randn(2, 3, 32, 32)
    noise = torch.rand(2, 16)
    theirs = hub_model(images, noise=noise)
    visible = theirs.ids_restore.argsort(dim=1)[:, :8]
    latent = ours.encode_normalised(images, visible)
    expected = hub_model.vit(images, noise=noise).last_hidden_state
    torch.testing.assert_close(latent, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(latent, visible), theirs.logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_names_on_the_hub_open(hub_model, tmp_path):
    """The published files of facebook/vit-mae-* use transformers 4's names."""
    old = {}
    for key, value in hub_model.state_dict().items():
        for a, b in (
            ("vit.layers.", "vit.encoder.layer."),
            ("attention.q_proj", "attention.attention.query"),
            ("attention.k_proj", "attention.attention.key"),
            ("attention.v_proj", "attention.attention.value"),
            ("attention.o_proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):
            key = key.replace(a, b)
        old[key] = value
    torch.save(old, tmp_path / "pytorch_model.bin")
    torch.save(hub_model.state_dict(), tmp_path / "new.bin")
    options = {"heads": 4, "decoder_heads": 2}
    first = load_model("mae", tmp_path / "pytorch_model.bin", **options).state_dict()
    second = load_model("mae", tmp_path / "new.bin", **options).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
