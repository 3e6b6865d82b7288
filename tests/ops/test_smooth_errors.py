"""What is estimated of bounds that are off: a line that was made for an interval is used a little beyond it."""

from __future__ import annotations

import pytest
import torch

from verifier.ops.base import REGISTRY, SlopeRule
from verifier.ops.curves import Smooth
from verifier.ops.exponential import Exp
from verifier.ops.powers import Rsqrt, Square

SMOOTH = [e.op for name in sorted(REGISTRY) for e in REGISTRY[name].examples() if isinstance(e.op, Smooth)]


@pytest.mark.parametrize("op", SMOOTH, ids=str)
@pytest.mark.parametrize("rule", [SlopeRule.FIXED, SlopeRule.ADAPTIVE])
def test_lines_are_off_by_no_more_where_bounds_are_off(op: Smooth, rule: SlopeRule) -> None:
    """Below f by no more than is said, less what the line's own input moves it by."""
    generator = torch.Generator().manual_seed(0)
    first, last = (max(-8.0, op.facts.domain[0] + 0.1), min(8.0, op.facts.domain[1] - 0.1))
    ends = first + (last - first) * torch.rand(2, 500, generator=generator, dtype=torch.float64)
    low, high = ends.sort(0).values
    high[::2] = low[::2] + 1e-2 * (high - low)[::2]  # narrow ones
    low, high = low[None], high[None]
    fine = op.defined(low, high)
    e = 1e-3 * torch.rand(1, 500, generator=generator, dtype=torch.float64)
    lines, moved = op.relax(low, high, rule), op.lines_moved(low - e, high + e, e)
    for x in torch.cat([torch.linspace(0, 1, 11).double()[:, None] * e + high, low - e * torch.rand(5, 1).double()]):
        y, known = op.apply(x), op.defined(x, x) & fine & op.defined(low - e, high + e)
        off = torch.maximum(lines.lower_slope * x + lines.lower_bias - y, y - lines.upper_slope * x - lines.upper_bias)
        allowed = moved - e * torch.minimum(lines.lower_slope.abs(), lines.upper_slope.abs())
        assert (off <= allowed + 1e-12 * (1 + y.abs()))[known].all()


@pytest.mark.parametrize("op", [Square(), Rsqrt(), Exp()], ids=str)
def test_on_narrow_intervals_an_error_is_passed_on_by_one_slope(op: Smooth) -> None:
    low = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64)
    e = torch.full_like(low, 1e-6)
    moved = op.lines_moved(low, low + 1e-5, e)
    assert (moved <= 1.01 * e * op.derivative(low).abs()).all()
    assert (op.lines_moved(low, low + 1e-5, 0 * e) == 0).all()
