"""The command line, as people type it."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from l2l_core.builtin import builtin_index
from l2l_core.cli import main
from l2l_core.cli.shared import merged
from l2l_core.cli.unlearning import steps_of
from l2l_core.config import UnlearnRequest
from l2l_core.jobs.store import Run


def l2l(*arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "l2l_core", *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, **options
    )


def test_models_are_listed():
    result = l2l("models")
    assert result.returncode == 0
    assert "mae-fluent" in result.stdout and "facebook/vit-mae-base" in result.stdout


def test_every_setting_is_a_flag():
    shown = l2l("unlearn", "--help").stdout
    for name in UnlearnRequest.__dataclass_fields__:
        assert "--" + name.replace("_", "-") in shown, name


def test_epochs_count_the_images_trained_on():
    trained = sum(i.split == "train" for i in builtin_index() if i.group == "flags")
    settings = {"forget": ["builtin:flags"], "batch_size": 10}
    assert steps_of(2.5, settings) == math.ceil(2.5 * trained / 10)


def test_paths_mean_the_same_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    named = ["builtin:food", "proxy", "inputs:retain", "classes:tree?take=1-2"]
    options = {"tokenizer": "vqgan.ckpt", "steps": 8}
    settings = {"forget": "mine", "retain": ["~/kept", *named], "model_options": options}
    assert merged(settings, None, {"checkpoint": "mage.pth"}) == {
        "forget": [f"{tmp_path}/mine"],
        "retain": [f"{tmp_path}/home/kept", *named],
        "checkpoint": f"{tmp_path}/mage.pth",
        "model_options": options | {"tokenizer": f"{tmp_path}/vqgan.ckpt"},
    }
    assert merged({"forget": 5, "checkpoint": None}, None, {}) == {"forget": 5, "checkpoint": None}


def test_config_flags_report_and_complete(request_settings, picture_folders, tmp_path):
    config = tmp_path / "run.json"
    config.write_text(json.dumps(request_settings))
    result = l2l(
        "unlearn", "--config", config, "--steps", 2, "--alpha", 0.5, "--out", tmp_path / "r"
    )
    assert result.returncode == 0, result.stderr
    run = Run(tmp_path / "r")
    assert (run.request.steps, run.request.alpha) == (2, 0.5)
    assert "cosine" in result.stdout and "Noise level" in result.stdout

    report = l2l("report", tmp_path / "r")
    assert report.returncode == 0 and "built-in feature net" in report.stdout
    other = l2l("report", tmp_path / "r", "--mask", "left:0.5")
    assert other.returncode == 0 and "left:0.5" in other.stdout

    picture = f"{picture_folders[0]}/0.png"
    done = l2l(
        *("complete", picture, "--model", "mae", "--checkpoint", run.weights, "--out", tmp_path),
        *("--model-options", '{"heads": 2}', "--steps", 2),
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "0001-completed.png").size == (32, 32)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    told = l2l("complete", picture, tmp_path / "broken.png", "--out", tmp_path)
    assert told.returncode == 2 and "broken.png: " in told.stderr
    mask = l2l("complete", picture, "--mask", "circle:1", "--out", tmp_path)
    assert mask.returncode == 2 and "no mask" in mask.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["unlearn"], "forget"),
        (["unlearn", "--forget", "builtin:cars"], "cars"),
        (["unlearn", "--forget", "builtin:flags", "--alpha", "-3"], "alpha"),
        (["unlearn", "--forget", "builtin:flags", "--preset", "furious"], "quick"),
        (["unlearn", "--forget", "builtin:flags", "--model", "mae-vit-base"], "vit-mae-base"),
        (["unlearn", "--forget", "builtin:flags", "--model-options", "{patch"], "JSON"),
        (["unlearn", "--forget", "builtin:flags", "--epochs", "1", "--steps", "5"], "one of them"),
        (["unlearn", "--resume", "somewhere", "--steps", "5"], "leave out"),
        (["report", "20260101-000000-00000000"], "no such run"),
        (["unlearn", "--forget", "builtin:flags", "--out", f"{__file__}/x"], "Not a directory"),
    ],
)
def test_mistakes_are_one_sentence(arguments, word, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["l2l", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # handlers of this process stay
    with pytest.raises(SystemExit) as left:
        main()
    printed = "".join(capsys.readouterr())
    assert left.value.code != 0 and word in printed and "Traceback" not in printed


def test_ctrl_c_keeps_a_run_that_goes_on(request_settings, tmp_path):
    config = tmp_path / "run.json"
    config.write_text(json.dumps(request_settings | {"steps": 3000, "preview_every": 0}))
    command = [sys.executable, "-m", "l2l_core", "unlearn", "--config", str(config)]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "r")], stdout=subprocess.PIPE, text=True
    )
    run = Run(tmp_path / "r")
    until = time.monotonic() + 120
    while not any(e["kind"] == "step" for e in run.events()) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=120)
    assert "--resume" in shown and run.state.status == "interrupted"
    assert process.returncode == 130
    settings = json.loads((run.folder / "request.json").read_text())
    reached = run.state.step
    (run.folder / "request.json").write_text(json.dumps(settings | {"steps": reached + 2}))
    assert l2l("unlearn", "--resume", run.folder).returncode == 0
    steps = [e["step"] for e in run.events() if e["kind"] == "step"]
    assert steps == list(range(1, reached + 3)) and run.state.status == "done"
    again = l2l("unlearn", "--resume", run.folder)
    assert again.returncode == 2 and "cannot go on" in again.stderr
