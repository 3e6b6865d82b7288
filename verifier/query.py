"""What is asked: a graph, a batch of input sets, a specification."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from properties import InputSet, Specification
from verifier.graph import Graph
from verifier.verdict import Semantics


@dataclass(frozen=True)
class Query:
    """Does every input of set b satisfy the specification of example b? For B examples at once.

    `open` [B, S] says which rows are still to be proved; stages may ignore the others. `semantics` says which function
    the graph stands for.
    """

    graph: Graph
    inputs: InputSet
    spec: Specification
    open: Tensor  # [B, S] bool
    semantics: Semantics = Semantics.REAL

    @classmethod
    def of(cls, graph: Graph, inputs: InputSet, spec: Specification, semantics: Semantics = Semantics.REAL) -> Query:
        if inputs.batch != spec.batch:
            raise ValueError(f"{inputs.batch} input sets, but specifications for {spec.batch} examples")
        rows = torch.ones(spec.rows.shape[:2], dtype=torch.bool, device=spec.rows.device)
        return cls(graph, inputs, spec, rows, semantics)

    @property
    def open_clauses(self) -> Tensor:
        """[B, C] bool: the clauses that have an open row; all rows of an open clause are open."""
        return self.spec.per_clause(self.open.double()) > 0

    @property
    def batch(self) -> int:
        return self.inputs.batch

    def on(self, device: torch.device, dtype: torch.dtype | None = None) -> Query:
        """The same on another device, the graph in another precision where one is given."""
        return replace(
            self, graph=self.graph.to(device, dtype), inputs=self.inputs.to(device), spec=self.spec.to(device),
            open=self.open.to(device),
        )  # fmt: skip

    def select(self, index: Tensor) -> Query:
        """The query of the examples `index` ([k] int64 or [B] bool)."""
        return replace(self, inputs=self.inputs.select(index), spec=self.spec.select(index), open=self.open[index])
