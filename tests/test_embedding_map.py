"""t-SNE of truth and completions."""

import pytest
import torch

from l2l_core.config import UnlearnRequest
from l2l_core.evaluation.embedding_map import embedding_map, map_points, shown_images
from l2l_core.evaluation.evaluate import evaluation_sets


def clusters(count=20):
    """Three directions; two of them carry both a truth and completions."""
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(3, 16)

    def around(centre):
        return centres[centre] + torch.randn(count, 16, generator=generator)

    return {
        ("retain", "truth"): around(0),
        ("retain", "unlearned"): 5 * around(0),  # only the direction counts
        ("forget", "truth"): around(1),
        ("forget", "unlearned"): around(2),
    }


def test_what_is_alike_lies_together():
    points = map_points(clusters(), seed=0)
    assert len(points) == 80
    assert all(0 <= p.x <= 1 and 0 <= p.y <= 1 for p in points)
    assert min(p.x for p in points) == 0 and max(p.y for p in points) == 1

    def centre(name, what):
        chosen = [(p.x, p.y) for p in points if (p.set, p.what) == (name, what)]
        return torch.tensor(chosen).mean(dim=0)

    kept = (centre("retain", "truth") - centre("retain", "unlearned")).norm()
    lost = (centre("forget", "truth") - centre("forget", "unlearned")).norm()
    assert kept < 0.15 and lost > 0.3


def test_the_same_seed_draws_the_same_map():
    features = clusters(8)
    assert map_points(features, 3) == map_points(features, 3)


def test_points_say_which_image_they_are(request_settings, tiny_mae):
    request = UnlearnRequest.from_dict(request_settings)
    sets = evaluation_sets(request, tiny_mae.image_size)
    images = shown_images(request, tiny_mae, tiny_mae, sets, limit=4)
    points = embedding_map(images, request.seed)
    assert len(points) == 2 * 3 * 4
    assert sorted(p.index for p in points if (p.set, p.what) == ("forget", "truth")) == [0, 1, 2, 3]
    assert {(p.set, p.what) for p in points} == {
        (name, what) for name in ("retain", "forget") for what in ("truth", "original", "unlearned")
    }


def test_too_few_points_are_said():
    with pytest.raises(ValueError, match="at least four points"):
        map_points({("retain", "truth"): torch.ones(3, 4)}, 0)
