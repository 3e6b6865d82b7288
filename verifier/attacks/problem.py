"""What an attack is asked: a differentiable network, a batch of input sets, what must hold at their points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from properties import InputSet, Specification
from verifier.graph import Graph
from verifier.query import Query


@dataclass(frozen=True)
class AttackProblem:
    """Points of B input sets are sought at which a network breaks its specification, or one clause of it."""

    network: Callable[[Tensor], Tensor]  #: [B, *input] -> [B, *outputs], differentiable in its input
    inputs: InputSet
    spec: Specification
    dtype: torch.dtype = torch.float32  #: that the network computes in
    target: Tensor | None = None  # [B] int64: the clause to break; None: whichever breaks
    graph: Graph | None = None  #: the network node by node, where there is one: for attacks that look inside

    def __post_init__(self) -> None:
        if self.inputs.batch != self.spec.batch:
            raise ValueError(f"{self.inputs.batch} input sets, but specifications for {self.spec.batch} examples")
        if self.target is not None and self.target.shape != (self.batch,):
            raise ValueError(f"target must be one clause per example, got shape {tuple(self.target.shape)}")

    @classmethod
    def of(cls, query: Query) -> AttackProblem:
        """The counterexamples to a query.

        Where all that is asked is which outputs are larger, the network is without a last softmax or sigmoid: the
        order before it is the same, and its gradient vanishes where it is sure of a class.
        """
        graph = query.graph.before_last if query.spec.compares else query.graph
        return cls(graph.forward, query.inputs, query.spec, graph.dtype, graph=graph)

    @property
    def batch(self) -> int:
        return self.inputs.batch

    def center(self) -> Tensor:
        """A member of each set in the network's precision, [B, *input], a copy."""
        return self.inputs.center().to(self.dtype, copy=True)

    def outputs(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, outputs]
        return self.network(x).flatten(1)

    def clauses(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, clauses]
        """Value of every clause: the property holds where all are > 0."""
        return self.spec.per_clause(self.spec.values(self.outputs(x)))

    def value(self, clauses: Tensor) -> Tensor:  # [B, clauses] -> [B]
        """What is to be brought below zero: the lowest clause, or the one that is asked for."""
        return clauses.amin(1) if self.target is None else pick(clauses, self.target)

    def select(self, index: Tensor) -> AttackProblem:
        """The problem of the examples `index` ([k] int64 or [B] bool)."""
        target = None if self.target is None else self.target[index]
        return replace(self, inputs=self.inputs.select(index), spec=self.spec.select(index), target=target)


def pick(values: Tensor, index: Tensor) -> Tensor:  # [B, n], [B] -> [B]
    """One value of each row."""
    return values.gather(1, index.unsqueeze(1)).squeeze(1)
