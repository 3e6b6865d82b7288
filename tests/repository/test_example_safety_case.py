"""The example of a safety case: a folder of properties to answers with checked certificates, and an exit code."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.html import page

pytest.importorskip("onnxruntime")
junitparser = pytest.importorskip("junitparser")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return runpy.run_path(str(ROOT / "examples" / "safety_case.py"))


def test_the_network_has_learnt_the_rule(example: dict[str, Any]) -> None:
    x = torch.rand(1000, 2, generator=torch.Generator().manual_seed(1))
    assert (example["learnt"]()(x).argmax(1) == example["rule"](x)).float().mean() > 0.95


@pytest.mark.slow
def test_what_holds_is_proved_and_checked_and_what_does_not_fails(
    example: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "safety", tmp_path / "case"
    properties = example["PROPERTIES"]
    kept = properties.pop("brakes_when_near_and_fast")
    properties.clear()
    properties |= {"near": kept, "anywhere": ((0.0, 1.0), (0.0, 1.0), kept[2])}
    assert example["main"](["--folder", str(folder), "--out", str(out)]) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[:3] == ["sat", "driver", "anywhere"]
    assert said[1].split()[:3] == ["unsat", "driver", "near"] and said[1].endswith("certificate checked")
    assert said[2].startswith("--expect unsat: NOT MET: 1 of 2 are unsat")
    cases = json.loads((out / "answers.json").read_text())["cases"]
    assert [case["state"] for case in cases] == ["failed", "passed"]
    properties_, expectations = junitparser.JUnitXml.fromfile(str(out / "junit.xml"))
    assert (properties_.failures, expectations.failures) == (1, 1)
    assert junitparser.JUnitXml.fromfile(str(out / "certificates" / "driver near" / "junit.xml")).failures == 0
    shown = page(out / "page.html").text
    assert "of 1 of 1 unsat the certificates are valid" in shown and "driver near proved 1 1" in shown


@pytest.mark.slow
def test_the_whole_folder_passes(example: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert example["main"](["--folder", str(tmp_path / "safety"), "--out", str(tmp_path / "case")]) == 0
    assert capsys.readouterr().out.count("certificate checked") == len(example["PROPERTIES"])
