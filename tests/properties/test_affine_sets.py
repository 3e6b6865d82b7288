"""Polytopes, zonotopes and images changed along few directions, against linear programming and rational arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, lsq_linear
from torch import Tensor, nn

from properties import BiasField, Brightness, BrightnessContrast, Contrast, InputSet, LinearImages, Polytope, Zonotope
from properties.affine_exact import rows_hold
from properties.image import smooth_fields
from properties.interior_point import FewRows, FewVariables, minimise
from verifier import Verdict, verify
from verifier.forms import Dense
from verifier.stages.attack import AttackStage

TAU = 2.0**-24
STAGES = ["clean", "interval", "dual", AttackStage(steps=15, restarts=3)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def zonotope(n: int, clip: tuple[float, float] | None = None, rounding: float = TAU, seed: int = 0) -> Zonotope:
    center = 0.1 + 0.8 * uniform(3, 2, 4, seed=seed)
    return Zonotope(center, 0.3 * normal(3, n, 2, 4, seed=seed + 1), clip, rounding)


def polytope(m: int, size: int = 6, batch: int = 2, seed: int = 0) -> Polytope:
    """A random polytope with an interior, most of its rows cutting the box."""
    lower = normal(batch, size, seed=seed)
    upper = lower + uniform(batch, size, seed=seed + 1)
    a = normal(batch, m, size, seed=seed + 2)
    inner = lower + (0.3 + 0.4 * uniform(batch, size, seed=seed + 3)) * (upper - lower)
    b = (a * inner.unsqueeze(1)).sum(2) + 0.2 * uniform(batch, m, seed=seed + 4)
    return Polytope(a, b, lower, upper)


def maximum(sets: Polytope, i: int, c: Tensor) -> float:
    """max c . x by linear programming."""
    bounds = torch.stack([sets.lower[i].flatten(), sets.upper[i].flatten()], 1).tolist()
    found = linprog(-c.numpy().ravel(), sets.a[i].flatten(1).numpy(), sets.b[i].numpy(), bounds=bounds)
    assert found.status == 0
    return -float(found.fun)


def zonotope_maximum(sets: Zonotope, i: int, c: Tensor) -> float:
    """max c . x by linear programming over the members x and the error terms."""
    g = sets._flat()[i].numpy()
    (n, size), center = g.shape, sets.nominal[i].flatten().numpy()
    eye = np.eye(size)
    rows = np.block([[-g.T, eye], [g.T, -eye]])
    limits = np.concatenate([center + sets.rounding, -center + sets.rounding])
    reach = sets.reach[i].tolist()
    bounds = [(-r, r) for r in reach] + [sets.clip or (None, None)] * size
    found = linprog(np.concatenate([np.zeros(n), -c.numpy().ravel()]), rows, limits, bounds=bounds)
    assert found.status == 0
    return -float(found.fun)


# support -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 12])
def test_support_of_a_zonotope_is_its_maximum(n: int) -> None:
    sets, c = zonotope(n), normal(3, 4, 2, 4, seed=9)
    support, minimum = sets.support(Dense(c)), sets.minimum(Dense(c))
    assert sets.support(Dense(c[:1])).shape == (3, 4)  # one form for all examples
    for i in range(3):
        for s in range(4):
            thick = TAU * float(c[i, s].abs().sum())  # too thin for a solver's tolerances
            flat = Zonotope(sets.nominal, sets.generators, rounding=0.0)
            assert abs(float(support[i, s]) - zonotope_maximum(flat, i, c[i, s]) - thick) < 1e-9
            assert abs(float(minimum[i, s]) + zonotope_maximum(flat, i, -c[i, s]) + thick) < 1e-9


@pytest.mark.parametrize("make", [lambda: zonotope(3), lambda: zonotope(2, (0, 1)), lambda: polytope(2)])
def test_support_in_float32_encloses_up_to_arithmetic(make: Callable[[], InputSet]) -> None:
    sets = make()
    c = normal(sets.batch, 5, *sets.shape, seed=4).float()
    exact, rounded = sets.support(Dense(c.double())), sets.support(Dense(c))
    assert rounded.dtype is torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("clip", [(0.0, 1.0), (0.1, 0.9)])
def test_support_of_a_clipped_zonotope(n: int, clip: tuple[float, float]) -> None:
    """Never below the maximum; with one generator above it by no more than the allowance explains."""
    rounding, loose = 2.0**-10, []
    for seed in range(3):
        sets, c = zonotope(n, clip, rounding, seed), normal(3, 4, 2, 4, seed=seed + 20)
        support, free = sets.support(Dense(c)), zonotope(n, None, rounding, seed).support(Dense(c))
        for i in range(3):
            for s in range(4):
                best = zonotope_maximum(sets, i, c[i, s])
                assert float(support[i, s]) >= best - 1e-9
                if n == 1:
                    assert float(support[i, s]) <= best + 2 * rounding * float(c[i, s].abs().sum()) + 1e-9
        loose.append(bool((support < free - 1e-6).any()))
    assert all(loose)  # the clip cuts something off


@pytest.mark.parametrize(("m", "size"), [(1, 6), (2, 6), (5, 6), (3, 40), (12, 8)])
def test_support_of_a_polytope_is_its_maximum(m: int, size: int) -> None:
    sets = polytope(m, size, seed=m)
    c = normal(2, 6, size, seed=7)
    c[0, 0, :2] = 0.0
    support = sets.support(Dense(c))
    cut = 0
    for i in range(2):
        for s in range(6):
            best = maximum(sets, i, c[i, s])
            assert -1e-10 <= float(support[i, s]) - best < 1e-8
            cut += best < float(sets.hull.support(Dense(c))[i, s]) - 1e-6
    assert cut


numbers = st.integers(-3, 3)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 3))
def test_support_of_degenerate_polytopes(data: st.DataObject, m: int) -> None:
    """Small whole numbers: ties, zero rows, flat boxes, redundant rows, all of them containing 0."""
    draw = lambda *shape: torch.tensor(  # noqa: E731
        data.draw(st.lists(numbers, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))), dtype=torch.float64
    ).reshape(shape)
    lower, upper, a, b = -draw(1, 4).abs(), draw(1, 4).abs(), draw(1, m, 4), draw(1, m).abs()
    sets, c = Polytope(a, b, lower, upper, nominal=torch.zeros(1, 4)), draw(1, 2, 4)
    support = sets.support(Dense(c))
    for s in range(2):
        best = maximum(sets, 0, c[0, s])
        assert -1e-9 <= float(support[0, s]) - best < 1e-6
    assert sets.contains(sets.inside(sets.center(), torch.float64)).all()


def test_any_multipliers_bound_a_polytope() -> None:
    sets, c = polytope(3), normal(2, 5, 6, seed=1)
    best = sets._dual(c, sets.search(c)[0])
    for seed in range(20):
        other = sets._dual(c, 3 * uniform(2, 5, 3, seed=seed))
        assert (other >= best - 1e-9).all()


@pytest.mark.parametrize(
    "make", [lambda: zonotope(3), lambda: zonotope(3, (0, 1)), lambda: polytope(1), lambda: polytope(4)]
)
def test_support_is_differentiable(make: Callable[[], InputSet]) -> None:
    """Its gradient is a maximiser: the directional derivative is that of finite differences."""
    sets = make()
    c = normal(sets.batch, 4, *sets.shape, seed=11).requires_grad_()
    (gradient,) = torch.autograd.grad(sets.support(Dense(c)).sum(), c)
    step = 1e-6 * normal(*c.shape, seed=12)
    change = sets.support(Dense(c.detach() + step)).sum() - sets.support(Dense(c.detach() - step)).sum()
    torch.testing.assert_close(change / 2e-6, (gradient * step).sum() / 1e-6, rtol=1e-4, atol=1e-5)


# points --------------------------------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[], InputSet]] = {
    "zonotope": lambda: zonotope(3),
    "one generator, clip": lambda: zonotope(1, (0, 1)),
    "clipped zonotope": lambda: zonotope(3, (0.1, 0.9)),
    "more generators than entries": lambda: zonotope(12, rounding=2.0**-21),
    "polytope": lambda: polytope(3),
    "half-space": lambda: polytope(1),
    "equality with a width": lambda: Polytope(
        torch.tensor([[[1.0] * 5, [-1.0] * 5]]), torch.tensor([[1.0, -0.999]]), torch.zeros(1, 5), torch.ones(1, 5)
    ),
    "brightness": lambda: Brightness(uniform(2, 1, 3, 3), 0.2),
    "clipped brightness and contrast": lambda: BrightnessContrast(0.8 * uniform(2, 1, 3, 3), 0.2, 0.3, (0, 1)),
    "bias field": lambda: BiasField(uniform(2, 1, 4, 4).float(), 0.2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MAKERS)
def test_points_are_members_below_the_support(name: str, dtype: torch.dtype) -> None:
    sets = MAKERS[name]()
    form = Dense(normal(sets.batch, 6, *sets.shape, seed=2))
    support, (low, high) = sets.support(form), sets.box(dtype)
    starts = [sets.center(), sets.sample(torch.Generator().manual_seed(1)), sets.sample()]
    starts += [sets.project(scale * normal(sets.batch, *sets.shape, seed=3)) for scale in (0.1, 3, 1e3)]
    for start in starts:
        point = start
        for _ in range(3):
            member = sets.inside(point, dtype)
            assert member.dtype is dtype and sets.contains(member).all()
            # a pull to the interior of thin sets is many of its roundings long
            assert (member.double() - point).abs().max() <= (1e-9 if dtype is torch.float64 else 1e-4)
            assert (form.dot(member.double()) <= support + 1e-9).all()
            assert ((member >= low) & (member <= high)).all()
            update = sets.steepest_ascent(point.to(dtype), form.coefficients[:, 0].to(dtype), 0.4)
            assert update.dtype is dtype
            point = sets.project(point.to(dtype) + update)
            assert point.dtype is dtype


@pytest.mark.parametrize("name", ["zonotope", "brightness", "polytope", "half-space", "equality with a width"])
def test_steepest_ascent_reaches_the_top(name: str) -> None:
    sets = MAKERS[name]()
    c = normal(sets.batch, 1, *sets.shape, seed=5)
    x = sets.center()
    values = [Dense(c).dot(x)]
    for _ in range(60):
        x = sets.project(x + sets.steepest_ascent(x, c[:, 0], 0.5))
        values.append(Dense(c).dot(x))
        assert (values[-1] >= values[-2] - 1e-6).all()
    torch.testing.assert_close(values[-1], sets.support(Dense(c)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 3, 12])
def test_projection_on_a_zonotope_is_the_nearest_point(n: int) -> None:
    sets = zonotope(n)
    for seed in range(4):
        x = normal(3, 2, 4, seed=seed)
        found = sets.project(x)
        for i in range(3):
            g, off = sets._flat()[i].T.numpy(), (x[i] - sets.nominal[i]).flatten().numpy()
            nearest = lsq_linear(g, off, (-1, 1), tol=1e-14, method="bvls", max_iter=1000)
            assert float((x[i] - found[i]).norm()) <= np.sqrt(2 * nearest.cost) + 1e-9
        torch.testing.assert_close(sets.project(found), found, rtol=0, atol=1e-9)


def least_distance(target: np.ndarray, at: np.ndarray, origin: np.ndarray, furthest: float) -> float:
    """No member y of a convex set is nearer to the target [n] than this.

    For every y, |target - y|^2 >= |target - at|^2 - 2 (target - at) . (y - at), and a linear program knows how large
    the last product can be: for y = origin + v, `furthest` is the largest (target - at) . v.
    """
    off = target - at
    product = furthest + off @ (origin - at)
    return float(np.sqrt(max(0.0, off @ off - 2 * max(0.0, product))))


def test_projection_on_a_clipped_zonotope_is_the_nearest_point() -> None:
    sets = zonotope(2, (0.1, 0.9))
    for seed in range(3):
        x = normal(3, 2, 4, seed=seed)
        found = sets.project(x)
        for i in range(3):
            g, center = sets._flat()[i].T.numpy(), sets.nominal[i].flatten().numpy()
            target = x[i].flatten().numpy()
            at = found[i].flatten().numpy()
            furthest = linprog(
                -(target - at) @ g, np.concatenate([g, -g]), np.concatenate([0.9 - center, center - 0.1]),
                bounds=[(-1, 1)] * 2,
            )  # fmt: skip
            assert float((x[i] - found[i]).norm()) <= least_distance(target, at, center, -furthest.fun) + 1e-6


@pytest.mark.parametrize("m", [1, 3])
def test_projection_on_a_polytope_is_the_nearest_point(m: int) -> None:
    sets = polytope(m)
    for seed in range(4):
        x = 2 * normal(2, 6, seed=seed)
        found = sets.project(x)
        assert sets.contains(sets.inside(found, torch.float64)).all()
        for other in range(30):  # obtuse angles: what makes a projection on a convex set
            y = sets.sample(torch.Generator().manual_seed(other))
            assert (((x - found) * (y - found)).sum(1) <= 1e-6).all()
        for i in range(2):
            target, at = x[i].numpy(), found[i].numpy()
            furthest = linprog(
                at - target, sets.a[i].numpy(), sets.b[i].numpy(),
                bounds=torch.stack([sets.lower[i], sets.upper[i]], 1).tolist(),
            )  # fmt: skip
            assert float((x[i] - found[i]).norm()) <= least_distance(target, at, 0 * at, -furthest.fun) + 1e-7


# hulls ---------------------------------------------------------------------------------------------------------------


def test_hull_of_a_zonotope_is_outward_and_tight() -> None:
    sets = zonotope(3)
    low, high = sets.box()
    for i in range(3):
        columns = zip(*(t[i].flatten().tolist() for t in (sets.nominal, low, high)), strict=True)
        for p, (center, bottom, top) in enumerate(columns):
            reach = sum(abs(Fraction(v)) for v in sets._flat()[i, :, p].tolist()) + Fraction(TAU)
            assert Fraction(bottom) <= Fraction(center) - reach and Fraction(center) + reach <= Fraction(top)
            assert max(Fraction(center) - reach - Fraction(bottom), Fraction(top) - Fraction(center) - reach) < 1e-13


def test_hull_of_a_polytope_encloses_and_is_tight() -> None:
    sets = polytope(6, size=5, seed=1)
    low, high = sets.box()
    for i in range(2):
        for p in range(5):
            unit = torch.eye(5, dtype=torch.float64)[p]
            top, bottom = maximum(sets, i, unit), -maximum(sets, i, -unit)
            assert -1e-12 <= float(high[i, p]) - top < 1e-8 and -1e-12 <= bottom - float(low[i, p]) < 1e-8
    assert (high < sets.upper - 1e-6).any() and (low >= sets.lower).all()
    part = sets.select(torch.tensor([1]))
    assert torch.equal(part.box()[0], low[1:]) and (part.box(torch.float32)[1].double() >= high[1:]).all()


# membership ----------------------------------------------------------------------------------------------------------


def test_rows_hold_is_exact() -> None:
    """Against fractions where the two sides differ by a rounding, by nothing, or cancel."""
    seen = set()
    for seed in range(60):
        a, x = normal(1, 1, 7, seed=seed), normal(1, 7, seed=seed + 1000)
        exact = sum(Fraction(u) * Fraction(v) for u, v in zip(a.flatten().tolist(), x[0].tolist(), strict=True))
        limit = torch.tensor([[float(exact)]], dtype=torch.float64)
        for b in (limit, torch.nextafter(limit, limit + 1), torch.nextafter(limit, limit - 1)):
            expected = exact <= Fraction(float(b))
            assert rows_hold(a, x, b).item() is expected
            seen.add(expected)
    assert seen == {True, False}
    zero = torch.tensor([[[1.0, 1.0, -1.0]]], dtype=torch.float64)
    tiny = 2.0**-1074
    x = torch.tensor([[1e300, tiny, 1e300], [1e300, -tiny, 1e300], [torch.nan, 0, 0]], dtype=torch.float64)
    assert rows_hold(zero, x, torch.zeros(1, 1, dtype=torch.float64)).squeeze(1).tolist() == [False, True, False]
    assert not rows_hold(1e308 * zero, 1e10 * torch.ones(1, 3).double(), torch.zeros(1, 1).double()).item()


def test_membership_of_a_segment_is_exact() -> None:
    """One generator: points at the end of the allowance and one rounding to either side, against fractions."""
    seen = set()
    for seed in range(40):
        center, g = uniform(1, 5, seed=seed), normal(1, 1, 5, seed=seed + 100)
        sets = Zonotope(center, g, rounding=2.0**-20)
        e = 2 * float(uniform(1, seed=seed + 200)) - 1 if seed % 2 else 1.0
        edge = center + e * g[:, 0]
        edge[0, seed % 5] += 2.0**-20 * (1 if seed % 3 else -1)
        for x in (edge, torch.nextafter(edge, edge + 1), torch.nextafter(edge, edge - 1), edge + 2.0**-30):
            low, high = Fraction(-1), Fraction(1)
            for c, d, v in zip(center[0].tolist(), g[0, 0].tolist(), x[0].tolist(), strict=True):
                ends = [(Fraction(v) - Fraction(c) + s * Fraction(2) ** -20) / Fraction(d) for s in (-1, 1)]
                low, high = max(low, min(ends)), min(high, max(ends))
            assert sets.contains(x).item() is (low <= high)
            seen.add(low <= high)
    assert seen == {True, False}


@pytest.mark.parametrize("n", [2, 4, 12])
@pytest.mark.parametrize("ends", [False, True])
def test_membership_of_a_zonotope(n: int, ends: bool) -> None:
    """Points off by almost the allowance are members; points beyond a supporting half-space are not."""
    sets = zonotope(n)
    for seed in range(10):
        e = 2 * uniform(3, n, seed=seed) - 1
        e = e.sign() if ends else e
        x = sets.at(e) + 0.999 * TAU * normal(3, 2, 4, seed=seed + 50).sign()
        assert sets.contains(x).all()
        c = normal(3, 1, 2, 4, seed=seed + 90)
        top = sets.at((sets._flat() * c.flatten(2)).sum(2).sign()) + TAU * c[:, 0].sign()
        torch.testing.assert_close(Dense(c).dot(top), sets.support(Dense(c)), rtol=1e-12, atol=1e-12)
        assert not sets.contains(top + 1e-2 * TAU * c[:, 0].sign()).any()
        assert sets.contains(top - 1e-2 * TAU * c[:, 0].sign()).all()


def test_flat_zonotopes_know_their_center_and_corners() -> None:
    sets = Zonotope(torch.tensor([[0.5, 0.25]]), torch.tensor([[[0.25, 0.5], [0.125, 0.0]]]), rounding=0.0)
    for x, expected in (((0.5, 0.25), True), ((0.875, 0.75), True), ((0.125, -0.25), True), ((1.0, 0.75), False)):
        assert sets.contains(torch.tensor([x])).item() is expected
    tilted = Zonotope(torch.tensor([[0.5, 0.25]]), torch.tensor([[[0.25, 0.5]]]), rounding=0.0)
    for x, expected in (((0.625, 0.5), True), ((0.625, 0.5 + 2**-50), False), ((0.5 + 2**-50, 0.25 + 2**-49), True)):
        assert tilted.contains(torch.tensor([x], dtype=torch.float64)).item() is expected


def test_membership_respects_clip_and_numbers() -> None:
    sets = Zonotope(torch.full((3, 2), 0.9), torch.ones(3, 1, 2), (0.0, 1.0))
    x = torch.tensor([[1.0, 1.0], [1.0 + 2**-23, 1.0], [torch.nan, 1.0]])
    assert sets.contains(x).tolist() == [True, False, False]
    assert polytope(2).contains(torch.full((2, 6), torch.inf)).tolist() == [False, False]


def test_membership_of_a_polytope_is_exact() -> None:
    sets, seen = polytope(2, size=4), set()
    inner, outer = sets.center(), sets.project(5 * normal(2, 4, seed=3))
    for seed in range(30):
        t = uniform(1, seed=seed)
        x = inner + t * (outer - inner)
        j = seed % 2  # put onto row j by its first entry
        x[:, 0] -= sets.excess(x)[:, j] / sets.a[:, j, 0]
        for y in (x, torch.nextafter(x, x + 1), torch.nextafter(x, x - 1)):
            for i, member in enumerate(sets.contains(y).tolist()):
                values = [Fraction(v) for v in y[i].tolist()]
                rows = zip(sets.a[i].tolist(), sets.b[i].tolist(), strict=True)
                expected = all(
                    sum((Fraction(u) * v for u, v in zip(row, values, strict=True)), Fraction(0)) <= Fraction(b)
                    for row, b in rows
                ) and bool(((y[i] >= sets.lower[i]) & (y[i] <= sets.upper[i])).all())
                assert member is expected
                seen.add(member)
    assert seen == {True, False}


# rows and cuts -------------------------------------------------------------------------------------------------------


def test_inequalities_and_cuts_of_a_polytope() -> None:
    sets = polytope(3)
    a, b = sets.inequalities() or (None, None)
    assert a is not None and b is not None and a.shape == (2, 3, 6) and b.shape == (2, 3)
    for seed in range(10):
        x = sets.sample(torch.Generator().manual_seed(seed))
        assert ((a * x.unsqueeze(1)).sum(2) <= b + 1e-12).all()
        outside = 3 * normal(2, 6, seed=seed)
        normals = sets.separate(outside)
        assert ((normals * outside).sum(1) > sets.support(Dense(normals.unsqueeze(1)))[:, 0] + 1e-6).all()


@pytest.mark.parametrize("name", ["zonotope", "brightness", "clipped brightness and contrast"])
def test_cuts_of_zonotopes(name: str) -> None:
    sets = MAKERS[name]()
    outside = 3 * normal(sets.batch, *sets.shape, seed=8)
    normals = sets.separate(outside)
    support = sets.support(Dense(normals.unsqueeze(1)))[:, 0]
    if name != "clipped brightness and contrast":
        assert ((normals * outside).flatten(1).sum(1) > support + 1e-6).all()
    member = sets.sample(torch.Generator().manual_seed(2))
    assert ((normals * member).flatten(1).sum(1) <= support + 1e-9).all()


# images --------------------------------------------------------------------------------------------------------------


def test_images_are_those_of_their_formulas() -> None:
    x = uniform(2, 1, 4, 5)
    assert Brightness(x, 0.2).contains(x - 0.2).all() and not Brightness(x, 0.2).contains(x + 0.2001).any()
    light = Contrast(x, torch.tensor([0.1, 0.3]), pivot=0.25)
    assert light.contains(0.25 + 0.8 * (x - 0.25)).tolist() == [False, True]
    assert Contrast(x, 0.1, (0, 1)).pivot == 0.5 and Contrast(x, 0.1).pivot == 0.0
    both = BrightnessContrast(x, 0.1, 0.2, pivot=0.5)
    assert both.contains(0.5 + 1.2 * (x - 0.5) + 0.1).all() and not both.contains(0.5 + 1.2 * (x - 0.5) + 0.11).any()
    fields = smooth_fields(4, 5, 2)
    assert fields.shape == (6, 4, 5) and float(fields.abs().max()) <= 1.0
    field = torch.einsum("k,khw->hw", torch.tensor([1.0, -1, 1, 0.5, -1, 0.0]).double() * 0.3 / 6, fields)
    assert BiasField(x, 0.3).contains(x + field).all() and not BiasField(x, 0.29).contains(x + 1.2 * field).any()
    assert BiasField(x, 0.3, multiplicative=True).contains(x * (1 + field)).all()
    low, high = BiasField(x, 0.3).box()
    assert (low >= x - 0.3 - 1e-6).all() and (high <= x + 0.3 + 1e-6).all()
    own = LinearImages(x, fields.reshape(1, 6, 1, 4, 5).expand(2, -1, -1, -1, -1), 0.3 / 6)
    torch.testing.assert_close(own.box()[1], high)


def test_a_clipped_image_with_both_ends_of_the_range_cannot_change() -> None:
    x = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]]])
    low, high = Brightness(x, 0.3, (0, 1)).box()
    assert float((high - low).max()) < 8 * TAU
    low, high = Brightness(x, 0.3).box()
    assert float((high - low).min()) > 0.6


def test_select_and_shared_directions() -> None:
    sets = Brightness(uniform(4, 1, 2, 2), torch.tensor([0.0, 0.1, 0.2, 0.3], dtype=torch.float64), (0, 1))
    assert len(sets.generators) == 1
    for index in (
        torch.tensor([2, 0, 0]),
        torch.tensor([True, False, True, False]),
        torch.tensor([], dtype=torch.int64),
    ):
        part = sets.select(index)
        assert type(part) is Brightness and torch.equal(part.center(), sets.center()[index])
        assert torch.equal(part.box()[1], sets.box()[1][index]) and part.contains(part.center()).all()
    assert sets.select(torch.tensor([1])).describe() == {
        "kind": "brightness", "eps": 0.1, "clip": (0.0, 1.0), "rounding": TAU,
    }  # fmt: skip
    moved = sets.to(torch.device("cpu"))
    assert moved.describe() == sets.describe() and torch.equal(moved.box()[0], sets.box()[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Zonotope(torch.zeros(2, 3), torch.zeros(2, 3)), "needs a center"),
        (lambda: Zonotope(torch.zeros(2, 3), torch.zeros(3, 1, 3)), "generators must be"),
        (lambda: Zonotope(torch.zeros(2, 3), torch.zeros(2, 0, 3)), "generators must be"),
        (lambda: Zonotope(torch.zeros(1, 1), torch.full((1, 1, 1), torch.nan)), "NaN"),
        (lambda: Zonotope(torch.zeros(1, 1), torch.ones(1, 1, 1), rounding=-1.0), "rounding"),
        (lambda: Zonotope(torch.zeros(1, 1), torch.ones(1, 1, 1), reach=torch.ones(3)), "reach"),
        (lambda: Zonotope(torch.zeros(1, 1), torch.ones(1, 1, 1), reach=-1.0), "reach"),
        (lambda: Zonotope(torch.full((1, 1), 1.5), torch.ones(1, 1, 1), (0, 1)), "valid range"),
        (lambda: Brightness(torch.zeros(1, 2, 2), -0.1), "eps"),
        (lambda: Contrast(torch.zeros(1, 2, 2), 0.1, pivot=float("nan")), "pivot"),
        (lambda: BiasField(torch.zeros(1, 4), 0.1), "images"),
        (lambda: BiasField(torch.zeros(1, 4, 4), 0.1, degree=-1), "degree"),
        (lambda: Polytope(torch.ones(1, 1, 3), torch.ones(1, 1), torch.ones(1, 3), torch.zeros(1, 3)), "empty"),
        (lambda: Polytope(torch.ones(1, 3), torch.ones(1, 1), torch.zeros(1, 3), torch.ones(1, 3)), "rows a"),
        (lambda: Polytope(torch.ones(1, 2, 3), torch.ones(1, 1), torch.zeros(1, 3), torch.ones(1, 3)), "limit per row"),
        (lambda: Polytope(torch.ones(2, 1, 3), torch.ones(1, 1), torch.zeros(1, 3), torch.ones(1, 3)), "batch size"),
        (
            lambda: Polytope(torch.ones(1, 1, 3), torch.tensor([[1.0], [-1.0]]), torch.zeros(2, 3), torch.ones(2, 3)),
            "example 1",
        ),
        (
            lambda: Polytope(
                torch.ones(1, 1, 3), torch.ones(1, 1), torch.zeros(1, 3), torch.ones(1, 3), nominal=torch.ones(1, 3)
            ),
            "nominal",
        ),
    ],
)  # fmt: skip
def test_unusable_sets(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_interior_point_on_programs_with_known_answers() -> None:
    """max y over y <= 1/4; the point of a line nearest to a target; no rows at all."""
    rows, q = torch.ones(1, 1, 1, dtype=torch.float64), torch.tensor([[[2.0]]], dtype=torch.float64)
    y, multipliers = minimise(FewRows(rows), q, torch.tensor([[0.25]], dtype=torch.float64))
    torch.testing.assert_close(y.item(), 0.25, rtol=0, atol=1e-9)
    torch.testing.assert_close(multipliers.item(), 2.0, rtol=0, atol=1e-9)
    matrix = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    y, _ = minimise(
        FewVariables(torch.ones(1, 1, 2).double(), matrix), torch.ones(1, 1, 2).double(), torch.tensor([[0.5]]).double()
    )
    torch.testing.assert_close(y[0, 0], torch.tensor([0.25, 0.25]).double(), rtol=0, atol=1e-9)
    y, _ = minimise(
        FewVariables(torch.zeros(1, 0, 2).double(), matrix), torch.tensor([[[3.0, 0.5]]]).double(), q[0, :, :0]
    )
    torch.testing.assert_close(y[0, 0], torch.tensor([1.0, 0.5]).double(), rtol=0, atol=1e-6)


# end to end ----------------------------------------------------------------------------------------------------------


def network(inputs: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    last = nn.Linear(6, 3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), last)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
        last.bias -= model(uniform(200, inputs, seed=seed).float()).mean(0)  # no class wins everywhere
    return model


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_verdicts_about_brightness_agree_with_a_scan(clip: tuple[float, float] | None) -> None:
    """The set has one dimension: its members are scanned."""
    seen = set()
    for seed in range(4):
        model, x = network(9, seed).eval(), 0.2 + 0.5 * uniform(6, 1, 3, 3, seed=seed).float()
        sets = Brightness(x, torch.tensor([0.02, 0.1, 0.3, 0.5, 0.7, 1.0]), clip)
        label = model(x).argmax(1)
        result = verify(model, x, label=label, input_set=sets, stages=STAGES)
        for i, verdict in enumerate(result.verdict):
            b = torch.linspace(-float(sets.reach[i, 0]), float(sets.reach[i, 0]), 4001)
            images = x[i] + b.reshape(-1, 1, 1, 1)
            if clip is not None:
                images = images[((images >= clip[0]) & (images <= clip[1])).flatten(1).all(1)]
            changes = bool((model(images).argmax(1) != label[i]).any())
            assert not (changes and verdict is Verdict.VERIFIED)
            point = result.counterexample[i]
            if verdict is Verdict.FALSIFIED:
                assert point is not None and sets.select(torch.tensor([i])).contains(point.unsqueeze(0)).all()
            seen.add((verdict, changes))
    assert (Verdict.VERIFIED, False) in seen and (Verdict.FALSIFIED, True) in seen


@pytest.mark.parametrize("kind", ["zonotope", "polytope", "bias field"])
def test_verdicts_agree_with_samples(kind: str) -> None:
    seen = set()
    for seed in range(4):
        model, x = network(9, seed).eval(), uniform(2, 1, 3, 3, seed=seed).float()
        size = (0.02, 0.2, 0.6, 1.0)[seed]
        sets: InputSet
        if kind == "zonotope":
            sets = Zonotope(x, size * normal(2, 3, 1, 3, 3, seed=seed))
        elif kind == "polytope":
            a = normal(2, 2, 1, 3, 3, seed=seed)
            b = (a * x.unsqueeze(1)).flatten(2).sum(2) + 0.1 * size
            sets = Polytope(a, b, x.double() - size, x.double() + size, nominal=x)
        else:
            sets = BiasField(x, size)
        label = model(x).argmax(1)
        result = verify(model, x, label=label, input_set=sets, stages=STAGES)
        points = torch.stack([sets.sample(torch.Generator().manual_seed(s)) for s in range(100)]).float()
        changes = (model(points.flatten(0, 1)).argmax(1).unflatten(0, (100, 2)) != label).any(0)
        for i, verdict in enumerate(result.verdict):
            assert not (changes[i] and verdict is Verdict.VERIFIED)
            if verdict is Verdict.FALSIFIED:
                point = result.counterexample[i]
                assert point is not None and sets.select(torch.tensor([i])).contains(point.unsqueeze(0)).all()
            seen.add(verdict)
    assert {Verdict.VERIFIED, Verdict.FALSIFIED} <= seen


def test_rows_that_are_wanted_are_those_of_all() -> None:
    """Bounds of some rows of some examples: the same, and the box alone is never below."""
    for inputs in Polytope.examples():
        form = Dense(normal(inputs.batch, 7, *inputs.shape, seed=3))
        wanted = torch.rand(inputs.batch, 7, generator=torch.Generator().manual_seed(1)) < 0.5
        every, some = inputs.support(form), inputs.support_where(form, wanted)
        torch.testing.assert_close(some[wanted], every[wanted], rtol=1e-9, atol=1e-9)
        assert (inputs.outer().support(form) >= every - 1e-12).all()
        assert inputs.support_where(form, torch.zeros_like(wanted)).shape == wanted.shape


@pytest.mark.parametrize("small", [1e-4, 1e-8, 1e-10, 1e-14, 1e-20])
def test_large_multipliers_pay_for_what_they_cancel(small: float) -> None:
    """A row that all but forgets one entry: bounding that entry takes a multiplier of 1 / small."""
    lower = torch.arange(1.0, 12.0, dtype=torch.float64).reshape(1, 11) / 8
    upper = lower + 1
    lower[0, -1], upper[0, -1] = 0.0, 1.0
    a = torch.ones(1, 1, 11, dtype=torch.float64)
    a[..., -1] = small
    b = lower[:, :-1].sum(1, keepdim=True)  # exact: eighths
    polytope = Polytope(a, b, lower, upper, lower)  # the last entry is 0 on all of it
    c = torch.zeros(1, 2, 11, dtype=torch.float64)
    c[0, 0, -1], c[0, 1, -1] = 1.0, -1.0
    assert (polytope.support(Dense(c)) >= 0).all()
