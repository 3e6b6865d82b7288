"""What the fuzzer once found stays found: every file in tests/verdicts/regressions is replayed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz.check import check

FILES = sorted((Path(__file__).parent / "regressions").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_was_found_stays_mended(path: Path) -> None:
    check(json.loads(path.read_text())["recipe"])
