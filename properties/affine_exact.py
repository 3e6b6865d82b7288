"""Decisions about sums of products of float64 numbers, exact: an error bound where it can tell, else fractions."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

_UNIT = 2.0**-53


def rounding_error(size: Tensor, terms: int) -> Tensor:  # [...] -> [...]
    """Bound of the rounding error of a float64 sum of `terms` products, in whatever order it is summed up.

    |computed - exact| <= gamma_k size + k underflows with gamma_k = k u / (1 - k u) (Higham, Accuracy and Stability,
    section 3.1); twice that, since `size` and the bound itself are rounded as well. A term of one to three factors
    and one inner sum are paid for by k = 2 terms + 8.

    Args:
        size: the sum of the terms' absolute values, as computed.
    """
    k = 2 * terms + 8
    return 2 * k * _UNIT * size + k * torch.finfo(torch.float64).tiny


def rows_hold(a: Tensor, x: Tensor, b: Tensor) -> Tensor:  # a [B or 1, m, N], x [B, N], b [B or 1, m] -> bool [B, m]
    """Whether a . x <= b, decided exactly; False where x is not finite."""
    finite = x.isfinite().all(1, keepdim=True)
    x = torch.where(finite, x, torch.zeros_like(x))
    value = torch.einsum("bmn,bn->bm", a.expand(len(x), -1, -1), x) - b
    size = torch.einsum("bmn,bn->bm", a.abs().expand(len(x), -1, -1), x.abs()) + b.abs()
    error = rounding_error(size, a.shape[2] + 1)
    holds = value <= -error
    doubtful = ~holds & ~(value > error)  # overflow is doubtful as well
    for i, j in doubtful.nonzero().tolist():
        row, limit = a[i if len(a) > 1 else 0, j], b[i if len(b) > 1 else 0, j]
        exact = sum((Fraction(u) * Fraction(v) for u, v in zip(row.tolist(), x[i].tolist(), strict=True)), Fraction(0))
        holds[i, j] = exact <= Fraction(float(limit))
    return holds & finite


def close_to_combination(x: Tensor, center: Tensor, directions: Tensor, e: Tensor, allowance: float) -> Tensor:
    """Whether |center + sum_k e_k directions_k - x| <= allowance at every entry, decided exactly; bool [B].

    Args:
        x, center: [B, N], finite. directions: [B or 1, n, N]. e: [B, n], finite.
    """
    directions = directions.expand(len(x), -1, -1)
    value = center - x + torch.einsum("bkn,bk->bn", directions, e)
    size = center.abs() + x.abs() + torch.einsum("bkn,bk->bn", directions.abs(), e.abs())
    error = rounding_error(size, directions.shape[1] + 2)
    holds = value.abs() + error * 1.01 <= allowance * (1 - 2.0**-50)
    fails = (value.abs() > 2 * error + 1.01 * allowance).any(1)
    result = holds.all(1)
    limit = Fraction(allowance)
    for i in (~result & ~fails).nonzero().squeeze(1).tolist():
        factors = [Fraction(v) for v in e[i].tolist()]
        result[i] = all(
            abs(
                Fraction(float(center[i, p]))
                - Fraction(float(x[i, p]))
                + sum(
                    (f * Fraction(g) for f, g in zip(factors, directions[i, :, p].tolist(), strict=True)), Fraction(0)
                )
            )
            <= limit
            for p in (~holds[i]).nonzero().squeeze(1).tolist()
        )
    return result


def on_a_segment(x: Tensor, center: Tensor, direction: Tensor, reach: float, allowance: float) -> bool:
    """Whether some |e| <= reach has |center + e direction - x| <= allowance at every entry [N], decided exactly."""
    low, high, room = -Fraction(reach), Fraction(reach), Fraction(allowance)
    for c, g, v in zip(center.tolist(), direction.tolist(), x.tolist(), strict=True):
        off, slope = Fraction(v) - Fraction(c), Fraction(g)
        if slope == 0:
            if abs(off) > room:
                return False
            continue
        ends = sorted(((off - room) / slope, (off + room) / slope))
        low, high = max(low, ends[0]), min(high, ends[1])
        if low > high:
            return False
    return True
