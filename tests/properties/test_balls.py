"""l2 and l1 balls against closed forms, scipy and rational arithmetic; norms and windows of linear forms."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor, nn

from properties import InputSet, L1Ball, L2Ball, LinfBall
from properties.lp_ball import Ball
from verifier import Verdict, verify
from verifier.forms import ConvolvedPatches, Dense, Identity, LinearForm, Patches, Selected
from verifier.forms.patches import PatchGrid

KINDS = {2: L2Ball, 1: L1Ball}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def forms(batch: int = 2) -> dict[str, LinearForm]:
    """Every structure on a node of shape [2, 6, 5]."""
    grid = PatchGrid((3, 2), (4, 3), (2, 2), (1, 1))
    shape, like = (2, 6, 5), torch.zeros((), dtype=torch.float64)
    shared = Patches(normal(1, 1, 3, 2, 4, 3), grid, shape)
    outer = Patches(normal(1, 1, 2, 4, 2, 2), PatchGrid((2, 2), (2, 2), (1, 1), (0, 0)), (4, 3, 3))
    convolved = ConvolvedPatches(outer.scale(uniform(batch, 4, 3, 3)), normal(4, 2, 3, 3), (2, 2), (1, 1), shape)
    return {
        "dense": Dense(normal(batch, 7, *shape)),
        "identity": Identity(shape, like),
        "diagonal": Identity(shape, like).scale(normal(batch, *shape)),
        "selected": Selected(torch.tensor([[3, 0, 3], [1, 59, 4]]), shape, like),
        "patches": shared,
        "scaled patches": shared.scale(normal(batch, *shape)),
        "patches of each example": Patches(normal(batch, 6, 3, 2, 4, 3), grid, shape),
        "convolved": convolved,
        "a zero kernel": shared.times(0.0),
    }


@pytest.mark.parametrize("name", list(forms()))
def test_norms_of_forms_are_those_of_their_coefficients(name: str) -> None:
    form = forms()[name]
    dense = form.dense().flatten(2)
    for p in (2, math.inf):
        expected = torch.linalg.vector_norm(dense, p, dim=2)
        torch.testing.assert_close(form.norm(p).expand_as(expected), expected, rtol=1e-12, atol=1e-12)
        half = forms()[name].abs().times(0.25)
        low, high = form.envelope_norm(half, p)
        for found, sign in ((low, -1), (high, 1)):
            expected = torch.linalg.vector_norm(dense + sign * half.dense().flatten(2), p, dim=2)
            torch.testing.assert_close(found.expand_as(expected), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", list(forms()))
@pytest.mark.parametrize("margin", [0, 1, 3])
def test_windows_hold_the_coefficients_and_their_entries(name: str, margin: int) -> None:
    form, x = forms()[name], normal(2, 2, 6, 5, seed=9)
    local = form.local(margin)
    c, there = local.entries(x)
    torch.testing.assert_close(local.rows((c * there).sum(-1)).expand(2, -1), form.dot(x).expand(2, -1))
    numbers = normal(2, form.rows, seed=4)
    widened = local.leads(numbers)
    torch.testing.assert_close(local.rows(widened + torch.zeros_like(c[..., 0])), numbers)
    each = local.per_example(torch.tensor([3.0, 5.0], dtype=torch.float64)) + torch.zeros_like(c[..., 0])
    assert set(local.rows(each)[0].tolist()) == {3.0} and set(local.rows(each)[1].tolist()) == {5.0}
    assert (local.gather(torch.ones_like(x)) != 0).any() and set(
        local.gather(torch.ones_like(x)).unique().tolist()
    ) <= {0, 1}


def test_windows_with_a_margin_see_the_neighbours() -> None:
    """One row that sees one pixel: with a margin of 1 its window holds the eight pixels around it."""
    kernel = torch.ones(1, 1, 1, 1, 1, 1, dtype=torch.float64)
    form = Patches(kernel, PatchGrid((3, 3), (1, 1), (1, 1), (0, 0)), (1, 3, 3))
    x = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(1, 1, 3, 3)
    window = form.local(1).gather(x)[0, :, 0, 0]
    assert window[4].flatten().tolist() == list(range(1, 10))
    assert window[0].flatten().tolist() == [0, 0, 0, 0, 1, 2, 0, 4, 5]


def test_norms_differentiate_also_at_zero() -> None:
    for p in (2, math.inf):
        for form in (
            Dense,
            lambda c: Patches(c.reshape(1, 1, 1, 1, 1, 3), PatchGrid((1, 1), (1, 3), (1, 1), (0, 0)), (1, 1, 3)),
        ):
            c = torch.zeros(1, 1, 3, dtype=torch.float64, requires_grad=True)
            (gradient,) = torch.autograd.grad(form(c).norm(p).sum(), c)
            assert gradient.isfinite().all()


def exact_gain(c: np.ndarray, low: np.ndarray, high: np.ndarray, eps: float, p: int) -> float:
    """max c . d over the clipped ball: a linear program for l1; for l2 the root of the length as a function of t."""
    n = len(c)
    if p == 1:
        cost = np.concatenate([-c, c])
        found = linprog(
            cost, np.ones((1, 2 * n)), [eps], bounds=list(zip(np.zeros(2 * n), [*high, *-low], strict=True))
        )
        return -found.fun
    box = np.where(c > 0, high, low)
    if np.linalg.norm(np.where(c == 0, 0, box)) <= eps:
        return float(c @ np.where(c == 0, 0, box))
    lower, upper = 0.0, 1.0
    while np.linalg.norm(np.clip(upper * c, low, high)) < eps:
        upper *= 2
    for _ in range(200):
        t = (lower + upper) / 2
        lower, upper = (t, upper) if np.linalg.norm(np.clip(t * c, low, high)) < eps else (lower, t)
    return float(c @ np.clip(lower * c, low, high))


@pytest.mark.parametrize("p", [1, 2])
@given(seed=st.integers(0, 10**6), eps=st.sampled_from([0.0, 1e-3, 0.05, 0.5, 1.5, 4.0, 100.0]))
@settings(max_examples=60, deadline=None)
def test_clipped_support_is_the_maximum(p: int, seed: int, eps: float) -> None:
    x = uniform(1, 9, seed=seed)
    x[0, :2] = torch.tensor([0.0, 1.0])
    c = normal(1, 1, 9, seed=seed + 1)
    c[0, 0, 3] = 0
    c[0, 0, 4] = c[0, 0, 5]
    ball = KINDS[p](x, eps, (0, 1))
    low, high = -x[0].numpy(), 1 - x[0].numpy()
    expected = float(c[0, 0] @ x[0]) + exact_gain(c[0, 0].numpy(), low, high, eps, p)
    found = float(ball.support(Dense(c)))
    assert found >= expected - 1e-12
    assert found <= expected + 1e-9 * (1 + abs(expected))
    assert float(ball.minimum(Dense(-c))) == -found


@pytest.mark.parametrize("p", [1, 2])
def test_support_without_a_range_is_the_dual_norm(p: int) -> None:
    x, c, eps = normal(3, 4, 5), normal(3, 6, 4, 5, seed=1), torch.tensor([0.0, 0.3, 7.0])
    ball = KINDS[p](x, eps)
    dual = torch.linalg.vector_norm(c.flatten(2), 2 if p == 2 else math.inf, dim=2)
    expected = Dense(c).dot(x) + eps.unsqueeze(1) * dual
    torch.testing.assert_close(ball.support(Dense(c)), expected)
    low, high = ball.range(Dense(c), Dense(c.abs()))
    torch.testing.assert_close(low, ball.minimum(Dense(c - c.abs())))
    torch.testing.assert_close(high, ball.support(Dense(c + c.abs())))


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
@pytest.mark.parametrize("name", list(forms()))
def test_support_of_every_structure(p: int, clip: tuple[float, float] | None, name: str) -> None:
    form = forms()[name]
    ball = KINDS[p](uniform(2, 2, 6, 5), torch.tensor([0.7, 2.0]), clip)
    dense = Dense(form.dense())
    for mine, theirs in zip(ball.range(form), ball.range(dense), strict=True):
        torch.testing.assert_close(mine, theirs.expand_as(mine), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_float32_forms_of_float64_centers(p: int, clip: tuple[float, float] | None) -> None:
    """A center that float32 does not hold is moved, and the ball around it is enclosed."""
    x, c = uniform(4, 30), normal(4, 8, 30, seed=2).float()
    ball = KINDS[p](x, torch.tensor([0.0, 1e-9, 1e-3, 2.0]), clip)
    single, exact = ball.support(Dense(c)).double(), ball.support(Dense(c.double()))
    assert (single - exact).abs().max() < 1e-4
    center, radius = ball.center_and_radius(torch.float32)
    off = (center.double() - x).flatten(1)
    length = off.norm(dim=1) if p == 2 else off.abs().sum(1)
    assert (radius.double() >= ball.eps + length).all()


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_support_differentiates(p: int, clip: tuple[float, float] | None) -> None:
    ball = KINDS[p](uniform(2, 6), 0.8, clip)
    c = normal(2, 3, 6, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: ball.support(Dense(c)), (c,), atol=1e-5)


@pytest.mark.parametrize("p", [1, 2])
@given(seed=st.integers(0, 10**6), eps=st.sampled_from([0.0, 0.05, 0.5, 2.0]), clipped=st.booleans())
@settings(max_examples=25, deadline=None)
def test_projection_is_the_nearest_point(p: int, seed: int, eps: float, clipped: bool) -> None:
    x, y = uniform(1, 5, seed=seed), 0.5 + normal(1, 5, seed=seed + 1)
    ball = KINDS[p](x, eps, (0, 1) if clipped else None)
    z = ball.project(y)
    assert ball.contains(ball.inside(z, torch.float64)).all()
    # z is nearest exactly where no member lies further along y - z: the support function says so
    away = y - z
    assert float(ball.support(Dense(away.unsqueeze(1)))) <= float((away * z).sum()) + 1e-9


@pytest.mark.parametrize("p", [1, 2])
def test_projection_keeps_members(p: int) -> None:
    ball = KINDS[p](uniform(6, 20), 0.9, (0, 1))
    for seed in range(5):
        z = ball.inside(ball.sample(generator(seed)), torch.float64)
        torch.testing.assert_close(ball.project(z), z, rtol=0, atol=1e-15)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_ascent_climbs_to_the_support(p: int, clip: tuple[float, float] | None) -> None:
    ball, gradient = KINDS[p](uniform(4, 12), 0.7, clip), normal(4, 12, seed=5)
    x = ball.center()
    for k in range(800):  # ever shorter: an entry of l1 that is at the end of its range is passed over for a step
        x = ball.project(x + ball.steepest_ascent(x, gradient, 0.2 * 0.99**k))
    top = ball.support(Dense(gradient.unsqueeze(1)))[:, 0]
    reached = (gradient * x).sum(1)
    assert (reached <= top + 1e-9).all()
    start = (gradient * ball.center()).sum(1)
    assert (reached >= start + (1 - 1e-6 if p == 2 else 0.9) * (top - start)).all()


def test_steps_of_l1_leave_out_entries_at_their_end() -> None:
    x = torch.cat([torch.ones(1, 25), torch.zeros(1, 5)], 1).double()
    ball = L1Ball(x, 3.0, (0, 1))
    step = ball.steepest_ascent(x, torch.ones(1, 30, dtype=torch.float64), 0.5)
    assert (step[0, :25] == 0).all() and (step[0, 25:] > 0).all()
    assert float(step.sum()) == pytest.approx(1.5)
    assert (ball.steepest_ascent(x, -torch.ones(1, 30, dtype=torch.float64), 0.5)[0, :25] <= 0).all()


def is_member(ball: Ball, x: Tensor) -> list[bool]:
    """In rational arithmetic."""
    found = []
    for b in range(ball.batch):
        values = [Fraction(v) for v in x[b].double().flatten().tolist()]
        center = [Fraction(v) for v in ball.center()[b].flatten().tolist()]
        total = sum(abs(v - c) ** ball.power for v, c in zip(values, center, strict=True))
        valid = ball.clip is None or all(ball.clip[0] <= v <= ball.clip[1] for v in values)
        found.append(valid and total <= Fraction(float(ball.eps[b])) ** ball.power)
    return found


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_membership_is_exact_near_the_boundary(p: int, clip: tuple[float, float] | None) -> None:
    seen = set()
    for seed in range(40):
        ball = KINDS[p](uniform(3, 7, seed=seed), torch.tensor([0.3, 1e-7, 0.05]), clip)
        direction = normal(3, 7, seed=seed + 1)
        length = ball.length(direction).unsqueeze(1)
        for factor in (1 - 2**-52, 1.0, 1 + 2**-52, 1 + 1e-9):
            point = ball.center() + direction * (ball.eps.unsqueeze(1) / length * factor)
            for x in (point, point.float()):
                expected = is_member(ball, x)
                assert ball.contains(x).tolist() == expected
                seen.update(expected)
    assert seen == {True, False}


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inside_moves_by_roundings_only(p: int, dtype: torch.dtype) -> None:
    for clip in (None, (0.0, 1.0)):
        ball = KINDS[p](uniform(8, 50).to(dtype), torch.tensor([0.0, 1e-6, 1e-3, 0.1, 0.5, 1.0, 3.0, 20.0]), clip)
        for seed in range(5):
            point = ball.project(ball.center() + 5 * normal(8, 50, seed=seed))
            x = ball.inside(point, dtype)
            assert x.dtype == dtype and ball.contains(x).all() and all(is_member(ball, x))
            assert (x.double() - point).abs().max() <= 64 * torch.finfo(dtype).eps
        far = ball.center() + 1
        assert not ball.contains(ball.inside(far, dtype))[1:4].any()  # that is no rounding


@pytest.mark.parametrize("p", [1, 2])
def test_extreme_numbers_are_decided_too(p: int) -> None:
    for center, eps in ((0.0, 1e-200), (1e200, 1e184), (0.0, 5e-324), (1.0, 2.0**-53), (0.0, 1e160)):
        ball = KINDS[p](torch.full((1, 2), center, dtype=torch.float64), eps)
        for a in (eps, eps / 2, eps * 1.5, math.nextafter(eps, math.inf)):
            x = torch.tensor([[center + a, center]], dtype=torch.float64)
            assert ball.contains(x).tolist() == is_member(ball, x)
    for bad in (math.nan, math.inf):
        assert not ball.contains(torch.full((1, 2), bad)).any()


def test_balls_nest() -> None:
    """l1 in l2 in l-infinity: supports are ordered, in the valid range as well."""
    x, c = uniform(2, 10), Dense(normal(2, 20, 10, seed=1))
    for clip in (None, (0.0, 1.0)):
        sets: list[InputSet] = [L1Ball(x, 0.4, clip), L2Ball(x, 0.4, clip), LinfBall(x, 0.4, clip)]
        supports = [s.support(c) for s in sets]
        assert (supports[0] <= supports[1] + 1e-9).all() and (supports[1] <= supports[2] + 1e-9).all()


@pytest.mark.parametrize("kind", [L1Ball, L2Ball])
def test_bad_arguments_say_what_is_wrong(kind: type[Ball]) -> None:
    for make, message in (
        (lambda: kind(torch.zeros(3), 0.1), "batch"),
        (lambda: kind(torch.zeros(2, 3), -1.0), "eps"),
        (lambda: kind(torch.full((1, 3), math.nan), 1.0), "NaN"),
        (lambda: kind(torch.full((1, 3), 2.0), 1.0, (0, 1)), "valid range"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("name", list(forms()))
def test_chosen_rows_are_those_of_all(name: str) -> None:
    """Windows of some rows of some examples only: the same numbers, in the same places."""
    form, x = forms()[name], uniform(2, 2, 6, 5)
    wanted = uniform(2, form.rows, seed=7) < 0.4
    local = form.local(1).only(wanted)
    c, there = local.entries(x)
    assert c.shape[0] == int(wanted.sum())
    expected = torch.where(wanted, form.dot(x).expand_as(wanted), 0.0)
    torch.testing.assert_close(local.rows((c * there).sum(-1)), expected)
    numbers, each = normal(2, form.rows, seed=4), torch.tensor([3.0, 5.0], dtype=torch.float64)
    assert torch.equal(local.rows(local.leads(numbers)), torch.where(wanted, numbers, 0.0))
    assert torch.equal(local.rows(local.per_example(each)), torch.where(wanted, each[:, None], 0.0))
    for kind in KINDS.values():
        ball = kind(x, torch.tensor([0.7, 2.0]), (0, 1))
        some, every = ball.support_where(form, wanted), ball.support(form)
        torch.testing.assert_close(some[wanted], every.expand_as(some)[wanted])
        outer = ball.outer()
        assert outer is not None and (outer.support(form) >= every - 1e-9).all()
    nothing = form.local().only(torch.zeros_like(wanted))
    assert torch.equal(nothing.rows(nothing.entries(x)[0].sum(-1)), torch.zeros(2, form.rows, dtype=torch.float64))


def test_coefficients_too_small_or_large_to_be_squared_decide_no_wrong_verdict() -> None:
    """Weights of 1e-13 (twice) or 1e10: their squares vanish, or overflow, in float32."""
    for scale in (1e-13, 1e-9, 1e-4, 1.0, 1e6, 1e10):
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2, bias=False)).eval()
        with torch.no_grad():
            for k, parameter in enumerate(model.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator(k)) * scale)
        x = uniform(3, 6).float()
        label = model(x).argmax(1)
        for ball in (L2Ball(x, 1.0), L2Ball(x, 1.0, (0, 1)), L1Ball(x, 2.0), L1Ball(x, 2.0, (0, 1))):
            points = torch.stack([ball.inside(ball.sample(generator(s)), torch.float64) for s in range(200)])
            answers = model.double()(points.flatten(0, 1)).argmax(1).unflatten(0, (200, 3))
            result = verify(model.float(), x, input_set=ball, label=label, stages=["dual", "dual-adaptive"])
            for i, verdict in enumerate(result.verdict):
                assert verdict is not Verdict.VERIFIED or (answers[:, i] == label[i]).all(), (scale, ball.describe())


def test_points_further_than_any_number_are_outside() -> None:
    for kind in KINDS.values():
        ball = kind(torch.full((1, 2), -1.7e308, dtype=torch.float64), 1.0)
        assert not ball.contains(torch.full((1, 2), 1.7e308, dtype=torch.float64)).any()
