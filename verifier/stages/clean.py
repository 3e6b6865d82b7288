"""The clean input itself as a candidate: misclassified examples need no search."""

from __future__ import annotations

from typing import ClassVar

from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.query import Query
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Semantics, Trust


@register
class CleanStage(Stage):
    """Proposes each set's clean input as its counterexample."""

    name: ClassVar[str] = "clean"
    cost_rank: ClassVar[int] = 0
    trust: ClassVar[Trust | None] = None
    semantics: ClassVar[frozenset[Semantics]] = frozenset(Semantics)

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        return StageReport(candidates=query.inputs.center())
