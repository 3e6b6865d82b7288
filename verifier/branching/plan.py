"""Who has the time of branch and bound: the search of the tree, or tightening the bounds of neurons that it rests on.

A search that is about to end goes on. One whose open subdomains do not get fewer gives way to tightening: every
undecided neuron's two bounds are found again by trees of their own (verifier.branching.refine), several times as large
as the last ones. Splits that were chosen under loose bounds divide a set into parts of which each is about as hard as
the whole is under tight ones, so that a new tree is tried first; where that has not come further with a quarter of the
work, the search goes on where it was, under the new bounds. Tightening that loses a whole layer on its way begins again
with more subdomains at once.

Searching and tightening are passes through one condensed network, and their work is counted in the same products of
numbers. What is done next depends on nothing else but on what is left of the time, where that is limited.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from verifier.bounds import Bounds
from verifier.branching.dual import SubdomainDual
from verifier.branching.evidence import NeuronSubdomains
from verifier.branching.matrices import Matrices
from verifier.branching.narrowed import Narrowing
from verifier.branching.refine import Effort, bounds_by_cases, price
from verifier.branching.search import CounterexampleSearch, SearchResult, SearchSettings, SubdomainSearch
from verifier.budget import Budget, OutOfTime
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.dual import DEFAULT_MEMORY
from verifier.rounding import margin_error

#: passes through the condensed network for each subdomain that is split: candidates for the split, ascents of halves
_PASSES = 24
#: share of a layer's neurons that are undecided beyond which tightening begins again with more subdomains
_LOST = 0.9


@dataclass(frozen=True)
class Efforts:
    """How much is spent on the bounds of neurons.

    Args:
        leaves: subdomains of one bound, the first time; `growth` times as many each time after that, or as many as
            there is time for, where these are twice as many at least; twice `growth` where a layer was lost; `most` at
            last.
        least: subdomains that the search splits before any of it. patience: what a search that closes some may cost
            from then on, in units of what the next tightening costs. trial: the share of that work for a new tree.
        share: of the time that is left, for one tightening.
        gain: by how much the widths of the neurons' intervals have to shrink in all for another one.
    """

    leaves: int = 16
    growth: int = 4
    most: int = 1024
    least: int = 1000
    patience: float = 0.5
    trial: float = 0.25
    share: float = 0.5
    gain: float = 0.02


class Pace:
    """How fast the open subdomains of a search get fewer, over the last quarter of those that it has split."""

    def __init__(self) -> None:
        self._marks = deque[tuple[int, int]]()

    def note(self, divided: int, open_: int) -> None:
        """So many have been split by now, and so many are open."""
        self._marks.append((divided, open_))
        while len(self._marks) > 2 and self._marks[1][0] < 0.75 * divided:
            self._marks.popleft()

    @property
    def left(self) -> float:
        """How many more have to be split until none is open; infinity where they do not get fewer."""
        (then, more), (now, open_) = self._marks[0], self._marks[-1]
        return open_ * (now - then) / (more - open_) if more > open_ else torch.inf


class Alternation:
    """The search over the open clauses of one example, in turns with tightening.

    Args:
        query: of one example. bounds: of every pre-activation.
        margin: a subdomain is closed by a bound above so many times the margin's estimated rounding error.
    """

    def __init__(self, query: Query, bounds: Bounds, settings: SearchSettings, margin: float, efforts: Efforts) -> None:
        self.query, self.bounds, self.settings, self.margin = query, bounds, settings, margin
        self.efforts = efforts
        self.evidence: list[NeuronSubdomains] = []  #: what proves the bounds that have been tightened
        self._last, self._next = 1, efforts.leaves  # subdomains of one bound

    def run(self, counterexamples: CounterexampleSearch, deadline: float, stop: Callable[[], bool]) -> SearchResult:
        """As `SubdomainSearch.run`; `bounds` and `evidence` are what the result rests on."""

        def going_on(search: SubdomainSearch, pause: Callable[[SubdomainSearch], bool]) -> bool:
            return search.go_on(counterexamples, deadline, stop, pause)

        search = self._planted(deadline)
        while not going_on(search, self._patience(search, deadline)):
            kept = self.bounds, list(self.evidence)
            try:
                before, search = search, self._tightened(deadline)
            except OutOfTime:  # the trees that there are rest on the bounds of before
                self.bounds, self.evidence = kept
                break
            narrowing = Narrowing.of(before.dual.net, search.dual, self.query.graph, self.bounds)
            if not self._worth(before, narrowing):
                self._next = self.efforts.most + 1
            work = self.efforts.trial * before.divided
            if going_on(search, lambda s, work=work: s.divided >= work):  # type: ignore[misc]
                break
            if search.tree.closed_share() < before.tree.closed_share():
                search = before.under(search.dual, search.enough, narrowing, deadline)
        return search.found()

    def _patience(self, search: SubdomainSearch, deadline: float) -> Callable[[SubdomainSearch], bool]:
        """Whether a search is to stop for better bounds of neurons."""
        pace, began, before, net = Pace(), time.monotonic(), search.divided, search.dual.net
        each = _PASSES * 2.0 * net.free * (net.to_input.shape[1] + net.free / 2)
        cost = price(self.query, self.bounds, 1) / max(each, 1.0)  # of one leaf, in subdomains to be split instead
        least = 0 if self.evidence else self.efforts.least

        def pause(search: SubdomainSearch) -> bool:
            done = search.divided - before
            pace.note(done, len(search.queue))
            if self._next > self.efforts.most or done == 0 or search.divided < least:
                return False
            hopeless = done >= self.efforts.least and not any(map(len, search.tree.closed))
            if done <= self.efforts.patience * cost * self._next and not hopeless:
                return False
            affordable = (deadline - time.monotonic()) * done / max(time.monotonic() - began, 1e-6)
            leaves = self._next
            while leaves and cost * leaves > self.efforts.share * affordable:
                leaves //= 2
            end, tightening = pace.left, cost * leaves
            # what ends in time goes on, unless there is time for both and tightening is the shorter one by far
            if leaves < 2 * self._last or (end < affordable and not 2 * tightening < end < affordable - tightening):
                return False
            self._next = leaves
            return True

        return pause

    def _planted(self, deadline: float) -> SubdomainSearch:
        """A search of new trees under the bounds as they are."""
        dual = SubdomainDual.of(Matrices.of(self.query, self.bounds), self.query.spec.clause)
        error = margin_error(self.query, interval.propagate(self.query, self.bounds))[0]
        search = SubdomainSearch(dual, self.margin * error.detach(), self.settings)
        search.begin(self.query.open_clauses[0].nonzero().squeeze(1), deadline)
        return search

    def _tightened(self, deadline: float) -> SubdomainSearch:
        """A search of new trees under tighter bounds."""
        now = time.monotonic()
        until, lost = now + self.efforts.share * (deadline - now), True
        while lost and self._next <= self.efforts.most and time.monotonic() < until:
            effort, budget = Effort(leaves=self._next, lost=_LOST), Budget(until - time.monotonic())
            refined = bounds_by_cases(self.query, self.bounds, effort, until, budget, DEFAULT_MEMORY)
            self.bounds, lost = refined.bounds, refined.lost
            self.evidence += refined.evidence
            # what the first layers lack, the last ones lack a hundred times: no small step helps
            growth = 2 * self.efforts.growth if lost else self.efforts.growth
            self._last, self._next = self._next, self._next * growth
        return self._planted(deadline)

    def _worth(self, before: SubdomainSearch, after: Narrowing) -> bool:
        """Whether a tightening has gained so much that another one may gain something.

        What depends on no free neuron has had its exact bounds before.
        """
        net = before.dual.net
        some = (net.to_free != 0).any(1)
        widths, left = ((upper - lower)[some].sum() for lower, upper in (before.dual.ends, after.ends))
        return float(left) < (1 - self.efforts.gain) * float(widths)
