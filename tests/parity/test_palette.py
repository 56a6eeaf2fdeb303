"""Palette against the numbers of the published code."""

from __future__ import annotations

import pytest
import torch

from l2l_core.models.palette import Palette, PaletteView, open_palette
from l2l_core.models.palette_sampling import Diffusion, add_noise, sample_ancestral
from l2l_core.unlearning.methods import METHODS, Samples
from l2l_core.unlearning.objective import squared_distance, unlearning_loss

from .conftest import references

REFERENCES = references("palette")


def open_reference(reference, **options) -> Palette:
    unet, schedules = reference.index["config"]["unet"], reference.index["config"]["beta_schedule"]
    return open_palette(
        reference.folder / "16_Network.pth",
        image_size=unet["image_size"],
        head_channels=unet["num_head_channels"],
        train_schedule=linear(schedules["train"]),
        sampling_schedule=linear(schedules["test"]),
        noise_target="published",
        **options,
    )


def linear(schedule):
    assert schedule["schedule"] == "linear"
    return schedule["n_timestep"], schedule["linear_start"], schedule["linear_end"]


def test_there_are_references():
    assert REFERENCES


def test_sizes_are_inferred(reference):
    expected, found = reference.index["config"]["unet"], open_reference(reference).config
    assert found.inner_channels == expected["inner_channel"]
    assert found.channel_mults == tuple(expected["channel_mults"])
    assert found.res_blocks == expected["res_blocks"]
    levels = range(len(expected["channel_mults"]))
    assert found.attended_levels == tuple(i for i in levels if 2**i in expected["attn_res"])


@torch.no_grad()
def test_network(reference):
    model = open_reference(reference)
    x, gammas = reference["forward/unet/x"], reference["forward/unet/gammas"].flatten()
    reference.check("forward/unet/out", model.unet(x, gammas).sample)
    features = model.unet.encode(x, gammas)
    assert len(features) == reference.index["unlearn"]["feature_levels"]
    for level, feature in enumerate(features):
        reference.check(f"forward/unet/feat{level}", feature[:1])


def test_schedules(reference):
    model = open_reference(reference)
    buffers = model.training_levels.buffers
    for name, values in buffers.items():
        entry = f"forward/schedule/{name}"
        reference.check(entry, values[:: len(values) // len(reference[entry])])
    sampling = Diffusion(linear(reference.index["restoration"]["beta_schedule"])).buffers
    reference.check("restoration/gammas", sampling["gammas"])
    name = "posterior_log_variance_clipped"
    reference.check(f"restoration/{name}", sampling[name])
    for step in range(reference.index["unlearn"]["steps"]):
        drawn = reference[f"unlearn/step{step}/t"], reference[f"unlearn/step{step}/u"].flatten()
        gammas = model.training_levels.between(*drawn)
        reference.check(f"unlearn/step{step}/sample_gammas", gammas)


def test_noising(reference):
    """Retain images are noised for the teacher, too; forget images are noise."""
    clean, noise = reference["forward/q_sample/y_0"], reference["forward/q_sample/noise"]
    noised = add_noise(clean, noise, reference["forward/q_sample/gammas"].flatten())
    reference.check("forward/q_sample/original", noised)
    reference.check("forward/q_sample/target", torch.stack([noised[0], noise[1]]))


@torch.no_grad()
def test_posterior(reference):
    model = open_reference(reference)
    levels = model.training_levels
    condition, noisy = reference["forward/cond"], reference["forward/p_sample/y_t"]
    names = [n for n in reference.index["tensors"] if n.endswith("/log_variance")]
    assert names
    for name in names:
        step = int(name.split("/")[-2].removeprefix("t"))
        gammas = levels.buffers["gammas"][step].expand(len(noisy))
        noise = model.unet(torch.cat([condition, noisy], dim=1), gammas).sample
        mean, log_variance = levels.posterior(noisy, noise, step)
        reference.check(f"forward/p_sample/t{step}/mean", mean)
        reference.check(name, log_variance.expand(len(noisy), 1, 1, 1))


@pytest.mark.parametrize("name", ["zero_noise", "with_noise"])
@torch.no_grad()
def test_restoration(reference, name):
    model = open_reference(reference)
    condition, true = reference["forward/cond"], reference["forward/q_sample/y_0"]
    hole = reference["forward/mask"].bool()
    noise = reference["restoration/noise"]
    draws = iter(noise if name == "with_noise" else torch.zeros_like(noise))
    diffusion = Diffusion(linear(reference.index["restoration"]["beta_schedule"]))
    states = [condition]
    result = sample_ancestral(
        lambda noisy, gammas: model.unet(torch.cat([condition, noisy], dim=1), gammas).sample,
        diffusion,
        condition,
        lambda noisy: torch.where(hole, noisy, true),
        lambda: next(draws),
        lambda step, total, noisy: states.append(noisy),
    )
    reference.check(f"restoration/{name}/result", result)
    if name == "with_noise":
        kept = len(reference["restoration/with_noise/trace"]) // len(true) - 1
        total = len(diffusion.betas)
        shown = [states[0]] + [states[total - i] for i in reversed(range(0, total, total // kept))]
        reference.check("restoration/with_noise/trace", torch.cat(shown))


@torch.no_grad()
def test_complete_is_the_restoration(reference):
    """The public path, with the sampler's own noise recorded, gives the same pixels."""
    model = open_reference(reference, sampler="ancestral")
    true, hole = reference["forward/q_sample/y_0"], reference["forward/mask"][:, 0].bool()
    images = (true + 1) / 2
    generator = torch.Generator().manual_seed(4)
    completed = model.complete(images, hole, generator=generator)
    seeds = torch.randint(2**62, (len(images),), generator=torch.Generator().manual_seed(4))
    streams = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
    draw = lambda: torch.stack([torch.randn(true.shape[1:], generator=g) for g in streams])  # noqa: E731
    condition = torch.where(hole.unsqueeze(1), draw(), true)
    expected = sample_ancestral(
        lambda noisy, gammas: model.unet(torch.cat([condition, noisy], dim=1), gammas).sample,
        model.sampling_levels,
        condition,
        lambda noisy: torch.where(hole.unsqueeze(1), noisy, true),
        draw,
        lambda *_: None,
    )
    torch.testing.assert_close(completed, ((expected + 1) / 2).clamp(0, 1), atol=1e-5, rtol=0)


def view_and_images(reference, step):
    """The recorded draws of a step, and its images in [0, 1]."""
    name = f"unlearn/step{step}"
    noise, hole = reference[f"{name}/noise"], reference[f"{name}/mask"].bool()
    gammas = reference[f"{name}/sample_gammas"]
    view = PaletteView(hole, gammas, reference[f"{name}/cond"], noise)
    return view, (reference[f"{name}/y0"] + 1) / 2


def published_loss(student, target, forget, alpha):
    """Summed over levels: means over the whole batch, the other class counting as zero."""
    losses = unlearning_loss(squared_distance(student, target), forget, alpha, "published")
    return losses.total / 2, losses.retain / 2, losses.forget / 2


def test_unlearning_steps(reference):
    """Losses, gradient norms and parameters of the recorded Adam steps."""
    settings = reference.index["unlearn"]
    teacher, student = open_reference(reference), open_reference(reference).freeze_decoder()
    start = {k: v.clone() for k, v in published(student).items()}
    optimizer = torch.optim.Adam(
        student.encoder_parameters().values(),
        lr=settings["lr"],
        betas=settings["betas"],
        eps=settings["eps"],
    )
    forget = reference["unlearn/labels"] < 0
    for step in range(settings["steps"]):
        name = f"unlearn/step{step}"
        view, images = view_and_images(reference, step)
        seen = teacher.encoder_input(images, view)
        noise = teacher.noise_input(torch.rand_like(images), images, view)
        with torch.no_grad():
            target = teacher.encode(torch.where(forget.view(-1, 1, 1, 1), noise, seen), view)
        features = student.encode(student.encoder_input(images, view), view)
        total, retain, pulled = published_loss(features, target, forget, settings["forget_alpha"])
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), float("inf"))
        reference.check_scalar(f"{name}/total", total.item())
        reference.check_scalar(f"{name}/grad_norm", norm.item())
        for label, rows, loss in (("retain", ~forget, retain), ("forget", forget, pulled)):
            levels = [
                (a[rows] - b[rows]).square().sum().item() / a.numel()
                for a, b in zip(features, target, strict=True)
            ]
            check_levels(reference, f"{name}/{label}_per_level", levels)
            assert loss.item() == pytest.approx(sum(levels), rel=1e-4, abs=1e-9)
        optimizer.step()
        optimizer.zero_grad()
    check_parameters(reference, published(student), start)


def check_levels(reference, name, levels):
    entry = reference.index["scalars"][name]
    assert levels == pytest.approx(
        entry["value"], rel=entry["tolerance"]["rtol"], abs=entry["tolerance"]["atol"]
    ), name


def published(model):
    return model.config.layout.to_published(model.unet.state_dict())


def check_parameters(reference, after, start):
    for name in reference.index["unchanged_parameters"]:
        assert torch.equal(after[name], start[name]), name
    deltas = reference.index["encoder_param_delta_norms_after_step3"]
    assert deltas
    for name, norm in reference.index["encoder_param_norms_after_step3"].items():
        if name in gradient_free(start):
            continue
        assert after[name].norm().item() == pytest.approx(norm, rel=1e-5), name
        assert (after[name] - start[name]).norm().item() == pytest.approx(deltas[name], rel=1e-2)
    check_recorded(reference, "unlearn/after/", after, start)


def check_recorded(reference, prefix, after, start):
    checked = [n for n in reference.index["tensors"] if n.startswith(prefix)]
    assert checked
    for full in checked:
        name = full.removeprefix(prefix)
        change, expected = after[name] - start[name], reference[full] - start[name]
        tolerance = reference.index["tensors"][full]["tolerance"]["delta_rel_l2"]
        assert (change - expected).norm() <= tolerance * expected.norm(), name


def gradient_free(state):
    """Biases whose exact gradient is zero: of attention, and before a norm with one channel a
    group.
    """
    names = {n for n in state if n.endswith("qkv.bias")}
    for name, value in state.items():
        if name.endswith(("in_layers.2.bias", "emb_layers.1.bias", "out_layers.3.bias")):
            width = len(value) // 2 if "emb_layers" in name else len(value)
            if width == 32:
                names.add(name)
    return names


BASELINES = {
    "max_loss": "max_loss",
    "random_label": "noisy_label",
    "retain_label": "retain_label",
    "random_encoder": "random_encoder",
}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines(reference, name):
    """One Adam step of each published baseline, on the data of the first unlearning step."""
    settings, rows = reference.index["unlearn"], reference["unlearn/labels"] < 0
    forget, retain = rows.nonzero().flatten(), (~rows).nonzero().flatten()
    view, images = view_and_images(reference, 0)
    model = open_reference(reference)
    method = METHODS[BASELINES[name]](open_reference(reference).requires_grad_(False))
    model.train_only(method.parameters(model))

    def samples(kept, gone):
        both = torch.cat([kept, gone])
        seeds = [(int(place),) for place in gone]
        return Samples(images[kept], images[gone], images[gone], view.select(both), seeds)

    if name == "random_encoder":
        everyone = torch.arange(len(images))
        with torch.no_grad():
            method.fit(lambda: samples(retain[:0], everyone))
            features = method.original.encode(method.original.encoder_input(images, view), view)
        drawn = drawn_features(reference["baselines/random_encoder/normal_base"], features)
        method.draw = lambda like, seeds: [level[[place for (place,) in seeds]] for level in drawn]

    def distance(kept, gone):
        part = samples(kept, gone)
        with torch.no_grad():
            inputs, target = method.lesson(part)
        output = model(inputs, part.view, method.trains_decoder)
        return method.distance(output, target, part)

    # Means over the whole batch, the other class counting as zero; partners in the batch's order.
    kept = distance(retain, forget[:0]).sum() / len(images)
    partners = retain[forget % len(retain)]
    pulled = sum(
        distance(partner.view(1), sample.view(1))[1]
        for partner, sample in zip(partners, forget, strict=True)
    ) / len(images)
    total = kept + method.sign * settings["forget_alpha"] * pulled
    total.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
    scalars = f"baseline/{name}/step0"
    reference.check_scalar(f"{scalars}/total", total.item())
    reference.check_scalar(f"{scalars}/grad_norm", norm.item())
    for label, loss in (("retain", kept), ("forget", pulled)):
        expected = sum(reference.index["scalars"][f"{scalars}/{label}_per_level"]["value"])
        assert loss.item() == pytest.approx(expected, rel=2e-4, abs=1e-6)
    start = {k: v.clone() for k, v in published(model).items()}
    trained = method.parameters(model).values()
    torch.optim.Adam(trained, lr=settings["lr"], betas=settings["betas"]).step()
    check_recorded(reference, f"baselines/{name}/after/", published(model), start)


def drawn_features(base, features):
    """The recorded stand-in for normal draws, with each level's own mean and deviation."""
    drawn = []
    for level, feature in enumerate(features):
        index = (torch.arange(feature.numel()) + 17 * level) % len(base)
        drawn.append(base[index].view_as(feature) * feature.std() + feature.mean())
    return drawn
