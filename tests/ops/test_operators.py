"""Conformance of every registered operator: the laws of affine operators and of activations."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor

from verifier.forms import Dense, Diagonal, Identity, LinearForm, Patches, PatchGrid, Selected
from verifier.graph import GraphBuilder
from verifier.ops.absolute import Abs
from verifier.ops.base import Activation, Affine, OperatorExample, Shape, SlopeRule, load_all
from verifier.ops.clip import Clip
from verifier.ops.smooth import Sigmoid, Tanh

REGISTRY = {name: kind for name, kind in load_all().items() if not inspect.isabstract(kind)}
CASES = [
    pytest.param(example, id=f"{name}-{i}")
    for name, kind in sorted(REGISTRY.items())
    for i, example in enumerate(kind.examples())
]
AFFINE = [c for c in CASES if isinstance(c.values[0].op, Affine)]
ACTIVATIONS = [c for c in CASES if isinstance(c.values[0].op, Activation)]
RULES = [SlopeRule.FIXED, SlopeRule.ADAPTIVE]


def double(example: OperatorExample) -> Affine:
    return example.op.map_tensors(lambda t: t.double() if t.is_floating_point() else t)


def inputs(shapes: tuple[Shape, ...], batch: int = 3, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *s, generator=generator, dtype=torch.float64) for s in shapes]


def size_of(shape: Shape) -> int:
    return int(torch.Size(shape).numel())


def matrices(op: Affine, shapes: tuple[Shape, ...]) -> list[Tensor]:
    """A_i per parent, [outputs, inputs], from differences of apply at unit vectors."""
    zeros = [torch.zeros(1, *s, dtype=torch.float64) for s in shapes]
    origin = op.apply(*zeros)
    found = []
    for i, shape in enumerate(shapes):
        n = size_of(shape)
        units = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
        others = [units if j == i else z.expand(n, *z.shape[1:]) for j, z in enumerate(zeros)]
        found.append((op.apply(*others) - origin).reshape(n, -1).T)
    return found


def forms(shape: Shape) -> list[LinearForm]:
    """One form of each structure on a node of this shape."""
    generator = torch.Generator().manual_seed(5)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    like, n = random(1), size_of(shape)
    index = torch.randint(n, (2, 3), generator=generator)
    built: list[LinearForm] = [
        Dense(random(2, 3, *shape)),
        Dense(random(1, 2, *shape)),
    ]
    if not shape:
        return built  # the other structures need a dimension
    built += [
        Identity(shape, like),
        Diagonal(random(2, *shape)),
        Selected(index, shape, like),
    ]
    if len(shape) == 3:
        positions = (max(shape[1] - 1, 1), max(shape[2] - 1, 1))
        grid = PatchGrid(positions, (2, 2), (1, 1), (0, 0))
        count = positions[0] * positions[1]
        built.append(Patches(random(1, 1, 2, shape[0], 2, 2), grid, shape))
        built.append(Patches(random(1, 1, 2, shape[0], 2, 2), grid, shape, random(2, *shape)))
        built.append(Patches(random(2, count, 2, shape[0], 2, 2), grid, shape))
        padded = PatchGrid((shape[1], shape[2]), (3, 3), (1, 1), (1, 1))
        built.append(Patches(random(1, 1, 2, shape[0], 3, 3), padded, shape, random(1, *shape)))
    return built


def test_every_operator_has_examples() -> None:
    assert len(REGISTRY) >= 20
    for name, kind in REGISTRY.items():
        assert kind.examples(), name


@pytest.mark.parametrize("example", CASES)
def test_builder_finds_the_shape(example: OperatorExample) -> None:
    shapes = example.shapes
    builder = GraphBuilder((sum(map(size_of, shapes)),))
    from verifier.ops.shape import Gather

    parents, start = [], 0
    for shape in shapes:
        n = size_of(shape)
        parents.append(builder.add(Gather(torch.arange(start, start + n).reshape(shape)), (0,)))
        start += n
    last = builder.add(example.op, parents)
    xs = [x.float() for x in inputs(shapes)]
    assert builder.nodes[last].shape == tuple(example.op.apply(*xs).shape[1:])
    assert builder.build().forward(torch.zeros(3, start)).shape[1:] == builder.nodes[last].shape


@pytest.mark.parametrize("example", AFFINE)
def test_linear_and_bias(example: OperatorExample) -> None:
    op, shapes = double(example), example.shapes
    xs, ys = inputs(shapes), inputs(shapes, seed=2)
    both = op.linear(*(2 * x - y for x, y in zip(xs, ys, strict=True)))
    assert torch.allclose(both, 2 * op.linear(*xs) - op.linear(*ys), rtol=1e-10, atol=1e-10)
    zero = op.apply(*(torch.zeros_like(x) for x in xs))
    bias = op.bias(shapes, xs[0])
    if bias is None:
        assert (zero == 0).all()
    else:
        assert bias.shape == zero[:1].shape
        assert torch.allclose(bias.expand_as(zero), zero, rtol=1e-10, atol=1e-10)
    assert torch.allclose(op.linear(*xs) + zero, op.apply(*xs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("example", AFFINE)
def test_apply_abs(example: OperatorExample) -> None:
    op, shapes = double(example), example.shapes
    radii = [x.abs() for x in inputs(shapes)]
    expected = sum(r.reshape(len(r), -1) @ a.abs().T for r, a in zip(radii, matrices(op, shapes), strict=True))
    assert torch.allclose(op.apply_abs(*radii).reshape(expected.shape), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("example", AFFINE)
def test_terms_and_diagonal_claims(example: OperatorExample) -> None:
    op, shapes = double(example), example.shapes
    entries = [a.abs() > 1e-12 for a in matrices(op, shapes)]
    assert op.terms(shapes) >= max(int(sum(e.sum(1) for e in entries).max()), 1)
    if op.diagonal:
        assert sum(e.sum(1) for e in entries).max() <= 1
        assert all(e.sum(0).max() <= 1 for e in entries)
    if len(shapes) > 1:
        assert not op.diagonal


@pytest.mark.parametrize("example", AFFINE)
def test_adjoint(example: OperatorExample) -> None:
    op, shapes = double(example), example.shapes
    xs = inputs(shapes)
    output = tuple(op.apply(*xs).shape[1:])
    columns = matrices(op, shapes)
    for form in forms(output):
        coefficients = form.dense()
        for parent, matrix in enumerate(columns):
            pulled = op.adjoint(form, shapes, parent)
            assert pulled.shape == shapes[parent] and pulled.rows == form.rows
            got = pulled.dense()
            expected = coefficients.reshape(*coefficients.shape[:2], size_of(output)) @ matrix
            flat = got.reshape(*got.shape[:2], size_of(shapes[parent]))
            assert torch.allclose(flat.expand_as(expected), expected, rtol=1e-9, atol=1e-9), type(form).__name__
            structured = isinstance(form, Patches | Diagonal) and op.keeps_patches and len(shapes[parent]) == 3
            if structured and not _may_be_dense(op):
                assert not isinstance(pulled, Dense)


def _may_be_dense(op: Affine) -> bool:
    """Documented exceptions to keeps_patches: concatenation along space, and cropping."""
    return getattr(op, "dim", 0) != 0 or min(getattr(op, "amounts", (0,))) < 0


@pytest.mark.parametrize("example", AFFINE)
def test_adjoint_reaches_the_parameters(example: OperatorExample) -> None:
    op, shapes = double(example), example.shapes
    live = op.map_tensors(lambda t: t.clone().requires_grad_() if t.is_floating_point() else t)
    leaves = [t for _, t in live.parameters() if t.is_floating_point()]
    if not leaves:
        return
    output = tuple(op.apply(*inputs(shapes)).shape[1:])
    form = Dense(torch.ones(1, 2, *output, dtype=torch.float64))
    total = sum(live.adjoint(form, shapes, i).dense().sum() for i in range(len(shapes)))
    bias = live.bias(shapes, form.coefficients)
    if bias is not None:
        total = total + bias.sum()
    grads = torch.autograd.grad(total, leaves, allow_unused=True)
    assert all(g is not None and g.abs().sum() > 0 for g in grads)


# --- activations -----------------------------------------------------------------------------------------------------


def intervals(dtype: torch.dtype, extremes: bool = True) -> tuple[Tensor, Tensor]:
    """Many (l, u), [1, N]: straddling, one-sided, narrow, wide, saturated, huge, equal, on the usual kinks."""
    generator = torch.Generator().manual_seed(3)

    def random(n: int) -> Tensor:
        return torch.randn(n, generator=generator, dtype=torch.float64)

    center = torch.cat([random(60) * s for s in (0.1, 1, 3, 10)])
    width = torch.cat([random(60).abs() * s for s in (1e-7, 1e-3, 1, 10)])
    width = width[torch.randperm(len(width), generator=generator)]
    lows = [center - width, -random(40).abs() * 2]
    highs = [center + width, random(40).abs() * 2]
    special = [
        -1e30,
        -300.0,
        -40.0,
        -9.0,
        -1.0,
        -0.25,
        -1e-7,
        0.0,
        1e-7,
        0.5,
        0.75,
        1.0,
        2.0,
        2.5,
        6.0,
        20.0,
        120.0,
        1e30,
    ]
    if not extremes:
        special = special[1:-1]
    pairs = [(a, b) for a in special for b in special if a <= b]
    lows.append(torch.tensor([a for a, _ in pairs], dtype=torch.float64))
    highs.append(torch.tensor([b for _, b in pairs], dtype=torch.float64))
    low, high = torch.cat(lows).to(dtype), torch.cat(highs).to(dtype)
    return low[None], torch.maximum(low, high)[None]


def dense_points(op: Activation, low: Tensor, high: Tensor) -> Tensor:
    """Points of every interval, end points and kinks among them, in float64: [P, N]."""
    low, high = low.double(), high.double()
    shares = torch.linspace(0, 1, 201, dtype=torch.float64)[:, None]
    points = [low + shares * (high - low), low, high]
    kinks = [0.0, *(k for k in (getattr(op, "low", None), getattr(op, "high", None)) if k is not None)]
    points += [torch.full_like(low, k) for k in kinks]
    points += [torch.linspace(-9, 9, 181, dtype=torch.float64)[:, None].expand(-1, low.shape[1])]
    return torch.minimum(torch.maximum(torch.cat(points), low), high)


def slopes(like: Tensor) -> list[Tensor | SlopeRule]:
    generator = torch.Generator().manual_seed(4)
    random = torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like)
    return [*RULES, torch.zeros_like(like), torch.ones_like(like), random]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("example", ACTIVATIONS)
def test_lines_are_sound(example: OperatorExample, dtype: torch.dtype) -> None:
    op = example.op
    low, high = intervals(dtype)
    x = dense_points(op, low, high)
    value = op.apply(x)
    eps = torch.finfo(dtype).eps
    for slope in slopes(low):
        lines = op.relax(low, high, slope)
        parts = (lines.lower_slope, lines.lower_bias, lines.upper_slope, lines.upper_bias)
        assert all(p.dtype == dtype and p.shape == low.shape and p.isfinite().all() for p in parts)
        a, b, c, d = (p.double() for p in parts)
        # lines are coefficients rounded in their precision: a few units in the last place of their own size
        reach = torch.maximum(low.double().abs(), high.double().abs())
        slack = 0.0 if not op.piecewise_linear and dtype == torch.float32 else 8 * eps * (reach + 1)
        if not op.piecewise_linear and dtype == torch.float64:
            slack = 2 * eps * ((a * x).abs() + (c * x).abs() + 2)  # of this test's own arithmetic
        below, above = a * x + b - value - slack, value - (c * x + d) - slack
        assert below.max() <= 0, (slope, low[0, below.max(0).values.argmax()], high[0, below.max(0).values.argmax()])
        assert above.max() <= 0, (slope, low[0, above.max(0).values.argmax()], high[0, above.max(0).values.argmax()])
        if lines.parallel:
            assert torch.equal(lines.lower_slope, lines.upper_slope)


@pytest.mark.parametrize("example", ACTIVATIONS)
def test_lines_are_tight(example: OperatorExample) -> None:
    """Each line touches the function somewhere, and equal bounds give the value itself."""
    op = example.op
    low, high = intervals(torch.float64, extremes=False)
    x = dense_points(op, low, high)
    value = op.apply(x)
    for slope in slopes(low):
        lines = op.relax(low, high, slope)
        scale = 1 + torch.maximum(low.abs(), high.abs())[0]
        gap_above = (lines.upper_slope * x + lines.upper_bias - value).min(0).values / scale
        gap_below = (value - lines.lower_slope * x - lines.lower_bias).min(0).values / scale
        # the sampled points are 1/200 of the interval or 0.1 apart: a tangent is touched to second order
        near = 2e-3 if not op.piecewise_linear else 1e-12
        assert gap_above.max() <= near and gap_below.max() <= near
        same = (low == high)[0]
        upper = (lines.upper_slope * high + lines.upper_bias - op.apply(high))[0]
        lower = (op.apply(low) - lines.lower_slope * low - lines.lower_bias)[0]
        assert (upper[same].abs() <= 1e-12 * scale[same]).all() and (lower[same].abs() <= 1e-12 * scale[same]).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("example", ACTIVATIONS)
def test_range(example: OperatorExample, dtype: torch.dtype) -> None:
    op = example.op
    low, high = intervals(dtype)
    bottom, top = op.range(low, high)
    value = op.apply(dense_points(op, low, high))
    eps = torch.finfo(dtype).eps
    slack = 0.0 if not op.piecewise_linear else eps * value.abs()
    assert (bottom.double() <= value + slack).all() and (top.double() >= value - slack).all()
    reach = 20 * eps * (1 + value.abs().max(0).values)
    assert (bottom.double()[0] >= value.min(0).values - reach).all()
    assert (top.double()[0] <= value.max(0).values + reach).all()


@pytest.mark.parametrize("example", ACTIVATIONS)
def test_nan_bounds_give_nan(example: OperatorExample) -> None:
    op = example.op
    x = torch.linspace(-50, 50, 201)[:, None]
    nan = torch.full((1, 1), math.nan)
    one = torch.ones(1, 1)
    for low, high in ((nan, one), (-one, nan), (nan, nan)):
        assert any(t.isnan().all() for t in op.range(low, high))
        for slope in slopes(low):
            lines = op.relax(low, high, slope)
            below, above = lines.lower_slope * x + lines.lower_bias, lines.upper_slope * x + lines.upper_bias
            # ReLU's lower lines hold whatever the bounds are: such a line may stay
            assert below.isnan().all() or (below <= op.apply(x)).all(), (low, high, slope)
            assert above.isnan().all() or (above >= op.apply(x)).all(), (low, high, slope)
            assert below.isnan().all() or above.isnan().all()
            if type(op) in (Clip, Tanh, Sigmoid, Abs):
                assert below.isnan().all() and above.isnan().all()


@pytest.mark.parametrize("example", ACTIVATIONS)
def test_stable_neurons_are_exact(example: OperatorExample) -> None:
    op = example.op
    low, high = intervals(torch.float64)
    stable = ~op.unstable(low, high)
    assert stable.any()
    if op.piecewise_linear:
        for slope in slopes(low):
            lines = op.relax(low, high, slope)
            assert torch.equal(lines.lower_slope[stable], lines.upper_slope[stable])
            assert torch.equal(lines.lower_bias[stable], lines.upper_bias[stable])
    nan = torch.full((1, 1), math.nan)
    if not (isinstance(op, Clip) and op.low is None and op.high is None):
        assert op.unstable(nan, nan).all()


@pytest.mark.parametrize("example", ACTIVATIONS)
def test_gradients_are_finite(example: OperatorExample) -> None:
    op = example.op
    low, high = (t.clone().requires_grad_() for t in intervals(torch.float64))
    for slope in slopes(low.detach()):
        if isinstance(slope, Tensor):
            slope = slope.clone().requires_grad_()
        lines = op.relax(low, high, slope)
        total = (lines.lower_slope + lines.lower_bias + lines.upper_slope + lines.upper_bias).sum()
        sources = [low, high, slope] if isinstance(slope, Tensor) else [low, high]
        if not total.requires_grad:
            continue
        grads = torch.autograd.grad(total, sources, allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in grads)


@pytest.mark.parametrize("op", [Tanh(), Sigmoid()])
def test_smooth_gradients_match_differences(op: Activation) -> None:
    """The relaxation's bounds at a point move with l and u as finite differences say (tangent points included)."""
    low = torch.tensor([[-2.0, -0.5, -3.0, 0.3, -1.7]], dtype=torch.float64, requires_grad=True)
    high = torch.tensor([[1.0, 4.0, 3.1, 2.0, -0.2]], dtype=torch.float64, requires_grad=True)
    for slope in (SlopeRule.FIXED, torch.full((1, 5), 0.7, dtype=torch.float64)):

        def lines(a: Tensor, b: Tensor, slope: Tensor | SlopeRule = slope) -> tuple[Tensor, ...]:
            found = op.relax(a, b, slope)
            return found.lower_slope, found.lower_bias, found.upper_slope, found.upper_bias

        assert torch.autograd.gradcheck(lines, (low, high), eps=1e-5, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("example", ACTIVATIONS)
def test_unbounded_intervals(example: OperatorExample) -> None:
    """With infinite bounds a line is sound, or NaN."""
    op = example.op
    inf = math.inf
    low = torch.tensor([[-inf, -inf, -1.0, 3.0, -inf]], dtype=torch.float64)
    high = torch.tensor([[inf, 1.0, inf, inf, -30.0]], dtype=torch.float64)
    x = torch.linspace(-1e3, 1e3, 4001, dtype=torch.float64)[:, None]
    inside = (x >= low) & (x <= high)
    for slope in slopes(low):
        lines = op.relax(low, high, slope)
        below = lines.lower_slope * x + lines.lower_bias - op.apply(x)
        above = op.apply(x) - lines.upper_slope * x - lines.upper_bias
        assert not (inside & (below > 1e-12)).any() and not (inside & (above > 1e-12)).any()


def test_fixed_rule_beats_the_flattest_parallel_lines() -> None:
    """FIXED chooses parallel lines at most as far apart as those of slope min(f'(l), f'(u)) (Singh et al. 2018)."""
    low, high = intervals(torch.float64, extremes=False)
    for op in (Tanh(), Sigmoid()):
        lines = op.relax(low, high, SlopeRule.FIXED)
        slope = torch.minimum(op.derivative(low), op.derivative(high))
        known = op.apply(high) - op.apply(low) - slope * (high - low)
        assert (lines.upper_bias - lines.lower_bias <= known + 1e-9).all()


def test_clip_with_both_kinks() -> None:
    op = Clip(-1.0, 1.0)
    low, high = torch.tensor([[-3.0]]), torch.tensor([[2.0]])
    lines = op.relax(low, high, torch.ones(1, 1))
    assert lines.upper_slope.item() == pytest.approx(0.5) and lines.upper_bias.item() == pytest.approx(0.5)
    assert lines.lower_slope.item() == pytest.approx(2 / 3) and lines.lower_bias.item() == pytest.approx(-1 / 3)
    fixed = op.relax(low, high, SlopeRule.FIXED)
    assert fixed.parallel and fixed.upper_slope.item() == pytest.approx(0.5)
