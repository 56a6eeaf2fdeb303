"""MAGE and its VQ-GAN against the numbers of the reference implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from l2l_core.masks import parse_mask
from l2l_core.models import load_model
from l2l_core.models.checkpoints import read_checkpoint
from l2l_core.models.mage import HOLE_COLOUR, MAGE, MAGEView
from l2l_core.models.mage_decoding import confidence, hide_again

from .conftest import references

REFERENCES = references("mage")
TIGHT = 1.5e-5
"""A layer norm with the wrong eps hides in the 5e-5 that the index allows."""


def open_reference(reference, **options) -> MAGE:
    vit = reference.index["config"]["vit"]
    return load_model(
        "mage",
        reference.folder / "mage_checkpoint.pth",
        heads=vit["num_heads"],
        decoder_heads=vit["decoder_num_heads"],
        **options,
    )


def make_view(drop_mask, all_mask) -> MAGEView:
    keep = [(row == 0).nonzero().squeeze(1) for row in drop_mask]
    return MAGEView(torch.stack(keep), all_mask.bool())


def check_tight(reference, name, value):
    torch.testing.assert_close(value, reference[name], atol=TIGHT, rtol=TIGHT, msg=name)


def test_there_are_references():
    assert REFERENCES


def test_sizes_are_inferred(reference):
    expected, found = reference.index["config"], open_reference(reference).config
    vit, vqgan = expected["vit"], expected["vqgan"]
    assert found.grid * found.vqgan.factor == vit["img_size"]
    assert (found.width, found.depth) == (vit["embed_dim"], vit["depth"])
    assert found.decoder_width == vit["decoder_embed_dim"]
    assert found.decoder_depth == vit["decoder_depth"]
    assert (found.vqgan.codes, found.vqgan.code_width) == (vqgan["n_embed"], vqgan["embed_dim"])
    config = vqgan["ddconfig"]
    assert found.vqgan.widths == tuple(config["ch"] * m for m in config["ch_mult"])
    assert found.vqgan.blocks == config["num_res_blocks"]
    assert found.class_id == found.vqgan.codes + 76


@torch.no_grad()
def test_tokenizer(reference):
    vqgan, images = open_reference(reference).vqgan, reference["forward/images"]
    features = vqgan.encoder(images)
    reference.check("forward/vqgan/pre_quant", features)
    ids = vqgan.tokenize(images)
    reference.check("forward/vqgan/token_ids", ids)
    reference.check("forward/vqgan/decoded", vqgan.decode(reference["forward/vqgan/codes"]))
    reference.check("forward/vqgan/reconstruction", vqgan.decode(ids))


@pytest.mark.parametrize("level", [True, False])
def test_tokenizer_file_beside_the_model(reference, tmp_path, level):
    """The VQ-GAN's own file, with or without its `state_dict` level, serves a model without one."""
    state, _ = read_checkpoint(reference.folder / "mage_checkpoint.pth")
    bare = {k: v for k, v in state.items() if not k.startswith("vqgan.")}
    torch.save({"model": bare}, tmp_path / "mage-vitb-1600.pth")
    tokenizer, _ = read_checkpoint(reference.folder / "vqgan_checkpoint.ckpt")
    torch.save(
        {"state_dict": tokenizer} if level else tokenizer, tmp_path / "vqgan_jax_strongaug.ckpt"
    )
    vit = reference.index["config"]["vit"]
    heads = {"heads": vit["num_heads"], "decoder_heads": vit["decoder_num_heads"]}
    model = load_model("mage", tmp_path / "mage-vitb-1600.pth", **heads)
    for name, value in open_reference(reference).state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@torch.no_grad()
def test_masked_pass(reference):
    model, images = open_reference(reference), reference["forward/images"]
    view = make_view(reference["forward/drop_mask"], reference["forward/all_mask"])
    ids = model.encoder_input(images, view)
    masked = F.pad(
        torch.where(view.unknown, model.mask_id, ids), (1, 0), value=model.config.class_id
    )
    reference.check("forward/input_ids", masked)
    latent = model.encode(ids, view)[0]
    check_tight(reference, "forward/latent", latent)
    scores = model.decode(latent, view)
    check_tight(
        reference, "forward/logits_at_positions", scores[:, reference["forward/logit_positions"]]
    )
    scores = scores[:, 1:, : model.config.vqgan.codes]
    check_tight(reference, "forward/logits_codebook_logsumexp", scores.logsumexp(dim=2))
    reference.check("forward/logits_codebook_argmax", scores.argmax(dim=2))
    check_tight(reference, "forward/logits_gt", scores.gather(2, ids.unsqueeze(2)).squeeze(2))
    reference.check_scalar("loss", token_loss(scores, ids, view).mean().item())


def token_loss(scores, ids, view) -> torch.Tensor:
    """Cross-entropy of every unknown token (U,), label smoothing 0.1."""
    loss = F.cross_entropy(scores.transpose(1, 2), ids, label_smoothing=0.1, reduction="none")
    return loss[view.unknown]


@torch.no_grad()
def test_training_mode(reference):
    """The student's embedding dropout of the published script, with its recorded choices."""
    model = open_reference(reference)
    keep = reference["forward/train_mode/embedding_keep"]
    model.token_emb.register_forward_hook(lambda module, args, out: out * keep / 0.9)
    view = make_view(reference["forward/drop_mask"], reference["forward/all_mask"])
    ids = model.prepare(reference["forward/images"])
    check_tight(reference, "forward/train_mode/latent", model.encode(ids, view)[0])


def inpainted_hole(reference):
    """The hole (H, W) of the recorded inpainting."""
    return (reference["inpaint/image"] != reference["inpaint/masked_image"]).any(dim=1)[0]


@torch.no_grad()
def test_each_decoding_step(reference):
    model, settings = open_reference(reference), reference.index["inpaint"]
    known = ~reference["inpaint/token_mask"].bool()
    truth = model.prepare(reference["inpaint/masked_image"])
    hole = inpainted_hole(reference)
    filled = torch.where(hole, torch.tensor(HOLE_COLOUR).view(3, 1, 1), reference["inpaint/image"])
    torch.testing.assert_close(filled, reference["inpaint/masked_image"])
    assert torch.equal(model.hidden_tokens(hole.unsqueeze(0)), ~known)

    for step, length in enumerate(settings["mask_len"]):
        ids = reference["inpaint/steps/input_ids"][step, 1:].unsqueeze(0)
        sampled = reference["inpaint/steps/sampled_ids"][step].unsqueeze(0)
        unknown = ids == model.mask_id
        if step == 0:
            assert torch.equal(unknown, ~known)
            assert torch.equal(ids[known], truth[known])
        assert int(reference["inpaint/steps/input_ids"][step, 0]) == model.config.class_id
        scores = model.predict(ids, unknown)
        sureness = confidence(scores, sampled, unknown)
        expected = reference["inpaint/steps/confidence_probs"][step].unsqueeze(0)
        torch.testing.assert_close(sureness, expected, atol=1e-5, rtol=1e-5)
        count = torch.tensor([max(1, min(length, int(unknown.sum()) - 1))])
        noise = reference["inpaint/steps/gumbel"][step].unsqueeze(0)
        heat = settings["temperature"][step]
        done = (settings["executed_iterations"][step] + 1) / settings["num_iter"]
        assert math.isclose(heat, settings["choice_temperature"] * (1 - done))
        for temperature, name in ((heat, "next_masked"), (0.0, "next_masked_temperature0")):
            again = hide_again(sureness, noise, temperature, count)
            assert torch.equal(again[0], reference[f"inpaint/steps/{name}"][step].bool()), name
        settled = torch.where(unknown, sampled, ids)
        last = step + 1 == len(settings["mask_len"])
        if last:
            reference.check("inpaint/final_ids", settled)
        else:
            masked = hide_again(sureness, noise, heat, count)
            following = reference["inpaint/steps/input_ids"][step + 1, 1:].unsqueeze(0)
            assert torch.equal(torch.where(masked, model.mask_id, settled), following)


@torch.no_grad()
def test_decoding_of_the_final_tokens(reference):
    model = open_reference(reference)
    generated = model.vqgan.decode(reference["inpaint/final_ids"])
    reference.check("inpaint/generated", generated)
    # The published composite: an 8-bit mask blurred by 7 pixels over the image with the grey hole.
    mask = reference["inpaint/composite_mask"][0, 0].numpy() * 255
    blurred = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.GaussianBlur(7))
    weight = torch.from_numpy(np.array(blurred)).float() / 255
    grey, image = reference["inpaint/masked_image"][0], generated[0]
    written = ((weight * image + (1 - weight) * grey).clamp(0, 1) * 255).permute(1, 2, 0)
    difference = (written - reference["inpaint/written"]).abs()
    assert difference.max() <= 1.01


def test_the_same_steps_are_run(reference):
    """`complete` runs the published steps: those whose cosine ratio is below the hole's share."""
    model, seen = open_reference(reference), []
    model.complete(
        reference["inpaint/image"],
        inpainted_hole(reference),
        steps=reference.index["inpaint"]["num_iter"],
        on_step=lambda step, of, images: seen.append((step, of)),
    )
    executed = len(reference.index["inpaint"]["executed_iterations"])
    assert seen == [(i + 1, executed) for i in range(executed)]


def test_geometry(reference):
    """Where the published holes are symmetric, our masks hide the same tokens."""
    names = reference.index["geometry_names"]
    for number, name in enumerate(names):
        kind, share = name.split("_")
        tokens = int(share.split("/")[0])
        if kind == "outpaint" and tokens % 2:  # one token more on one side, as published
            continue
        # An outpainted border of n tokens is n / 2 on each side.
        spec = {
            "center": f"centre:{tokens / 16}",
            "outpaint": f"border:{tokens / 32}",
        }.get(kind, f"{kind}:{tokens / 16}")
        hole = parse_mask(spec, 256, None).unsqueeze(0)
        cells = F.max_pool2d(hole.float().unsqueeze(1), 16)
        grown = F.max_pool2d(cells, 3, stride=1, padding=1)[0, 0].bool()
        assert torch.equal(grown, reference["geometry/token_mask"][number].bool()), name
