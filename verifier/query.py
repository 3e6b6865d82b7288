"""What is asked: a graph, a batch of input sets, a specification."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

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
        made = cls(graph, inputs, spec, rows, semantics)
        made.__dict__["most_open"] = rows.shape[1]  # known: no device is asked
        return made

    @classmethod
    def of_nodes(cls, graph: Graph, inputs: InputSet) -> Query:
        """The query that asks for nothing, for bounds of the nodes of a graph alone: one row of zeros, not open."""
        rows = inputs.box(graph.dtype)[0].new_zeros(inputs.batch, 1, graph.nodes[-1].size)
        spec = Specification(rows, rows[:, :, 0], torch.zeros(1, dtype=torch.int64, device=rows.device))
        made = cls(graph, inputs, spec, torch.zeros_like(rows[:, :, 0], dtype=torch.bool))
        made.__dict__["most_open"] = 0
        return made

    @cached_property
    def most_open(self) -> int:
        """How many rows the example with the most open ones has open."""
        return int(self.open.sum(1).max()) if self.open.numel() else 0

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
