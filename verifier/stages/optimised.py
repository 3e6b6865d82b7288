"""Stages of optimised slopes and of free multipliers (verifier.relaxation.optimised)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from verifier.bounds import Bounds
from verifier.budget import Budget, OutOfTime
from verifier.evidence import NeuronEvidence
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.backward import Lowering
from verifier.relaxation.demand import demanded
from verifier.relaxation.dual import DEFAULT_MEMORY, DualPass, nothing_known
from verifier.relaxation.evidence import MultiplierEvidence, OwnSlopesEvidence
from verifier.relaxation.multipliers import dual_bound
from verifier.relaxation.neuron_slopes import NeuronSlopes
from verifier.relaxation.optimised import (
    FREE,
    NEURONS,
    ROWS,
    TOGETHER,
    Enough,
    Multiplied,
    affordable,
    by_relaxations,
    condensed_size,
    free_rows,
    no_multipliers,
    optimised_already,
    optimised_rows,
    optimised_rows_of_whole,
    piecewise_linear,
    rows_and_neurons,
    tighten,
    whole_size,
    with_part,
)  # fmt: skip
from verifier.relaxation.parallel import ordered_map_small, workers
from verifier.relaxation.plan import PassPlan
from verifier.stages.base import Stage, StageReport, register
from verifier.stages.prospects import few_unstable
from verifier.verdict import Trust


class Ascending(Stage):
    """What stages that ascend share: one example after another on each core, each with adaptive bounds to start from.

    Where a condensed network would not fit into the memory, the adaptive lines are all there is, or `uncondensed` says
    otherwise.

    Args:
        margin: a row is done when its bound is above so many times its estimated rounding error.
        memory: bytes of working memory.
    """

    #: how examples are spread over the cores
    spread = staticmethod(ordered_map_small)
    #: what is left for these stages is close, and goes on to stages that work in float64
    precision: ClassVar[torch.dtype | None] = torch.float64

    def __init__(self, margin: float = 2.0, memory: int = DEFAULT_MEMORY) -> None:
        self.margin, self.memory = margin, memory

    def supports(self, query: Query) -> bool:
        return bool(query.graph.activations)

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        device = query.open.device
        memory = self.memory // workers(device)
        plan, adaptive = PassPlan(query.graph, memory), DualPass(SlopeRule.ADAPTIVE)

        def work(index: Tensor) -> tuple[Bounds, Multiplied]:  # [k] int64
            part = query.select(index)
            own = budget.together(index.tolist())
            if own.spent:
                lower, unknown = nothing_known(part)
                return unknown, Multiplied(lower, no_multipliers(part), exhausted=True)
            with own.enforced():
                tight, relaxations = adaptive.tighten(part, bounds.select(index), plan, wanted=demanded(part))
            found, multiplied = tight, Multiplied(nothing_known(part)[0], no_multipliers(part), exhausted=True)
            if not own.spent:
                with suppress(OutOfTime), own.enforced(finish=True):  # what a chunk has not finished is lost
                    if condensed_size(part, tight) * query.graph.dtype.itemsize <= memory:
                        found, multiplied = self.chunk(part, tight, own, memory)
                    else:
                        multiplied = self.uncondensed(part, tight, relaxations, own, memory)
            return found, replace(multiplied, lower=multiplied.lower.masked_fill(~part.open, -torch.inf))

        chunks = torch.arange(query.batch, device=device).split(TOGETHER)
        found, multiplied = zip(*self.spread(work, chunks, device), strict=True)
        evidence = (
            one.of_example(int(chunk[one.example]))
            for chunk, m in zip(chunks, multiplied, strict=True)
            for one in m.evidence
        )
        nu = {i: torch.cat([m.multipliers[i] for m in multiplied]) for i in query.graph.activations}
        rows, neurons = rows_and_neurons(query.graph, affordable(evidence))
        return StageReport(
            torch.cat([m.lower for m in multiplied]), Bounds.concatenate(list(found)), trust=Trust.FLOAT,
            evidence=MultiplierEvidence(nu, rows) if piecewise_linear(query.graph) else OwnSlopesEvidence(rows),
            neurons=neurons,
            exhausted=any(m.exhausted for m in multiplied),
        )  # fmt: skip

    def uncondensed(
        self, query: Query, bounds: Bounds, relaxations: Mapping[int, Lowering], budget: Budget, memory: int
    ) -> Multiplied:
        """Bounds of the rows where a condensed network does not fit; default: by the adaptive lines."""
        return by_relaxations(query, relaxations)

    @abstractmethod
    def chunk(self, query: Query, bounds: Bounds, budget: Budget, memory: int) -> tuple[Bounds, Multiplied]:
        """Bounds of pre-activations and of the rows, of the few examples of a chunk."""


@register
class OptimisedDualStage(Ascending):
    """Dual bounds by optimised slopes: of the rows and, for the examples that this leaves open, of all neurons.

    alpha-CROWN (Xu et al. 2021). Where a condensed network would not fit into the memory, of the rows alone, over the
    graph as it is.
    """

    name: ClassVar[str] = "dual-optimised"
    aliases: ClassVar[tuple[str, ...]] = ("alpha-crown",)
    cost_rank: ClassVar[int] = 50

    def uncondensed(
        self, query: Query, bounds: Bounds, relaxations: Mapping[int, Lowering], budget: Budget, memory: int
    ) -> Multiplied:
        if whole_size(query) * query.graph.dtype.itemsize > memory:
            return super().uncondensed(query, bounds, relaxations, budget, memory)
        return optimised_rows_of_whole(query, bounds, ROWS, Enough.of(query, bounds, self.margin), budget)

    def chunk(self, query: Query, bounds: Bounds, budget: Budget, memory: int) -> tuple[Bounds, Multiplied]:
        enough = Enough.of(query, bounds, self.margin)
        found = optimised_rows(query, bounds, ROWS, enough, budget, memory)
        left = (~enough(found.lower).all(1)).nonzero().squeeze(1)
        if found.exhausted or len(left) == 0 or optimised_already(bounds):
            return bounds, found
        part, evidence = query.select(left), list[NeuronSlopes]()
        tight, network, spent = tighten(part, bounds.select(left), NEURONS, budget, memory, evidence)
        before = found.select(left)
        if piecewise_linear(query.graph):  # the multipliers found first, with the bounds found since
            before = replace(before, lower=dual_bound(part, tight, before.multipliers))
        best, since = before, tuple[NeuronEvidence, ...]()
        if not spent:
            again = optimised_rows(part, tight, ROWS, enough.select(left), budget, memory, network)
            best, since = again.best(before), again.evidence
        every = replace(found.replaced(best, left), exhausted=found.exhausted or best.exhausted or spent)
        moved = (one.of_example(int(left[one.example])) for one in (*evidence, *since))
        return with_part(bounds, tight, left), replace(every, evidence=(*moved, *found.evidence))


@register
class FreeDualStage(Ascending):
    """Dual bounds by free multipliers, from the optimised slopes on, with the intermediate bounds that are known.

    For piecewise linear networks: elsewhere lines are better than hulls.
    """

    name: ClassVar[str] = "dual-free"
    cost_rank: ClassVar[int] = 65

    def supports(self, query: Query) -> bool:
        return super().supports(query) and piecewise_linear(query.graph)

    def hopes(self, query: Query, bounds: Bounds) -> Tensor:
        return few_unstable(query, bounds)

    def chunk(self, query: Query, bounds: Bounds, budget: Budget, memory: int) -> tuple[Bounds, Multiplied]:
        enough = Enough.of(query, bounds, self.margin)
        found = optimised_rows(query, bounds, ROWS, enough, budget, memory)
        left = (~enough(found.lower).all(1)).nonzero().squeeze(1)
        if found.exhausted or len(left) == 0:
            return bounds, found
        part, known, before = query.select(left), bounds.select(left), found.select(left)
        free = free_rows(part, known, FREE, before.multipliers, None, enough.select(left), budget, memory)
        return bounds, found.replaced(free.best(before), left)
