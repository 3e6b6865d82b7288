"""The example of accuracies over eps."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "eps_curve.py"


def test_it_writes_what_a_paper_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    given = ["--out", str(tmp_path / "new" / "out"), "--eps", "0.02,0.06", "--count", "12"]
    main(given)
    printed = capsys.readouterr().out
    out = tmp_path / "new" / "out"
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    with open(out / "curve.csv") as file:
        low, high = list(csv.DictReader(file))
    assert float(low["verified_accuracy"]) >= float(high["verified_accuracy"]) > 0.5
    assert all(float(row["verified_accuracy"]) <= float(row["attacked_accuracy"]) for row in (low, high))
    table = (out / "table.tex").read_text()
    assert table.startswith(r"\begin{tabular}") and f"{100 * float(high['verified_accuracy']):.1f}" in table
    assert "correct, and broken at eps 0.02 already: []" in printed
    main(given)  # goes on where it was: at the end
    assert [line for line in capsys.readouterr().out.splitlines() if "│" in line] == [
        line for line in printed.splitlines() if "│" in line
    ]
