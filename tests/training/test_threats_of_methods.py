"""Every training method with every threat model, by the command with its defaults: it trains, or says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from properties.input_set import threats
from training import History
from training.method import METHODS
from verifier.commands.app import app

#: those that are not for every threat model
ONLY = {"layerwise": {"linf"}, "sdp": {"linf"}, "dual": {"linf", "l2"}}
KINDS = (*sorted(threats()), "linf+5*l2")
QUICK = {("dual", "l2"), ("dual", "l1"), ("dual", "linf+5*l2"), ("layerwise", "l2"), ("sdp", "l1"), ("ibp", "l2")}


def call(place: Path, method: str, threat: str, *more: str) -> Result:
    generator = np.random.default_rng(0)
    data = place / "train.npz"
    np.savez(data, images=generator.random((24, 6, 6)), labels=np.arange(24) % 3)
    arch = "two_layer:8" if method == "sdp" else "wide:1"
    return CliRunner().invoke(
        app,
        ["train", "--method", method, "--arch", arch, "--data", str(data), "--eps", "0.05", "--threat", threat,
         "--epochs", "4", "--out", str(place / "net.safetensors"), "--quiet", *more],
    )  # fmt: skip


def cases() -> list[object]:
    both = [(method, threat) for method in sorted(METHODS) for threat in KINDS]
    return [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in both]


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(History, "plot", lambda self, path: path.write_text("a picture"))


@pytest.mark.parametrize(("method", "threat"), cases())
def test_it_trains_by_its_defaults_or_says_what_to_do_instead(tmp_path: Path, method: str, threat: str) -> None:
    result = call(tmp_path, method, threat)
    log = tmp_path / "net.safetensors.run/log.json"
    if threat in ONLY.get(method, KINDS):
        assert result.exit_code == 0, result.output
        rows = json.loads(log.read_text())["epochs"]
        assert len(rows) == 4 and all(0 <= row["verified"] <= row["attacked"] <= row["clean"] for row in rows[-1:])
        return
    assert result.exit_code == 2 and not log.exists() and not (tmp_path / "net.safetensors").exists()
    said = " ".join(result.output.split())
    assert threat in said and "use " in said and "adversarial" in said


@pytest.mark.parametrize("threat", [k if k == "linf+5*l2" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_the_exact_dual_bound_trains_for_all_of_them_as_the_refusal_says(tmp_path: Path, threat: str) -> None:
    result = call(tmp_path, "dual", threat, "--set", "projections=none")
    assert result.exit_code == 0, result.output
