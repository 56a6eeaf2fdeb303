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
from l2l_core.models.base import View
from l2l_core.models.checkpoints import read_checkpoint
from l2l_core.models.mage import HOLE_COLOUR, MAGE, MAGEView
from l2l_core.models.mage_decoding import confidence, hide_again
from l2l_core.unlearning.methods import METHODS, Samples, gaussian_ids
from l2l_core.unlearning.objective import squared_distance, unlearning_loss
from l2l_core.unlearning.trainer import decay_groups

from .conftest import references

REFERENCES = references("mage")
TIGHT = 1.5e-5
"""A layer norm with the wrong eps hides in the 5e-5 that the index allows."""


@pytest.fixture(params=REFERENCES, ids=lambda r: r.folder.name)
def reference(request):
    return request.param


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@torch.no_grad()
def test_each_decoding_step(reference):
    model, settings = open_reference(reference), reference.index["inpaint"]
    known = ~reference["inpaint/token_mask"].bool()
    truth = model.prepare(reference["inpaint/masked_image"])
    size = model.image_size
    hole = parse_mask("centre:0.5", size, None)
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
        assert math.isclose(heat, 6 * (1 - (settings["executed_iterations"][step] + 1) / 20))
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
        parse_mask("centre:0.5", model.image_size, None),
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


def test_unlearning_steps(reference):
    """The published loop: its masks, its noise, tied embeddings, its reduction."""
    index = reference.index
    settings = index["unlearn"]
    teacher = open_reference(reference, tied=True).requires_grad_(False)
    student = open_reference(reference, tied=True).freeze_decoder()
    start = {name: p.detach().clone() for name, p in student.named_parameters()}
    trained = student.encoder_parameters()
    groups = decay_groups(trained, settings["weight_decay"])
    optimizer = torch.optim.AdamW(groups, betas=tuple(settings["betas"]), eps=settings["eps"])
    forget = reference["unlearn/labels"] < 100
    noises = recorded_noise(reference)
    assert len(noises) >= 2
    for step, rate in enumerate(settings["lr_per_step"]):
        name = f"unlearn/step{step}"
        images = reference[f"unlearn/step{0 if step == 2 else step}/images"]
        noise = noises[step] if step < len(noises) else images
        view = make_view(reference[f"{name}/drop_mask"], reference[f"{name}/all_mask"])
        loss = unlearning_step_loss(
            reference, student, teacher, images, noise, view, forget, settings["forget_alpha"], step
        )
        reference.check_scalar(f"{name}/retain", loss.retain.item())
        if step == len(noises):  # what follows needs noise that was not recorded
            return
        reference.check_scalar(f"{name}/forget", loss.forget.item())
        reference.check_scalar(f"{name}/total", loss.total.item())
        optimizer.zero_grad()
        loss.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), settings["grad_clip"])
        reference.check_scalar(f"{name}/grad_norm", norm.item())
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    check_parameters(reference, student, start)


def recorded_noise(reference) -> list[torch.Tensor]:
    """The noise images of the steps, in order.

    The visible set recorded every call of `torch.clamp`, of which gradient clipping makes one a
    step: its "step1" holds the clip coefficient (1.0), its "step2" the noise of step 1, and the
    noise of step 2 is missing. The losses and gradient norms of steps 0 and 1 and the retain loss
    of step 2 are checked all the same.
    """
    names = [f"unlearn/step{step}/noise_images" for step in range(3)]
    return [reference[name] for name in names if reference[name].ndim == 4]


def unlearning_step_loss(
    reference, student, teacher, images, noise, view: View, forget, alpha, step
):
    ids, noise_ids = student.prepare(images), student.prepare(noise)
    with torch.no_grad():
        kept = teacher.encode(ids, view)
        target = teacher.encode(noise_ids, view)
    latent = student.encode(ids, view)
    if step == 0:
        for name, value in (("token_ids", ids), ("noise_token_ids", noise_ids)):
            same = (value == reference[f"unlearn/step0/{name}"]).float().mean()
            assert same >= 0.995, name
        check_tight(reference, "unlearn/step0/student_latent", latent[0].detach())
        check_tight(reference, "unlearn/step0/teacher_latent", kept[0])
        check_tight(reference, "unlearn/step0/teacher_noise_latent", target[0])
    rows = forget.view(-1, 1, 1)
    goal = [torch.where(rows, b, a) for a, b in zip(kept, target, strict=True)]
    return unlearning_loss(squared_distance(latent, goal), forget, alpha, "published")


def check_parameters(reference, student, start):
    index = reference.index
    parameters = dict(student.named_parameters())
    for name in index["tensors"]:
        if not name.startswith("unlearn/after/") or "rows" in name:
            continue
        key = name.removeprefix("unlearn/after/")
        check_change(name, index, parameters[key], reference[name], start[key])
    rows = reference["unlearn/after/word_embedding_rows"]
    key = "token_emb.word_embeddings.weight"
    name = f"unlearn/after/{key}[rows]"
    check_change(name, index, parameters[key][rows], reference[name], start[key][rows])

    assert set(index["encoder_param_norms_after_step3"]) == set(student.encoder_parameters())
    for key, expected in index["encoder_param_norms_after_step3"].items():
        torch.testing.assert_close(
            parameters[key].norm().item(), expected, rtol=1e-5, atol=0.0, msg=key
        )
    for key, expected in index["encoder_param_delta_norms_after_step3"].items():
        if key.endswith("attn.qkv.bias"):  # the key bias has no gradient but rounding noise
            continue
        change = (parameters[key] - start[key]).norm().item()
        assert math.isclose(change, expected, rel_tol=1e-2), key
    for key, value in parameters.items():
        if key not in student.encoder_parameters():
            assert torch.equal(value, start[key]), key


def check_change(name, index, value, expected, before):
    """Relative L2 distance of the change from the stored change, without the key bias."""
    limit = index["tensors"][name]["tolerance"]["delta_rel_l2"]
    mine, theirs = (value - before).detach(), expected - before
    if name.endswith("attn.qkv.bias"):
        query, _, values = mine.chunk(3)
        mine = torch.cat([query, values])
        query, _, values = theirs.chunk(3)
        theirs = torch.cat([query, values])
    assert (mine - theirs).norm() / theirs.norm() <= limit, name


BASELINES = {
    "max_full_model_loss": "max_loss",
    "full_model_noise": "noisy_label",
    "learn_others": "retain_label",
    "encoder_noise": "random_encoder",
}
DEFECTIVE = ("learn_others", "encoder_noise")
"""Their released forget terms weigh retain samples; the index has the intended value, too."""


class Recorded:
    """One released baseline on the batch of the first unlearning step."""

    def __init__(self, reference, name):
        teacher = open_reference(reference, tied=True).requires_grad_(False)
        self.method = METHODS[BASELINES[name]](teacher)
        self.student = open_reference(reference, tied=True)
        self.student.train_only(self.method.parameters(self.student))
        images = reference["unlearn/step0/images"]
        step0 = [reference[f"unlearn/step0/{mask}"] for mask in ("drop_mask", "all_mask")]
        self.view, self.ids = make_view(*step0), teacher.prepare(images)
        self.retained = (reference["unlearn/labels"] >= 100).nonzero().flatten().tolist()
        self.noise = self.ids
        if name == "full_model_noise":
            normal = reference[f"baselines/{name}/normal_draw"]
            self.noise = gaussian_ids(self.ids, normal, teacher)
            same = self.noise == reference[f"baselines/{name}/noise_ids"]
            assert same.float().mean() >= 0.999
        if name == "encoder_noise":
            normal, target = (
                reference[f"baselines/{name}/{key}"] for key in ("normal_draw", "target")
            )
            self.method.fit(self.samples([], range(len(self.ids))))
            ((mean, deviation),) = self.method.moments
            torch.testing.assert_close(normal * deviation + mean, target, atol=5e-5, rtol=5e-5)
            self.method.draw = lambda like, seeds: [target[[place for (place,) in seeds]]]

    def samples(self, retain, forget):
        rows = [*retain, *forget]
        kept, gone = self.ids[list(retain)], self.ids[list(forget)]
        seeds = [(place,) for place in forget]
        return Samples(kept, gone, self.noise[list(forget)], self.view.select(rows), seeds)

    def distances(self, retain, forget):
        samples = self.samples(retain, forget)
        with torch.no_grad():
            inputs, target = self.method.lesson(samples)
        output = self.student(inputs, samples.view, self.method.trains_decoder)
        return self.method.distance(output, target, samples)

    def kept(self, sample):
        """Distance of a sample that is retained."""
        return self.distances([sample], [])[0]

    def forgotten(self, sample):
        """Distance of a sample that is forgotten; its partner is chosen as published."""
        partner = self.retained[sample % len(self.retained)]
        return self.distances([partner], [sample])[1]


@pytest.mark.parametrize("name", BASELINES)
def test_baselines(reference, name):
    """One step of each released baseline: its losses, gradient norm and parameters."""
    settings, run = reference.index["unlearn"], Recorded(reference, name)
    everyone = range(len(run.ids))
    forget = [sample for sample in everyone if sample not in run.retained]
    # The published reduction: 2·[class]·d over the batch, for token losses without the 2.
    share = (2 if name in DEFECTIVE else 1) / len(everyone)

    def term(distance, members):
        return share * sum(distance(sample) for sample in members)

    retain = term(run.kept, run.retained)
    if name in DEFECTIVE:
        intended = term(run.forgotten, forget)
        reference.check_scalar(f"baseline/{name}/intended_forget", intended.item())
    pulled = term(run.forgotten, run.retained if name in DEFECTIVE else forget)
    total = retain + run.method.sign * settings["forget_alpha"] * pulled
    start = {key: p.detach().clone() for key, p in run.student.named_parameters()}
    trained = run.method.parameters(run.student)
    groups = decay_groups(trained, settings["weight_decay"])
    optimizer = torch.optim.AdamW(
        groups,
        lr=reference.index["scalars"][f"baseline/{name}/step0/lr"]["value"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
    )
    total.backward()
    norm = torch.nn.utils.clip_grad_norm_(trained.values(), settings["grad_clip"])
    for key, value in (("retain", retain), ("forget", pulled), ("total", total)):
        reference.check_scalar(f"baseline/{name}/step0/{key}", value.item())
    reference.check_scalar(f"baseline/{name}/step0/grad_norm", norm.item())
    optimizer.step()
    after = dict(run.student.named_parameters())
    prefix = f"baselines/{name}/after/"
    checked = [full for full in reference.index["tensors"] if full.startswith(prefix)]
    assert checked
    for full in checked:
        key = full.removeprefix(prefix)
        check_change(full, reference.index, after[key], reference[full], start[key])
    for key in after.keys() - trained.keys():
        assert torch.equal(after[key], start[key]), key
    assert set(reference.index["baseline_unchanged"].get(name, ())) <= after.keys() - trained.keys()
