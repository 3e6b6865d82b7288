"""The process on the other side of a pool: reads tasks from its standard input, answers on its standard output.

It imports numpy, SciPy and one solver, never the caller's program. It ends itself, and whatever its solver has started,
as soon as its parent is gone.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, BinaryIO, NamedTuple

from solvers.base import Backend, Basis, OnIncumbent, Session, SolveResult, SolveStatus, backend
from solvers.program import Program, Vector

#: what starts a worker: the first object on its input is the parent's sys.path. A parent without a standard error has
#: given it none: the null device takes the lowest free number, 2, before a pipe does
START = """
import os, pickle, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    os.fstat(2)
except OSError:
    os.open(os.devnull, os.O_WRONLY)
orders, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
sys.path[:] = pickle.load(orders)
from solvers.worker import main
main(orders, out)
"""


class Order(NamedTuple):
    """A task on its way to a worker."""

    number: int
    program: Program
    costs: Vector  # [q, n]
    seconds: float | None
    question_seconds: float | None
    stop_above: Vector | None  # [q]
    callback: bool  # whether incumbents are wanted
    starts: Sequence[Basis] | None = None  # [q]


class Stop(NamedTuple):
    """The parent needs no more of this task."""

    number: int


class Started(NamedTuple):
    """The task has arrived: its clock runs."""


class Incumbent(NamedTuple):
    question: int
    value: float
    point: Vector  # [n]


class Answered(NamedTuple):
    question: int
    answer: SolveResult


class Done(NamedTuple):
    """All questions of the task have their answers."""


class Worker:
    """Works off one order after the other, while a thread listens for stops and for the end of the parent."""

    def __init__(self, backend: Backend, source: BinaryIO, out: BinaryIO) -> None:
        self.backend, self.source, self.out = backend, source, out
        self.orders: SimpleQueue[Order] = SimpleQueue()
        self.lock = threading.Lock()
        self.session: Session | None = None
        self.current = -1
        self.stopped = -1

    def serve(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            order = self.orders.get()
            self._tell(Started())
            self._work(order)
            self._tell(Done())

    def _listen(self) -> None:
        while True:
            try:
                message = pickle.load(self.source)
            except (EOFError, OSError, pickle.UnpicklingError):
                vanish()
            if isinstance(message, Order):
                self.orders.put(message)
            else:
                self._stop(message.number)

    def _stop(self, number: int) -> None:
        with self.lock:
            self.stopped = number
            if self.session is not None and self.current == number:
                self.session.interrupt()

    def _work(self, order: Order) -> None:
        deadline = time.monotonic() + (order.seconds if order.seconds is not None else float("inf"))
        open_question = 0
        try:
            with self.backend.load(order.program) as session:
                self._now(order.number, session)
                for open_question in range(len(order.costs)):
                    left = deadline - time.monotonic()
                    self._tell(Answered(open_question, self._ask(session, order, open_question, left)))
        except Exception:
            failed = SolveResult(SolveStatus.FAILED, message=traceback.format_exc())
            for question in range(open_question, len(order.costs)):
                self._tell(Answered(question, failed))
        finally:
            self._now(-1, None)

    def _now(self, number: int, session: Session | None) -> None:
        with self.lock:
            self.current, self.session = number, session

    def _ask(self, session: Session, order: Order, question: int, left: float) -> SolveResult:
        if self.stopped == order.number:
            return SolveResult(SolveStatus.INTERRUPTED)
        if left <= 0:
            return SolveResult(SolveStatus.LIMIT, message="the task's seconds ran out before this question")
        if order.starts is not None:
            session.start(order.starts[question])
        limit = min(left, float("inf") if order.question_seconds is None else order.question_seconds)
        return session.minimise(
            order.costs[question],
            seconds=None if limit == float("inf") else limit,
            stop_above=None if order.stop_above is None else float(order.stop_above[question]),
            on_incumbent=self._report(question) if order.callback else None,
        )

    def _report(self, question: int) -> OnIncumbent:
        def report(value: float, point: Vector) -> bool:
            self._tell(Incumbent(question, value, point))
            return False  # the parent's decision comes as a Stop

        return report

    def _tell(self, message: Any) -> None:
        try:
            pickle.dump(message, self.out, protocol=5)
            self.out.flush()
        except OSError:
            vanish()


def vanish() -> None:
    """Ends this process at once, with all that a solver of it has started (its process group is its own)."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def watch(parent: int) -> None:
    """A process forked by the parent may hold the other end of our input open, and hide that the parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    vanish()


def main(orders: BinaryIO, out: BinaryIO) -> None:
    """`orders` and `out` are the pipes to the parent. What a solver prints goes to the standard error instead."""
    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
    Worker(backend(pickle.load(orders)), orders, out).serve()
