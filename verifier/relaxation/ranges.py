"""Ranges of tensors, as their two ends or as middle and radius."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Range = tuple[Tensor, Tensor]  #: lower and upper ends


def middle_and_radius(lower: Tensor, upper: Tensor) -> Range:  # [*shape] each -> [*shape] each
    """Middle and radius of intervals; the radius reaches both ends, up to its own rounding, whatever the middle's did.

    Where that rounding has to be outward, sets know their own (`properties.Box.middle_and_radius`).
    """
    middle, radius = _MiddleAndRadius.apply(lower, upper)
    return middle, radius


class _MiddleAndRadius(torch.autograd.Function):
    """The gradient is that of (lower + upper) / 2 and (upper - lower) / 2, which is what the formula's own comes
    to, at a third of the time: training spends it here.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(lower: Tensor, upper: Tensor) -> Range:  # [*shape] each -> [*shape] each
        middle = lower + 0.5 * (upper - lower)
        return middle, torch.maximum(upper - middle, middle - lower)

    @staticmethod
    def setup_context(ctx: Any, inputs: Range, output: Range) -> None:
        """Nothing is kept for the gradient: it is linear."""

    @staticmethod
    def backward(ctx: Any, middle: Tensor, radius: Tensor) -> Range:  # [*shape] each -> [*shape] each
        middle, radius = 0.5 * middle, 0.5 * radius
        return middle - radius, middle + radius
