"""The record of a proof by branch and bound: how the subdomains divide the set, and the variables that close each.

A leaf keeps slopes (a byte per free neuron or product) and the multipliers of its splits. Both are valid whatever they
are: what a leaf proves is worked out from them again, by a backward pass through the whole graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.branching.matrices import Matrices
from verifier.branching.narrowed import Narrowing
from verifier.branching.subdomains import STEPS, Subdomains
from verifier.forms import Dense, LinearForm
from verifier.ops.base import Activation, Nonlinear, Shape
from verifier.ops.product import Product
from verifier.query import Query
from verifier.relaxation.activations import activation_over
from verifier.relaxation.backward import Lowering, OneSided, bound
from verifier.relaxation.dual import start_form
from verifier.relaxation.families import RelaxationFamily
from verifier.relaxation.products import plane_below

_NO = -1


@dataclass(frozen=True)
class SplitLeaf:
    """A closed subdomain: the intervals that splits narrowed, and the variables that prove it."""

    lower: dict[int, float]  #: entry -> its raised lower end
    upper: dict[int, float]  #: entry -> its lowered upper end
    gamma: dict[int, float]  #: entry -> the multiplier of its splits
    slope: Tensor  # [M] uint8: position between the flattest and the steepest line, in steps
    weight: Tensor  # [rows of the clause] float32


@dataclass(frozen=True)
class SplitTree:
    """Binary trees, one per root, over what the free neurons and products of one example read.

    A node that splits has both its children, z <= at and z >= at of one entry z, so that the leaves under a root cover
    the whole input set by construction. A leaf without variables is an open subdomain: it proves nothing.

    Args:
        neurons: activation or product -> [m] its free neurons (places in the flattened node); together they are the M
            free neurons, in this order. reads: the same nodes -> [k] what these read (places in the flattened parent);
            together they are the Z entries that may be split. Of an activation, both are the same.
    """

    neurons: dict[int, Tensor]
    reads: dict[int, Tensor]
    roots: tuple[tuple[int, int], ...]  #: (clause of the specification, node of the tree)
    neuron: Tensor  # [T] int64: the entry that a node splits, -1 at a leaf
    at: Tensor  # [T] float64: where
    below: Tensor  # [T] int64: child with z <= at
    above: Tensor  # [T] int64: child with z >= at
    proof: Tensor  # [T] int64: which leaf's variables close a leaf, -1 elsewhere
    slope: Tensor  # [leaves, M] uint8
    weight: Tensor  # [leaves, W] float32
    first: Tensor  # [leaves + 1] int64: where each leaf's multipliers begin in the next two
    split: Tensor  # [G] int64: an entry
    gamma: Tensor  # [G] float32: the multiplier of its splits

    def leaves(self, clause: int) -> Iterator[SplitLeaf | None]:
        """The leaves of a clause's tree, None for each open one; nothing where the clause has no tree."""
        for own, root in self.roots:
            if own != clause:
                continue
            stack: list[tuple[int, dict[int, float], dict[int, float]]] = [(root, {}, {})]
            while stack:
                node, lower, upper = stack.pop()
                neuron, at = int(self.neuron[node]), float(self.at[node])
                if neuron != _NO:
                    stack.append((int(self.below[node]), lower, {**upper, neuron: at}))
                    stack.append((int(self.above[node]), {**lower, neuron: at}, upper))
                elif int(self.proof[node]) == _NO:
                    yield None
                else:
                    yield self._leaf(int(self.proof[node]), lower, upper)

    def _leaf(self, index: int, lower: dict[int, float], upper: dict[int, float]) -> SplitLeaf:
        gamma: dict[int, float] = {}
        for k in range(int(self.first[index]), int(self.first[index + 1])):
            neuron = int(self.split[k])
            gamma[neuron] = gamma.get(neuron, 0.0) + float(self.gamma[k])
        return SplitLeaf(lower, upper, gamma, self.slope[index], self.weight[index])

    def recompute(self, query: Query, bounds: Bounds, clause: int, at_once: int = 64) -> float:
        """The lower bound that the leaves prove of a clause's largest row, each by a pass through the whole graph.

        Minus infinity where a leaf is open, or its weights are none.

        Nothing here uses the condensed network that found the proof.

        Args:
            query: of one example. bounds: of every pre-activation, those that the tree was grown on.
        """
        leaves = list(self.leaves(clause))
        if not leaves or any(leaf is None for leaf in leaves):
            return -torch.inf
        closed = [leaf for leaf in leaves if leaf is not None]
        least = torch.inf
        for start in range(0, len(closed), at_once):
            values = self._bounds(query, bounds, clause, closed[start : start + at_once])
            if values.isnan().any():
                return -torch.inf
            least = min(least, values.min().item())
        return least

    def _bounds(self, query: Query, bounds: Bounds, clause: int, leaves: list[SplitLeaf]) -> Tensor:
        """The bounds [K] of K leaves."""
        graph, dtype = query.graph, query.graph.dtype
        index = torch.zeros(len(leaves), dtype=torch.int64, device=query.open.device)
        starts, lowerings, part = self._starts(), dict[int, Lowering](), query.select(index)
        for i in graph.activations:
            op, *ends = activation_over(graph, bounds, i)
            lower, upper = (t[index].to(dtype).flatten(1).clone() for t in ends)
            gamma, slope = torch.zeros_like(lower), lower.new_zeros(len(leaves), graph.nodes[i].size)
            none = torch.zeros(0, dtype=torch.int64)
            neurons, reads = (of.get(i, none) for of in (self.neurons, self.reads))
            first, begin = starts.get(i, (0, 0))
            for k, leaf in enumerate(leaves):
                slope[k, neurons] = (leaf.slope[first : first + len(neurons)].to(dtype) / STEPS).clamp(0, 1)
                for values, given in ((lower, leaf.lower), (upper, leaf.upper), (gamma, leaf.gamma)):
                    for entry, number in given.items():
                        if 0 <= entry - begin < len(reads):
                            values[k, reads[entry - begin]] = number
            over = lower, upper, slope, gamma
            shape = graph.nodes[graph.nodes[i].parents[0]].shape
            if isinstance(op, Product):
                lowerings[i] = _SubdomainPlanes(op, *over, shape)
            else:
                lowerings[i] = _SubdomainLines.of(op, *over)
        of_clause = query.spec.clause == clause
        weight = torch.stack([leaf.weight[: int(of_clause.sum())] for leaf in leaves]).to(dtype)
        # weights that are none, negative or not numbers become NaN, and prove nothing
        weight = torch.where((weight >= 0).all(1, keepdim=True), weight / weight.sum(1, keepdim=True), torch.nan)
        rows = (weight @ query.spec.rows[0, of_clause].to(dtype)).unsqueeze(1)
        found = bound(graph, part.inputs, lowerings, graph.output, OneSided(start_form(graph, rows)), rows)
        return found[:, 0] + weight @ query.spec.offset[0, of_clause].to(dtype)

    def _starts(self) -> dict[int, tuple[int, int]]:
        """Where each node's free neurons begin among the M, and what they read among the Z."""
        found, first, begin = {}, 0, 0
        for i, neurons in self.neurons.items():
            found[i] = first, begin
            first, begin = first + len(neurons), begin + len(self.reads[i])
        return found


@dataclass(frozen=True)
class _SubdomainLines:
    """An activation in K subdomains: lines of its family, and multipliers of the subdomains' own constraints."""

    lines: RelaxationFamily  # [K, m]
    lower: Tensor  # [K, m]
    upper: Tensor  # [K, m]
    slope: Tensor  # [K, m] in [0, 1]
    gamma: Tensor  # [K, m]: positive of z <= upper, negative of z >= lower

    @classmethod
    def of(cls, op: Nonlinear, lower: Tensor, upper: Tensor, slope: Tensor, gamma: Tensor) -> _SubdomainLines:
        assert isinstance(op, Activation)
        return cls(RelaxationFamily.inner(op, lower, upper), lower, upper, slope, gamma)

    def below(self, form: LinearForm) -> tuple[LinearForm, Tensor]:  # a constant [K, 1]
        nu_hat = form.dense()  # [K, 1, *shape]
        flat = nu_hat.flatten(1)
        slope, bias = self.lines.sided(flat >= 0, self.slope)
        paid = _paid(self.gamma, self.lower, self.upper)
        constant = ((0.0 if bias is None else bias * flat) - paid).sum(1, keepdim=True)
        return Dense((slope * flat + self.gamma).view_as(nu_hat)), constant


@dataclass(frozen=True)
class _SubdomainPlanes:
    """Products in K subdomains: planes over the narrowed intervals of n entries, and multipliers of these."""

    op: Product
    lower: Tensor  # [K, n]
    upper: Tensor  # [K, n]
    slope: Tensor  # [K, m] in [0, 1]
    gamma: Tensor  # [K, n]: positive of z <= upper, negative of z >= lower
    shape: Shape  #: of the entries' node

    def below(self, form: LinearForm) -> tuple[LinearForm, Tensor]:  # a constant [K, 1]
        lines = self.op.relax(self.lower, self.upper, self.slope)
        nu, constant = plane_below(lines.each(lambda t: t.unsqueeze(1)), form.settled().dense())
        found = self.op.onto(nu, self.shape) + self.gamma.view(-1, 1, *self.shape)
        return Dense(found), constant - _paid(self.gamma, self.lower, self.upper).sum(1, keepdim=True)


def _paid(gamma: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """What multipliers of constraints cost: [K, m], as all three."""
    return torch.where(gamma == 0, 0.0, torch.where(gamma > 0, gamma * upper, gamma * lower))


class SplitTreeBuilder:
    """Grows the trees of one example while its subdomains are searched.

    Args:
        neurons, reads: as of `SplitTree`.
    """

    def __init__(self, neurons: dict[int, Tensor], reads: dict[int, Tensor]) -> None:
        self.neurons, self.reads = neurons, reads
        self.roots: list[tuple[int, int]] = []
        self._splits: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        self._closed: list[Subdomains] = []
        self.size = 0

    @classmethod
    def of(cls, net: Matrices) -> SplitTreeBuilder:
        """Of trees over the free neurons of a network."""
        return cls({b.node: b.neurons for b in net.blocks}, {b.node: b.entries for b in net.blocks})

    def root(self, clauses: Tensor) -> Tensor:
        """New trees for some clauses; returns their nodes, [len(clauses)] int64."""
        nodes = self._new(len(clauses))
        self.roots += list(zip(clauses.tolist(), nodes.tolist(), strict=True))
        return nodes

    def split(self, nodes: Tensor, neuron: Tensor, at: Tensor) -> Tensor:
        """Split the leaves `nodes` [D]; returns the lower children, then the upper ones, [2 D]."""
        below, above = self._new(len(nodes)), self._new(len(nodes))
        self._splits.append((nodes, neuron, at.double(), below, above))
        return torch.cat([below, above])

    def close(self, subdomains: Subdomains) -> None:
        """The variables of these subdomains prove them."""
        self._closed.append(subdomains)

    @property
    def closed(self) -> Sequence[Subdomains]:
        """The leaves that are proved, in the order in which they were."""
        return self._closed

    def narrowed(self, narrowing: Narrowing, net: Matrices) -> tuple[SplitTreeBuilder, Tensor] | None:
        """The trees over the free neurons of `net`, under tighter bounds, with every leaf open.

        A split at an end of an interval, or outside of it, divides nothing: the child that has all of it takes the
        place of its parent.

        Returns:
            the trees, and which of the nodes are still in them, [size] bool; None where a split is of an entry that the
            network no longer has.
        """
        grown, place = SplitTreeBuilder.of(net), torch.arange(self.size)
        grown.size = self.size
        inner = []
        for nodes, neuron, at, below, above in reversed(self._splits):  # children are younger than their parents
            rising, falling = at <= narrowing.lower[neuron], at >= narrowing.upper[neuron]
            both = ~(rising | falling)
            place[nodes] = torch.where(rising, place[above], torch.where(falling, place[below], nodes))
            entry = narrowing.entry[neuron][both]
            if bool((entry < 0).any()):
                return None
            inner.append((nodes[both], entry, at[both], place[below[both]], place[above[both]]))
        grown.roots = [(clause, int(place[root])) for clause, root in self.roots]
        reached = torch.zeros(self.size, dtype=torch.bool)
        reached[[root for _, root in grown.roots]] = True
        for nodes, neuron, at, below, above in reversed(inner):
            here = reached[nodes]
            reached[below[here]] = reached[above[here]] = True
            if bool(here.any()):
                grown._splits.append((nodes[here], neuron[here], at[here], below[here], above[here]))
        return grown, reached

    def covered(self) -> set[int]:
        """The clauses whose trees have no open leaf, as the record has it."""
        closed = torch.zeros(self.size, dtype=torch.bool)
        for subdomains in self._closed:
            closed[subdomains.node] = True
        for nodes, _, _, below, above in reversed(self._splits):  # children are younger than their parents
            closed[nodes] = closed[below] & closed[above]
        return {clause for clause, root in self.roots if closed[root]}

    def closed_share(self) -> float:
        """Which share of the trees is closed, the sides of a split being half of it each."""
        share = torch.zeros(self.size, dtype=torch.float64)
        for subdomains in self._closed:
            share[subdomains.node] = 1.0
        for nodes, _, _, below, above in reversed(self._splits):
            share[nodes] = (share[below] + share[above]) / 2
        return float(share[[root for _, root in self.roots]].mean()) if self.roots else 0.0

    def _new(self, count: int) -> Tensor:  # [count] int64
        self.size += count
        return torch.arange(self.size - count, self.size)

    def build(self) -> SplitTree:
        whole = torch.full((self.size,), _NO)
        neuron, below, above, proof = (whole.clone() for _ in range(4))
        at = torch.zeros(self.size, dtype=torch.float64)
        for nodes, split, place, low, high in self._splits:
            neuron[nodes], at[nodes], below[nodes], above[nodes] = split, place, low, high
        closed = self._closed
        if closed:
            leaves = torch.cat([c.node for c in closed])
            proof[leaves] = torch.arange(len(leaves))
        free = sum(map(len, self.neurons.values()))
        kept = [c.gamma != 0 for c in closed]
        counts = torch.cat([torch.zeros(1, dtype=torch.int64), *(k.sum(1) for k in kept)])
        return SplitTree(
            self.neurons, self.reads, tuple(self.roots), neuron, at, below, above, proof,
            torch.cat([torch.zeros(0, free, dtype=torch.uint8), *(c.slope for c in closed)]),
            torch.cat([c.weight for c in closed]) if closed else torch.zeros(0, 1),
            counts.cumsum(0),
            torch.cat([torch.zeros(0, dtype=torch.int64), *(c.neuron[k] for c, k in zip(closed, kept, strict=True))]),
            torch.cat([torch.zeros(0), *(c.gamma[k] for c, k in zip(closed, kept, strict=True))]),
        )  # fmt: skip
