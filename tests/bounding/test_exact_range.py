"""`verifier.exact_range` against the exhaustive oracle, and as an answer that can be interrupted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.oracle import TinyNetwork, exact_minimum, random_tiny
from helpers.tiny_torch import TinyModule
from torch import Tensor, nn

import properties
import verifier
from verifier.verdict import Trust


def tiny(seed: int) -> tuple[TinyNetwork, nn.Module, Tensor, float]:
    generator = np.random.default_rng(seed)
    network = random_tiny(generator)
    x = torch.from_numpy(generator.uniform(-1, 1, (1, network.inputs)))
    return network, TinyModule(network).double().eval(), x, float(generator.uniform(0.1, 0.5))


@pytest.mark.parametrize(("method", "seed"), [("branch", 0), ("branch-input", 1), ("milp", 1)])
def test_the_range_is_the_oracles(method: str, seed: int) -> None:
    network, model, x, eps = tiny(seed)
    rows = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64)
    found = verifier.exact_range(model, x, eps, C=rows, method=method, tolerance=1e-4, budget=None)
    ball = properties.LinfBall(x, eps)
    for s, row in enumerate(rows.numpy()):
        ends = []
        for sign in (1, -1):
            least = exact_minimum(network, sign * row, 0.0, *(end[0].numpy() for end in ball.box()))
            ends.append(sign * least.value)
        slack = 1e-7  # of the oracle's own programs
        assert found.lower[0, s] <= ends[0] + slack and ends[0] <= found.attained_lower[0, s] + slack
        assert found.attained_upper[0, s] <= ends[1] + slack and ends[1] <= found.upper[0, s] + slack
    assert (found.gap <= 1e-4 * (1 + found.attained_lower.abs() + found.attained_upper.abs())).all()
    assert set(found.trust) <= {Trust.CHECKED, Trust.SOLVER if method == "milp" else Trust.FLOAT}
    for points, values in ((found.lowest, found.attained_lower), (found.highest, found.attained_upper)):
        assert ball.contains(points[:, 0]).all()
        assert torch.allclose(model(points[:, 0]) @ rows.T, values, atol=1e-12)


def test_what_is_affine_is_exact_at_once() -> None:
    model = nn.Sequential(nn.Linear(3, 2)).double().eval()
    found = verifier.exact_range(model, torch.zeros(2, 3, dtype=torch.float64), 0.5)
    reach = 0.5 * model[0].weight.abs().sum(1)  # type: ignore[operator]
    assert torch.allclose(found.upper, (model[0].bias + reach).detach().expand(2, -1))  # type: ignore[operator]
    assert float(found.gap.max()) < 1e-9 and not found.exhausted and "spent" not in repr(found)


def test_without_time_there_is_a_range_with_a_gap() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 1)).double().eval()
    x = torch.zeros(1, 6, dtype=torch.float64)
    early = verifier.exact_range(model, x, 1.0, budget=0.0)
    assert early.exhausted and "gap" in repr(early) and ", budget spent)" in repr(early)
    assert (early.lower <= early.attained_lower).all() and (early.attained_upper <= early.upper).all()
    later = verifier.exact_range(model, x, 1.0, budget=1.0)
    assert (later.gap < early.gap).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "crown"}, "branch-input"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"budget": -1.0}, "budget"),
        ({"C": torch.eye(2)}, "C must be"),
        ({"threat": "linf+l2"}, "member of a union"),
    ],
)
def test_unusable_arguments_are_named(options: dict[str, object], message: str) -> None:
    _, model, x, eps = tiny(0)
    with pytest.raises(verifier.InputError, match=message):
        verifier.exact_range(model, x, eps, **options)  # type: ignore[arg-type]
