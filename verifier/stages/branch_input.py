"""Branch and bound on the input: for networks of few inputs, where halving boxes soon leaves little to relax."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from verifier.bounds import Bounds
from verifier.branching.evidence import BoxEvidence
from verifier.branching.inputs_search import BoxSearch, OpenBoxes, Proved
from verifier.budget import Budget
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.dual import DEFAULT_MEMORY, intermediate
from verifier.rounding import evaluation_error, margin_error, row_error, sizes_at, unit_roundoff
from verifier.stages.attack import descend
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Trust


@register
class BranchInputStage(Stage):
    """Splits the input boxes until dual bounds prove every clause on every part, by whichever of its rows.

    Branch and bound on the input (input BaB).

    Complete for piecewise linear networks with margins clearly above rounding, in time that grows quickly with the
    number of inputs. The boxes of all examples are worked on together, thousands at once. Linear bounds cut off what
    they prove before a box is split. Counterexamples are sought by sampling and descent, then where the worst boxes'
    bounds are attained. The proof is a tree of boxes.

    Args:
        share: of an example's seconds that this stage may take; the rest is for the stages behind it.
        margin: a row counts as positive above so many times the margin's estimated rounding error.
        memory: bytes for open boxes.
        most_inputs: it supports boxes with at most so many inputs that vary.
    """

    name: ClassVar[str] = "branch-input"
    aliases: ClassVar[tuple[str, ...]] = ("input-bab",)
    cost_rank: ClassVar[int] = 57
    precision: ClassVar[torch.dtype | None] = torch.float64
    default: ClassVar[bool] = False

    def __init__(
        self, share: float = 1.0, margin: float = 2.0, memory: int = DEFAULT_MEMORY, most_inputs: int = 40
    ) -> None:
        self.share, self.margin, self.memory, self.most_inputs = share, margin, memory, most_inputs

    def supports(self, query: Query) -> bool:
        if not query.inputs.is_box:
            return False
        low, high = query.inputs.box()
        return int((high > low).flatten(1).any(0).sum()) <= self.most_inputs

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        home, here = query.open.device, torch.device("cpu")
        if home != here:
            query, bounds = query.on(here), bounds.on(here)
        deadline = time.monotonic() + self.share * budget.together(range(query.batch)).left
        with torch.no_grad():
            tight = intermediate(query, bounds, Budget(deadline - time.monotonic()))
            counterexamples = _BoxPointSearch(query)
            done = counterexamples.start()
            proved = self._search(query, tight, counterexamples, deadline) if not done.all() else None
        nothing = StageReport(
            torch.full(query.open.shape, -torch.inf, dtype=torch.float64), tight, candidates=counterexamples.best,
            trust=Trust.FLOAT,
        )  # fmt: skip
        if proved is None:
            return nothing.on(home)
        evidence = BoxEvidence(tuple(proved.trees.get(b) for b in range(query.batch)))
        lower = query.spec.alone(proved.clauses)
        found = replace(nothing, lower=lower, clauses=proved.clauses, evidence=evidence, exhausted=proved.exhausted)
        return found.on(home)

    def _search(self, query: Query, tight: Bounds, counterexamples: _BoxPointSearch, deadline: float) -> Proved:
        # every box lies in its example's set, and its intervals in the set's: so do the errors of what bounds it
        enough = self.margin * margin_error(query, interval.propagate(query, tight))
        known = {i: (tight[i].lower, tight[i].upper) for i in query.graph.pre_activations}
        left = query if not counterexamples.done.any() else Query(
            query.graph, query.inputs, query.spec, query.open & ~counterexamples.done.unsqueeze(1)
        )  # fmt: skip
        return BoxSearch(left, known, enough, self.memory).run(counterexamples.look, deadline)


class _BoxPointSearch:
    """Looks for counterexamples of all examples, each its own, until it has one beyond rounding."""

    #: points at the start; steps and length of a descent; points that are followed; rounds between descents, later on
    SAMPLES, STEPS, STEP, POINTS, EVERY = 1024, 20, 0.1, 16, 16

    def __init__(self, query: Query) -> None:
        self.query, self.round = query, 0
        self.best = query.inputs.center().to(query.graph.dtype).clone()
        self.value = torch.full((query.batch,), torch.inf, dtype=torch.float64)
        self.done = torch.zeros(query.batch, dtype=torch.bool)

    def start(self) -> Tensor:
        """Sample and descend; returns the examples that are done with, [B]."""
        generator, batch = torch.Generator().manual_seed(0), self.query.batch
        samples = max(16, self.SAMPLES // batch)
        example = torch.arange(batch).repeat_interleave(samples)
        inputs = self.query.inputs.select(example)
        points = torch.cat([inputs.sample(generator), self.query.inputs.center().double()])
        example = torch.cat([example, torch.arange(batch)])
        value = self._keep(example, points)
        order = value.argsort()
        # the best of each example: stable by example, then the first so many of each
        order = order[example[order].argsort(stable=True)]
        rank = torch.arange(len(order)) - torch.searchsorted(example[order], example[order])
        return self._descend(example[order[rank < self.POINTS]], points[order[rank < self.POINTS]])

    def look(self, boxes: OpenBoxes, slope: Tensor) -> Tensor:  # D boxes, [D, n] -> [B] bool
        """At the corners where the forms are least, and at the centers; now and then a descent from the best."""
        shape = self.query.graph.input_shape
        corner = torch.where(slope > 0, boxes.lower, boxes.upper)
        points = torch.cat([corner, 0.5 * boxes.lower + 0.5 * boxes.upper]).unflatten(1, shape)
        example = boxes.example.repeat(2)
        value = self._keep(example, points)
        if self.round % self.EVERY == 0 or self.round & (self.round + 1) == 0:
            near = value.argsort()[: self.POINTS]
            near = near[~self.done[example[near]]]
            if len(near):
                self._descend(example[near], points[near])
        self.round += 1
        return self.done

    def _descend(self, example: Tensor, points: Tensor) -> Tensor:
        part = self.query.select(example)
        with torch.enable_grad():
            found, _ = descend(part, part.inputs.project(points.to(self.best)), self.STEPS, self.STEP)
        self._keep(example, found.detach())
        return self.done

    def _keep(self, example: Tensor, points: Tensor) -> Tensor:
        """Worst clause values [k] of points [k, *input]; keeps each example's best, and sees which are clear."""
        points = self.query.inputs.select(example).project(points.to(self.best))
        spec = self.query.spec.select(example)
        value = spec.worst(spec.values(self.query.graph.forward(points).flatten(1))).double()
        value = value.nan_to_num(nan=torch.inf)
        least = torch.full_like(self.value, torch.inf).scatter_reduce(0, example, value, "amin")
        for b in (least < self.value).nonzero().squeeze(1).tolist():
            at = int(torch.where(example == b, value, torch.inf).argmin())
            self.value[b], self.best[b] = value[at], points[at]
        self._judge()
        return value

    def _judge(self) -> None:
        low = ((self.value < 0) & ~self.done).nonzero().squeeze(1)
        if len(low) == 0:
            return
        part = self.query.select(low)
        sizes, unit = sizes_at(part.graph, self.best[low]), unit_roundoff(part.graph.dtype)
        error = row_error(part.spec, sizes[-1], evaluation_error(part.graph, sizes, unit), unit).amax(1)
        self.done[low] = self.value[low] < -2 * error
