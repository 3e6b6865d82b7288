"""Slopes chosen by ascent, for boxes that slopes by rule leave open."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.branching.inputs_bounds import BoxBounds, Kernel, Relaxed
from verifier.branching.inputs_tree import LEVELS
from verifier.ops.base import Activation

#: ascent steps, the first one's length, what each next one's is of it
_STEPS, _LENGTH, _DECAY = 8, 0.25, 0.9
#: weights of the past in the means of gradients and of their squares
_MEAN, _SQUARE = 0.7, 0.9


@dataclass(frozen=True)
class Chosen:
    """Bounds of D boxes by slopes of their own."""

    value: Tensor  # [D]
    levels: Tensor  # [D, N] uint8: positions of all activations' lines, in their order, as the record keeps them


def ascend(kernel: Kernel, rows: Tensor, found: BoxBounds, lower: Tensor, upper: Tensor, enough: Tensor) -> Chosen:
    """Raise the bounds of one row per box by moving the free lines of its activations.

    The intermediate bounds stay as they are. Adam with projection; the best seen counts, rounded to what is kept.

    Args:
        rows: [D, *output]. lower, upper: [D, n]. enough: [D], no need to go on above this.
    """
    positions = _start(kernel, found)
    kept = {i: p.clone() for i, p in positions.items()}
    mean, square = ({i: torch.zeros_like(p) for i, p in positions.items()} for _ in range(2))
    best = torch.full_like(enough, -torch.inf)
    for step in range(_STEPS):
        with torch.enable_grad():
            moved = {i: p.detach().requires_grad_() for i, p in positions.items()}
            value = kernel.rows(rows.unsqueeze(1), _relaxed(kernel, found, moved)).least(lower, upper)[:, 0]
            gradients = torch.autograd.grad(value.sum(), list(moved.values()), allow_unused=True)
        better = value.detach() > best
        best = torch.where(better, value.detach(), best)
        for i, position in positions.items():
            kept[i] = torch.where(better.view(-1, *(1,) * (position.dim() - 1)), position, kept[i])
        if bool((best > enough).all()):
            break
        for (i, position), gradient in zip(positions.items(), gradients, strict=True):
            if gradient is None:
                continue
            gradient = gradient.nan_to_num()
            mean[i] = torch.lerp(gradient, mean[i], _MEAN)
            square[i] = torch.lerp(gradient**2, square[i], _SQUARE)
            length = _LENGTH * _DECAY**step
            tiny = torch.finfo(gradient.dtype).tiny ** 0.5
            positions[i] = (position + length * mean[i] / (square[i].sqrt() + tiny)).clamp(0, 1)
    levels = torch.cat([(kept[i] * LEVELS).round().to(torch.uint8).flatten(1) for i in kernel.graph.activations], 1)
    final = kernel.rows(rows.unsqueeze(1), _relaxed(kernel, found, unpacked(kernel, levels)))
    return Chosen(final.least(lower, upper)[:, 0], levels)


def unpacked(kernel: Kernel, levels: Tensor) -> dict[int, Tensor]:  # [D, N] -> per activation [D, *shape]
    """Positions in [0, 1] from what is kept of them."""
    nodes = [kernel.graph.nodes[i] for i in kernel.graph.activations]
    parts = levels.to(kernel.like.dtype).div(LEVELS).split([n.size for n in nodes], 1)
    return {i: p.unflatten(1, n.shape) for i, n, p in zip(kernel.graph.activations, nodes, parts, strict=True)}


def _start(kernel: Kernel, found: BoxBounds) -> dict[int, Tensor]:
    """The positions of least area where there are corners; the middle of smooth ones."""
    start = {}
    for i in kernel.graph.activations:
        op, (low, high) = kernel.graph.nodes[i].op, found.ranges[kernel.graph.nodes[i].parents[0]]
        assert isinstance(op, Activation)
        start[i] = (high > -low).to(low) if op.piecewise_linear else torch.full_like(low, 0.5)
    return start


def _relaxed(kernel: Kernel, found: BoxBounds, positions: dict[int, Tensor]) -> dict[int, Relaxed]:
    lines = {}
    for i, position in positions.items():
        op = kernel.graph.nodes[i].op
        assert isinstance(op, Activation)
        lines[i] = Relaxed.of(op.relax(*found.ranges[kernel.graph.nodes[i].parents[0]], position))
    return lines
