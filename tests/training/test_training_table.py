"""The table of several runs' logs and stores: benchmarks/training_table.py, on runs from the shell."""

from __future__ import annotations

import csv
import importlib
import json
import shlex
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from typer.testing import CliRunner

from training import History
from verifier.certification import Report
from verifier.commands.app import app
from verifier.demo import digits, held_out_digits


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("training_table")


def test_runs_become_rows_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(History, "plot", lambda self, path: path.write_text("a picture"))
    for name, (x, y), count in (("mnist_train", digits(), 200), ("mnist_test", held_out_digits(), 20)):
        np.savez(f"{name}.npz", images=x[:count].numpy(), labels=y[:count].numpy())
    for out, method, more in (("a", "standard", ()), ("b", "ibp", ("--seed", "3"))):
        given = ("--method", method, "--arch", "two_layer:16", "--data", "mnist_train.npz", "--eps", "0.1")
        fixed = ("--epochs", "2", "--out", f"{out}.safetensors", "--test", "mnist_test.npz", "--quiet")
        trained = CliRunner().invoke(app, ["train", *given, *fixed, *more])
        assert trained.exit_code == 0, trained.output
        words = shlex.split(trained.stdout.splitlines()[-1])[1:] if out == "a" else None
        if words is not None:
            assert CliRunner().invoke(app, [*words, "--stages", "interval,attack", "--quiet"]).exit_code == 0
    log = json.loads(Path("b.safetensors.run/log.json").read_text())
    assert log["settings"]["seed"] == 3 and len(log["settings"]["data"]) == 64
    assert log["about"]["data"] == ["mnist_train.npz"] and "200 images 1x8x8" in log["about"]["read"]
    assert log["about"]["versions"].keys() >= {"rampart", "torch", "python"} and log["about"]["processor_minutes"] > 0

    capsys.readouterr()
    table.main(["a.safetensors.run", "b.safetensors.run", "--out", "table", "--keep", "kept"])
    with Path("table.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = Report.open("a.safetensors.sqlite").summary()
    first, second = rows
    assert tuple(first) == table.COLUMNS
    assert [first[name] for name in ("set", "threat", "eps", "method")] == ["mnist", "linf", "0.1", "standard"]
    assert first["net"] == "two_layer((1, 8, 8), 10, 16)" and second["seed"] == "3" and first["images"] == "20"
    assert first["verified"] == f"{found['verified_accuracy']:.2%}".replace("%", " %")
    assert first["undecided"] == str(found["undecided"]) and second["verified"] == second["undecided"] == ""
    assert "95.01 % (Wong et al. 2018, small, 50 projections)" in first["literature"]
    shown = Path("table.md").read_text()
    assert shown.count("\n| mnist |") == 5 and "97.10 % | Balunovic & Vechev 2020 |" in shown
    assert capsys.readouterr().out == Path("table.md").read_text()

    before = Path("table.csv").read_bytes()
    assert {p.name for p in Path("kept").iterdir()} == {"a.json", "b.json"}
    assert all(p.stat().st_size < 10_000 for p in Path("kept").iterdir())
    table.main(["kept/a.json", "kept/b.json", "--out", "again"])
    assert Path("again.csv").read_bytes() == before
    for bad, said in (
        (["kept"], "neither a run's folder nor a record"),
        (["b.safetensors.run", "--store", "missing.sqlite"], "missing.sqlite"),
        (["a.safetensors.run", "--store", "x", "--store", "y"], "once for each run"),
    ):
        with pytest.raises(SystemExit):
            table.main([*bad, "--out", "bad"])
        assert said in capsys.readouterr().err


def test_the_page_shows_what_the_records_say(tmp_path: Path, table: ModuleType) -> None:
    root = Path(__file__).parents[2]
    records = sorted(
        str(p) for p in (root / "benchmarks" / "runs").glob("*.json") if p.name.startswith(("cifar10-", "mnist-"))
    )
    table.main([*records, "--out", str(tmp_path / "table")])
    page = (root / "docs" / "training.md").read_text()
    parts = (tmp_path / "table.md").read_text().split("\n\n")
    assert len(parts) == 2 and all(part.strip() in page for part in parts)
