"""Numbers in words."""

import pytest

from l2l_core.evaluation.report import forgotten_share, verdict


@pytest.mark.parametrize(
    ("before", "after", "noise", "share"),
    [
        (0.9, 0.9, 0.4, 0.0),
        (0.9, 0.65, 0.4, 0.5),
        (0.9, 0.4, 0.4, 1.0),
        (0.9, 0.3, 0.4, 1.0),
        (0.8, 0.9, 0.4, 0.0),
        (0.4, 0.4, 0.5, 1.0),
    ],
)
def test_share_of_the_way_to_noise(before, after, noise, share):
    cosine = {"before": before, "after": after, "noise": noise}
    assert forgotten_share(cosine) == pytest.approx(share)


def metrics(retain_after, forget_after):
    retain = {"before": 0.7, "after": retain_after, "change": retain_after - 0.7}
    forget = {"before": 0.9, "after": forget_after, "noise": 0.4}
    return {"sets": {"retain": {"cosine": retain}, "forget": {"cosine": forget}}}


def test_the_verdict_says_what_was_kept_and_what_is_gone():
    assert "look as before, and forget images come out as if" in verdict(metrics(0.69, 0.41))
    told = verdict(metrics(0.6, 0.65))
    assert told.startswith("Retain images changed, and forget images are 50% of the way to noise")
    assert "from 0.90 to 0.65 on forget images (noise gives 0.40)" in told
