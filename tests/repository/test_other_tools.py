"""What a page shows of another tool runs, where that tool is installed, and bounds what we bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_docs import blocks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "coming-from.md"


def test_auto_lirpa_is_asked_as_the_page_says() -> None:
    pytest.importorskip("auto_LiRPA")
    import verifier

    names: dict[str, Any] = {}
    compared = 0
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        if block.language == "python" and not compared:
            exec(block.text, names)
        elif block.text.startswith("# auto_LiRPA\n"):
            exec(block.text, names)
            model, x = names["model"], names["x"]
            for dtype, off in ((None, 1e-2), (torch.float64, 1e-5)):
                ours = verifier.bounds(model, x, 0.06, "crown", clip=(0, 1), dtype=dtype)
                assert (ours.lower - names["lb"]).abs().max() < off and (ours.upper - names["ub"]).abs().max() < off
            compared += 1
    lines = verifier.bounds(names["model"], names["x"], 0.06, "crown", linear=True, clip=(0, 1)).lines
    assert compared == 2 and torch.allclose(names["lower_A"], lines.A_lower, atol=1e-3)
