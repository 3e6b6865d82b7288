"""Interval arithmetic: the cheapest bounds, for every operator."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from verifier.bounds import Bounds, Interval
from verifier.budget import Budget
from verifier.query import Query
from verifier.relaxation.dual import nothing_known
from verifier.relaxation.evidence import IntervalEvidence
from verifier.relaxation.interval import SOURCE, propagate, specification_bound
from verifier.relaxation.parallel import ordered_map
from verifier.relaxation.plan import together
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
        device = query.open.device

        def work(index: Tensor) -> tuple[Tensor, Bounds, bool]:  # [k] int64 -> [k, S]
            part = query.select(index)
            if budget.spent:
                return (*nothing_known(part), True)
            return (*_bounded(part, bounds.select(index)), False)

        chunks = torch.arange(query.batch, device=device).split(together(query.graph, device))
        lowers, found, late = zip(*ordered_map(work, chunks, device), strict=True)
        return StageReport(
            torch.cat(lowers), Bounds.concatenate(list(found)), trust=proof_trust(query), evidence=IntervalEvidence(),
            exhausted=any(late),
        )  # fmt: skip


def _bounded(query: Query, bounds: Bounds) -> tuple[Tensor, Bounds]:  # [B, S]
    """Interval bounds of the rows, and of all pre-activations."""
    graph, roundoffs = query.graph, roundoffs_for(query)
    ranges = propagate(query, bounds) if roundoffs is None else rounded_outward(query, bounds, roundoffs)
    lower, trusts = specification_bound(query, ranges, roundoffs), trusts_of(query, bounds)
    found = {i: Interval.resting(*ranges[i], SOURCE, trusts) for i in graph.pre_activations}
    return touched(query, lower, ranges[graph.output]), Bounds(found)
