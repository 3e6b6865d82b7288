"""Conformance of activations: their lines, ranges and facts, over intervals of every kind, in both precisions."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from verifier.ops.base import Activation, LinearRelaxation, OperatorExample, SlopeRule
from verifier.ops.facts import LINE
from verifier.testing.laws import Law

RULES = (SlopeRule.FIXED, SlopeRule.ADAPTIVE)
DTYPES = (torch.float64, torch.float32)
#: end points of intervals: extreme, saturated, tiny, and where usual activations have their kinks
SPECIAL = (
    -1e30, -710.0, -300.0, -89.3, -40.0, -9.0, -1.0, -0.25, -1e-7, 0.0, 1e-7, 0.5, 0.75, 1.0, 2.0, 2.5, 6.0, 20.0,
    120.0, 1e30,
)  # fmt: skip


def activation(example: OperatorExample) -> Activation:
    assert isinstance(example.op, Activation)
    return example.op


def intervals(op: Activation, dtype: torch.dtype, extremes: bool = True) -> tuple[Tensor, Tensor]:
    """Many (l, u), [1, N], in the domain: straddling, one-sided, narrow, wide, saturated, huge, equal, on kinks."""
    generator = torch.Generator().manual_seed(3)

    def random(n: int) -> Tensor:  # [n]
        return torch.randn(n, generator=generator, dtype=torch.float64)

    center = torch.cat([random(60) * s for s in (0.1, 1, 3, 10)])
    width = torch.cat([random(60).abs() * s for s in (1e-7, 1e-3, 1, 10)])
    width = width[torch.randperm(len(width), generator=generator)]
    lows = [center - width, -random(40).abs() * 2]
    highs = [center + width, random(40).abs() * 2]
    special = sorted({*(SPECIAL if extremes else SPECIAL[1:-1]), *op.facts.kinks, *op.facts.extrema, *op.facts.jumps})
    pairs = [(a, b) for a in special for b in special if a <= b]
    lows.append(torch.tensor([a for a, _ in pairs], dtype=torch.float64))
    highs.append(torch.tensor([b for _, b in pairs], dtype=torch.float64))
    low, high = (torch.cat(ends).to(dtype).clamp(*op.facts.domain) for ends in (lows, highs))
    return low[None], torch.maximum(low, high)[None]


def points_of(op: Activation, low: Tensor, high: Tensor) -> Tensor:
    """Points of every interval, in float64: end points, kinks, extrema, jumps and their neighbours: [P, N]."""
    low, high = low.double(), high.double()
    shares = torch.linspace(0, 1, 201, dtype=torch.float64)[:, None]
    points = [low + shares * (high - low), low, high]
    points += [torch.full_like(low, k) for k in (0.0, *op.facts.kinks, *op.facts.extrema)]
    points += [torch.linspace(-9, 9, 181, dtype=torch.float64)[:, None].expand(-1, low.shape[1])]
    for jump in _jumps(op, low, high):
        beyond = (torch.full_like(jump, sign * math.inf) for sign in (-1, 1))
        points += [jump, *(torch.nextafter(jump, side) for side in beyond)]
    return torch.minimum(torch.maximum(torch.cat(points), low), high)


def _jumps(op: Activation, low: Tensor, high: Tensor) -> list[Tensor]:
    """The function's jumps, of repeated ones those next to the ends and to the middle: [1, N] each."""
    spacing = op.facts.spacing
    if not spacing:
        return [torch.full_like(low, jump) for jump in op.facts.jumps]
    found = []
    for jump in op.facts.jumps:
        first, last, middle = (torch.floor((x - jump) / spacing) for x in (low, high, low / 2 + high / 2))
        found += [jump + spacing * number for number in (first, first + 1, middle, last, last + 1)]
    return found


def slopes(like: Tensor) -> list[Tensor | SlopeRule]:  # [*shape] each
    """Both rules, both ends of the family, and a random member."""
    generator = torch.Generator().manual_seed(4)
    random = torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like)
    return [*RULES, torch.zeros_like(like), torch.ones_like(like), random]


def parts_of(lines: LinearRelaxation) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [*shape] each
    return lines.lower_slope, lines.lower_bias, lines.upper_slope, lines.upper_bias


def lines_are_sound(example: OperatorExample) -> None:
    """The lines of `relax` hold at every point of the interval, whatever the slope, in both precisions."""
    op = activation(example)
    for dtype in DTYPES:
        low, high = intervals(op, dtype)
        x = points_of(op, low, high)
        value = op.apply(x)
        eps = torch.finfo(dtype).eps
        for slope in slopes(low):
            lines = op.relax(low, high, slope)
            assert all(p.dtype == dtype and p.shape == low.shape and p.isfinite().all() for p in parts_of(lines))
            a, b, c, d = (p.double() for p in parts_of(lines))
            # lines are coefficients rounded in their precision: a few units in the last place of their own size
            reach = torch.maximum(low.double().abs(), high.double().abs())
            off: Tensor | float = 0.0 if not op.piecewise_linear and dtype == torch.float32 else 8 * eps * (reach + 1)
            if not op.piecewise_linear and dtype == torch.float64:
                # of this law's own arithmetic
                off = 2 * eps * ((a * x).abs() + (c * x).abs() + b.abs() + d.abs() + value.abs() + 2)
            for apart in (a * x + b - value - off, value - (c * x + d) - off):
                at = apart.max(0).values.argmax()
                assert apart.max() <= 0, (
                    dtype,
                    slope if isinstance(slope, SlopeRule) else slope[0, at],
                    low[0, at],
                    high[0, at],
                )
            if lines.parallel:
                assert torch.equal(lines.lower_slope, lines.upper_slope)


def lines_are_tight(example: OperatorExample) -> None:
    """Each line touches the function somewhere, and equal bounds give the value itself."""
    op = activation(example)
    low, high = intervals(op, torch.float64, extremes=False)
    x = points_of(op, low, high)
    value = op.apply(x)
    for slope in slopes(low):
        lines = op.relax(low, high, slope)
        scale = 1 + torch.maximum(low.abs(), high.abs())[0] + value.abs().max(0).values
        gap_above = (lines.upper_slope * x + lines.upper_bias - value).min(0).values / scale
        gap_below = (value - lines.lower_slope * x - lines.lower_bias).min(0).values / scale
        # the sampled points are 1/200 of the interval or 0.1 apart: a tangent is touched to second order
        near = 2e-3 if not op.piecewise_linear else 1e-12
        # nor does it say anything of lines that cross the interval's height between two points
        apart = x.sort(0).values.diff(dim=0).amax(0)
        flat = [
            (line.abs()[0] * apart < 0.002 * scale) | (low == high)[0]
            for line in (lines.upper_slope, lines.lower_slope)
        ]
        assert gap_above[flat[0]].max() <= near and gap_below[flat[1]].max() <= near
        same = (low == high)[0]
        upper = (lines.upper_slope * high + lines.upper_bias - op.apply(high))[0]
        lower = (op.apply(low) - lines.lower_slope * low - lines.lower_bias)[0]
        sizes = 1e-12 * (scale + torch.maximum((lines.upper_slope * high).abs(), (lines.lower_slope * low).abs())[0])
        assert (upper[same].abs() <= sizes[same]).all() and (lower[same].abs() <= sizes[same]).all()


def range_is_the_hull(example: OperatorExample) -> None:
    """`range` holds every value, and is no wider than the values and rounding make it."""
    op = activation(example)
    for dtype in DTYPES:
        low, high = intervals(op, dtype)
        bottom, top = op.range(low, high)
        x = points_of(op, low, high)
        value = op.apply(x)
        eps = torch.finfo(dtype).eps
        off: Tensor | float = 0.0 if not op.piecewise_linear else eps * value.abs()
        assert (bottom.double() <= value + off).all() and (top.double() >= value - off).all()
        reach = 20 * eps * (1 + value.abs().max(0).values)
        if op.cancels:
            reach = reach + 20 * eps * x.abs().max(0).values
        if not (op.facts.monotone or op.facts.extrema) and math.isfinite(
            op.lipschitz
        ):  # it may turn between the points that were looked at
            apart = torch.cat([x.sort(0).values.diff(dim=0), torch.zeros_like(x[:1])]).max(0).values
            reach = reach + op.lipschitz * apart
        assert (bottom.double()[0] >= value.min(0).values - reach).all(), dtype
        assert (top.double()[0] <= value.max(0).values + reach).all(), dtype


def nan_bounds_give_nan(example: OperatorExample) -> None:
    """A NaN bound gives NaN lines, or a line that holds everywhere; never two lines, and no range."""
    op = activation(example)
    x = torch.linspace(-50, 50, 201)[:, None].clamp(*op.facts.domain)
    nan = torch.full((1, 1), math.nan)
    one = torch.ones(1, 1)
    for low, high in ((nan, one), (-one, nan), (nan, nan)):
        assert any(t.isnan().all() for t in op.range(low, high))
        for slope in slopes(low):
            lines = op.relax(low, high, slope)
            below, above = lines.lower_slope * x + lines.lower_bias, lines.upper_slope * x + lines.upper_bias
            # a convex function has lower lines that hold whatever the bounds are: such a line may stay
            assert below.isnan().all() or (LINE in op.facts.convex and (below <= op.apply(x)).all()), (low, high, slope)
            assert above.isnan().all() or (LINE in op.facts.concave and (above >= op.apply(x)).all()), (low, high)
            assert below.isnan().all() or above.isnan().all()


def stable_neurons_are_exact(example: OperatorExample) -> None:
    """Where an activation with pieces is stable, its two lines are one; unknown bounds are not stable."""
    op = activation(example)
    low, high = intervals(op, torch.float64)
    stable = ~op.unstable(low, high)
    assert stable.any()
    if op.piecewise_linear:
        for slope in slopes(low):
            lines = op.relax(low, high, slope)
            assert torch.equal(lines.lower_slope[stable], lines.upper_slope[stable])
            assert torch.equal(lines.lower_bias[stable], lines.upper_bias[stable])
    nan = torch.full((1, 1), math.nan)
    if not op.facts.linear:
        assert op.unstable(nan, nan).all()


def gradients_are_finite(example: OperatorExample) -> None:
    """Lines have finite gradients in the bounds and in the slope, everywhere."""
    op = activation(example)
    low, high = (t.clone().requires_grad_() for t in intervals(op, torch.float64))
    for slope in slopes(low.detach()):
        if isinstance(slope, Tensor):
            slope = slope.clone().requires_grad_()
        total = torch.stack([p.sum() for p in parts_of(op.relax(low, high, slope))]).sum()
        sources = [low, high, slope] if isinstance(slope, Tensor) else [low, high]
        if not total.requires_grad:
            continue
        grads = torch.autograd.grad(total, sources, allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in grads)


def unbounded_intervals(example: OperatorExample) -> None:
    """With infinite bounds a line is sound, or NaN."""
    op = activation(example)
    inf = math.inf
    low = torch.tensor([[-inf, -inf, -1.0, 3.0, -inf]], dtype=torch.float64)
    high = torch.tensor([[inf, 1.0, inf, inf, -30.0]], dtype=torch.float64)
    x = torch.linspace(-1e3, 1e3, 4001, dtype=torch.float64)[:, None].clamp(*op.facts.domain)
    inside = (x >= low) & (x <= high)
    for slope in slopes(low):
        lines = op.relax(low, high, slope)
        below = lines.lower_slope * x + lines.lower_bias - op.apply(x)
        above = op.apply(x) - lines.upper_slope * x - lines.upper_bias
        assert not (inside & (below > 1e-12)).any() and not (inside & (above > 1e-12)).any()


def facts_are_true(example: OperatorExample) -> None:
    """Monotone, turning, convex and concave where it says so, within its values and its slopes, all on a grid."""
    op = activation(example)
    facts = op.facts
    first, last = max(facts.domain[0], -20.0), min(facts.domain[1], 20.0)
    marks = torch.tensor([*facts.kinks, *facts.extrema], dtype=torch.float64)
    x = torch.cat([torch.linspace(first, last, 4001, dtype=torch.float64), marks]).unique()
    y = op.apply(x[None])[0]
    off = 1e-12 * (1 + y.abs().max())
    assert (y >= facts.values[0] - off).all() and (y <= facts.values[1] + off).all()
    rise = y.diff() / x.diff()
    wide = x.diff() > 1e-6  # quotients over less say nothing
    flattest, steepest = op.slope_range
    assert (rise[wide] >= flattest - 1e-6).all() and (rise[wide] <= steepest + 1e-6).all(), op.slope_range
    assert (rise[wide].abs() <= op.lipschitz + 1e-6).all(), op.lipschitz
    if facts.monotone:
        assert (y.diff() >= -off).all() and not facts.extrema
    if facts.extrema:  # between two of them it does not turn
        for left, right in pairwise(sorted({first, last, *(e for e in facts.extrema if first < e < last)})):
            step = op.apply(x[(x >= left) & (x <= right)][None])[0].diff()
            assert (step >= -off).all() or (step <= off).all(), (left, right)
    for segments, sign in ((facts.convex, 1.0), (facts.concave, -1.0)):
        for left, right in segments:
            part = torch.linspace(max(left, first), min(right, last), 2001, dtype=torch.float64)
            values = sign * op.apply(part[None])[0]
            assert (values[1:-1] <= (values[:-2] + values[2:]) / 2 + off).all(), (left, right)


def smooth_lines_move_as_differences_say(example: OperatorExample) -> None:
    """The lines of a smooth activation move with l and u as finite differences say, tangent points included."""
    op = activation(example)
    if op.piecewise_linear:
        return
    first, last = op.facts.domain
    inside = first + (0.1 if math.isfinite(first) else 0.0), last - (0.1 if math.isfinite(last) else 0.0)
    low = torch.tensor([[-1.9, -0.5, -2.9, 0.3, -1.7]], dtype=torch.float64).clamp(*inside)
    high = torch.tensor([[1.0, 4.0, 3.1, 2.0, -0.2]], dtype=torch.float64).clamp(*inside)
    if op.facts.jumps:  # lines do not move smoothly as a bound crosses a jump, nor where a corner takes over
        low, high = low + 0.04, high + 0.03
    kept = low < high
    low, high = low[kept][None].requires_grad_(), high[kept][None].requires_grad_()
    for slope in (SlopeRule.FIXED, torch.full_like(low.detach(), 0.7)):

        def lines(a: Tensor, b: Tensor, slope: Tensor | SlopeRule = slope) -> tuple[Tensor, ...]:  # [1, N] each
            return parts_of(op.relax(a, b, slope))

        assert torch.autograd.gradcheck(lines, (low, high), eps=1e-5, atol=1e-3, rtol=1e-2)


ACTIVATION_LAWS: tuple[Law, ...] = (
    facts_are_true,
    lines_are_sound,
    lines_are_tight,
    range_is_the_hull,
    nan_bounds_give_nan,
    stable_neurons_are_exact,
    gradients_are_finite,
    unbounded_intervals,
    smooth_lines_move_as_differences_say,
)
