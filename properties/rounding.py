"""Conversions and differences that round in a chosen direction."""

from __future__ import annotations

import torch
from torch import Tensor


def cast_down(x: Tensor, dtype: torch.dtype) -> Tensor:  # [...] -> [...]
    """The largest value of `dtype` that is not above x (float64), elementwise."""
    y = x.to(dtype)
    return torch.where(y.double() > x, torch.nextafter(y, torch.full_like(y, -torch.inf)), y)


def cast_up(x: Tensor, dtype: torch.dtype) -> Tensor:  # [...] -> [...]
    """The smallest value of `dtype` that is not below x (float64), elementwise."""
    return -cast_down(-x, dtype)


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:  # [...] each, entry by entry
    """Knuth's error-free sum: (s, e) with s = fl(a + b) and s + e = a + b exactly (barring overflow)."""
    s = a + b
    b_part = s - a
    return s, (a - (s - b_part)) + (b - b_part)


def add_down(a: Tensor, b: Tensor) -> Tensor:  # [...] each, entry by entry
    """a + b rounded towards minus infinity (float64)."""
    s, e = two_sum(a, b)
    return torch.where(e < 0, torch.nextafter(s, torch.full_like(s, -torch.inf)), s)


def add_up(a: Tensor, b: Tensor) -> Tensor:  # [...] each, entry by entry
    """a + b rounded towards plus infinity (float64)."""
    return -add_down(-a, -b)
