"""Branch and bound on the neurons of one example (BaB, as in beta-CROWN): split until a dual bound closes each part."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from verifier.branching.ascent import SUBDOMAINS, ascend
from verifier.branching.dual import SubdomainDual
from verifier.branching.further import FurtherSteps
from verifier.branching.narrowed import Narrowing
from verifier.branching.queue import Queue
from verifier.branching.split import Halved, SplitRule, TriedGains, divided
from verifier.branching.subdomains import Subdomains
from verifier.branching.tree import SplitTree, SplitTreeBuilder
from verifier.budget import Budget
from verifier.device import free_memory
from verifier.relaxation.ascent import Schedule

_RULE = TriedGains(4)
_FIRST = replace(SUBDOMAINS, steps=60, rate=0.25, decay=0.95)
_FURTHER = replace(SUBDOMAINS, steps=15, decay=0.95, look=2)
_LAST = replace(SUBDOMAINS, steps=100, decay=0.97)


class CounterexampleSearch(Protocol):
    """Looks for counterexamples where subdomains' bounds are attained. Both methods say whether one has been found."""

    @property
    def value(self) -> float:
        """The smallest worst-clause value seen."""

    def follow(self, forms: Tensor) -> bool:
        """forms [D, n]: the bounds of D subdomains as linear forms on the input."""

    def look(self, points: Tensor) -> bool:
        """points [k, n]: flattened inputs."""


@dataclass(frozen=True)
class SearchSettings:
    """How subdomains are searched.

    Args:
        batch: subdomains that are split at once. rule: which neuron of a subdomain is split.
        most: subdomains that a search may make before it gives up.
        memory: bytes that open subdomains and proofs may take, and no more than half of what the machine has left as
            the search starts. Beyond half of it the newest subdomains are split first.
        first: the ascent of the clauses themselves. schedule: of every later subdomain. further: of those that this
            leaves open, where more steps close enough of them.
        last: the ascent of a subdomain in which nothing is left to split.
        ties: rounds to go on for when a point has been found at which the rows are too small to be proved, and yet not
            violated.
        leaf_seconds: of the linear program of such a subdomain, where the ascent is not enough.
    """

    batch: int = 256
    rule: SplitRule = _RULE
    most: int = 1_000_000
    memory: int = 2**31
    first: Schedule = _FIRST
    schedule: Schedule = SUBDOMAINS
    further: Schedule = _FURTHER
    last: Schedule = _LAST
    ties: int = 20
    leaf_seconds: float = 10.0


@dataclass(frozen=True)
class SearchResult:
    """What a search proved of each clause, and how."""

    lower: Tensor  # [C] float64: bounds of the clauses searched, -inf for the others
    tree: SplitTree
    exhausted: bool  #: the deadline, the memory or the number of subdomains ended it
    closed: float  #: share of the trees that is closed, the sides of a split being half of it each


class SubdomainSearch:
    """The search over some clauses of one example.

    Bounds are ascended in float32, and a subdomain is closed by one evaluation in float64 of the very variables that
    the tree keeps.

    Args:
        dual: in float64. enough: [S]; weighted rows above the same weighting of this close a subdomain.
    """

    def __init__(self, dual: SubdomainDual, enough: Tensor, settings: SearchSettings) -> None:
        self.dual, self.rough, self.enough, self.settings = dual, dual.to(torch.float32), enough, settings
        self.halved, self.further = Halved.of(self.rough), FurtherSteps()
        self.tree = SplitTreeBuilder.of(dual.net)
        self.lower = torch.full((len(dual.clauses),), torch.inf, dtype=torch.float64)
        self.clauses = torch.zeros(0, dtype=torch.int64)
        room = min(float(settings.memory), 0.5 * free_memory())
        self.queue, self.hopeless = Queue(int(room)), list[Subdomains]()
        self.budget, self.ties, self.exhausted = Budget(), settings.ties, False
        self.divided = 0  #: subdomains that have been split

    def run(
        self, clauses: Tensor, counterexamples: CounterexampleSearch, deadline: float, stop: Callable[[], bool]
    ) -> SearchResult:
        """Search until all of `clauses` are proved, a counterexample is found, or `deadline` (monotonic) passes.

        Args:
            clauses: [k] int64.
        """
        self.begin(clauses, deadline)
        self.go_on(counterexamples, deadline, stop)
        return self.found()

    def begin(self, clauses: Tensor, deadline: float) -> None:  # [k] int64
        """Plant a tree for each clause."""
        self.clauses, self.budget = clauses, Budget(deadline - time.monotonic())
        start = self.dual.start(clauses, self.tree.root(clauses))
        self.queue.put(self._close(self._ascended(start, self.settings.first)))

    def go_on(
        self,
        counterexamples: CounterexampleSearch,
        deadline: float,
        stop: Callable[[], bool],
        pause: Callable[[SubdomainSearch], bool] | None = None,
    ) -> bool:
        """Search as `run` does, or until `pause` asks to stop for a while; whether the search has ended."""
        settings, self.budget, self.exhausted = self.settings, Budget(deadline - time.monotonic()), False
        while len(self.queue) and self.ties:
            self.ties -= bool(counterexamples.value <= float(self.enough.min()))
            if stop() or self.budget.spent or self.tree.size > settings.most or self.queue.full:
                self.exhausted = True
                break
            if pause is not None and pause(self):
                return False
            part = self.queue.take(settings.batch)
            self.divided += len(part)
            with torch.no_grad():
                if self._divide(part, counterexamples):
                    break
        return True

    def under(self, dual: SubdomainDual, enough: Tensor, narrowing: Narrowing, deadline: float) -> SubdomainSearch:
        """The same search with tighter bounds of neurons.

        What is closed is proved anew with the variables that it has, and what that does not prove is open again. What
        is open keeps its splits.

        Args:
            dual, enough: as of the search, under the tighter bounds. narrowing: from this search's network to theirs.
        """
        new = SubdomainSearch(dual, enough, self.settings)
        new.divided = self.divided
        trees = self.tree.narrowed(narrowing, dual.net)
        if trees is None:
            new.begin(self.clauses, deadline)
            return new
        new.tree, reached = trees
        new.clauses, new.ties, new.budget = self.clauses, self.ties, Budget(deadline - time.monotonic())
        for parts, closed in ((self.tree.closed, True), (self._open, False)):
            for part in parts:
                left = part.select(reached[part.node])
                for index in torch.arange(len(left)).split(4 * self.settings.batch):
                    new._resume(narrowing.of_subdomains(left.select(index)), closed)
        return new

    def _resume(self, part: Subdomains, closed: bool) -> None:
        """Queue what stays open of some subdomains, which were `closed` under the bounds of before or were not."""
        if closed and not self.budget.spent:
            part = self._close(replace(part, bound=torch.full_like(part.bound, torch.inf)))
        if len(part):
            self.queue.put(self._close(self._ascended(part, self.settings.schedule)))

    @property
    def _open(self) -> list[Subdomains]:
        """What is not closed: what waits in the queue, and what was given up."""
        rest = self.queue.rest()
        return [*([] if rest is None else [rest]), *self.hopeless]

    def _divide(self, part: Subdomains, counterexamples: CounterexampleSearch) -> bool:
        """Split every subdomain and queue what stays open of the halves; whether a counterexample has been found."""
        here = self.rough.at(part)
        if counterexamples.follow(here.on_input):
            self.queue.put(part)
            return True
        new = divided(self.rough, self.halved, part, here, self.settings.rule)
        # nothing left to split: a subdomain is one linear piece, or as good as one
        found = self._last(new.whole, counterexamples) if len(new.whole) else False
        if len(new.part):
            both = replace(new.halves, node=self.tree.split(new.part.node, new.neuron, new.at))
            self.queue.put(self._raised(both))
        return found

    def _raised(self, subdomains: Subdomains) -> Subdomains:
        """What stays open after a few steps, and after more where those have closed enough of late."""
        left = self._close(self._ascended(subdomains, self.settings.schedule))
        if len(left) == 0 or not self.further.wanted():
            return left
        still = self._close(self._ascended(left, self.settings.further))
        self.further.note(len(left), len(still))
        return still

    def _last(self, subdomains: Subdomains, counterexamples: CounterexampleSearch) -> bool:
        """Close subdomains that cannot be split, or give them up; whether a counterexample has been found in one."""
        from verifier.branching.leaf import linear_programs  # scipy, which most runs never need

        left = self._close(self._ascended(subdomains, self.settings.last))
        if not all(block.op.piecewise_linear for block in self.dual.net.blocks):
            self.hopeless.append(left)  # the program would be no more exact than the lines
            return False
        found = False
        for k in range(len(left)):
            one, closed = left.select(torch.tensor([k])), False
            if self.dual.net.free and not found and not self.budget.spent:
                seconds = min(self.settings.leaf_seconds, self.budget.left)
                for better, point in linear_programs(self.dual, one, seconds):
                    found = point is not None and counterexamples.look(point.unsqueeze(0))
                    closed = better is not None and len(self._close(better)) == 0
                    if found or closed:
                        break
            if not closed:
                self.hopeless.append(one)
        return found

    def _ascended(self, subdomains: Subdomains, schedule: Schedule) -> Subdomains:
        """Raised to what is enough in float32: what float64 will make of the bounds differs by roundings."""
        needed = self.enough[self.dual.clauses[subdomains.target]].amax(1)
        return ascend(self.rough, subdomains, schedule, needed + 1e-6 * (1 + needed.abs()), self.budget)

    def _needed(self, subdomains: Subdomains) -> Tensor:
        """Bounds [D] that close subdomains: their weights of what each row needs."""
        return (subdomains.weight.double() * self.enough[self.dual.clauses[subdomains.target]]).sum(1)

    def _close(self, subdomains: Subdomains) -> Subdomains:
        """The subdomains that stay open; the others are closed in the tree."""
        likely = (subdomains.bound > self._needed(subdomains)).nonzero().squeeze(1)
        if len(likely) == 0:
            return subdomains
        part = subdomains.select(likely)
        with torch.no_grad():
            value = self.dual.at(part).bound
        closed = value > self._needed(part)  # not where it is NaN
        self.tree.close(part.select(closed))
        _record(self.lower, part.select(closed), value[closed])
        keep = torch.ones(len(subdomains), dtype=torch.bool)
        keep[likely[closed]] = False
        # what float64 did not confirm is split further, as if it had not been enough
        return subdomains.select(keep)

    def found(self) -> SearchResult:
        """What has been proved so far."""
        clauses, lower = self.clauses, self.lower.clone()
        for open_ in self._open:
            value = self._open_bounds(open_)
            _record(lower, open_, torch.where(value.isnan(), -torch.inf, value).clamp(max=0.0))
        covered = self.tree.covered()
        for clause in clauses.tolist():  # what is proved is what the record proves
            if clause not in covered:
                lower[clause] = lower[clause].clamp(max=0.0)
        asked = torch.zeros(len(lower), dtype=torch.bool)
        asked[clauses] = True
        return SearchResult(
            torch.where(asked, lower, -torch.inf), self.tree.build(), self.exhausted, self.tree.closed_share()
        )

    def _open_bounds(self, subdomains: Subdomains) -> Tensor:
        """Bounds [D] of what stays open: the lowest in float64, others as they were found, less what float32 loses."""
        value = subdomains.bound - 1e-5 * (1 + subdomains.bound.abs())
        lowest = value.argsort()[: 4 * self.settings.batch]
        with torch.no_grad():
            value[lowest] = self.dual.at(subdomains.select(lowest)).bound
        return value


def _record(lower: Tensor, subdomains: Subdomains, value: Tensor) -> None:  # [C] and [D]
    """Bounds of weighted rows; the largest row of each subdomain's clause is no smaller than their mean."""
    lower.scatter_reduce_(0, subdomains.target, value / subdomains.weight.double().sum(1), "amin")
