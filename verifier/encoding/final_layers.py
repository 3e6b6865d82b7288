"""What the integer-programming stages do for one batch: which programs are asked about, and what is found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from properties import InputSet
from solvers import SolveResult, SolveStatus
from solvers.pool import Task
from verifier.bound_map import Bounds
from verifier.budget import Budget, OutOfTime
from verifier.encoding.cut_and_solve import cut_and_solve
from verifier.encoding.cutting import Rounds, minima, questions
from verifier.encoding.encoder import Encoder
from verifier.encoding.exact_programs import ExactPlan, ExamplePrograms
from verifier.encoding.planes import Planes, around
from verifier.encoding.questions import TOLERANCE, Question
from verifier.encoding.relaxation import Executor
from verifier.encoding.value import Vector
from verifier.query import Query
from verifier.relaxation.influence import influences
from verifier.rounding import row_error_at, unit_roundoff

#: times that a row is asked at most, on sets that are no boxes
ROUNDS = 100
#: share of an example's seconds for the linear programs whose planes the integer ones start with
ROOT = 0.25
#: share of the way to the center by which points of programs that are so loose may be moved into the set
BACK = 2e-5
#: a plane has to cut off this share, more than it is loosened by
MARGIN = 1e-5
#: where they are sought (see `verifier.encoding.planes.around`): an integer program takes longer than a few planes
WAYS = (0.1, 0.3, 1.0)

#: an example of the query and a row of its specification
Row = tuple[int, int]


@dataclass
class PendingQuestion:
    """A question under way."""

    question: Question
    began: float


class Work:
    """The rows of one query on their way through a solver.

    Args:
        query: on the CPU, in float64. bounds: of every pre-activation, float64.
        cutoffs: [B, S], or None to ask for the minima themselves.
        solver_error: [B, S], by which the solver's word may be wrong: bounds are less by so much. Default 0.
    """

    def __init__(
        self,
        plan: ExactPlan,
        query: Query,
        bounds: Bounds,
        budget: Budget,
        cutoffs: Tensor | None,
        solver_error: Tensor | None = None,
    ) -> None:
        none = torch.zeros(query.open.shape, dtype=torch.float64)
        self.solver_error = none if solver_error is None else solver_error
        self.plan, self.query, self.bounds, self.budget, self.cutoffs = plan, query, bounds, budget, cutoffs
        self.encoder = Encoder(query.graph)
        self.lower = torch.full(query.open.shape, -math.inf, dtype=torch.float64)
        self.exact = torch.full(query.open.shape, math.nan, dtype=torch.float64)
        self.status: list[list[SolveStatus | None]] = [[None] * query.open.shape[1] for _ in range(query.batch)]
        self.exhausted = False
        clean = query.inputs.inside(query.inputs.center(), torch.float64)
        self.point = clean.clone()  # [B, *input] the lowest members seen; a copy, for the set may have given its own
        self.seen, self.worst, error = self._evaluated(query, self.point)  # [B, S] lowest value seen of each row; [B]
        self.falsified = (self.worst < -error) & query.inputs.contains(self.point)
        self.spent = [0.0] * query.batch
        self.took: dict[tuple[int, int], float] = {}  # seconds of each row's programs
        self.asked: dict[int, PendingQuestion] = {}
        self.proved = torch.zeros_like(query.open)
        #: whose programs hold the set and no more: planes cannot say more
        self.whole = [self._whole(i) for i in range(query.batch)]
        self.planes: dict[int, Planes] = {}  # per example, of the other sets
        self.outside: set[Row] = set()  # of this round, those whose optimum lies outside the set and is cut off

    def run(self, executor: Executor) -> None:
        """All rows; where programs are more than the set again and again, with planes that cut off optima outside.

        What is found stays where the time is over in the middle of it.
        """
        every = [(example, row) for example, row in self.query.open.nonzero().tolist()]
        try:
            if not all(self.whole):
                self._cut_roots(executor)
            for _ in cut_and_solve(every, lambda rows: self._round(rows, executor), self._separate, ROUNDS):
                pass
        except OutOfTime:
            self.exhausted = True
        self.exhausted |= bool(self.outside)

    def _round(self, rows: Iterable[Row], executor: Executor) -> Iterator[Row]:
        """Ask about some rows, with all the planes that are known by now; yields those that were answered."""
        asked, self.outside = set(rows), set()
        for number, answers in executor.run(self.tasks(asked), self.decide):
            yield self.take(number, answers[0])

    def _separate(self, row: Row) -> tuple[Row, Callable[[], Row] | None]:
        """Its planes are with the example's already: the next round knows those of all of its rows."""
        return row, (lambda: row) if row in self.outside and not self.budget.spent else None

    def tasks(self, rows: Set[Row] | None = None) -> Iterator[Task]:
        """One task per open row: examples closest to proof first, within an example the lowest row first.

        Args:
            rows: those to ask about; default all.
        """
        number = 0
        examples = None if rows is None else {example for example, _ in rows}
        for example in self._order():
            if examples is not None and example not in examples:
                continue
            programs = self._programs(example)
            if programs is None:
                continue
            for row in programs.rows():
                if rows is not None and (example, row) not in rows:
                    continue
                if self.budget.spent:
                    self.exhausted = True
                    return
                if self._settled(example, row):
                    continue
                left = self._left(example, row)
                if left <= 0:
                    self.exhausted = True
                    break
                task = self._task(number, programs, row, left)
                if task is None:
                    break
                yield task
                number += 1

    def _programs(self, example: int) -> ExamplePrograms | None:
        """None where its time is over before they are ready."""
        began, planes = time.monotonic(), self.planes.get(example)
        try:
            with Budget(self._left(example)).enforced():
                return ExamplePrograms(self.plan, self.encoder, self.query, self.bounds, example, planes)
        except OutOfTime:
            self.exhausted = True
        finally:
            self.spent[example] += time.monotonic() - began
        return None

    def _task(self, number: int, programs: ExamplePrograms, row: int, left: float) -> Task | None:
        """One row's question, as number `number`; None where the bounds allow no program, or building it is too long.

        Args:
            left: seconds to build and to solve it.
        """
        began, example = time.monotonic(), programs.example
        cutoff = None if self.cutoffs is None else float(self.cutoffs[example, row])
        try:
            with Budget(left).enforced():
                question = programs.question(row, cutoff)
                if question is None:
                    return None
                task = question.task(left - (time.monotonic() - began))
        except OutOfTime:
            self.exhausted, self.status[example][row] = True, SolveStatus.LIMIT
            self._account(example, row, began)
            return None
        self.asked[number] = PendingQuestion(question, began)
        return task

    def _left(self, example: int, row: int | None = None) -> float:
        """Seconds that an example may still take, or one of its rows."""
        left = self.budget.example(example) - self.spent[example]
        if row is None or self.plan.row_seconds is None:
            return left
        return min(left, self.plan.row_seconds - self.took.get((example, row), 0.0))

    def _account(self, example: int, row: int, began: float) -> None:
        took = time.monotonic() - began
        self.spent[example] += took
        self.took[example, row] = self.took.get((example, row), 0.0) + took

    def decide(self, number: int, question: int, value: float, point: Vector) -> bool:
        """Evaluate an incumbent's input in the network; True where its example is settled by now."""
        asked = self.asked[number].question
        self._note(asked, point)
        # with no cut-off the minima are wanted, whatever their sign
        return self.cutoffs is not None and bool(self.falsified[asked.example])

    def take(self, number: int, answer: SolveResult) -> Row:
        """Keep what an answer is worth; returns the row that it is about."""
        asked = self.asked.pop(number)
        question, example, row = asked.question, asked.question.example, asked.question.row
        self._account(example, row, asked.began)
        self.status[example][row] = answer.status
        if answer.primal is not None:
            self._note(question, answer.primal)
        bound = question.bound(answer, float(self.seen[example, row])) - float(self.solver_error[example, row])
        self.lower[example, row] = max(float(self.lower[example, row]), bound)
        outside = not self.whole[example] and (self._cut(question, answer) or not self._reached(example, row))
        if answer.status is SolveStatus.OPTIMAL and question.cutoff is None and math.isfinite(bound) and not outside:
            self.exact[example, row] = answer.dual_bound + question.constant
        if answer.status is SolveStatus.LIMIT:
            self.exhausted = True
        return example, row

    def _cut_roots(self, executor: Executor) -> None:
        """Planes of every example: those that its linear programs start with and come to."""

        def left(example: int) -> float:
            return ROOT * self.budget.example(example) - self.spent[example]

        def late(example: int, seconds: float) -> None:
            self.spent[example] += seconds

        there = torch.tensor(self.whole).unsqueeze(1)
        query = replace(self.query, open=self.query.open & ~there)
        asked = questions(query, self.bounds, self.encoder, left, late)
        for solved in minima(query, self.bounds, query.graph.output, asked, executor, left, Rounds()):
            example, planes = solved.asked.example, solved.asked.planes
            self.spent[example] += solved.seconds
            if planes is not None:
                self.planes[example] = planes

    def _whole(self, example: int) -> bool:
        inputs = self.query.inputs
        at_set = self.plan.before == "relaxation"
        return inputs.is_box or (at_set and inputs.select(torch.tensor([example])).lifted() is not None)

    def _cut(self, question: Question, answer: SolveResult) -> bool:
        """Whether the optimum's input lies outside the set; then the row is to be asked again, where that may help."""
        example, row, encoding = question.example, question.row, question.encoding.encoding
        primal = answer.primal
        if answer.status is not SolveStatus.OPTIMAL or primal is None or np.shape(primal) != question.cost.shape:
            return False
        x = encoding.input_of(question.scaled.point(primal))[None]
        if not bool(x.isfinite().all()):
            return False
        part = self.query.select(torch.tensor([example]))
        lowest = float(self.lower[example, row])
        if self._reached(example, row):
            return False
        planes, cut = around(part.inputs, x, _gradient(part, x, row), MARGIN, WAYS)
        if not cut[0]:
            return False
        self.planes[example] = self.planes.get(example, Planes.none(part.inputs)).joined(planes)
        if not self._settled(example, row) and (self.cutoffs is None or lowest <= 0):
            self.outside.add((example, row))
        return True

    def _reached(self, example: int, row: int) -> bool:
        """Whether a member is known that is as low as the bound of a row."""
        lowest, best = float(self.lower[example, row]), float(self.seen[example, row])
        return best - lowest <= float(self.solver_error[example, row]) + 4 * TOLERANCE * (1 + abs(best))

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
        member = _member_near(part.inputs, x)
        if member is None:
            return
        x = member
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
            error = row_error_at(query.graph, query.spec, x, unit_roundoff(torch.float64)).amax(1)
        return rows, query.spec.worst(rows), error


def _member_near(inputs: InputSet, x: Tensor) -> Tensor | None:
    """A proven member near x [1, *input], which a solver holds to be one within its tolerance; or None.

    Rather x itself, or what a step towards the center makes of it, than a projection, which may go far.
    """
    center = inputs.center().to(x)
    for share in (0.0, BACK):
        near = inputs.inside(x + share * (center - x), torch.float64)
        if bool(inputs.contains(near)):
            return near
    near = inputs.inside(inputs.project(x), torch.float64)
    return near if bool(inputs.contains(near)) else None


def _lowest(query: Query, bounds: Bounds, example: int) -> Tensor:  # []
    """The lowest open row of one example by a dual bound."""
    index = torch.tensor([example])
    lower, _ = influences(query.select(index), bounds.select(index))
    return lower.masked_fill(~query.open[index], math.inf).amin()


def _gradient(query: Query, x: Tensor, row: int) -> Tensor:
    """The slope of one row at x [1, *input], for one example."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = query.spec.values(query.graph.forward(x).flatten(1))[0, row]
        slope = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
    return torch.zeros_like(x) if slope is None else slope
