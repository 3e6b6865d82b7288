"""Seconds that may still be spent."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from verifier.errors import InputError

#: seconds in each unit
_UNITS = {"": 1.0, "ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def seconds_of(value: object, name: str) -> float | None:
    """Seconds as people give them: a number, or a text such as "60", "10s", "1.5 min", "2h" or "inf"; None is no limit.

    Args:
        name: of the argument, for messages.

    Raises:
        InputError: something else, or less than nothing.
    """
    if value is None:
        return None
    found = _written(value) if isinstance(value, str) else _number(value)
    if not found >= 0:
        raise InputError(f'{name} must be a number of seconds >= 0, such as 60 or "10s", got {value!r}')
    return None if found == float("inf") else found


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
        self._end = float("inf") if seconds is None else time.monotonic() + seconds
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
        copy._end = self._end
        return copy

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
