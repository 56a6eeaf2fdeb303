"""Relearning and membership."""

import copy

import pytest
import torch
from sklearn.metrics import roc_auc_score

from l2l_core.config import UnlearnRequest
from l2l_core.datasets import load_image_set
from l2l_core.evaluation.audit_report import audit_words
from l2l_core.evaluation.features import load_feature_net
from l2l_core.evaluation.full import representation_distances
from l2l_core.evaluation.membership import auc, membership
from l2l_core.evaluation.metrics import cosine_with_truth
from l2l_core.evaluation.relearning import (
    Attack,
    RelearningPoint,
    reconstruction_loss,
    relearning,
    steps_to_reach,
)
from l2l_core.masks import parse_mask
from l2l_core.models.diffusion_inpainting import open_pipeline
from l2l_core.models.mage import MAGE
from l2l_core.unlearning.objective import squared_distance
from tests.test_diffusion_inpainting import write_pipeline
from tests.test_mage import CONFIG
from tests.test_palette import build


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def unlearned(tiny_mae):
    after = copy.deepcopy(tiny_mae)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in after.encoder_parameters().values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return after


def test_auc_is_scikit_learns():
    positive = torch.randint(0, 6, (40,), generator=generator()) + 1.0  # with ties
    negative = torch.randint(0, 6, (25,), generator=generator()).float()
    apart = torch.arange(40), torch.arange(25)
    value, (low, high) = auc(positive, negative, apart, generator())
    labels = [1] * 40 + [0] * 25
    assert value == pytest.approx(roc_auc_score(labels, torch.cat([positive, negative]).numpy()))
    assert 0.5 < low < value < high < 1
    # Five pictures of each design say less than five designs.
    together = torch.arange(40) // 5, torch.arange(25) // 5
    wide = auc(positive.sort().values, negative.sort().values, together, generator())
    assert wide[0] == value and wide[1][1] - wide[1][0] > 1.5 * (high - low)


def test_auc_at_its_ends():
    low, high = torch.arange(5.0), torch.arange(5.0) + 10
    each = torch.arange(5), torch.arange(5)
    assert auc(high, low, each, generator()) == (1, (1, 1))
    assert auc(low, high, each, generator()) == (0, (0, 0))
    assert auc(low, low, each, generator())[0] == 0.5
    with pytest.raises(ValueError, match="both sides"):
        auc(low, low[:0], each, generator())


@pytest.mark.parametrize(
    ("gold", "words"),
    [
        (None, "in 70% of all pairs"),
        (0.72, "no better than with a model that never saw"),  # the two sides differ by themselves
        (0.55, "in 70% of all pairs"),
    ],
)
def test_membership_is_read_against_the_gold_standard(gold, words):
    models = {"unlearned": {"auc": 0.7, "interval": [0.6, 0.8]}}
    if gold:
        models["gold"] = {"auc": gold, "interval": [gold - 0.1, gold + 0.1]}
    assert words in audit_words("membership", {"models": models})


def test_membership_goes_by_how_far_an_image_moved(request_settings, tiny_mae, unlearned):
    request = UnlearnRequest.from_dict(request_settings)
    images = load_image_set([*request.forget, *request.retain], 32)
    hole = parse_mask("centre:0.5", 32)
    moved, _ = representation_distances(tiny_mae, unlearned, images.images(), hole, request)
    order = moved.argsort(descending=True).tolist()
    far, near = images.subset(order[:4]), images.subset(order[-4:])
    assert membership(request, tiny_mae, unlearned, far, near)["auc"] == 1
    assert membership(request, tiny_mae, unlearned, near, far)["auc"] == 0
    same = membership(request, tiny_mae, tiny_mae, far, near)
    assert same == {"auc": 0.5, "interval": (0.5, 0.5), "members": 4, "unseen": 4}


def test_relearning_brings_completions_back(request_settings, tiny_mae, unlearned):
    request = UnlearnRequest.from_dict(request_settings | {"masks": ["centre"]})
    images = load_image_set(request.forget, 32).images()

    def match_original(model, batch, masks, draw):
        view = model.draw_view(batch, masks, draw)
        with torch.no_grad():
            target = tiny_mae.encode(batch, view)
        return squared_distance(model.encode(batch, view), target).mean()

    state = {k: v.clone() for k, v in unlearned.state_dict().items()}
    curves = relearning(
        request,
        {"unlearned": unlearned, "original": tiny_mae},
        images[:3],
        images[3:],
        Attack(2e-2, steps=60, every=25),
        match_original,
    )
    assert [p.step for p in curves["unlearned"]] == [0, 25, 50, 60]
    for name, value in unlearned.state_dict().items():
        assert torch.equal(value, state[name])  # a copy was tuned
    hole = parse_mask("centre:0.5", 32)
    start = cosine_with_truth(
        load_feature_net(), unlearned.complete(images[:3], hole), images[:3]
    ).mean()
    goal = curves["original"][0].tuned
    first, last = curves["unlearned"][0], curves["unlearned"][-1]
    assert first.tuned == pytest.approx(start.item(), abs=1e-5)
    assert abs(last.tuned - goal) < 0.5 * abs(first.tuned - goal)
    for point in curves["original"]:  # it has nothing to relearn
        assert point.tuned == pytest.approx(goal, abs=1e-3)


@pytest.fixture(params=["mae", "mage", "palette", "diffusers-inpainting"])
def of_each_family(request, tmp_path):
    if request.param == "mae":
        return request.getfixturevalue("tiny_mae")
    if request.param == "mage":
        torch.manual_seed(0)
        made = MAGE(CONFIG).eval()
        for parameter in made.parameters():  # untrained, its scores would all be equal
            torch.nn.init.normal_(parameter, std=0.3)
        return made
    if request.param == "palette":
        return build()
    write_pipeline(tmp_path / "pipeline")
    return open_pipeline(tmp_path / "pipeline").eval()


def test_every_family_relearns_by_its_own_loss(of_each_family):
    """Following the gradient of the encoder alone lowers the loss on the same view."""
    model = of_each_family.freeze_decoder()
    size = model.image_size
    images = torch.rand(4, 3, size, size, generator=generator())
    masks = parse_mask("centre:0.5", size).expand(4, -1, -1)
    losses = []
    optimizer = torch.optim.SGD(model.encoder_parameters().values(), lr=1e-2)
    for _ in range(3):
        value = reconstruction_loss(model, images, masks, generator())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[0] > losses[1] > losses[2] > 0
    trained = set(model.encoder_parameters())
    assert all(n in trained for n, p in model.named_parameters() if p.grad is not None)


def test_steps_to_reach():
    curve = [RelearningPoint(0, 0.2, 0), RelearningPoint(5, 0.6, 0), RelearningPoint(9, 0.5, 0)]
    assert steps_to_reach(curve, 0.5) == 5 and steps_to_reach(curve, 0.7) is None
