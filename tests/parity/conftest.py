"""Where reference numbers are found: L2L_FIXTURES, else the copy beside this file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent / "fixtures"
SHARED = Path(__file__).parents[3] / "shared" / "fixtures"


def fixture_root() -> Path:
    """The directory of reference numbers."""
    if given := os.environ.get("L2L_FIXTURES"):
        return Path(given)
    return HERE if HERE.is_dir() else SHARED


@dataclass
class Reference:
    """One index file and the tensors it names."""

    folder: Path
    index: dict[str, Any]

    def __getitem__(self, name: str) -> torch.Tensor:
        entry = self.index["tensors"][name]
        return self.files(entry["file"])[entry["key"]]

    def files(self, name: str) -> dict[str, torch.Tensor]:
        if not hasattr(self, "_files"):
            self._files: dict[str, dict[str, torch.Tensor]] = {}
        if name not in self._files:
            self._files[name] = load_file(self.folder / name)
        return self._files[name]

    def check(self, name: str, value: torch.Tensor) -> None:
        """Compare with a stored tensor within its tolerance."""
        tolerance, expected = self.index["tensors"][name]["tolerance"], self[name]
        if tolerance.get("exact"):
            assert torch.equal(value.to(expected.dtype), expected), name
        else:
            torch.testing.assert_close(
                value, expected, atol=tolerance["atol"], rtol=tolerance["rtol"], msg=name
            )

    def check_scalar(self, name: str, value: float) -> None:
        """Compare with a stored number within its tolerance."""
        entry = self.index["scalars"][name]
        tolerance = entry["tolerance"]
        torch.testing.assert_close(
            torch.tensor(value, dtype=torch.float64),
            torch.tensor(entry["value"], dtype=torch.float64),
            rtol=tolerance.get("rtol", 0.0),
            atol=tolerance.get("atol", 0.0),
            msg=lambda text: f"{name}: {text}",
        )


def references(family: str) -> list[Reference]:
    """Every index file of a family, however deep."""
    found = []
    for path in sorted(fixture_root().rglob("index.json")):
        index = json.loads(path.read_text())
        if index.get("fixture") == family:
            found.append(Reference(path.parent, index))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes a `reference` runs on all of its module's REFERENCES."""
    if "reference" in metafunc.fixturenames:
        found = metafunc.module.REFERENCES
        metafunc.parametrize("reference", found, ids=lambda reference: reference.folder.name)


@pytest.fixture(autouse=True)
def one_thread():
    """The numbers were recorded with one thread; sums of several differ in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
