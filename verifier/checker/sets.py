"""Input sets of a certificate: rigorous upper bounds of their support functions, and boxes around them.

Every set lies in a base set, whose support function is a formula, and in a box, its hull. For any split c = e + r

    max of c . z over the set  <=  support of the base at e  +  support of the box at r,

so how well e was searched for (`search`) decides how tight a bound is, never whether it holds. It is evaluated in
float64, and `above` pays for every rounding of that by the size of the terms.

Kinds, their numbers and their arrays. Every kind may have numbers `low` and `high`, a valid range of all entries.

    linf, l2, l1   eps; x                       norm(z - x) <= eps
    box            lower, upper                 lower <= z <= upper
    polytope       lower, upper, rows, limits   lower <= z <= upper and rows z <= limits: [m, n] and [m]
    zonotope       rounding; center, generators, reach
                   center + sum of e_k generators_k + r: |e_k| <= reach_k ([K], generators [K, n]), |r| <= rounding
    wasserstein    eps, rounding; x [C, H, W], cost [k, k]
                   z + r: z is x >= 0, its mass moved within its channel, |r| <= rounding; a unit of mass moves by
                   (a - k // 2, b - k // 2) pixels at the cost [a, b], and all moves cost eps times the mass at most
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from verifier.checker import search
from verifier.checker.rounding import AMPLE, TINY, gamma, up

Array = np.ndarray
Options = Mapping[str, Any]
Arrays = Mapping[str, Array]
#: numbers of the arrays that rows are worked on in
PIECE = 2**18


def above(value: Array, size: Array, count: int) -> Array:
    """An upper bound of an exact sum, computed as `value`; every term went through at most `count` roundings.

    Args:
        size: the sum of the terms' absolute values, as computed. Nothing is said where it is NaN, or sums may have
            overflowed.
    """
    return np.where(size < 1e300, up(value + (gamma(count + 4) * size * AMPLE + TINY)), np.inf)


def support(kind: str, options: Options, arrays: Arrays, c: Array) -> Array:  # c [R, n] float64 -> [R]
    """Upper bounds of max c . z over the set; infinite where arithmetic overflows.

    Raises:
        ValueError: no such set, its numbers or arrays are unusable, or c does not fit it.
    """
    options, arrays = _checked(kind, options, arrays)
    with np.errstate(all="ignore"):
        low, high = _hull(kind, options, arrays)
        if c.ndim != 2 or c.shape[1] != low.size:
            raise ValueError(f"a set of {low.size} inputs needs coefficients [R, {low.size}], got {c.shape}")
        base, found = _KINDS[kind][1], [np.zeros(0)]
        step = max(1, PIECE // max(1, c.shape[1] * (1 + len(arrays.get("rows", ())))))
        for start in range(0, len(c), step):
            part = np.asarray(c[start : start + step], dtype=np.float64)
            others = [] if base is None else base(options, arrays, part, low, high)
            found.append(np.fmin.reduce([_in_box(part, low, high), *others]))
    return np.concatenate(found)


def box(kind: str, options: Options, arrays: Arrays) -> tuple[Array, Array]:
    """(low, high), flat: a box around the set. Raises ValueError as `support` does."""
    with np.errstate(all="ignore"):
        low, high = _hull(kind, *_checked(kind, options, arrays))
    if kind == "polytope":
        units = np.eye(low.size)
        high = np.minimum(high, support(kind, options, arrays, units))
        low = np.maximum(low, -support(kind, options, arrays, -units))
    return low, high


def _hull(kind: str, options: Options, arrays: Arrays) -> tuple[Array, Array]:
    low, high = _KINDS[kind][0](options, arrays)
    return np.maximum(low.ravel(), options.get("low", -np.inf)), np.minimum(high.ravel(), options.get("high", np.inf))


def _in_box(c: Array, low: Array, high: Array) -> Array:  # [R, n] -> [R]
    """The support function of a box, for coefficients that may be one rounding from c."""
    value = np.maximum(c, 0) @ high + np.minimum(c, 0) @ low
    return above(value, np.abs(c) @ np.maximum(np.abs(low), np.abs(high)), 2 * len(low))


def _corners(options: Options, arrays: Arrays) -> tuple[Array, Array]:
    return arrays["lower"], arrays["upper"]


def _polytope(options: Options, arrays: Arrays, c: Array, low: Array, high: Array) -> list[Array]:
    """Any multipliers m >= 0 of the rows: m . limits, and c - m rows over the box."""
    rows, limits = arrays["rows"], arrays["limits"]
    m = np.maximum(search.row_multipliers(c, rows, limits, low, high), 0)
    rest = c - m @ rows
    value = np.maximum(rest, 0) @ high + np.minimum(rest, 0) @ low + m @ limits
    size = (np.abs(c) + m @ np.abs(rows)) @ np.maximum(np.abs(low), np.abs(high)) + m @ np.abs(limits)
    return [above(value, size, 2 * len(low) + 2 * len(limits))]


# balls ---------------------------------------------------------------------------------------------------------------


def _around(options: Options, arrays: Arrays) -> tuple[Array, Array]:
    return -up(options["eps"] - arrays["x"]), up(arrays["x"] + options["eps"])


def _l2(options: Options, arrays: Arrays, c: Array, low: Array, high: Array) -> list[Array]:
    e = _part(search.l2_part, options, arrays, c, low, high)
    norm = np.sqrt((e * e).sum(1) + e.shape[1] * TINY) * (1 + 2 * gamma(e.shape[1] + 8))
    return _ball(options, arrays, c, e, norm, low, high)


def _l1(options: Options, arrays: Arrays, c: Array, low: Array, high: Array) -> list[Array]:
    e = _part(search.l1_part, options, arrays, c, low, high)
    return _ball(options, arrays, c, e, np.abs(e).max(1, initial=0), low, high)


def _part(found: Callable[..., Array], options: Options, arrays: Arrays, c: Array, *ends: Array) -> Array:
    """What the ball itself takes of c: all of it where there is no valid range."""
    limited = options["eps"] > 0 and ("low" in options or "high" in options)
    return found(c, arrays["x"].ravel(), options["eps"], *ends) if limited else c


def _ball(options: Options, arrays: Arrays, c: Array, e: Array, norm: Array, low: Array, high: Array) -> list[Array]:
    """e . x + eps times the dual norm of e, and the rest over the box."""
    x = arrays["x"].ravel()
    return [up(up(_in_box(e, x, x) + up(options["eps"] * norm)) + _in_box(c - e, low, high))]


# zonotopes -----------------------------------------------------------------------------------------------------------


def _terms(options: Options, arrays: Arrays) -> tuple[Array, Array]:
    """Ends of the error terms of all members: what the valid range of every entry leaves of them, [K] each."""
    center, g, least, most = arrays["center"].ravel(), arrays["generators"], -arrays["reach"], arrays["reach"]
    wide, rounding = _spanned(options, arrays, least, most), options["rounding"]
    bottom = -up(rounding - np.maximum(wide[0], options.get("low", -np.inf)))
    top = up(np.minimum(wide[1], options.get("high", np.inf)) + rounding)
    for _ in range(4 if "low" in options or "high" in options else 0):
        small, large = (f(g * least[:, None], g * most[:, None]) for f in (np.minimum, np.maximum))
        size = np.abs(center) + np.abs(bottom) + np.abs(top) + 2 * np.maximum(-small, large).sum(0)
        over = above(top - center - (small.sum(0) - small), size, len(g) + 4)  # e_k g_k is at most this
        under = -above(center - bottom + (large.sum(0) - large), size, len(g) + 4)  # and at least this
        most = np.minimum(most, up(np.where(g > 0, over / g, np.where(g < 0, under / g, np.inf)).min(1)))
        least = np.maximum(least, -up(-np.where(g > 0, under / g, np.where(g < 0, over / g, -np.inf)).max(1)))
    return least, most


def _spanned(options: Options, arrays: Arrays, least: Array, most: Array) -> tuple[Array, Array]:
    """A box around the center, the generators between those ends, and the roundings."""
    center, g, rounding = arrays["center"].ravel(), arrays["generators"], options["rounding"]
    small, large = (f(g * least[:, None], g * most[:, None]).sum(0) for f in (np.minimum, np.maximum))
    size, count = np.abs(center) + np.maximum(-small, large) + rounding, len(g) + 3
    return -above(rounding - center - small, size, count), above(center + large + rounding, size, count)


def _zonotope_hull(options: Options, arrays: Arrays) -> tuple[Array, Array]:
    return _spanned(options, arrays, *_terms(options, arrays))


def _zonotope(options: Options, arrays: Arrays, c: Array, low: Array, high: Array) -> list[Array]:
    center, g, (least, most) = arrays["center"].ravel(), arrays["generators"], _terms(options, arrays)
    along, off = c @ g.T, options["rounding"] * np.abs(c).sum(1)
    value = c @ center + np.maximum(along * least, along * most).sum(1) + off
    size = np.abs(c) @ np.abs(center) + np.abs(c) @ np.abs(g.T) @ np.maximum(np.abs(least), np.abs(most)) + off
    return [above(value, size, 2 * len(center) + len(g) + 4)]


# Wasserstein balls ---------------------------------------------------------------------------------------------------


def _moves(arrays: Arrays) -> search.Moves:
    """The moves (down, right) by what they cost, staying among the first ones, which cost nothing."""
    groups: dict[float, list[tuple[int, int]]] = {}
    for (a, b), price in np.ndenumerate(arrays["cost"]):
        groups.setdefault(float(price), []).append((a - len(arrays["cost"]) // 2, b - len(arrays["cost"]) // 2))
    return sorted(groups.items())


def _budget(options: Options, arrays: Arrays) -> float:
    """What all moves may cost (`fsum` rounds once)."""
    mass = np.asarray(math.fsum(arrays["x"].ravel()))
    return float(up(options["eps"] * up(mass))) if options["eps"] > 0 and mass > 0 else 0.0


def _wasserstein_hull(options: Options, arrays: Arrays) -> tuple[Array, Array]:
    """No pixel loses more than it has, gains more than those that send to it have, or changes by more than is paid."""
    x, rounding, moves = arrays["x"], options["rounding"], _moves(arrays)
    senders = [(-a, -b) for _, group in moves for a, b in group]  # the pixel itself as well
    held = np.sum(search.neighbours(x[..., None], senders, 0.0), axis=0)[..., 0]
    held = above(held, held, len(senders))
    cheapest = 0.0 if len(moves[0][1]) > 1 else moves[1][0] if len(moves) > 1 else np.inf
    paid = up(np.asarray(_budget(options, arrays)) / cheapest)  # infinite where mass moves for nothing
    least, most = np.maximum(-up(paid - x), 0.0), np.minimum(up(x + paid), held)
    return -up(rounding - least), up(np.minimum(most, options.get("high", np.inf)) + rounding)


def _wasserstein(options: Options, arrays: Arrays, c: Array, low: Array, high: Array) -> list[Array]:
    """Of all moves; where pixels may be full, also at prices of full pixels, which the box takes."""
    found, budget = [_moved(options, arrays, c)], _budget(options, arrays)
    if options.get("high", 0) > 0 and budget > 0:
        rows = np.ascontiguousarray(c.T).reshape(*arrays["x"].shape, len(c))
        prices = search.prices_of_room(rows, arrays["x"], _moves(arrays), budget, options["high"])
        e = c - prices.reshape(c.shape[1], len(c)).T
        found.append(up(_moved(options, arrays, e) + _in_box(c - e, low, high)))
    return found


def _moved(options: Options, arrays: Arrays, c: Array) -> Array:
    """For any psi >= 0:  psi budget + sum of x_i max over j (c_j - psi cost_ij),  and the roundings.

    Each maximum has two roundings, of at most 4 max |c|: a move that costs more than 2 max |c| is not the best one.
    """
    x, budget, moves = arrays["x"], _budget(options, arrays), _moves(arrays)
    rows, mass = np.ascontiguousarray(c.T).reshape(*x.shape, len(c)), x[x > 0]
    gains = [np.maximum.reduce(search.neighbours(rows, group, -np.inf))[x > 0] for _, group in moves]  # [sources, R]
    psi = np.maximum(search.price_of_cost(mass, gains, moves, budget), 0)
    best = np.maximum.reduce([gain - psi * price for (price, _), gain in zip(moves, gains, strict=True)])
    off = options["rounding"] * np.abs(c).sum(1)
    size = psi * budget + mass.sum() * np.abs(c).max(1, initial=0) + off
    return above(psi * budget + mass @ best + off, size, x.size + 16)


_KINDS: dict[str, tuple[Callable[..., tuple[Array, Array]], Callable[..., list[Array]] | None, str, str]] = {
    # kind: its hull, bounds by its base, numbers (all >= 0), arrays
    "linf": (_around, None, "eps", "x"),
    "l2": (_around, _l2, "eps", "x"),
    "l1": (_around, _l1, "eps", "x"),
    "box": (_corners, None, "", "lower upper"),
    "polytope": (_corners, _polytope, "", "lower upper rows limits"),
    "zonotope": (_zonotope_hull, _zonotope, "rounding", "center generators reach"),
    "wasserstein": (_wasserstein_hull, _wasserstein, "eps rounding", "x cost"),
}


def _checked(kind: str, options: Options, arrays: Arrays) -> tuple[dict[str, float], dict[str, Array]]:
    """The numbers, and the arrays in float64. Raises ValueError for none of the above sets, or one seen to be empty."""
    if kind not in _KINDS:
        raise ValueError(f"no input set is called {kind!r}; there are: {', '.join(_KINDS)}")
    needed, names = (set(text.split()) for text in _KINDS[kind][2:])
    if not needed <= set(options) <= needed | {"low", "high"} or set(arrays) != names:
        raise ValueError(f"a set {kind!r} needs numbers {sorted(needed)} and arrays {sorted(names)}")
    for name, number in options.items():
        good = type(number) in (int, float) and abs(number) < 2.0**1000 and float(number) == number
        if not good or (name in needed and number < 0):
            raise ValueError(f"{name} of a set {kind!r} must be a finite number (>= 0 if no end), got {number!r}")
    if not all(a.dtype in (np.float32, np.float64) and a.ndim and np.isfinite(a).all() for a in arrays.values()):
        raise ValueError(f"the arrays of a set {kind!r} must hold finite numbers in float32 or float64")
    out = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    x = next(out[name] for name in ("x", "center", "lower") if name in out)
    upper, end, k = out.get("upper", x), -math.inf, len(out.get("cost", x))
    good = x.shape == upper.shape and bool((x <= upper).all())
    good = good and bool((x >= options.get("low", end)).all() and (upper <= options.get("high", -end)).all())
    for matrix, vector in (("rows", "limits"), ("generators", "reach")):
        if matrix in out:
            good = good and out[vector].ndim == 1 and out[matrix].shape == (len(out[vector]), x.size)
    good = good and all(bool((out[name] >= 0).all()) for name in ("reach", "cost") if name in out)
    if kind == "wasserstein":
        good = good and x.ndim == 3 and bool((x >= 0).all()) and out["cost"].shape == (k, k) and k % 2 == 1
        good = good and out["cost"][k // 2, k // 2] == 0
    if not good:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"the arrays of a set {kind!r}, {shapes}, do not fit together, or make an empty set")
    return {name: float(number) for name, number in options.items()}, out
