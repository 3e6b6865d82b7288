"""The verifier against the truth: exhaustive activation patterns on tiny ReLU networks."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.oracle import (
    AffineStep,
    ReluStep,
    TinyNetwork,
    check_against_grid,
    exact_minimum,
    random_tiny,
    triangle_minimum,
)
from helpers.tiny_cases import TinyCase
from helpers.tiny_torch import TinyModule
from torch import Tensor

from properties import robustness
from verifier import Verdict, Verifier
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.graph import Graph
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.stages.dual import DualStage

FAST, SLOW, CHUNK = 90, 1320, 30


class Case(TinyCase):
    @property
    def costs(self) -> np.ndarray:
        others = [c for c in range(3) if c != self.label]
        return np.eye(3)[self.label] - np.eye(3)[others]


def case(seed: int) -> Case:
    generator = np.random.default_rng(seed)
    network = random_tiny(generator)
    return Case.around(network, TinyModule(network).float().eval(), generator)


def values_before_relus(network: TinyNetwork, graph: Graph) -> dict[int, int]:
    """Graph node of every value before a ReLU, matched by order: both are topological."""
    parents = [s.parent for s in network.steps if isinstance(s, ReluStep)]
    nodes = [graph.nodes[i].parents[0] for i in graph.activations]
    return dict(zip(parents, nodes, strict=True))


def exact_margin(network: TinyNetwork, x: Tensor, label: int) -> Fraction:
    """The smallest margin at x in rational arithmetic."""
    values = [[Fraction(float(v)) for v in x]]
    for step in network.steps:
        if isinstance(step, ReluStep):
            values.append([max(v, Fraction(0)) for v in values[step.parent]])
            continue
        assert isinstance(step, AffineStep)
        total = [Fraction(float(b)) for b in step.bias]
        for parent, matrix in step.terms:
            for j, row in enumerate(matrix):
                total[j] += sum(Fraction(float(w)) * v for w, v in zip(row, values[parent], strict=True))
        values.append(total)
    y = values[-1]
    return min(y[label] - y[o] for o in range(len(y)) if o != label)


def check_bounds(c: Case, verifier: Verifier, compared: SlopeRule) -> None:
    """dual <= exact for both rules and precisions; for `compared`, dual <= triangle LP of the same bounds <= exact."""
    spec = robustness(torch.tensor([c.label]), 3)
    for dtype in (torch.float32, torch.float64):
        graph = verifier.graph.to(dtype=dtype)
        slack = (1e-5 if dtype is torch.float32 else 1e-8) * (1 + np.abs(c.exact))
        for rule in SlopeRule:
            with torch.no_grad():
                report = DualStage(rule).run(Query.of(graph, c.inputs, spec), Bounds(), Budget())
            assert report.lower is not None
            lower = report.lower[0].double().numpy()
            assert (lower <= c.exact + slack).all(), f"{rule} {dtype}: {lower} above the exact {c.exact}"
            if dtype is torch.float32 or rule is not compared:
                continue
            bounds = {
                value: tuple(getattr(report.bounds[node], side)[0].numpy() for side in ("lower", "upper"))
                for value, node in values_before_relus(c.network, graph).items()
            }
            for k, cost in enumerate(c.costs):
                lp = triangle_minimum(c.network, cost, 0.0, c.lower, c.upper, bounds)  # type: ignore[arg-type]
                assert lower[k] <= lp + 1e-6 * (1 + abs(lp)), f"{rule}: dual {lower[k]} above its LP {lp}"
                assert lp <= c.exact[k] + 1e-6 * (1 + abs(c.exact[k])), f"LP {lp} above the exact {c.exact[k]}"


def check_verdict(c: Case, verifier: Verifier) -> Verdict:
    """VERIFIED only where the exact minimum is positive, FALSIFIED only where negative and with a real point."""
    result = verifier.run(c.inputs, robustness(torch.tensor([c.label]), 3))
    verdict, exact = result.verdict[0], float(c.exact.min())
    if verdict is Verdict.VERIFIED:
        assert exact > -1e-9, f"VERIFIED, but the exact margin is {exact}"
        assert result.margins[0].min() <= exact + 1e-5 * (1 + abs(exact))
    if verdict is Verdict.FALSIFIED:
        assert exact < 1e-9, f"FALSIFIED, but the exact margin is {exact}"
        point = result.counterexample[0]
        assert point is not None
        x = point.double().numpy()
        assert (x >= c.lower).all() and (x <= c.upper).all()
        assert exact_margin(c.network, point, c.label) < 0
    assert exact <= float(result.attack_margin[0]) + 1e-7, "an attack below the exact minimum"
    return verdict


def check(seeds: range) -> None:
    decided = dict.fromkeys(Verdict, 0)
    for seed in seeds:
        c = case(seed)
        verifier = Verifier(c.model, torch.zeros(1, c.network.inputs))
        check_bounds(c, verifier, list(SlopeRule)[seed % 2])
        decided[check_verdict(c, verifier)] += 1
    # the cases must exercise both doors, or the test shows nothing
    assert decided[Verdict.VERIFIED] > 0 and decided[Verdict.FALSIFIED] > 0, decided


@pytest.mark.parametrize("first", range(0, FAST, CHUNK))
def test_tiny_networks_against_the_truth(first: int) -> None:
    check(range(first, first + CHUNK))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FAST, FAST + SLOW, 4 * CHUNK))
def test_many_tiny_networks_against_the_truth(first: int) -> None:
    check(range(first, first + 4 * CHUNK))


@pytest.mark.parametrize("seed", range(12))
def test_the_oracle_against_a_grid(seed: int) -> None:
    """The oracle itself: no grid point is below its minimum, and its own minimiser reaches it."""
    c = case(5000 + seed)
    check_against_grid(c.network, c.costs, c.exact, c.lower, c.upper, 41)


def test_the_oracle_on_a_hand_computed_network() -> None:
    """|x| - 0.25 = relu(x) + relu(-x) - 0.25 over [-1, 2] has its minimum -0.25 at 0, in two regions.

    Its triangle relaxation over z in [-1, 2], -z in [-2, 1] has the same minimum: both lower lines meet there.
    """
    network = TinyNetwork(
        1,
        (
            AffineStep(((0, np.array([[1.0], [-1.0]])),), np.zeros(2)),
            ReluStep(1),
            AffineStep(((2, np.array([[1.0, 1.0]])),), np.array([-0.25])),
        ),
    )
    low, high, one = np.array([-1.0]), np.array([2.0]), np.array([1.0])
    found = exact_minimum(network, one, 0.0, low, high)
    assert found.regions == 2 and found.value == pytest.approx(-0.25) and abs(found.point[0]) < 1e-9
    # the maximum, 1.75 at x = 2; the chords (2 z + 2) / 3 and (1 (-z) + 2) / 3 sum to (z + 4) / 3, 2 at z = 2
    assert exact_minimum(network, -one, 0.0, low, high).value == pytest.approx(-1.75)
    bounds = {1: (np.array([-1.0, -2.0]), np.array([2.0, 1.0]))}
    assert triangle_minimum(network, one, 0.0, low, high, bounds) == pytest.approx(-0.25)
    assert triangle_minimum(network, -one, 0.0, low, high, bounds) == pytest.approx(-1.75)


def test_case_models_are_the_oracle_networks() -> None:
    for seed in range(20):
        c = case(seed)
        x = torch.randn(7, c.network.inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        ours = c.model.double()(x).detach().numpy()
        np.testing.assert_allclose(ours, c.network.forward(x.numpy()), rtol=1e-12, atol=1e-12)
