"""What a worker has found is handed over while its unit is at work, and what fails is raised after it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from verifier.errors import InputError
from verifier.workers import worker
from verifier.workers.travel import packed, unpacked


class Halting:
    """Work that finds numbers, and between the first and the others waits for what only `go` ends."""

    go = threading.Event()

    def prepare(self, threads: int) -> None:
        self.threads = threads

    def do(self, unit: str, tell: Callable[[int], None]) -> None:
        tell(self.threads)
        assert Halting.go.wait(60)
        tell(2)
        if unit == "fails":
            raise InputError("no more of it")


@pytest.fixture(autouse=True)
def given() -> Iterator[None]:
    Halting.go.clear()
    worker.give("run", packed(Halting()), threads=1)
    yield
    worker.give("", b"", 1)


def test_rows_come_while_their_unit_is_at_work() -> None:
    part, last = worker.first(packed("ends"))
    assert (unpacked(part), last) == ([1], False)
    Halting.go.set()
    part, last = worker.more()
    assert (unpacked(part), last) == ([2], True)


def test_what_was_found_before_a_failure_comes_first() -> None:
    Halting.go.set()
    parts = worker.parts(packed("fails"))
    part, last = next(parts)
    assert (unpacked(part), last) == ([1, 2], False)
    with pytest.raises(InputError, match="no more of it"):
        next(itertools.islice(parts, 1))
