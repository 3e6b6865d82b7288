"""Smooth functions of one variable: values and slopes with proven errors, where they bend which way, and lines.

On a stretch where f is convex, f(z) >= f(t) + f'(t) (z - t) for every t in it, and t near the stationary point of
f(z) - s z, found by no matter what arithmetic, loses little; where it is concave or a line the least is at an end. -f
turns a maximum into a minimum. A bend that is no float is known within a part of 2^-50: t keeps that far away from it,
and what is in between is within |f' - s| times the width of the bend itself. Every rounding is paid for here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from verifier.checker import pieces
from verifier.checker.enclosures import (
    ATAN,
    ERF,
    EXP,
    LOG,
    LOG1P,
    TRIG,
    WIDEST,
    atan,
    erf,
    exp,
    log,
    log1p,
    power,
    sine,
)
from verifier.checker.rounding import (
    AMPLE,
    DOUBLE,
    SINGLE,
    SMOOTH,
    TINY,
    TINY_SINGLE,
    decay,
    down,
    sigmoid,
    tanh,
)  # fmt: skip

Array = np.ndarray
Options = Mapping[str, float]
Enclosed = tuple[Array, Array]  #: a number, and how far it is at most from the exact one
#: points in rising order between which f bends one way, and how: 1 convex, -1 concave, 0 a line
Bends = tuple[Sequence[Array | float], Sequence[Array | int]]
SPARE = 2.0**-50  #: a point where f bends is known within this part of it
_FLAT = 40.0  #: beyond, functions whose slope is searched for are lines
STEEPEST = 2.0**20  #: slopes that lines have where f has steeper ones without end
_PART = 4 * DOUBLE * (1 + 2.0**-20)  #: of up to three roundings


@dataclass(frozen=True)
class Function:
    """One kind. Every callable takes the node's options last; errors are bounds of what IEEE arithmetic makes.

    `domain` says which intervals [low, high] the function is known on, and `touch(slope, near)` guesses where f' has a
    slope, on the stretch that holds `near`; None where it is searched for. `ulps` is what a library's float32 value may
    be off by, in units in the last place of the value, or of |z| if that is larger (`of_argument`).
    """

    value: Callable[[Array, Options], Enclosed]
    slope: Callable[[Array, Options], Enclosed]
    bends: Callable[[Array, Array, Options], Bends]
    touch: Callable[[Array, Array, Options], Array] | None = None
    domain: Callable[[Array, Array, Options], Array] = lambda low, high, o: np.isfinite(low) & np.isfinite(high)
    ulps: Callable[[Options], float] = lambda o: 4.0
    of_argument: bool = False


def _rounded(v: Array, part: float = 0.0) -> Enclosed:
    """Off by a part of it, and three roundings."""
    return v, np.abs(v) * (part * (1 + 2.0**-20) + _PART) + TINY


def _fixed(*bends: float, signs: Sequence[int]) -> Callable[[Array, Array, Options], Bends]:
    return lambda low, high, o: (bends, signs)


def _positive(low: Array, high: Array, o: Options) -> Array:
    return (low > 0) & np.isfinite(high)


# exp(x): the slope is the value
def _exp(z: Array, o: Options) -> Enclosed:
    return _rounded(exp(z), EXP)


# powers: of an integer by products, of any other number as e^(p log z), where p log z is off by 2^-45 of it
def _whole(p: float) -> bool:
    return p == math.floor(p) and 0 <= p <= 1024


def _power_of(z: Array, p: float) -> Enclosed:
    if _whole(p):
        return _rounded(power(z, int(p)), (2 * p + 2) * DOUBLE)
    y = p * log(z)
    v = exp(y)
    e = v * (EXP + np.abs(y) * 2.0**-44) * (1 + 2.0**-20) + TINY
    sure = (np.abs(y) < 700) & (z > 0)
    zero = (z == 0) & (p > 0)
    v = np.where((z == 0) & (p < 0), np.inf, np.where(sure, v, np.nan))
    return np.where(zero, 0.0, v), np.where(z == 0, 0.0, e)


def _power(z: Array, o: Options) -> Enclosed:
    return _power_of(z, o["exponent"])


def _power_slope(z: Array, o: Options) -> Enclosed:
    v, e = _power_of(z, o["exponent"] - 1)
    p = abs(o["exponent"])
    return o["exponent"] * v, (p * e + p * np.abs(v) * _PART) * (1 + 2.0**-20)


def _power_bends(low: Array, high: Array, o: Options) -> Bends:
    p = o["exponent"]
    if _whole(p):
        return (0.0,), (-1 if p % 2 else 1, 1) if p > 1 else (0, 0)
    return (), (-1 if 0 < p < 1 else 1,)


def _power_domain(low: Array, high: Array, o: Options) -> Array:
    p = o["exponent"]
    return np.isfinite(low) & np.isfinite(high) & (_whole(p) | (low > 0) | ((low == 0) & (p > 0)))


def _power_touch(slope: Array, near: Array, o: Options) -> Array:
    p = o["exponent"]
    size = np.abs(slope / p) ** (1 / (p - 1)) if p not in (0.0, 1.0) else np.zeros_like(slope)
    return np.where((slope < 0) if _whole(p) and p % 2 == 0 else near < 0, -size, size)


# sin and cos: bends at (k + part) pi; 1 where an argument is too large, or an interval has more than 4 of them
def _wave(z: Array, o: Options, turn: int = 0, sign: int = 1) -> Enclosed:
    v = sign * sine(z, turn)
    return v, np.where(np.abs(z) <= WIDEST, TRIG * (1 + 2.0**-20), 1.0)


def _wave_bends(low: Array, high: Array, o: Options, part: float = 0.0) -> Bends:
    k = np.floor(np.clip(low, -WIDEST, WIDEST) / math.pi - part)
    # sin is concave from 0 to pi, cos convex from pi/2 to 3 pi/2; a wrong k only moves all bends by a whole pi
    odd = np.where((k + 2 * part) % 2 == 0, -1, 1)
    return [(k + part + j) * math.pi for j in range(6)], [-odd, odd, -odd, odd, -odd, odd, -odd]


def _wave_touch(slope: Array, near: Array, o: Options, part: float = 0.5) -> Array:
    k = np.rint(near / math.pi - part)
    return (k + part) * math.pi + np.arcsin(np.where(k % 2 == 0, -slope, slope))


# tan: sin / cos, both off by TRIG; the slope is 1 + tan^2
def _tan(z: Array, o: Options) -> Enclosed:
    c, v = sine(z, 1), sine(z, 0) / sine(z, 1)
    e = (TRIG * (1 + np.abs(v)) / (np.abs(c) - TRIG) + np.abs(v) * _PART) * (1 + 2.0**-20)
    return v, np.where(np.abs(c) > 2.0**-32, e, np.inf)


def _tan_slope(z: Array, o: Options) -> Enclosed:
    v, e = _tan(z, o)
    return 1 + v * v, (e * (2 * np.abs(v) + e) + (1 + v * v) * _PART) * (1 + 2.0**-20)


def _tan_bends(low: Array, high: Array, o: Options) -> Bends:
    return [np.rint(np.clip(low + 0.5 * (high - low), -WIDEST, WIDEST) / math.pi) * math.pi], (-1, 1)


def _tan_domain(low: Array, high: Array, o: Options) -> Array:
    middle = _tan_bends(low, high, o)[0][0]
    room = math.pi / 2 - 2.0**-28  # k pi is off by 2^-31 at most
    return (np.abs(low) < WIDEST) & (np.abs(high) < WIDEST) & (low - middle > -room) & (high - middle < room)


def _tan_touch(slope: Array, near: Array, o: Options) -> Array:
    middle = np.rint(near / math.pi) * math.pi
    return middle + np.copysign(np.arctan(np.sqrt(slope - 1)), near - middle)


# odd functions whose slope is even: `touch` finds the point to the right of 0
def _mirrored(find: Callable[[Array], Array]) -> Callable[[Array, Array, Options], Array]:
    def touch(slope: Array, near: Array, o: Options) -> Array:
        return np.copysign(find(slope), near)

    return touch


def _softplus(z: Array, o: Options) -> Enclosed:
    """max(z, 0) + log(1 + e^-|z|): both parts are positive."""
    return _rounded(np.maximum(z, 0) + log1p(decay(z)), LOG1P + EXP)


def _sigmoid(z: Array, o: Options) -> Enclosed:
    return sigmoid(z), np.full_like(z, SMOOTH)


# z g(z): g is off by at most 2^-45 (gelu: half of erf's error, and of its argument's rounding; silu: SMOOTH; gelu_tanh:
# SMOOTH and three roundings of the argument y, each of which moves sigmoid(y) by y sigmoid'(y) u < u)
def _times(z: Array, g: Array) -> Enclosed:
    return z * g, np.abs(z) * (SMOOTH * 1.25) + TINY


def _normal(z: Array) -> Array:
    return 0.5 * (1 + erf(z * _ROOT_HALF))


def _gelu_slope(z: Array, o: Options) -> Enclosed:
    """Phi + z phi: |z phi| < 0.25 is off by EXP of it, and by z^2 u of it for z^2 / 2 (|z^3 phi| < 1)."""
    v = _normal(z) + z * (decay(0.5 * np.minimum(z * z, 1600.0)) * _DENSITY)
    return v, np.full_like(z, SMOOTH * 1.25)


def _bell(y: Array) -> Array:
    """sigmoid'(y), within 2^-44 of it: e / (1 + e)^2."""
    e = decay(y)
    return e / ((1 + e) * (1 + e))


def _silu_slope(z: Array, o: Options) -> Enclosed:
    """sigmoid + z sigmoid': the last is below 0.3."""
    return sigmoid(z) + z * _bell(z), np.full_like(z, SMOOTH * 1.5)


def _inner(z: Array) -> Array:
    return np.clip(_TWICE * (z * (1 + 0.044715 * (z * z))), -800.0, 800.0)


def _gelu_tanh(z: Array, o: Options) -> Enclosed:
    """0.5 z (1 + tanh(y / 2)) = z sigmoid(y), y = 2 sqrt(2 / pi) (z + 0.044715 z^3) cut off where sigmoid is 0 or 1."""
    return _times(z, sigmoid(_inner(z)))


def _gelu_tanh_slope(z: Array, o: Options) -> Enclosed:
    """sigmoid + z y' sigmoid'(y), where z y' <= 3 y, |3 y sigmoid'(y)| < 0.7 and |3 y^2 sigmoid''(y)| < 2."""
    small = np.clip(z, -30.0, 30.0)  # beyond, the last term is below 2^-1000
    rise = small * (_TWICE * (1 + 3 * 0.044715 * (small * small)))
    return sigmoid(_inner(z)) + rise * _bell(_inner(small)), np.full_like(z, 2 * SMOOTH)


def _mish_parts(z: Array) -> tuple[Array, Array]:
    """g = tanh(softplus(z)) = n / (n + 2), n = e^2z + 2 e^z, and g': positive terms, so that both are off by 2^-42.

    With e = exp(-|z|), which is off by EXP, numerator and denominator are divided by e^2z where z > 0.
    """
    e = decay(z)
    below, above = e * e + 2 * e + 2, 1 + 2 * e + 2 * e * e
    g = np.where(z > 0, (1 + 2 * e) / above, (e * e + 2 * e) / below)
    return g, np.where(z > 0, 4 * (e * e) * (1 + e) / (above * above), 4 * e * (1 + e) / (below * below))


def _mish(z: Array, o: Options) -> Enclosed:
    g, _ = _mish_parts(z)
    return z * g, np.abs(z * g) * 2.0**-42 + TINY


def _mish_slope(z: Array, o: Options) -> Enclosed:
    """g + z g': |z g'| < 1."""
    g, rise = _mish_parts(z)
    return g + z * rise, np.full_like(z, 2.0**-41)


def _elu(z: Array, o: Options, celu: bool = False) -> Enclosed:
    """alpha (e^(z / alpha) - 1), or alpha (e^z - 1), below 0: off by EXP of alpha, and by the rounding of z / alpha."""
    a, scale = o["alpha"], o["alpha"] if celu else 1.0
    v = np.where(z > 0, z, a * (exp(np.minimum(z, 0) / scale) - 1))
    return v, np.where(z > 0, 0.0, abs(a) * 2.0**-45 + TINY)


def _elu_slope(z: Array, o: Options, celu: bool = False) -> Enclosed:
    a, scale = (1.0, o["alpha"]) if celu else (o["alpha"], 1.0)
    v = np.where(z > 0, 1.0, a * exp(np.minimum(z, 0) / scale))
    return v, np.where(z > 0, 0.0, abs(a) * 2.0**-45 + TINY)


def _elu_bends(low: Array, high: Array, o: Options, celu: bool = False) -> Bends:
    return (0.0,), (1 if celu or o["alpha"] >= 0 else -1, 0)


def _tanhshrink(z: Array, o: Options) -> Enclosed:
    v = z - tanh(z)
    return v, np.full_like(z, SMOOTH) + np.abs(v) * _PART


def _hardswish_slope(z: Array, o: Options) -> Enclosed:
    """(2 z + 3) / 6 from -3 to 3."""
    return _rounded(np.where(z < -3, 0.0, np.where(z > 3, 1.0, (2 * z + 3) / 6)), 0.0)


_ROOT_HALF, _DENSITY = float.fromhex("0x1.6a09e667f3bcdp-1"), float.fromhex("0x1.9884533d43651p-2")  # 1 / sqrt(2 pi)
_TWICE = 4 * _DENSITY  #: 2 sqrt(2 / pi)
_GELU, _GELU_TANH = float.fromhex("0x1.6a09e667f3bcdp+0"), float.fromhex("0x1.6b23142700629p+0")
_SILU, _MISH = float.fromhex("0x1.331e23ad9de11p+1"), tuple(
    map(float.fromhex, ("-0x1.20d0f116eb001p+1", "0x1.7d9612a440040p+0"))
)  # fmt: skip

FUNCTIONS = {
    "exp": Function(_exp, _exp, _fixed(signs=(1,)), lambda s, near, o: np.log(s)),
    "log": Function(
        lambda z, o: _rounded(log(z), LOG), lambda z, o: _rounded(1 / z), _fixed(signs=(-1,)),
        lambda s, near, o: 1 / s, _positive,
    ),
    "reciprocal": Function(
        lambda z, o: _rounded(1 / z), lambda z, o: _rounded(-1 / (z * z)), _fixed(0.0, signs=(-1, 1)),
        _mirrored(lambda s: 1 / np.sqrt(-s)),
        lambda low, high, o: np.isfinite(high - low) & ((low > 1e-150) | (high < -1e-150)),  # z^2 is normal
    ),
    "sqrt": Function(
        lambda z, o: _rounded(np.sqrt(z)), lambda z, o: _rounded(0.5 / np.sqrt(z)), _fixed(signs=(-1,)),
        lambda s, near, o: 0.25 / (s * s), lambda low, high, o: (low >= 0) & np.isfinite(high),
    ),
    "rsqrt": Function(
        lambda z, o: _rounded(1 / np.sqrt(z)), lambda z, o: _rounded(-0.5 / (z * np.sqrt(z))), _fixed(signs=(1,)),
        lambda s, near, o: np.cbrt(0.25 / (s * s)),
        lambda low, high, o: (low > 1e-150) & np.isfinite(high),  # z^(3/2) is normal
    ),
    "square": Function(
        lambda z, o: _rounded(z * z), lambda z, o: _rounded(2 * z), _fixed(signs=(1,)), lambda s, near, o: 0.5 * s
    ),
    "power": Function(
        _power, _power_slope, _power_bends, _power_touch, _power_domain,
        lambda o: 2 * o["exponent"] + 4 if _whole(o["exponent"]) else 128.0,
    ),
    "sin": Function(_wave, partial(_wave, turn=1), _wave_bends, _wave_touch),
    "cos": Function(
        partial(_wave, turn=1), partial(_wave, sign=-1), partial(_wave_bends, part=0.5), partial(_wave_touch, part=0.0)
    ),
    "tan": Function(_tan, _tan_slope, _tan_bends, _tan_touch, _tan_domain),
    "atan": Function(
        lambda z, o: _rounded(atan(z), ATAN), lambda z, o: _rounded(1 / (1 + z * z)), _fixed(0.0, signs=(1, -1)),
        _mirrored(lambda s: np.sqrt(1 / s - 1)),
    ),
    "erf": Function(
        lambda z, o: (erf(z), np.full_like(z, ERF)),
        lambda z, o: (4 * _DENSITY * _ROOT_HALF * decay(np.minimum(z * z, 800.0)), np.full_like(z, 2.0**-44)),
        _fixed(0.0, signs=(1, -1)), _mirrored(lambda s: np.sqrt(-np.log(s / (4 * _DENSITY * _ROOT_HALF)))),
    ),
    "softplus": Function(
        _softplus, _sigmoid, _fixed(signs=(1,)), lambda s, near, o: np.log(s) - np.log1p(-s), ulps=lambda o: 8.0
    ),
    "gelu": Function(
        lambda z, o: _times(z, _normal(z)), _gelu_slope, _fixed(-_GELU, _GELU, signs=(-1, 1, -1)),
        ulps=lambda o: 8.0, of_argument=True,
    ),
    "gelu_tanh": Function(
        _gelu_tanh, _gelu_tanh_slope, _fixed(-_GELU_TANH, _GELU_TANH, signs=(-1, 1, -1)),
        ulps=lambda o: 16.0, of_argument=True,
    ),
    "silu": Function(
        lambda z, o: _times(z, sigmoid(z)), _silu_slope, _fixed(-_SILU, _SILU, signs=(-1, 1, -1)),
        ulps=lambda o: 8.0, of_argument=True,
    ),
    "mish": Function(
        _mish, _mish_slope, _fixed(*_MISH, signs=(-1, 1, -1)), ulps=lambda o: 16.0, of_argument=True
    ),
    "elu": Function(
        _elu, _elu_slope, _elu_bends, lambda s, near, o: np.log(s / o["alpha"]),
        ulps=lambda o: 8.0, of_argument=True,
    ),
    "celu": Function(
        partial(_elu, celu=True), partial(_elu_slope, celu=True), partial(_elu_bends, celu=True),
        lambda s, near, o: o["alpha"] * np.log(s), ulps=lambda o: 16.0, of_argument=True,
    ),
    "softsign": Function(
        lambda z, o: _rounded(z / (1 + np.abs(z))), lambda z, o: _rounded(1 / ((1 + np.abs(z)) * (1 + np.abs(z)))),
        _fixed(0.0, signs=(1, -1)), _mirrored(lambda s: 1 / np.sqrt(s) - 1),
    ),
    "tanhshrink": Function(
        _tanhshrink, lambda z, o: (tanh(z) * tanh(z), np.full_like(z, 4 * SMOOTH)), _fixed(0.0, signs=(-1, 1)),
        _mirrored(lambda s: np.arctanh(np.sqrt(s))), ulps=lambda o: 8.0, of_argument=True,
    ),
    "hardswish": Function(
        lambda z, o: _rounded(z * np.clip(z + 3, 0, 6) / 6), _hardswish_slope, _fixed(-3.0, 3.0, signs=(0, 1, 0)),
        lambda s, near, o: 3 * s - 1.5, ulps=lambda o: 8.0, of_argument=True,
    ),
}  # fmt: skip


#: every kind of this file and of pieces.py
KINDS = frozenset(FUNCTIONS) | frozenset(pieces.PIECES)


def value(kind: str, z: Array, o: Options) -> Array:
    return (pieces.enclosed(kind, z, o) if kind in pieces.PIECES else FUNCTIONS[kind].value(z, o))[0]


def slope(kind: str, z: Array, o: Options) -> Array:
    return pieces.slope(kind, z, o) if kind in pieces.PIECES else FUNCTIONS[kind].slope(z, o)[0]


def bends(kind: str, low: Array, high: Array, o: Options) -> Array:
    """Where the function is no line over the interval."""
    return pieces.bends(kind, low, high, o) if kind in pieces.PIECES else low < high


def known(kind: str, low: Array, high: Array, o: Options) -> Array:
    """Where the function is defined all over [low, high], and an enclosure is known."""
    return FUNCTIONS[kind].domain(low, high, o) if kind in FUNCTIONS else np.isfinite(low) & np.isfinite(high)


def single(kind: str, most: Array, size: Array, o: Options) -> Array:
    """What a library's float32 value may be off by, where |f| is at most `most` and |z| at most `size`."""
    if kind in pieces.PIECES:
        return pieces.single(kind, most, size, o)
    f = FUNCTIONS[kind]
    return f.ulps(o) * 2 * SINGLE * (np.maximum(most, size) if f.of_argument else most) * AMPLE + TINY_SINGLE


def slope_range(kind: str, low: Array, high: Array, o: Options) -> tuple[Array, Array]:
    """Slopes that lines over [low, high] may have: those of f, which are extreme at ends and bends; infinite: unknown.

    It is larger for a larger interval. A root's slope grows without end at 0, where it is cut off.
    """
    if kind in pieces.PIECES:
        return pieces.slope_range(kind, low, o)
    f = FUNCTIONS[kind]
    with np.errstate(all="ignore"):
        at = [f.slope(np.clip(t, low, high), o) for t in (low, high, *f.bends(low, high, o)[0])]
        least = np.fmin.reduce([v - e for v, e in at])
        most = np.maximum.reduce([v + e for v, e in at])
    if kind in ("sin", "cos"):
        return np.full_like(low, -1.0), np.full_like(low, 1.0)
    if kind == "sqrt" or (kind == "power" and 0 < o["exponent"] < 1):
        least, most = np.clip(least, -STEEPEST, STEEPEST), np.clip(most, -STEEPEST, STEEPEST)
    fine = known(kind, low, high, o) & np.isfinite(least) & np.isfinite(most)
    return np.where(fine, least, -np.inf), np.where(fine, most, np.inf)


def intercepts(kind: str, low: Array, high: Array, s: Array, o: Options) -> tuple[Array, Array]:
    """Rigorous bounds, below the least and above the largest f(z) - s z over [low, high]; infinite without any."""
    if kind in pieces.PIECES:
        return pieces.intercepts(kind, low, high, s, o)
    with np.errstate(all="ignore"):
        low, high, s = np.broadcast_arrays(low, high, s)
        fine = known(kind, low, high, o)
        steep = np.maximum.reduce([np.abs(t) for t in slope_range(kind, low, high, o)])
        room = SPARE * 4 * (steep + np.abs(s)) * np.maximum(np.abs(low), np.abs(high)) + TINY
        least = [_least(FUNCTIONS[kind], low, high, sign * s, sign, o) - room for sign in (1, -1)]
        if kind in ("sin", "cos"):  # too wide: -1 - the largest s z
            wide = (high - low > 4 * math.pi) | (np.maximum(np.abs(low), np.abs(high)) > WIDEST)
            flat = [-1 - np.maximum(sign * s * low, sign * s * high) - room for sign in (1, -1)]
            least = [np.where(wide, b, a) for a, b in zip(least, flat, strict=True)]
        if kind == "softplus":  # torch's is z itself from 20 on, which is less by log(1 + e^-20) at most
            least[0] = np.where(high >= 20, least[0] - 2.07e-9, least[0])
        below, above = (down(np.where(fine, t, -np.inf)) for t in least)
    return below, -above


def _least(f: Function, low: Array, high: Array, s: Array, sign: int, o: Options) -> Array:
    """A lower bound of the least sign f(z) - s z, but for what `intercepts` pays around bends."""
    bends, signs = f.bends(low, high, o)
    ends = [low, *(np.clip(c, low, high) for c in bends), high]
    found = []
    for t in ends:
        v, e = f.value(t, o)
        found.append((sign * v - s * t) - e - (np.abs(v) + np.abs(s * t)) * _PART)
    for k, curve in enumerate(signs):
        convex = sign * np.asarray(curve) > 0
        p, q = ends[k], ends[k + 1]
        first = low if k == 0 else np.maximum(low, bends[k - 1] + SPARE * np.abs(bends[k - 1]))
        last = high if k == len(bends) else np.minimum(high, bends[k] - SPARE * np.abs(bends[k]))
        if not bool(np.any(convex & (first <= last))):
            continue
        t = np.fmin(np.fmax(_touching(f, first, last, s, sign, o), first), last)
        (v, e), (d, off) = f.value(t, o), f.slope(t, o)
        d, off = sign * d - s, off + (np.abs(d) + np.abs(s)) * _PART
        reach = np.maximum(t - p, q - t)
        paid = e + off * reach + (np.abs(v) + np.abs(s * t) + 2 * np.abs(d) * reach) * _PART
        tangent = (sign * v - s * t) + np.minimum(d * (p - t), d * (q - t)) - paid * (1 + 2.0**-20)
        found.append(np.where(convex & (first <= last), tangent, np.inf))
    return np.minimum.reduce(found)


def _touching(f: Function, first: Array, last: Array, s: Array, sign: int, o: Options) -> Array:
    """Near where sign f' = s, on a stretch where it rises: nothing depends on it but how much is lost."""
    p, q = np.broadcast_arrays(first, last)
    below, above = sign * f.slope(p, o)[0] - s, sign * f.slope(q, o)[0] - s
    outside = np.where(below >= 0, p, q)
    inside = (below < 0) & (above > 0)
    if f.touch is not None:
        t = f.touch(sign * s, 0.5 * p + 0.5 * q, o)
        return np.where(inside, np.where(np.isnan(t), 0.5 * p + 0.5 * q, t), outside)
    if not bool(np.any(inside)):
        return outside
    p, q = np.maximum(p, -_FLAT), np.minimum(q, _FLAT)
    for _ in range(8):  # Ridders' method: what is exponential in t is a line after a change of scale
        middle = 0.5 * (p + q)
        d = sign * f.slope(middle, o)[0] - s
        t = middle - (middle - p) * d / np.sqrt(d * d - below * above)
        t = np.where((t > p) & (t < q), t, middle)
        e = sign * f.slope(t, o)[0] - s
        for at, off in ((middle, d), (t, e)):
            left = (off < 0) & (at > p)
            right = (off >= 0) & (at < q)
            p, below = np.where(left, at, p), np.where(left, off, below)
            q, above = np.where(right, at, q), np.where(right, off, above)
    t = np.where(-below < above, p, q)
    return np.where(inside, t, outside)


def slopes(kind: str, low: Array, high: Array, chord: Array, o: Options) -> tuple[Array, Array]:
    """Of a chord, tangents and what is between them, those with the highest lower and the lowest upper line midway."""
    middle = 0.5 * low + 0.5 * high
    with np.errstate(all="ignore"):
        tangents = [slope(kind, t, o) for t in (middle, low, high)]
        tried = [chord, *tangents, *(0.5 * (chord + t) for t in tangents[1:])]
        least, most = slope_range(kind, low, high, o)
        tried = [np.clip(np.nan_to_num(s), least, most) for s in tried]
        found = [intercepts(kind, low, high, s, o) for s in tried]
        below = np.argmax(np.stack([b + s * middle for (b, _), s in zip(found, tried, strict=True)]), 0)
        above = np.argmin(np.stack([c + s * middle for (_, c), s in zip(found, tried, strict=True)]), 0)
    every = np.stack(tried)
    return np.take_along_axis(every, below[None], 0)[0], np.take_along_axis(every, above[None], 0)[0]
