"""How far a run has come: counts for those who call, a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from verifier.errors import InputError
from verifier.outcome import StageStep
from verifier.result import Result
from verifier.verdict import Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

#: seconds between two lines where there is no terminal
_INTERVAL = 10.0


class Counts(Protocol):
    """What is known while a run goes on."""

    @property
    def total(self) -> int:
        """Examples of the run."""

    @property
    def done(self) -> int:
        """Examples whose answer is known."""

    @property
    def stage(self) -> str:
        """The stage at work; empty where none is."""

    def text(self) -> str:
        """What is known of those that are done."""


Given = TypeVar("Given", bound=Counts, contravariant=True)


@dataclass(frozen=True)
class Verdicts:
    """Counts of a call of `verify`."""

    total: int
    verified: int = 0
    falsified: int = 0
    unknown: int = 0
    stage: str = ""  #: that is at work

    @property
    def done(self) -> int:
        return self.verified + self.falsified + self.unknown

    def text(self) -> str:
        """For example "verified 12  falsified 3  unknown 1"."""
        return f"verified {self.verified}  falsified {self.falsified}  unknown {self.unknown}"

    def plus(self, verdicts: Sequence[Verdict]) -> Verdicts:
        counts = {v.value: getattr(self, v.value) + sum(one is v for one in verdicts) for v in Verdict}
        return replace(self, **counts)


class Watching:
    """Counts what a run of a verifier says of its examples, and calls a listener (verifier.outcome.RunWatch)."""

    def __init__(self, total: int, listen: Callable[[Verdicts], None]) -> None:
        self.counts, self._listen = Verdicts(total), listen
        self._told: set[int] = set()
        listen(self.counts)

    def begins(self, stage: str) -> None:
        self._change(replace(self.counts, stage=stage))

    def ended(self, step: StageStep) -> None:
        """The next one begins, or the run is over."""

    def settled(self, places: Sequence[int], result: Result) -> None:
        self._told.update(places)
        self._change(self.counts.plus(result.verdict))

    def finished(self, result: Result) -> None:
        """The run is over: count those that it has not told of."""
        left = [verdict for place, verdict in enumerate(result.verdict) if place not in self._told]
        self._change(replace(self.counts.plus(left), stage=""))

    def _change(self, counts: Verdicts) -> None:
        self.counts = counts
        self._listen(counts)


class ProgressDisplay(Generic[Given]):
    """Shows counts on stderr: a bar on a terminal, elsewhere a line at the start, the end and every few seconds."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        from rich.console import Console as Terminal

        self._console = console or Terminal(stderr=True)
        self._bar = _bar(self._console) if self._console.is_terminal else None
        self._total = total
        self._last = -math.inf
        self._started = time.monotonic()
        self._complete = False
        self._before: int | None = None  # examples done in earlier sessions

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, counts: Given) -> None:
        at_work = counts.stage and counts.done < self._total
        said = "  ".join([counts.text()] * bool(counts.done) + [f"at {counts.stage}"] * bool(at_work))
        if self._before is None:
            self._before = counts.done
            if self._bar is not None:
                self._bar.add_task(said, total=self._total, completed=counts.done)
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=counts.done, description=said)
            return
        now = time.monotonic()
        if now - self._last >= _INTERVAL or (counts.done == self._total and not self._complete):
            self._last, self._complete = now, counts.done == self._total
            self._console.print(self._line(counts, said, now), highlight=False, markup=False, soft_wrap=True)

    def _line(self, counts: Given, said: str, now: float) -> str:
        line = f"{counts.done}/{self._total}  {said}".rstrip()
        new = counts.done - (self._before or 0)
        if new and counts.done < self._total:
            line += f"  {(now - self._started) * (self._total - counts.done) / new:.0f} s left"
        return line


def check_progress(progress: object) -> None:
    """Raises InputError where an argument `progress` is neither a truth value nor a function."""
    if not (isinstance(progress, bool) or callable(progress)):
        raise InputError(f"progress is True, False or a function of the counts, got {progress!r}")


def listening(progress: bool | Callable[[Given], None], total: int) -> AbstractContextManager[Callable[[Given], None]]:
    """Who is called with the counts: `progress` itself, a display on stderr (True), or nobody (False)."""
    if callable(progress):
        return nullcontext(progress)
    return ProgressDisplay[Given](total) if progress else nullcontext(_nobody)


def _nobody(counts: Counts) -> None:
    """Is not interested."""


def _bar(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
