"""Units on workers that are lost all the time: who gets what, what is tried again, and when it is given up.

The workers are in this process, so that many losses cost nothing; real ones are killed in test_jobs.py and test_ray.py.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from helpers.models import labelled, small_mlp
from torch import Tensor

from properties import Perturbation
from verifier.certification.dataset import dataset
from verifier.certification.example import ExampleOutcome, ExampleRow
from verifier.certification.executor import Executor, InProcess
from verifier.certification.spread import ExampleWork, Spread
from verifier.certification.work import Finished, Job, UnitRunner, WorkUnit, units
from verifier.errors import VerifierError
from verifier.workers.course import LOSSES, WorkerLost, Workers
from verifier.workers.travel import packed, unpacked

STAGES = ["clean", "interval", "attack", "branch", "dual"]
EXAMPLES = 30


@dataclass
class Collected:
    rows: list[Finished] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)

    def finished(self, one: Finished) -> None:
        self.rows.append(one)

    def begins(self, stage: str) -> None:
        self.stages.append(stage)


class Unreliable:
    """Workers of this process; some units are lost, at random or because of what is in them."""

    def __init__(self, work: bytes, luck: random.Random, losses: list[int], deadly: Collection[int]) -> None:
        self.work: ExampleWork = unpacked(work)
        self.luck, self.losses, self.deadly = luck, losses, deadly
        self.units: dict[int, bytes] = {}
        self.begun: dict[int, list[Finished]] = {}  #: what is still to be handed over of units
        self.names = itertools.count()
        self.seen: list[WorkUnit] = []

    def capacity(self) -> int:
        return self.luck.randint(1, 3)  # workers come and go

    def start(self, unit: bytes) -> int:
        name = next(self.names)
        self.units[name] = unit
        self.seen.append(unpacked(unit))
        return name

    def wait(self, handles: Collection[int]) -> Collection[int]:
        return self.luck.sample(sorted(handles), self.luck.randint(0, len(handles)))

    def take(self, handle: int) -> tuple[bytes, bool]:
        """Some rows at a time; a unit may be lost when some of them have come."""
        unit = unpacked(self.units[handle])
        if handle not in self.begun:
            if set(unit.indices) & set(self.deadly):
                raise WorkerLost("it ended with SIGSEGV")
            self.begun[handle] = found = []
            self.work.do(unit, found.append)
        if self.losses and self.luck.random() < 0.7:
            self.losses.pop()
            raise WorkerLost("it ended with SIGKILL", began=len(unit) > 1)
        left = self.begun[handle]
        count = self.luck.randint(0, len(left))
        self.begun[handle] = left[count:]
        return packed(left[:count]), not left[count:]


@pytest.fixture(scope="module")
def runner() -> UnitRunner:
    images, labels = labelled(small_mlp(), (12,), 1)
    return Job(
        small_mlp(), images, labels, None, STAGES, None, None, "real", certified=True
    ).runner()  # fmt: skip


def told(executor: Executor, seconds: float | None = None, each: float | None = 60.0, size: int = 20) -> Collected:
    images, labels = labelled(small_mlp(), (12,), EXAMPLES)
    found = Collected()
    executor.run(units(dataset(images, labels), Perturbation(0.05), 5, range(EXAMPLES), size, seconds, each), found)
    return found


def rows(executor: Executor, seconds: float | None = None, each: float | None = 60.0) -> list[Finished]:
    return told(executor, seconds, each).rows


def spread(
    runner: UnitRunner, losses: list[int] | None = None, deadly: Collection[int] = (), seed: int = 0
) -> tuple[Spread, list[WorkUnit]]:
    seen: list[WorkUnit] = []

    @contextmanager
    def opened(content: bytes) -> Iterator[Workers]:
        workers = Unreliable(content, random.Random(seed), [] if losses is None else losses, deadly)
        workers.seen = seen
        yield workers

    return Spread(runner, opened), seen


def answers(found: list[Finished]) -> list[tuple[object, ...]]:
    by_index: list[ExampleRow] = sorted((one.record.example for one in found), key=lambda row: row.index)
    return [
        (e.index, e.label, e.outcome, e.prediction, e.stage, e.trust, e.reason, [name for name, _ in e.spent])
        for e in by_index
    ]


def margins(found: list[Finished]) -> list[Tensor]:
    return [np.asarray(one.record.example.margins) for one in sorted(found, key=lambda one: one.record.example.index)]


@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, 6))])
def test_twenty_losses_change_nothing(runner: UnitRunner, seed: int) -> None:
    expected = rows(InProcess(runner))
    losses = list(range(20))
    executor, _ = spread(runner, losses, seed=seed)
    found = rows(executor)
    assert len(found) == EXAMPLES, "nothing lost, nothing twice"
    assert answers(found) == answers(expected)
    for a, b in zip(margins(found), margins(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    proofs = {one.record.example.index for one in found if one.certificate is not None}
    assert proofs == {i for i, _, outcome, *_ in answers(expected) if outcome is ExampleOutcome.VERIFIED}
    assert {e.outcome.value for e in (one.record.example for one in found)} >= {"verified", "falsified"}
    assert not losses, "all of them came about"


def test_batched_stages_get_many_examples_and_the_others_one(runner: UnitRunner) -> None:
    executor, seen = spread(runner)
    assert set(told(executor).stages) == {"clean", "branch"}, "whoever looks sees what is at work"
    together = [unit for unit in seen if unit.stages == (0, 1, 2)]
    alone = [unit for unit in seen if unit.stages == (1, 3, 4)]
    assert len(together) + len(alone) == len(seen) and all(len(unit) == 1 for unit in alone)
    assert sum(map(len, together)) == EXAMPLES and max(map(len, together)) >= 10
    assert 0 < len(alone) < EXAMPLES
    seen.clear()
    rows(executor, seconds=100.0)
    assert [len(unit) for unit in seen] == [20, 10], "seconds for a batch are for all of its stages"
    assert all(unit.stages is None for unit in seen)


def test_seconds_of_an_example_are_those_of_both_parts(runner: UnitRunner) -> None:
    executor, seen = spread(runner)
    rows(executor, each=30.0)
    left = [unit.example_seconds for unit in seen if len(unit) == 1]
    assert left and all(seconds is not None and 0 < seconds < 30.0 for seconds in left)


def test_what_ends_its_workers_is_found_and_named(runner: UnitRunner) -> None:
    executor, seen = spread(runner, deadly={11, 30})
    found = rows(executor)
    assert len(found) == EXAMPLES
    errors = [one.record.example for one in found if one.record.example.outcome is ExampleOutcome.ERROR]
    assert {e.index for e in errors} == {11, 30}
    assert all(e.error and f"ended {LOSSES} times" in e.error and "SIGSEGV" in e.error for e in errors)
    assert sum(unit.indices == (11,) for unit in seen) == LOSSES
    others = [one for one in found if one.record.example.index not in (11, 30)]
    expected = [a for a in answers(rows(InProcess(runner))) if a[0] not in (11, 30)]
    assert answers(others) == expected


def test_workers_that_never_finish_anything_end_the_run(runner: UnitRunner) -> None:
    executor, _ = spread(runner, deadly=range(1000))
    with pytest.raises(VerifierError, match=r"workers ended one after another, and none finished anything.*SIGSEGV"):
        rows(executor)
