"""Branch and bound over the free neurons of one example: cases are split until a dual bound closes each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from verifier.branching.ascent import Schedule, ascend
from verifier.branching.dual import Domains, Evaluation, Hulls, bound_at, evaluate
from verifier.branching.matrices import Matrices
from verifier.branching.split import choose, halves
from verifier.branching.tree import Tree, TreeBuilder


class Hunt(Protocol):
    """Looks for counterexamples where cases' bounds are attained. Both methods say whether one has been found."""

    value: float  #: the smallest worst-clause value seen

    def follow(self, forms: Tensor) -> bool:
        """forms [D, n]: the bounds of D cases as linear forms on the input."""

    def look(self, points: Tensor) -> bool:
        """points [k, n]: flattened inputs."""


@dataclass(frozen=True)
class Settings:
    """How cases are searched.

    Args:
        batch: cases that are split at once. candidates: neurons that are tried for a split, per case.
        most: cases that a search may make before it gives up.
        first: the ascent of the rows themselves. schedule: of every later case.
        last: the ascent of a case in which nothing is left to split.
        ties: rounds to go on for when a point has been found at which the rows are too small to be proved, and yet not
            violated.
        leaf_seconds: of the linear program of such a case, where the ascent is not enough.
    """

    batch: int = 256
    candidates: int = 40
    most: int = 100_000
    first: Schedule = field(default_factory=lambda: Schedule(steps=50))
    schedule: Schedule = field(default_factory=Schedule)
    last: Schedule = field(default_factory=lambda: Schedule(steps=100))
    ties: int = 20
    leaf_seconds: float = 10.0


@dataclass(frozen=True)
class Found:
    """What a search proved of each row, and how."""

    lower: Tensor  # [S] float64: bounds of the rows searched, -inf for the others
    tree: Tree
    exhausted: bool  #: the deadline or the number of cases ended it


class Search:
    """The search over some rows of one example.

    Bounds are ascended in float32, and a case is closed by one evaluation in float64 of the very multipliers that the
    tree keeps.

    Args:
        net: in float64. enough: [S], a bound of row s above this closes a case.
    """

    def __init__(self, net: Matrices, enough: Tensor, settings: Settings) -> None:
        self.net, self.rough, self.enough, self.settings = net, net.to(torch.float32), enough, settings
        self.tree = TreeBuilder({b.node: b.neurons for b in net.blocks})
        self.lower = torch.full((len(net.row_bias),), torch.inf, dtype=torch.float64)
        self.hopeless: list[Domains] = []

    def run(self, rows: Tensor, hunt: Hunt, deadline: float, stop: Callable[[], bool]) -> Found:
        """Search until every row of `rows` is proved, `hunt` succeeds, or time.monotonic() passes `deadline`."""
        domains = Domains.root(self.rough, rows, self.tree.root(rows))
        left = self._close(ascend(self.rough, domains, self.settings.first, self._target(domains)))
        exhausted, ties = False, self.settings.ties
        while len(left) and ties:
            ties -= bool(hunt.value <= float(self.enough[rows].min()))
            if stop() or time.monotonic() > deadline or self.tree.size > self.settings.most:
                exhausted = True
                break
            order = left.bound.argsort()
            part, rest = left.select(order[: self.settings.batch]), left.select(order[self.settings.batch :])
            with torch.no_grad():
                here = evaluate(self.rough, Hulls.of(self.rough, part), part.row, part.alpha, part.gamma)
            if hunt.follow(here.on_input):
                left = Domains.concatenate([part, rest])
                break
            divided, found = self._divide(part, here, hunt)
            left = Domains.concatenate([rest, *divided])
            if found:
                break
        return self._found(rows, left, exhausted)

    def _divide(self, part: Domains, here: Evaluation, hunt: Hunt) -> tuple[list[Domains], bool]:
        """Split every case; what remains open of the halves, and whether `hunt` has found a counterexample."""
        neuron, at = choose(self.rough, part, here, self.settings.candidates)
        whole, found = at.isnan(), False
        if whole.any():  # nothing left to split: the case is one linear piece, or smooth
            found = self._last(part.select(whole.nonzero().squeeze(1)), hunt)
            keep = (~whole).nonzero().squeeze(1)
            part, neuron, at = part.select(keep), neuron[keep], at[keep]
        if len(part) == 0:
            return [], found
        both = replace(halves(part, neuron, at), node=self.tree.split(part.node, neuron, at))
        both = ascend(self.rough, both, self.settings.schedule, self._target(both))
        return [self._close(both)], found

    def _last(self, domains: Domains, hunt: Hunt) -> bool:
        """Close cases that cannot be split, or give them up; whether `hunt` has found a counterexample in one."""
        from verifier.branching.leaf import linear_programs  # scipy, which most runs never need

        left = self._close(ascend(self.rough, domains, self.settings.last, self._target(domains)))
        found = False
        for k in range(len(left)):
            one, closed = left.select(torch.tensor([k])), False
            if self.net.free and not found:
                for nu, point in linear_programs(self.net, one.exactly(self.net), self.settings.leaf_seconds):
                    found = point is not None and hunt.look(point.unsqueeze(0))
                    closed = nu is not None and bool(self._prove(one, nu.float())[0])
                    if found or closed:
                        break
            if not closed:
                self.hopeless.append(one)
        return found

    def _target(self, domains: Domains) -> Tensor:
        """Bounds [D] that are enough in float32: what float64 will make of them differs by roundings."""
        return self.enough[domains.row] + 1e-6 * (1 + self.enough[domains.row].abs())

    def _close(self, domains: Domains) -> Domains:
        """The cases that stay open; the others are closed in the tree."""
        sure = (domains.bound > self.enough[domains.row]).nonzero().squeeze(1)
        if len(sure) == 0:
            return domains
        part = domains.select(sure)
        with torch.no_grad():
            nu = evaluate(self.rough, Hulls.of(self.rough, part), part.row, part.alpha, part.gamma).nu
        keep = torch.ones(len(domains), dtype=torch.bool)
        keep[sure[self._prove(part, nu)]] = False
        # what float64 did not confirm is split further, as if it had not been enough
        return domains.select(keep.nonzero().squeeze(1))

    def _prove(self, domains: Domains, nu: Tensor) -> Tensor:
        """Close the cases that nu [D, M] (float32) proves in float64; which they are, [D] bool."""
        with torch.no_grad():
            value = bound_at(self.net, Hulls.of(self.net, domains.exactly(self.net)), domains.row, nu.double())
        closed = value > self.enough[domains.row]  # not where it is NaN
        self.tree.close(domains.node[closed], nu[closed])
        self.lower.scatter_reduce_(0, domains.row[closed], value[closed], "amin")
        return closed

    def _found(self, rows: Tensor, left: Domains, exhausted: bool) -> Found:
        open_ = Domains.concatenate([left, *self.hopeless])
        if len(open_):
            with torch.no_grad():
                exact = open_.exactly(self.net)
                hulls = Hulls.of(self.net, exact)
                value = evaluate(self.net, hulls, open_.row, exact.alpha, exact.gamma).bound
            value = torch.where(value.isnan(), -torch.inf, value)
            self.lower.scatter_reduce_(0, open_.row, value.clamp(max=0.0), "amin")
        asked = torch.zeros(len(self.lower), dtype=torch.bool)
        asked[rows] = True
        return Found(torch.where(asked, self.lower, -torch.inf), self.tree.build(), exhausted)
