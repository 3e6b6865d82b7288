"""Conversions and differences that round in a chosen direction."""

from __future__ import annotations

import torch
from torch import Tensor


def cast_down(x: Tensor, dtype: torch.dtype) -> Tensor:  # [...] -> [...]
    """The largest value of `dtype` that is not above x (float64), elementwise."""
    y = x.to(dtype)
    return torch.where(y.double() > x, _next(y, -torch.inf), y)


def cast_up(x: Tensor, dtype: torch.dtype) -> Tensor:  # [...] -> [...]
    """The smallest value of `dtype` that is not below x (float64), elementwise."""
    y = x.to(dtype)
    return torch.where(y.double() < x, _next(y, torch.inf), y)


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:  # [...] each, entry by entry; they may broadcast
    """Knuth's error-free sum: (s, e) with s = fl(a + b) and s + e = a + b exactly (barring overflow).

    e = (a - (s - b')) + (b - b') with b' = s - a, in place: allocating tensors of images takes longer than the sums.
    """
    s = a + b
    b_part = s - a
    e = (s - b_part).neg_().add_(a)
    return s, e.add_(b_part.neg_().add_(b))


def add_down(a: Tensor, b: Tensor) -> Tensor:  # [...] each, entry by entry; they may broadcast
    """a + b rounded towards minus infinity (float64)."""
    s, e = two_sum(a, b)
    return torch.where(e < 0, _next(s, -torch.inf), s)


def add_up(a: Tensor, b: Tensor) -> Tensor:  # [...] each, entry by entry; they may broadcast
    """a + b rounded towards plus infinity (float64)."""
    s, e = two_sum(a, b)
    return torch.where(e > 0, _next(s, torch.inf), s)


def _next(x: Tensor, towards: float) -> Tensor:  # [...]
    """The neighbour of each entry in the direction of an infinity."""
    return torch.nextafter(x, torch.full((), towards, dtype=x.dtype, device=x.device))
