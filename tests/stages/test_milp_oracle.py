"""The complete integer program against the truth: exhaustive linear pieces on tiny networks of every kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.oracle import (
    AffineStep,
    MaxStep,
    TinyNetwork,
    check_against_grid,
    exact_minimum,
    hardtanh,
    leaky,
    random_piecewise,
    random_tiny,
)
from helpers.tiny_cases import TinyCase
from helpers.tiny_torch import TinyModule

from properties import robustness
from solvers import SolveStatus
from verifier import Verdict, Verifier
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.encoding.exact_rows import exact_rows
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.stages.dual import DualStage
from verifier.stages.milp import MilpStage
from verifier.verdict import Trust

FAST, SLOW, CHUNK = 40, 3000, 20


class Case(TinyCase):
    def verifier(self, backend: str = "highs") -> Verifier:
        stage = MilpStage(backend=backend, workers=0)
        return Verifier(self.model, torch.zeros(1, self.network.inputs, dtype=torch.float64), stages=[stage])

    def query(self, verifier: Verifier) -> Query:
        return Query.of(verifier.graph, self.inputs, robustness(torch.tensor([self.label]), 3))


def case(seed: int) -> Case:
    generator = np.random.default_rng(seed)
    network = random_piecewise(generator) if seed % 4 else random_tiny(generator)
    return Case.around(network, TinyModule(network).eval(), generator)


def known(query: Query, rule: SlopeRule = SlopeRule.ADAPTIVE) -> Bounds:
    with torch.no_grad():
        return DualStage(rule).run(query, Bounds(), Budget()).bounds


def check_optimum(c: Case, query: Query, backend: str = "highs") -> None:
    """Every row's optimum is the oracle's."""
    found = exact_rows(query, known(query), backend=backend, workers=0)
    assert all(s is SolveStatus.OPTIMAL for s in found.status[0]), found.status
    np.testing.assert_allclose(found.value[0].numpy(), c.exact, rtol=1e-4, atol=1e-5)


def check_verdict(c: Case, verifier: Verifier) -> Verdict:
    """The stage alone decides, rightly, and says what its word is worth; no bound is above the truth."""
    result = verifier.run(c.inputs, robustness(torch.tensor([c.label]), 3))
    verdict, exact = result.verdict[0], float(c.exact.min())
    if abs(exact) > 1e-4:
        assert verdict is (Verdict.VERIFIED if exact > 0 else Verdict.FALSIFIED), (exact, result.reason)
    if verdict is Verdict.VERIFIED:
        assert exact > 0 and result.trust[0] in (Trust.SOLVER, Trust.CHECKED)
    if verdict is Verdict.FALSIFIED:
        point = result.counterexample[0]
        assert point is not None and exact < 0
        assert (point.numpy() >= c.lower).all() and (point.numpy() <= c.upper).all()
        y = c.network.forward(point.double().numpy())
        assert min(y[c.label] - np.delete(y, c.label)) < 0
    assert (result.margins[0].numpy()[np.arange(3) != c.label] <= c.exact + 1e-6).all()
    return verdict


def check(seeds: range) -> None:
    decided = dict.fromkeys(Verdict, 0)
    for seed in seeds:
        c = case(seed)
        verifier = c.verifier()
        query = c.query(verifier)
        if MilpStage().supports(query):
            check_optimum(c, query)
            decided[check_verdict(c, verifier)] += 1
    assert decided[Verdict.VERIFIED] > 0 and decided[Verdict.FALSIFIED] > 0, decided


@pytest.mark.parametrize("first", range(0, FAST, CHUNK))
def test_tiny_networks(first: int) -> None:
    check(range(first, first + CHUNK))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FAST, FAST + SLOW, 5 * CHUNK))
def test_many_tiny_networks(first: int) -> None:
    check(range(first, first + 5 * CHUNK))


@pytest.mark.parametrize("backend", ["scipy", "pulp"])
def test_other_backends(backend: str) -> None:
    pytest.importorskip(backend)
    for seed in range(4 if backend == "scipy" else 2):
        c = case(9000 + seed)
        verifier = c.verifier(backend)
        check_optimum(c, c.query(verifier), backend)
        check_verdict(c, verifier)


@pytest.mark.parametrize("seed", range(12))
def test_the_oracle_against_a_grid(seed: int) -> None:
    """No grid point is below its minimum, its minimiser reaches it, and torch agrees on the network."""
    c = case(5000 + seed)
    costs = [np.eye(3)[c.label] - np.eye(3)[other] for other in range(3) if other != c.label]
    grid = check_against_grid(c.network, costs, c.exact, c.lower, c.upper, 31)
    y = c.network.forward(grid)
    np.testing.assert_allclose(c.model(torch.from_numpy(grid)).detach().numpy(), y, rtol=1e-12, atol=1e-12)


def test_the_oracle_on_hand_computed_networks() -> None:
    """Over [-2, 3]: hardtanh(x) - leaky(x) / 2 has its minimum at 3, and max(x, -x) at 0."""
    identity = AffineStep(((0, np.array([[1.0], [-1.0]])),), np.zeros(2))
    low, high, one = np.array([-2.0]), np.array([3.0]), np.array([1.0])
    both = TinyNetwork(1, (identity, hardtanh(1), leaky(1, 0.5), AffineStep(
        ((2, np.array([[1.0, 0.0]])), (3, np.array([[-0.5, 0.0]]))), np.zeros(1))))  # fmt: skip
    found = exact_minimum(both, one, 0.0, low, high)  # pieces: -1 - x/4, x - x/4, x/2, 1 - x/2
    assert found.value == pytest.approx(-0.75) and found.point[0] == pytest.approx(-1.0)
    widest = TinyNetwork(1, (identity, MaxStep(1, 2), AffineStep(((2, np.array([[1.0]])),), np.array([-0.25]))))
    found = exact_minimum(widest, one, 0.0, low, high)
    assert found.value == pytest.approx(-0.25) and found.regions == 2
    assert exact_minimum(widest, -one, 0.0, low, high).value == pytest.approx(-2.75)


def test_rows_that_are_not_open_are_not_asked() -> None:
    c = case(1)
    query = c.query(c.verifier())
    query = replace(query, open=torch.tensor([[True, False]]))
    found = exact_rows(query, known(query), workers=0)
    assert found.status[0][1] is None and found.value[0, 1].isnan() and not found.value[0, 0].isnan()
