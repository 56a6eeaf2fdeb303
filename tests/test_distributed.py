"""Two processes do what one does, for the same global batch."""

import json
import os
import subprocess
import sys

import pytest
import torch

from l2l_core.jobs.store import Run
from l2l_core.models.checkpoints import read_checkpoint, save_weights

from .test_palette import build

WITHOUT_GRADIENT = ("conv1.bias", "to_k.bias")
"""Biases that the norm or softmax behind them takes out again: only rounding moves them."""


def tiny_palette(folder):
    """Settings that take a tiny Palette in place of the MAE."""
    model, path = build(), folder / "palette.safetensors"
    save_weights(model.state_dict(), path, model.describe())
    return {"model": "palette", "checkpoint": str(path)}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mae", "palette"])
def test_two_processes_equal_one(request_settings, tmp_path, family):
    config = tmp_path / "run.json"
    changes = tiny_palette(tmp_path) if family == "palette" else {}
    config.write_text(json.dumps(request_settings | changes | {"steps": 3}))
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    common = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    module = ["-m", "l2l_core", "unlearn", "--config", str(config), "--out"]
    # accelerate's --cpu wants MPI; --multi_gpu means torchrun, and the request asks for the CPU.
    for count, options in (("1", []), ("2", ["--multi_gpu", "--main_process_port", "0"])):
        options = [*common, *options, "--num_processes", count]
        command = [*launch, *options, *module, str(tmp_path / count)]
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    processes = [
        event["processes"]
        for n in ("1", "2")
        for event in Run(tmp_path / n).events()
        if "processes" in event
    ]
    assert processes == [1, 2]
    one, two = (read_checkpoint(Run(tmp_path / n).weights)[0] for n in ("1", "2"))
    assert one.keys() == two.keys()
    for name in one:
        if name.endswith("qkv.bias"):  # its middle third is the keys' bias, as to_k.bias is
            one[name], two[name] = (part[name].view(3, -1)[::2] for part in (one, two))
        if not name.endswith(WITHOUT_GRADIENT):
            torch.testing.assert_close(one[name], two[name], atol=2e-5, rtol=1e-4, msg=name)
    losses = [
        [e["forget"] for e in Run(tmp_path / n).events() if e["kind"] == "step"] for n in ("1", "2")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 3
