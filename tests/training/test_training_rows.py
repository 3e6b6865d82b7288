"""Rows of the table of trained networks: benchmarks/training_rows.py and its settings files."""

from __future__ import annotations

import csv
import importlib
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from properties.numbers import number_of
from training.architectures import architecture
from training.method import METHODS
from training.settings import parsed
from verifier.certification import Report
from verifier.commands.app import app

ROWS = Path(__file__).parents[2] / "benchmarks" / "rows"


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROWS.parent))
    return importlib.import_module("training_rows")


@pytest.fixture(scope="module")
def options() -> str:
    """The help of `verifier train`."""
    return CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output


@pytest.mark.parametrize("name", sorted(path.stem for path in ROWS.glob("*.toml")))
def test_every_file_is_a_run(name: str, rows: ModuleType, options: str) -> None:
    row = rows.read(name, Path("data"), Path("out"))
    given = row.settings["train"]
    chosen = (f"{key}={value}" for key, value in given.get("set", {}).items())
    kind = METHODS.named_part(given["method"])
    method = kind(eps=number_of(str(given["eps"])), **parsed(kind, chosen))
    assert method.eps > 0
    shape = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}[row.settings["set"]]
    with torch.device("meta"):  # no weights are drawn
        assert architecture(given["arch"], shape, 10)
    assert all(f"--{option} " in options for option in given if option != "set")
    assert (given.get("device") == "cuda") == name.endswith("-gpu")


def test_each_row_has_a_run_for_a_gpu(rows: ModuleType) -> None:
    assert all((ROWS / f"{name}-gpu.toml").exists() for name in rows.names())


@pytest.mark.slow
def test_a_row_is_trained_and_certified_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: list[str], check: bool) -> SimpleNamespace:  # in this process, which has torch already
        done = CliRunner().invoke(app, words[3:])
        return SimpleNamespace(returncode=done.exit_code)

    monkeypatch.setattr(subprocess, "run", run)
    generator = np.random.default_rng(0)
    for part, count in (("cifar10_train_1of5", 16), ("cifar10_test", 8)):
        place = tmp_path / "cifar10" / f"{part}.npz"
        place.parent.mkdir(exist_ok=True)
        labels = np.arange(count) % 2
        images = (200 * labels[:, None, None, None] + generator.integers(50, size=(count, 32, 32, 3))).astype(np.uint8)
        np.savez(place, images=images, labels=labels.astype(np.uint8))
    given = ["cifar10-2", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--epochs", "1"]
    rows.main([*given, "--first", "8", "--print"])
    assert not list((tmp_path / "out").iterdir())
    for _ in range(2):  # the second time both are there
        capsys.readouterr()
        rows.main([*given, "--first", "8"])
        shown = capsys.readouterr().out
    assert shown.count("verifier ") == 2 and "--threat" not in shown and "--set alpha=0.025" in shown
    report = Report.open(tmp_path / "out" / "cifar10-2.safetensors.sqlite")
    assert report.complete and report.summary()["examples"] == 8

    pictures = importlib.import_module("network_pictures")
    run = str(tmp_path / "out" / "cifar10-2.safetensors.run")
    pictures.main([run, "--data", str(tmp_path), "--out", str(tmp_path / "pictures"), "--images", "4"])
    with (tmp_path / "pictures.csv").open() as file:
        layers = list(csv.DictReader(file))
    assert (tmp_path / "pictures.png").stat().st_size > 1000
    assert [layer["layer"] for layer in layers] == ["conv2d", "conv2d_1", "linear"]
    for layer in layers:
        assert sum(float(layer[kind]) for kind in ("on", "off", "unstable")) == pytest.approx(1, abs=1e-3)
        assert float(layer["dead"]) <= float(layer["off"])

    with pytest.raises(SystemExit) as stopped:
        rows.main(["cifar10-2", "--data", str(tmp_path / "missing"), "--out", str(tmp_path / "other")])
    assert stopped.value.code == 2
