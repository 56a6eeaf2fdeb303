"""Noise images have the moments they promise."""

import pytest
import torch

from l2l_core.config import NOISE_KINDS
from l2l_core.runtime import seeded
from l2l_core.unlearning.noise import NoiseSource


@pytest.fixture
def images():
    colours = torch.tensor([[0.8, 0.4, 0.1], [0.6, 0.2, 0.3]]).view(2, 3, 1, 1)
    return (colours + 0.1 * torch.randn(2, 3, 16, 16, generator=seeded(1))).clamp(0, 1)


def moments(noise):
    return noise.mean(dim=(0, 2, 3)), noise.std(dim=(0, 2, 3), correction=0)


@pytest.mark.parametrize("kind", ["gaussian", "gaussian_full"])
def test_matches_the_forget_sets_moments(kind, images):
    noise = NoiseSource.fit(kind, images).draw(2000, 16, seeded(0))
    mean, std = moments(noise)
    torch.testing.assert_close(mean, images.mean(dim=(0, 2, 3)), atol=0.02, rtol=0)
    torch.testing.assert_close(std, images.std(dim=(0, 2, 3), correction=0), atol=0.02, rtol=0.05)


def test_full_noise_has_the_images_covariance_shrunk(images):
    """Neighbouring pixels of a two-colour set move together; white noise does not know that."""
    full = NoiseSource.fit("gaussian_full", images).draw(2000, 16, seeded(0))[:, 0, 0]
    white = NoiseSource.fit("gaussian", images).draw(2000, 16, seeded(0))[:, 0, 0]

    def correlation(rows):
        return torch.corrcoef(rows.T)[0, 1].item()

    assert correlation(full) > 0.15
    assert abs(correlation(white)) < 0.1


def test_full_noise_is_of_the_whole_set(images, monkeypatch):
    """Sets lie in the order of their groups, so the first images are of one group."""
    monkeypatch.setattr(NoiseSource, "MOST_IMAGES", 4)
    source = NoiseSource.fit("gaussian_full", images.repeat_interleave(4, dim=0))
    torch.testing.assert_close(source.deviations + source.mean, images[[0, 0, 1, 1]])


def test_fixed_kinds(images):
    uniform = NoiseSource.fit("uniform", images).draw(100, 16, seeded(0))
    assert 0 <= uniform.min() < 0.01 and 0.99 < uniform.max() <= 1
    standard = NoiseSource.fit("standard", images).draw(500, 16, seeded(0))
    torch.testing.assert_close(moments(standard)[1], torch.full((3,), 0.5), atol=0.01, rtol=0)
    constant = NoiseSource.fit("constant", images).draw(2, 16, seeded(0))
    assert constant.std(dim=(2, 3)).max() == 0


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_same_seed_same_noise(kind, images):
    source = NoiseSource.fit(kind, images)
    assert torch.equal(source.draw(2, 16, seeded(5)), source.draw(2, 16, seeded(5)))


def test_errors(images):
    with pytest.raises(ValueError, match="gaussian_full"):
        NoiseSource.fit("pink", images)
    with pytest.raises(ValueError, match="empty"):
        NoiseSource.fit("gaussian", images[:0])
