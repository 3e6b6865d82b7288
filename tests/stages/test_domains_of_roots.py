"""Functions that are not defined everywhere, under bounds that rounding or a loose pass would take out of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from properties import LinfBall, robustness
from verifier import verify
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.stages import stage


class Normalised(nn.Module):
    """Two layers with LayerNorm, the second of which sees squares that are large beside its epsilon."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(100 * self.second(self.norm(self.first(x)))))


@pytest.mark.parametrize("name", ["interval", "dual", "dual-adaptive"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.05, 0.3])
def test_a_variance_stays_positive_however_wide_its_bounds_are(name: str, dtype: torch.dtype, eps: float) -> None:
    torch.manual_seed(0)
    network = Normalised().eval().requires_grad_(False)
    x = torch.rand(3, 6)
    graph = import_torch(network, x[:1]).to(dtype=dtype)
    label = network(x).argmax(1)
    query = Query.of(graph, LinfBall(x.to(dtype), eps), robustness(label, 3))
    lower = stage(name).run(query, Bounds(), Budget()).lower
    assert lower is not None
    assert lower.isfinite().all()
    inside = network((x + eps * (2 * torch.rand(200, 3, 6) - 1)).flatten(0, 1)).unflatten(0, (200, 3))
    others = [[c for c in range(3) if c != int(y)] for y in label]
    margins = torch.stack([inside[:, b, label[b], None] - inside[:, b, others[b]] for b in range(3)], 1)
    assert (margins.amin(0) >= lower - 1e-4).all()


class OfOneNumber(nn.Module):
    """Functions of a sum over everything, which has no dimension but the batch's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x)).sum(1)
        z = torch.sqrt(y + 1) * torch.exp(0.1 * y)
        return torch.stack([z + y, 0.5 * z, y - z], 1)


@pytest.mark.parametrize(
    "name", ["interval", "dual", "dual-adaptive", "dual-optimised", "zonotope", "branch", "lp", "milp"]
)
def test_numbers_without_dimensions_are_bounded(name: str) -> None:
    torch.manual_seed(1)
    network, x = OfOneNumber().eval().requires_grad_(False), torch.rand(2, 4)
    result = verify(network, x, 0.02, stages=(name,), example_budget=10)
    inside = network((x + 0.02 * (2 * torch.rand(500, 2, 4) - 1)).flatten(0, 1)).unflatten(0, (500, 2))
    label = network(x).argmax(1)
    for b in range(2):
        least = (inside[:, b, label[b], None] - inside[:, b]).amin(0)
        others = torch.arange(3) != label[b]
        assert (result.margins[b][others] <= least[others] + 1e-5).all() and result.margins[b].isfinite()[others].all()
