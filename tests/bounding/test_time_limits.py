"""Limits on the time of bounds and radii hold on deep networks, and what is found by then is sound."""

from __future__ import annotations

import time
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import verifier
from verifier.graph import Graph

EPS, LIMIT = 2 / 255, 0.3
#: CPU seconds: the limit, what is allowed beyond it, passes of intervals; without a limit each method takes 10 and more
MOST = 4.0


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:  # [B, channels, H, W]
        return torch.relu(x + self.second(torch.relu(self.first(x))))


@cache
def deep() -> tuple[nn.Module, Tensor, Graph]:
    """13 layers of activations."""
    torch.manual_seed(0)
    blocks = [Block(8) for _ in range(6)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *blocks, nn.Flatten(), nn.Linear(8192, 10)).eval()
    x = torch.rand(1, 3, 32, 32)
    return model, x, verifier.import_torch(model, x)


def perceptron(inputs: int, hidden: list[int], outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    widths = pairwise([inputs, *hidden, outputs])
    return nn.Sequential(*[part for a, b in widths for part in (nn.Linear(a, b), nn.ReLU())][:-1]).eval()


def near(x: Tensor, radius: float) -> Tensor:  # [1, *input] -> [64, *input]
    return x + radius * (2 * torch.rand(64, *x.shape[1:]) - 1).sign()


@pytest.mark.parametrize("method", ["crown", "dual", "zonotope", "interval"])
@pytest.mark.parametrize("differentiable", [False, True])
def test_bounds_end_in_time_and_are_sound(method: str, differentiable: bool) -> None:
    model, x, graph = deep()
    began = time.process_time()
    found = verifier.bounds(graph, x, EPS, method, budget=LIMIT, differentiable=differentiable)
    assert time.process_time() - began < MOST
    assert found.exhausted or method == "interval"
    with torch.no_grad():
        y = model(near(x, EPS))
        assert (found.lower <= y + 1e-4).all() and (y - 1e-4 <= found.upper).all() and found.lower.isfinite().all()


def test_functions_that_no_pass_reached_are_constant() -> None:
    model, x = perceptron(50, [400] * 30, 3), torch.rand(1, 50)
    began = time.process_time()
    found = verifier.bounds(model, x, 0.01, of="all", linear=True, budget=0.0)
    assert found.exhausted and time.process_time() - began < MOST
    assert found.lines is not None and not found.lines.A_lower.any() and not found.lines.A_upper.any()
    assert torch.equal(found.lines.b_lower, found.lower) and torch.equal(found.lines.b_upper, found.upper)
    points = near(x, 0.01)
    for name, layer in zip(found, model, strict=True):
        points = layer(points)
        assert (found[name].lower <= points + 1e-5).all() and (points <= found[name].upper + 1e-5).all()


@pytest.mark.parametrize("stages", [None, ["clean", "dual", "attack"]])
def test_a_radius_ends_in_time(stages: list[str] | None) -> None:
    model, x, _ = deep()
    began = time.process_time()
    found = verifier.certified_radius(model, x, clip=(0, 1), budget=LIMIT, stages=stages)
    assert time.process_time() - began < MOST
    assert (found.radius < 0.1).all() and (found.refuted_above > found.radius).all()
    label = model(x).argmax(1)
    assert (model(near(x, float(found.radius)).clamp(0, 1)).argmax(1) == label).all()


def test_a_radius_cut_short_is_one_that_is_proved() -> None:
    model, x = perceptron(20, [30] * 4, 4), torch.rand(6, 20)
    whole = verifier.certified_radius(model, x)
    for budget in (0.02, 0.1, 1.0):
        part = verifier.certified_radius(model, x, budget=budget)
        assert (part.radius <= whole.refuted_above * 1.01).all() and (part.refuted_above > part.radius).all()
        for i in (part.radius > 0).nonzero().squeeze(1).tolist():
            one = slice(i, i + 1)
            assert verifier.verify(
                model, x[one], float(part.radius[i]), label=part.label[one], stages=["dual"]
            ).verified.all()
