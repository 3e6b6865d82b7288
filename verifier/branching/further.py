"""Whether subdomains that a few steps of ascent leave open are worth more steps: what more closed of late says it.

On some networks (mnistfc's) more steps close a third of what a few leave open, and trees without them do not end; on
others (oval21's) a split costs less than what more steps bring.
"""

from __future__ import annotations

_WORTH = 0.2  # share of subdomains that more steps close from which on they take less than splits would
_EVERY = 8  # rounds until they are tried again where they were not


class FurtherSteps:
    """Counts rounds and what became of subdomains, no seconds: a search is the same wherever it runs."""

    def __init__(self) -> None:
        self._rounds, self._closed = 0, 0.0

    def wanted(self) -> bool:
        """Whether the next round's open subdomains are to be raised further."""
        self._rounds += 1
        return self._closed >= _WORTH or self._rounds % _EVERY == 1

    def note(self, before: int, after: int) -> None:
        """So many subdomains were open before they were raised further, at least one, and so many after it."""
        self._closed = 1 - after / before
