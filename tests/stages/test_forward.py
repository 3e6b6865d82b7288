"""Affine functions of few inputs, and neurons that no row depends on: what is left out changes no row."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from properties import Box, Specification
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.graph.torch_import import import_torch
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.dual import unstable_at
from verifier.stages.dual import DualStage
from verifier.stages.forward import ForwardStage
from verifier.vnncomp.ladder import ladder


def generator_query(dtype: torch.dtype = torch.float32, last: type[nn.Module] = nn.ReLU) -> Query:
    """Three numbers to an image, convolutions of which sum up to two outputs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 32), nn.Unflatten(1, (2, 4, 4)), nn.Upsample(scale_factor=2), nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(4, 4, 3, stride=2), last(),
        nn.Flatten(), nn.Linear(36, 2),
    )  # fmt: skip
    x = torch.tensor([[0.3, -0.25, 0.5], [0.1, 0.5, -0.3]], dtype=torch.float64)
    graph = import_torch(model.eval(), x[:1].float()).to(dtype=dtype)
    reach = 0.1 * torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)  # one entry is fixed
    spec = Specification(torch.eye(2).expand(2, 2, 2).double(), torch.zeros(2, 2), torch.arange(2))
    return Query.of(graph, Box(x - reach, x + reach), spec)


@pytest.mark.parametrize(
    ("dtype", "last", "off"),
    [(torch.float32, nn.ReLU, 0.0), (torch.float64, nn.ReLU, 0.0), (torch.float32, nn.Sigmoid, 1e-6)],
)
def test_no_value_of_a_neuron_lies_outside_of_forward_bounds(
    dtype: torch.dtype, last: type[nn.Module], off: float
) -> None:
    query = generator_query(dtype, last)
    report = ForwardStage().run(query, Bounds(), Budget())
    precise, (low, high) = query.graph.to(dtype=torch.float64), query.inputs.box()
    draw = torch.rand(200, *low.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for share in (draw, draw.round()):  # corners too
        values = precise.values((low + share * (high - low)).flatten(0, 1))
        for node, found in report.bounds.items():
            each = values[node].unflatten(0, (200, 2))
            assert (each.amin(0) >= found.lower - off).all() and (each.amax(0) <= found.upper + off).all()
        assert report.lower is not None
        rows = query.spec.rows[0] @ values[-1].T
        assert (report.lower - off <= rows.unflatten(1, (200, 2)).amin(1).T).all()


def test_forward_bounds_decide_neurons_that_intervals_leave_open() -> None:
    query = generator_query()
    ranges, nothing = interval.propagate(query, Bounds()), ForwardStage()
    enclosures = nothing.ahead(query)
    plain = DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget())
    report = ForwardStage().run(query, Bounds(), Budget())
    second = query.graph.pre_activations[1]
    assert enclosures.columns == 3  # a constant and two slopes: an entry that is fixed has none
    before = unstable_at(query.graph, second, *ranges[second]).sum()
    after = unstable_at(query.graph, second, report.bounds[second].lower, report.bounds[second].upper).sum()
    assert after < before
    assert report.lower is not None and plain.lower is not None
    assert (report.lower >= plain.lower - 0.05).all()


def test_a_wide_network_of_few_inputs_gets_forward_bounds_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5000), nn.ReLU(), nn.Linear(5000, 1))
    graph = import_torch(model.eval(), torch.zeros(1, 3))
    spec = Specification(torch.ones(1, 1, 1).double(), torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))
    wide = Query.of(graph, Box(torch.zeros(1, 3).double(), torch.ones(1, 3).double()), spec)
    assert any(isinstance(stage, ForwardStage) for stage in ladder(wide).quick)
    assert not any(isinstance(stage, ForwardStage) for stage in ladder(generator_query()).quick)


def test_neurons_that_no_row_depends_on_are_not_bounded_and_change_no_row() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 1, 3, padding=1), nn.Flatten(),
    )  # fmt: skip
    x = torch.rand(1, 1, 12, 12)
    graph = import_torch(model.eval(), x)
    rows = torch.zeros(1, 1, 144, dtype=torch.float64)
    rows[0, 0, 13] = 1.0  # one place near a corner
    spec = Specification(rows, torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))
    query = Query.of(graph, Box(x.double() - 0.1, x.double() + 0.1), spec)
    every = Specification(rows.new_ones(1, 1, 144), torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))
    whole = DualStage(SlopeRule.ADAPTIVE).run(Query.of(graph, query.inputs, every), Bounds(), Budget())
    report = DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget())
    again = DualStage(SlopeRule.ADAPTIVE).run(query, whole.bounds, Budget())
    second = graph.pre_activations[1]
    near, far = (slice(None), slice(None), slice(0, 3), slice(0, 3)), (slice(None), slice(None), slice(6, 12))
    own, known = report.bounds[second], whole.bounds[second]
    width, best = own.upper - own.lower, known.upper - known.lower
    assert torch.allclose(width[near], best[near], atol=1e-5)
    assert (width[far] > best[far] + 1e-3).any()
    assert report.lower is not None and again.lower is not None
    assert torch.allclose(report.lower, again.lower, atol=1e-5)
