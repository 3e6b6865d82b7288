"""Seconds that may still be spent: what is asked between pieces of work, and what interrupts a piece that is too long.

Loops ask `Budget.spent` and end with what they have. What has no loop of its own, such as a backward pass through a
deep network, calls `checkpoint` at every node; where the work in hand is `enforced`, that raises `OutOfTime` once the
time is over. Whoever keeps something that is finished catches it; the cascade catches what nobody else did, so that no
stage, of anybody, overruns by more than the longest operation on one node.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from verifier.errors import InputError

#: what work that has run out of its time may take beyond it to finish what it has: a share of the time, and seconds
_GRACE, _MOMENT = 0.05, 0.3

#: when the work in hand is interrupted (time.monotonic); every thread has its own
_END: ContextVar[float] = ContextVar("end of the work in hand", default=float("inf"))


class OutOfTime(Exception):
    """The time of the work in hand is over. Never reaches a user."""


def checkpoint() -> None:
    """Asks the clock in the middle of a long computation; costs less than a tensor of one entry.

    Raises:
        OutOfTime: the work in hand is `enforced`, and its time is over.
    """
    if time.monotonic() > _END.get():
        raise OutOfTime


def interruption() -> float:
    """When the work in hand is interrupted (time.monotonic); infinite where it is not."""
    return _END.get()


def interrupted_at(end: float) -> None:
    """Take over an `interruption` from the thread that this one works for."""
    _END.set(end)


#: seconds in each unit
_UNITS = {"": 1.0, "ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def seconds_of(value: object, name: str) -> float | None:
    """Seconds as people give them: a number, or a text such as "60", "10s", "1.5 min", "2h" or "inf"; None is no limit.

    Args:
        name: of the argument, for messages.

    Raises:
        InputError: something else, or less than nothing.
    """
    found = _limit(value)
    if not found >= 0:
        raise InputError(f'{name} must be a number of seconds >= 0, such as 60 or "10s", got {value!r}')
    return None if found == float("inf") else found


def some_seconds(value: object, name: str) -> float | None:
    """As `seconds_of`, and more than none. Raises InputError."""
    if not _limit(value) > 0:
        raise InputError(f'{name} must be a number of seconds > 0, such as 60 or "10s", got {value!r}')
    return seconds_of(value, name)


def _limit(value: object) -> float:
    """Seconds, infinite for no limit; NaN where it says none."""
    if value is None:
        return float("inf")
    return _written(value) if isinstance(value, str) else _number(value)


def _written(text: str) -> float:
    """Seconds in a text; NaN where there are none."""
    matched = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?|inf)\s*([a-z]*)\s*", text.lower())
    if matched is None or matched[2] not in _UNITS:
        return float("nan")
    try:
        return float(matched[1]) * _UNITS[matched[2]]
    except ValueError:
        return float("nan")


def _number(value: Any) -> float:
    try:
        return float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return float("nan")


class Budget:
    """Seconds that may still be spent; `None` means without end. Starts when made.

    Args:
        seconds: for everything.
        per_example: for each example of a query.
        used: [B], what the examples of the query in hand have used of that already; default nothing.
        alone: gives [B], for which of them there is nothing to be left for later stages; default none. It is asked when
            a stage wants to know.
    """

    def __init__(
        self, seconds: float | None = None, per_example: float | None = None, used: Sequence[float] | None = None,
        alone: Callable[[], Sequence[bool]] | None = None,
    ) -> None:  # fmt: skip
        self._end, self._grace = float("inf"), 0.0
        if seconds is not None:
            self._end, self._grace = time.monotonic() + seconds, _MOMENT + _GRACE * max(0.0, seconds)
        self.per_example = float("inf") if per_example is None else per_example
        self._used, self._alone = used, alone

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    @property
    def spent(self) -> bool:
        return self.left <= 0

    def less(self, used: Sequence[float], alone: Callable[[], Sequence[bool]] | None = None) -> Budget:
        """The same budget for a query whose examples have used so much of their own, [B]; `alone` as of the class."""
        copy = Budget(None, self.per_example, used, alone)
        copy._end, copy._grace = self._end, self._grace
        return copy

    def further(self, seconds: Sequence[float]) -> Budget:
        """The same after the examples of the query have used so much more of their own, [B]."""
        used = [0.0] * len(seconds) if self._used is None else self._used
        return self.less([a + b for a, b in zip(used, seconds, strict=True)])

    def of(self, examples: Sequence[int]) -> Budget:
        """The same for a query of some of the examples."""
        return self.less([0.0 if self._used is None else self._used[i] for i in examples])

    def together(self, examples: Sequence[int]) -> Budget:
        """What some examples may take when they are worked on as one, and no more than is left in all."""
        return Budget(min(self.left, sum(self.example(i) for i in examples)))

    def alone(self, index: int) -> bool:
        """Whether a stage may take all that example `index` has left: nobody after it is expected to decide it."""
        return self._alone is not None and self._alone()[index]

    def example(self, index: int) -> float:
        """Seconds that example `index` of the query may still take, whatever is left in all."""
        used = 0.0 if self._used is None else self._used[index]
        return min(self.left, self.per_example - used)

    @contextmanager
    def enforced(self, finish: bool = False) -> Iterator[None]:
        """The work inside is interrupted at its next `checkpoint` once this budget, or one around it, is spent.

        Args:
            finish: it is given a little longer, to make something of what it has.
        """
        end = self._end + (self._grace if finish else 0.0)
        token = _END.set(min(end, _END.get()))
        try:
            yield
        finally:
            _END.reset(token)
