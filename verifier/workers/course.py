"""The course of a run on workers: who gets what, and what becomes of units whose worker is lost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from verifier.errors import VerifierError

#: a unit that cannot be made smaller is given up when its worker has ended so many times
LOSSES = 3
#: workers that end one after another, without one that finds anything between them: something else is wrong
_HOPELESS = 24


class WorkerLost(Exception):
    """The worker ended before its unit did; the message says how, as far as that is known.

    Args:
        began: whether it may have begun with the unit: if not, the unit has nothing to do with it.
    """

    def __init__(self, how: str, began: bool = True) -> None:
        super().__init__(how)
        self.began = began


class Workers(Protocol):
    """Processes that work on units, each on one at a time."""

    def capacity(self) -> int:
        """How many units may be under way now, at least 1; it may change as workers come and go."""

    def start(self, unit: bytes) -> Any:
        """A handle of a packed unit that is under way from now on."""

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        """Those of which `take` gives something now; perhaps none, after some seconds."""

    def take(self, handle: Any) -> tuple[bytes, bool]:
        """The next of what `verifier.workers.worker.parts` gives of a unit. Raises WorkerLost."""


#: starts workers for a packed `verifier.workers.worker.Work`, and ends them
Opened = Callable[[bytes], AbstractContextManager[Workers]]


class Kept:
    """Workers that stay (`Opened`): for several runs on the same content, one after another.

    Args:
        stack: they end when it is closed.
    """

    def __init__(self, opened: Opened, stack: ExitStack) -> None:
        self._opened, self._stack = opened, stack
        self._workers: Workers | None = None

    @contextmanager
    def __call__(self, content: bytes) -> Iterator[Workers]:
        if self._workers is None:
            self._workers = self._stack.enter_context(self._opened(content))
        yield self._workers


class Plan(Protocol):
    """What there is to do; its tasks are values of its own."""

    def next(self, capacity: int) -> Any:
        """A task to begin with, where so many may be under way; None: there is none before another one ends."""

    def content(self, task: Any) -> bytes:
        """The packed unit of a task."""

    def came(self, task: Any, part: bytes) -> None:
        """Something has been found: packed, as `verifier.workers.worker.parts` gives it."""

    def lost(self, task: Any, how: WorkerLost) -> None:
        """Its worker is gone, and what has not come will not come: `next` may give it again."""


def carry_out(plan: Plan, workers: Workers) -> None:
    """Has everything done. What `plan` raises, and Ctrl-C, ends it.

    Raises:
        VerifierError: workers end one after another, and none finds anything.
    """
    running: dict[Any, Any] = {}
    lost = 0  # workers, since one has found something
    while True:
        while len(running) < (capacity := workers.capacity()):
            task = plan.next(capacity)
            if task is None:
                break
            running[workers.start(plan.content(task))] = task
        if not running:
            return
        for handle in workers.wait(running):
            try:
                part, last = workers.take(handle)
            except WorkerLost as how:
                lost += 1
                if lost == _HOPELESS:
                    raise VerifierError(
                        f"{lost} workers ended one after another, and none finished anything; the last: {how}"
                    ) from how
                plan.lost(running.pop(handle), how)
                continue
            lost = 0
            task = running.pop(handle) if last else running[handle]
            plan.came(task, part)
