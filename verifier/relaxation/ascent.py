"""Projected gradient ascent on many independent bounds at once: one loop, one step of Adam, one schedule for all of it.

Whatever the optimised variables of a bound are, any values of them are sound, so that the ascent may stop anywhere. It
raises the slopes of linear relaxations (alpha-CROWN, verifier.relaxation.row_ascent), free multipliers (the same), the
slopes of zonotopes (verifier.zonotope), the multipliers of splits on neurons (beta-CROWN, verifier.branching.ascent)
and the slopes of boxes (verifier.branching.inputs_slopes). The semidefinite programs' ascent (verifier.sdp.ascent) is
none of this: it moves whole blocks to their optimum, and has no step length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from verifier.budget import Budget

#: tensors by what they belong to, mostly an activation node
Variables = Mapping[int, Tensor]


@dataclass(frozen=True)
class Schedule:
    """steps; the length of the first one, multiplied by `decay` after each; every `look` steps those done may leave."""

    steps: int = 20
    rate: float = 0.5
    decay: float = 0.9
    look: int = 5

    def length(self, number: int, first: float | None = None) -> float:
        """Of step `number` = 1, 2, ...; `first` in place of `rate`, for variables in units of their own."""
        return (self.rate if first is None else first) * self.decay ** (number - 1)


class Ascendable(Protocol):
    """Many independent bounds as functions of variables: what `ascend` raises."""

    def evaluate(self, number: int, last: bool) -> bool:
        """Compute the bounds, and keep the best of all seen; False: none of them depends on a variable.

        Args:
            number: 1, 2, ... last: no step will follow, so that no gradient is needed.
        """

    def leave(self) -> bool:
        """Drop the bounds that are done, where so many are that the rest is worth copying; whether any is left."""

    def step(self, number: int, schedule: Schedule) -> None:
        """Move the variables along the gradients of the last evaluation, and project them to where they are allowed."""


def ascend(problem: Ascendable, schedule: Schedule, budget: Budget | None = None) -> bool:
    """Raise the bounds until all are done, or the schedule is; whether the budget ended it."""
    for number in range(1, schedule.steps + 2):
        last = number > schedule.steps
        rising = problem.evaluate(number, last)
        if budget is not None and budget.spent:
            return True
        if last or not rising or (number % schedule.look == 0 and not problem.leave()):
            return False
        problem.step(number, schedule)
    return False


@dataclass(frozen=True)
class Memory:
    """How long Adam remembers (Kingma & Ba 2015): weights of the past in the means of gradients and their squares.

    Shorter than usual by default: there is no noise to average out, and the gradient jumps.
    """

    gradient: float = 0.7
    square: float = 0.95
    floor: float = 0.0  #: added to the root of the mean square, beside what keeps zero from being divided by zero
    corrected: bool = True  #: for the zeros that both means start from


class Adam:
    """The means of one tensor of variables [*shape]."""

    def __init__(self, like: Tensor, memory: Memory) -> None:
        self.memory = memory
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)

    def moved(self, value: Tensor, gradient: Tensor, number: int, length: float, scale: Tensor | None = None) -> Tensor:
        """The variables after step `number`, of `length` (times `scale`); where the gradient is zero they stay.

        Args:
            value, gradient, scale: [*shape] each.
        """
        memory = self.memory
        self.mean.lerp_(gradient, 1 - memory.gradient)
        self.square.lerp_(gradient * gradient, 1 - memory.square)
        floor = max(memory.floor, torch.finfo(value.dtype).tiny ** 0.5)
        if memory.corrected:
            size = (self.square / (1 - memory.square**number)).sqrt_().add_(floor)
            length /= 1 - memory.gradient**number
        else:
            size = self.square.sqrt().add_(floor)
        return torch.addcdiv(value, self.mean if scale is None else self.mean * scale, size, value=length)

    def keep(self, rows: Callable[[Tensor], Tensor]) -> None:  # [*shape] -> [*kept]
        """Only these rows of the variables."""
        self.mean, self.square = rows(self.mean), rows(self.square)


def differentiated(bounds: Callable[[Variables], Tensor], at: Variables, last: bool) -> tuple[Tensor, Variables]:
    """Bounds [*rows] at some variables, and gradients by autograd; none where `last`, or of what no bound depends on.

    Rows are independent, so that the gradient of their sum is each row's own.
    """
    varied = {i: v.detach().requires_grad_(not last) for i, v in at.items()}
    with torch.set_grad_enabled(not last):
        value = bounds(varied)
        if last or not value.requires_grad:
            return value.detach(), {}
        found = torch.autograd.grad(value.sum(), list(varied.values()), allow_unused=True)
    return value.detach(), {i: g for i, g in zip(varied, found, strict=True) if g is not None}
