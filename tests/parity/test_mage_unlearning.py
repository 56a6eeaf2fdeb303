"""MAGE's unlearning steps and baselines against the numbers of the reference implementation."""

from __future__ import annotations

import math

import pytest
import torch

from l2l_core.models.base import View
from l2l_core.unlearning.methods import METHODS, Samples, gaussian_ids
from l2l_core.unlearning.objective import squared_distance, unlearning_loss
from l2l_core.unlearning.trainer import decay_groups

from .conftest import references
from .test_mage import check_tight, make_view, open_reference

REFERENCES = references("mage")


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
            self.method.fit(lambda: self.samples([], range(len(self.ids))))
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
