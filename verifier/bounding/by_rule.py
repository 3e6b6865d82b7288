"""Bounds by backward passes with slopes by a rule: of any nodes, in one sweep, differentiable where that is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.bounding.asked import Asked, read_by
from verifier.bounding.by_interval import constant, intervals, over_intervals
from verifier.bounding.errors import estimated, widened
from verifier.bounding.found import Lines, NodeBounds, joined, shaped
from verifier.budget import Budget, OutOfTime
from verifier.forms import Dense, Identity, Selected, Windows
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.backward import TwoSided, pull_back
from verifier.relaxation.dual import DualPass
from verifier.relaxation.plan import PassPlan
from verifier.relaxation.ranges import Range
from verifier.relaxation.roundoff import Roundoffs, rigorous, roundoffs_for
from verifier.verdict import Trust


def by_rule(
    passed: DualPass, query: Query, asked: Asked, differentiable: bool, budget: Budget
) -> tuple[dict[int, NodeBounds], Trust, bool]:
    """Bounds of what is asked, their trust, and whether time ran out: what no pass has reached is bounded by intervals.

    Args:
        query: its graph ends with the last node that is asked about.
        differentiable: as floating point computes them; otherwise what rounding may cost is taken off.
    """
    plan = PassPlan(query.graph, passed.memory)
    parts, exhausted = [], False
    for index in torch.arange(query.batch, device=query.open.device).split(plan.examples):
        sweep = _Sweep(passed, query.select(index), plan, asked.lines, differentiable, budget)
        parts.append(sweep.bounds(asked.select(index)))
        exhausted |= sweep.exhausted
    trust = Trust.CHECKED if rigorous(query) and not differentiable else Trust.FLOAT
    return {node: joined([part[node] for part in parts]) for node in asked.nodes}, trust, exhausted


class _Sweep:
    """The relaxation of one chunk of examples, and bounds of its nodes."""

    def __init__(
        self, passed: DualPass, query: Query, plan: PassPlan, lines: bool, differentiable: bool, budget: Budget
    ) -> None:
        self.query, self.graph, self.plan, self.lines, self.budget = query, query.graph, plan, lines, budget
        self.roundoffs = None if differentiable else roundoffs_for(query)
        with budget.enforced():
            self.tight, self.relaxations = passed.tighten(query, Bounds(), plan, self.roundoffs)
        self.exhausted = budget.spent
        #: bounds of every node, to estimate errors with; None: they are paid for, or wanted as they are
        self.ranges = None if differentiable or self.roundoffs else interval.propagate(query, self.tight)

    def bounds(self, asked: Mapping[int, Tensor | None]) -> dict[int, NodeBounds]:
        found = {0: NodeBounds(*self.query.inputs.box(self.graph.dtype))}
        for node in sorted({*asked, *read_by(self.graph, asked)}):
            rows = asked.get(node)
            parent = read_by(self.graph, {node: rows})
            if not parent:
                found[node] = self._paid(node, rows, self._backward(node, rows))
                continue
            # a function of one variable is bounded best by its range; lines of it are those of the sweep
            ends = found[parent[0]]
            lines = self._paid(node, None, self._backward(node, None)).lines if self.lines else None
            found[node] = replace(self._paid(node, None, NodeBounds(*self._step(node, ends))), lines=lines)
        return {node: found[node] for node in asked}

    def _step(self, node: int, ends: NodeBounds) -> Range:
        """The range of an activation over bounds of what it reads."""
        ranges = {self.graph.nodes[node].parents[0]: (ends.lower, ends.upper)}
        return interval.step(self.graph, node, ranges) if self.roundoffs is None else self.roundoffs.step(node, ranges)

    def _paid(self, node: int, rows: Tensor | None, found: NodeBounds) -> NodeBounds:
        """With what is known besides, and less what rounding may have cost where that has not been taken off."""
        if rows is None and node in self.tight and node != self.graph.output:
            known = self.tight[node]  # which has not paid either
            found = replace(found, lower=found.lower.maximum(known.lower), upper=found.upper.minimum(known.upper))
        if self.ranges is None:
            return found
        return widened(found, estimated(self.graph, self.ranges, node, rows))

    def _backward(self, node: int, rows: Tensor | None) -> NodeBounds:
        """Bounds of all entries of a node, or of rows [B or 1, S, entries] on them."""
        parts, reached = [], 0
        try:
            with self.budget.enforced(finish=True):
                for start in self._starts(node, rows):
                    parts.append(self._pulled(node, start))
                    reached += parts[-1].lower.shape[1]
        except OutOfTime:
            self.exhausted = True
            parts.append(self._unreached(node, rows, reached))
        lower, upper = (torch.cat(ends, 1) for ends in zip(*((p.lower, p.upper) for p in parts), strict=True))
        lines = [p.lines for p in parts if p.lines is not None]
        return shaped(
            NodeBounds(lower, upper, Lines.stacked(lines)), None if rows is not None else self.graph.nodes[node].shape
        )

    def _unreached(self, node: int, rows: Tensor | None, first: int) -> NodeBounds:
        """Bounds [B, S] by intervals of the entries, or rows, from the given one on."""
        found = over_intervals(self.query, node, None if rows is None else rows[:, first:], *self._intervals)
        lower, upper = found.lower.flatten(1), found.upper.flatten(1)
        flat = NodeBounds(lower[:, first:], upper[:, first:]) if rows is None else NodeBounds(lower, upper)
        return replace(flat, lines=constant(flat, self.query)) if self.lines else flat

    @cached_property
    def _intervals(self) -> tuple[dict[int, Range], Roundoffs | None]:
        """Bounds of every node by intervals and what is known, and what they have paid."""
        roundoffs = None if self.roundoffs is None else roundoffs_for(self.query)
        return intervals(self.query, self.tight, roundoffs), roundoffs

    def _starts(self, node: int, rows: Tensor | None) -> Iterator[TwoSided]:
        """The functionals to bound, as many at once as the plan has room for."""
        shape, size, batch = self.graph.nodes[node].shape, self.graph.nodes[node].size, self.query.batch
        like = self.query.inputs.box(self.graph.dtype)[0]
        if rows is not None:
            for part in rows.to(like).split(self.plan.rows(node, batch), 1):
                yield TwoSided(Dense(part.unflatten(2, shape)))
            return
        if self.plan.use_patches(node, size):
            yield TwoSided(Identity(shape, like))
            return
        windows = self.plan.use_windows(node)
        for index in torch.arange(size, device=like.device).split(self.plan.rows(node, batch, windows)):
            every = index.expand(batch, -1)
            yield TwoSided(Windows.selected(every, shape, like) if windows else Selected(every, shape, like))

    def _pulled(self, node: int, start: TwoSided) -> NodeBounds:
        """Bounds [B, S] of one state, with its functions of the input where they are wanted."""
        inputs, like = self.query.inputs, self.query.inputs.box(self.graph.dtype)[0]
        state, constant = pull_back(self.graph, self.relaxations, node, start, like, roundoffs=self.roundoffs)
        rows = 2 * start.mid.rows
        constant = constant.expand(len(like), rows)
        both = constant if state is None else state.ended(inputs) + constant
        lower, upper = both.chunk(2, 1)
        if not self.lines:
            return NodeBounds(lower, -upper)
        if state is None:
            form = like.new_zeros(len(like), rows, *inputs.shape)
        else:
            form = state.one_sided().form.dense().expand(len(like), -1, *inputs.shape)
        below, above = form.chunk(2, 1)
        b_lower, b_upper = constant.chunk(2, 1)
        return NodeBounds(lower, -upper, Lines(below, b_lower, -above, -b_upper))
