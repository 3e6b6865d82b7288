"""Roundings of the checker's support functions, against fractions: sums that lose what is small, and underflow."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from verifier.checker import search, sets
from verifier.checker.rounding import DOUBLE

LEAST = Fraction(2) ** -1014  #: what underflows in 2^60 products
N = 600


def losing(head: float, n: int = N) -> np.ndarray:
    """A large number and small ones above 0; a sum that adds them to it one after the other loses all of them."""
    return np.append(head, np.full(n - 1, 0.9 * DOUBLE))


HEAD = 1 + 2.0**-10


def total(x: np.ndarray) -> Fraction:
    return sum(map(Fraction, x.tolist()), Fraction(0))


def inner(a: np.ndarray, b: np.ndarray) -> Fraction:
    return sum((Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))


def highest(c: np.ndarray, low: np.ndarray, high: np.ndarray) -> Fraction:
    return inner(np.maximum(c, 0), high) + inner(np.minimum(c, 0), low)


def exactly(bound: Any) -> Fraction:
    return Fraction(np.asarray(bound).item())


def test_a_sum_is_paid_for_by_its_roundings_and_what_underflows() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 100, 10**6):
        for size in (0.0, 1e-310, 1e-290, 1.0, 1e290):
            value = size * rng.uniform(-1, 1)
            share = count * Fraction(DOUBLE) / (1 - count * Fraction(DOUBLE))
            least = Fraction(value) + share * Fraction(size) + LEAST
            assert least <= exactly(sets.above(np.array(value), np.array(size), count))
    for value, size in ((1.0, 1e300), (1.0, np.inf), (1.0, np.nan), (np.nan, np.nan), (np.inf, np.inf)):
        assert sets.above(np.array(value), np.array(size), 3) == np.inf


def boxes() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Coefficients, and the ends of a box: one end or the coefficients are hard to add up."""
    one, none = np.ones(N), np.zeros(N)
    for head in (HEAD, -HEAD):
        hard = losing(head)
        least, most = np.minimum(hard, 0), np.maximum(hard, 0)
        yield from ((one, least, hard), (one, hard, hard), (-one, -hard, -least), (-one, -most, none))
        yield from ((hard, none - (head < 0), one - (head < 0)), (hard, -one, -one), (-hard, -one, one))
    rng = np.random.default_rng(1)
    for _ in range(100):
        low, high = np.sort(rng.normal(size=(2, 1)) * 10.0 ** rng.integers(-3, 3), axis=0)
        yield rng.normal(size=1), low, high
        yield np.concatenate([rng.normal(size=3)] * 2), np.ones(6), np.ones(6)
    tiny = np.full(N, 3e-170)
    yield tiny, -tiny, tiny


def test_a_box_is_bounded_exactly() -> None:
    for c, low, high in boxes():
        assert highest(c, low, high) <= exactly(sets._in_box(c[None], low, high))


def test_a_polytope_is_bounded_at_its_multipliers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Lagrangian at any of them, with rows or limits that are hard to add up."""
    rng, one, none = np.random.default_rng(2), np.ones(1), np.zeros(1)
    cases = []
    for head in (HEAD, -HEAD):
        hard = losing(head)[:, None], np.zeros(N)
        for rows, limits in (hard, (-hard[0], hard[1]), (np.zeros((N, 1)), losing(head))):
            for low, high in ((-one, none), (none, one), (-one, -one)):
                cases += [(np.ones(N), rows, limits, c, low, high) for c in (none, one)]
    for _ in range(40):
        high, rows, m = rng.normal(size=3), rng.normal(size=(2, 3)), rng.random(2)
        cases.append((m, rows, rng.normal(size=2), m @ rows, high - rng.random(3), high))
    for m, rows, limits, c, low, high in cases:
        monkeypatch.setattr(search, "row_multipliers", lambda *_, m=m: m[None])
        rest = [Fraction(v) - inner(m, column) for v, column in zip(c.tolist(), rows.T, strict=True)]
        ends = zip(rest, low.tolist(), high.tolist(), strict=True)
        exact = sum(r * Fraction(b if r > 0 else a) for r, a, b in ends) + inner(m, limits)
        arrays = {"rows": rows, "limits": limits}
        assert exact <= exactly(sets._polytope({}, arrays, c[None], low, high)[0])
        # multipliers below 0 count as 0
        monkeypatch.setattr(search, "row_multipliers", lambda *_, m=m: -m[None])
        assert highest(c, low, high) <= exactly(
            sets._polytope({}, {"rows": rows, "limits": limits}, c[None], low, high)[0]
        )


def test_the_ends_of_balls_are_rounded_outwards() -> None:
    rng = np.random.default_rng(3)
    x, eps = rng.normal(size=200), 0.3
    for scale in (1.0, 1e-310):
        low, high = sets.box("linf", {"eps": eps * scale}, {"x": x * scale})
        for a, v, b in zip(low.tolist(), (x * scale).tolist(), high.tolist(), strict=True):
            assert Fraction(a) <= Fraction(v) - Fraction(eps * scale) and Fraction(v) + Fraction(
                eps * scale
            ) <= Fraction(b)


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_balls_are_bounded_by_their_dual_norms_exactly(kind: str) -> None:
    rng = np.random.default_rng(4)
    roots = np.sqrt(losing(HEAD, 2000))
    rows = [roots, -roots, *(np.full(n, v) for n in (1, 3, 300) for v in (3.2e-150, 1e-155, 2e-162, 1e-308, 0.0))]
    rows += [rng.normal(size=n) * 10.0 ** rng.integers(-3, 3) for n in (1, 1, 1, 1, 2, 3) for _ in range(20)]
    for c in rows:
        for x, eps in ((np.zeros(len(c)), 0.7), (rng.normal(size=len(c)), 0.1), (-0.3 * np.sign(c), 0.3)):
            bound = exactly(sets.support(kind, {"eps": eps}, {"x": x}, c[None]))
            gain = bound - inner(c, x)
            if kind == "l1":
                assert gain >= Fraction(eps) * Fraction(float(np.abs(c).max()))
            else:
                assert gain >= 0 and gain**2 >= Fraction(eps) ** 2 * inner(c, c)


def test_balls_within_a_range_reach_their_optimum() -> None:
    """What an entry may not use is left to the others, and a range of one side is one."""
    for options, sign in (({"low": 0.0}, -1), ({"high": 1.0}, 1), ({"low": 0.0, "high": 1.0}, -1)):
        x = np.array([0.05, 0.5]) if sign < 0 else np.array([0.95, 0.5])
        c = sign * np.array([[1.0, 0.9]])
        gain = sets.support("l1", {"eps": 0.3, **options}, {"x": x}, c)[0] - c[0] @ x
        assert 0.275 <= gain <= 0.275 + 1e-12
        gain = sets.support("l2", {"eps": 0.3, **options}, {"x": x}, c)[0] - c[0] @ x
        best = 0.05 + 0.9 * np.sqrt(0.09 - 0.0025)
        assert best - 1e-12 <= gain <= best + 1e-9


def test_the_box_of_a_polytope_is_what_its_rows_leave() -> None:
    arrays = {"lower": np.zeros(2), "upper": np.ones(2)}
    arrays |= {"rows": np.array([[1.0, 1], [-1, 0]]), "limits": np.array([0.5, -0.125])}
    low, high = sets.box("polytope", {}, arrays)
    for found, exact in zip([*low, *high], [0.125, 0, 0.5, 0.375], strict=True):
        assert abs(found - exact) < 1e-9
    assert (low <= [0.125, 0]).all() and (high >= [0.5, 0.375]).all()


def ends(center: float, reach: float, g: float, options: dict[str, float]) -> tuple[Fraction, Fraction]:
    """Of the one error term of a zonotope of one entry."""
    c, room, slope = Fraction(center), Fraction(reach), Fraction(g)
    off = Fraction(options["rounding"])
    least, most = -room, room
    if "low" in options:
        at = (Fraction(options["low"]) - off - c) / slope
        least, most = (max(least, at), most) if g > 0 else (least, min(most, at))
    if "high" in options:
        at = (Fraction(options["high"]) + off - c) / slope
        least, most = (least, min(most, at)) if g > 0 else (max(least, at), most)
    return least, most


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_a_range_leaves_error_terms_all_that_members_need(scale: float) -> None:
    rng = np.random.default_rng(6)
    for k in range(200):
        center, g, reach = rng.normal() * scale, rng.normal(), rng.uniform(0.5, 1.5)
        options = {"rounding": [0.0, 1.0, 0.1][k % 3] * rng.uniform(0, 1) * abs(g)}
        options |= {"low": center - rng.uniform(0, 1) * abs(g)} if k % 4 != 1 else {}
        options |= {"high": center + rng.uniform(0, 1) * abs(g)} if k % 4 != 2 else {}
        arrays = {"center": np.array([center]), "generators": np.array([[g]]), "reach": np.array([reach])}
        least, most = (float(t[0]) for t in sets._terms(options, arrays))
        low, high = ends(center, reach, g, options)
        near = Fraction(1e-12 * (1 + abs(center)) / abs(g))
        assert Fraction(least) <= low <= Fraction(least) + near and Fraction(most) - near <= high <= Fraction(most)


def test_entries_that_a_term_does_not_touch_leave_it_to_others() -> None:
    arrays = {"center": np.zeros(2), "generators": np.array([[1.0, 0.0], [0.0, -2.0]]), "reach": np.ones(2)}
    least, most = sets._terms({"rounding": 0.0, "low": -0.25, "high": 0.5}, arrays)
    assert np.allclose(least, [-0.25, -0.25], rtol=0, atol=1e-12) and np.allclose(
        most, [0.5, 0.125], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_roundings_as_large_as_the_range_are_paid_for(sign: float) -> None:
    for center, limit, rounding in ((0.95, 0.9, 0.9), (0.97, 0.93, 0.93), (0.91, 0.9, 0.9), (0.6, 0.59, 0.59)):
        options = {"rounding": rounding, "low" if sign > 0 else "high": sign * limit}
        arrays = {"center": np.array([sign * center]), "generators": np.ones((1, 1)), "reach": np.ones(1)}
        least, most = (t.item() for t in sets._terms(options, arrays))
        low, high = ends(sign * center, 1.0, 1.0, options)
        assert Fraction(least) <= low and high <= Fraction(most)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_error_terms_beside_many_small_ones(sign: float) -> None:
    """The first may go as far as all others, each of which is lost in a sum with it, let it."""
    g = sign * losing(HEAD)[:, None]
    for center, options in (
        (0.0, {"low": -0.25}),
        (0.0, {"high": 0.25}),
        (-7.0, {"low": -7.25}),
        (7.0, {"high": 7.25}),
    ):
        arrays = {"center": np.array([center]), "generators": g, "reach": np.ones(N)}
        least, most = sets._terms({"rounding": 0.0, **options}, arrays)
        way = (Fraction(0.25) + total(np.abs(g[1:, 0]))) / Fraction(HEAD)
        if ("low" in options) == (sign > 0):
            assert Fraction(float(least[0])) <= -way <= Fraction(float(least[0])) + Fraction(1e-9)
        else:
            assert Fraction(float(most[0])) - Fraction(1e-9) <= way <= Fraction(float(most[0]))


def zonotopes() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]]:
    """Coefficients, center, generators, ends of their terms, rounding: one sum of each is hard to add up."""
    n = N // 8
    many, none, one = np.ones(n), np.zeros(n), np.ones(1)
    for hard in (losing(HEAD, n), losing(-HEAD, n), -losing(HEAD, n), -losing(-HEAD, n)):
        for c, center in ((many, hard), (hard, many)):
            yield c, center, none[None], -one, one, 0.0
        for least, most in ((-one, 0 * one), (0 * one, one), (one, one), (-one, -one)):
            yield many, none, hard[None], least, most, 0.0
            yield hard, none, many[None], least, most, 0.0
        for least, most in ((-many, none), (none, many), (many, many), (-many, -many)):
            for c in (one, -one):
                yield c, 0 * one, hard[:, None], least, most, 0.0
                yield c, np.sign(hard[0]) * one * 3, -hard[:, None], least, most, 0.25
        yield hard, none, none[None], -one, one, 1.0
    rng = np.random.default_rng(7)
    for _ in range(100):
        most = rng.normal(size=3)
        yield rng.normal(size=2), rng.normal(size=2), rng.normal(size=(3, 2)), most - rng.random(3), most, rng.random()


def test_zonotopes_are_bounded_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever ends of error terms, and their boxes as well."""
    for c, center, g, least, most, rounding in zonotopes():
        monkeypatch.setattr(sets, "_terms", lambda *_, ends=(least, most): ends)
        options, arrays = {"rounding": rounding}, {"center": center, "generators": g, "reach": np.ones(len(g))}
        along = [inner(c, row) for row in g]
        ends = list(zip(map(Fraction, least.tolist()), map(Fraction, most.tolist()), strict=True))
        exact = inner(c, center) + sum(max(a * v for v in pair) for a, pair in zip(along, ends, strict=True))
        exact += Fraction(rounding) * total(np.abs(c))
        assert exact <= exactly(sets._zonotope(options, arrays, c[None], center, center)[0])
        low, high = sets._spanned(options, arrays, least, most)
        for j in range(min(2, len(c))):
            slopes = [Fraction(v) for v in g[:, j].tolist()]
            small, large = (
                sum(f(a * v for v in pair) for a, pair in zip(slopes, ends, strict=True)) for f in (min, max)
            )
            assert Fraction(low[j].item()) <= Fraction(center[j].item()) + small - Fraction(rounding)
            assert Fraction(center[j].item()) + large + Fraction(rounding) <= Fraction(high[j].item())
