"""The checker's support functions: above every member in exact arithmetic, near the optimum, whatever searches say."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from properties import Box, InputSet, L1Ball, L2Ball, LinfBall, Polytope, SetRecord, Union, WassersteinBall, Zonotope
from properties.input_set import REGISTRY
from verifier.checker import search, sets
from verifier.forms import Dense


def case(inputs: InputSet, name: str) -> Any:
    """One set to check; skipped, with what it says itself, where certificates know no sets of its kind."""
    try:
        inputs.record()
    except ValueError as error:
        return pytest.param(inputs, id=name, marks=pytest.mark.skip(reason=str(error)))
    return pytest.param(inputs, id=name)


#: one example of every kind of set in its variants
CASES = [
    case(inputs.select(torch.tensor([1])), f"{name}-{k}")
    for name, cls in sorted(REGISTRY.items())
    if name != "Union" and cls.__module__.startswith("properties.")
    for k, inputs in enumerate(cls.examples())
]
#: those that have a record
RECORDED = [c for c in CASES if not c.marks]


def support(record: SetRecord, c: np.ndarray) -> np.ndarray:
    return sets.support(record.kind, record.options, record.arrays, c)


def box(record: SetRecord) -> tuple[np.ndarray, np.ndarray]:
    return sets.box(record.kind, record.options, record.arrays)


def coefficients(n: int, count: int, seed: int = 0) -> np.ndarray:
    """Dense and sparse rows of different sizes, unit vectors, and one of zeros."""
    generator = np.random.default_rng(seed)
    c = generator.normal(size=(count, n)) * 10.0 ** generator.integers(-3, 3, size=(count, 1))
    c[::3] *= generator.random((len(c[::3]), n)) < 0.5
    return np.concatenate([c, np.eye(n), -np.eye(n), np.zeros((1, n))])


@cache
def members(inputs: InputSet) -> np.ndarray:  # [k, n]
    """Points that are members in exact arithmetic, some of them far out."""
    generator = torch.Generator().manual_seed(0)
    points = [inputs.center(), *(inputs.sample(generator) for _ in range(3))]
    points += [inputs.project(p + 9 * torch.randn(p.shape, generator=generator).double()) for p in points[:2]]
    moved = [inputs.inside(point.double(), torch.float64) for point in points]
    kept = [p.flatten().numpy() for p in moved if bool(inputs.contains(p))]
    assert len(kept) >= 2
    return np.stack(kept)


def dot(a: np.ndarray, b: np.ndarray) -> Fraction:
    return sum((Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))


@pytest.mark.parametrize("inputs", CASES)
def test_no_member_exceeds_the_support_function(inputs: InputSet) -> None:
    record, points = inputs.record(), members(inputs)
    c = coefficients(points.shape[1], 6)
    bounds = support(record, c)
    for row, bound in zip(c, bounds.tolist(), strict=True):
        best = points[np.argsort(points @ row)[-2:]]
        assert max(dot(row, point) for point in best) <= Fraction(bound)
        if "rounding" in record.options and "high" not in record.options:  # every entry may be off
            off = Fraction(record.options["rounding"]) * sum(abs(Fraction(v)) for v in row.tolist())
            assert dot(row, points[0]) + off <= Fraction(bound)
    low, high = box(record)
    assert (low <= points).all() and (points <= high).all()


@pytest.mark.parametrize("inputs", CASES)
def test_support_functions_are_as_tight_as_the_verifiers(inputs: InputSet) -> None:
    record = inputs.record()
    c = coefficients(int(np.prod(inputs.shape)), 20)
    theirs = inputs.support(Dense(torch.from_numpy(c).reshape(1, len(c), *inputs.shape)))[0].numpy()
    size = np.abs(c) @ np.abs(np.stack(box(record))).max(0)
    prices = (
        record.kind == "wasserstein" and "high" in record.options
    )  # both search for them, and neither finds the best
    assert (support(record, c) <= theirs + (2e-2 if prices else 1e-11) * size + 1e-290).all()


def programs() -> list[Any]:
    return [c for c in RECORDED if c.values[0].record().kind in ("l1", "zonotope", "wasserstein", "polytope")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("inputs", programs())
def test_support_functions_against_linear_programs(inputs: InputSet) -> None:
    """The whole set as a linear program: its maxima are reached, up to the solver's tolerance."""
    record = inputs.record()
    n = int(np.prod(inputs.shape))
    c = np.concatenate([coefficients(n, 3)[:3], np.eye(n)[::2], -np.eye(n)[::3]])
    found, (low, high) = support(record, c), box(record)
    for row, bound in zip(c, found.tolist(), strict=True):
        best, size = optimum(inputs, row), np.abs(row).sum()
        # programs add the roundings to what limits entries as well
        limited = "high" in record.options and record.kind != "l1"
        less = 1e-7 * (1 + size) + record.options.get("rounding", 0.0) * size
        assert best - less <= bound <= best + (size if limited else less)
        if size == 1:
            j, sign = int(np.abs(row).argmax()), row.sum()
            assert (high[j] if sign > 0 else -low[j]) >= best - less


def optimum(inputs: InputSet, row: np.ndarray) -> float:
    if isinstance(inputs, Polytope):
        rows, limits = inputs.a[0].flatten(1).numpy(), inputs.b[0].numpy()
        ends = np.stack([inputs.lower[0].numpy().ravel(), inputs.upper[0].numpy().ravel()], 1)
        return -float(linprog(-row, rows, limits, bounds=ends, method="highs").fun)
    lifted = inputs.lifted()
    assert lifted is not None
    if len(lifted.lower) == 0:
        return float(row @ lifted.bias)
    matrix, rows = lifted.matrix.toarray(), lifted.rows.toarray()
    above, below = np.isfinite(lifted.row_upper), np.isfinite(lifted.row_lower)
    a, b = np.concatenate([rows[above], -rows[below]]), [lifted.row_upper[above], -lifted.row_lower[below]]
    ends = np.stack([lifted.lower, lifted.upper], 1)
    found = linprog(-(row @ matrix), a if len(a) else None, np.concatenate(b) if len(a) else None, bounds=ends)
    return float(row @ lifted.bias - found.fun)


def test_boxes_and_balls_against_fractions() -> None:
    x = torch.linspace(0.05, 0.95, 6, dtype=torch.float64).reshape(1, 2, 3)
    for clip, eps, scale in itertools.product((None, (0.0, 1.0)), (0.3, 1e-9), (1.0, 1e-160, 1e140)):
        c = scale * coefficients(6, 8, 1)
        ends = [
            [(max(a - Fraction(eps), 0), min(a + Fraction(eps), 1)) if clip else (a - Fraction(eps), a + Fraction(eps))]
            for a in map(Fraction, x.flatten().tolist())
        ]
        for kind in (LinfBall, L1Ball, L2Ball):
            bounds = support(kind(x, eps, clip).record(), c)
            for row, bound in zip(c, bounds.tolist(), strict=True):
                ways = [(abs(Fraction(v)), abs((e[0][1] if v > 0 else e[0][0]) - Fraction(a))) for v, e, a in
                        zip(row.tolist(), ends, x.flatten().tolist(), strict=True)]  # fmt: skip
                gain = Fraction(bound) - dot(row, x.flatten().numpy())
                roundoff = Fraction(1e-13) * sum(size for size, _ in ways)
                if kind is LinfBall:
                    best = sum(size * way for size, way in ways)
                elif kind is L1Ball:
                    best, left = Fraction(0), Fraction(eps)
                    for size, way in sorted(ways, reverse=True):
                        best, left = best + size * min(way, left), left - min(way, left)
                elif clip is None or eps < 0.01:  # the range stops no entry
                    square = Fraction(eps) ** 2 * sum(size**2 for size, _ in ways)
                    assert gain >= 0 and gain**2 >= square
                    assert gain <= roundoff + Fraction(1e-140) or (gain - roundoff - Fraction(1e-140)) ** 2 <= square
                    continue
                else:
                    continue
                assert best <= gain <= best + roundoff + Fraction(1e-290)


def test_clipped_l2_balls_reach_their_bound() -> None:
    x = torch.tensor([[0.05, 0.5, 0.9, 0.99]], dtype=torch.float64)
    ball = L2Ball(x, 0.4, (0, 1))
    c = coefficients(4, 30)
    c = c[np.abs(c).max(1) > 0]
    for row, bound in zip(c, support(ball.record(), c).tolist(), strict=True):
        far = ball.project(x + 1e6 * torch.from_numpy(row / np.abs(row).max()))[0].numpy()
        assert float(row @ far) <= bound <= float(row @ far) + 1e-5 * np.abs(row).max()


def lies() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    generator = np.random.default_rng(0)
    return {
        "nothing": np.zeros_like,
        "noise": lambda found: found + generator.normal(size=found.shape),
        "huge": lambda found: 1e200 * (1 + found),
        "negative": lambda found: -1 - np.abs(found),
        "nan": lambda found: np.full_like(found, np.nan),
    }


@pytest.mark.parametrize("lie", sorted(lies()))
def test_a_bad_search_costs_strength_only(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {c.values[0].record().kind: c.values[0] for c in RECORDED}
    for name in ("l2_part", "l1_part", "row_multipliers", "price_of_cost", "prices_of_room"):
        right = getattr(search, name)
        monkeypatch.setattr(search, name, lambda *a, right=right: lies()[lie](right(*a)))
    clipped = {c.values[0].record().kind: c.values[0] for c in RECORDED if "high" in c.values[0].record().options}
    for inputs in [*found.values(), *clipped.values()]:
        points = members(inputs)
        c = coefficients(points.shape[1], 3)
        bounds = support(inputs.record(), c)
        assert not np.isnan(bounds).any()
        worst = (points @ c.T).max(0)
        assert (bounds >= worst - 1e-12 * np.abs(c).sum(1)).all()


def test_overflow_proves_nothing() -> None:
    x = torch.tensor([[1.0, -1.0, 0.5]])
    c = np.array([[1e308, 1e308, -1e308], [np.nan, 0, 0], [np.inf, 0, 0], [1e308, -1e308, 0.0]])
    rows = torch.ones(1, 1, 3)
    for inputs in (LinfBall(x, 5.0), L2Ball(x, 5.0), L1Ball(x, 5.0, (-1, 1)), Zonotope(x, rows, (-1, 1)),
                   Polytope(rows, torch.ones(1, 1), x - 1, x + 1)):  # fmt: skip
        assert (support(inputs.record(), c) == np.inf).all()


def test_records_are_exact_and_small() -> None:
    x = torch.tensor([[0.1, 0.2, 0.30000001192092896]], dtype=torch.float64)
    assert LinfBall(x.float(), 0.1).record().arrays["x"].dtype == np.float32
    record = LinfBall(x, 0.1, (0, torch.inf)).record()
    assert record.arrays["x"].dtype == np.float64 and record.options == {"eps": 0.1, "low": 0.0}
    assert np.array_equal(record.arrays["x"], x[0].numpy())
    tiny = LinfBall(torch.tensor([[1e-300, 1e300]], dtype=torch.float64), 0.0).record()
    assert np.array_equal(tiny.arrays["x"], [1e-300, 1e300])
    union = Union([LinfBall(x, 0.1), Union([Box(x, x + 1), L2Ball(x, 0.1)])])
    assert [r.kind for r in union.records()] == ["linf", "box", "l2"]
    for several in (LinfBall(x.repeat(2, 1), 0.1), Union([L2Ball(x.repeat(2, 1), 0.1)])):
        with pytest.raises(ValueError, match="about one example"):
            several.records()
    with pytest.raises(ValueError, match="no record"):
        union.record()


def test_a_subclass_that_is_another_set_has_no_record() -> None:
    class Wider(LinfBall):
        def support(self, form: Any) -> Tensor:
            return super().support(form) + 1

    class Renamed(LinfBall):
        pass

    x = torch.zeros(1, 2)
    assert Renamed(x, 0.1).record().kind == "linf"
    with pytest.raises(ValueError, match="Wider has no record"):
        Wider(x, 0.1).record()


BALL: dict[str, Any] = {"kind": "l2", "options": {"eps": 0.1}, "arrays": {"x": np.zeros(3)}}
FLOW: dict[str, Any] = {
    "kind": "wasserstein", "options": {"eps": 0.1, "rounding": 0.0},
    "arrays": {"x": np.ones((1, 2, 2)), "cost": np.ones((3, 3)) - np.diag([0.0, 1, 0])},
}  # fmt: skip
ROWS: dict[str, Any] = {
    "kind": "polytope", "options": {},
    "arrays": {"lower": np.zeros(3), "upper": np.ones(3), "rows": np.ones((1, 3)), "limits": np.ones(1)},
}  # fmt: skip
SEGMENT: dict[str, Any] = {
    "kind": "zonotope", "options": {"rounding": 0.0},
    "arrays": {"center": np.zeros(3), "generators": np.ones((1, 3)), "reach": np.ones(1)},
}  # fmt: skip
BROKEN = [
    (BALL, {"kind": "l3"}), (BALL, {"options": {}}), (BALL, {"options": {"eps": -0.1}}),
    (BALL, {"options": {"eps": True}}), (BALL, {"options": {"eps": "0.1"}}),
    (BALL, {"options": {"eps": float("nan")}}), (BALL, {"options": {"eps": 10**400}}),
    (BALL, {"options": {"eps": 2**60 + 1}}), (BALL, {"options": {"eps": 0.1, "clip": 1.0}}),
    (BALL, {"options": {"eps": 0.1, "low": 0.5}}), (BALL, {"options": {"eps": 0.1, "low": float("inf")}}),
    (BALL, {"arrays": {}}), (BALL, {"x": np.array(0.0)}), (BALL, {"x": np.array([0.0, np.nan, 0])}),
    (BALL, {"x": np.zeros(3, np.int64)}), (BALL, {"x": np.array(["a", "b", "c"])}), (BALL, {"x": np.zeros(3, complex)}),
    (BALL, {"y": np.zeros(3)}), (ROWS, {"upper": -np.ones(3)}), (ROWS, {"upper": np.ones(4)}),
    (ROWS, {"rows": np.ones((1, 4))}), (ROWS, {"limits": np.ones(2)}), (ROWS, {"limits": np.ones((1, 1))}),
    (SEGMENT, {"reach": -np.ones(1)}), (SEGMENT, {"reach": np.ones(2)}), (SEGMENT, {"generators": np.ones((1, 2))}),
    (SEGMENT, {"options": {"rounding": -1.0}}), (FLOW, {"x": -np.ones((1, 2, 2))}), (FLOW, {"x": np.ones((2, 2))}),
    (FLOW, {"cost": np.zeros((2, 2))}), (FLOW, {"cost": np.ones((3, 3))}), (FLOW, {"cost": -np.ones((3, 3))}),
    (FLOW, {"cost": np.zeros((3, 1))}),
]  # fmt: skip


@pytest.mark.parametrize(("whole", "change"), BROKEN)
def test_malformed_sets_are_errors(whole: dict[str, Any], change: dict[str, Any]) -> None:
    n = 4 if whole is FLOW else 3
    assert np.isfinite(support(SetRecord(**whole), np.ones((1, n)))).all()
    parts = {name: change.get(name, whole[name]) for name in ("kind", "options", "arrays")}
    parts["arrays"] = {**parts["arrays"], **{k: v for k, v in change.items() if k not in parts}}
    with pytest.raises(ValueError, match="set"):
        support(SetRecord(**parts), np.ones((1, n)))
    with pytest.raises(ValueError, match="set"):
        box(SetRecord(**parts))


def test_coefficients_must_fit() -> None:
    for c in (np.ones(3), np.ones((1, 4))):
        with pytest.raises(ValueError, match="3 inputs"):
            support(SetRecord(**BALL), c)
    assert support(SetRecord(**BALL), np.ones((0, 3))).shape == (0,)


def test_rows_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = WassersteinBall.examples()[1].select(torch.tensor([0]))
    c = coefficients(9, 20)
    whole = support(inputs.record(), c)
    for piece in (30, 1):
        monkeypatch.setattr(sets, "PIECE", piece)
        # what is searched for, at which the bound is taken, may differ in its last bits
        assert np.allclose(support(inputs.record(), c), whole, rtol=1e-6, atol=1e-14)
