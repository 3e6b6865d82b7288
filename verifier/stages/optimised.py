"""Stages of optimised slopes and of free multipliers (verifier.relaxation.optimised)."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.budget import Budget, OutOfTime
from verifier.device import working_memory
from verifier.evidence import NeuronEvidence
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.activations import relaxations
from verifier.relaxation.demand import demanded
from verifier.relaxation.dual import DEFAULT_MEMORY, DualPass, nothing_known
from verifier.relaxation.evidence import MultiplierEvidence, OwnSlopesEvidence
from verifier.relaxation.multipliers import dual_bound
from verifier.relaxation.neuron_slopes import NeuronSlopes
from verifier.relaxation.optimised import (
    FREE,
    NEURONS,
    ROWS,
    Enough,
    Multiplied,
    affordable,
    by_relaxations,
    free_rows,
    no_multipliers,
    optimised_already,
    optimised_rows,
    optimised_rows_of_whole,
    piecewise_linear,
    rows_and_neurons,
    tighten,
    with_part,
)  # fmt: skip
from verifier.relaxation.parallel import ordered_map_small, workers
from verifier.relaxation.plan import PassPlan
from verifier.relaxation.sizes import groups, together, whole_size
from verifier.stages.base import Stage, StageReport, register
from verifier.stages.prospects import few_unstable
from verifier.verdict import Trust


@dataclass(frozen=True)
class _Done:
    """What was found of some examples: their numbers in the query, bounds of their neurons, and of their rows."""

    examples: list[int]
    bounds: Bounds
    rows: Multiplied


def _no_rows(query: Query) -> Multiplied:
    return Multiplied(nothing_known(query)[0], no_multipliers(query), exhausted=True)


class Ascending(Stage):
    """What stages that ascend share: one example after another on each core, each with adaptive bounds to start from.

    On a CUDA device many examples at once (verifier.relaxation.sizes).

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

    def bounding(self) -> Stage:
        other = copy.copy(self)
        other.margin = math.inf
        return other

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        device = query.open.device
        memory = self.memory // workers(device)

        def work(part: range) -> list[_Done]:
            return self._done(query, bounds, part, budget, memory)

        step = together(query, memory)
        chunks = [range(start, min(start + step, query.batch)) for start in range(0, query.batch, step)]
        done = [one for part in self.spread(work, chunks, device) for one in part]
        multiplied = Multiplied.joined([one.rows for one in done])
        found = Bounds.concatenate([one.bounds for one in done])
        evidence = (e.of_example(one.examples[e.example]) for one in done for e in one.rows.evidence)
        rows, neurons = rows_and_neurons(query.graph, affordable(evidence))
        order = [i for one in done for i in one.examples]
        if order != sorted(order):  # groups of like size: back into the order of the query
            back = torch.tensor(order).argsort().to(device)
            multiplied, found = multiplied.select(back), found.select(back)
        nu = multiplied.multipliers
        return StageReport(
            multiplied.lower, found, trust=Trust.FLOAT,
            evidence=MultiplierEvidence(nu, rows) if piecewise_linear(query.graph) else OwnSlopesEvidence(rows),
            neurons=neurons,
            exhausted=multiplied.exhausted,
        )  # fmt: skip

    def _done(self, query: Query, bounds: Bounds, examples: range, budget: Budget, memory: int) -> list[_Done]:
        """Of a few examples: their neurons at once, then the rows, those of like size at once."""
        device = query.open.device
        index = torch.arange(examples.start, examples.stop, device=device)
        part, own = query.select(index), budget.together(examples)
        if own.spent:
            return [_Done(list(examples), nothing_known(part)[1], _no_rows(part))]
        plan = PassPlan(query.graph, working_memory(device, memory), device)
        with own.enforced():
            tight, _ = DualPass(SlopeRule.ADAPTIVE).tighten(part, bounds.select(index), plan, wanted=demanded(part))
        done = []
        for group in groups(part, tight, memory):
            place = torch.tensor(group.examples).to(device)
            some = len(group.examples) < len(examples)
            asked, known = (part.select(place), tight.select(place)) if some else (part, tight)
            mine = [examples[i] for i in group.examples]
            left = Budget(min(own.left, budget.together(mine).left)) if some else own
            found, rows = known, _no_rows(asked)
            if not left.spent:
                with suppress(OutOfTime), left.enforced(finish=True):  # what a group has not finished is lost
                    if group.fits:
                        found, rows = self.chunk(asked, known, left, working_memory(device, memory))
                    else:
                        rows = self.uncondensed(asked, known, left, memory)
            done.append(_Done(mine, found, replace(rows, lower=rows.lower.masked_fill(~asked.open, -torch.inf))))
        return done

    def uncondensed(self, query: Query, bounds: Bounds, budget: Budget, memory: int) -> Multiplied:
        """Bounds of the rows where a condensed network does not fit; default: by the adaptive lines."""
        return by_relaxations(query, relaxations(query.graph, bounds, SlopeRule.ADAPTIVE))

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

    def uncondensed(self, query: Query, bounds: Bounds, budget: Budget, memory: int) -> Multiplied:
        if whole_size(query) * query.graph.dtype.itemsize > memory:
            return super().uncondensed(query, bounds, budget, memory)
        return optimised_rows_of_whole(query, bounds, ROWS, Enough.of(query, bounds, self.margin), budget)

    def chunk(self, query: Query, bounds: Bounds, budget: Budget, memory: int) -> tuple[Bounds, Multiplied]:
        enough = Enough.of(query, bounds, self.margin)
        found = optimised_rows(query, bounds, ROWS, enough, budget, memory)
        left = (~enough(found.lower).all(1) & ~optimised_already(bounds)).nonzero().squeeze(1)
        if found.exhausted or len(left) == 0:
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
