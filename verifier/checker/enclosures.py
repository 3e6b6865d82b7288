"""Elementary functions with a proven error, by IEEE + - * / sqrt, rint, frexp and ldexp alone: no library is trusted.

u = 2^-53 is the unit roundoff. Horner's rule over k steps errs by at most gamma_4k times the sum of the terms' sizes
(Higham, Accuracy and Stability, section 5.1), where every coefficient is made by one division. What underflows adds
less than 2^-1000 to an error, which TINY covers. NaN stands for what has no value.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np

from verifier.checker.rounding import _LN2_HIGH, _LN2_LOW

#: exp, log, power of an integer: relative errors; sin, cos, erf: absolute ones; atan, log1p: relative ones
EXP, LOG, TRIG, ATAN, LOG1P, ERF = 2.0**-46, 2.0**-46, 2.0**-46, 2.0**-46, 2.0**-46, 2.0**-46
WIDEST = 2.0**20  #: of an argument that sin, cos and tan are known of
_HALF_PI = tuple(map(float.fromhex, ("0x1.921fb54400000p+0", "0x1.0b4611a600000p-34", "0x1.3198a2e037073p-69")))
_ERF = float.fromhex("0x1.20dd750429b6dp+0")  #: 2 / sqrt(pi), rounded


def exp(x: np.ndarray) -> np.ndarray:
    """Within EXP, relatively, and 2^-1060 absolutely; the proof of `rounding.decay` holds for both signs of x."""
    n = np.rint(np.clip(x, -800.0, 800.0) / (_LN2_HIGH + _LN2_LOW))
    r = (np.clip(x, -800.0, 800.0) - n * _LN2_HIGH) - n * _LN2_LOW
    e = np.ones_like(r)
    for k in range(14, 0, -1):
        e = 1 + r / k * e
    return np.ldexp(e, np.nan_to_num(n).astype(np.int32))


def _atanh(s: np.ndarray, last: int) -> np.ndarray:
    """2 atanh(s) = log((1 + s) / (1 - s)) = 2 s (1 + s^2 / 3 + ... + s^2last / (2 last + 1)) for |s| <= 1/3."""
    total, square = np.full_like(s, 1 / (2 * last + 1)), s * s
    for j in range(last - 1, -1, -1):
        total = 1 / (2 * j + 1) + square * total
    return 2 * s * total


def log(x: np.ndarray) -> np.ndarray:
    """Within LOG, relatively; NaN for x <= 0.

    x = 2^k m with 0.7 < m < 1.42: log x = k ln 2 + 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172; m - 1 is exact.
    The series' remainder is below 0.172^31, s is off by 2u of it, each step of Horner's rule by 4u of terms that shrink
    by 33: less than 16u of log m. k has 11 bits and the high part of ln 2 has 42: their product is exact. Where k is
    not 0, |log x| > 0.34, so that 16u of log m < 0.36 are 17u of it, and the two sums add 3u.
    """
    with np.errstate(all="ignore"):
        m, k = np.frexp(np.where(x > 0, x, np.nan))
        small = m < 0.70710678
        m, k = np.where(small, 2 * m, m), (k - small).astype(np.float64)
        found = k * _LN2_HIGH + (k * _LN2_LOW + _atanh((m - 1) / (m + 1), 14))
        return np.where(np.isposinf(x), np.inf, found)


def log1p(e: np.ndarray) -> np.ndarray:
    """log(1 + e) for 0 <= e <= 1 within LOG1P, relatively: 2 atanh(e / (2 + e)).

    All terms are positive and shrink by 9: Horner's rule and the quotient add less than 12u; the remainder is below
    9^-20.
    """
    return _atanh(e / (2 + e), 19)


def sine(x: np.ndarray, turn: int) -> np.ndarray:
    """sin x (turn 0) or cos x (turn 1) within TRIG, absolutely; 0, which is within 1, for |x| > WIDEST.

    x = n pi/2 + r: n has 20 bits and two parts of pi/2 have 33 each, so that their products are exact, and so is the
    first difference (Sterbenz); the second and third round by u |r| each, and pi/2 itself is off by 2^-120: r is off by
    2^-52, and |r| < 0.786. The series' remainders are below 0.786^19 / 19! < 2^-62, and Horner's rule adds at most
    gamma_40 cosh(0.786) < 53u.
    """
    inside = np.abs(x) <= WIDEST
    x = np.where(inside, x, 0.0)
    n = np.rint(x / _HALF_PI[0])
    r = ((x - n * _HALF_PI[0]) - n * _HALF_PI[1]) - n * _HALF_PI[2]
    square, odd, even = r * r, np.ones_like(r), np.ones_like(r)
    for k in range(18, 1, -2):
        odd = 1 - square / (k * (k + 1)) * odd
        even = 1 - square / ((k - 1) * k) * even
    quarter = (n.astype(np.int64) + turn) % 4
    found = np.where(quarter % 2 == 0, r * odd, even)
    return np.where(inside, np.where(quarter < 2, found, -found), 0.0)


def atan(x: np.ndarray) -> np.ndarray:
    """Within ATAN, relatively: atan x = pi/2 - atan(1/x), and twice atan y = 2 atan(y / (1 + sqrt(1 + y^2))).

    After that |y| < 0.2: the remainder of the series is below 0.2^31. The three quotients are off by 9u, and Horner's
    rule, over terms that shrink by 25, adds 6u. Where |x| > 1 the result is above 0.78 and loses 2u more.
    """
    size = np.abs(x)
    with np.errstate(all="ignore"):
        y = np.where(size > 1, 1 / size, size)
    for _ in range(2):
        y = y / (1 + np.sqrt(1 + y * y))
    total, square = np.full_like(y, 1 / 29), y * y
    for j in range(13, -1, -1):
        total = 1 / (2 * j + 1) - square * total
    y = 4 * y * total
    return np.copysign(np.where(size > 1, _HALF_PI[0] + _HALF_PI[1] - y, y), x)


def _erf_at(c: Fraction) -> tuple[float, float]:
    """erf(c), and 2 / sqrt(pi) e^(-c^2), both correctly rounded but for 2 units, in rational numbers.

    e^(-c^2) = 1 / sum c^2n / n!, and erf(c) = 2 / sqrt(pi) e^(-c^2) sum 2^n c^(2n+1) / (2n+1)!!: all terms are positive
    and at least halve from n = 90 on, so that what is left out after n = 200 is below 2^-100 of the sum.
    """
    term, total, power, whole = c, c, Fraction(1), Fraction(1)
    for n in range(1, 201):
        term, power = term * 2 * c * c / (2 * n + 1), power * c * c / n
        total, whole = total + term, whole + power
    return float(total / whole) * _ERF, float(1 / whole) * _ERF


@cache
def _grid() -> np.ndarray:  # [27, 2]; made when it is first asked for: it takes a tenth of a second
    return np.array([_erf_at(Fraction(k, 4)) for k in range(27)])


def erf(x: np.ndarray) -> np.ndarray:
    """Within ERF, absolutely. |x| is cut off at 6.5, where 1 - erf is below 2^-60.

    erf(c + h) = erf(c) + 2 / sqrt(pi) e^(-c^2) h sum a_k h^k / (k + 1) for c = rint(4 |x|) / 4, |h| <= 1/8, where
    e^(-2ct - t^2) = sum a_k t^k has a_(k+1) = -2 (c a_k + a_(k-1)) / (k + 1). With all signs positive it is the
    series m_k of e^(2ct + t^2). By Cauchy's estimate on |t| = 1 what is left out after k = 18 is below
    e^(-c^2 + 2c + 1) 8^-19 < 2^-53. A term's rounding is at most gamma_6k m_k |h|^k, and together, times e^(-c^2), at
    most gamma_120 1.13 / 8 e^(c/4 + 1/64 - c^2) < 18u. The table is off by 4u.
    """
    size = np.minimum(np.abs(x), 6.5)
    k = np.rint(4 * size)
    c = k / 4
    h, (start, factor) = size - c, _grid()[np.nan_to_num(k).astype(np.int64)].transpose(-1, *range(np.ndim(x)))
    before, term = np.zeros_like(h), np.ones_like(h)  # a_(k-1) h^(k-1) and a_k h^k
    total, line, square = np.ones_like(h), -2 * c * h, -2 * h * h
    for j in range(1, 19):
        before, term = term, (line * term + square * before) / j
        total = total + term / (j + 1)
    return np.copysign(start + factor * h * total, x)


def power(x: np.ndarray, n: int) -> np.ndarray:
    """x^n for n >= 0, within (n + 1) u, relatively: each product adds its own u and its factors' errors."""
    found = np.ones_like(x)
    while n:
        found = found * x if n & 1 else found
        x, n = x * x, n >> 1
    return found
