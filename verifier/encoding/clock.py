"""Seconds of examples whose programs are solved side by side."""

from __future__ import annotations

from verifier.budget import Budget


class Clock:
    """What each example of a query has used of its own part of the budget while a stage runs."""

    def __init__(self, budget: Budget, batch: int) -> None:
        self.budget, self.used = budget, [0.0] * batch

    def left(self, example: int) -> float:
        return self.budget.example(example) - self.used[example]

    @property
    def spent(self) -> bool:
        return self.budget.spent
