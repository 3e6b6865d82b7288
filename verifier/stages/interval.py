"""Interval arithmetic: the cheapest bounds, for every operator."""

from __future__ import annotations

from typing import ClassVar

from verifier.bounds import Bounds, Interval
from verifier.query import Query
from verifier.relaxation.interval import SOURCE, propagate, resumed, specification_bound, step
from verifier.relaxation.ranges import Range
from verifier.relaxation.roundoff import proof_trust, rounded_outward, roundoffs_for, trusts_of
from verifier.stages.base import Budget, Stage, StageReport, register
from verifier.verdict import Semantics, Trust


class IntervalStage(Stage):
    """Interval bounds of all nodes; the margins from the last layer's rows merged with the specification's."""

    name: ClassVar[str] = "interval"
    cost_rank: ClassVar[int] = 10
    trust: ClassVar[Trust | None] = Trust.CHECKED
    semantics: ClassVar[frozenset[Semantics]] = frozenset(Semantics)

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        graph, roundoffs = query.graph, roundoffs_for(query)
        ranges = propagate(query, bounds) if roundoffs is None else rounded_outward(query, bounds, roundoffs)
        lower, trusts = specification_bound(query, ranges, roundoffs), trusts_of(query, bounds)
        found = {i: Interval.resting(*ranges[i], self.name, trusts) for i in graph.pre_activations}
        return StageReport(lower, Bounds(found), trust=proof_trust(query), evidence={"rule": "interval"})


register(IntervalStage, IntervalStage.name)

__all__ = ["SOURCE", "IntervalStage", "Range", "propagate", "resumed", "specification_bound", "step"]
