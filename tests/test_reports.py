"""What people take away of a run, and what must not be in it."""

import errno
import hashlib
import json
import re
import zipfile

import pytest
import torch
from typer.testing import CliRunner

from l2l_core.cli import app
from l2l_core.config import UnlearnRequest, dump_json
from l2l_core.errors import PlainError
from l2l_core.files import write_atomically
from l2l_core.jobs.reports import environment_of, export_run, lost_options, write_report
from l2l_core.jobs.runner import execute
from l2l_core.jobs.store import Run, RunError, RunStore, create_run
from l2l_core.models import load_model
from l2l_core.models.checkpoints import read_checkpoint, save_published
from tests.tiny_palette import build


@pytest.fixture
def run(request_settings):
    run = RunStore().create(UnlearnRequest.from_dict(request_settings), owner="digest-of-a-cookie")
    assert execute(run) == "done"
    return run


def unzipped(path):
    with zipfile.ZipFile(path) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


def test_the_zip_holds_nothing_private_and_no_pictures(run, request_settings, tmp_path):
    run.log("end", status="failed", message="“my-secret.jpg” cannot be read.")
    files = unzipped(export_run(run, tmp_path / "run.zip"))
    weights = files.pop("weights/unlearned.safetensors")
    assert weights == run.weights.read_bytes()
    told = b"".join(files.values()).decode()
    private = (*request_settings["forget"], *request_settings["retain"], "secret", "cookie")
    for word in (*private, request_settings["checkpoint"], str(run.folder.parent)):
        assert word not in told
    assert json.loads(files["request.json"])["checkpoint"] == "own checkpoint"
    assert not any(name.endswith((".png", ".jpg", ".pt")) for name in files)


def test_a_folders_name_is_not_told(request_settings, tmp_path):
    request = UnlearnRequest.from_dict(request_settings)
    run = create_run(tmp_path / "forget-alice", request, status="running")
    assert execute(run) == "done"
    assert b"alice" not in export_run(run, tmp_path / "run.zip").read_bytes()  # nothing is packed
    for path in [*write_report(run), run.weights, run.folder / "manifest.json"]:
        assert b"alice" not in path.read_bytes()
    manifest = json.loads((run.folder / "manifest.json").read_bytes())
    assert manifest["run"] == run.id == Run(run.folder).id


def test_the_report_says_what_the_run_was_and_ran_on(run):
    told, manifest = environment_of(run), json.loads((run.folder / "manifest.json").read_bytes())
    assert told["run"] == run.id and told["started"] <= told["finished"]
    assert told["model_before"] == manifest["model_before"] != told["model_after"]
    assert told["torch"] == torch.__version__.split("+")[0]
    assert {"device", "threads", "precision", "python", "l2l_core"} <= told.keys()
    assert told["model_after"] in (run.folder / "report.html").read_text()


def test_the_zip_has_the_quick_look_and_the_full_table(run, tmp_path):
    quick = run.metrics
    write_atomically(run.folder / "evaluation.json", dump_json(quick | {"seed": 123}))
    files = unzipped(export_run(run, tmp_path / "run.zip"))
    assert json.loads(files["metrics.json"])["seed"] == quick["seed"] != 123
    assert json.loads(files["evaluation.json"])["seed"] == 123


def test_the_manifest_in_the_zip_is_of_its_files(run, tmp_path):
    files = unzipped(export_run(run, tmp_path / "run.zip"))
    digests = json.loads(files.pop("manifest.json"))["files"]
    assert digests == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert {"report.html", "report.json", "weights/README.md", "metrics.json"} <= files.keys()


def test_a_run_that_was_not_measured_is_exported_without_a_report(request_settings, tmp_path):
    run = RunStore().create(UnlearnRequest.from_dict(request_settings))
    assert unzipped(export_run(run, tmp_path / "run.zip")).keys() == {
        "request.json",
        "events.jsonl",
    }
    with pytest.raises(RunError, match="no numbers"):
        write_report(run)


def test_weights_leave_in_the_published_layout(run, tmp_path, monkeypatch):
    out = tmp_path / "new" / "mae.pth"
    result = CliRunner().invoke(app, ["export", str(run.folder), str(out)])
    assert result.exit_code == 0, result.output
    published = torch.load(out, weights_only=True)["model"]
    assert published.keys() == load_model("mae", run.weights).state_dict().keys()
    unlearned = read_checkpoint(run.weights)[0]
    opened = load_model("mae", out, **run.request.model_options).state_dict()
    assert all(torch.equal(opened[name], unlearned[name]) for name in opened)
    _, told, _ = re.split(r"```(?:python)?\n", out.with_suffix(".md").read_text())
    monkeypatch.chdir(out.parent)
    exec(told, names := {})
    assert 'checkpoint="mae.pth"' in told
    assert names["model"].config == load_model("mae", run.weights).config


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head_channels": -1},
        {"sampler": "renoising", "train_schedule": (500, 1e-5, 0.02), "last_level": 0},
    ],
)
def test_what_the_published_layout_loses_is_told(changes, tmp_path):
    model = build(**changes)
    save_published(model.published_state(), tmp_path / "16_Network.pth")
    lost = lost_options(model, tmp_path / "16_Network.pth")
    assert load_model("palette", tmp_path / "16_Network.pth", **lost).config == model.config
    assert "noise_target" not in lost and set(changes) <= set(lost)


def test_a_full_disk_is_told_as_one(run, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    result = CliRunner().invoke(app, ["export", str(run.folder), str(tmp_path / "mae.pth")])
    assert isinstance(result.exception, OSError) and result.exception.errno == errno.ENOSPC


def test_weights_that_do_not_fit_the_published_layout_say_so():
    with pytest.raises(PlainError, match="overlapping"):
        load_model("mae-fluent").published_state()
    model = load_model("mage-fluent")
    assert model.config.tied is False
    with pytest.raises(PlainError, match="one token matrix"):
        model.published_state()
