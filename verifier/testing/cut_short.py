"""Conformance of stages whose time ends at any moment: what they have then holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor, nn

from properties import LinfBall, robustness
from verifier import budget as clocks
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.cascade import reported
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.stages.base import Stage
from verifier.testing.laws import generator, named
from verifier.testing.stages import check_report

CLASSES = 3


class _Residual(nn.Module):
    """Three hidden layers, and a sum of two of them."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in ((4, 6), (6, 6), (6, 5), (5, CLASSES)))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:  # [B, 4] -> [B, CLASSES]
        first, second, third, last = self.layers
        x = self.activation(first(x))
        x = self.activation(second(x)) + x
        return last(self.activation(third(x)))


class _Plain(nn.Module):
    """One hidden layer, for stages that know no other."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.activation = nn.Linear(4, 6), nn.Linear(6, CLASSES), activation

    def forward(self, x: Tensor) -> Tensor:  # [B, 4] -> [B, CLASSES]
        return self.last(self.activation(self.first(x)))


@cache
def _queries() -> tuple[Query, ...]:
    found = []
    for kind in (_Residual, _Plain):
        for activation in (torch.relu, torch.tanh):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(3)
                model = kind(activation).double().eval()
            x = torch.rand(3, 4, generator=generator(), dtype=torch.float64)
            with torch.no_grad():
                spec = robustness(model(x).argmax(1), CLASSES)
            found.append(Query.of(import_torch(model, x), LinfBall(x, 0.3), spec))
    return tuple(found)


class _Clock:
    """Time as it is until it has been read so often, and far beyond every limit from then on."""

    def __init__(self, readings: float) -> None:
        self.left, self.read = readings, 0

    def monotonic(self) -> float:
        self.read += 1
        return time.monotonic() + (0.0 if self.read <= self.left else 1e9)


def _run(stage: Stage, query: Query, readings: float) -> int:
    """One run whose time ends so: what it reports holds. Returns how often the clock was read."""
    clock = _Clock(readings)
    with patch.object(clocks, "time", SimpleNamespace(monotonic=clock.monotonic)), torch.no_grad():
        report = reported(stage, query, Bounds(), Budget(600.0))
    check_report(stage, query, report, count=60)
    return clock.read


def check_cut_short(part: Callable[[], Stage], moments: int = 2, networks: int = 1) -> None:
    """Whenever the time of a stage ends, no member of the sets is outside of what it reports.

    Args:
        part: makes the stage: its class, where its options have defaults.
        moments: at which its time ends, each in a run of its own, besides the last ones.
        networks: of those that the stage supports, how many.

    Raises:
        AssertionError: one is, or none of the networks is supported.
    """
    asked = [query for query in _queries() if part().supports(query)]
    assert asked, f"{named(part)} supports none of the networks"
    for query in asked[:networks]:
        total = _run(part(), query, float("inf"))
        for moment in sorted({*(k * total // moments for k in range(moments)), max(0, total - 1)}):
            _run(part(), query, moment)
