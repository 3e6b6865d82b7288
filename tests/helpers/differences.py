"""Directional derivatives by difference quotients, for tests of gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def slope(
    value: Callable[[], Tensor], parameters: Sequence[Tensor], direction: Sequence[Tensor], step: float = 1e-6
) -> Tensor:
    """The central difference quotient of `value`, a scalar, in a direction [as the parameters], which end as they were.

    Args:
        parameters: float64, moved in place.
    """
    before, ends = [p.detach().clone() for p in parameters], []
    for sign in (1, -1):
        with torch.no_grad():
            for p, start, d in zip(parameters, before, direction, strict=True):
                p.copy_(start + sign * step * d)
        ends.append(value().detach())
    with torch.no_grad():
        for p, start in zip(parameters, before, strict=True):
            p.copy_(start)
    return (ends[0] - ends[1]) / (2 * step)
