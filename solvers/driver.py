"""One thread per worker: hands it tasks, gathers its messages, and replaces it when it dies or is worn out."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import NamedTuple

from numpy.typing import NDArray

from solvers.base import Basis, SolveResult, SolveStatus
from solvers.process import Process, WorkerDied
from solvers.program import Program, Vector
from solvers.worker import Answered, Done, Incumbent, Order, Started

#: seconds for a worker to import its libraries and to receive a task
BOOT = 120.0

#: how much later than it has to be over a task is ended, which loses what it has: a share of its time, and seconds
_LATE = (0.05, 0.3)


@dataclass(frozen=True)
class Task:
    """Questions about one program, asked one after the other in one session.

    Raises:
        ValueError: `costs` or `stop_above` does not fit.
    """

    program: Program
    costs: NDArray  # [q, n], one question per row
    seconds: float | None = None  #: for the whole task, from when a worker has it
    question_seconds: float | None = None  #: for each question
    stop_above: NDArray | None = None  # [q]
    starts: Sequence[Basis] | None = None  # [q]: where each question starts; by default the backend chooses
    #: when it has to be over (time.monotonic in this process), however long it waits for a worker
    until: float = math.inf

    @property
    def left(self) -> float | None:
        """Seconds for the whole task, were a worker to have it now."""
        left = min(math.inf if self.seconds is None else self.seconds, self.until - time.monotonic())
        return None if left == math.inf else max(0.0, left)

    def __post_init__(self) -> None:
        if self.costs.ndim != 2 or self.costs.shape[1] != self.program.columns:
            raise ValueError(f"costs must be [questions, {self.program.columns}], not {list(self.costs.shape)}")
        if self.stop_above is not None and self.stop_above.shape != self.costs.shape[:1]:
            raise ValueError(f"stop_above must be [{len(self.costs)}], not {list(self.stop_above.shape)}")


class NewIncumbent(NamedTuple):
    """An incumbent of a running task."""

    job: Job
    question: int
    value: float
    point: Vector
    process: Process


class Finished(NamedTuple):
    job: Job
    answers: list[SolveResult]


@dataclass(frozen=True, eq=False)
class Job:
    """A task under way, and where its news go."""

    task: Task
    number: int  #: within its run
    order: int  #: within the pool
    callback: bool  #: whether incumbents are wanted
    events: SimpleQueue[NewIncumbent | Finished]
    dropped: threading.Event = field(default_factory=threading.Event)

    def wire(self) -> Order:
        """The task as its worker receives it."""
        t = self.task
        limits = (t.left, t.question_seconds, t.stop_above)
        return Order(self.order, t.program, t.costs, *limits, self.callback, t.starts)


class Driver(threading.Thread):
    """Takes jobs from a queue until it finds None there. A daemon: it never holds up the end of the program."""

    def __init__(self, jobs: SimpleQueue[Job | None], backend: str, recycle: int, grace: float) -> None:
        super().__init__(daemon=True)
        self.jobs, self.backend, self.recycle, self.grace = jobs, backend, recycle, grace
        self.lock = threading.Lock()  # of the two below
        self.process: Process | None = None
        self.ended = False

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            if not job.dropped.is_set():
                job.events.put(Finished(job, self._solve(job)))
        self._retire()

    def patrol(self) -> None:
        """Kills the worker if it overruns. Called by another thread, now and then."""
        with self.lock:
            if self.process is not None:
                self.process.kill_if_late()

    def drop(self, job: Job) -> None:
        """Nobody waits for the job any more."""
        job.dropped.set()
        with self.lock:
            if self.process is not None and self.process.order == job.order:
                self.process.kill()

    def end(self) -> None:
        """Ends the worker for good."""
        with self.lock:
            self.ended = True
            if self.process is not None:
                self.process.kill()

    def _solve(self, job: Job) -> list[SolveResult]:
        """An answer to every question, whatever happens to the worker."""
        talk = Talk(job, self.grace)
        for _ in range(2):  # a worker that died idle, or while it started, has not seen the task
            try:
                talk.hold(self._ready(job))
            except Exception as error:  # of the process, or of what we send and receive
                talk.broken(error, self._retire())
            if talk.began or job.dropped.is_set():
                break
        if self.process is not None and self.process.served >= self.recycle:
            self._retire()
        return talk.answers

    def _ready(self, job: Job) -> Process:
        with self.lock:
            if self.ended or job.dropped.is_set():
                raise WorkerDied("the pool was closed")
            if self.process is None:
                self.process = Process(self.backend)
            self.process.order = job.order
            return self.process

    def _retire(self) -> bool:
        """Buries the worker. Whether it had been killed because it overran."""
        with self.lock:
            process, self.process = self.process, None
        if process is not None:
            process.bury()
        return process is not None and process.overran


class Talk:
    """What a worker says about one job."""

    def __init__(self, job: Job, grace: float) -> None:
        self.job, self.grace = job, grace
        self.made = time.monotonic()
        self.began = 0.0  # on the clock of time.monotonic(), once the worker has the task
        self.known: dict[int, SolveResult] = {}
        self.rest = SolveResult(SolveStatus.FAILED, message="the worker gave no answer")

    def hold(self, process: Process) -> None:
        """Raises WorkerDied where the worker does not live to the end of it."""
        process.deadline = min(time.monotonic() + BOOT, self._end())
        process.put(self.job.wire())
        while not isinstance(message := process.get(), Done):
            match message:
                case Started():
                    self.began = time.monotonic()
                    process.deadline = self._deadline()
                case Answered(question, answer):
                    self.known[question] = answer
                    process.deadline = self._deadline()
                case Incumbent(question, value, point):
                    self.job.events.put(NewIncumbent(self.job, question, value, point, process))
        process.deadline = float("inf")
        process.served += 1

    def broken(self, error: Exception, overran: bool) -> None:
        self.rest = SolveResult(SolveStatus.LIMIT if overran else SolveStatus.FAILED, message=str(error))

    @property
    def answers(self) -> list[SolveResult]:
        return [self.known.get(question, self.rest) for question in range(len(self.job.task.costs))]

    def _deadline(self) -> float:
        """When the worker must have said something more."""
        task, never = self.job.task, float("inf")
        whole = self.began + (never if task.seconds is None else task.seconds)
        question = time.monotonic() + (never if task.question_seconds is None else task.question_seconds)
        return min(min(whole, question) + self.grace, self._end())

    def _end(self) -> float:
        """When the worker is ended, whatever it does."""
        until = self.job.task.until
        return until + _LATE[0] * max(0.0, until - self.made) + _LATE[1]
