"""Wasserstein balls against linear and quadratic programs over all their plans, written down pixel by pixel."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, linprog, minimize
from torch import Tensor

from properties import Box, InputSet, WassersteinBall, optimal_transport, robustness
from properties.wasserstein.cut import MassWindow
from properties.wasserstein.moves import Moves
from properties.wasserstein.sinkhorn import lambert_of_exp, repaired
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.forms import Dense
from verifier.forms.patches import Patches, PatchGrid
from verifier.graph.torch_import import import_torch
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.ascent import Schedule
from verifier.stages import optimised
from verifier.stages.dual import DualStage
from verifier.stages.optimised import OptimisedDualStage

Route = tuple[int, int, float]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def image(*shape: int, seed: int = 0) -> Tensor:
    """Pixels in [0, 1], some empty and some full, as in a digit."""
    return (2.2 * torch.rand(*shape, generator=generator(seed), dtype=torch.float64) - 0.6).clamp(0, 1)


def routes(shape: tuple[int, ...], cost: np.ndarray) -> list[Route]:
    """Every (source, target, cost) of an image [C, H, W], by enumeration."""
    channels, height, width = shape
    r = len(cost) // 2
    found = []
    for c, i, j in itertools.product(range(channels), range(height), range(width)):
        for p, q in itertools.product(range(height), range(width)):
            if abs(p - i) <= r and abs(q - j) <= r:
                place = [(c * height + a) * width + b for a, b in ((i, j), (p, q))]
                found.append((place[0], place[1], float(cost[p - i + r, q - j + r])))
    return found


def euclidean(window: int) -> np.ndarray:
    r = window // 2
    return np.array([[math.hypot(a, b) for b in range(-r, r + 1)] for a in range(-r, r + 1)])


def rows_and_columns(ways: list[Route], n: int) -> tuple[np.ndarray, np.ndarray]:
    """[n, R] each: what leaves, and what arrives at, every pixel."""
    leaves, arrives = np.zeros((n, len(ways))), np.zeros((n, len(ways)))
    for k, (source, target, _) in enumerate(ways):
        leaves[source, k] = arrives[target, k] = 1
    return leaves, arrives


def most(c: Tensor, x: Tensor, eps: float, cost: np.ndarray, cap: float | None = None) -> float:
    """max c . z over the plans of x, all [C, H, W], by a linear program."""
    ways = routes(tuple(x.shape), cost)
    leaves, arrives = rows_and_columns(ways, x.numel())
    under, limit = [np.array([w[2] for w in ways])], [eps * float(x.sum())]
    if cap is not None:
        under, limit = [*under, *arrives], [*limit, *[cap] * x.numel()]
    result = linprog(-(c.flatten().numpy() @ arrives), np.array(under), limit, leaves, x.flatten().numpy())
    assert result.status == 0
    return -float(result.fun)


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("eps", [0.0, 0.05, 0.4, 5.0])
def test_support_is_the_maximum_over_plans(window: int, eps: float) -> None:
    x, c = image(2, 2, 3, 4), normal(2, 6, 2, 3, 4)
    support = WassersteinBall(x, eps, window=window, rounding=0.0).support(Dense(c))
    for b, s in itertools.product(range(2), range(6)):
        assert abs(float(support[b, s]) - most(c[b, s], x[b], eps, euclidean(window))) < 1e-6


def test_support_with_any_cost() -> None:
    """Not symmetric, and free one way."""
    cost = torch.tensor([[9.0, 2.0, 4.0], [0.0, 0.0, 1.0], [0.5, 3.0, 9.0]])
    x, c = image(1, 1, 4, 4, seed=3), normal(1, 8, 1, 4, 4)
    for eps in (0.0, 0.1, 0.5):
        support = WassersteinBall(x, eps, cost=cost, rounding=0.0).support(Dense(c))
        for s in range(8):
            assert abs(float(support[0, s]) - most(c[0, s], x[0], eps, cost.numpy())) < 1e-6


@pytest.mark.parametrize("eps", [0.05, 0.2, 0.6])
def test_support_with_full_pixels_is_near_the_maximum(eps: float) -> None:
    """Above it always; and what prices of full pixels are for is that it is much nearer than without."""
    x, c = image(2, 1, 6, 6, seed=4), normal(2, 8, 1, 6, 6, seed=5)
    ball = WassersteinBall(x, eps, (0.0, 1.0), rounding=0.0)
    capped, free = ball.support(Dense(c)), WassersteinBall(x, eps, rounding=0.0).support(Dense(c))
    values = [[most(c[b, s], x[b], eps, euclidean(5), 1.0) for s in range(8)] for b in range(2)]
    best = torch.tensor(values, dtype=torch.float64)
    assert (capped >= best - 1e-9).all() and (capped <= free + 1e-9).all()
    assert (capped - best).sum() < 0.25 * (free - best).sum()


def test_full_images_cannot_change_under_a_cap() -> None:
    ball = WassersteinBall(torch.ones(1, 1, 5, 5), 3.0, (0.0, 1.0), rounding=0.0)
    c = normal(1, 5, 1, 5, 5)
    best = c.flatten(2).sum(2)
    assert (
        ball.support(Dense(c)) - best < 0.25 * (WassersteinBall(torch.ones(1, 1, 5, 5), 3.0).support(Dense(c)) - best)
    ).all()


def patches(seed: int = 0, batch: int = 1, positions: int = 1) -> Patches:
    """Rows of a 3 x 3 convolution with stride 2 and padding 1 over images [2, 8, 7]."""
    grid = PatchGrid((4, 4), (3, 3), (2, 2), (1, 1))
    return Patches(normal(batch, positions, 5, 2, 3, 3, seed=seed), grid, (2, 8, 7))


@pytest.mark.parametrize("form", [patches(), patches(1, 3, 16)], ids=["one kernel", "kernels of their own"])
def test_windows_give_what_whole_rows_give(form: Patches) -> None:
    x = image(3, 2, 8, 7)
    x[1, :, :5] = 0  # windows without any mass
    for eps in (0.01, torch.tensor([0.0, 0.1, 1.0])):
        ball = WassersteinBall(x, eps, window=5)
        torch.testing.assert_close(ball.support(form), ball.support(Dense(form.dense().expand(3, -1, -1, -1, -1))))
        full = WassersteinBall(x, eps, (0, 1)).support(form)
        assert (full <= ball.support(form) + 1e-12).all()
    b, s = 2, 7
    best = most(form.dense()[-1, s], x[b], 1.0, euclidean(5), 1.0)
    assert float(full[b, s]) >= best - 1e-9


def local_rows(batch: int = 2, seed: int = 0) -> Tensor:
    """Coefficients [batch, 8, 1, 7, 8] that are 0 but in a 3 x 3 window per row, one of them nowhere."""
    c, place = torch.zeros(batch, 8, 1, 7, 8, dtype=torch.float64), torch.Generator().manual_seed(seed)
    for b, s in itertools.product(range(batch), range(7)):
        i, j = (int(torch.randint(n, (1,), generator=place)) for n in (5, 6))
        c[b, s, 0, i : i + 3, j : j + 3] = normal(3, 3, seed=seed + 10 * s + b)
    return c


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_see_little_get_what_whole_rows_get(seed: int) -> None:
    """Where only a part of the image matters to a row, the rest is left out, soundly with a cap too."""
    x, c = image(2, 1, 7, 8, seed=seed), local_rows(seed=seed)
    x[:, :, 2:5, 2:6] = 1.0  # full pixels at the rims: mass may leave them to make room
    free, full = (WassersteinBall(x, 0.3, clip, rounding=0.0).support(Dense(c)) for clip in (None, (0, 1)))
    for b, s in itertools.product(range(2), range(8)):
        assert abs(float(free[b, s]) - most(c[b, s], x[b], 0.3, euclidean(5))) < 1e-6
        assert float(full[b, s]) >= most(c[b, s], x[b], 0.3, euclidean(5), 1.0) - 1e-7
    assert (full <= free + 1e-9).all() and (full < free - 1e-3).any()


def test_cuts_keep_what_they_take() -> None:
    x, c = image(1, 1, 7, 8), local_rows(1)[0]
    assert MassWindow.of(c, x, 2).places is None  # windows and what mass can come to them: most of so small an image
    cut = MassWindow.of(c[:5], x, 0)
    assert cut.places is not None and (cut.height, cut.width) == (3, 3)
    assert torch.equal(cut.put(cut.take(c[:5]), torch.zeros_like(c[:5])), c[:5])
    assert torch.equal(cut.put(cut.take(x), x), x.expand(5, -1, -1, -1))
    empty = MassWindow.of(c, torch.zeros_like(x), 2)
    assert torch.equal(empty.put(empty.take(c), c), c)


@pytest.mark.parametrize("form", [Dense(local_rows()), patches(positions=16)], ids=["dense", "patches"])
def test_chosen_rows_and_the_outer_ball(form: Dense | Patches) -> None:
    x = image(*((2, 1, 7, 8) if isinstance(form, Dense) else (2, 2, 8, 7)), seed=1)
    ball = WassersteinBall(x, torch.tensor([0.0, 0.3]), (0, 1))
    wanted = torch.rand(2, form.rows, generator=generator(2)) < 0.4
    every, some, outer = ball.support(form), ball.support_where(form, wanted), ball.outer()
    # searches stop when all rows of a piece are near enough, and pieces are others here
    torch.testing.assert_close(some[wanted], every.expand_as(some)[wanted], rtol=1e-5, atol=1e-6)
    assert outer is not None and outer.outer() is None
    assert (outer.support(form) >= every - 1e-12).all()
    assert ball.support_where(form, torch.zeros_like(wanted)).shape == wanted.shape


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_bounds_at_any_multipliers(clip: tuple[float, float] | None) -> None:
    x, cap = image(2, 1, 7, 8, seed=4), None if clip is None else 1.0
    x[:, :, 2:5, 2:6] = 1.0
    c = torch.cat([local_rows(), normal(2, 3, 1, 7, 8)], 1)
    ball = WassersteinBall(x, 0.2, clip, rounding=0.0)
    values = [[most(c[b, s], x[b], 0.2, euclidean(5), cap) for s in range(11)] for b in range(2)]
    best = torch.tensor(values, dtype=torch.float64)
    found = ball.multipliers(Dense(c))
    for seed in range(4):
        any_ = found + 0.5 * seed * normal(*found.shape, seed=seed)
        assert (ball.support_at(Dense(c), any_) >= best - 1e-7).all()
    for part in (slice(0, 8), slice(8, None)):  # rows with windows of their own, and whole ones
        form = Dense(c[:, part])
        at = ball.support_at(form, ball.multipliers(form))
        by_box = -Box(*ball.box()).minimum(form.times(-1.0))
        at = at if clip is None else torch.minimum(at, by_box)
        torch.testing.assert_close(at, ball.support(form), rtol=1e-5, atol=1e-6)
    again = ball.support_at(Dense(c), ball.multipliers(Dense(c), found))  # not worse for having been there before
    once = ball.support_at(Dense(c), found)
    assert (again >= best - 1e-7).all() and (again - best).sum() <= 1.2 * (once - best).sum() + 1e-5


def test_bounds_at_multipliers_have_gradients() -> None:
    """They are convex in the form, with an image as gradient."""
    ball, c = WassersteinBall(image(2, 1, 5, 5), 0.2, (0, 1)), normal(2, 4, 1, 5, 5).requires_grad_()
    at = ball.multipliers(Dense(c))
    assert not at.requires_grad
    value = ball.support_at(Dense(c), at)
    (gradient,) = torch.autograd.grad(value.sum(), c)
    for seed in range(3):
        other = normal(2, 4, 1, 5, 5, seed=20 + seed)
        line = value + (gradient * (other - c)).flatten(2).sum(2)
        assert (ball.support_at(Dense(other), at) >= line - 1e-9).all()


def test_optimised_bounds_are_about_those_without_shortcuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ascents by multipliers that stay for some steps end near those that search for them in every one."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, 2, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(48, 8), torch.nn.ReLU(),
        torch.nn.Linear(8, 3),
    ).double().eval()  # fmt: skip
    for name in ("ROWS", "NEURONS"):
        monkeypatch.setattr(optimised, name, Schedule(steps=16, rate=0.25, decay=0.9))
    ball = WassersteinBall(image(1, 1, 8, 8, seed=9), 0.2, (0, 1))
    graph = import_torch(model, ball.center()).to(dtype=torch.float64)
    query = Query(graph, ball, robustness(torch.tensor([0]), 3), torch.ones(1, 2, dtype=torch.bool))
    quick = OptimisedDualStage().run(query, Bounds(), Budget()).lower
    rough = DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget()).lower
    monkeypatch.setattr(WassersteinBall, "outer", InputSet.outer)
    monkeypatch.setattr(WassersteinBall, "multipliers", InputSet.multipliers)
    slow = OptimisedDualStage().run(query, Bounds(), Budget()).lower
    assert quick is not None and slow is not None and rough is not None
    assert (quick >= rough - 1e-9).all() and (slow > rough + 1e-3).any()
    assert ((quick - rough) >= 0.8 * (slow - rough) - 1e-6).all()


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_support_is_above_members_and_minimum_below(clip: tuple[float, float] | None) -> None:
    ball = WassersteinBall(image(3, 1, 5, 5), torch.tensor([0.0, 0.1, 1.5]), clip)
    form = Dense(normal(3, 9, 1, 5, 5))
    low, high = ball.range(form)
    for seed in range(10):
        z = ball.sample(generator(seed))
        assert (form.dot(z) <= high + 1e-12).all() and (form.dot(z) >= low - 1e-12).all()
        z = ball.project(z + normal(3, 1, 5, 5, seed=seed))
        assert (form.dot(z) <= high + 1e-12).all() and (form.dot(z) >= low - 1e-12).all()


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_support_is_differentiable(clip: tuple[float, float] | None) -> None:
    """Its gradient is a maximising image; the value does not depend on whether there is one."""
    ball = WassersteinBall(image(2, 1, 4, 5), torch.tensor([0.2, 0.5]), clip)
    c = normal(2, 4, 1, 4, 5).requires_grad_()
    value = ball.support(Dense(c))
    torch.testing.assert_close(value.detach(), ball.support(Dense(c.detach())))
    (gradient,) = torch.autograd.grad(value.sum(), c)
    way = normal(2, 4, 1, 4, 5, seed=8)
    moved = ball.support(Dense(c.detach() + 1e-6 * way)), ball.support(Dense(c.detach() - 1e-6 * way))
    slope = (gradient * way).flatten(2).sum(2)
    if clip is None:
        torch.testing.assert_close((moved[0] - moved[1]) / 2e-6, slope, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close((gradient * c).flatten(2).sum(2), value, rtol=1e-6, atol=1e-6)
    else:
        assert gradient.isfinite().all() and (gradient.flatten(2).sum(2) > 0).all()


def test_support_in_float32() -> None:
    x, c = image(2, 1, 6, 6).float(), normal(2, 7, 1, 6, 6)
    for clip in (None, (0, 1)):
        ball = WassersteinBall(x, 0.3, clip)
        wide, narrow = ball.support(Dense(c)), ball.support(Dense(c.float()))
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow.double(), wide, rtol=1e-2 if clip else 1e-3, atol=1e-3)
        for b, s in ((0, 1), (1, 4)):
            assert float(narrow[b, s]) >= most(c[b, s], x[b].double(), 0.3, euclidean(5), 1.0 if clip else None) - 1e-5


@pytest.mark.parametrize("eps", [0.0, 0.03, 0.5])
def test_box_is_the_hull(eps: float) -> None:
    x = image(1, 1, 3, 4)
    low, high = WassersteinBall(x, eps, rounding=0.0).box()
    for k in range(12):
        unit = torch.zeros(12, dtype=torch.float64)
        unit[k] = 1
        top = most(unit.reshape(1, 3, 4), x[0], eps, euclidean(5))
        bottom = -most(-unit.reshape(1, 3, 4), x[0], eps, euclidean(5))
        assert -1e-12 <= float(high.flatten()[k]) - top + 1e-10 < 1e-9
        assert -1e-12 <= bottom + 1e-10 - float(low.flatten()[k]) < 1e-9
    capped = WassersteinBall(x, eps, (0, 1)).box(torch.float32)
    assert (capped[1] <= 1).all() and (capped[0] >= 0).all() and capped[0].dtype == torch.float32


def moved(x: Tensor, source: tuple[int, int], target: tuple[int, int], amount: float) -> Tensor:
    z = x.clone()
    z[0, 0, source[0], source[1]] -= amount
    z[0, 0, target[0], target[1]] += amount
    return z


def test_members_are_told_from_others() -> None:
    x = torch.full((1, 1, 6, 6), 0.5, dtype=torch.float64)
    ball = WassersteinBall(x, 0.25 * math.sqrt(2) / 18)  # 0.25 of mass may move by (1, 1)
    inside = [x, moved(x, (1, 1), (2, 2), 0.2499), moved(x, (1, 1), (1, 2), 0.353), x + 2.0**-24, x - 2.0**-24]
    outside = [
        moved(x, (1, 1), (2, 2), 0.2501), moved(x, (1, 1), (1, 2), 0.3537), moved(x, (1, 1), (1, 3), 0.18),
        x + 2.0**-23, moved(x, (1, 1), (2, 2), 0.6), torch.full_like(x, torch.nan),
    ]  # fmt: skip
    assert all(ball.contains(z).all() for z in inside)
    assert not any(ball.contains(z).any() for z in outside)
    # beyond the window no mass goes, however much it may cost
    dot = torch.zeros(1, 1, 6, 6)
    dot[0, 0, 0, 0] = 0.5
    assert not WassersteinBall(dot, 9.0).contains(moved(dot, (0, 0), (0, 3), 0.1)).any()
    assert WassersteinBall(dot, 9.0).contains(moved(dot, (0, 0), (0, 2), 0.1)).all()


def test_mass_stays_in_its_channel_and_below_the_cap() -> None:
    x = torch.full((1, 2, 3, 3), 0.5)
    across = x.clone()
    across[0, 0, 0, 0], across[0, 1, 0, 0] = 0.4, 0.6
    assert not WassersteinBall(x, 5.0).contains(across).any()
    heap = moved(moved(x, (0, 0), (1, 1), 0.3), (0, 1), (1, 1), 0.3)
    assert WassersteinBall(x, 1.0).contains(heap).all()
    assert not WassersteinBall(x, 1.0, (0, 1)).contains(heap).any()
    assert not WassersteinBall(x, 1.0, (0, 1)).contains(heap.clamp(max=1)).any()  # the mass is gone


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_members_stay_members_when_written(clip: tuple[float, float] | None, dtype: torch.dtype) -> None:
    x = image(2, 1, 6, 6, seed=2).float() * (0.4 if clip is None else 1.0)  # a heap above 1 is too coarse in float32
    ball = WassersteinBall(x, torch.tensor([0.02, 0.7]), clip)
    for seed in range(4):
        for z in (ball.sample(generator(seed)), ball.project(ball.center() + 0.2 * normal(2, 1, 6, 6, seed=seed))):
            y = ball.inside(z, dtype)
            assert y.dtype == dtype and (y <= 1).all() and ball.contains(y).all()


def test_distance_of_a_known_pair() -> None:
    x = torch.zeros(2, 1, 5, 5)
    x[0, 0, 2, 2], x[1, 0, 0, 0] = 0.5, 1.0
    z = torch.stack([moved(x[:1], (2, 2), (0, 1), 0.25)[0], moved(x[1:], (0, 0), (3, 0), 0.5)[0]])
    distance = optimal_transport(x, z)
    assert abs(float(distance[0]) - 0.5 * math.sqrt(5)) < 1e-6 and distance[1].isinf()
    assert abs(float(optimal_transport(x, z, window=7)[1]) - 1.5) < 1e-6
    ball = WassersteinBall(x, float(distance[0]) + 1e-6)
    assert ball.contains(z).tolist() == [True, False]


def nearest(w: Tensor, x: Tensor, eps: float, cap: float | None) -> Tensor:
    """The Euclidean projection, by a general solver on all plans."""
    ways = routes(tuple(x.shape), euclidean(3))
    leaves, arrives = rows_and_columns(ways, x.numel())
    point, mass = w.flatten().numpy(), x.flatten().numpy()
    price = np.array([way[2] for way in ways])
    start = np.array([mass[s] if s == t else 0.0 for s, t, _ in ways])
    limits = [LinearConstraint(leaves, mass, mass), LinearConstraint(price[None], -np.inf, eps * mass.sum())]
    if cap is not None:
        limits.append(LinearConstraint(arrives, -np.inf, cap))
    result = minimize(
        lambda p: 0.5 * ((arrives @ p - point) ** 2).sum(), start, jac=lambda p: arrives.T @ (arrives @ p - point),
        bounds=[(0, None)] * len(ways), constraints=limits, method="SLSQP", options={"maxiter": 300, "ftol": 1e-12},
    )  # fmt: skip
    return torch.from_numpy(arrives @ result.x).reshape(x.shape)


@pytest.mark.parametrize("cap", [None, 1.0])
@pytest.mark.parametrize("eps", [0.02, 0.1, 1.0])
def test_projection_is_near_the_nearest_member(eps: float, cap: float | None) -> None:
    x = image(3, 1, 3, 3, seed=7)
    ball = WassersteinBall(x, eps, None if cap is None else (0.0, cap), window=3, sharpness=1e4)
    w = x + 0.4 * normal(3, 1, 3, 3, seed=1)
    z = ball.project(w)
    for b in range(3):
        best = nearest(w[b], x[b], eps, cap)
        far = float((w[b] - x[b]).norm())
        assert float((w[b] - z[b]).norm()) <= float((w[b] - best).norm()) + 0.03 * far
        assert float((w[b] - z[b]).norm()) >= float((w[b] - best).norm()) - 1e-5
        assert ball.contains(ball.inside(z, torch.float64)).all()


def test_lambert() -> None:
    t = torch.tensor([-800.0, -30.0, -1.0, 0.0, 0.5, 1.0, 1.001, 2.0, 10.0, 700.0, 1e6], dtype=torch.float64)
    w = lambert_of_exp(t)
    torch.testing.assert_close((w + w.log())[1:], t[1:], rtol=1e-12, atol=1e-12)
    assert w[0] == 0


def test_repaired_plans_are_plans() -> None:
    """Whatever plan is asked for: rows add up to x, the budget and the cap hold, nothing is negative."""
    moves = Moves.euclidean(5)
    x = image(4, 2, 6, 6, seed=1)
    budget = torch.tensor([0.0, 0.1, 3.0, 1e3], dtype=torch.float64)
    for seed in range(5):
        asked = normal(4, 2, 6, 6, 5, 5, seed=seed) * moves.neighbours(torch.ones_like(x))
        for cap in (None, 1.0):
            plan = repaired(asked, x, budget, moves, cap)
            assert (plan >= 0).all() and (moves.spent(plan) <= budget + 1e-12).all()
            torch.testing.assert_close(plan.sum((-2, -1)), x, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(moves.arrivals(plan).flatten(1).sum(1), x.flatten(1).sum(1))
            assert cap is None or (moves.arrivals(plan) <= cap + 1e-9).all()
            assert (moves.spent(plan)[2:] > 0.1).all()  # it does move


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_separation_cuts_off_what_is_outside(clip: tuple[float, float] | None) -> None:
    """Without a cap the cut is as deep as the l1 distance from the ball."""
    x = image(3, 1, 4, 4, seed=6)
    ball = WassersteinBall(x, 0.1, clip, rounding=0.0)
    for seed in range(3):
        z = x + 0.2 * normal(3, 1, 4, 4, seed=seed)
        z = z if clip is None else z.clamp(*clip)
        a = ball.separate(z)
        assert a.abs().max() <= 1 + 1e-9
        depth = (a * z).flatten(1).sum(1) - ball.support(Dense(a.unsqueeze(1)))[:, 0]
        assert (depth > 1e-3).all()
        if clip is None:
            near = ball.project(z)
            assert (depth <= (z - near).abs().flatten(1).sum(1) + 1e-9).all()
    member = ball.sample(generator(1))
    a = ball.separate(member)
    assert ((a * member).flatten(1).sum(1) <= ball.support(Dense(a.unsqueeze(1)))[:, 0] + 1e-9).all()


def test_attack_steps_climb() -> None:
    """Projected steepest ascent comes near the maximum of a linear function."""
    ball = WassersteinBall(image(2, 1, 6, 6, seed=3), 0.2, sharpness=1e4)
    c = normal(2, 1, 1, 6, 6, seed=2)
    x = ball.center()
    start, top = Dense(c).dot(x)[:, 0], ball.support(Dense(c))[:, 0]
    for _ in range(15):
        x = ball.project(x + ball.steepest_ascent(x, c[:, 0], 0.3))
    assert ((Dense(c).dot(x)[:, 0] - start) > 0.4 * (top - start)).all()


def test_images_without_mass_stay() -> None:
    ball = WassersteinBall(torch.zeros(1, 1, 4, 4), 1.0, (0, 1))
    form = Dense(normal(1, 3, 1, 4, 4))
    assert (ball.support(form) <= 2.0**-24 * form.coefficients.abs().flatten(2).sum(2) + 1e-15).all()
    assert ball.contains(ball.project(torch.ones(1, 1, 4, 4))).all() and ball.contains(ball.sample()).all()
    assert float(ball.box()[1].max()) == 2.0**-24


def test_selection_and_description() -> None:
    ball = WassersteinBall(image(3, 1, 4, 4), torch.tensor([0.1, 0.2, 0.3]), (0, 1), window=3)
    part = ball.select(torch.tensor([False, True, True]))
    form = Dense(normal(3, 4, 1, 4, 4))
    torch.testing.assert_close(part.support(Dense(form.coefficients[1:])), ball.support(form)[1:])
    assert torch.equal(part.box()[0], ball.box()[0][1:]) and part.batch == 2
    assert torch.equal(ball.to(torch.device("cpu")).support(form), ball.support(form))
    told = json.loads(json.dumps(part.describe()))
    assert told["kind"] == "wasserstein" and told["window"] == 3 and told["cost"] == "euclidean"
    assert isinstance(WassersteinBall.around(image(1, 1, 3, 3), 0.1, (0, 1)), WassersteinBall)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WassersteinBall(torch.zeros(2, 3), 0.1), "batch, channels"),
        (lambda: WassersteinBall(torch.full((1, 1, 2, 2), -0.1), 0.1), "negative"),
        (lambda: WassersteinBall(torch.full((1, 1, 2, 2), torch.nan), 0.1), "NaN"),
        (lambda: WassersteinBall(torch.ones(1, 1, 2, 2), -0.1), "eps"),
        (lambda: WassersteinBall(torch.ones(1, 1, 2, 2), 0.1, (0.5, 1.0)), "clip must start"),
        (lambda: WassersteinBall(torch.ones(1, 1, 2, 2), 0.1, (0.0, 0.5)), "valid range"),
        (lambda: WassersteinBall(torch.ones(1, 1, 2, 2), 0.1, window=4), "odd"),
        (lambda: WassersteinBall(torch.ones(1, 1, 2, 2), 0.1, cost=torch.zeros(3, 5)), "square"),
        (lambda: WassersteinBall(torch.ones(1, 1, 2, 2), 0.1, cost=-torch.ones(3, 3)), ">= 0"),
        (lambda: WassersteinBall(torch.ones(1, 1, 2, 2), 0.1, cost=torch.ones(3, 3)), "centre"),
        (lambda: WassersteinBall(torch.ones(1, 1, 2, 2), 0.1, rounding=-1.0), "rounding"),
        (lambda: WassersteinBall(torch.ones(1, 1, 2, 2), 0.1, sharpness=0.0), "sharpness"),
    ],
)
def test_unusable_arguments(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
