"""Bounds of neurons by small proofs by cases, all neurons of a layer at once.

A neuron's bound by lines is loose where many relaxations add up. A few cases each, split where the bound is attained,
take much of that away, and what a layer gains makes every later layer's relaxations smaller.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from verifier.branching.ascent import SubdomainSchedule, ascend
from verifier.branching.dual import SubdomainDual
from verifier.branching.matrices import Matrices
from verifier.branching.split import Halved, divided
from verifier.branching.subdomains import Subdomains
from verifier.branching.tree import SplitTreeBuilder


@dataclass(frozen=True)
class Effort:
    """How much is done for each bound.

    Args:
        leaves: cases of one bound at most. candidates: neurons that are tried for a split, per case.
        first: the ascent of the bounds themselves. schedule: of every later case.
        batch: cases that are worked on at once.
    """

    leaves: int = 16
    candidates: int = 2
    first: SubdomainSchedule = field(default_factory=lambda: SubdomainSchedule(steps=20, slope_rate=0.25))
    schedule: SubdomainSchedule = field(default_factory=SubdomainSchedule)
    batch: int = 512


def neuron_bounds(net: Matrices, effort: Effort, deadline: float, tree: SplitTreeBuilder | None = None) -> Tensor:
    """Lower bounds [2 n] of n neurons and then of their negatives, the rows of a network in float64.

    A neuron whose sign is found is not bounded further. Where `deadline` (of time.monotonic()) passes, what has been
    found until then. The cases are added to `tree`, one tree per row.
    """
    dual = SubdomainDual.of(net, torch.arange(len(net.row_bias)))
    search = _RowSearch(dual, effort, builder_of(net) if tree is None else tree)
    with torch.no_grad():
        return search.run(deadline)


def builder_of(net: Matrices) -> SplitTreeBuilder:
    """Of trees over the free neurons of a network."""
    return SplitTreeBuilder({b.node: b.neurons for b in net.blocks})


class _RowSearch:
    """The cases of all rows, split in step."""

    def __init__(self, dual: SubdomainDual, effort: Effort, tree: SplitTreeBuilder) -> None:
        self.dual, self.rough, self.effort, self.tree = dual, dual.to(torch.float32), effort, tree
        self.halved = Halved.of(self.rough)
        self.lower = torch.full((len(dual.clauses),), torch.inf, dtype=torch.float64)

    def run(self, deadline: float) -> Tensor:
        rows = torch.arange(len(self.lower))
        start, count = self.dual.start(rows, self.tree.root(rows)), 1
        cases = self._unsettled(self._ascended(start, self.effort.first))
        while len(cases) and count < self.effort.leaves and time.monotonic() < deadline:
            parts = [self._divided(cases.select(i)) for i in torch.arange(len(cases)).split(self.effort.batch)]
            cases, count = self._unsettled(Subdomains.concatenate(parts)), 2 * count
        self._record(cases, self._exact(cases))
        return torch.where(self.lower.isnan(), -torch.inf, self.lower)

    def _unsettled(self, cases: Subdomains) -> Subdomains:
        """The cases of neurons whose sign is open; those of the others are recorded as they are."""
        half = len(self.lower) // 2
        proved = self.lower > 0  # of all cases that are closed, and
        proved[cases.target] = False  # there are no others
        known = (proved[:half] | proved[half:]).repeat(2)[cases.target]
        self._record(cases.select(known), self._exact(cases.select(known)))
        return cases.select(~known)

    def _ascended(self, cases: Subdomains, schedule: SubdomainSchedule) -> Subdomains:
        """What stays open of some cases after their ascent."""
        open_ = []
        for index in torch.arange(len(cases)).split(self.effort.batch):
            part = cases.select(index)
            part = ascend(self.rough, part, schedule, torch.zeros_like(part.bound))
            likely = part.bound > 0
            value = torch.where(likely, 0.0, -torch.inf).double()
            value[likely] = self._exact(part.select(likely))
            closed = value > 0
            self._record(part.select(closed), value[closed])
            open_.append(part.select(~closed))
        return Subdomains.concatenate(open_)

    def _divided(self, part: Subdomains) -> Subdomains:
        """The open halves of some cases; what nothing can split is recorded as it is."""
        new = divided(self.rough, self.halved, part, self.rough.at(part), self.effort.candidates)
        self._record(new.whole, self._exact(new.whole))
        if len(new.part) == 0:
            return new.halves
        halves = replace(new.halves, node=self.tree.split(new.part.node, new.neuron, new.at))
        return self._ascended(halves, self.effort.schedule)

    def _exact(self, cases: Subdomains) -> Tensor:
        return self.dual.at(cases).bound if len(cases) else cases.bound

    def _record(self, cases: Subdomains, value: Tensor) -> None:
        self.tree.close(cases)
        self.lower.scatter_reduce_(0, cases.target, value, "amin")
