"""Solves in this process, and moves on to worker processes once that pays."""

from __future__ import annotations

import itertools
import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType

from solvers.base import OnIncumbent, Session, SolveResult, SolveStatus
from solvers.base import backend as find_backend
from solvers.known import elsewhere
from solvers.pool import Decide, Pool, Task
from solvers.program import Vector
from solvers.warm import SHELF

#: seconds of solving after which workers are started: about what it costs to start them, so that starting too late and
#: starting for nothing both cost at most twice the best
PATIENCE = 0.5

#: rows times entries of a program beyond which one question may hold up this process for a good part of a second, in
#: which nothing can stop it: the simplex method looks at its limit, but at no signal, and an integer program's presolve
#: and first relaxation look at nothing. Dense layers of 65,000 entries take 0.4 s to the second callback, linear
#: programs ten times as large about as long
_LINEAR, _INTEGER = 1e9, 5e7


class Inline:
    """`solvers.pool.Pool.run` without processes: one task after the other, in this one.

    A solver that hangs past its limit holds up everything: for programs that are solved in a moment.
    """

    def __init__(self, backend: str = "highs") -> None:
        self.backend = find_backend(backend)

    def run(self, tasks: Iterable[Task], on_incumbent: Decide | None = None) -> Iterator[tuple[int, list[SolveResult]]]:
        """Yields (task number, answers of its questions), in order. Errors of the backend are answers: FAILED."""
        for number, task in enumerate(tasks):
            yield number, self.solve(task, None if on_incumbent is None else partial(on_incumbent, number))

    def solve(self, task: Task, decide: Callable[[int, float, Vector], bool] | None = None) -> list[SolveResult]:
        """The answers to one task's questions; `decide` is asked with (question, objective value, point [n])."""
        answers: list[SolveResult] = []
        deadline = time.monotonic() + (float("inf") if task.left is None else task.left)
        try:
            with self.backend.load(task.program) as session:
                for question in range(len(task.costs)):
                    told = None if decide is None else partial(decide, question)
                    answers.append(self._ask(session, task, question, deadline - time.monotonic(), told))
        except Exception:
            failed = SolveResult(SolveStatus.FAILED, message=traceback.format_exc())
            answers += [failed] * (len(task.costs) - len(answers))
        return answers

    @staticmethod
    def _ask(session: Session, task: Task, question: int, left: float, decide: OnIncumbent | None) -> SolveResult:
        if left <= 0:
            return SolveResult(SolveStatus.LIMIT, message="the task's seconds ran out before this question")
        limit = min(left, float("inf") if task.question_seconds is None else task.question_seconds)
        if task.starts is not None:
            session.start(task.starts[question])
        return session.minimise(
            task.costs[question],
            seconds=None if limit == float("inf") else limit,
            stop_above=None if task.stop_above is None else float(task.stop_above[question]),
            on_incumbent=decide,
        )

    def close(self) -> None:
        """Nothing is held."""


class Adaptive:
    """In this process at first; in worker processes from the moment when solving has taken as long as they cost.

    Programs that could hold up this process are theirs at once: a worker can be ended at any moment. Workers stay for
    the next who solves. A backend that workers would not find, such as one of a notebook, solves everything in this
    process, where it alone sees to its limits.

    Args:
        workers: processes, None: one per core; 0: none, but for one where a program may not be over in its time here.
        backend: as for `solvers.backend`. patience: seconds of solving before workers are started.
    """

    def __init__(self, workers: int | None = None, backend: str = "highs", patience: float = PATIENCE) -> None:
        self.workers, self.backend, self.patience = workers, backend, patience
        self.inline = Inline(backend)
        self.pool: Pool | None = None
        self.running = 0  # runs of the pool that are not at their end

    def run(self, tasks: Iterable[Task], on_incumbent: Decide | None = None) -> Iterator[tuple[int, list[SolveResult]]]:
        """Yields (task number, answers of its questions) as tasks finish; `tasks` is drawn lazily."""
        source, spent, done = iter(tasks), 0.0, 0
        while self.workers == 0 or (self.pool is None and spent < self.patience):
            task = next(source, None)
            if task is None:
                return
            if self._holds_up(task):
                source = itertools.chain([task], source)
                break
            began = time.monotonic()
            answers = self.inline.solve(task, None if on_incumbent is None else partial(on_incumbent, done))
            spent += time.monotonic() - began
            yield done, answers
            done += 1
        first = next(source, None)
        if first is None:
            return
        rest = itertools.chain([first], source)
        moved = None if on_incumbent is None else partial(_moved, on_incumbent, done)
        if self.pool is None and not elsewhere(self.backend):
            for number, answers in self.inline.run(rest, moved):
                yield done + number, answers
            return
        if self.pool is None:
            self.pool = SHELF.take(1 if self.workers == 0 else self.workers, self.backend)
        self.running += 1
        for number, answers in self.pool.run(rest, moved):
            yield done + number, answers
        self.running -= 1

    def close(self) -> None:
        """Gives the workers back, where there are any; ends them where some run was left."""
        if self.pool is None:
            return
        pool, self.pool = self.pool, None
        if self.running:
            pool.close()
        else:
            SHELF.give(pool)

    def _holds_up(self, task: Task) -> bool:
        """Whether this process may not be its own for long: nothing it should risk, unless it is told to and may."""
        if self.workers == 0 and task.until == math.inf:
            return False
        work = float(task.program.rows) * task.program.matrix.nnz
        most = _INTEGER if task.program.integer.any() else _LINEAR
        return work > most or not self.inline.backend.interruptible

    def __enter__(self) -> Adaptive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def minimum(task: Task, backend: str = "highs") -> SolveResult:
    """The answer to the first question of one task: here, or by a worker where that could take longer than it may."""
    with Adaptive(0, backend) as executor:
        ((_, answers),) = executor.run([task])
    return answers[0]


def _moved(decide: Decide, first: int, task: int, question: int, value: float, point: Vector) -> bool:
    """`decide` for a pool whose task 0 is number `first`."""
    return decide(first + task, question, value, point)
