"""Slopes chosen by ascent (alpha-CROWN), for boxes of branch and bound on the input that slopes by rule leave open."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.branching.inputs_bounds import BoxBounds, Kernel, Lines, relaxed_over
from verifier.branching.inputs_tree import LEVELS, positions
from verifier.ops.base import Nonlinear
from verifier.relaxation import ascent
from verifier.relaxation.ascent import Adam, Memory, Schedule, Variables, differentiated

_SCHEDULE = Schedule(steps=7, rate=0.25, decay=0.9, look=1)
_MEMORY = Memory(0.7, 0.9, corrected=False)


@dataclass(frozen=True)
class Chosen:
    """Bounds of D boxes by slopes of their own."""

    value: Tensor  # [D]
    levels: Tensor  # [D, N] uint8: positions of all activations' lines, in their order, as the record keeps them


def ascend(kernel: Kernel, rows: Tensor, found: BoxBounds, lower: Tensor, upper: Tensor, enough: Tensor) -> Chosen:
    """Raise the bounds of one row per box by moving the free lines of its activations.

    The intermediate bounds stay as they are. The best seen counts, rounded to what is kept.

    Args:
        rows: [D, *output]. lower, upper: [D, n]. enough: [D], no need to go on above this.
    """
    problem = _BoxAscent(kernel, rows, found, (lower, upper), enough)
    ascent.ascend(problem, _SCHEDULE)
    kept = [(problem.kept[i] * LEVELS).round().to(torch.uint8).flatten(1) for i in kernel.graph.activations]
    levels = torch.cat(kept, 1)
    return Chosen(problem.bounds(positions(kernel.graph, levels)), levels)


class _BoxAscent:
    """The ascent of D boxes, together to its end: what one box has beyond enough makes up for rounding its slopes.

    Args:
        rows: [D, *output]. ends: of the boxes, [D, n] each. enough: [D].
    """

    def __init__(
        self, kernel: Kernel, rows: Tensor, found: BoxBounds, ends: tuple[Tensor, Tensor], enough: Tensor
    ) -> None:
        self.kernel, self.rows, self.found, self.ends, self.enough = kernel, rows.unsqueeze(1), found, ends, enough
        self.positions = _start(kernel, found)
        self.kept, self.best = dict(self.positions), torch.full_like(enough, -torch.inf)
        self.adams = {i: Adam(p, _MEMORY) for i, p in self.positions.items()}
        self.gradients: Variables = {}

    def bounds(self, positions: Variables) -> Tensor:  # [D]
        """At these positions of the lines, [D, *shape] in [0, 1] per activation."""
        return self.kernel.rows(self.rows, _relaxed(self.kernel, self.found, positions)).least(*self.ends)[:, 0]

    def evaluate(self, number: int, last: bool) -> bool:
        value, self.gradients = differentiated(self.bounds, self.positions, last)
        better = value > self.best
        self.best = torch.where(better, value, self.best)
        for i, position in self.positions.items():
            self.kept[i] = torch.where(better.view(-1, *(1,) * (position.dim() - 1)), position, self.kept[i])
        return bool(self.gradients)

    def leave(self) -> bool:
        return not bool((self.best > self.enough).all())

    def step(self, number: int, schedule: Schedule) -> None:
        length = schedule.length(number)
        for i, gradient in self.gradients.items():
            moved = self.adams[i].moved(self.positions[i], gradient.nan_to_num(), number, length)
            self.positions[i] = moved.clamp_(0, 1)


def _start(kernel: Kernel, found: BoxBounds) -> dict[int, Tensor]:  # [D, *shape] each
    """The positions of least area where there are corners; the middle of smooth ones and of products."""
    start = {}
    for i in kernel.graph.activations:
        op, (low, high) = kernel.graph.nodes[i].op, found.ranges[kernel.graph.nodes[i].parents[0]]
        assert isinstance(op, Nonlinear)
        middle = low.new_full((len(low), *kernel.graph.nodes[i].shape), 0.5)
        start[i] = (high > -low).to(low) if op.piecewise_linear else middle
    return start


def _relaxed(kernel: Kernel, found: BoxBounds, positions: Variables) -> dict[int, Lines]:
    graph = kernel.graph
    ranges = {i: found.ranges[graph.nodes[i].parents[0]] for i in positions}
    return {i: relaxed_over(graph, i, ranges[i], position) for i, position in positions.items()}
