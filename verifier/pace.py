"""How many examples a stage is given at a time, where somebody waits for what is decided."""

from __future__ import annotations

import torch

from verifier.relaxation.parallel import workers

#: what a part should take
SECONDS = 5.0
#: a part is at most so many times as large as the one before it, whose examples may have been easy ones
GROWTH = 16


class Pace:
    """Sizes of parts that take some seconds each, and never fewer examples than are worked on side by side.

    Args:
        price: seconds per example, as it has been; 0: not known.
        device: where the stage computes.
    """

    def __init__(self, price: float, device: torch.device) -> None:
        self._least = workers(device)
        self.size = self._affordable(price) if price > 0 else self._least

    def took(self, examples: int, seconds: float) -> None:
        """Learn from a part."""
        self.size = min(self._affordable(seconds / examples), GROWTH * self.size)

    def _affordable(self, price: float) -> int:
        return max(self._least, int(min(SECONDS / price, 1e9)) if price > 0 else 10**9)
