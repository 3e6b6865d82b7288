"""Stages that do nothing, or hold a run up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.query import Query
from verifier.stages import Stage, StageReport


class Waiting(Stage):
    """Bounds nothing, and waits while a file is there.

    Args:
        file: its path. told: a file that is made when it begins to wait.
    """

    name: ClassVar[str] = "waiting"
    cost_rank: ClassVar[int] = 60

    def __init__(self, file: Path, told: Path) -> None:
        self._file, self._told = file, told

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        while self._file.exists():
            self._told.touch()
            time.sleep(0.05)
        return StageReport()
