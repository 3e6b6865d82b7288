"""Units of work on many workers, wherever those are: who gets what, and what is tried again.

Stages that work on many examples at once get many: a unit of the run, with the stages up to the first that works on
one example after another (`Stage.by_example`). What they leave open goes on in units of one example, so that branch and
bound and programs run on all workers side by side.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from verifier.api import Prepared, Verifier
from verifier.certification.example import ExampleOutcome, ExampleRecord, ExampleRow
from verifier.certification.work import Finished, Sink, UnitRunner, WorkUnit
from verifier.workers.course import LOSSES, Opened, WorkerLost, carry_out
from verifier.workers.travel import packed, unpacked

_log = logging.getLogger(__name__)

#: units per worker that are wanted at least, and examples in each that stages can work on at once
_UNITS, _TOGETHER = 2, 16


@dataclass(frozen=True)
class ExampleWork:
    """What workers are given (`verifier.workers.worker.Work`)."""

    runner: UnitRunner

    def prepare(self, threads: int) -> None:
        """Has stages that would start a solver on each core start as many as there may be threads."""
        torch.set_num_threads(threads)
        for stage in self.runner.verifier.stages:
            own: Any = stage
            if getattr(own, "workers", 0) is None:
                own.workers = threads if threads > 1 else 0

    def do(self, unit: WorkUnit, tell: Callable[[Finished], None]) -> None:
        """All rows of a unit, as they come."""
        self.runner.run(unit, _Telling(tell))


@dataclass(frozen=True)
class _Telling:
    """A sink, in the process of a worker."""

    tell: Callable[[Finished], None]

    def finished(self, one: Finished) -> None:
        """With tensors of its own: one that is part of another would take all of it along."""
        point = one.record.counterexample
        record = one.record if point is None else replace(one.record, counterexample=point.detach().cpu().clone())
        self.tell(replace(one, record=record))

    def begins(self, stage: str) -> None:
        """Of no use to somebody elsewhere."""


@dataclass(frozen=True)
class Spread:
    """An executor (`verifier.certification.executor.Executor`) that has others do the work."""

    runner: UnitRunner
    opened: Opened

    @cached_property
    def _content(self) -> bytes:
        return packed(ExampleWork(self.runner))

    def run(self, units: Iterable[WorkUnit], sink: Sink) -> None:
        source = iter(units)
        first = next(source, None)
        if first is None:
            return
        with self.opened(self._content) as workers:
            carry_out(_Course(Phases.of(self.runner.verifier), itertools.chain([first], source), sink), workers)


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


@dataclass(eq=False)
class _Task:
    """A unit on its way, and what has come of it."""

    unit: WorkUnit
    losses: int = 0  #: workers that ended on it, of a unit of one example
    before: Finished | None = None  #: what the stages before found of its only example
    told: set[int] = field(default_factory=set)  #: indices of the examples that something has come of

    def left(self) -> list[int]:
        """The places of the others."""
        return [place for place, index in enumerate(self.unit.indices) if index not in self.told]


class _Course:
    """One run (`verifier.workers.course.Plan`), from the first unit to the last row."""

    def __init__(self, phases: Phases | None, units: Iterator[WorkUnit], sink: Sink) -> None:
        self._phases, self._units, self._sink = phases, units, sink
        self._waiting: deque[_Task] = deque()
        self._source: Iterator[_Task] | None = None

    def next(self, capacity: int) -> _Task | None:
        if self._source is None:
            self._source = map(self._begun, self._shared_out(_UNITS * capacity))
        task = self._waiting.popleft() if self._waiting else next(self._source, None)
        if task is not None and self._phases is not None:
            self._sink.begins(self._phases.names[0 if task.before is None else 1])
        return task

    def content(self, task: _Task) -> bytes:
        return packed(task.unit)

    def came(self, task: _Task, part: bytes) -> None:
        for one in unpacked(part):
            task.told.add(one.record.example.index)
            self._found(task, one)

    def _shared_out(self, wanted: int) -> Iterator[WorkUnit]:
        """The same units; where they are few, in as many parts as keep all workers busy."""
        first = list(itertools.islice(self._units, wanted))
        for unit in first:
            parts = 1 if unit.seconds is not None else min(-(-wanted // len(first)), len(unit) // _TOGETHER)
            size = -(-len(unit) // max(1, parts))
            for start in range(0, len(unit), size):
                yield unit.select(range(start, min(start + size, len(unit))))
        yield from self._units

    def _begun(self, unit: WorkUnit) -> _Task:
        """With the stages that work on many examples. Where seconds are for all of it and all stages, it stays one."""
        if self._phases is None or unit.seconds is not None or unit.stages is not None:
            return _Task(unit)
        return _Task(replace(unit, stages=self._phases.together))

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

    def lost(self, task: _Task, how: WorkerLost) -> None:
        """What has not come of it, in halves, so that it becomes known which example ends its workers."""
        left = task.left()
        if not left:
            return
        examples = f"example {task.unit.indices[left[0]]}" + (f" and {len(left) - 1} more" if len(left) > 1 else "")
        _log.warning("a worker ended while it worked on %s (%s): that is tried again", examples, how)
        if not how.began:
            self._waiting.appendleft(task)
        elif len(task.unit) > 1:
            halves = (left[: len(left) // 2], left[len(left) // 2 :])
            self._waiting.extendleft(_Task(task.unit.select(half)) for half in halves if half)
        elif task.losses + 1 < LOSSES:
            self._waiting.appendleft(replace(task, losses=task.losses + 1))
        else:
            error = _ended_its_workers(task.unit, how)
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
