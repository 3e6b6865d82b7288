"""benchmarks/device_session.py where there is no device: what it says, and every part at tiny sizes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("device_session")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_device_is_said_and_nothing_is_run(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        script.main(["--out", str(tmp_path / "found.json")])
    assert stopped.value.code == 1 and "no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_parts_are_written_one_by_one_and_one_that_fails_costs_no_other(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "found.json"
    script.main(["--device", "cpu", "--seconds", "900", "--out", str(out)])
    parts = json.loads(out.read_text())["parts"]
    assert list(parts) == list(script.PARTS) and {part["ended"] for part in parts.values()} == {"whole"}
    assert parts["tests"]["found"][0]["passed"]
    assert len(parts["steps"]["found"]) == len(script.METHODS) + 8
    assert not [row for row in parts["steps"]["found"] if "error" in row]
    assert [row["examples"] for row in parts["mnist"]["found"]] == [4, 4, 4]
    assert "skipped" in parts["oval21"]["found"][0]
    assert parts["train"]["found"][0]["steps"] == 4

    monkeypatch.setitem(script.SHARES, "steps", 1e-6)
    script.main(["--device", "cpu", "--seconds", "300", "--out", str(out), "--only", "steps", "--only", "oval21"])
    parts = json.loads(out.read_text())["parts"]
    assert parts["steps"]["ended"] == "its time was over" and parts["oval21"]["ended"] == "whole"
