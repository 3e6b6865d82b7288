"""The record of a proof by cases: how the cases divide the set, and the multipliers that close each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds import Bounds
from verifier.ops.base import Activation
from verifier.query import Query
from verifier.stages.backward import OneSided, bound
from verifier.stages.dual import start_form
from verifier.stages.multipliers import Multipliers

_NO = -1


@dataclass(frozen=True)
class Leaf:
    """A closed case: every neuron's interval where splits narrowed it, and the multipliers that prove it."""

    row: int
    lower: dict[int, float]  #: free neuron -> its raised lower end
    upper: dict[int, float]  #: free neuron -> its lowered upper end
    nu: Tensor  # [M] multipliers on the free neurons' inputs


@dataclass(frozen=True)
class Tree:
    """Binary trees, one per root, over the free neurons of one example.

    A node that splits has both its children, z <= at and z >= at of one neuron, so that the leaves under a root cover
    the whole input set by construction. A leaf without multipliers is an open case: it proves nothing.

    Args:
        neurons: activation node -> [m] its free neurons (places in the flattened node); together they are the M free
            neurons, in this order.
    """

    neurons: dict[int, Tensor]
    roots: tuple[tuple[int, int], ...]  #: (row of the specification, node of the tree)
    neuron: Tensor  # [T] int64: the free neuron that a node splits, -1 at a leaf
    at: Tensor  # [T] float64: where
    below: Tensor  # [T] int64: child with z <= at
    above: Tensor  # [T] int64: child with z >= at
    proof: Tensor  # [T] int64: row of `nu` of a closed leaf, -1 elsewhere
    nu: Tensor  # [leaves, M] float32

    def leaves(self, row: int) -> Iterator[Leaf | None]:
        """The leaves of a row's tree, None for each open one; nothing where the row has no tree."""
        for root_row, root in self.roots:
            if root_row != row:
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
                    yield Leaf(row, lower, upper, self.nu[int(self.proof[node])])

    def recompute(self, query: Query, bounds: Bounds, row: int, at_once: int = 64) -> float:
        """The lower bound of one row that the leaves prove, by a walk through the whole graph for each.

        Nothing here uses the condensed network that found the proof.

        Args:
            query: of one example. bounds: of every pre-activation, those that the tree was grown on.
        """
        leaves = list(self.leaves(row))
        if not leaves or any(leaf is None for leaf in leaves):
            return -torch.inf
        closed = [leaf for leaf in leaves if leaf is not None]
        least = torch.inf
        for start in range(0, len(closed), at_once):
            values = self._bounds(query, bounds, row, closed[start : start + at_once])
            if values.isnan().any():
                return -torch.inf
            least = min(least, float(values.min()))
        return least

    def _bounds(self, query: Query, bounds: Bounds, row: int, leaves: list[Leaf]) -> Tensor:
        """The bounds [K] of K leaves."""
        graph, dtype = query.graph, query.graph.dtype
        index = torch.zeros(len(leaves), dtype=torch.int64, device=query.open.device)
        part, first, lowerings = query.select(index), 0, {}
        for i in graph.activations:
            op, interval = graph.nodes[i].op, bounds[graph.nodes[i].parents[0]]
            assert isinstance(op, Activation)
            lower, upper = (t[index].to(dtype).flatten(1).clone() for t in (interval.lower, interval.upper))
            nu, free = torch.zeros_like(lower), torch.zeros_like(lower, dtype=torch.bool)
            places = self.neurons.get(i, torch.zeros(0, dtype=torch.int64))
            for k, leaf in enumerate(leaves):
                for ends, cuts in ((lower, leaf.lower), (upper, leaf.upper)):
                    for neuron, at in cuts.items():
                        if 0 <= neuron - first < len(places):
                            ends[k, places[neuron - first]] = at
                nu[k, places] = leaf.nu[first : first + len(places)].to(dtype)
            free[:, places] = True
            first += len(places)
            shape = graph.nodes[i].shape
            lowerings[i] = Multipliers.of(
                op, lower.unflatten(1, shape), upper.unflatten(1, shape), nu.unflatten(1, shape).unsqueeze(1),
                free.unflatten(1, shape),
            )  # fmt: skip
        rows = part.spec.rows[:, row : row + 1].to(dtype)
        value = bound(graph, part.inputs, lowerings, graph.output, OneSided(start_form(graph, rows)), rows)
        return value[:, 0] + part.spec.offset[:, row].to(dtype)


class TreeBuilder:
    """Grows the trees of one example while its cases are searched."""

    def __init__(self, neurons: dict[int, Tensor]) -> None:
        self.neurons = neurons
        self.roots: list[tuple[int, int]] = []
        self._splits: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        self._closed: list[tuple[Tensor, Tensor]] = []
        self.size = 0

    def root(self, rows: Tensor) -> Tensor:
        """New trees for some rows; returns their nodes, [len(rows)] int64."""
        nodes = self._new(len(rows))
        self.roots += list(zip(rows.tolist(), nodes.tolist(), strict=True))
        return nodes

    def split(self, nodes: Tensor, neuron: Tensor, at: Tensor) -> Tensor:
        """Split the leaves `nodes` [D]; returns the lower children, then the upper ones, [2 D]."""
        below, above = self._new(len(nodes)), self._new(len(nodes))
        self._splits.append((nodes, neuron, at.double(), below, above))
        return torch.cat([below, above])

    def close(self, nodes: Tensor, nu: Tensor) -> None:
        """The multipliers nu [D, M] prove the leaves `nodes` [D]."""
        self._closed.append((nodes, nu))

    def _new(self, count: int) -> Tensor:
        self.size += count
        return torch.arange(self.size - count, self.size)

    def build(self) -> Tree:
        whole = torch.full((self.size,), _NO)
        neuron, below, above, proof = (whole.clone() for _ in range(4))
        at = torch.zeros(self.size, dtype=torch.float64)
        for nodes, split, place, low, high in self._splits:
            neuron[nodes], at[nodes], below[nodes], above[nodes] = split, place, low, high
        nus = [nu for _, nu in self._closed]
        count = sum(map(len, nus))
        if count:
            proof[torch.cat([nodes for nodes, _ in self._closed])] = torch.arange(count)
        free = sum(map(len, self.neurons.values()))
        nu = torch.cat(nus) if nus else torch.zeros(0, free)
        return Tree(self.neurons, tuple(self.roots), neuron, at, below, above, proof, nu)
