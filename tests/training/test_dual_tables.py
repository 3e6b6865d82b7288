"""benchmarks/dual_training.py: tables and the figure of Wong et al. (2018), at the size of a test."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("dual_training")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images of MNIST's shape that a few steps tell apart: class k is bright in a square of its own."""
    generator = np.random.default_rng(0)
    (tmp_path / "mnist").mkdir()
    for part, count in (("train", 60), ("test", 20)):
        labels = np.arange(count) % 4
        images = generator.integers(0, 40, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[7 * label : 7 * label + 7, 4:24] = 255
        np.savez(tmp_path / "mnist" / f"mnist_{part}.npz", images=images, labels=labels)
    return tmp_path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_part_runs_and_resumes(
    script: ModuleType, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ("--data", str(data), "--out", str(out), "--images", "60", "--test", "20", "--batch", "20")
    script.main(["table", *given, "--archs", "wide:1", "--epochs", "3", "--projections", "4"])
    (row,) = table(out / "table.csv")
    assert float(row["error"]) <= float(row["by the ladder"]) <= float(row["robust error by the bound"])
    script.main(["table", *given, "--archs", "wide:1", "--epochs", "3", "--projections", "4"])
    assert table(out / "table.csv") == [row]  # read back, not trained again: the very minutes are there

    few = ("--archs", "deep:1", "--epochs", "1", "--eps", "0.02")
    script.main(["k", *given, *few, "--projections", "4,exact", "--plot", str(out / "k.png")])
    assert [(r["k"], r["epoch"]) for r in table(out / "k.csv")] == [("4", "1"), ("exact", "1")]
    assert (out / "k.png").stat().st_size > 0
    script.main(["width", *given, *few, "--projections", "4"])
    assert [r["units"] for r in table(out / "width.csv")] == ["2452"]
    capsys.readouterr()
    script.main(["cascade", *given, *few, "--projections", "4", "--count", "2"])
    assert [r["classifier"] for r in table(out / "cascade_0.02.csv")] == [
        "first network", "cascade, rule first", "cascade, rule agreed",
    ]  # fmt: skip
    assert "images: 60" in capsys.readouterr().out
