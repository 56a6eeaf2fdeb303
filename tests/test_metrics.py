"""Scores against values known by hand and against torch-fidelity."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from l2l_core.config import UnlearnRequest
from l2l_core.datasets import load_image_set
from l2l_core.evaluation.distribution import (
    frechet_distance,
    half_sample_errors,
    inception_score,
    kernel_distance,
)
from l2l_core.evaluation.evaluate import evaluate, evaluation_sets
from l2l_core.evaluation.extractors import Extracted, Extractor
from l2l_core.evaluation.features import FeatureNet, fold_norms, load_feature_net
from l2l_core.evaluation.full import (
    Instruments,
    Measured,
    compare,
    evaluate_full,
    full_sets,
    representation_distances,
)
from l2l_core.evaluation.metrics import (
    confidence_interval,
    cosine_with_truth,
    embed,
    nearest,
    psnr_in_hole,
    ssim_in_hole,
    staying,
    summary,
)
from l2l_core.evaluation.perceptual import open_perceptual
from l2l_core.evaluation.report import headings, table_rows
from l2l_core.masks import parse_mask
from l2l_core.runtime import seeded


def features(count, dimensions, seed, shift=0.0):
    values = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))
    return values @ torch.diag(torch.linspace(0.2, 2, dimensions)) + shift


@pytest.mark.parametrize(("count", "dimensions"), [(300, 24), (20, 64)])
def test_fid_is_torch_fidelitys(count, dimensions):
    a, b = features(count, dimensions, 0), features(count + 5, dimensions, 1, 0.3)
    statistics = (fid_features_to_statistics(x.double()) for x in (a, b))
    expected = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_fid_of_a_shifted_set_is_the_squared_shift():
    a = features(50, 8, 0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 0.5) == pytest.approx(8 * 0.25, rel=1e-5)
    # Two lines along different axes share nothing: 1 + 4 − 2·0.
    line = torch.tensor([-1.0, 0.0, 1.0])
    flat, steep = torch.stack([line, 0 * line], 1), torch.stack([0 * line, 2 * line], 1)
    assert frechet_distance(flat, steep) == pytest.approx(5)


def test_kid_of_independent_sets_is_torch_fidelitys():
    a, b = features(60, 16, 0), features(50, 16, 1, 0.2)
    expected = kid_features_to_metric(
        a.double(), b.double(), kid_subsets=100, kid_subset_size=25, rng_seed=7, verbose=False
    )
    assert kernel_distance(a, b, 7) == pytest.approx(tuple(expected.values()), rel=1e-12)


def test_kid_leaves_an_image_and_its_own_completion_apart():
    """Completions close to their truths follow the same distribution, so KID must be about 0."""
    truth = features(30, 32, 0)
    completions = truth + 0.05 * features(30, 32, 1)
    mean, spread = kernel_distance(truth, completions, 0, paired=True)
    assert abs(mean) < spread and abs(mean) < 0.05
    assert kernel_distance(truth, completions, 0)[0] < -0.2  # what counting the pairs would say
    assert kernel_distance(truth, completions + 1, 0, paired=True)[0] > 1


def test_inception_score():
    logits = features(1200, 10, 0)
    expected = isc_features_to_metric(logits, splits=2, rng_seed=3)
    assert inception_score(logits, 3) == tuple(expected.values())
    sure = 100 * F.one_hot(torch.arange(40) % 8).float()
    assert inception_score(sure, 0)[0] == pytest.approx(8)  # as many as there are classes
    assert inception_score(torch.zeros(40, 8), 0)[0] == pytest.approx(1)


def test_intervals_count_what_is_shown_not_how_often():
    values = features(40, 1, 0)[:, 0]
    alone, six = torch.arange(40), torch.arange(40).repeat_interleave(6)

    def width(values, concepts):
        low, high = confidence_interval(values, concepts, torch.Generator().manual_seed(0))
        return high - low

    expected = 2 * 1.96 * values.std().item() / 40**0.5
    assert width(values, alone) == pytest.approx(expected, rel=0.15)
    assert width(values.repeat_interleave(6), six) == pytest.approx(width(values, alone))


def test_gains_and_losses_cancel_in_the_change_of_a_mean_only():
    before, after = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.8, 0.2, 0.5])
    found = summary(before, after, torch.arange(3), seeded(0))
    assert found["change"] == pytest.approx(0, abs=1e-6)
    assert found["moved"] == pytest.approx(0.2)


def test_one_concept_has_no_interval():
    found = summary(torch.ones(3), torch.zeros(3), torch.zeros(3), torch.Generator())
    assert found["change"] == -1 and found["interval"] is None


def test_half_samples_give_the_standard_error():
    values = features(400, 1, 0).double()

    def mean(index):
        return values[index].mean(dim=0)

    expected = values.std().item() / 20
    for most in (1000, 50):
        draw = torch.Generator().manual_seed(0)
        error = half_sample_errors(mean, torch.arange(400), draw, 400, most)
        assert error.item() == pytest.approx(expected, rel=0.15)
    twice, draw = torch.arange(200).repeat_interleave(2), torch.Generator().manual_seed(0)
    values = values[::2].repeat_interleave(2, dim=0)
    error = half_sample_errors(mean, twice, draw, 400, 1000).item()
    assert error == pytest.approx(values.std().item() / 200**0.5, rel=0.15)


def test_psnr_and_ssim_look_into_the_hole_only():
    hole = parse_mask("centre:0.5", 32)
    truth = torch.full((1, 3, 32, 32), 0.5)
    grey = torch.where(hole, 0.7, truth)
    elsewhere = grey.clone()
    elsewhere[..., :2, :2] = 0  # out of reach of the hole's windows
    assert psnr_in_hole(grey, truth, hole).item() == pytest.approx(13.979, abs=1e-3)
    assert ssim_in_hole(truth, truth, hole).item() == pytest.approx(1)
    everywhere = torch.full_like(truth, 0.7)
    flat = (2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4)
    assert ssim_in_hole(everywhere, truth, hole).item() == pytest.approx(flat, abs=1e-5)
    for score in (psnr_in_hole, ssim_in_hole):
        assert score(grey, truth, hole).item() == pytest.approx(
            score(elsewhere, truth, hole).item(), abs=1e-6
        )
    noise = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0))
    assert ssim_in_hole(noise, 1 - noise, hole).item() < -0.5  # inverted structure


def test_folding_norms_changes_nothing_but_the_time():
    torch.manual_seed(0)
    net = FeatureNet()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    net.eval().requires_grad_(False)
    images = torch.rand(2, 3, 32, 32)
    expected = net.embed(images)
    fold_norms(net)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    assert torch.allclose(net.embed(images), expected, atol=1e-4)


def test_images_that_stay_by_hand():
    #                     stays, went, half-way (went), never known, known just so and stays
    before = torch.tensor([0.9, 0.9, 0.9, 0.45, 0.51])
    after = torch.tensor([0.8, 0.5, 0.65, 0.45, 0.6])
    assert staying(before, after, torch.full((5,), 0.4)) == {"known": 4, "stay": 2}


@pytest.fixture
def small(request_settings, tiny_mae):
    """A request, its original model and one whose encoder moved."""
    request = UnlearnRequest.from_dict(request_settings)
    after = copy.deepcopy(tiny_mae)
    with torch.no_grad():
        for parameter in after.encoder_parameters().values():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return request, tiny_mae, after, evaluation_sets(request, tiny_mae.image_size)


def test_the_quick_evaluation_is_what_its_parts_say(small):
    request, before, after, sets = small
    found = evaluate(request, before, after, sets)
    truth, hole = sets.forget.images(), parse_mask("centre:0.5", 32)
    net = load_feature_net()
    for when, model in (("before", before), ("after", after)):
        completions = model.complete(truth, hole)
        for metric, values in (
            ("cosine", cosine_with_truth(net, completions, truth)),
            ("psnr", psnr_in_hole(completions, truth, hole)),
        ):
            expected = values.mean().item()
            assert found["sets"]["forget"][metric][when] == pytest.approx(expected, abs=1e-3)
    # Where nothing moved, whatever was known stays.
    still = evaluate(request, before, before, sets)["sets"]["forget"]
    assert still["stay"] == still["known"] == found["sets"]["forget"]["known"]
    assert "stay" not in found["sets"]["retain"]


def wide(images):
    """An extractor of two features and two classes."""
    means = images.mean(dim=(2, 3))
    return means[:, :2], means[:, :2] * 10


def test_the_full_table_is_reproducible_and_knows_its_limits(small):
    request, before, after, sets = small
    tools = Instruments(Extractor("two means", 2, "two kinds", wide), open_perceptual())
    twice = [
        evaluate_full(request, before, after, sets, instruments=tools, reference=before, draws=8)
        for _ in range(2)
    ]
    assert twice[0] == twice[1]
    assert twice[0]["extractor"] == "two means"
    forget = twice[0]["sets"]["forget"]
    assert 0 <= forget["stay"] <= forget["known"] <= forget["n"]
    assert "stay" not in twice[0]["sets"]["retain"]
    assert {
        "fid",
        "kid_apart",
        "is",
        "cosine",
        "perceptual",
        "psnr",
        "ssim",
        "representation",
    } <= set(forget)
    for metric in ("fid", "kid_apart", "is", "psnr"):
        row = forget[metric]
        assert row["change"] == pytest.approx(row["after"] - row["before"], abs=1e-5)
        assert row["interval"][0] <= row["change"] <= row["interval"][1]
    assert forget["reference"]["before"] == pytest.approx(1)
    for metric in ("fid", "kid_apart", "is", "cosine", "psnr"):  # the original, measured again
        assert forget[metric]["never_saw"] == pytest.approx(forget[metric]["before"], abs=1e-6)
    rows = table_rows(twice[0])
    assert headings(twice[0])[-1] == "Never saw" and {len(row.cells) for row in rows} == {5}
    quick = evaluate(request, before, after, sets)["sets"]["forget"]
    assert forget["psnr"].items() > quick["psnr"].items()
    wider = Instruments.open(embedding="builtin")
    missing = evaluate_full(request, before, after, sets, instruments=wider, draws=4)
    assert missing["sets"]["forget"]["fid"] == {"missing": "6 images are too few: 128 are needed"}
    assert missing["embedding"] == missing["extractor"] and "Never saw" not in headings(missing)
    assert missing["sets"]["forget"]["embedding"] == missing["sets"]["forget"]["cosine"]
    assert not any(found["held_out"] for found in missing["sets"].values())  # folders have no split
    for value in ("before", "after", "change", "noise"):
        expected = quick["cosine"][value]
        found = missing["sets"]["forget"]["cosine"][value]
        assert found == pytest.approx(expected, abs=2e-3)


def test_the_same_model_has_not_changed(small):
    request, before, _, sets = small
    found = evaluate_full(request, before, before, sets, draws=4)
    for rows in found["sets"].values():
        for row in rows.values():
            if isinstance(row, dict) and "change" in row:
                assert row["change"] == 0 and tuple(row["interval"]) == (0, 0)


def test_perfect_completions_have_perfect_rows():
    true = features(40, 8, 0)
    logits = features(40, 5, 1)
    scores = {"cosine": torch.ones(40)}
    perfect = Measured(Extracted(true, logits), scores)
    poor = Measured(Extracted(true + 2, logits * 0), {"cosine": torch.zeros(40)})
    rows = compare(Extracted(true, logits), perfect, poor, seed=0, draws=20)
    assert rows["fid"]["before"] == pytest.approx(0, abs=1e-9)
    assert rows["fid"]["after"] == pytest.approx(8 * 4, rel=1e-5)
    assert abs(rows["kid_apart"]["before"]) < 3 * rows["kid_apart"]["spread"][0] + 1e-9
    assert rows["kid_apart"]["after"] > 1 and rows["kid_apart"]["interval"][0] > 0
    assert rows["is"]["after"] == pytest.approx(1) and rows["is"]["before"] > 1
    assert rows["cosine"]["change"] == -1


def test_published_kid_counts_an_images_own_completion():
    """As the protocol's table gives it: torch-fidelity's, without `kid_apart`."""
    true, made = features(40, 8, 0), features(40, 8, 0) + 0.1 * features(40, 8, 1)
    found = Measured(Extracted(true + 1, None), {})
    rows = compare(
        Extracted(true, None), Measured(Extracted(made, None), {}), found, 5, 4, paired=False
    )
    assert rows["kid"]["before"] == kernel_distance(true, made, 5)[0] < 0
    assert "kid_apart" not in rows


def test_groups_and_uploads_are_measured_apart(picture_folders):
    """Uploads and parts without a test side are measured themselves; groups by their own."""
    forget = ("builtin:activities", picture_folders[0])
    request = UnlearnRequest(forget=forget, retain=("builtin:food",))
    sets = full_sets(request, 64, limit=20)
    assert {s.split for s in sets.forget.sources} == {"test"}
    assert {s.split for s in sets.seen.sources} == {"train"}
    assert len(sets.uploads) == 6 and set(sets.uploads.sources) == {None}
    held_out = {name: sets.is_held_out(name) for name in sets.named()}
    assert held_out == {
        "retain": True,
        "neighbours": False,
        "forget": True,
        "forget_uploads": False,
        "seen": False,
    }
    alone = full_sets(replace(request, forget=("builtin:people/hands",), retain=forget[1:]), 64)
    assert {s.split for s in alone.forget.sources} == {"train"} and alone.seen is None
    assert not any(map(alone.is_held_out, alone.named()))


def test_representation_distances_follow_the_objective(small):
    request, before, after, sets = small
    images, hole = sets.forget.images(), parse_mask("left:0.5", 32)
    moved, noise = representation_distances(before, after, images, hole, request)
    view = before.draw_view(images, hole.expand(6, -1, -1), seeded(request.seed, 26, 0))
    with torch.no_grad():
        a, b = (model.encode(images, view)[0] for model in (before, after))
    assert torch.allclose(moved, (a - b).square().mean(dim=(1, 2)), rtol=1e-4)
    assert noise.shape == (6,) and noise.min() > 0


def test_seen_forget_images_are_those_trained_on():
    request = UnlearnRequest(forget=("builtin:activities",), retain=("builtin:food",))
    sets = full_sets(request, 64, limit=20)
    assert {s.split for s in sets.seen.sources} == {"train"}
    assert {s.split for s in sets.forget.sources} == {"test"}
    assert list(sets.named()) == ["retain", "neighbours", "forget", "seen"]
    assert all(len(found) <= 64 for found in sets.named().values())
    truth = embed(load_feature_net(), sets.forget.images())
    kept = load_image_set(("builtin:food",), 64, split="train")
    closest = nearest(truth, embed(load_feature_net(), kept.images()), 1).unique()
    wanted = {kept.sources[i].id for i in closest.tolist()}
    shown = {s.id for s in sets.neighbours.sources}
    assert len(wanted & shown) >= 0.9 * len(wanted)  # bf16 may swap near ties
