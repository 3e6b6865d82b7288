"""Conformance of products: planes, ranges and what they read, over boxes of every kind, in both precisions."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.forms import Dense, Runs
from verifier.ops.base import OperatorExample, SlopeRule
from verifier.ops.product import Product
from verifier.relaxation.products import Planes
from verifier.testing.laws import Law

DTYPES = (torch.float64, torch.float32)
#: sizes of boxes' ends
SCALES = (1e-12, 1e-3, 1.0, 30.0, 1e8)


def product(example: OperatorExample) -> Product:
    assert isinstance(example.op, Product)
    return example.op


def boxes(example: OperatorExample, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Boxes [B, *shape]: of all sizes, one-sided, straddling, without width in some entries."""
    generator = torch.Generator().manual_seed(5)
    lows, highs = [], []
    for scale in SCALES:
        pair = scale * torch.randn(2, 12, *example.shapes[0], generator=generator, dtype=torch.float64)
        fixed = torch.rand(pair[0].shape, generator=generator) < 0.2
        lows.append(pair.amin(0))
        highs.append(torch.where(fixed, pair.amin(0), pair.amax(0)))
    return torch.cat(lows).to(dtype), torch.cat(highs).to(dtype)


def slopes(op: Product, like: Tensor) -> list[Tensor | SlopeRule]:  # [B, ...]
    generator = torch.Generator().manual_seed(6)
    random = torch.rand(len(like), len(op.left), generator=generator, dtype=torch.float64).to(like)
    return [SlopeRule.FIXED, SlopeRule.ADAPTIVE, torch.zeros_like(random), torch.ones_like(random), random]


def points(low: Tensor, high: Tensor) -> Tensor:  # [B, *shape] each -> [P, B, *shape]
    """Corners and points in between, in float64."""
    generator = torch.Generator().manual_seed(7)
    share = torch.rand(200, *low.shape, generator=generator, dtype=torch.float64)
    share[:100] = share[:100].round()
    low, high = low.double(), high.double()
    return torch.minimum(torch.maximum(low + share * (high - low), low), high)


def planes_are_sound(example: OperatorExample) -> None:
    """The planes hold at every point of the boxes, whatever the parameter."""
    op = product(example)
    for dtype in DTYPES:
        low, high = boxes(example, dtype)
        x = points(low, high)
        factors, value = op.read(x.flatten(0, 1)).unflatten(0, x.shape[:2]), op.apply(x.flatten(0, 1))
        value = value.unflatten(0, x.shape[:2])
        for slope in slopes(op, low):
            lines = op.relax(low, high, slope)
            for side, a, c in ((1, lines.lower_slope, lines.lower_bias), (-1, lines.upper_slope, lines.upper_bias)):
                terms = a.double() * factors
                own = 4 * torch.finfo(torch.float64).eps * (terms.abs().sum(-2) + value.abs() + c.abs())
                assert (side * (value - terms.sum(-2) - c.double()) >= -own).all(), (dtype, slope, side)


def planes_meet_the_product(example: OperatorExample) -> None:
    """Each plane meets the product at two corners, and is the product where a factor does not vary."""
    op = product(example)
    low, high = boxes(example, torch.float64)
    ends = torch.stack([op.read(low), op.read(high)])
    size = ends.abs().amax(0).prod(1)
    for slope in slopes(op, low):
        lines = op.relax(low, high, slope)
        gaps = []
        for i in (0, 1):
            for j in (0, 1):
                x, y = ends[i][:, 0], ends[j][:, 1]
                for side, a, c in ((1, lines.lower_slope, lines.lower_bias), (-1, lines.upper_slope, lines.upper_bias)):
                    gaps.append(side * (x * y - a[:, 0] * x - a[:, 1] * y - c))
        both = torch.stack(gaps).unflatten(0, (4, 2))
        assert (both.amin(0) <= 1e-13 * size + 1e-300).all()
        settled = ~op.varies(low, high)
        assert settled.any()
        assert (both.amax(0).amax(0)[settled] <= 1e-13 * size[settled] + 1e-300).all()


def range_is_that_of_the_corners(example: OperatorExample) -> None:
    """`range` is what the products of ends reach; of unknown ends it is everything."""
    op = product(example)
    low, high = boxes(example, torch.float64)
    value = op.apply(points(low, high).flatten(0, 1)).unflatten(0, (-1, len(low)))
    bottom, top = op.range(low, high)
    assert (bottom <= value).all() and (top >= value).all()
    x, y = op.read(low).unbind(1), op.read(high).unbind(1)
    corners = torch.stack([a * b for a in (x[0], y[0]) for b in (x[1], y[1])])
    assert torch.equal(bottom, corners.amin(0)) and torch.equal(top, corners.amax(0))
    unknown = torch.full_like(low, torch.nan)
    assert all(t.isinf().all() for t in op.range(unknown, unknown))


def onto_is_the_adjoint_of_read(example: OperatorExample) -> None:
    """Coefficients on factors, put where the factors are, give the same sums."""
    op = product(example)
    generator = torch.Generator().manual_seed(8)
    z = torch.randn(3, *example.shapes[0], generator=generator, dtype=torch.float64)
    nu = torch.randn(3, 4, *op.ports((len(op.left),)), generator=generator, dtype=torch.float64)
    on_parent = op.onto(nu, example.shapes[0])
    direct = (nu * op.read(z).unsqueeze(1)).sum((2, 3))
    assert torch.allclose((on_parent * z.unsqueeze(1)).flatten(2).sum(2), direct, rtol=1e-12)


def gradients_reach_bounds_and_parameter(example: OperatorExample) -> None:
    """Slopes and biases move with the boxes' ends and with t, as differences say."""
    op = product(example)
    generator = torch.Generator().manual_seed(9)
    low = torch.randn(2, *example.shapes[0], generator=generator, dtype=torch.float64)
    high, t = low + 1.0, torch.full((2, len(op.left)), 0.3, dtype=torch.float64)

    def lines(a: Tensor, b: Tensor, s: Tensor) -> tuple[Tensor, ...]:  # [2, *shape] each, [2, M]
        found = op.relax(a, b, s)
        return found.lower_slope, found.lower_bias, found.upper_slope, found.upper_bias

    # at the corners that a plane meets its bias has a kink in t, of rounding alone: compared loosely
    assert torch.autograd.gradcheck(lines, tuple(v.requires_grad_() for v in (low, high, t)), atol=1e-4, rtol=1e-3)


def what_varies_is_unstable(example: OperatorExample) -> None:
    """Entries without width are stable, and so are those that are multiplied with such entries alone; NaN is not."""
    op = product(example)
    low, high = boxes(example, torch.float64)
    unstable, wide = op.unstable(low, high), low < high
    assert not (unstable & ~wide).any()
    assert torch.equal(unstable.flatten(1), op.onto(op.varies(low, high).double().unsqueeze(1).unsqueeze(2).expand(
        -1, 1, 2, -1), example.shapes[0]).flatten(1) > 0)  # fmt: skip
    assert op.unstable(*(torch.full_like(low[:1], torch.nan),) * 2).any()


def sums_are_pulled_back_alike(example: OperatorExample) -> None:
    """A form that is constant along runs of products, as below their sums, goes to the factors as when written out."""
    op = product(example)
    low, high = boxes(example, torch.float64)
    generator = torch.Generator().manual_seed(10)
    count = len(op.left)
    for length in (n for n in range(1, count + 1) if count % n == 0):
        for slope in slopes(op, low):
            planes = Planes(op, example.shapes[0], op.relax(low, high, slope))
            form = Runs(torch.randn(len(low), 3, count // length, generator=generator, dtype=torch.float64), (count,))
            (short, a), (full, b) = planes.below(form), planes.below(Dense(form.dense()))
            size = full.abs_dot(torch.maximum(low.abs(), high.abs())) + form.abs_dot(planes.lines.lower_bias.abs())
            size = size + form.abs_dot(planes.lines.upper_bias.abs())
            off = (short.dense() - full.dense()).flatten(2).abs().amax(2)
            assert (off <= 1e-13 * full.dense().flatten(2).abs().amax(2) + 1e-300).all(), length
            assert ((a - b).abs() <= 1e-13 * size + 1e-300).all(), length


PRODUCT_LAWS: tuple[Law, ...] = (
    planes_are_sound,
    planes_meet_the_product,
    range_is_that_of_the_corners,
    onto_is_the_adjoint_of_read,
    gradients_reach_bounds_and_parameter,
    what_varies_is_unstable,
    sums_are_pulled_back_alike,
)
