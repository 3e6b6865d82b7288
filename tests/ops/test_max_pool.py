"""Max pools: what they are written with, their backward passes by patches, and how far rounding takes them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from properties import LinfBall, robustness
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.forms import Dense, Diagonal, Identity, LinearForm, Patches, stacked
from verifier.graph.ir import GraphBuilder
from verifier.graph.torch_import import import_torch
from verifier.ops.base import SlopeRule
from verifier.ops.conv import Conv2d
from verifier.ops.elementwise import Add, Subtract
from verifier.ops.pool import pool_index, taps_of, window_taps
from verifier.ops.relu import ReLU
from verifier.ops.shape import Tap
from verifier.query import Query
from verifier.rounding import evaluation_error, margin_error
from verifier.stages import interval
from verifier.stages.dual import DualStage


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 6, 6), (2, 7, 5)], ids=["whole", "cropped"])
@pytest.mark.parametrize("scaled", [None, 1, 2], ids=["shared kernel", "one factor", "a factor for each example"])
@pytest.mark.parametrize("tap", [(0, 0), (1, 1)])
def test_patches_stay_patches(shape: tuple[int, ...], scaled: int | None, tap: tuple[int, int]) -> None:
    """Windows of the convolution hang over the pool's edge, where the cropped map has entries that no window reads."""
    count = (shape[1] // 2, shape[2] // 2)
    op, pooled = Tap(tap, (2, 2), (2, 2), count), (2, *count)
    form: LinearForm = Conv2d(random(3, 2, 3, 3), None, (1, 1), (1, 1)).adjoint(
        Identity((3, *count), random(1)), [pooled], 0
    )
    form = form.settled()
    if scaled is not None:
        form = form.scale(random(scaled, *pooled))
    if scaled == 2:  # no product is left to be written out
        form = form.add(form)
    found = op.adjoint(form, [shape], 0)
    assert isinstance(form, Patches) and isinstance(found, Patches)
    assert torch.allclose(found.dense(), op.adjoint(Dense(form.dense()), [shape], 0).dense())


def test_rows_of_both_sides_stay_patches() -> None:
    """Where a pool's second level turns two-sided forms into one-sided ones, they are diagonal, or of other windows."""
    shape = (2, 5, 6)
    one, other = (Diagonal(random(2, *shape) + k) for k in (0, 1))
    small = Tap((0, 0), (1, 1), (1, 1), shape[1:]).adjoint(one, [shape], 0)
    large = Conv2d(random(2, 2, 3, 3), None, (1, 1), (1, 1)).adjoint(other, [shape], 0)
    for a, b in ((one, other), (one, small), (small, other), (small, large), (large, small), (large, one)):
        both = stacked(a, b)
        assert isinstance(both, Patches)
        assert torch.equal(both.dense(), torch.cat([a.dense(), b.dense()], 1))


@pytest.mark.parametrize(
    "kernel, stride, padding, regular", [(2, 2, 0, True), (3, 2, 0, True), (4, 4, 0, True), (3, 2, 1, False)]
)
def test_windows(kernel: int, stride: int, padding: int, regular: bool) -> None:
    shape = (2, 7, 8)
    axes = [window_taps(n, kernel, stride, padding, 1, False) for n in shape[1:]]
    taps = taps_of(shape, pool_index(shape, axes))
    assert (taps is not None) == regular
    if taps is not None:
        x = random(3, *shape)
        assert torch.equal(torch.stack([t.apply(x) for t in taps]).amax(0), F.max_pool2d(x, kernel, stride, padding))


def test_the_larger_is_off_by_no_more_than_the_worse() -> None:
    """Eight maxima after each other: errors add up, they do not double."""
    builder = GraphBuilder((4,), "x")
    node = builder.add(Add(), (0, 0), "start")
    for k in range(8):
        other = builder.add(Add(), (node, 0), f"other {k}")
        relu = builder.add(ReLU(), (builder.add(Subtract(), (node, other), f"d {k}"),), f"relu {k}")
        node = builder.add(Add(), (other, relu), f"max {k}")
    graph = builder.build()
    x, unit = 1 + random(64, 4).abs(), 2.0**-24
    error = evaluation_error(graph, graph.values(x), unit)
    actual = (graph.forward(x.float()).double() - graph.forward(x.float().double())).abs()
    assert (actual <= error).all()
    assert (error <= 100 * 8 * unit * graph.forward(x).abs()).all()


def test_bounds_of_a_network_with_two_pools() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 3 * 3, 5),
    )  # fmt: skip
    x = torch.rand(2, 1, 14, 13)
    graph = import_torch(model.eval(), x)
    spec = robustness(torch.tensor([0, 3]), 5)
    query = Query.of(graph, LinfBall(x.double(), 0.02), spec)
    report = DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget())
    precise = replace(query, graph=graph.to(query.open.device, torch.float64))
    again = DualStage(SlopeRule.ADAPTIVE).run(precise, Bounds(), Budget())
    assert report.lower is not None and again.lower is not None
    error = margin_error(query, interval.propagate(query, report.bounds))
    assert ((report.lower.double() - again.lower).abs() <= error.double()).all()
    assert float(error.max()) < 0.05  # nowhere near the bounds themselves
    points = (x.double() + 0.02 * (2 * torch.rand(500, *x.shape, dtype=torch.float64) - 1)).transpose(0, 1)
    for i in range(2):
        one = precise.select(torch.tensor([i]))
        values = one.spec.select(torch.zeros(500, dtype=torch.int64)).values(precise.graph.forward(points[i]))
        assert (values.amin(0) >= again.lower[i]).all()
