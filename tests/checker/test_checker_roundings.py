"""The numbers that the checker's payments are made of, against fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from verifier.checker import rounding
from verifier.checker.rounding import AMPLE, DOUBLE, SINGLE, TINY, down, gamma, up

NUMBERS = [0.0, 5e-324, 1e-310, TINY, 1e-20, 0.1, 1.0, 1 + 2.0**-52, 1e10, 1.7e308]


@pytest.mark.parametrize("unit", [DOUBLE, SINGLE])
def test_gamma_is_above_its_definition_and_near(unit: float) -> None:
    for n in (1, 2, 3, 7, 1000, 123457, 2**22, 2**23, 2**31, 2**40, 2**52):
        part = n * Fraction(unit)
        if part < Fraction(1, 2):
            exact = part / (1 - part)
            assert exact <= Fraction(gamma(n, unit)) <= exact * (1 + Fraction(1, 2**48))
        else:
            assert gamma(n, unit) == np.inf


def test_constants_are_what_ieee_arithmetic_has() -> None:
    assert np.float32(1) + np.float32(2 * SINGLE) > 1 == np.float32(1) + np.float32(SINGLE)
    assert 1 + 2 * DOUBLE > 1 == 1 + DOUBLE
    assert np.finfo(np.float32).smallest_normal <= rounding.TINY_SINGLE and 2**60 * Fraction(5e-324) < TINY
    assert np.float32(rounding.LARGEST_SINGLE) < np.finfo(np.float32).max
    # a sum of 2^31 magnitudes falls short by gamma of as many roundings
    assert Fraction(AMPLE) * (1 - Fraction(gamma(2**31))) > 1


def test_one_step_down_and_up() -> None:
    for x in [*NUMBERS, *(-v for v in NUMBERS)]:
        below, above = (Fraction(float(f(np.array(x)))) if abs(x) < 1e308 else None for f in (down, up))
        if below is not None and above is not None:
            step = Fraction(float(np.spacing(abs(x))))
            assert Fraction(x) - step <= below < Fraction(x) < above <= Fraction(x) + step
    for x in (np.inf, -np.inf, np.nan):  # what overflowed is unknown
        assert down(np.array(x)) == -np.inf and up(np.array(x)) == np.inf


def test_sums_that_round_once_are_enclosed() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-310, 1.0, 1e300):
        a, b = rng.normal(size=(2, 50)) * scale
        for low, high, *pair in zip(down(a + b).tolist(), up(a + b).tolist(), a.tolist(), b.tolist(), strict=True):
            assert Fraction(low) < sum(map(Fraction, pair)) < Fraction(high)


def test_sigmoid_is_a_half_at_zero() -> None:
    assert (rounding.sigmoid(np.array([0.0, -0.0])) == 0.5).all()
