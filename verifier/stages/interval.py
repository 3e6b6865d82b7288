"""Interval arithmetic: the cheapest bounds, for every operator."""

from __future__ import annotations

from typing import ClassVar

from verifier.bound_map import Bounds, Interval
from verifier.budget import Budget
from verifier.query import Query
from verifier.relaxation.evidence import IntervalEvidence
from verifier.relaxation.interval import SOURCE, propagate, specification_bound
from verifier.relaxation.roundoff import proof_trust, rounded_outward, roundoffs_for, trusts_of
from verifier.relaxation.touching import touched
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Semantics, Trust


@register
class IntervalStage(Stage):
    """Interval bounds of all nodes (IBP); the margins from the last layer's rows merged with the specification's.

    Interval bound propagation of Gowal et al. (2018), with the last layer elided as there (section 3.1).
    """

    name: ClassVar[str] = "interval"
    aliases: ClassVar[tuple[str, ...]] = ("ibp",)
    cost_rank: ClassVar[int] = 10
    trust: ClassVar[Trust | None] = Trust.CHECKED
    semantics: ClassVar[frozenset[Semantics]] = frozenset(Semantics)

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        graph, roundoffs = query.graph, roundoffs_for(query)
        ranges = propagate(query, bounds) if roundoffs is None else rounded_outward(query, bounds, roundoffs)
        lower, trusts = specification_bound(query, ranges, roundoffs), trusts_of(query, bounds)
        lower = touched(query, lower, ranges[graph.output])
        found = {i: Interval.resting(*ranges[i], SOURCE, trusts) for i in graph.pre_activations}
        return StageReport(lower, Bounds(found), trust=proof_trust(query), evidence=IntervalEvidence())
