"""The checker's own elementary functions, against arb at 200 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from verifier.checker import enclosures, functions
from verifier.checker.rounding import TINY

flint = pytest.importorskip("flint")
arb = flint.arb
#: of the default run, and of the slow one
COUNTS = [3000, pytest.param(300_000, marks=pytest.mark.slow)]


def sigmoid(z: Any) -> Any:
    return 1 / (1 + (-z).exp())


def softplus(z: Any) -> Any:
    return z.exp().log1p()


def celu(z: Any, a: float, scale: float) -> Any:
    return z if z > 0 else a * (z / scale).expm1()


#: every kind in exact arithmetic
EXACT: dict[str, Callable[[Any, Any], Any]] = {
    "exp": lambda z, o: z.exp(), "log": lambda z, o: z.log(), "reciprocal": lambda z, o: 1 / z,
    "sqrt": lambda z, o: z.sqrt(), "rsqrt": lambda z, o: 1 / z.sqrt(), "square": lambda z, o: z * z,
    "power": lambda z, o: z ** (int(o["exponent"]) if o["exponent"].is_integer() else arb(o["exponent"])),
    "sin": lambda z, o: z.sin(), "cos": lambda z, o: z.cos(), "tan": lambda z, o: z.tan(),
    "atan": lambda z, o: z.atan(), "erf": lambda z, o: z.erf(), "softplus": lambda z, o: softplus(z),
    "gelu": lambda z, o: z * (-z / arb(2).sqrt()).erfc() / 2,
    "gelu_tanh": lambda z, o: z * sigmoid(2 * (2 / arb.pi()).sqrt() * (z + arb("0.044715") * z**3)),
    "silu": lambda z, o: z * sigmoid(z), "mish": lambda z, o: z * softplus(z).tanh(),
    "elu": lambda z, o: celu(z, o["alpha"], 1.0), "celu": lambda z, o: celu(z, o["alpha"], o["alpha"]),
    "softsign": lambda z, o: z / (1 + abs(z)), "tanhshrink": lambda z, o: z - z.tanh(),
    "hardswish": lambda z, o: z * max(min(z + 3, arb(6)), arb(0)) / 6,
}  # fmt: skip
POWERS = [("power", {"exponent": p}) for p in (3.0, 4.0, 0.5, 1.7, -1.3, -2.0)]
CASES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in functions.FUNCTIONS if kind not in ("power", "elu", "celu")), *POWERS,
    ("elu", {"alpha": 1.0}), ("elu", {"alpha": -0.5}), ("celu", {"alpha": 0.6}),
]  # fmt: skip


def positive(kind: str, o: dict[str, Any]) -> bool:
    """Whether the function is only known to the right of 0."""
    return kind in ("log", "sqrt", "rsqrt") or (kind == "power" and o["exponent"] not in (3.0, 4.0))


def points(count: int, seed: int) -> np.ndarray:
    """Of all magnitudes that an exponential has values at, beside bends, beside multiples of pi / 2, and subnormal."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=count) * 10.0 ** rng.uniform(-9, 2, size=count)
    near = [0.0, 1.0, 3.0, np.sqrt(2), 1.4185040087908283, 2.3993572805154675, 1.4905711794854284, 2.256376396360793]
    beside = np.repeat(near, 40) + rng.normal(size=40 * len(near)) * 10.0 ** rng.uniform(-17, -1, 40 * len(near))
    turns = np.rint(rng.normal(size=count // 4) * 10.0 ** rng.uniform(0, 4, count // 4)) * np.pi / 2
    whole = np.rint(rng.normal(size=count // 8) * 20)
    return np.concatenate([z, beside, -beside, turns, whole, [5e-324, 1e-310, 1e-300, 650.0, -650.0, 0.0]])


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("kind", "o"), CASES, ids=[f"{k}{list(o.values())}" for k, o in CASES])
def test_values_are_within_their_errors(kind: str, o: dict[str, Any], count: int) -> None:
    """And the errors are small."""
    z = points(count, len(kind))
    z = np.abs(z) if positive(kind, o) else z
    z = z[z != 0] if positive(kind, o) or kind == "reciprocal" else z
    z = z[np.abs(z) > 1e-90] if kind in ("power", "reciprocal", "rsqrt") else z
    f = functions.FUNCTIONS[kind]
    with np.errstate(all="ignore"):
        values, errors = f.value(z, o)
    before = flint.ctx.prec
    flint.ctx.prec = 1200 if kind in ("softplus", "gelu", "mish", "tanhshrink", "elu", "celu") else 200
    try:
        for x, v, e in zip(z.tolist(), values.tolist(), errors.tolist(), strict=True):
            assert not np.isfinite(v) or abs(arb(v) - EXACT[kind](arb(x), o)) <= arb(e), (x, v, e)
    finally:
        flint.ctx.prec = before
    fair = np.abs(values) * 1e-12 + np.abs(z) * 1e-12 + 1e-12
    tight = (np.isfinite(values) & (errors <= fair))[z < 700]  # beyond, an exponential overflows
    assert tight.mean() > (0.5 if kind in ("power", "tan") else 0.99)


@pytest.mark.parametrize(("kind", "o"), CASES, ids=[f"{k}{list(o.values())}" for k, o in CASES])
def test_slopes_are_quotients_of_values(kind: str, o: dict[str, Any]) -> None:
    """At 1200 bits a difference over 2^-400 is the slope, to 2^-300."""
    z = points(400, 1)
    z = np.abs(z) if positive(kind, o) else z
    z = z[(np.abs(z) > 1e-12) & (np.abs(z) < 300) & (np.abs(np.abs(z) - 3) > 1e-12)]
    f = functions.FUNCTIONS[kind]
    with np.errstate(all="ignore"):
        slopes, errors = f.slope(z, o)
    before, step = flint.ctx.prec, arb(2) ** -400
    flint.ctx.prec = 2400
    try:
        for x, v, e in zip(z.tolist(), slopes.tolist(), errors.tolist(), strict=True):
            quotient = (EXACT[kind](arb(x) + step, o) - EXACT[kind](arb(x), o)) / step
            room = arb(2) ** -60 * (arb(e) + abs(arb(v)) * arb(2) ** -30)
            assert not np.isfinite(v) or not np.isfinite(e) or abs(arb(v) - quotient) <= arb(e) + room, (x, v, e)
    finally:
        flint.ctx.prec = before


def test_logarithms_over_all_magnitudes() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([10.0 ** rng.uniform(-307, 308, 2000), 1 + rng.normal(size=2000) * 10.0 ** rng.uniform(-16, -2)])
    x = np.concatenate([x, [5e-324, 1e-310, np.finfo(float).max, 1 - 2.0**-53, 1 + 2.0**-52]])
    for v, t in zip(enclosures.log(x).tolist(), x.tolist(), strict=True):
        exact = arb(t).log()
        assert abs(arb(v) - exact) <= enclosures.LOG * abs(exact) + TINY
    assert np.isnan(enclosures.log(np.array([0.0, -1.0, np.nan]))).all()


def test_what_is_too_large_for_an_enclosure_has_a_true_one() -> None:
    z = np.array([2.0**20 + 1, 1e300, -1e18])
    for kind in ("sin", "cos"):
        v, e = functions.FUNCTIONS[kind].value(z, {})
        assert (v - e <= -1).all() and (v + e >= 1).all()
    with np.errstate(over="ignore"):
        assert not np.isfinite(functions.FUNCTIONS["exp"].value(np.array([800.0]), {})[0]).any()
