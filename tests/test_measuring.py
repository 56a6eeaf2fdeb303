"""evaluate, map, audit and report on a small run, in process, as the command line calls them."""

import json
import os
import re
import stat

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from l2l_core.cli import app
from l2l_core.config import ConfigError, UnlearnRequest
from l2l_core.jobs.results import map_pictures
from l2l_core.jobs.store import RunError, create_run
from l2l_core.models.checkpoints import save_weights
from l2l_core.runtime import seeded

SECRET = "holiday"
"""In the name of every image and folder, and nowhere in a result."""


def l2l(*arguments):
    """What a command printed."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def run(tmp_path, tiny_mae, tiny_checkpoint):
    """A finished run that forgot two classes of three: six training and three held-out images."""
    root = tmp_path / SECRET
    for c in range(3):
        for split, count in (("train", 6), ("val", 3)):
            folder = root / split / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(256, (4, 4, 3), generator=seeded(c, i, count))
                image = Image.fromarray(pixels.to(torch.uint8).numpy()).resize((32, 32))
                image.save(folder / f"{SECRET}{i}.png")
    request = UnlearnRequest(
        forget=(f"classes:{root}?take=1-2",),
        retain=(f"classes:{root}?take=3-3",),
        model="mae",
        checkpoint=str(tiny_checkpoint),
        device="cpu",
        precision="fp32",
    )
    made = create_run(tmp_path / "run", request, status="done")
    with torch.no_grad():
        for parameter in tiny_mae.encoder_parameters().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(1)))
    save_weights(tiny_mae.state_dict(), made.weights, tiny_mae.describe())
    return made


def read(run, name):
    return json.loads((run.folder / name).read_text())


def test_map_with_and_without_pictures(run):
    printed = l2l("map", run.folder, "--limit", 2)
    points = read(run, "map.json")["points"]
    assert len(points) == 2 * 3 * 2
    plain = (run.folder / "map.html").read_text()
    assert plain.count("<circle") == plain.count("<polygon") == 6 and "<image" not in plain
    assert "--pictures" in printed
    assert len(map_pictures(run)) == 12  # the owner's page shows them all the same
    assert "map-pictures.zip" in l2l("map", "--help")
    l2l("map", run.folder, "--limit", 2, "--pictures")
    shown = (run.folder / "map.html").read_text()
    assert shown.count('href="data:image/webp;base64,UklGR') == 12  # RIFF, as WebP files begin
    assert read(run, "map.json")["points"] == points  # the same seed, the same map
    assert stat.S_IMODE((run.folder / "map.html").stat().st_mode) == 0o600


def test_membership_with_a_gold_standard(run, tiny_checkpoint):
    printed = l2l("audit", run.folder, "--kind", "membership", "--gold", tiny_checkpoint)
    found = read(run, "audit-membership.json")
    assert (found["members"], found["unseen"]) == (12, 6)
    assert found["models"]["gold"] == {"auc": 0.5, "interval": [0.5, 0.5]}  # it is the original
    assert found["models"]["unlearned"]["auc"] != 0.5
    assert f"{found['models']['unlearned']['auc']:.3f}" in printed and "Never saw them" in printed


def test_relearning_by_the_familys_own_loss(run):
    settings = ["--images", 3, "--steps", 4, "--every", 2, "--learning-rate", 1e-2]
    printed = l2l("audit", run.folder, "--kind", "relearning", *settings)
    found = read(run, "audit-relearning.json")
    assert (found["tuned"], found["others"]) == (3, 6)
    curve = found["curves"]["unlearned"]
    assert [point["step"] for point in curve] == [0, 2, 4]
    assert curve[0]["tuned"] != curve[-1]["tuned"] and curve[0]["others"] != curve[-1]["others"]
    assert found["halfway"] == pytest.approx((curve[0]["tuned"] + found["original"]) / 2)
    assert f"{curve[-1]['others']:.3f}" in printed and "without a gold standard" in printed


def test_uploads_have_no_unseen_images_but_can_be_relearned(run):
    place = run.request.forget[0].removeprefix("classes:").partition("?")[0]
    sets = {"forget": [f"{place}/train/class0"], "retain": [f"{place}/train/class2"]}
    request = run.request.to_dict() | sets
    (run.folder / "request.json").write_text(json.dumps(request))
    with pytest.raises(ConfigError, match="needs unseen images"):
        l2l("audit", run.folder, "--kind", "membership")
    l2l("audit", run.folder, "--kind", "relearning", "--images", 4, "--steps", 1)
    found = read(run, "audit-relearning.json")
    assert (found["tuned"], found["others"]) == (4, 2)  # what the attacker does not hold
    l2l("audit", run.folder, "--kind", "relearning", "--images", 9, "--steps", 1)
    found = read(run, "audit-relearning.json")
    assert (found["tuned"], found["others"]) == (6, 0)
    assert found["curves"]["unlearned"][0]["others"] is None


def test_the_report_has_all_that_was_found_and_nothing_private(run, tmp_path):
    protocol = tmp_path / "tiny.yaml"
    protocol.write_text(
        "{title: Tiny, forget: 1-1, retain: 2-2, each: 2, masks: [centre:0.5, left:0.5]}"
    )
    root = tmp_path / SECRET
    by_protocol = ["--protocol", protocol, "--data", root]
    printed = [
        l2l("evaluate", run.folder, "--limit", 4),
        l2l("map", run.folder, "--limit", 2),
        l2l("audit", run.folder, "--kind", "membership"),
        l2l("audit", run.folder, "--kind", "relearning", "--images", 2, "--steps", 1),
        l2l("evaluate", run.folder, *by_protocol),
        l2l("report", run.folder),
    ]
    page = (run.folder / "report.html").read_text()
    told = read(run, "report.json")
    for title in ("Measured", "Protocol: Tiny", "Map", "Relearning", "Membership", "What this"):
        assert f"<h2>{title}" in page
    measured = read(run, "evaluation.json")["sets"]["forget"]["cosine"]["after"]
    assert f"{measured:.4f}" in page
    row = read(run, "protocol/tiny/results.json")["masks"]["left:0.5"]["unlearned"]["forget"]
    assert f"{row['embedding']['after']:.4f}" in page
    assert told["protocols"][0]["masks"]["left:0.5"]["unlearned"]["forget"] == row
    assert len(told["map"]["points"]) == 12 and set(told["audits"]) == {"relearning", "membership"}
    assert "An attack that finds nothing" in page and "<img" not in page and "<image" not in page
    for text in (page, json.dumps(told), *printed):
        assert SECRET not in text
    for name in ("map.json", "map.html", "audit-relearning.json", "evaluation.json"):
        assert SECRET not in (run.folder / name).read_text()
    l2l("report", run.folder, "--samples", 2)
    page = (run.folder / "report.html").read_text()
    assert page.count("data:image/png;base64,iVBOR") == 2 * 2 * 3 and SECRET not in page
    assert not re.search(r'(src|href)="(?!data:)|<script|https?://', page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "Name a run"),
        (["evaluate", "RUN", "--data", "x"], "--data needs --protocol"),
        (["evaluate", "RUN", "--dry-run"], "--dry-run needs --protocol"),
        (["evaluate", "RUN", "--limit", "0"], "limit must be"),
        (["evaluate", "--protocol", "imagenet", "--mask", "left:0.5"], "--mask is fixed"),
        (["evaluate", "--protocol", "imagenet"], "also needs data, unlearned, out"),
        (["evaluate", "--protocol", "cifar", "--dry-run"], "There is no protocol"),
        (["evaluate", "RUN", "--protocol", "imagenet", "--model", "mae"], "what model is"),
        (["audit", "RUN", "--kind", "relearning", "--steps", "0"], "must be above 0"),
    ],
)
def test_mistakes_are_said(run, arguments, message):
    with pytest.raises(ConfigError, match=message):
        l2l(*[str(run.folder) if a == "RUN" else a for a in arguments])


def test_a_run_without_weights_cannot_be_measured(run):
    os.unlink(run.weights)
    for command in (["evaluate"], ["map"], ["audit", "--kind", "membership"]):
        with pytest.raises(RunError, match="no weights to measure"):
            l2l(*command, run.folder)
