"""The dual bound with intermediate bounds by branch and bound: a small tree for each of a neuron's two bounds."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from verifier.bounds import Bounds
from verifier.branching.refine import Effort, bounds_by_cases, price
from verifier.budget import Budget
from verifier.query import Query
from verifier.relaxation.dual import DEFAULT_MEMORY
from verifier.relaxation.optimised import BY_SUBDOMAINS, ROWS, Enough, Multiplied, optimised_rows
from verifier.relaxation.parallel import ordered_map
from verifier.stages.base import StageReport, register
from verifier.stages.optimised import Ascending
from verifier.stages.prospects import deep

#: products per second of one processor, for estimates
_SPEED = 1e11


@register
class DualCasesStage(Ascending):
    """Dual bounds with every undecided neuron's bounds by a small tree of branch and bound.

    What linear relaxations lose adds up from layer to layer; a few subdomains per bound keep it from growing. So this
    pays most for deep networks that no training has made easy to verify. The rows are bounded by optimised slopes,
    before and after.

    Args:
        margin, memory: as of `Ascending`.
        leaves: numbers of subdomains per bound, the most that is affordable of them is taken.
        share: of an example's seconds that this stage may take. Where not even the smallest number is
            estimated to fit into it, the stage stops at the rows' optimised slopes.
    """

    name: ClassVar[str] = BY_SUBDOMAINS.rule
    cost_rank: ClassVar[int] = 59
    spread = staticmethod(ordered_map)  # a layer's subdomains are many enough for all cores

    def __init__(
        self,
        margin: float = 2.0,
        memory: int = DEFAULT_MEMORY,
        leaves: tuple[int, ...] = (16, 4),
        share: float = 0.3,
    ) -> None:
        super().__init__(margin, memory)
        self.leaves, self.share = leaves, share

    def hopes(self, query: Query, bounds: Bounds) -> Tensor:
        return deep(query, bounds)

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        home, here = query.open.device, torch.device("cpu")
        if home == here:
            return super().run(query, bounds, budget)
        # many small operations: a CPU is their place
        return super().run(query.on(here), bounds.on(here), budget).on(home)

    def chunk(self, query: Query, bounds: Bounds, budget: Budget, memory: int) -> tuple[Bounds, Multiplied]:
        seconds = self.share * budget.left
        enough = Enough.of(query, bounds, self.margin)
        found = optimised_rows(query, bounds, ROWS, enough, budget, memory)
        affordable = (n for n in sorted(self.leaves, reverse=True) if price(query, bounds, n) < _SPEED * seconds)
        leaves = next(affordable, None)
        if leaves is None or found.exhausted or bool(enough(found.lower).all()):
            return bounds, found
        deadline = time.monotonic() + seconds
        refined = bounds_by_cases(query, bounds, Effort(leaves=leaves), deadline, budget, memory)
        bounds, evidence = refined.bounds, refined.evidence
        # as of the bounds since: of a network that could not be finished, of none
        network = None if budget.spent else refined.network
        again = optimised_rows(query, bounds, ROWS, enough, budget, memory, network)
        exhausted = again.exhausted or time.monotonic() > deadline
        return bounds, replace(again, exhausted=exhausted, evidence=(*evidence, *again.evidence))
