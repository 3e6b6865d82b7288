"""The scripts on chapters 4 and 5 of the thesis, on a few digits: what their tables must say at any size."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("sklearn")

from helpers.digit_runs import images

SMALL = ("--arch", "two_layer:8", "--images", "30", "--epochs", "1", "--test", "6")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Digits as the scripts take MNIST and CIFAR-10."""
    x, y = images(80)
    for name, size in (("mnist", 28), ("cifar10", 32)):
        pixels = (255 * F.interpolate(x, (size, size))).to(torch.uint8).squeeze(1).numpy()
        if name == "cifar10":
            pixels = np.repeat(pixels[..., None], 3, axis=3)
        (tmp_path / "data" / name).mkdir(parents=True)
        for part, chosen in (("train", slice(60)), ("test", slice(60, 80))):
            path = tmp_path / "data" / name / f"{name}_{part}.npz"
            np.savez(path, images=pixels[chosen], labels=y[chosen].numpy())
    return tmp_path / "data"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module(name)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_steps_have_a_row_with_the_watch_and_one_without(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "out", tmp_path / "steps.png"
    asked = ["steps", "--data", str(data), "--out", str(out), "--sizes", "1,2", "--plot", str(plot), *SMALL]
    script("overfitting", monkeypatch).main([*asked, "--steps", "2", "--restarts", "1"])
    rows = table(out / "mnist_steps.csv")
    assert [(row["step"], row["watched"]) for row in rows] == [("1", "no"), ("1", "yes"), ("2", "no"), ("2", "yes")]
    assert all(float(row["under PGD"]) <= float(row["clean"]) for row in rows)
    assert plot.stat().st_size > 0


@pytest.mark.slow
def test_the_best_epoch_is_no_worse_than_the_last(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    asked = ["epochs", "--set", "cifar10", "--data", str(data), "--out", str(out), "--attack", "2", "--eps", "2/255"]
    script("overfitting", monkeypatch).main([*asked, *SMALL])
    (row,) = table(out / "cifar10_epochs.csv")
    assert float(row["best"]) <= float(row["last"])
    assert float(row["difference"]) == pytest.approx(float(row["last"]) - float(row["best"]), abs=2e-6)


@pytest.mark.slow
def test_no_row_over_all_attacks_is_above_one_of_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    asked = ["--data", str(data), "--out", str(out), "--attack", "2", "--steps", "2", "--restarts", "1", *SMALL]
    script("union_training", monkeypatch).main([*asked, "--networks", "l1,max,augmented,msd"])
    rows = {row.pop("accuracy in per cent (thesis)"): row for row in table(out / "union.csv")}
    for network in ("l1", "max", "augmented", "msd"):
        share = {name: float(row[network].split()[0]) for name, row in rows.items()}
        for ball in ("linf", "l2", "l1"):
            of_ball = [value for name, value in share.items() if name.startswith(f"{ball} ")]
            assert len(of_ball) >= 2
            assert share["all"] <= share[f"{ball}, all"] <= min(of_ball) <= share["clean"]


@pytest.mark.slow
def test_accuracy_falls_with_the_wasserstein_radius(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    asked = ["--data", str(data), "--out", str(out), "--eps", "0.1", "--attack", "1", *SMALL]
    script("wasserstein_training", monkeypatch).main([*asked, "--growth", "3", "--steps", "1"])
    rows = table(out / "wasserstein.csv")
    assert [row["radius"] for row in rows] == ["0", "0.3", "0.9"]
    for network in ("standard", "linf", "wasserstein"):
        shares = [float(row[network]) for row in rows]
        assert shares == sorted(shares, reverse=True)


def test_missing_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="mnist_test"):
        script("union_training", monkeypatch).main(["--data", str(tmp_path), "--out", str(tmp_path / "out")])
