"""Ours and the baselines: their losses by hand, and what each of them moves."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from l2l_core.config import METHODS as NAMES
from l2l_core.config import PAPER_METHODS, UnlearnRequest
from l2l_core.datasets import load_image_set
from l2l_core.models.base import ImageToImageModel, View
from l2l_core.models.diffusion_inpainting import open_pipeline
from l2l_core.models.mage import MAGE
from l2l_core.runtime import seeded
from l2l_core.unlearning.methods import METHODS, RandomEncoder, Samples, gaussian_ids
from l2l_core.unlearning.objective import unlearning_loss
from l2l_core.unlearning.trainer import Trainer

from .test_diffusion_inpainting import write_pipeline
from .test_mage import CONFIG
from .test_palette import build

ENCODER_ONLY = {"ours", "random_encoder", "ignorance"}


def test_every_name_is_a_method():
    assert set(NAMES) == METHODS.keys()
    assert len(PAPER_METHODS) == 5 and set(PAPER_METHODS) < set(NAMES)


# --- by hand ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Everything(View):
    """Nothing is hidden."""

    rows: torch.Tensor


class Scaling(ImageToImageModel):
    """E multiplies by one number, D by another: D(E(x)) = e·d·x."""

    image_size = cell = 2

    def __init__(self, e, d):
        super().__init__()
        self.e, self.d = nn.Parameter(torch.tensor(e)), nn.Parameter(torch.tensor(d))

    def draw_view(self, images, masks, generator):
        return Everything(torch.zeros(len(images)))

    def encode(self, inputs, view):
        return [self.e * inputs]

    def reconstruct(self, inputs, view):
        return self.d * self.encode(inputs, view)[0]

    def training_loss(self, output, images, view):
        return (output - images).square().flatten(1).mean(dim=1)

    def complete(self, images, mask, *, steps=None, generator=None, on_step=None):
        return self.reconstruct(images, self.draw_view(images, mask, generator))

    def encoder_parameters(self):
        return {"e": self.e}


def flat(*values):
    return torch.stack([torch.full((3, 2, 2), value) for value in values])


def hand_worked(name, alpha=0.5):
    """Losses of a student with e = 3 against an original with e = 2, both with d = 3."""
    method, student = METHODS[name](Scaling(2.0, 3.0)), Scaling(3.0, 3.0)
    view = Everything(torch.zeros(4))
    seeds = [(0, 1), (0, 2)]
    samples = Samples(flat(1.0, 2.0), flat(0.5, 0.5), flat(0.25, 0.25), view, seeds)
    with torch.no_grad():
        method.fit(lambda: samples)
        inputs, target = method.lesson(samples)
        output = student(inputs, view, method.trains_decoder)
        distance = method.distance(output, target, samples)
    forget = torch.tensor([False, False, True, True])
    losses = unlearning_loss(distance, forget, method.sign * alpha)
    return [round(value.item(), 5) for value in (losses.retain, losses.forget, losses.total)]


@pytest.mark.parametrize(
    ("name", "retain", "forget", "sign"),
    [
        # E: (3·1 − 2·1)² = 1 and (3·2 − 2·2)² = 4; (3·0.5 − 2·0.25)² = 1
        ("ours", 2.5, 1.0, 1),
        # … (3·0.5 − 2·1)² = 0.25 and (3·0.5 − 2·2)² = 6.25
        ("ignorance", 2.5, 3.25, 1),
        # D(E): (9·1 − 1)² = 64 and (9·2 − 2)² = 256; (9·0.5 − 0.5)² = 16
        ("max_loss", 160.0, 16.0, -1),
        # … (9·0.5 − 0.25)² = 18.0625
        ("noisy_label", 160.0, 18.0625, 1),
        # (9·1 − 6·1)² = 9 and (9·2 − 6·2)² = 36; (9·0.5 − 6·1)² = 2.25 and (9·0.5 − 6·2)² = 56.25
        ("retain_label", 22.5, 29.25, 1),
    ],
)
def test_losses_by_hand(name, retain, forget, sign):
    assert hand_worked(name) == [retain, forget, retain + sign * 0.5 * forget]


def test_random_encoder_by_hand():
    """Embeddings are 2, 4, 1, 1: mean 2; the draws are known once their streams are."""
    deviation = math.sqrt((0 + 4 + 1 + 1) * 12 / 47)
    drawn = torch.stack([torch.randn(3, 2, 2, generator=seeded(0, i)) for i in (1, 2)])
    expected = (1.5 - (2 + deviation * drawn)).square().mean().item()
    retain, forget, total = hand_worked("random_encoder")
    assert retain == 2.5 and forget == pytest.approx(expected, rel=1e-4)
    assert total == pytest.approx(2.5 + 0.5 * expected, rel=1e-4)


def test_random_encoder_draws_by_sample():
    """A sample's noise does not depend on which others are computed with it."""
    method = RandomEncoder(Scaling(2.0, 3.0))
    method.moments = [(torch.tensor(5.0), torch.tensor(0.1))]
    like, seeds = [torch.zeros(1, 2000)], [(0, 1), (0, 2)]
    (both,), (alone,) = method.draw(like, seeds), method.draw(like, seeds[1:])
    assert torch.equal(both[1:], alone) and not torch.equal(both[0], both[1])
    assert both.mean().item() == pytest.approx(5, abs=0.01)
    assert both.std().item() == pytest.approx(0.1, abs=0.01)


def test_gaussian_ids_by_hand():
    """ids 2, 4, 6: mean 4, deviation 2; what falls outside 0…7 is cut off."""
    model = Scaling(1.0, 1.0)
    model.codes = 8
    ids, normal = torch.tensor([[2, 4, 6]]), torch.tensor([[0.0, 0.7, 1.3, 9.0, -9.0]])
    assert gaussian_ids(ids, normal, model).tolist() == [[4, 5, 7, 7, 0]]


# --- every family ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("inpainting"))


@pytest.fixture(params=["mae", "mage", "palette", "diffusers-inpainting"])
def model(request, tiny_mae, pipeline):
    if request.param == "mage":
        torch.manual_seed(0)
        made = MAGE(CONFIG)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        return made.eval()
    if request.param == "palette":
        return build()
    return tiny_mae if request.param == "mae" else open_pipeline(pipeline).eval()


def train(model, request_settings, name, **changes):
    """A finished trainer of a copy of this model."""
    settings = {**request_settings, "method": name, "model": model.family, "checkpoint": None}
    request = UnlearnRequest.from_dict({**settings, "steps": 2, **changes})
    forget, retain = (
        load_image_set(specs, model.image_size) for specs in (request.forget, request.retain)
    )
    trainer = Trainer(request, copy.deepcopy(model), forget, retain)
    return trainer, list(trainer.steps())


@pytest.mark.parametrize("name", NAMES)
def test_what_moves_and_what_stays(model, request_settings, name):
    trainer, records = train(model, request_settings, name)
    student = trainer.student
    encoder, whole = student.encoder_parameters().keys(), student.whole_parameters().keys()
    allowed = encoder if name in ENCODER_ONLY else whole
    start, after = model.state_dict(), student.state_dict()
    moved = {key for key in start if not torch.equal(start[key], after[key])}
    assert moved and moved <= allowed
    assert bool(moved - encoder) == (name not in ENCODER_ONLY)
    assert all(torch.equal(start[k], v) for k, v in trainer.teacher.state_dict().items())
    sign = -1 if name == "max_loss" else 1
    first, alpha = records[0], trainer.request.alpha
    assert first.total == pytest.approx(first.retain + sign * alpha * first.forget, rel=1e-4)
    compared = name in ENCODER_ONLY | {"retain_label"}  # with the original, which it still is
    assert (first.retain < 1e-6) == compared and first.forget > 0


def test_augmentation_reaches_every_family(model, request_settings):
    """The first step's loss is that of other images, and of nothing else that is other."""
    plain, augmented = (
        train(model, request_settings, "ours", steps=1, augment=switch)[1][0].forget
        for switch in (False, True)
    )
    assert plain != augmented


def test_gradient_checkpointing_keeps_less_and_changes_nothing(model, request_settings):
    runs, kept = [], []
    for switch in (False, True):
        sizes = []

        def keep(tensor, to=sizes):
            to.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            _, records = train(model, request_settings, "ours", gradient_checkpointing=switch)
        runs.append([value for r in records for value in (r.retain, r.forget, r.grad_norm)])
        kept.append(sum(sizes))
    assert kept[1] < 0.8 * kept[0]
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)


# --- what the loop does with them ------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_forget_term_goes_where_it_should(tiny_mae, request_settings, name):
    changes = {"steps": 40, "learning_rate": 3e-3, "alpha": 1.0}
    _, records = train(tiny_mae, request_settings, name, **changes)
    first, last = (sum(r.forget for r in part) for part in (records[:5], records[-5:]))
    assert last > 1.1 * first if name == "max_loss" else last < 0.9 * first


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_change_nothing(tiny_mae, request_settings, name):
    """Partners and draws belong to samples, not to the part of a batch they are computed in."""
    sizes = []
    tiny_mae.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    losses = [train(tiny_mae, request_settings, name, micro_batch_size=size)[1] for size in (0, 1)]
    assert sizes == 2 * [8] + 2 * 4 * [2]  # two steps; as many forget as retain images
    for whole, parts in zip(*losses, strict=True):
        assert parts.forget == pytest.approx(whole.forget, rel=1e-3)
        assert parts.retain == pytest.approx(whole.retain, rel=1e-3, abs=1e-6)


def test_ignorance_shows_the_original_a_retain_image_where_it_saw_the_forget_image(
    tiny_mae, request_settings
):
    """The target is what the original makes of retain images, seen through the same patches."""
    trainer, _ = train(tiny_mae, request_settings, "ignorance")
    samples = trainer.batch(0)
    with torch.no_grad():
        _, target = trainer.method.lesson(samples)
        expected = trainer.teacher.encode(samples.retain, samples.forget_view)
        other = replace(samples, noise=torch.zeros_like(samples.noise))
        again = trainer.method.lesson(other)[1]
    assert torch.allclose(target[0][len(samples.retain) :], expected[0], atol=1e-5)
    assert torch.equal(target[0], again[0])
