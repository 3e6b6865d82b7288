"""Stages for tests of runs on many workers: one that takes its time, and one that ends its process."""

from __future__ import annotations

import os
import signal
import time
from typing import ClassVar

from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.query import Query
from verifier.stages import Stage, StageReport
from verifier.verdict import Trust


class Dawdling(Stage):
    """Sleeps for every example, and finds nothing."""

    name, cost_rank = "dawdling", 56
    trust: ClassVar[Trust | None] = None
    by_example: ClassVar[bool] = True

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        time.sleep(self.seconds * query.batch)
        return StageReport()


class Deadly(Stage):
    """Ends its process where the first number of an input is above 1, which is no pixel."""

    name, cost_rank = "deadly", 5
    trust: ClassVar[Trust | None] = None

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        if bool((query.inputs.center().flatten(1)[:, 0] > 1).any()):
            os.kill(os.getpid(), signal.SIGKILL)
        return StageReport()
