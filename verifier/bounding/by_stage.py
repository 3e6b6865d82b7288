"""Bounds by any stage that bounds rows: the entries of a node, and their negatives, as the rows of a specification."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.bounding.asked import Asked, query_about, read_by
from verifier.bounding.errors import estimated, widened
from verifier.bounding.found import Lines, NodeBounds, shaped
from verifier.budget import Budget
from verifier.errors import InputError, UnsupportedError
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.activations import activation_over
from verifier.relaxation.backward import OneSided, pull_back
from verifier.relaxation.dual import start_form
from verifier.relaxation.evidence import BackwardEvidence
from verifier.stages import Stage, StageReport
from verifier.stages.dual import DualStage
from verifier.verdict import Trust

#: numbers in the rows of one question to a stage
_NUMBERS = 1 << 22


class ByStage:
    """One stage on the nodes of one graph, in their order: what it finds of neurons is there for later ones.

    Nodes before the outputs, of which some stages can say nothing, get dual bounds with adaptive slopes then.

    Args:
        stage: that takes rows as far as it can (`Stage.bounding`).
        query: in the stage's precision; its graph ends with the last node that is asked about.
        outputs: the node of the network's outputs. lines: whether functions of the input are wanted.
    """

    def __init__(self, stage: Stage, query: Query, outputs: int, lines: bool, budget: Budget) -> None:
        self.outputs = outputs
        self.stage, self.query, self.graph, self.lines, self.budget = stage, query, query.graph, lines, budget
        self.known, self.exhausted = Bounds(), False
        self.trust = [Trust.CHECKED] * query.batch

    def bounds(self, asked: Asked) -> dict[int, NodeBounds]:
        """Bounds of what is asked; `trust` and `exhausted` say how far they are to be relied on."""
        found = {0: NodeBounds(*self.query.inputs.box(self.graph.dtype))}
        for node in sorted({*asked.nodes, *read_by(self.graph, asked.nodes)}):
            rows = asked.nodes.get(node)
            parent = read_by(self.graph, {node: rows})
            if not parent:
                found[node] = self._by_rows(node, rows)
                continue
            ends = found[parent[0]]
            low, high = interval.step(self.graph, node, {parent[0]: (ends.lower, ends.upper)})
            lines = self._by_rows(node, None).lines if self.lines else None
            found[node] = replace(widened(NodeBounds(low, high), self._error(node, None)), lines=lines)
        return {node: found[node] for node in asked.nodes}

    def _error(self, node: int, rows: Tensor | None) -> Tensor:
        part = replace(self.query, graph=self.graph.until(node))
        return estimated(part.graph, interval.propagate(part, self.known), node, rows)

    def _by_rows(self, node: int, rows: Tensor | None) -> NodeBounds:
        """Bounds of all entries of a node, or of rows [B or 1, S, entries] on them."""
        parts = [self._asked(node, part) for part in self._chunks(node, rows)]
        lower, upper = (torch.cat(ends, 1) for ends in zip(*((p.lower, p.upper) for p in parts), strict=True))
        found = NodeBounds(lower, upper, Lines.stacked([p.lines for p in parts if p.lines is not None]))
        return shaped(found, self.graph.nodes[node].shape if rows is None else None)

    def _chunks(self, node: int, rows: Tensor | None) -> Iterator[Tensor]:  # [B or 1, S, entries] each
        size = self.graph.nodes[node].size
        at_once = max(1, _NUMBERS // (2 * size * self.query.batch))
        if rows is not None:
            yield from rows.split(at_once, 1)
            return
        like = self.query.spec.rows
        for index in torch.arange(size, device=like.device).split(at_once):
            yield torch.nn.functional.one_hot(index, size).to(like).unsqueeze(0)

    def _asked(self, node: int, rows: Tensor) -> NodeBounds:
        """What the stage says of rows [B or 1, S, entries] of one node from both sides."""
        query = query_about(self.graph.until(node), self.query.inputs, torch.cat([rows, -rows], 1))
        stage = self._stage_for(query)
        report = stage.run(query, self.known, self.budget)
        assert report.lower is not None
        self.known = self.known.intersect(report.bounds)
        self.exhausted |= report.exhausted
        trusts = [min(report.trust, t) for t in report.bounds.trusts(query.batch)]
        self.trust = [min(a, b) for a, b in zip(self.trust, trusts, strict=True)]
        lower, upper = report.lower.chunk(2, 1)
        paid, error = torch.tensor([t is Trust.CHECKED for t in trusts], device=lower.device), self._error(node, rows)
        found = widened(NodeBounds(lower, -upper), torch.where(paid.unsqueeze(1), 0.0, error))
        return replace(found, lines=self._lines(query, report).apart(error) if self.lines else None)

    def _stage_for(self, query: Query) -> Stage:
        if self.stage.supports(query):
            return self.stage
        if query.graph.output != self.outputs or not query.graph.activations:  # too early for the method
            return DualStage(SlopeRule.ADAPTIVE)
        raise UnsupportedError(
            f"{self.stage.name} can say nothing about the outputs of this network over this set; another method may "
            f"({self.stage.name}: {self.stage.summary()})"
        )

    def _lines(self, query: Query, report: StageReport) -> Lines:
        """The functions of the input that the evidence of a report amounts to."""
        if not isinstance(report.evidence, BackwardEvidence):
            raise InputError(
                f"{self.stage.name} proves its bounds here without linear functions of the input: leave out linear, or "
                'take a method that has them, such as "crown"'
            )
        graph, rows, bounds = query.graph, query.spec.rows.to(query.graph.dtype), report.bounds
        lowerings = {i: report.evidence.lowering(*activation_over(graph, bounds, i), i) for i in graph.activations}
        state, constant = pull_back(graph, lowerings, graph.output, OneSided(start_form(graph, rows)), rows)
        lower, upper = constant.expand(rows.shape[:2]).chunk(2, 1)
        shape = (*rows.shape[:2], *query.inputs.shape)
        form = rows.new_zeros(shape) if state is None else state.one_sided().form.dense().expand(shape)
        below, above = form.chunk(2, 1)
        return Lines(below, lower, -above, -upper)
