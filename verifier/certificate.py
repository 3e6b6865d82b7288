"""The evidence of a VERIFIED: what was bounded, by which rule, and the slopes that prove the margins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from properties import InputSet, Specification
from verifier.bounds import Bounds
from verifier.errors import InputError
from verifier.graph import Graph
from verifier.ops.base import Activation, SlopeRule
from verifier.query import Query
from verifier.result import Trust


@dataclass(frozen=True)
class Certificate:
    """Evidence for one example.

    The intermediate bounds and the rule of the free slopes determine every multiplier of the dual network:
    nu-hat = slope * nu (DESIGN: slopes are that special case of dual variables), nu by adjoints from the rows.
    """

    stage: str
    evidence: Mapping[str, str]  #: rule and slope rule of the deciding bound
    lower: Tensor  # [S] float64: proven lower bound of every row of the specification
    trust: Trust
    _query: Query  #: of the batch that the example was verified in
    _bounds: Bounds  #: of that batch
    _index: int  #: of the example in it

    # One example's part is cut out when somebody asks for it: most certificates of a large run are never looked at.

    @property
    def _one(self) -> Tensor:
        return torch.tensor([self._index], device=self._query.open.device)

    @cached_property
    def inputs(self) -> InputSet:
        """The input set, a batch of 1."""
        return self._query.inputs.select(self._one)

    @cached_property
    def spec(self) -> Specification:
        """The specification, a batch of 1."""
        return self._query.spec.select(self._one)

    @cached_property
    def bounds(self) -> Bounds:
        """Intervals of every pre-activation with their provenance, a batch of 1."""
        return self._bounds.select(self._one)

    def slopes(self, graph: Graph) -> dict[int, Tensor]:
        """Lower-line slope of every activation node, [*shape]: the alpha of Wong & Kolter (2018), eq. 7."""
        lines = {}
        for node in graph.activations:
            op, interval = graph.nodes[node].op, self.bounds[graph.nodes[node].parents[0]]
            assert isinstance(op, Activation)
            lines[node] = op.relax(interval.lower, interval.upper, self._rule).lower_slope[0]
        return lines

    @property
    def _rule(self) -> SlopeRule:
        return SlopeRule(self.evidence.get("slopes", SlopeRule.FIXED.value))

    def recompute(self, graph: Graph) -> Tensor:
        """The rows' lower bounds [S] again, in float64, from the bounds and slopes kept here alone.

        Raises:
            InputError: the graph is not the one that the certificate is about (its nodes do not fit).
        """
        from verifier.stages import dual, interval
        from verifier.stages.backward import Relaxation
        from verifier.stages.plan import Plan

        graph = graph.to(dtype=torch.float64)
        for node, kept in self.bounds.items():
            if node >= len(graph.nodes) or tuple(kept.lower.shape[1:]) != graph.nodes[node].shape:
                raise InputError(f"the certificate has bounds of a node {node} that this graph does not have")
        query = Query.of(graph, self.inputs, self.spec)
        bounds = self.bounds.to(torch.float64)
        with torch.no_grad():
            if self.evidence.get("rule") == "interval":
                return interval.specification_bound(query, interval.propagate(query, bounds))[0]
            relaxations = {}
            for node in graph.activations:
                op, kept = graph.nodes[node].op, bounds[graph.nodes[node].parents[0]]
                assert isinstance(op, Activation)
                relaxations[node] = Relaxation.of(op.relax(kept.lower, kept.upper, self._rule))
            return dual.specification_rows(query, relaxations, Plan(graph, dual.DEFAULT_MEMORY))[0]
