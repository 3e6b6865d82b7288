"""The parts of benchmarks/device_session.py on the device, at tiny sizes."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("device_session")


def test_steps_and_training(device, script: ModuleType, monkeypatch: pytest.MonkeyPatch):
    options = argparse.Namespace(device="cuda", tiny=True, nets=None, data=None, seconds=60.0)
    monkeypatch.setattr(
        script, "METHODS", {name: script.METHODS[name] for name in ("standard", "adversarial", "mtl-ibp")}
    )
    monkeypatch.delitem(script.PASSES, "compiled")  # wrappers of tensors are not compiled
    with device():
        found = list(script.steps(options))
        (trained,) = script.train_small(options)
    assert [row["step"] for row in found[:3]] == ["adversarial", "mtl-ibp", "standard"]
    assert len(found) == 9 and not [row for row in found if "error" in row]
    assert all(row["seconds"] > 0 and row["peak_mib"] is not None for row in found)
    assert trained["steps"] == 4 and trained["last_measured"]["epoch"] == 2


@pytest.mark.slow
def test_a_test_set(device, script: ModuleType):
    options = argparse.Namespace(device="cuda", tiny=True, nets=None, data=None)
    with device():
        found = list(script.mnist(options))
    assert [row["stages"] for row in found] == [["dual"], ["dual-optimised"], "ladder"]
    assert all(row["examples"] == 4 for row in found) and found[-1]["undecided"] == 0
