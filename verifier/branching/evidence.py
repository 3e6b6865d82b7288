"""Evidence by branch and bound: trees of subdomains that split neurons, and trees of boxes that split the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.branching.inputs_tree import BoxTree
from verifier.branching.records import boxes_of, subdomains_of
from verifier.branching.tree import SplitTree
from verifier.evidence import Evidence, Record, RecordRequest
from verifier.graph import Graph
from verifier.graph.canonical import Canonical
from verifier.query import Query

_CPU = torch.device("cpu")
_Tree = TypeVar("_Tree")


class _ByParts(Evidence):
    """Proofs of clauses: on each part of the set perhaps by another row."""

    def recompute(self, query: Query, bounds: Bounds) -> Tensor:  # [B, S]
        return query.spec.alone(self.clauses(query, bounds).to(query.open.device))


def _clauses(
    trees: Sequence[_Tree | None], query: Query, bounds: Bounds, proved: Callable[[_Tree, Query, Bounds], Tensor]
) -> Tensor:  # [B, C]
    """What the tree of each example proves of its clauses, [C]; -inf where there is none. On the CPU, as trees are."""
    query, bounds = query.on(_CPU), bounds.on(_CPU)
    least = torch.full((query.batch, query.spec.clauses), -torch.inf, dtype=torch.float64)
    with torch.no_grad():
        for b, tree in enumerate(trees):
            if tree is not None:
                one = torch.tensor([b])
                least[b] = proved(tree, query.select(one), bounds.select(one))
    return least


@dataclass(frozen=True)
class SubdomainEvidence(_ByParts):
    """beta-CROWN's kind: per example, a tree of splits of neurons, every leaf closed by its own dual bound."""

    kind: ClassVar[str] = "subdomains"
    trees: Sequence[SplitTree | None] = field(repr=False)

    def clauses(self, query: Query, bounds: Bounds) -> Tensor:  # [B, C]
        def proved(tree: SplitTree, one: Query, known: Bounds) -> Tensor:  # [C]
            found = [tree.recompute(one, known, c) for c in range(query.spec.clauses)]
            return torch.tensor(found, dtype=torch.float64)

        return _clauses(self.trees, query, bounds, proved)

    def select(self, example: int) -> SubdomainEvidence:
        return SubdomainEvidence((self.trees[example],))

    def proof(self, asked: RecordRequest) -> list[Record] | None:
        (tree,) = self.trees
        if tree is None:
            return None
        known = asked.bounds.on(_CPU)
        record = subdomains_of(tree, asked.clauses, asked.graph, asked.canonical, known, asked.code)
        return None if record is None else [{"cases": record}]


@dataclass(frozen=True)
class BoxEvidence(_ByParts):
    """Per example, a tree of boxes of the input, every leaf closed by a dual bound over its box."""

    kind: ClassVar[str] = "boxes"
    trees: Sequence[BoxTree | None] = field(repr=False)

    def clauses(self, query: Query, bounds: Bounds) -> Tensor:  # [B, C]
        return _clauses(self.trees, query, bounds, BoxTree.recompute)

    def select(self, example: int) -> BoxEvidence:
        return BoxEvidence((self.trees[example],))

    def proof(self, asked: RecordRequest) -> list[Record] | None:
        (tree,) = self.trees
        return None if tree is None else [{"boxes": boxes_of(tree, asked.graph, asked.canonical)}]


@dataclass(frozen=True)
class NeuronSubdomains:
    """Bounds of one node's entries for one example, each by a small tree of subdomains (verifier.evidence)."""

    example: int
    node: int
    neuron: Tensor  # [R] int64: places in the flattened node
    side: Tensor  # [R] uint8: 0 for a lower bound, 1 for an upper one
    tree: SplitTree
    row: Tensor  # [R] int64: which of the tree's clauses is about which bound

    @property
    def size(self) -> int:
        return self.tree.slope.numel()

    def of_example(self, example: int) -> NeuronSubdomains:
        return replace(self, example=example)

    def step(self, canonical: Canonical, graph: Graph, bounds: Bounds, code: type[np.generic]) -> Record | None:
        rows = self.row.tolist()
        if self.node not in canonical.place:
            return None
        record = subdomains_of(self.tree, rows, graph, canonical, bounds.on(_CPU), code)
        if record is None:
            return None
        # clauses of the record are places among the step's rows
        place = {row: k for k, row in enumerate(rows)}
        record["roots"][:, 0] = [place[int(row)] for row in record["roots"][:, 0]]
        return {
            "node": canonical.place[self.node], "neurons": self.neuron.numpy().astype(np.int32),
            "sides": self.side.numpy().astype(np.uint8), "cases": record,
        }  # fmt: skip
