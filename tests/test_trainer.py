"""The loop: deterministic, resumable, and only the encoder moves."""

import itertools

import pytest
import torch

from l2l_core.builtin import BuiltinImage
from l2l_core.config import UnlearnRequest
from l2l_core.datasets import Batches, ImageSet, load_image_set
from l2l_core.errors import PlainError
from l2l_core.runtime import choose_precision, is_out_of_memory
from l2l_core.unlearning.trainer import (
    FrozenPartChangedError,
    NonFiniteLossError,
    OtherOriginalError,
    Trainer,
    learning_rate_at,
)


@pytest.fixture
def request_(request_settings):
    return UnlearnRequest.from_dict(request_settings)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def trainer_of(settings, **changes):
    return Trainer.from_request(UnlearnRequest.from_dict(settings | changes))


def trained(settings, **changes):
    """The weights a run ends with."""
    trainer = trainer_of(settings, **changes)
    list(trainer.steps())
    return weights(trainer.student)


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_same_seed_same_weights_bit_for_bit(request_):
    runs = []
    for _ in range(2):
        trainer = Trainer.from_request(request_)
        records = [r.asdict() | {"seconds": 0} for r in trainer.steps()]
        runs.append((weights(trainer.student), records))
    assert equal(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]


def test_another_seed_other_weights(request_settings):
    assert not equal(trained(request_settings), trained(request_settings, seed=1))


@pytest.mark.parametrize("changes", [{"betas": (0.5, 0.9)}, {"weight_decay": 0.5}], ids=str)
def test_settings_of_adamw_reach_it(request_settings, changes):
    assert not equal(trained(request_settings), trained(request_settings, **changes))


def test_no_update_has_a_gradient_longer_than_clip(request_settings):
    trainer, norms = trainer_of(request_settings, clip=0.01), []

    def measure(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.cat([g.flatten() for g in gradients if g is not None]).norm().item())

    trainer.optimizer.register_step_pre_hook(measure)
    assert all(record.grad_norm > 0.01 for record in trainer.steps())
    assert norms == pytest.approx(4 * [0.01], rel=1e-3)


def test_what_is_to_be_forgotten_is_not_retained(request_settings):
    """A retain folder may hold it, too."""
    both = request_settings["forget"] + request_settings["retain"]
    kept = trainer_of(request_settings, retain=both).retain
    assert torch.equal(kept.pixels, trainer_of(request_settings).retain.pixels)


def test_a_share_of_the_retain_images_is_used(request_settings):
    assert len(trainer_of(request_settings, retain_fraction=0.5).retain) == 3


def test_skin_tones_do_not_crowd_out_other_retain_images(request_):
    """Nine tones of one design weigh as three images: against nine others, a quarter."""
    forget = load_image_set(request_.forget, 8)
    wave = BuiltinImage("id", "name", "people", "hands", "waving hand", "train")
    retain = ImageSet(torch.zeros(18, 3, 8, 8, dtype=torch.uint8), 9 * (wave,) + 9 * (None,))
    drawn, _ = Batches(forget, retain, 4000, seed=0, augment=False).pick(0)
    assert (drawn < 9).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_teacher_and_decoder_stay_encoder_moves(request_):
    trainer = Trainer.from_request(request_)
    teacher, student = weights(trainer.teacher), weights(trainer.student)
    assert equal(teacher, student)
    list(trainer.steps())
    assert equal(teacher, weights(trainer.teacher))
    encoder = trainer.student.encoder_parameters()
    for name, value in trainer.student.state_dict().items():
        assert torch.equal(value, student[name]) == (name not in encoder), name


def test_the_first_step_starts_from_the_teacher(request_):
    """Nothing has moved yet, so retain images are where they were: the loss is exactly 0."""
    first = next(Trainer.from_request(request_).steps())
    assert first.retain == 0.0 and first.forget > 0
    assert first.total == pytest.approx(request_.alpha * first.forget)


def test_forgetting_moves_forget_images_towards_noise(request_settings):
    trainer = trainer_of(request_settings, steps=60, learning_rate=3e-3, alpha=1.0)
    records = list(trainer.steps())
    first = sum(r.forget for r in records[:5])
    assert sum(r.forget for r in records[-5:]) < 0.8 * first


def test_resume_is_exact(request_, tmp_path):
    whole = Trainer.from_request(request_)
    list(whole.steps())
    first = Trainer.from_request(request_)
    for record in first.steps():
        if record.step == 2:
            break
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Trainer.from_request(request_)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [r.step for r in second.steps()] == [3, 4]
    assert equal(weights(whole.student), weights(second.student))


def test_a_run_does_not_go_on_from_other_weights(request_):
    state = Trainer.from_request(request_).state_dict()
    other = Trainer.from_request(request_)
    other.teacher.decoder_pred.bias.data.add_(1)
    with pytest.raises(OtherOriginalError, match="replaced"):
        other.load_state_dict(state)
    del state["original"]  # as an earlier version wrote it
    with pytest.raises(OtherOriginalError, match="cannot be told"):
        Trainer.from_request(request_).load_state_dict(state)


@pytest.mark.parametrize(
    ("distance", "part"),
    [
        (lambda a, b: a[0].flatten(1).sum(1) * float("nan"), "loss"),
        (lambda a, b: (0 * a[0]).flatten(1).sum(1).sqrt(), "gradient"),  # 0, but steep
    ],
    ids=["loss", "gradient"],
)
def test_what_is_not_finite_stops_before_the_update(request_, monkeypatch, distance, part):
    trainer = Trainer.from_request(request_)
    steps = trainer.steps()
    next(steps)
    before = weights(trainer.student)
    monkeypatch.setattr("l2l_core.unlearning.methods.squared_distance", distance)
    with pytest.raises(NonFiniteLossError, match=f"The {part} .* step 2"):
        next(steps)
    assert equal(before, weights(trainer.student))


def test_a_decoder_that_changed_is_not_accepted(request_):
    trainer = Trainer.from_request(request_)
    list(trainer.steps())
    with torch.no_grad():
        trainer.student.decoder_pred.bias[0] += 1e-3
    with pytest.raises(FrozenPartChangedError, match=r"decoder_pred\.bias"):
        trainer.check_frozen_parts()


@pytest.mark.parametrize("noise", ["gaussian_full", "standard", "uniform", "constant"])
def test_every_noise_trains(request_settings, noise):
    records = list(trainer_of(request_settings, noise=noise, steps=2).steps())
    assert records[-1].forget > 0


def test_half_precision_is_used_and_close(request_settings):
    """By the original and by the model that is trained."""
    losses, types = [], []
    for precision in ("fp32", "bf16"):
        trainer = trainer_of(request_settings, precision=precision)
        for model in (trainer.teacher, trainer.student):
            model.blocks[0].mlp.fc1.register_forward_hook(lambda *io: types.append(io[2].dtype))
        losses.append([record.forget for record in trainer.steps()])
    assert types == 4 * 2 * [torch.float32] + 4 * 2 * [torch.bfloat16]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_one_forget_image_is_enough(request_settings):
    one = request_settings["forget"][0] + "/0.png"
    assert len(list(trainer_of(request_settings, forget=[one]).steps())) == 4


def close(first, second, start):
    """Whether two runs moved the weights alike; rounding grows a little in AdamW."""
    moved = torch.cat([(first[n] - start[n]).flatten() for n in first])
    apart = torch.cat([(first[n] - second[n]).flatten() for n in first])
    return moved.norm() > 0 and apart.norm() < 0.01 * moved.norm()


@pytest.mark.parametrize(("micro", "parts"), [(1, [1, 1, 1, 1]), (3, [3, 1])], ids=str)
def test_micro_batches_add_up_to_the_batch(request_settings, tiny_mae, micro, parts):
    trainer, sizes = trainer_of(request_settings, micro_batch_size=micro), []
    trainer.student.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    list(trainer.steps())
    assert sizes == 4 * [2 * part for part in parts]  # as many forget as retain images
    assert close(trained(request_settings), weights(trainer.student), weights(tiny_mae))


def test_out_of_memory_halves_the_micro_batch(request_settings, tiny_mae, monkeypatch):
    """A device with room for one sample of each kind still does the whole batch."""
    whole = trained(request_settings)
    trainer = trainer_of(request_settings)
    encode, sizes = trainer.student.encode, []

    def small(inputs, view):
        sizes.append(len(inputs))
        if len(inputs) > 2:
            torch.empty(2**60, dtype=torch.uint8)  # the CPU's allocator refuses
        return encode(inputs, view)

    monkeypatch.setattr(trainer.student, "encode", small)
    list(trainer.steps())
    assert trainer.micro_batch == 1 and max(sizes) == 2 * trainer.request.batch_size
    assert close(whole, weights(trainer.student), weights(tiny_mae))


def test_out_of_memory_with_one_sample_is_told(request_, monkeypatch):
    trainer = Trainer.from_request(request_)

    def never(inputs, view):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(trainer.student, "encode", never)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.train_step()


def test_warm_up_and_cosine():
    request = UnlearnRequest(forget=("builtin",), steps=100, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate_at(step, request) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[9] == max(rates) == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[9:])) and 0 < rates[-1] < 0.01


def test_every_kind_of_hole_gets_its_turn(request_):
    trainer = Trainer.from_request(request_)
    assert sorted(trainer.mask_cycle) == sorted(request_.masks)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("no room"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("MPS backend out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_refused_allocation_is_out_of_memory():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)


def test_half_precision_that_a_cpu_lacks_is_refused(request_settings):
    """accelerate would train in fp32 without a word."""
    with pytest.raises(PlainError, match="Choose auto, fp32 or bf16"):
        Trainer.from_request(UnlearnRequest.from_dict(request_settings | {"precision": "fp16"}))
    assert choose_precision("fp16", torch.device("cuda")) == "fp16"
