"""The networks of Raghunathan et al. (2018) on digits, by benchmarks/raghunathan_training.py."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from training import History, Standard, train
from training.architectures import two_layer
from training.schedule import Optimiser
from verifier.demo import digits, held_out_digits
from verifier.graph.torch_import import import_torch
from verifier.sdp import SdpBounds


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("raghunathan_training")


@pytest.mark.slow
def test_networks_are_trained_measured_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(History, "plot", lambda self, path: path.write_text("a picture"))
    data, out = tmp_path / "data" / "mnist", tmp_path / "runs"
    data.mkdir(parents=True)
    for name, (x, y) in (("mnist_train", digits()), ("mnist_test", held_out_digits())):
        np.savez(data / f"{name}.npz", images=(255 * x[:, 0]).round().byte().numpy(), labels=y.numpy())
    places = ["--data", str(data.parent), "--out", str(out)]
    small = ["--hidden", "8", "--images", "200", "--epochs", "2", "--test", "60"]
    quick = ["--few", "20", "--steps", "3", "--restarts", "1", "--eps", "0.001,0.1"]
    figures.main(["run", *figures.NETWORKS, *places, *small, *quick])
    records = [out / f"raghunathan_{name}.json" for name in figures.NETWORKS]
    for path in records:
        record = json.loads(path.read_text())
        assert record["log"]["epochs"] and record["log"]["about"]["network"].endswith("two_layer:8")
        small_ball, ball, cut = record["measured"]["rows"]
        for row in (small_ball, ball, cut):
            # what an attack breaks no bound proves, and each of these bounds is at most the next one
            on_all = [row[name] for name in ("clean", "semidefinite", "spectral", "frobenius")]
            assert on_all == sorted(on_all)
            assert row.get("solved", row["semidefinite"]) <= row["semidefinite"]
        assert small_ball["semidefinite"] < ball["semidefinite"] and cut["semidefinite"] <= ball["semidefinite"]
        reach = record["measured"]["reach"]
        assert ("solved" in reach) == (path.stem.partition("_")[2] in figures.SOLVED)
        # an ascent of 30 sweeps is near the optimum
        assert 0 < (solved := reach.get("solved", reach["semidefinite"])) <= reach["semidefinite"] * (1 + 1e-6)
        assert reach["semidefinite"] < 1.1 * solved

    before = [path.read_bytes() for path in records]
    capsys.readouterr()
    figures.main(["run", "sdp", *places, *small])
    assert "is there" in capsys.readouterr().out and [path.read_bytes() for path in records] == before

    table, plot = tmp_path / "table.csv", tmp_path / "figure.png"
    words = ["--plot", str(plot)] if importlib.util.find_spec("matplotlib") else []
    figures.main(["draw", *map(str, records), "--table", str(table), *words])
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(records) and tuple(rows[0]) == figures.HEAD
    assert plot.exists() == bool(words)
    assert capsys.readouterr().out.count("\n") == len(rows) + 2


def test_balance_is_where_the_scale_of_the_outputs_stands_still(figures: ModuleType) -> None:
    """Hinge loss and penalty of eq. 15, by their definitions, of outputs that are a little larger or smaller."""
    x, label = digits()
    x, label = x[:300], label[:300]
    torch.manual_seed(0)
    method = Standard(eps=0.1, optimiser=Optimiser(rate=1e-2))
    network = train(two_layer((1, 8, 8), 10, 8), (x, label), method, epochs=6, stages=(), validation=0).model.double()
    x = x.double()
    rows, bounds = figures.pairs(10), SdpBounds(import_torch(network, x[:1]))
    bounds.solve(rows)
    value = 4 * bounds.reach(rows, torch.ones(1, 64, dtype=torch.float64))[0]
    outputs = network(x).detach()

    def objective(weight: float, scale: float) -> float:
        total = 0.0
        for out, i in zip(outputs, label.tolist(), strict=True):
            found = [(0.0, 0.0)] * 10
            for row, v in zip(rows, value.tolist(), strict=True):
                if row[i] != 0:
                    other = int((row * -row[i]).argmax())
                    found[other] = (float(out[other] - out[i]) + 0.1 / 4 * v, v)
            worst = max((f for f in found if f[1]), key=lambda pair: pair[0])[1]
            rival = max(float(out[j]) for j in range(10) if j != i)
            total += max(0.0, 1 - scale * (float(out[i]) - rival)) + weight * scale * worst
        return total / len(x)

    weight = figures.balance(network, bounds, x, label)
    assert weight > 0
    assert objective(weight, 1 + 1e-6) - objective(weight, 1 - 1e-6) == pytest.approx(0, abs=1e-9)
