"""The example of a training loop on the library's bounds."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "bounds_in_training.py"


def test_it_learns_what_is_proved(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(SCRIPT))["main"](["--epochs", "8", "--images", "20"])
    printed = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)$", printed, re.M)]
    assert len(losses) == 8 and losses[-1] < losses[0]
    assert re.findall("ibp|crown", printed) == 2 * ["ibp"] + 6 * ["crown"]
    found = re.search(r"of 20 held-out images (\d+) right, (\d+) verified", printed)
    assert found is not None and int(found[1]) > 5 and 0 < int(found[2]) <= int(found[1])
