"""The paper's protocol on a miniature tree: what it measures, resumed, shared out, foretold."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from l2l_core.class_folders import find_images
from l2l_core.cli import app
from l2l_core.config import ConfigError, UnlearnRequest
from l2l_core.datasets import load_image_set
from l2l_core.evaluation import protocol_store
from l2l_core.evaluation.cost import CPU_SAMPLE, Cost, estimate
from l2l_core.evaluation.evaluate import BATCH, completed
from l2l_core.evaluation.extractors import open_extractor
from l2l_core.evaluation.full import Measured, compare
from l2l_core.evaluation.metrics import cosine, psnr_in_hole
from l2l_core.evaluation.protocol import Protocol, ProtocolRequest
from l2l_core.evaluation.protocol_job import Job
from l2l_core.evaluation.protocol_table import paper_table
from l2l_core.evaluation.published import PUBLISHED
from l2l_core.evaluation.sharded import evaluate_protocol
from l2l_core.masks import parse_mask
from l2l_core.models import load_model
from l2l_core.models.checkpoints import save_weights
from l2l_core.runtime import seeded
from l2l_core.unlearning.trainer import Trainer

MASKS = ["centre:0.5", "random:0.5:8"]
EACH = 33


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Six classes of two training images; validation images of two fill a batch and more."""
    root = tmp_path_factory.mktemp("imagenet")
    for c in range(6):
        for split, count in (("train", 2), ("val", EACH)):
            folder = root / split / f"n0000000{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(256, (6, 6, 3), generator=seeded(c, i), dtype=torch.uint8)
                image = Image.fromarray(pixels.numpy()).resize((36, 32), Image.Resampling.BICUBIC)
                image.save(folder / f"{split}_{i:03d}.JPEG", quality=90)
    return root


@pytest.fixture
def asked(tree, tiny_mae, tiny_checkpoint, tmp_path):
    """A measurement of two models on two retain and two forget classes: 66 + 66 images."""
    with torch.no_grad():
        for parameter in tiny_mae.encoder_parameters().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(1)))
    save_weights(tiny_mae.state_dict(), tmp_path / "after.safetensors", tiny_mae.describe())
    protocol = tmp_path / "tiny.yaml"
    settings = {"title": "Tiny", "forget": "1-2", "retain": "3-4", "each": EACH, "masks": MASKS}
    protocol.write_text(json.dumps(settings | {"epochs": 3, "unlearn": {"batch_size": 3}}))
    return ProtocolRequest(
        protocol=str(protocol),
        data=str(tree),
        unlearned=(f"ours={tmp_path / 'after.safetensors'}",),
        out=str(tmp_path / "out"),
        model="mae",
        checkpoint=str(tiny_checkpoint),
        device="cpu",
        precision="fp32",
    )


@pytest.mark.parametrize(
    ("name", "forget", "retain", "others", "each"),
    [
        ("imagenet", "take=1-100", "take=101-200", "except=1-200", 50),
        ("places", "take=51-100", "take=1-50", "except=1-100", 100),
    ],
)
def test_the_papers_protocols(name, forget, retain, others, each):
    protocol = Protocol.load(name)
    assert protocol.count() == 10_000
    assert protocol.test_sets("/data", "list.txt") == {
        "retain": f"classes:/data?list=list.txt&{retain}&each={each}",
        "forget": f"classes:/data?list=list.txt&{forget}&each={each}",
    }
    assert protocol.set_of("others", "/data") == f"classes:/data?{others}"
    for mask in protocol.masks:
        assert parse_mask(mask, 256).any()


def test_the_papers_holes_on_a_grid_of_16():
    hidden = [int(parse_mask(m, 16).sum()) for m in Protocol.load("imagenet").masks]
    assert hidden == [16, 64, 128, 128, 128, 128, 256 - 64, 192]


def test_a_protocol_gives_an_unlearning_request(asked, tree, request_settings):
    protocol = asked.load_protocol()
    for retain, classes in (
        ("retain", {"n00000002", "n00000003"}),
        ("others", {"n00000004", "n00000005"}),
    ):
        settings = protocol.unlearn_settings("mae", str(tree), retain=retain)
        assert settings["steps"] == 4  # 3 passes over 2 × 2 images, 3 a step
        assert {image.label for image in find_images(settings["retain"][0], "train")} == classes
    request = UnlearnRequest.from_dict(request_settings | settings | {"steps": 1})
    trainer = Trainer.from_request(request)
    assert len(trainer.forget) == len(trainer.retain) == 4
    assert trainer.train_step().forget > 0
    coco = protocol.unlearn_settings("mae", str(tree), retain="/data/coco")
    assert coco["retain"] == ["classes:/data/coco"]


@pytest.mark.slow
def test_shards_measure_what_the_whole_measures(asked, tree, monkeypatch):
    """Features of shards are those of all images completed at once, and so are the tables."""
    monkeypatch.setattr(
        protocol_store, "SHARD", BATCH
    )  # 66 images: a whole batch and a shorter one
    results = evaluate_protocol(asked)
    protocol = asked.load_protocol()
    request = UnlearnRequest(forget=("unused",), seed=0, precision="fp32")
    before, after = (
        load_model("mae", path) for path in (asked.checkpoint, asked.named_weights[0][1])
    )
    for name, spec in protocol.test_sets(str(tree)).items():
        truth = load_image_set((spec,), 32, split="test").images()
        true = open_extractor()(truth)
        for mask in MASKS:
            hole = parse_mask(mask, 32, seeded(0, 20))
            found = []
            for model in (before, after):
                completions = completed(model, truth, hole, request)
                made = open_extractor()(completions)
                scores = {
                    "embedding": cosine(made.features, true.features),
                    "psnr": psnr_in_hole(completions, truth, hole),
                }
                found.append(Measured(made, scores))
            expected = compare(true, *found, 0, protocol_store.DRAWS, paired=False)
            assert (
                json.loads(json.dumps({"n": 66} | expected)) == results["masks"][mask]["ours"][name]
            )
            assert expected["embedding"]["before"] != expected["embedding"]["after"]
    assert json.loads((Path(asked.out) / "results.json").read_text()) == results


@pytest.mark.slow
def test_a_cut_run_goes_on_where_it_was(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol_store, "SHARD", BATCH)
    whole = evaluate_protocol(replace(asked, out=str(tmp_path / "whole")))

    class Cut(Exception):
        pass

    seen = []

    def cut(progress):
        seen.append(progress)
        if len(seen) == 5:
            raise Cut

    with pytest.raises(Cut):
        evaluate_protocol(asked, cut)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    # Shard 0 of retain: truth, and 64 images under two holes for both models; the last one is lost.
    assert [p.done for p in seen] == [64, 128, 192, 256, 256 + 2]
    assert len(kept) == 1 + 4 + 1
    rest = []
    assert evaluate_protocol(asked, rest.append) == whole
    computed = [p for p in rest if p.stage != "scores"]
    assert (computed[0].done, computed[-1].done, computed[-1].total) == (256 + 2, 528, 528)
    assert computed[-1].seconds_left == 0 and computed[0].seconds_left > 0
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())

    monkeypatch.setattr(Job, "complete", None)  # nothing is completed again
    assert evaluate_protocol(asked) == whole


def test_a_folder_holds_one_measurement(asked):
    evaluate_protocol(replace(asked, each=4))
    with pytest.raises(ConfigError, match="other images, seed"):
        evaluate_protocol(replace(asked, each=5, seed=1))


def flags(request, **changes):
    """The command line of a request."""
    values = {k: v for k, v in vars(replace(request, **changes)).items() if v}
    values = values | {"unlearned": values["unlearned"][0]}
    return ["evaluate", *(part for k, v in values.items() for part in (f"--{k}", str(v)))]


def run_command(arguments, code=0):
    """What the command line printed, in this process."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.mark.slow
def test_two_processes_measure_what_one_does(asked, tmp_path):
    """Each has a set to complete and two of four tables to score; one prints."""
    # accelerate's --cpu wants MPI; --multi_gpu means torchrun, and the request asks for the CPU.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    printed = []
    for count, options in (("1", []), ("2", launch)):
        command = [*options, "-m", "l2l_core", *flags(asked, out=str(tmp_path / count))]
        done = subprocess.run(
            [sys.executable, *command], env=environment, check=True, capture_output=True, text=True
        )
        printed.append(done.stdout)
    assert [text.count("Tiny") for text in printed] == [1, 1]
    one, two = ((tmp_path / count / "results.json").read_text() for count in "12")
    assert one == two
    files = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*.safetensors"))
    assert len(files) == 2 * (1 + 4)  # two sets; the truth, and two models × two holes
    for file in files:
        first, second = load_file(tmp_path / "1" / file), load_file(tmp_path / "2" / file)
        assert all(torch.equal(first[key], second[key]) for key in first), file


def test_the_command_goes_on_after_ctrl_c(asked, tmp_path, monkeypatch):
    complete, calls = Job.complete, []

    def interrupted(job, model, mask, batch, number):
        calls.append((model, mask, number))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return complete(job, model, mask, batch, number)

    monkeypatch.setattr(Job, "complete", interrupted)
    printed = run_command(flags(asked, each=4), code=130)
    assert "Go on with the same command" in printed and not (tmp_path / "out/results.json").exists()
    printed = run_command(flags(asked, each=4))
    assert calls[3] == calls[4] and len(calls) == 2 * 4 + 1  # two sets, two models × two holes
    results = json.loads((tmp_path / "out/results.json").read_text())
    shown = results["masks"][MASKS[0]]["ours"]["forget"]["embedding"]["after"]
    assert f"{shown:.4f}" in printed and "Tiny" in printed


def test_the_command_foretells_its_cost(asked, tmp_path):
    printed = run_command([*flags(asked), "--dry-run"])
    assert "132 test images, 2 masks, 2 models: 528 completions" in printed
    assert not (tmp_path / "out").exists()
    paper = ["evaluate", "--protocol", "imagenet", "--model", "mae", "--dry-run"]
    printed = run_command([*paper, "--checkpoint", asked.checkpoint])
    assert "10,000 test images, 8 masks, 2 models: 160,000 completions" in printed


def test_the_command_writes_the_settings_to_unlearn_by(asked, tree, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"n0000000{c}\n" for c in (5, 4, 3, 2)))
    ask = ["protocol", asked.protocol, "--data", str(tree), "--model", "mae"]
    settings = yaml.safe_load(run_command([*ask, "--classes", str(listed)]))
    request = UnlearnRequest.from_dict(settings)
    assert request.steps == 4
    labels = {image.label for image in find_images(request.forget[0], "train")}
    assert labels == {"n00000005", "n00000004"}
    others = yaml.safe_load(run_command([*ask, "--retain", "others"]))
    assert others["retain"] == [f"classes:{tree}?except=1-4"]


def test_a_cost_by_hand():
    cost = Cost(
        images=10_000,
        models=2,
        bytes_of_truth=4_000,
        bytes_of_completion=4_004,
        reading=0.01,
        features=0.02,
        completing={"centre:0.25": 0.1, "centre:0.5": 0.3},
        sample=64,
        device="a GPU",
    )
    assert cost.completions == 40_000
    assert cost.bytes == 40_000_000 + 160_160_000
    # An image: 0.01 + 0.02 s, and two models × (0.1 + 0.3 + 2 × 0.02) s = 0.91 s.
    assert cost.hours == pytest.approx(9_100 / 3600)
    assert "40,000 completions, 200.2 MB" in cost.describe() and "2.53 hours" in cost.describe()
    assert "Unlearning is not counted" in cost.describe()
    told = replace(cost, steps=7_200, step=0.5).describe()
    assert "7,200 steps of 0.50 s, about 1.00 hours" in told


def test_the_cost_of_a_tree_and_of_the_paper(asked, tmp_path):
    cost = estimate(asked)
    assert (cost.images, cost.models, cost.completions) == (132, 2, 528)
    assert cost.sample == CPU_SAMPLE and list(cost.completing) == MASKS
    # Built-in features: 256 numbers and one logit for each subgroup; PSNR of completions.
    logits = open_extractor()(torch.rand(1, 3, 32, 32)).logits.shape[1]
    assert cost.bytes_of_truth == 4 * (256 + logits) == cost.bytes_of_completion - 4
    assert min(cost.reading, cost.features, *cost.completing.values()) > 0
    assert not (tmp_path / "out").exists()
    assert (cost.steps, cost.step > 0) == (4, True)  # as the unlearning request has it
    assert "4 steps of" in cost.describe()
    paper = estimate(replace(asked, protocol="imagenet", data=""))
    assert paper.steps == 6 * 100 * 1281 // 32 + 1  # 24,018.75 batches
    assert (paper.images, paper.completions, paper.reading) == (10_000, 160_000, 0)
    with pytest.raises(ConfigError, match="folder of the data"):
        evaluate_protocol(replace(asked, data=""))


def test_the_tables(asked):
    results = evaluate_protocol(replace(asked, each=4))
    console = Console(width=200, record=True)
    console.print(paper_table(results))
    text = console.export_text()
    rows = results["masks"]["centre:0.5"]["ours"]
    for name in ("retain", "forget"):
        for when in ("before", "after"):
            assert f"{rows[name]['embedding'][when]:.4f}" in text
    assert "Tiny" in text and "8 retain, 8 forget images" in text
    assert "FID: 8 images are too few" in text


def test_a_cost_needs_no_weights(asked, monkeypatch):
    monkeypatch.setitem(PUBLISHED, "mae-vit-base", lambda: load_model("mae", asked.checkpoint))
    there = replace(asked, protocol="imagenet", data="", model="mae-vit-base")
    assert estimate(replace(there, checkpoint=None)).completions == 160_000
    assert estimate(replace(there, checkpoint="not-yet.pth")).completions == 160_000
    with pytest.raises(ValueError, match="needs a checkpoint"):
        estimate(replace(there, model="mae", checkpoint=None))  # of unknown size


def test_options_are_the_originals_alone(asked, monkeypatch):
    """Unlearned weights, our own files, hold theirs and take none."""
    asked_for = []

    def open_model(name, file, device, **options):
        asked_for.append((file, options))
        return load_model("mae", asked.checkpoint)

    monkeypatch.setattr("l2l_core.evaluation.protocol_job.load_model", open_model)
    Job.open(replace(asked, model_options={"heads": 2}))
    after = asked.named_weights[0][1]
    assert asked_for == [(asked.checkpoint, {"heads": 2}), (after, {})]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unlearned": ()}, "at least one"),
        ({"unlearned": ("a=x", "a=y")}, "another name"),
        ({"unlearned": ("original=x",)}, "another name"),
        ({"precision": "fp8"}, "precision"),
        ({"each": -1}, "0 or more"),
    ],
)
def test_requests_that_cannot_be(asked, change, message):
    with pytest.raises(ConfigError, match=message):
        replace(asked, **change)


def test_a_request_from_plain_values(asked):
    values = dict(vars(asked))
    assert ProtocolRequest.from_dict(values) == asked
    with pytest.raises(ConfigError, match="Unknown setting mask"):
        ProtocolRequest.from_dict(values | {"mask": "centre:0.5"})
    del values["data"], values["out"]
    with pytest.raises(ConfigError, match="also needs data, out"):
        ProtocolRequest.from_dict(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x", "is no protocol"),
        ("{title: x, forget: 1-2, retain: 3, each: 5, masks: [left:0.5]}", "two positions"),
        ("{title: x, forget: 1-2, retain: 3-4, each: 5, masks: [file:a.png]}", "none from files"),
        ("{title: x, forget: 1-2, retain: 3-4, each: 0, masks: [left:0.5]}", "above 0"),
    ],
)
def test_protocols_that_cannot_be(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Protocol.load(str(path))
    with pytest.raises(ConfigError, match="There is no protocol"):
        Protocol.load("cifar")
