"""Numbers in words, as a table, as a page and as a model card."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import yaml

from l2l_core.config import UnlearnRequest
from l2l_core.evaluation.html_report import Sample, run_report, to_html, to_json
from l2l_core.evaluation.model_card import model_card
from l2l_core.evaluation.plots import loss_curve
from l2l_core.evaluation.report import forgotten_share, table_rows, verdict
from l2l_core.unlearning.methods import METHODS


@pytest.mark.parametrize(
    ("before", "after", "noise", "share"),
    [
        (0.9, 0.9, 0.4, 0.0),
        (0.9, 0.65, 0.4, 0.5),
        (0.9, 0.4, 0.4, 1.0),
        (0.9, 0.3, 0.4, 1.0),
        (0.8, 0.9, 0.4, 0.0),
        (0.4, 0.4, 0.5, None),  # nothing to see go
    ],
)
def test_share_of_the_way_to_noise(before, after, noise, share):
    cosine = {"before": before, "after": after, "noise": noise}
    assert forgotten_share(cosine) == (None if share is None else pytest.approx(share))


def metrics(retain_after, forget_after):
    retain = {"before": 0.7, "after": retain_after, "change": retain_after - 0.7}
    forget = {"before": 0.9, "after": forget_after, "noise": 0.4}
    return {"sets": {"retain": {"cosine": retain}, "forget": {"cosine": forget}}}


def test_the_verdict_says_what_was_kept_and_what_is_gone():
    assert "look as before, and forget images come out as if" in verdict(metrics(0.69, 0.41))
    told = verdict(metrics(0.6, 0.65))
    assert told.startswith("Retain images changed, and forget images are 50% of the way to noise")
    assert "from 0.90 to 0.65 on forget images (noise gives 0.40)" in told


def test_the_verdict_is_that_of_the_set_that_lost_least():
    found = metrics(0.69, 0.41)
    uploads = {"before": 0.9, "after": 0.8, "noise": 0.4}
    found["sets"]["forget_uploads"] = {"cosine": uploads}
    assert "20% of the way to noise" in verdict(found)
    found["sets"]["forget_uploads"] = {"cosine": uploads | {"noise": 0.95}}
    assert "no better than noise" in verdict(found)


def test_the_verdict_tells_what_neighbours_lost():
    found = metrics(0.69, 0.41)
    assert "nearest" not in verdict(found)
    near = {"cosine": {"change": -0.061}, "psnr": {"change": -0.4}}
    found["sets"]["neighbours"] = near
    told = "On the retain images nearest to what was forgotten it moved by −0.06, PSNR by −0.4 dB."
    assert verdict(found).endswith(told)
    near["psnr"]["change"] = 0.12
    assert verdict(found).endswith("PSNR by +0.1 dB.")
    near["psnr"]["change"] = -0.04
    assert verdict(found).endswith("PSNR by +0.0 dB.")  # never −0.0
    near["cosine"]["change"] = -0.01
    assert "nearest" not in verdict(found)


def test_grain_that_features_do_not_see_is_no_keeping():
    found = metrics(0.69, 0.41)
    found["sets"]["retain"]["psnr"] = {"change": -0.5}
    assert "look as before" in verdict(found)
    found["sets"]["retain"]["psnr"] = {"change": -1.0}
    assert verdict(found).startswith("Retain images changed, and")
    assert verdict(found).endswith("On retain images it moved by −0.01, PSNR by −1.0 dB.")


def test_the_verdict_counts_the_images_that_stay():
    found = metrics(0.69, 0.41)
    found["sets"]["forget"] |= {"known": 19, "stay": 1, "held_out": True}
    assert "completed much as before" not in verdict(found)  # held out: nobody asked for these
    found["sets"]["seen"] = {"known": 230, "stay": 6, "held_out": False}
    told = "6 of 230 images to be forgotten are still completed much as before."
    assert verdict(found).endswith(told)
    found["sets"]["forget_uploads"] = {"cosine": found["sets"]["forget"]["cosine"], "known": 5}
    found["sets"]["forget_uploads"] |= {"stay": 0}
    assert "6 of 235 images" in verdict(found)
    found["sets"]["seen"]["stay"] = 0
    assert "completed much as before" not in verdict(found)


# --- the table, the HTML report and the model card -------------------------------------------


def row(before, after, **more):
    change = after - before
    return {
        "before": before,
        "after": after,
        "change": change,
        "interval": (change, change),
        **more,
    }


@pytest.fixture
def full():
    retain = {"n": 300, "fid": row(20.0, 21.0), "cosine": row(0.7, 0.69)}
    forget = {
        "n": 19,
        "held_out": True,
        "fid": {"missing": "19 images are too few: 128 are needed"},
        "kid": row(0.1, 2.5, spread=(0.01, 0.2), noise=3.0),
        "cosine": row(0.9, 0.41, noise=0.4),
        "psnr": row(15.0, 8.5, noise=8.0),
    }
    return {
        "mask": "file:/home/kim/secret-mask.png",
        "seed": 0,
        "extractor": "built-in feature net",
        "classes": "nearest built-in subgroups",
        "perceptual": "built-in feature net",
        "sets": {"retain": retain, "forget": forget},
    }


@pytest.fixture
def told(full):
    request = UnlearnRequest(
        forget=("/home/kim/holiday.png", "builtin:flags", "inputs:forget"),
        retain=("proxy", "C:\\kim\\private"),
        checkpoint="/home/kim/mine.safetensors",
        model_options={"tokenizer": "D:\\kim\\tokens", "heads": 12},
        steps=120,
    )
    losses = [(1, 0.001, 0.3), (2, 0.002, 0.2), (3, 0.0015, 0.05)]
    return run_report(
        "Forget <flags> & more", request.to_dict(), full, losses, {"run": "1", "device": "CPU"}
    )


def test_rows_say_direction_extractor_and_what_is_missing(full):
    rows = {(r.set_name, r.metric.name): r for r in table_rows(full)}
    assert next(iter(rows)) == ("Retain", "FID")
    assert rows["Retain", "FID"].metric.label == "FID ↓"
    assert rows["Retain", "FID"].change == "+1.00 [+1.00, +1.00]"
    assert rows["Retain", "FID"].measured_by == "built-in feature net"
    held_out = "Forget (held out)"
    assert rows[held_out, "FID"].change == "19 images are too few: 128 are needed"
    assert rows[held_out, "KID"].before == "0.1000 ± 0.0100"
    assert rows[held_out, "KID"].noise == "3.0000"
    assert rows[held_out, "PSNR"].measured_by == ""


def test_nothing_private_is_in_any_form(told):
    forms = [
        to_html(told),
        to_json(told),
        model_card(told, "MIT", "mae-fluent", "unlearned.safetensors"),
    ]
    for form in forms:
        for private in ("kim", "holiday", "secret", "mine", "/home", "inputs"):
            assert private not in form
        assert "builtin:flags" in form and "own images" in form
    assert "own file" in forms[1] and '"heads": 12' in forms[1]
    assert "uploaded images" in forms[0] and "own drawing" in forms[0]


def test_the_page_needs_nothing_from_outside(told):
    page = to_html(told)
    assert "Forget &lt;flags&gt; &amp; more" in page and "<flags>" not in page
    assert not re.search(r"""(src|href)=["']?(?!data:)|url\(|@import|<script|https?://""", page)
    assert "prefers-color-scheme: dark" in page and "color-scheme: light dark" in page
    assert "default-src 'none'" in page
    checker = Balanced()
    checker.feed(page)
    assert checker.open == []


class Balanced(HTMLParser):
    """Every element that needs one has its end."""

    ALONE = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_pictures_only_if_the_owner_hands_them_over(told):
    assert "<img" not in to_html(told)
    shown = replace(told, samples=(Sample("Forget", b"truth", b"then", b"now"),))
    page = to_html(shown)
    assert page.count("<img") == 3 and "data:image/png;base64,dHJ1dGg=" in page
    assert "dHJ1dGg=" not in to_json(shown)


def test_the_json_holds_what_a_reader_needs(told):
    values = json.loads(to_json(told))
    assert values["request"]["steps"] == 120 and values["request"]["checkpoint"] == "own checkpoint"
    assert values["environment"] == {"run": "1", "device": "CPU"}
    assert values["metrics"]["sets"]["forget"]["kid"]["after"] == 2.5
    assert len(values["losses"]) == 3 and values["limits"][0].startswith("This is approximate")


def test_the_curve_spans_its_losses():
    curve = loss_curve([(1, 0.001, 0.1), (5, 0.01, 1.0)])
    retain, forget = re.findall(r'points="([^"]+)"', curve)
    (_, lowest), (_, retain_end) = ([float(v) for v in p.split(",")] for p in retain.split())
    (_, forget_start), (last, highest) = ([float(v) for v in p.split(",")] for p in forget.split())
    assert lowest > retain_end > forget_start > highest  # a decade each, the axis points down
    assert lowest - retain_end == pytest.approx(forget_start - highest, abs=0.2)
    assert last == pytest.approx(632) and "step 5" in curve


def test_the_card_is_a_hub_readme(told):
    card = model_card(told, "MIT", "mae-fluent", "unlearned.safetensors")
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "mit" and header["pipeline_tag"] == "image-to-image"
    lines = [line for line in card.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 6 and {line.count("|") for line in lines} == {8}
    assert 'load_model("mae-fluent"' in card and "approximate unlearning" in card


@pytest.mark.parametrize("method", METHODS)
def test_the_card_says_what_the_method_did(told, method):
    changed = replace(told, request={**told.request, "method": method})
    card, page = model_card(changed, "MIT", "mae-fluent", "unlearned.safetensors"), to_html(changed)
    whole_model = METHODS[method].trains_decoder
    assert ("decoder is unchanged" in card) is not whole_model
    assert ("encoder and decoder were trained" in card) is whole_model
    answers_noise = method in ("ours", "noisy_label", "random_encoder")
    assert ("answer with noise" in card) is ("answer with noise" in page) is answers_noise
