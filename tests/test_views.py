"""What the page says of a run: its verdict in words follows its numbers."""

from types import SimpleNamespace

import pytest

from ui import html, text
from ui.views import scores


def metrics(retain_after, forget_after):
    def cosine(before, after, **more):
        measured = {"before": before, "after": after, "change": after - before}
        return {"n": 9, "cosine": measured | more}

    return {
        "sets": {
            "retain": cosine(0.8, retain_after),
            "neighbours": cosine(0.7, 0.7),
            "forget": cosine(0.9, forget_after, noise=0.4) | {"held_out": True},
        }
    }


@pytest.mark.parametrize(
    ("retain_after", "forget_after", "words"),
    [
        (0.79, 0.41, ["destroyed", "kept", "kept"]),
        (0.7, 0.6, ["60% of the way to noise", "kept", "changed"]),
        (0.81, 0.9, ["still there", "kept", "kept"]),
    ],
)
def test_the_verdict_follows_the_numbers(retain_after, forget_after, words):
    found = scores(metrics(retain_after, forget_after))
    assert [score.role for score in found] == ["forget", "nearest", "retain"]
    assert [score.word for score in found] == words


def test_retain_images_full_of_grain_are_not_called_kept():
    found = metrics(0.79, 0.41)
    found["sets"]["retain"]["psnr"] = {"change": -1.04}
    *_, retain = scores(found)
    assert (retain.word, retain.good) == ("changed", False)
    view = SimpleNamespace(scores=(retain,), stay="", extractor="net")
    assert "n = 9 · PSNR −1.0 dB" in html.verdict(view)


def test_a_model_that_never_saw_the_images_is_named_where_there_is_one():
    found = metrics(0.79, 0.41)
    view = SimpleNamespace(scores=scores(found), stay="", extractor="net")
    assert "never saw" not in html.verdict(view).lower()
    found["sets"]["forget"]["cosine"]["never_saw"] = 0.654
    shown = html.verdict(SimpleNamespace(scores=scores(found), stay="", extractor="net"))
    assert "noise level 0.40 · never saw them 0.65" in shown and text.NEVER_SAW_HINT in shown


@pytest.mark.parametrize(
    ("retain_after", "forget_after", "advice"),
    [
        (0.79, 0.41, ""),
        (0.7, 0.41, text.CHANGED),
        (0.79, 0.6, text.FALLS_SHORT),
        (0.7, 0.6, text.FALLS_SHORT_AND_CHANGED),
    ],
)
def test_a_verdict_that_is_not_good_says_what_to_try(retain_after, forget_after, advice):
    found = scores(metrics(retain_after, forget_after))
    shown = html.verdict(SimpleNamespace(scores=found, stay="", extractor="net"))
    advised = (text.CHANGED, text.FALLS_SHORT, text.FALLS_SHORT_AND_CHANGED)
    assert [line for line in advised if line in shown] == [advice] * bool(advice)
