"""The rules of a cascade of networks in benchmarks/cascade_figures.py, against the papers' algorithms step by step."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from properties import LinfBall, robustness
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.graph.torch_import import import_torch
from verifier.query import Query

CERTIFIED, OPEN, REFUTED, NOT_ASKED = 1, 0, -1, 2


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("cascade_figures")


def cases() -> tuple[Tensor, Tensor]:
    """Codes [3, N] and predictions [3, N] of every course that three stages with three classes can take."""
    courses = []
    for codes in itertools.product((CERTIFIED, OPEN, REFUTED), repeat=3):
        first = codes.index(CERTIFIED) if CERTIFIED in codes else 2
        asked = (*codes[: first + 1], *[NOT_ASKED] * (2 - first))
        courses += [(asked, predictions) for predictions in itertools.product(range(3), repeat=3)]
    return torch.tensor([c for c, _ in courses]).T, torch.tensor([p for _, p in courses]).T


def answer(certified: list[bool], predictions: list[int], *, thesis: bool) -> int | None:
    """Algorithm 2 of Wong et al. (2018), or 4 of Wong (2020): the certified answer at an image."""
    for sure, prediction in zip(certified, predictions, strict=True):
        if thesis and prediction != predictions[0]:
            return None
        if sure:
            return prediction
    return None


def test_rules_follow_the_algorithms(figures: ModuleType) -> None:
    codes, predictions = cases()
    found = figures.StageAnswers(codes, predictions, torch.zeros(codes.shape[1], dtype=torch.int64), 0.0)
    for i, (code, prediction) in enumerate(zip(codes.T.tolist(), predictions.T.tolist(), strict=True)):
        sure = [c == CERTIFIED for c in code]
        paper, thesis = (answer(sure, prediction, thesis=t) for t in (False, True))
        assert bool(found.certified[i]) == (paper is not None)
        assert bool(found.robust[i]) == (paper == 0)
        assert bool(found.agreed[i]) == (thesis is not None)
        assert bool(found.right[i]) == ((prediction[2] if paper is None else paper) == 0)


def test_limits_are_reached_by_answers_to_what_is_open(figures: ModuleType) -> None:
    codes, predictions = cases()
    found = figures.StageAnswers(codes, predictions, torch.zeros(codes.shape[1], dtype=torch.int64), 0.0)
    possible, always = found.limits()
    for i, (code, prediction) in enumerate(zip(codes.T.tolist(), predictions.T.tolist(), strict=True)):
        ways = itertools.product(*[(False, True) if c == OPEN else (c == CERTIFIED,) for c in code])
        robust = {answer(list(way), prediction, thesis=False) == 0 for way in ways}
        assert (bool(possible[i]), bool(always[i])) == (True in robust, robust == {True})


def test_bounds_of_every_neuron_are_below_the_margins(figures: ModuleType) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    x = torch.rand(20, 4, dtype=torch.float64)
    ball, spec = LinfBall(x, 0.2, (0.0, 1.0)), robustness(torch.arange(20) % 3, 3)
    query = Query.of(import_torch(network.eval(), x[:1]), ball, spec)
    with torch.no_grad():
        lower = figures.EveryNeuron().run(query, Bounds(), Budget()).lower
        low, high = ball.box()
        margins = torch.stack([spec.values(network(low + torch.rand_like(x) * (high - low))) for _ in range(200)])
    assert (margins.amin(0) >= lower - 1e-12).all()
    assert (lower > 0).any()
    assert (lower < 0).any()
