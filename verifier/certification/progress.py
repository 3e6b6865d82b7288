"""Progress of a run: a bar with running accuracies on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from verifier.certification.example import ExampleOutcome, ExampleRow
from verifier.certification.report import is_unbroken

#: seconds between two lines where there is no terminal
_INTERVAL = 10.0


@dataclass(frozen=True)
class Tally:
    """Running counts of a run."""

    total: int
    done: int = 0
    clean: int = 0
    attacked: int = 0  #: correctly classified and not broken by an attack
    verified: int = 0
    errors: int = 0
    stage: str = ""  #: that is at work

    def plus(self, examples: Iterable[ExampleRow]) -> Tally:
        new = tuple(examples)
        return Tally(
            self.total,
            self.done + len(new),
            self.clean + sum(e.correct for e in new),
            self.attacked + sum(map(is_unbroken, new)),
            self.verified + sum(e.outcome is ExampleOutcome.VERIFIED for e in new),
            self.errors + sum(e.outcome is ExampleOutcome.ERROR for e in new),
            self.stage,
        )

    def accuracies(self) -> str:
        """For example "clean 98.1 %  attacked 95.0 %  verified 93.2 %"."""
        named = (("clean", self.clean), ("attacked", self.attacked), ("verified", self.verified))
        text = "  ".join(f"{name} {100 * count / max(self.done, 1):.1f} %" for name, count in named)
        return text + (f"  errors {self.errors}" if self.errors else "")


#: is called with the counts: at the start, after every example, and where a stage begins
Listener = Callable[[Tally], None]


class ProgressDisplay:
    """Shows tallies on stderr: a bar on a terminal, elsewhere a line at the start, the end and every few seconds."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
        self._total = total
        self._last = -math.inf
        self._started = time.monotonic()
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

    def __call__(self, tally: Tally) -> None:
        if self._before is None:
            self._before = tally.done
            if self._bar is not None:
                self._bar.add_task(tally.accuracies(), total=self._total, completed=tally.done)
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=tally.done, description=tally.accuracies())
            return
        now = time.monotonic()
        if now - self._last >= _INTERVAL or tally.done == self._total:
            self._last = now
            self._console.print(self._line(tally, now), highlight=False, markup=False, soft_wrap=True)

    def _line(self, tally: Tally, now: float) -> str:
        line = f"{tally.done}/{self._total}  {tally.accuracies()}" if tally.done else f"0/{self._total}"
        new = tally.done - (self._before or 0)
        if new and tally.done < self._total:
            line += f"  {(now - self._started) * (self._total - tally.done) / new:.0f} s left"
        return line
