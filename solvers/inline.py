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
from solvers.pool import Decide, Pool, Task
from solvers.program import Vector

#: seconds of solving after which workers are started: about what it costs to start them, so that starting too late and
#: starting for nothing both cost at most twice the best
PATIENCE = 0.5

#: entries of an integer program's matrix beyond which solvers spend seconds before they look at their limits: one that
#: has to be over in time is a worker's from the start, who can be ended
_LARGE = 100_000


class Inline:
    """`solvers.pool.Pool.run` without processes: one task after the other, in this one.

    A solver that hangs past its limit holds up everything: for programs that are solved in seconds.
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

    Large integer programs that have to be over at some time are theirs at once.

    Args:
        workers: processes; 0: never any, None: one per core. backend: as for `solvers.backend`.
        patience: seconds of solving before workers are started.
    """

    def __init__(self, workers: int | None = None, backend: str = "highs", patience: float = PATIENCE) -> None:
        self.workers, self.backend, self.patience = workers, backend, patience
        self.inline = Inline(backend)
        self.pool: Pool | None = None

    def run(self, tasks: Iterable[Task], on_incumbent: Decide | None = None) -> Iterator[tuple[int, list[SolveResult]]]:
        """Yields (task number, answers of its questions) as tasks finish; `tasks` is drawn lazily."""
        source, spent, done = iter(tasks), 0.0, 0
        while self.workers == 0 or (self.pool is None and spent < self.patience):
            task = next(source, None)
            if task is None:
                return
            if self.workers != 0 and _holds_up(task):
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
        if self.pool is None:
            self.pool = Pool(self.workers, self.backend)
        moved = None if on_incumbent is None else partial(_moved, on_incumbent, done)
        for number, answers in self.pool.run(itertools.chain([first], source), moved):
            yield done + number, answers

    def close(self) -> None:
        """Ends the workers, where there are any."""
        if self.pool is not None:
            self.pool.close()

    def __enter__(self) -> Adaptive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _holds_up(task: Task) -> bool:
    """Whether solving it in this process may keep it from being over in time."""
    return task.until < math.inf and task.program.matrix.nnz > _LARGE and bool(task.program.integer.any())


def _moved(decide: Decide, first: int, task: int, question: int, value: float, point: Vector) -> bool:
    """`decide` for a pool whose task 0 is number `first`."""
    return decide(first + task, question, value, point)
