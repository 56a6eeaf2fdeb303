"""The objective on numbers worked by hand."""

import pytest
import torch

from l2l_core.unlearning.objective import squared_distance, unlearning_loss


def test_distance_is_a_mean_over_tokens_and_channels_summed_over_tensors():
    student = [torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]), torch.tensor([[3.0], [1.0]])]
    target = [torch.zeros(2, 1, 2), torch.zeros(2, 1)]
    # sample 0: (1 + 4) / 2 + 9; sample 1: 0 + 1
    assert squared_distance(student, target).tolist() == [11.5, 1.0]


def test_class_means_do_not_depend_on_the_balance_of_the_batch():
    distance, forget = torch.tensor([1.0, 3.0, 5.0, 8.0]), torch.tensor([False, False, False, True])
    losses = unlearning_loss(distance, forget, alpha=0.25)
    assert losses.retain.item() == 3.0
    assert losses.forget.item() == 8.0
    assert losses.total.item() == 5.0


def test_the_published_reduction_is_twice_the_share_times_the_mean():
    distance, forget = torch.tensor([1.0, 3.0, 5.0, 8.0]), torch.tensor([False, False, False, True])
    losses = unlearning_loss(distance, forget, 0.25, "published")
    assert losses.retain.item() == 2 * 9 / 4
    assert losses.forget.item() == 2 * 8 / 4


def test_both_reductions_agree_on_a_balanced_batch():
    distance, forget = torch.rand(8), torch.arange(8) >= 4
    ours, theirs = (unlearning_loss(distance, forget, 0.5, r) for r in ("class_mean", "published"))
    torch.testing.assert_close(ours.total, theirs.total)


def test_a_class_without_samples_counts_nothing():
    losses = unlearning_loss(torch.tensor([2.0]), torch.tensor([True]), 1.0)
    assert (losses.retain.item(), losses.forget.item()) == (0.0, 2.0)


def test_unknown_reduction():
    with pytest.raises(ValueError, match="class_mean"):
        unlearning_loss(torch.ones(2), torch.tensor([True, False]), 1.0, "sum")
