"""Units of work on many workers, wherever those are: who gets what, and what is tried again.

Stages that work on many examples at once get many: a unit of the run, with the stages up to the first that works on
one example after another (`Stage.by_example`). What they leave open goes on in units of one example, so that branch and
bound and programs run on all workers side by side.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from verifier.api import Prepared, Verifier
from verifier.certification.example import ExampleOutcome, ExampleRecord, ExampleRow
from verifier.certification.travel import packed, unpacked
from verifier.certification.work import Finished, Sink, UnitRunner, WorkUnit
from verifier.errors import VerifierError

_log = logging.getLogger(__name__)

#: an example whose worker ends so many times becomes an error
LOSSES = 3
#: workers that end one after another, without one that finishes anything between them: something else is wrong
_HOPELESS = 24
#: units per worker that are wanted at least, and examples in each that stages can work on at once
_UNITS, _TOGETHER = 2, 16


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
        """Those that have ended; perhaps none, after some seconds."""

    def result(self, handle: Any) -> bytes:
        """What `verifier.certification.worker.work` gave, of one that has ended. Raises WorkerLost."""


#: starts workers for a packed runner, and ends them
Opened = Callable[[bytes], AbstractContextManager[Workers]]


@dataclass(frozen=True)
class Spread:
    """An executor (`verifier.certification.executor.Executor`) that has others do the work."""

    runner: UnitRunner
    opened: Opened

    def run(self, units: Iterable[WorkUnit], sink: Sink) -> None:
        source = iter(units)
        first = next(source, None)
        if first is None:
            return
        with self.opened(packed(self.runner)) as workers:
            _Course(workers, Phases.of(self.runner.verifier), sink).run(itertools.chain([first], source))


@dataclass(frozen=True)
class Phases:
    """Places of the stages that a unit of many examples has, and then those of each example that they leave open."""

    together: tuple[int, ...]
    alone: tuple[int, ...]
    names: tuple[str, str]  #: of the first stage that is new in each

    @classmethod
    def of(cls, verifier: Prepared) -> Phases | None:
        """None: no such two parts, so that units stay whole."""
        if not isinstance(verifier, Verifier):
            return None
        stages = verifier.stages
        first = next((k for k, stage in enumerate(stages) if stage.by_example), 0)
        if first == 0:
            return None
        # those before are asked again of an open example, for the bounds that the ones behind them start from; what
        # looks for counterexamples alone has none to give
        alone = tuple(k for k, stage in enumerate(stages) if k >= first or stage.trust is not None)
        return cls(tuple(range(first)), alone, (stages[0].name, stages[first].name))


@dataclass(frozen=True)
class _Task:
    """A unit on its way, and what has come of it."""

    unit: WorkUnit
    losses: int = 0  #: workers that ended on it, of a unit of one example
    before: Finished | None = None  #: what the stages before found of its only example


class _Course:
    """One run on some workers, from the first unit to the last row."""

    def __init__(self, workers: Workers, phases: Phases | None, sink: Sink) -> None:
        self._workers, self._phases, self._sink = workers, phases, sink
        self._waiting: deque[_Task] = deque()
        self._running: dict[Any, _Task] = {}
        self._lost = 0  #: workers, since one has finished something

    def run(self, units: Iterable[WorkUnit]) -> None:
        source = map(self._begun, self._shared_out(iter(units)))
        while True:
            while len(self._running) < self._workers.capacity():
                task = self._waiting.popleft() if self._waiting else next(source, None)
                if task is None:
                    break
                self._running[self._workers.start(packed(task.unit))] = task
                if self._phases is not None:
                    self._sink.begins(self._phases.names[0 if task.before is None else 1])
            if not self._running:
                return
            for handle in self._workers.wait(self._running):
                self._ended(handle)

    def _shared_out(self, source: Iterator[WorkUnit]) -> Iterator[WorkUnit]:
        """The same units; where they are few, in as many parts as keep all workers busy."""
        wanted = _UNITS * self._workers.capacity()
        first = list(itertools.islice(source, wanted))
        for unit in first:
            parts = 1 if unit.seconds is not None else min(-(-wanted // len(first)), len(unit) // _TOGETHER)
            size = -(-len(unit) // max(1, parts))
            for start in range(0, len(unit), size):
                yield unit.select(range(start, min(start + size, len(unit))))
        yield from source

    def _begun(self, unit: WorkUnit) -> _Task:
        """With the stages that work on many examples. Where seconds are for all of it and all stages, it stays one."""
        if self._phases is None or unit.seconds is not None or unit.stages is not None:
            return _Task(unit)
        return _Task(replace(unit, stages=self._phases.together))

    def _ended(self, handle: Any) -> None:
        task = self._running.pop(handle)
        try:
            rows = unpacked(self._workers.result(handle))
        except WorkerLost as lost:
            self._try_again(task, lost)
            return
        self._lost = 0
        for one in rows:
            self._found(task, one)

    def _found(self, task: _Task, one: Finished) -> None:
        row = one.record.example
        left = None if task.unit.example_seconds is None else task.unit.example_seconds - row.seconds
        begun = self._phases is not None and task.unit.stages == self._phases.together
        if begun and row.outcome is ExampleOutcome.UNKNOWN and (left is None or left > 0):
            assert self._phases is not None
            single = task.unit.select([task.unit.indices.index(row.index)])
            unit = replace(single, stages=self._phases.alone, example_seconds=left)
            self._waiting.append(_Task(unit, before=one))
        else:
            self._sink.finished(one if task.before is None else _together(task.before, one))

    def _try_again(self, task: _Task, lost: WorkerLost) -> None:
        """Halves of it, so that it becomes known which example ends its workers."""
        self._lost += 1
        examples = f"example {task.unit.indices[0]}" + (f" and {len(task.unit) - 1} more" if len(task.unit) > 1 else "")
        _log.warning("a worker ended while it worked on %s (%s): that is tried again", examples, lost)
        if self._lost == _HOPELESS:
            raise VerifierError(
                f"{_HOPELESS} workers ended one after another, and none finished anything; the last: {lost}"
            )
        count = len(task.unit)
        if not lost.began:
            self._waiting.appendleft(task)
        elif count > 1:
            halves = (range(count // 2), range(count // 2, count))
            self._waiting.extendleft(_Task(task.unit.select(half)) for half in halves)
        elif task.losses + 1 < LOSSES:
            self._waiting.appendleft(replace(task, losses=task.losses + 1))
        else:
            error = _ended_its_workers(task.unit, lost)
            self._sink.finished(error if task.before is None else _together(task.before, error))


def _together(before: Finished, after: Finished) -> Finished:
    """What came last, with the time of both, and the better of two attacks."""
    old, new = before.record.example, after.record.example
    spent = dict(old.spent)
    for name, seconds in new.spent:
        spent[name] = spent.get(name, 0.0) + seconds
    margins = [margin for margin in (old.attack_margin, new.attack_margin) if margin is not None]
    row = replace(
        new, seconds=old.seconds + new.seconds, spent=tuple(spent.items()), attack_margin=min(margins, default=None)
    )
    return replace(after, record=replace(after.record, example=row))


def _ended_its_workers(unit: WorkUnit, lost: WorkerLost) -> Finished:
    """The row of the only example of a unit."""
    message = f"WorkerLost: the process that worked on it ended {LOSSES} times before it was done; the last: {lost}"
    return Finished(
        ExampleRecord(ExampleRow(unit.indices[0], int(unit.labels[0]), ExampleOutcome.ERROR, error=message))
    )
