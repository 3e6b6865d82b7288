"""The checker's Wasserstein balls: their boxes and bounds against fractions, and what is refused of sets in general."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from verifier.checker import search, sets

#: a unit of mass moves by one pixel at the cost 1, along a diagonal at 3
COST = np.array([[3.0, 1, 3], [1, 0, 1], [3, 1, 3]])


def hull(x: list[float], eps: float, cost: np.ndarray = COST, **more: float) -> list[list[float]]:
    options = {"eps": eps, "rounding": 0.0, **more}
    return [t.tolist() for t in sets._hull("wasserstein", options, {"x": np.array([[x]]), "cost": cost})]


def near(found: list[list[float]], low: list[float], high: list[float]) -> bool:
    """Around these ends, and hardly further."""
    outside = (np.array(found[0]) <= low).all() and (np.array(found[1]) >= high).all()
    return bool(outside and np.allclose(found, [low, high], rtol=0, atol=1e-12))


def test_pixels_change_by_what_is_paid_and_what_there_is() -> None:
    x = [0.5, 0.25, 0.0]
    assert near(hull(x, 0.125), [0.40625, 0.15625, 0], [0.59375, 0.34375, 0.09375])
    assert near(hull(x, 10.0), [0, 0, 0], [0.75, 0.75, 0.25])
    assert near(hull(x, 10.0, rounding=0.5), [-0.5, -0.5, -0.5], [1.25, 1.25, 0.75])
    assert near(hull(x, 10.0, rounding=0.5, high=0.625), [-0.5, -0.5, -0.5], [0.625, 0.625, 0.625])
    assert near(hull(x, 0.125, 2 * COST), [0.453125, 0.203125, 0], [0.546875, 0.296875, 0.046875])
    assert near(hull(x, 0.125, np.where(COST == 1, 0.0, COST)), [0, 0, 0], [0.75, 0.75, 0.25])  # for nothing
    assert near(hull(x, 0.0), x, x) and near(hull(x, 10.0, np.zeros((1, 1))), x, x)  # no moves
    assert near(hull([0.0, 0.0], 10.0), [0, 0], [0, 0])


def test_boxes_of_wasserstein_balls_are_rounded_outwards() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        x, eps, price, rounding = (
            rng.random(5),
            10.0 ** rng.uniform(-6, -0.7),
            rng.uniform(0.3, 3),
            rng.choice([0.0, 0.1]),
        )
        low, high = hull(x.tolist(), eps, COST * price, rounding=rounding)
        paid = Fraction(eps) * sum(map(Fraction, x.tolist())) / Fraction((COST * price)[0, 1])
        for j, (a, v, b) in enumerate(zip(low, map(Fraction, x.tolist()), high, strict=True)):
            assert Fraction(a) <= max(v - paid, Fraction(0)) - Fraction(rounding)
            if v + paid < Fraction(0.999 * x[max(j - 1, 0) : j + 2].sum()):  # there is more around it
                assert v + paid + Fraction(rounding) <= Fraction(b)
    wide = np.full((1, 3, 3), 0.9 * 2.0**-53)  # what there is around a pixel is a sum that rounds
    wide[0, 1, 1] = 1 + 2.0**-10
    most = sets._hull("wasserstein", {"eps": 1e3, "rounding": 0.0}, {"x": wide, "cost": COST})[1]
    assert Fraction(most[4].item()) >= sum(map(Fraction, wide.ravel().tolist()))


def test_budgets_are_rounded_up() -> None:
    rng = np.random.default_rng(1)
    for _ in range(400):
        x, eps = (
            rng.random((1, 1, 3)),
            2.0 ** rng.integers(-9, 2) * rng.choice([1.0, 1.01, 1.99]) * rng.uniform(0.99, 1),
        )
        x *= rng.choice([1.0, 1.01, 1.99]) / x.sum()
        exact = Fraction(eps) * sum(map(Fraction, x.ravel().tolist()))
        assert exact <= Fraction(sets._budget({"eps": eps}, {"x": x})) <= exact * (1 + Fraction(1, 10**14))


@pytest.mark.parametrize("price", [-1.0, 0.0, 0.5, 3.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_ball_is_bounded_at_any_price(price: float, sign: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mass that is hard to add up, where no move is worth anything: at a price at least what it was."""
    monkeypatch.setattr(search, "price_of_cost", lambda *_: np.array([price]))
    for eps, rounding, small in ((0.0, 0.0, 0.9), (50.0, 0.0, 0.9), (0.1, 0.25, 0.9), (0.0, 0.0, 1.2)):
        x = np.append(1 + 2.0**-10, np.full(599, small * 2.0**-53)).reshape(1, 20, 30)
        mass = sum(map(Fraction, x.ravel().tolist()))
        options, arrays = {"eps": eps, "rounding": rounding}, {"x": x, "cost": COST}
        bound = Fraction(sets._moved(options, arrays, np.full((1, 600), sign))[0].item())
        off = Fraction(rounding) * 600
        assert bound >= sign * mass + Fraction(max(price, 0.0)) * Fraction(eps) * mass + off


def test_numbers_and_arrays_of_sets_are_all_as_they_must_be() -> None:
    ball, two = {"x": np.array([0.25, 0.5])}, np.ones(2)
    box, flow = {"lower": np.zeros(2), "upper": two}, {"x": np.ones((1, 2, 2)), "cost": COST}
    rows = {**box, "rows": np.ones((2, 2)), "limits": two}
    segment = {"center": np.zeros(2), "generators": np.ones((2, 2)), "reach": two}
    none, moving = {"rounding": 0.0}, {"eps": 0.1, "rounding": 0.0}
    good: list[tuple[str, dict[str, Any], dict[str, np.ndarray]]] = [
        ("l2", {"eps": 2.0**999}, ball), ("l2", {"eps": 1, "low": 0.25, "high": 0.5}, ball), ("box", {}, box),
        ("polytope", {}, rows), ("zonotope", none, segment), ("wasserstein", moving, flow),
    ]  # fmt: skip
    for kind, options, arrays in good:
        sets._checked(kind, options, arrays)
    wrong: list[tuple[str, dict[str, Any], dict[str, np.ndarray]]] = [
        ("l2", {"eps": 2.0**1000}, ball), ("l2", {"eps": 1.0, "low": -(2.0**1000)}, ball),
        ("l2", {"eps": 1.0, "low": -(2.0**1001)}, ball), ("l2", {"eps": 1.0, "low": 0.375}, ball),
        ("l2", {"eps": 1.0, "high": 0.375}, ball), ("l2", {"eps": 1.0, "low": 0.75}, ball),
        ("l2", {"eps": 1.0, "high": 0.125}, ball), ("l2", {"eps": 1.0}, {"x": np.array([0.0, np.inf])}),
        ("l2", {"eps": 1.0}, {"x": np.array([np.inf, np.inf])}), ("box", {}, {**box, "upper": np.array([1.0, -1.0])}),
        ("box", {"high": 0.5}, box), ("polytope", {}, {**rows, "rows": np.array([[1.0, 1], [1, np.nan]])}),
        ("polytope", {}, {**rows, "limits": np.array([1.0, np.inf])}),
        ("polytope", {}, {**rows, "limits": np.ones((2, 1))}),
        ("zonotope", none, {**segment, "reach": np.ones((2, 1))}),
        ("zonotope", none, {**segment, "reach": np.array([1.0, -1])}),
        ("wasserstein", moving, {**flow, "cost": COST - np.eye(3) * [[4], [0], [0]]}),
        ("wasserstein", moving, {**flow, "x": np.array([[[1.0, -1]]])}),
    ]  # fmt: skip
    for kind, options, arrays in wrong:
        with pytest.raises(ValueError, match="set"):
            sets._checked(kind, options, arrays)
