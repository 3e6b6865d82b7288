"""The scale of Cauchy and of normal variables from samples: estimates to train on, and upper bounds that rarely fail.

If C_i are independent standard Cauchy variables, sum_i c_i C_i is one of scale sum_i |c_i|: an l1 norm. If G_i are
standard normal, sum_i c_i G_i is one of scale sqrt(sum_i c_i^2): an l2 norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

#: samples whose median is found by comparisons; of more of them, sorting each column takes less time
MOST_COMPARED = 64


def cauchy_scale(samples: Tensor) -> Tensor:  # [r, ...] -> [...]
    """The scale of Cauchy variables from r samples each: the sample median of |x|, made unbiased.

    Li et al. (2007): |x| has median 1 at scale 1, and the sample median a standard deviation of pi / (2 sqrt(r)) or so.
    For even r it is the lower one of the two in the middle, a sample itself: the gradient reaches only that one.

    Raises:
        ValueError: one sample: its mean would be infinite.
    """
    return _MedianOfSizes.apply(samples) / _median_of_standard_cauchy(len(samples))


def normal_scale(samples: Tensor) -> Tensor:  # [r, ...] -> [...]
    """The scale of normal variables of mean 0 from r samples each: the root of the mean square, made unbiased."""
    rows = len(samples)
    mean = math.sqrt(2) * math.exp(math.lgamma((rows + 1) / 2) - math.lgamma(rows / 2))  # of a chi variable
    return torch.linalg.vector_norm(samples, dim=0) / mean


class _MedianOfSizes(torch.autograd.Function):
    """The (lower) median of |samples| over the first axis: torch's, at a tenth of its time where samples are few."""

    @staticmethod
    def forward(ctx: Any, samples: Tensor) -> Tensor:  # [r, ...] -> [...]
        sizes = samples.abs()
        median = _selected(sizes) if len(sizes) <= MOST_COMPARED else sizes.median(0).values
        ctx.save_for_backward(samples, median)
        return median

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # [...] -> [r, ...]
        samples, median = ctx.saved_tensors
        return torch.where(samples.abs() == median, gradient * samples.sgn(), 0)


def _selected(values: Tensor) -> Tensor:  # [r, ...] -> [...]
    """The lower median over the first axis, by comparisons of whole slices: each is one pass of a vector unit."""
    rows = list(values.unbind(0))
    for i, j, low, high in _comparisons(len(rows)):
        first, second = rows[i], rows[j]
        if low:
            rows[i] = torch.minimum(first, second)
        if high:
            rows[j] = torch.maximum(first, second)
    return rows[(len(rows) - 1) // 2]


@cache
def _comparisons(count: int) -> list[tuple[int, int, bool, bool]]:
    """Pairs i < j to be put in order, and whether the lesser and the greater one is needed for the lower median.

    Batcher's merge exchange (Knuth, The Art of Computer Programming, 5.2.2, algorithm M) without what leads nowhere.
    """
    pairs = []
    top = 1 << max(0, (count - 1).bit_length() - 1)
    p = top
    while p:
        q, r, d = top, 0, p
        while d:
            pairs += [(i, i + d) for i in range(count - d) if i & p == r]
            d, q, r = q - p, q >> 1, p
        p >>= 1
    needed, kept = {(count - 1) // 2}, []
    for i, j in reversed(pairs):
        if i in needed or j in needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return kept[::-1]


@cache
def _median_of_standard_cauchy(rows: int) -> float:
    """The mean of the sample median of |x|: tan(pi u / 2) at u the j-th of `rows` uniform ones, j = (rows + 1) // 2."""
    if rows < 2:
        raise ValueError(f"a median needs at least 2 projections, got {rows}")
    below, above = (rows + 1) // 2 - 1, rows - (rows + 1) // 2  # how many are smaller, and larger
    u = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    log_size = math.lgamma(rows + 1) - math.lgamma(below + 1) - math.lgamma(above + 1)
    density = (log_size + below * u.log() + above * torch.log1p(-u)).exp()
    return float((torch.tan(torch.pi / 2 * u) * density).mean())


def cauchy_factor(rows: int, failure: float) -> float:
    """The f such that f times the geometric mean of `rows` samples of |x| is at least the scale, but for `failure`.

    Let L = log f, and let x have scale 1. E |x|^(-s) = 1 / cos(pi s / 2) for 0 <= s < 1, so by Chernoff's bound

        P(mean of log |x| <= -L)  <=  (exp(-s L) / cos(pi s / 2))^rows    for every such s.

    It is least where tan(pi s / 2) = a = 2 L / pi, and is exp(-rows (a atan(a) - log(1 + a^2) / 2)) there: eq. 55 of
    Wong et al. (2018), with 1 - epsilon = exp(-L).

    The greatest of the geometric means of m groups of k samples fails with the m-th power of one group's probability:
    with that of the geometric mean of all m k samples at the same f. The latter is never greater.
    """
    rate = _least(lambda a: a * math.atan(a) - 0.5 * math.log1p(a * a), -math.log(failure) / rows)
    return math.exp(0.5 * math.pi * rate)


def normal_factor(rows: int, failure: float) -> float:
    """The f such that f times the root mean square of `rows` samples is at least the scale, but for `failure`.

    Chernoff's bound of the chi-square variable X of `rows` degrees: P(X <= t rows) <= (t e^(1 - t))^(rows / 2) for
    0 < t <= 1. With f = t^(-1/2) and v = -log t that is exp(-(rows / 2) (v + e^(-v) - 1)).
    """
    v = _least(lambda v: v + math.expm1(-v), -2 * math.log(failure) / rows)
    return math.exp(0.5 * v)


def _least(function: Callable[[float], float], value: float) -> float:
    """The least number >= 0 at which an increasing function that is 0 at 0 reaches `value` (or one just above)."""
    low, high = 0.0, 1.0
    while function(high) < value:
        low, high = high, 2 * high
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if function(middle) < value else (low, middle)
    return high
