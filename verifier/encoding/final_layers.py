"""What the integer-programming stages do for one batch: which programs are asked about, and what is found."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from solvers import Answer, Status
from solvers.pool import Task
from verifier.bounds import Bounds
from verifier.encoding.encoder import Encoder, EncodingError
from verifier.encoding.exact import ExactEncoding, encode, unstable
from verifier.encoding.questions import TOLERANCE, Question
from verifier.encoding.sources import Start, at_input, at_zonotope
from verifier.encoding.value import Mask, Vector
from verifier.graph.cuts import Layer
from verifier.query import Query
from verifier.rounding import evaluation_error, row_error, sizes_at, unit_roundoff
from verifier.stages.base import Budget
from verifier.stages.influence import influences


@dataclass(frozen=True)
class Plan:
    """What is exact in the programs (see `verifier.stages.milp.MilpStage`)."""

    final: Sequence[Layer]
    cap: int | None
    before: str
    row_seconds: float | None = None  #: at most, for one row


@dataclass
class Asked:
    """A question under way."""

    question: Question
    began: float
    seconds: float


class Work:
    """The rows of one query on their way through a solver.

    Args:
        query: on the CPU, in float64. bounds: of every pre-activation, float64.
        cutoffs: [B, S], or None to ask for the minima themselves.
        slack: [B, S], by which the solver's word may be wrong: bounds are less by so much. Default 0.
    """

    def __init__(
        self,
        plan: Plan,
        query: Query,
        bounds: Bounds,
        budget: Budget,
        cutoffs: Tensor | None,
        slack: Tensor | None = None,
    ) -> None:
        self.slack = torch.zeros(query.open.shape, dtype=torch.float64) if slack is None else slack
        self.plan, self.query, self.bounds, self.budget, self.cutoffs = plan, query, bounds, budget, cutoffs
        self.encoder = Encoder(query.graph)
        self.lower = torch.full(query.open.shape, -math.inf, dtype=torch.float64)
        self.exact = torch.full(query.open.shape, math.nan, dtype=torch.float64)
        self.status: list[list[Status | None]] = [[None] * query.open.shape[1] for _ in range(query.batch)]
        self.exhausted = False
        self.point = query.inputs.inside(query.inputs.center(), torch.float64)  # [B, *input] the lowest members seen
        self.seen, self.worst, error = self._evaluated(query, self.point)  # [B, S] lowest value seen of each row; [B]
        self.falsified = self.worst < -error
        self.spent = [0.0] * query.batch
        self.asked: dict[int, Asked] = {}
        self.proved = torch.zeros_like(query.open)

    def tasks(self) -> Iterator[Task]:
        """One task per open row: examples closest to proof first, within an example the lowest row first."""
        number = 0
        for example in self._order():
            part = _Example(self.plan, self.encoder, self.query, self.bounds, example)
            for row in part.rows():
                if self.budget.spent:
                    self.exhausted = True
                    return
                if self._settled(example, row):
                    continue
                left = self.budget.example(example) - self.spent[example]
                seconds = left if self.plan.row_seconds is None else min(left, self.plan.row_seconds)
                if seconds <= 0:
                    self.exhausted = True
                    break
                cutoff = None if self.cutoffs is None else float(self.cutoffs[example, row])
                question = part.question(row, cutoff)
                if question is None:
                    break
                self.asked[number] = Asked(question, time.monotonic(), seconds)
                yield question.task(seconds)
                number += 1

    def decide(self, number: int, question: int, value: float, point: Vector) -> bool:
        """Evaluate an incumbent's input in the network; True where its example is settled by now."""
        asked = self.asked[number].question
        self._note(asked, point)
        # with no cut-off the minima are wanted, whatever their sign
        return self.cutoffs is not None and bool(self.falsified[asked.example])

    def take(self, number: int, answer: Answer) -> None:
        """Keep what an answer is worth."""
        asked = self.asked.pop(number)
        question, example, row = asked.question, asked.question.example, asked.question.row
        self.spent[example] += time.monotonic() - asked.began
        self.status[example][row] = answer.status
        if answer.primal is not None:
            self._note(question, answer.primal)
        bound = question.bound(answer, float(self.seen[example, row])) - float(self.slack[example, row])
        self.lower[example, row] = max(float(self.lower[example, row]), bound)
        if answer.status is Status.OPTIMAL and question.cutoff is None and math.isfinite(bound):
            self.exact[example, row] = answer.dual_bound + question.constant
        if answer.status is Status.LIMIT:
            self.exhausted = True

    def _order(self) -> list[int]:
        with torch.no_grad():
            worst = [float(_lowest(self.query, self.bounds, i)) for i in range(self.query.batch)]
        return sorted(range(self.query.batch), key=lambda i: -worst[i])

    def _settled(self, example: int, row: int) -> bool:
        """Whether there is no use in asking about a row."""
        if not bool(self.query.open[example, row]):
            return True
        if self.cutoffs is None:
            return False
        clause = self.query.spec.clause == self.query.spec.clause[row]
        return bool(self.falsified[example]) or bool((self.lower[example, clause] > 0).any())

    def _note(self, question: Question, point: Vector) -> None:
        """A solver's point, clipped to the set: what the network says there."""
        example = question.example
        if 0 not in question.encoding.encoding.source.values or np.shape(point) != question.cost.shape:
            return
        point = question.scaled.point(point)
        x = question.encoding.encoding.input_of(point)[None]
        if not bool(x.isfinite().all()):
            return
        part = self.query.select(torch.tensor([example]))
        x = part.inputs.inside(part.inputs.project(x), torch.float64)
        if not bool(part.inputs.contains(x)):
            return
        values, worst, error = self._evaluated(part, x)
        self.seen[example] = torch.minimum(self.seen[example], values[0])
        if worst[0] < self.worst[example]:
            self.worst[example], self.point[example] = worst[0], x[0]
            self.falsified[example] = bool(worst[0] < -error[0])

    @staticmethod
    def _evaluated(query: Query, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [B, S] at x [B, *input], the worst clause [B], and the rounding error of both, [B]."""
        with torch.no_grad():
            y = query.graph.forward(x).flatten(1)
            rows = query.spec.values(y)
            sizes, unit = sizes_at(query.graph, x), unit_roundoff(torch.float64)
            error = row_error(query.spec, sizes[-1], evaluation_error(query.graph, sizes, unit), unit).amax(1)
        return rows, query.spec.worst(rows), error


def _lowest(query: Query, bounds: Bounds, example: int) -> Tensor:
    """The lowest open row of one example by a dual bound."""
    index = torch.tensor([example])
    lower, _ = influences(query.select(index), bounds.select(index))
    return lower.masked_fill(~query.open[index], math.inf).amin()


class _Example:
    """Programs of one example."""

    def __init__(self, plan: Plan, encoder: Encoder, query: Query, bounds: Bounds, example: int) -> None:
        index = torch.tensor([example])
        self.plan, self.encoder, self.example = plan, encoder, example
        self.query, self.bounds = query.select(index), bounds.select(index)
        with torch.no_grad():
            lower, self.influence = influences(self.query, self.bounds)
        self.lower = lower[0]
        self.shared: tuple[ExactEncoding, bool] | None = None

    def rows(self) -> list[int]:
        """Open rows, the lowest bound first."""
        order = self.lower.argsort().tolist()
        return [r for r in order if self.query.open[0, r]]

    def question(self, row: int, cutoff: float | None) -> Question | None:
        """The question about one row; None where the bounds allow no program."""
        try:
            encoding, feasible = self._encoding(row)
        except EncodingError:
            return None
        spec = self.query.spec
        cost, constant = encoding.encoding.cost(
            spec.rows[0, row : row + 1].numpy(), spec.offset[0, row : row + 1].numpy()
        )
        return Question(self.example, row, encoding, cost[0], float(constant[0]), cutoff, feasible)

    def _encoding(self, row: int) -> tuple[ExactEncoding, bool]:
        """The program for one row, and whether the network at the clean input is a point of it."""
        if self.shared is not None:
            return self.shared
        exact = unstable(self.encoder, self.bounds, [i for layer in self.plan.final for i in layer.activations])
        capped = self.plan.cap is not None and sum(int(m.sum()) for m in exact.values()) > self.plan.cap
        if capped and self.plan.cap is not None:
            exact = _most_influential(exact, {i: self.influence[i][0, row] for i in exact}, self.plan.cap)
        encoding = encode(self.encoder, self._start.source, self.bounds, exact)
        with torch.no_grad():
            values = self.query.graph.values(self.query.inputs.center())
        point = encoding.point(self._start.clean, values)
        size = 1 + float(np.abs(point).max(initial=0.0))
        found = encoding, encoding.program.violation(point) <= TOLERANCE * size
        if not capped:
            self.shared = found
        return found

    @cached_property
    def _start(self) -> Start:
        if self.plan.before == "zonotope":
            return at_zonotope(self.query.graph, self.query.inputs, self.bounds, self.plan.final[-1].cut)
        return at_input(self.query.inputs)


def _most_influential(exact: Mapping[int, Mask], influence: Mapping[int, Tensor], cap: int) -> dict[int, Mask]:
    """The `cap` neurons of highest influence among those marked."""
    nodes = list(exact)
    scores = np.concatenate([np.where(exact[i], influence[i].flatten().numpy(), -1.0) for i in nodes])
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.argsort(-scores, kind="stable")[:cap]] = True
    ends = np.cumsum([len(exact[i]) for i in nodes])[:-1]
    return {i: part & exact[i] for i, part in zip(nodes, np.split(chosen, ends), strict=True)}
