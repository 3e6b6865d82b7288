"""Conformance of input sets to their protocol; l-infinity balls and boxes against rational arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from properties import Box, LinfBall, Specification, robustness
from properties.input_set import REGISTRY, Functional
from verifier.forms import Dense
from verifier.testing import check_input_set

BATCH, SHAPE = 4, (2, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


SETS: dict[str, Callable[[], Box]] = {
    "box": lambda: Box(normal(BATCH, *SHAPE) - uniform(BATCH, *SHAPE), normal(BATCH, *SHAPE) + uniform(BATCH, *SHAPE)),
    "box with flat sides": lambda: Box(
        normal(BATCH, *SHAPE), normal(BATCH, *SHAPE) + uniform(BATCH, *SHAPE).round() * uniform(BATCH, *SHAPE, seed=1)
    ),
    "ball": lambda: LinfBall(normal(BATCH, *SHAPE), 0.1),
    "ball of float32 images": lambda: LinfBall(uniform(BATCH, *SHAPE).float(), 0.1),
    "clipped ball": lambda: LinfBall(uniform(BATCH, *SHAPE), 0.3, (0.0, 1.0)),
    "one radius each": lambda: LinfBall(normal(BATCH, *SHAPE), torch.tensor([0.0, 1e-9, 0.1, 3.0])),
    "clipped, one radius each": lambda: LinfBall(uniform(BATCH, *SHAPE), torch.tensor([0.0, 0.01, 0.3, 9.0]), (0, 1)),
    "radius zero": lambda: LinfBall(normal(BATCH, *SHAPE), 0.0),
}


@pytest.fixture(params=list(SETS))
def inputs(request: pytest.FixtureRequest) -> Box:
    return SETS[request.param]()


def corners_fraction(ball: LinfBall, clip: tuple[float, float] | None) -> list[tuple[Fraction, Fraction]]:
    """The exact corners of every entry, batch flattened."""
    found = []
    for b in range(ball.batch):
        eps = Fraction(float(ball.eps[b]))
        for v in ball.center()[b].flatten().tolist():
            low, high = Fraction(v) - eps, Fraction(v) + eps
            if clip is not None:
                low, high = max(low, Fraction(clip[0])), min(high, Fraction(clip[1]))
            found.append((low, high))
    return found


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_conformance(name: str) -> None:
    check_input_set(REGISTRY[name])


def test_every_file_of_the_package_was_loaded() -> None:
    assert len(REGISTRY) >= 13 and not REGISTRY.failures


class _TooSmall(LinfBall):
    """Its support function is that of a smaller ball: unsound."""

    def support(self, form: Functional) -> Tensor:
        return super().support(form) - 1e-3


def test_an_unsound_set_is_noticed_and_the_law_is_named() -> None:
    with pytest.raises(AssertionError) as broken:
        check_input_set(_TooSmall)
    assert any("breaks a law" in note and "_TooSmall" in note for note in broken.value.__notes__)


def test_center_and_samples_are_members(inputs: Box) -> None:
    assert inputs.batch == BATCH and inputs.shape == SHAPE and inputs.is_box
    assert inputs.contains(inputs.inside(inputs.center(), torch.float64)).all()
    for seed in range(20):
        x = inputs.sample(generator(seed))
        assert x.shape == (BATCH, *SHAPE)
        assert inputs.contains(inputs.inside(x, torch.float64)).all()
        assert (inputs.inside(x, torch.float64) - x).abs().max() < 1e-14


def test_support_is_above_every_member_and_reached(inputs: Box) -> None:
    form = Dense(normal(BATCH, 7, *SHAPE, seed=3))
    support, minimum = inputs.support(form), inputs.minimum(form)
    assert support.shape == minimum.shape == (BATCH, 7)
    for seed in range(50):
        x = inputs.sample(generator(seed))
        if seed % 2:
            x = torch.where(x > (inputs.lower + inputs.upper) / 2, inputs.upper, inputs.lower)
        value = form.dot(x)
        assert (value <= support + 1e-12).all() and (value >= minimum - 1e-12).all()
    for s in range(7):
        row = form.coefficients[:, s]
        best = inputs.inside(torch.where(row > 0, inputs.upper, inputs.lower), torch.float64)
        assert inputs.contains(best).all()
        torch.testing.assert_close((row * best).flatten(1).sum(1), support[:, s], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(minimum, -inputs.support(form.times(-1.0)), rtol=1e-13, atol=1e-13)


def test_range_of_two_forms(inputs: Box) -> None:
    mid, half = Dense(normal(BATCH, 5, *SHAPE)), Dense(normal(BATCH, 5, *SHAPE, seed=1))
    low, high = inputs.range(mid, half)
    torch.testing.assert_close(low, inputs.minimum(mid.combine(half, -1.0)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(high, inputs.support(mid.combine(half, 1.0)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_support_in_lower_precision_encloses_up_to_rounding(inputs: Box, dtype: torch.dtype) -> None:
    exact = Dense(normal(BATCH, 7, *SHAPE, seed=3).to(dtype).double())
    rounded = Dense(exact.coefficients.to(dtype))
    off = 1e-5 if dtype is torch.float32 else 1e-13
    assert (inputs.support(rounded).double() >= inputs.support(exact) - off).all()
    assert (inputs.support(rounded).double() <= inputs.support(exact) + off).all()


def test_projection_is_the_nearest_member(inputs: Box) -> None:
    for seed in range(10):
        x = 3 * normal(BATCH, *SHAPE, seed=seed)
        nearest = inputs.project(x)
        assert inputs.contains(inputs.inside(nearest, torch.float64)).all()
        distance = (x - nearest).flatten(1).norm(dim=1)
        for other in range(10):
            y = inputs.sample(generator(100 + other))
            assert (distance <= (x - y).flatten(1).norm(dim=1) + 1e-12).all()
            # obtuse angle: the variational characterisation of a projection on a convex set
            assert (((x - nearest) * (y - nearest)).flatten(1).sum(1) <= 1e-12).all()
        torch.testing.assert_close(inputs.project(nearest), nearest, rtol=0, atol=0)


def test_steepest_ascent_ascends_and_stays_inside(inputs: Box) -> None:
    gradient = normal(BATCH, *SHAPE, seed=5)
    x = inputs.sample(generator(1))
    before = (gradient * x).flatten(1).sum(1)
    for _ in range(15):
        x = inputs.project(x + inputs.steepest_ascent(x, gradient, 0.3))
        after = (gradient * x).flatten(1).sum(1)
        assert (after >= before - 1e-12).all()
        before = after
    assert inputs.contains(inputs.inside(x, torch.float64)).all()
    top = inputs.support(Dense(gradient.unsqueeze(1)))[:, 0]
    torch.testing.assert_close(before, top, rtol=1e-9, atol=1e-9)


def test_select_takes_the_chosen_sets(inputs: Box) -> None:
    for index in (torch.tensor([2, 0]), torch.tensor([True, False, True, False]), torch.tensor([], dtype=torch.int64)):
        part = inputs.select(index)
        assert type(part) is type(inputs) and part.batch == len(inputs.lower[index]) and part.shape == SHAPE
        for mine, theirs in zip(part.box(), inputs.box(), strict=True):
            assert torch.equal(mine, theirs[index])
        assert torch.equal(part.center(), inputs.center()[index])
        x = inputs.sample(generator(0))
        assert torch.equal(part.contains(x[index]), inputs.contains(x)[index])


def test_to_keeps_everything(inputs: Box) -> None:
    moved = inputs.to(torch.device("cpu"))
    assert type(moved) is type(inputs) and moved.describe() == inputs.describe()
    for mine, theirs in zip(moved.box(), inputs.box(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_box_is_outward_and_tight(inputs: Box, dtype: torch.dtype) -> None:
    """Rounded outward, by at most one step of the precision at each of the two roundings."""
    low, high = inputs.box(dtype)
    assert low.dtype == high.dtype == dtype
    if isinstance(inputs, LinfBall):
        exact = corners_fraction(inputs, inputs.clip)
    else:
        pairs = zip(inputs.lower.flatten().tolist(), inputs.upper.flatten().tolist(), strict=True)
        exact = [(Fraction(a), Fraction(b)) for a, b in pairs]
    spacing = torch.finfo(dtype).eps
    for a, b, (left, right) in zip(low.flatten().tolist(), high.flatten().tolist(), exact, strict=True):
        assert Fraction(a) <= left <= right <= Fraction(b)
        assert left - Fraction(a) <= Fraction(2 * spacing) * max(abs(left), abs(Fraction(a)))
        assert Fraction(b) - right <= Fraction(2 * spacing) * max(abs(right), abs(Fraction(b)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_middle_and_radius_enclose_the_box(inputs: Box, dtype: torch.dtype) -> None:
    middle, radius = inputs.middle_and_radius(dtype)
    columns = (middle, radius, inputs.lower, inputs.upper)
    for m, r, low, high in zip(*(t.flatten().tolist() for t in columns), strict=True):
        assert Fraction(m) - Fraction(r) <= Fraction(low) and Fraction(m) + Fraction(r) >= Fraction(high)


def is_member(ball: LinfBall, x: Tensor, clip: tuple[float, float] | None) -> list[bool]:
    """Membership in rational arithmetic, per example."""
    corners = iter(corners_fraction(ball, clip))
    found = []
    for row in x.double().flatten(1).tolist():
        pairs = [next(corners) for _ in row]
        found.append(all(low <= Fraction(v) <= high for v, (low, high) in zip(row, pairs, strict=True)))
    return found


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
@pytest.mark.parametrize("eps", [0.1, 0.3, 1e-3, 8 / 255, 1e-12, 0.5, 1e-40])
def test_contains_is_exact_at_the_corners(eps: float, clip: tuple[float, float] | None) -> None:
    """Corners in floating point and their neighbours, one entry each: exactly those inside are members."""
    centers = torch.cat([uniform(300), torch.tensor([0.0, 1.0, 0.1, 0.5, 1e-300, 0.1 + 2**-54], dtype=torch.float64)])
    for source in (centers, centers.float().double()):
        ball = LinfBall(source[:, None], eps, clip)
        seen = set()
        for sign in (1.0, -1.0):
            corner = source + sign * eps
            away = torch.full_like(corner, sign * torch.inf)
            for x in (corner, torch.nextafter(corner, away), torch.nextafter(corner, -away), corner.float().double()):
                expected = is_member(ball, x[:, None], clip)
                assert ball.contains(x[:, None]).tolist() == expected
                seen.update(expected)
        assert seen == {True, False}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
@pytest.mark.parametrize("eps", [0.1, 0.3, 8 / 255, 1e-3, 0.0, 1e-9, 2.0])
def test_inside_gives_members(eps: float, clip: tuple[float, float] | None, dtype: torch.dtype) -> None:
    """Corners, samples and points one rounding outside, brought inside by roundings only; x itself in that dtype."""
    ball = LinfBall(uniform(64, 5).to(dtype), eps, clip)
    far = torch.full_like(ball.lower, torch.inf)
    points = [ball.lower, ball.upper, torch.nextafter(ball.upper, far), torch.nextafter(ball.lower, -far)]
    points += [ball.center() + eps, ball.center() - eps, ball.sample(generator(1)), ball.center()]
    points += [ball.box(torch.float32)[0].double(), ball.box(torch.float32)[1].double()]
    for k, x in enumerate(points):
        y = ball.inside(x, dtype)
        assert y.dtype == dtype
        assert ball.contains(y).all() and all(is_member(ball, y, clip))
        clipped = x if clip is None else x.clamp(*clip)
        coarse = torch.float32 if k >= 8 else dtype  # the last two are corners of the float32 box
        assert (y.double() - clipped).abs().max() <= 4 * torch.finfo(coarse).eps * (1 + eps)


def test_inside_of_a_box_narrower_than_float32() -> None:
    """No float32 lies in (1, 1 + 1e-9): the result is not claimed to be a member."""
    box = Box(torch.full((1, 1), 1 + 1e-10, dtype=torch.float64), torch.full((1, 1), 1 + 9e-10, dtype=torch.float64))
    assert not box.contains(box.inside(box.center(), torch.float32)).any()
    assert box.contains(box.inside(box.center(), torch.float64)).all()


def test_non_numbers_are_no_members(inputs: Box) -> None:
    for bad in (torch.nan, torch.inf, -torch.inf):
        x = inputs.inside(inputs.center(), torch.float64).clone()
        x[1, 0, 0] = bad
        assert inputs.contains(x).tolist() == [True, False, True, True]


def test_large_and_small_numbers() -> None:
    """Half way between floats, across binades, among denormals: membership stays exact."""
    cases = [
        (2.0**53, 1.0),
        (1.0, 2.0**-53),
        (1.0, 2.0**-54),
        (2.0**-1074, 2.0**-1074),
        (1e300, 1e284),
        (-1.0, 2.0**-53),
    ]
    for center, eps in cases:
        ball = LinfBall(torch.tensor([[center]], dtype=torch.float64), eps)
        corner = torch.tensor([[center]], dtype=torch.float64)
        for direction in (torch.inf, -torch.inf):
            x = corner.clone()
            for _ in range(4):
                assert ball.contains(x).tolist() == is_member(ball, x, None), (center, eps, x)
                x = torch.nextafter(x, torch.full_like(x, direction))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box(torch.zeros(2, 3), torch.zeros(2, 4)), "one shape"),
        (lambda: Box(torch.zeros(3), torch.zeros(3)), "one shape"),
        (lambda: Box(torch.ones(2, 3), torch.zeros(2, 3)), "empty"),
        (lambda: Box(torch.full((1, 1), torch.nan), torch.zeros(1, 1)), "NaN"),
        (lambda: Box(torch.zeros(1, 1), torch.full((1, 1), torch.inf)), "infinite"),
        (lambda: LinfBall(torch.full((1, 1), torch.nan), 0.1), "NaN"),
        (lambda: LinfBall(torch.zeros(1, 1), -1e-9), "eps"),
        (lambda: LinfBall(torch.zeros(1, 1), float("nan")), "eps"),
        (lambda: LinfBall(torch.zeros(1, 1), float("inf")), "eps"),
        (lambda: LinfBall(torch.zeros(2, 1), torch.tensor([0.1, 0.1, 0.1])), "eps"),
        (lambda: LinfBall(torch.zeros(2, 1), torch.tensor([[0.1], [0.1]])), "eps"),
        (lambda: LinfBall(torch.zeros(2, 1), torch.tensor([0.1, -0.1])), "eps"),
        (lambda: LinfBall(torch.zeros(1, 1), 0.1, (1.0, 0.0)), "clip"),
        (lambda: LinfBall(torch.full((1, 1), 1.5), 0.1, (0.0, 1.0)), "valid range"),
        (lambda: LinfBall(torch.zeros(1, 1), 0.1, (float("nan"), 1.0)), "clip"),
        (lambda: robustness(torch.tensor([3]), 3), "out of range"),
        (lambda: robustness(torch.tensor([0]), 1), "two classes"),
        (lambda: Specification(torch.zeros(1, 2, 3), torch.zeros(1, 3), torch.tensor([0, 1])), "specification needs"),
        (lambda: Specification(torch.zeros(1, 2, 3), torch.zeros(1, 2), torch.tensor([0, 2])), "clause"),
        (lambda: Specification(torch.zeros(1, 0, 3), torch.zeros(1, 0), torch.tensor([], dtype=torch.int64)), "clause"),
        (lambda: Specification(torch.full((1, 1, 3), torch.nan), torch.zeros(1, 1), torch.tensor([0])), "NaN"),
    ],
)
def test_unusable_sets_and_specifications(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_set_does_not_follow_later_changes_of_its_inputs() -> None:
    """Sets are immutable: changing the tensors they were made of changes nothing."""
    x, eps = normal(2, 3), torch.tensor([0.1, 0.2], dtype=torch.float64)
    ball, box = LinfBall(x, eps), Box(x - 1, x + 1, nominal=x)
    before = [t.clone() for t in (ball.center(), ball.lower, ball.eps, box.center(), box.lower)]
    x.add_(5.0)
    eps.mul_(9.0)
    for kept, now in zip(before, (ball.center(), ball.lower, ball.eps, box.center(), box.lower), strict=True):
        assert torch.equal(kept, now)


def test_specification_values() -> None:
    """Clauses are disjunctions of rows, the worst is their conjunction; NaN is never hidden."""
    rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    spec = Specification(rows, torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([1, 0, 1]))
    y = torch.tensor([[0.25, -2.0]])
    values = spec.values(y)
    assert values.tolist() == [[0.25, -1.5, 0.75]]
    assert spec.per_clause(values).tolist() == [[-1.5, 0.75]] and spec.worst(values).tolist() == [-1.5]
    assert spec.worst(torch.tensor([[torch.nan, 1.0, 1.0]])).isnan().all()
    assert robustness(torch.tensor([1]), 3).rows.tolist() == [[[-1.0, 1.0, 0.0], [0.0, 1.0, -1.0]]]
