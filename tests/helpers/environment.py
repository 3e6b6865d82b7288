"""What processes that tests start find by themselves."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def importing(*paths: Path) -> dict[str, str]:
    """This process's environment, in which modules of these folders are found first; default this tree."""
    found = [str(path) for path in paths or (ROOT,)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*found, *filter(None, [os.environ.get("PYTHONPATH")])])}
