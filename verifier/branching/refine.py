"""Bounds of neurons by small trees of branch and bound, all neurons of a layer at once.

A neuron's bound is loose where many linear relaxations add up. A few subdomains each, split where the bound is
attained, take much of that away, and what a layer gains makes every later layer's relaxations smaller.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.bound_map import Bounds, Interval
from verifier.branching.ascent import SUBDOMAINS, ascend
from verifier.branching.dual import SubdomainDual
from verifier.branching.evidence import NeuronSubdomains
from verifier.branching.matrices import Matrices
from verifier.branching.split import Halved, SplitRule, TriedGains, divided
from verifier.branching.subdomains import Subdomains
from verifier.branching.tree import SplitTreeBuilder
from verifier.budget import Budget
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.query import Query
from verifier.relaxation.activations import activation_over
from verifier.relaxation.ascent import Schedule
from verifier.relaxation.condensed import Condensed
from verifier.relaxation.dual import unstable_at
from verifier.relaxation.optimised import BY_SUBDOMAINS, NeuronLayer, tightened

_RULE = TriedGains(2)
_FIRST = replace(SUBDOMAINS, steps=20, rate=0.25)
#: passes through the condensed network per subdomain, for estimates
_PASSES = 20


@dataclass(frozen=True)
class Effort:
    """How much is done for each bound.

    Args:
        leaves: subdomains of one bound at most. gain: by how much four times as many have to bring the bounds of a
            layer nearer to zero for more again. lost: a share of a layer's neurons that are undecided (of piecewise
            linear activations) beyond which the layers behind it are left alone; 1: none is.
        rule: which neuron of a subdomain is split.
        first: the ascent of the bounds themselves. schedule: of every later subdomain.
        batch: subdomains that are worked on at once.
    """

    leaves: int = 16
    gain: float = 0.02
    lost: float = 1.0
    rule: SplitRule = _RULE
    first: Schedule = _FIRST
    schedule: Schedule = SUBDOMAINS
    batch: int = 512


@dataclass(frozen=True)
class Refined:
    """What bounds of neurons by small trees came to for one example."""

    bounds: Bounds  #: of every pre-activation
    network: Condensed  #: by these bounds
    evidence: list[NeuronSubdomains]  #: what proves those that are better than before
    lost: bool  #: so many neurons of a layer stayed undecided that the layers behind it were left as they were


def bounds_by_cases(
    query: Query, bounds: Bounds, effort: Effort, deadline: float, budget: Budget, memory: int
) -> Refined:
    """Bounds of all pre-activations of one example, those of undecided neurons by small trees, layer by layer.

    Args:
        bounds: of every pre-activation. deadline: of time.monotonic(), after which no bound gets better; each layer has
            an equal share of what the ones before it have left.
    """
    evidence: list[NeuronSubdomains] = []
    last = max(query.graph.pre_activations, default=0)  # there is none behind it

    def improve(layer: NeuronLayer, network: Condensed, budget: Budget) -> tuple[Interval, bool]:
        rows = layer.functionals.both_signs()
        net = Matrices.joined(network.inputs, network.unknowns, rows)
        builder, left = SplitTreeBuilder.of(net), sum(node >= layer.node for node in query.graph.pre_activations)
        now = time.monotonic()
        values = neuron_bounds(net, effort, now + (deadline - now) / left, builder).unsqueeze(0).to(rows.constant)
        row = layer.useful(query.graph, values)[0].nonzero().squeeze(1)
        count = layer.index.shape[1]
        if len(row):
            neuron, side = layer.index[0][row % count], (row >= count).to(torch.uint8)
            evidence.append(NeuronSubdomains(0, layer.node, neuron, side, builder.build(), row))
        found = layer.interval(values, BY_SUBDOMAINS)
        return found, layer.node != last and _open_share(query.graph, layer, found) > effort.lost

    found, network, lost = tightened(query, bounds, improve, budget, memory)
    return Refined(found, network, evidence, lost)


def _open_share(graph: Graph, layer: NeuronLayer, found: Interval) -> float:
    """Which share of a layer's neurons is undecided still; 0 where others than piecewise linear activations read it."""
    readers = [graph.nodes[i].op for i in graph.activations if graph.nodes[i].parents[0] == layer.node]
    if not all(isinstance(op, Activation) and op.piecewise_linear for op in readers):
        return 0.0
    best = layer.known.intersect(found)
    return float(unstable_at(graph, layer.node, best.lower, best.upper).double().mean())


def price(query: Query, bounds: Bounds, leaves: int) -> float:
    """Products of numbers that bounding every undecided neuron by so many subdomains is about to take."""
    graph, inputs, before, total = query.graph, query.graph.nodes[0].size, 0, 0.0
    for i in graph.activations:
        op, lower, upper = activation_over(graph, bounds, i)
        count = int(op.unstable(lower, upper).sum())
        total += 2 * count * leaves * _PASSES * 2 * before * (inputs + before / 2)
        before += count
    return total


def neuron_bounds(net: Matrices, effort: Effort, deadline: float, tree: SplitTreeBuilder | None = None) -> Tensor:
    """Lower bounds [2 n] of n neurons and then of their negatives, the rows of a network in float64.

    A neuron whose sign is found is not bounded further. Where `deadline` (of time.monotonic()) passes, what has been
    found until then. The subdomains are added to `tree`, one tree per row.
    """
    dual = SubdomainDual.of(net, torch.arange(len(net.row_bias)))
    budget = Budget(deadline - time.monotonic())
    search = _RowSearch(dual, effort, SplitTreeBuilder.of(net) if tree is None else tree, budget)
    with torch.no_grad():
        return search.run()


class _RowSearch:
    """The subdomains of all rows, split in step."""

    def __init__(self, dual: SubdomainDual, effort: Effort, tree: SplitTreeBuilder, budget: Budget) -> None:
        self.budget, self.dual, self.rough, self.effort, self.tree = budget, dual, dual.to(torch.float32), effort, tree
        self.halved = Halved.of(self.rough)
        self.lower = torch.full((len(dual.clauses),), torch.inf, dtype=torch.float64)

    def run(self) -> Tensor:  # [2 n]
        rows = torch.arange(len(self.lower))
        start, count = self.dual.start(rows, self.tree.root(rows)), 1
        subdomains = self._unsettled(self._ascended(start, self.effort.first))
        distances = [torch.inf, torch.inf, self._distance(subdomains)]
        while len(subdomains) and count < self.effort.leaves and not self.budget.spent:
            if distances[-1] > (1 - self.effort.gain) * distances[-3]:
                break
            parts = [
                self._divided(subdomains.select(i)) for i in torch.arange(len(subdomains)).split(self.effort.batch)
            ]
            subdomains, count = self._unsettled(Subdomains.concatenate(parts)), 2 * count
            distances.append(self._distance(subdomains))
        self._record(subdomains, self._exact(subdomains))
        return torch.where(self.lower.isnan(), -torch.inf, self.lower)

    def _distance(self, subdomains: Subdomains) -> float:
        """How far the bounds that are open are from zero, all together; 0 where none is open."""
        least = torch.zeros_like(self.lower).scatter_reduce_(0, subdomains.target, subdomains.bound, "amin")
        return -float(least.sum())

    def _unsettled(self, subdomains: Subdomains) -> Subdomains:
        """The subdomains of neurons whose sign is open; those of the others are recorded as they are."""
        half = len(self.lower) // 2
        proved = self.lower > 0  # of all subdomains that are closed, and
        proved[subdomains.target] = False  # there are no others
        known = (proved[:half] | proved[half:]).repeat(2)[subdomains.target]
        self._record(subdomains.select(known), self._exact(subdomains.select(known)))
        return subdomains.select(~known)

    def _ascended(self, subdomains: Subdomains, schedule: Schedule) -> Subdomains:
        """What stays open of some subdomains after their ascent."""
        open_ = []
        for index in torch.arange(len(subdomains)).split(self.effort.batch):
            part = subdomains.select(index)
            part = ascend(self.rough, part, schedule, torch.zeros_like(part.bound), self.budget)
            likely = part.bound > 0
            value = torch.where(likely, 0.0, -torch.inf).double()
            value[likely] = self._exact(part.select(likely))
            closed = value > 0
            self._record(part.select(closed), value[closed])
            open_.append(part.select(~closed))
        return Subdomains.concatenate(open_)

    def _divided(self, part: Subdomains) -> Subdomains:
        """The open halves of some subdomains; what nothing can split is recorded as it is."""
        new = divided(self.rough, self.halved, part, self.rough.at(part), self.effort.rule)
        self._record(new.whole, self._exact(new.whole))
        if len(new.part) == 0:
            return new.halves
        halves = replace(new.halves, node=self.tree.split(new.part.node, new.neuron, new.at))
        return self._ascended(halves, self.effort.schedule)

    def _exact(self, subdomains: Subdomains) -> Tensor:  # [D]
        return self.dual.at(subdomains).bound if len(subdomains) else subdomains.bound

    def _record(self, subdomains: Subdomains, value: Tensor) -> None:  # [D]
        self.tree.close(subdomains)
        self.lower.scatter_reduce_(0, subdomains.target, value, "amin")
