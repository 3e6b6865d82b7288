"""The rows of benchmarks/layerwise_training.py, on digits: trained, certified, kept, drawn, gone on with."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from verifier.demo import digits, held_out_digits


@pytest.mark.slow
def test_rows_are_trained_certified_and_kept_and_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    rows = importlib.import_module("layerwise_training")
    (tmp_path / "mnist").mkdir()
    for part, (x, y) in (("train", digits()), ("test", held_out_digits())):
        images = (x[:250, 0] * 255).round().numpy().astype(np.uint8)
        np.savez(tmp_path / "mnist" / f"mnist_{part}.npz", images=images, labels=y[:250].numpy())
    names = ["stability-0", "stability-1"]
    places = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--keep", str(tmp_path / "kept")]
    sizes = ["--images", "250", "--epochs", "4", "--test", "2", "--example-budget", "0.3", "--probe", "20"]

    def records(names: list[str], *more: str) -> list[dict]:
        rows.main([*names, *places, *sizes, *more])
        return [json.loads((tmp_path / "kept" / f"layerwise-{name}.json").read_text()) for name in names]

    first = records(names, "--plot", str(tmp_path / "curve.png"))
    for record in first:
        assert [(p["phase"], p["epoch"]) for p in record["phases"]] == [(0, 1), (1, 2), (2, 3), (3, 4)]
        assert [(p["phase"], p["epoch"]) for p in record["probe"]] == [(0, 1), (1, 2), (2, 3), (3, 4)]
        for kind in ("trained on", "test"):
            assert all(len(p[kind]["regions"]) == 4 and len(p[kind]["unstable"]) == 3 for p in record["probe"])
        counts = record["certified"]
        assert counts["images"] == 2 and counts["verified"] <= counts["attacked"] <= counts["clean"]
    one, other = (record["log"]["settings"] for record in first)
    assert {key for key in one if one[key] != other[key]} == {"stability"}
    assert (one["stability"], other["stability"]) == (0.0, 1.0)
    loose = [record["log"]["epochs"][0]["train_looseness"] for record in first]
    assert loose[0] == 0 < loose[1]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    again = records(names[1:])[0]
    assert again["log"]["epochs"] == first[1]["log"]["epochs"], "a run that is there is read, not run again"
    assert again["certified"] == first[1]["certified"]
    assert '"verified"' in capsys.readouterr().out
