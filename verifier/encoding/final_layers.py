"""What the integer-programming stages do for one batch: which programs are asked about, and what is found."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from properties import InputSet
from solvers import SolveResult, SolveStatus
from solvers.pool import Task
from verifier.bounds import Bounds
from verifier.budget import Budget
from verifier.encoding.activation import EncodingError
from verifier.encoding.cutting import Rounds, minima, questions
from verifier.encoding.encoder import Encoder
from verifier.encoding.exact import ExactEncoding, encode, unstable
from verifier.encoding.planes import Planes, around
from verifier.encoding.questions import TOLERANCE, Question
from verifier.encoding.relaxation import Executor
from verifier.encoding.sources import ProgramStart, at_input, at_zonotope
from verifier.encoding.value import Mask, Vector
from verifier.graph.cuts import CutLayer
from verifier.query import Query
from verifier.relaxation.influence import influences
from verifier.rounding import evaluation_error, row_error, sizes_at, unit_roundoff

#: times that a row is asked at most, on sets that are no boxes
ROUNDS = 100
#: share of an example's seconds for the linear programs whose planes the integer ones start with
ROOT = 0.25
#: planes, and inequalities of a lifted set, are loosened by this share of what they reach across the box: more than any
#: solver's tolerance (see `solvers.base.Backend.tolerance`), so that rows that are held to it hold the set
LOOSE = 4e-6
#: share of the way to the center by which points of programs that are so loose may be moved into the set
BACK = 2e-5
#: a plane has to cut off this share, more than it is loosened by
MARGIN = 1e-5
#: where they are sought (see `verifier.encoding.planes.around`): an integer program takes longer than a few planes
WAYS = (0.1, 0.3, 1.0)


@dataclass(frozen=True)
class ExactPlan:
    """What is exact in the programs (see `verifier.stages.milp.MilpStage`)."""

    final: Sequence[CutLayer]
    cap: int | None
    before: str
    row_seconds: float | None = None  #: at most, for one row


@dataclass
class PendingQuestion:
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
        plan: ExactPlan,
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
        self.again: dict[int, set[int]] | None = None  # per example, the rows of this round; None: all open ones
        self.outside: dict[int, set[int]] = {}  # those whose optimum lies outside the set

    def run(self, executor: Executor) -> None:
        """All rows; where programs are more than the set again and again, with planes that cut off optima outside."""
        if not all(self.whole):
            self._cut_roots(executor)
        for _ in range(ROUNDS):
            self.outside = {}
            for number, answers in executor.run(self.tasks(), self.decide):
                self.take(number, answers[0])
            if not self.outside or self.budget.spent:
                break
            self.again = self.outside
        self.exhausted |= bool(self.outside)

    def tasks(self) -> Iterator[Task]:
        """One task per open row: examples closest to proof first, within an example the lowest row first."""
        number = 0
        for example in self._order():
            if self.again is not None and example not in self.again:
                continue
            part = _ExamplePrograms(self.plan, self.encoder, self.query, self.bounds, example, self.planes.get(example))
            for row in part.rows():
                if self.again is not None and row not in self.again[example]:
                    continue
                if self.budget.spent:
                    self.exhausted = True
                    return
                if self._settled(example, row):
                    continue
                left = self.budget.example(example) - self.spent[example]
                if self.plan.row_seconds is not None:
                    left = min(left, self.plan.row_seconds - self.took.get((example, row), 0.0))
                if left <= 0:
                    self.exhausted = True
                    break
                cutoff = None if self.cutoffs is None else float(self.cutoffs[example, row])
                question = part.question(row, cutoff)
                if question is None:
                    break
                self.asked[number] = PendingQuestion(question, time.monotonic(), left)
                yield question.task(left)
                number += 1

    def decide(self, number: int, question: int, value: float, point: Vector) -> bool:
        """Evaluate an incumbent's input in the network; True where its example is settled by now."""
        asked = self.asked[number].question
        self._note(asked, point)
        # with no cut-off the minima are wanted, whatever their sign
        return self.cutoffs is not None and bool(self.falsified[asked.example])

    def take(self, number: int, answer: SolveResult) -> None:
        """Keep what an answer is worth."""
        asked = self.asked.pop(number)
        question, example, row = asked.question, asked.question.example, asked.question.row
        took = time.monotonic() - asked.began
        self.spent[example] += took
        self.took[example, row] = self.took.get((example, row), 0.0) + took
        self.status[example][row] = answer.status
        if answer.primal is not None:
            self._note(question, answer.primal)
        bound = question.bound(answer, float(self.seen[example, row])) - float(self.slack[example, row])
        self.lower[example, row] = max(float(self.lower[example, row]), bound)
        outside = not self.whole[example] and (self._cut(question, answer) or not self._reached(example, row))
        if answer.status is SolveStatus.OPTIMAL and question.cutoff is None and math.isfinite(bound) and not outside:
            self.exact[example, row] = answer.dual_bound + question.constant
        if answer.status is SolveStatus.LIMIT:
            self.exhausted = True

    def _cut_roots(self, executor: Executor) -> None:
        """Planes of every example: those that its linear programs start with and come to."""

        def left(example: int) -> float:
            return ROOT * self.budget.example(example) - self.spent[example]

        there = torch.tensor(self.whole).unsqueeze(1)
        query = replace(self.query, open=self.query.open & ~there)
        asked = questions(query, self.bounds, self.encoder, left)
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
            self.outside.setdefault(example, set()).add(row)
        return True

    def _reached(self, example: int, row: int) -> bool:
        """Whether a member is known that is as low as the bound of a row."""
        lowest, best = float(self.lower[example, row]), float(self.seen[example, row])
        return best - lowest <= float(self.slack[example, row]) + 4 * TOLERANCE * (1 + abs(best))

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
            sizes, unit = sizes_at(query.graph, x), unit_roundoff(torch.float64)
            error = row_error(query.spec, sizes[-1], evaluation_error(query.graph, sizes, unit), unit).amax(1)
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


def _lowest(query: Query, bounds: Bounds, example: int) -> Tensor:
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


class _ExamplePrograms:
    """Programs of one example."""

    def __init__(
        self,
        plan: ExactPlan,
        encoder: Encoder,
        query: Query,
        bounds: Bounds,
        example: int,
        planes: Planes | None = None,
    ) -> None:
        index = torch.tensor([example])
        self.plan, self.encoder, self.example, self.planes = plan, encoder, example, planes
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
        if self.planes is not None:
            encoding = replace(encoding, encoding=encoding.encoding.cut(self.planes, LOOSE))
        with torch.no_grad():
            values = self.query.graph.values(self.query.inputs.center())
        point = encoding.point(self._start.clean, values)
        size = 1 + float(np.abs(point).max(initial=0.0))
        found = encoding, encoding.program.violation(point) <= TOLERANCE * size
        if not capped:
            self.shared = found
        return found

    @cached_property
    def _start(self) -> ProgramStart:
        if self.plan.before == "zonotope":
            return at_zonotope(self.query.graph, self.query.inputs, self.bounds, self.plan.final[-1].cut)
        start = at_input(self.query.inputs)
        return replace(start, source=start.source.loosened(LOOSE))


def _most_influential(exact: Mapping[int, Mask], influence: Mapping[int, Tensor], cap: int) -> dict[int, Mask]:
    """The `cap` neurons of highest influence among those marked."""
    nodes = list(exact)
    scores = np.concatenate([np.where(exact[i], influence[i].flatten().numpy(), -1.0) for i in nodes])
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.argsort(-scores, kind="stable")[:cap]] = True
    ends = np.cumsum([len(exact[i]) for i in nodes])[:-1]
    return {i: part & exact[i] for i, part in zip(nodes, np.split(chosen, ends), strict=True)}
