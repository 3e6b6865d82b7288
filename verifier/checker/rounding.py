"""Rounding errors of float64 and float32, and functions with a proven error.

A sum of n products, in any order, with or without fused or blocked sums, errs by at most gamma_n = n u / (1 - n u)
times the sum of their magnitudes (Higham, Accuracy and Stability, section 3.1), and by TINY where products underflow:
fewer than 2^60 terms of 2^-1074 each. Bounds on errors are computed in floating point as well; AMPLE times such a
number is more than the exact one, for sums of up to 2^31 terms.
"""

from __future__ import annotations

import numpy as np

DOUBLE, SINGLE = 2.0**-53, 2.0**-24  #: unit roundoffs
TINY, TINY_SINGLE = 1e-300, 2.0**-126  #: above what underflows; in float32 results may also be flushed to zero
LARGEST_SINGLE = 3.4e38  #: below float32's largest number
AMPLE = 1 + 2.0**-20
#: |act - its computed value| and |act' - its computed value| of sigmoid and tanh, absolutely
SMOOTH, SMOOTH_SLOPE = 2.0**-44, 2.0**-42
_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42fefa3800p-1"), float.fromhex("0x1.ef35793c76730p-45")


def gamma(n: int, unit: float = DOUBLE) -> float:
    """An upper bound of Higham's gamma_n; infinite where the analysis breaks down."""
    return n * unit / (1 - n * unit) * (1 + 2.0**-50) if n * unit < 0.5 else np.inf


def down(x: np.ndarray) -> np.ndarray:
    """A number below what one operation rounded to x; minus infinity where that overflowed or is no number."""
    return np.where(np.isfinite(x), np.nextafter(x, -np.inf), -np.inf)


def up(x: np.ndarray) -> np.ndarray:
    return -down(-x)


def decay(x: np.ndarray) -> np.ndarray:
    """exp(-|x|), with a relative error of at most 2^-46 (and 2^-1060 absolutely), by IEEE arithmetic alone.

    -|x| = n ln 2 + r with |r| < 0.35: n has 11 bits and the high part of ln 2 has 42, so that their product is exact;
    the difference is exact as well (Sterbenz) or rounds by 2^-54, and the low part adds 2^-84: e^r is off by 2^-52.
    Taylor's remainder after r^14 is 0.35^15 / 15! < 2^-62. Horner's rule rounds by at most gamma_42 e^|r|, relative to
    e^r at most 42 e^0.7 2^-53 < 2^-46.5. ldexp is exact but for underflow. Below -800 the result is 0, and so is e^-800
    but for 2^-1060.
    """
    x = np.maximum(-np.abs(x), -800.0)
    n = np.rint(x / (_LN2_HIGH + _LN2_LOW))
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    e = np.ones_like(r)
    for k in range(14, 0, -1):
        e = 1 + r / k * e
    return np.ldexp(e, np.nan_to_num(n).astype(np.int32))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Within SMOOTH: e / (1 + e) and 1 / (1 + e) move by at most |de| / (1 + e)^2, and round three times."""
    e = decay(x)
    return np.where(x < 0, e, 1.0) / (1 + e)


def tanh(x: np.ndarray) -> np.ndarray:
    """Within SMOOTH: (1 - e) / (1 + e) moves by at most 2 |de| for e = exp(-2 |x|), and rounds three times."""
    e = decay(2 * x)
    return np.copysign((1 - e) / (1 + e), x)
