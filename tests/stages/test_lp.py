"""The LP stages: laws, the oracle's truth, lying solvers, budgets, refinement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.evidence import multipliers_of
from helpers.fake_backends import LIES, Fake, registered
from helpers.oracle import (
    ReluStep,
    TinyNetwork,
    exact_minimum,
    hardtanh,
    leaky,
    random_piecewise,
    random_tiny,
    triangle_minimum,
)
from helpers.tiny_torch import TinyModule
from torch import Tensor

from properties import Box, LinfBall, robustness
from solvers.base import SolveResult
from solvers.inline import Adaptive, Inline
from solvers.pool import Pool, Task
from verifier import Trust
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.encoding.clock import Clock
from verifier.encoding.refinement import refine
from verifier.encoding.relaxed_rows import lp_rows, solve_rows
from verifier.graph.torch_import import import_torch
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.multipliers import dual_bound
from verifier.relaxation.refinable import most_influential, refinable
from verifier.stages import stage
from verifier.stages.dual import DualStage
from verifier.stages.lp import LpRefineStage, LpStage
from verifier.testing.networks import KINDS, random_network

QUICK, MANY = range(24), range(24, 600)


def tiny(network: TinyNetwork, seed: int) -> tuple[Query, np.ndarray, np.ndarray]:
    """A query about two margins of a tiny network on a box around a random point, with the box."""
    generator = np.random.default_rng(seed)
    center = np.round(generator.normal(size=network.inputs) * 16) / 16
    radius = np.ldexp(1.0, -int(generator.integers(0, 4)))
    low, high = center - radius, center + radius
    model = TinyModule(network).eval()
    graph = import_torch(model, torch.from_numpy(center)[None]).to(dtype=torch.float64)
    label = int(network.forward(center).argmax())
    inputs = Box(torch.from_numpy(low)[None], torch.from_numpy(high)[None])
    return Query.of(graph, inputs, robustness(torch.tensor([label]), 3)), low, high


def exact_rows(network: TinyNetwork, query: Query, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    rows = query.spec.rows[0].double().numpy()
    return np.array([exact_minimum(network, row, 0.0, low, high).value for row in rows])


def bounded(query: Query) -> tuple[Bounds, Tensor]:
    """The adaptive dual's bounds, and its lower bounds of the rows."""
    with torch.no_grad():
        report = DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget())
    assert report.lower is not None
    return report.bounds, report.lower


def network_query(name: str, seed: int = 0, batch: int = 3, dtype: torch.dtype = torch.float64) -> Query:
    net = random_network(name, seed, batch, dtype)
    graph = import_torch(net.model, net.x[:1]).to(dtype=dtype)
    return Query.of(graph, LinfBall(net.x, net.eps), robustness(net.model(net.x).argmax(1), 4))


def check_order(seed: int) -> None:
    """dual <= LP <= exact, ours is the solver's value, and no more than the oracle's LP, which also has the intervals
    of stable neurons as constraints."""
    generator = np.random.default_rng(seed)
    network = random_tiny(generator) if seed % 2 else random_piecewise(generator)
    query, low, high = tiny(network, seed)
    bounds, dual = bounded(query)
    found, exact = lp_rows(query, bounds), exact_rows(network, query, low, high)
    slack = 1e-6 * (1 + np.abs(exact).max())
    lower = found.lower[0].numpy()
    assert (dual[0].numpy() <= lower + slack).all() and (lower <= exact + slack).all()
    assert np.abs(lower - found.optimum[0].numpy()).max() < slack
    if not all(isinstance(s, ReluStep) or hasattr(s, "bias") for s in network.steps):
        return
    relus = [query.graph.nodes[i].parents[0] for i in query.graph.activations]
    known = {
        network.steps[i - 1].parent: (bounds[node].lower[0].numpy(), bounds[node].upper[0].numpy())
        for i, node in zip(network.relus, relus, strict=True)
    }
    rows = query.spec.rows[0].double().numpy()
    oracle = np.array([triangle_minimum(network, row, 0.0, low, high, known) for row in rows])
    assert (lower <= oracle + slack).all()


@pytest.mark.parametrize("first", range(QUICK.start, QUICK.stop, 8))
def test_between_the_dual_and_the_truth(first: int) -> None:
    for seed in range(first, first + 8):
        check_order(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(MANY.start, MANY.stop, 40))
def test_between_the_dual_and_the_truth_for_many(first: int) -> None:
    for seed in range(first, first + 40):
        check_order(seed)


def test_the_oracles_kinds_of_steps_occur() -> None:
    kinds = {type(s).__name__ for seed in QUICK if seed % 2 == 0
             for s in random_piecewise(np.random.default_rng(seed)).steps}  # fmt: skip
    assert {"PiecewiseStep", "MaxStep"} <= kinds
    assert leaky(1, 0.1).slopes != hardtanh(1).slopes


@pytest.mark.parametrize("name", [n for n in KINDS if "badly" not in n])
def test_every_kind_of_network(name: str) -> None:
    query = network_query(name)
    bounds, dual = bounded(query)
    report = LpStage(workers=0).run(query, bounds, Budget())
    rows = lp_rows(query, bounds)
    lower = report.lower
    assert lower is not None and report.trust is Trust.FLOAT and report.evidence.kind == "multipliers"
    scale = 1 + rows.lower.abs().max()
    if all(query.graph.nodes[i].op.piecewise_linear for i in query.graph.activations):
        assert (rows.lower >= dual - 1e-6 * scale).all()  # no law where the dual has lines that the LP has not
    assert (rows.lower - rows.optimum).abs().max() < 1e-6 * scale
    torch.testing.assert_close(lower, rows.lower, rtol=1e-6, atol=1e-6)
    assert not report.exhausted
    # what it says can be recomputed by whoever has the bounds and the multipliers
    torch.testing.assert_close(
        dual_bound(query, report.bounds, multipliers_of(report.evidence)), lower, rtol=1e-9, atol=1e-9
    )
    assert report.candidates is not None
    inside = query.inputs.inside(report.candidates, torch.float64)
    assert query.inputs.contains(inside).all()
    sampled = torch.stack([query.spec.values(query.graph.forward(x).flatten(1)) for x in
                           (query.inputs.sample(torch.Generator().manual_seed(i)) for i in range(100))])  # fmt: skip
    assert (lower <= sampled.amin(0) + 1e-6 * scale).all()


@pytest.mark.parametrize("name", ["dense, badly scaled", "conv, badly scaled"])
def test_badly_scaled_networks_stay_sound(name: str) -> None:
    query = network_query(name)
    bounds, _ = bounded(query)
    rows = lp_rows(query, bounds)
    values = query.spec.values(query.graph.forward(query.inputs.center()).flatten(1))
    assert (rows.lower <= values + 1e-9 * (1 + values.abs())).all()


def test_float32_queries_and_missing_bounds() -> None:
    query = network_query("strided", dtype=torch.float32)
    report = LpStage(workers=0).run(query, Bounds(), Budget())
    precise = LpStage(workers=0).run(network_query("strided"), Bounds(), Budget())
    assert report.lower is not None and precise.lower is not None and report.lower.dtype == torch.float32
    assert set(report.bounds) == set(query.graph.pre_activations)
    torch.testing.assert_close(report.lower.double(), precise.lower, rtol=1e-4, atol=1e-4)


def test_only_open_rows_are_bounded() -> None:
    query = network_query("dense")
    query = replace(query, open=torch.tensor([[True, False, False], [False, False, False], [True, True, True]]))
    report = LpStage(workers=0).run(query, bounded(query)[0], Budget())
    assert report.lower is not None and torch.equal(report.lower.isfinite(), query.open)


def test_a_batch_is_its_examples() -> None:
    query = network_query("residual")
    bounds, _ = bounded(query)
    whole = lp_rows(query, bounds).lower
    for i in range(query.batch):
        one = torch.tensor([i])
        torch.testing.assert_close(lp_rows(query.select(one), bounds.select(one)).lower[0], whole[i])


def test_no_time_no_bounds() -> None:
    query = network_query("dense")
    for name in ("lp", "lp-refine"):
        report = stage(name).run(query, Bounds(), Budget(0.0))
        assert report.exhausted and report.lower is not None and (report.lower == -torch.inf).all()
    bounds, _ = bounded(query)
    report = LpStage(workers=0).run(query, bounds, Budget(60.0, 30.0, [0.0, 31.0, 0.0]))
    assert report.exhausted and report.lower is not None
    assert report.lower.isfinite().all(1).tolist() == [True, False, True]
    assert report.seconds is not None and [s > 0 for s in report.seconds] == [True, False, True]


def test_a_box_is_cut_no_more_than_it_is() -> None:
    """A set that happens to be its own hull: nothing is cut, and the bounds are those of the box."""
    query = network_query("dense")

    class Ball(LinfBall):
        is_box = False

    other = replace(query, inputs=Ball(query.inputs.center(), 0.1))
    assert all(kind().supports(q) for kind in (LpStage, LpRefineStage) for q in (query, other))
    bounds, _ = bounded(query)
    torch.testing.assert_close(lp_rows(other, bounds).lower, lp_rows(query, bounds).lower, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lie", LIES)
def test_no_answer_of_a_solver_makes_a_bound_wrong(lie: str) -> None:
    network = random_tiny(np.random.default_rng(3))
    query, low, high = tiny(network, 3)
    bounds, _ = bounded(query)
    exact = exact_rows(network, query, low, high)
    with registered("liar", Fake(LIES[lie])) as name:
        for kind in (LpStage, LpRefineStage):
            report = kind(backend=name, workers=0).run(query, bounds, Budget())
            assert report.lower is not None and not report.lower.isnan().any()
            assert (report.lower[0].numpy() <= exact + 1e-9).all()
            assert report.candidates is not None and report.candidates.isfinite().all()


def test_one_bad_answer_costs_the_others_nothing() -> None:
    query = network_query("dense")
    bounds, _ = bounded(query)
    honest = lp_rows(query, bounds).lower
    asked = []

    def sometimes(program: object, cost: np.ndarray) -> SolveResult:
        asked.append(cost)
        if len(asked) == 5:
            raise RuntimeError("the solver broke")
        return LIES["primal missing"](program, cost)  # type: ignore[arg-type]

    with registered("sometimes", Fake(sometimes)) as name:
        report = LpStage(backend=name, workers=0).run(query, bounds, Budget())
    assert report.lower is not None
    lost = report.lower == -torch.inf
    # the session that broke is lost with what it had not answered; every other example has its bounds
    assert lost.any(1).tolist() == [False, True, False] and lost[1].tolist() == [False, True, True]
    torch.testing.assert_close(report.lower[~lost], honest[~lost])


def test_processes_give_the_same_answers() -> None:
    query = network_query("strided")
    bounds, _ = bounded(query)
    with Pool(1) as pool:
        found = solve_rows(query, bounds, Clock(Budget(), query.batch), pool)
    torch.testing.assert_close(found.lower, lp_rows(query, bounds).lower)


def test_processes_are_started_once_that_pays() -> None:
    from verifier.encoding import Encoder

    query = network_query("dense", batch=1)
    encoding = Encoder(query.graph).relaxed(query.inputs, bounded(query)[0])
    costs, _ = encoding.cost(query.spec.rows[0].double().numpy(), np.zeros(3))
    tasks = [Task(encoding.program, costs * k) for k in range(1, 5)]
    expected = [[a.dual_bound for a in answers] for _, answers in Inline().run(tasks)]
    for patience, started in ((1e9, False), (0.0, True)):
        with Adaptive(1, patience=patience) as executor:
            found = dict(executor.run(iter(tasks)))
            assert (executor.pool is not None) is started
        assert sorted(found) == [0, 1, 2, 3]
        for number, answers in found.items():
            assert [a.dual_bound for a in answers] == pytest.approx(expected[number])


def check_refinement(seed: int) -> None:
    """Refined bounds are tighter, hold at the neurons of every sampled input, and the rows stay below the truth."""
    generator = np.random.default_rng(seed)
    network = random_tiny(generator) if seed % 2 else random_piecewise(generator)
    query, low, high = tiny(network, seed)
    if not refinable(query):
        return
    bounds, _ = bounded(query)
    tight = refine(query, bounds, Budget(), 100)
    values = query.graph.values(torch.from_numpy(generator.uniform(low, high, size=(300, len(low)))))
    for node in bounds:
        assert (tight[node].lower >= bounds[node].lower).all() and (tight[node].upper <= bounds[node].upper).all()
        scale = 1e-9 * (1 + values[node].abs().max())
        assert (values[node] >= tight[node].lower - scale).all() and (values[node] <= tight[node].upper + scale).all()
    before, after = (lp_rows(query, b).lower[0].numpy() for b in (bounds, tight))
    exact = exact_rows(network, query, low, high)
    slack = 1e-6 * (1 + np.abs(exact).max())
    assert (before <= after + slack).all() and (after <= exact + slack).all()


@pytest.mark.parametrize("first", range(0, 12, 6))
def test_refinement_against_the_truth(first: int) -> None:
    for seed in range(first, first + 6):
        check_refinement(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(12, 292, 20))
def test_refinement_against_the_truth_for_many(first: int) -> None:
    for seed in range(first, first + 20):
        check_refinement(seed)


def test_refined_bounds_are_the_minima_of_the_prefix() -> None:
    """With every neuron chosen, the first bound asked of each is the LP's own, which no dual bound is above."""
    query = network_query("residual", batch=2)
    bounds, _ = bounded(query)
    tight = refine(query, bounds, Budget(), 1000)
    node = refinable(query)[0]
    assert "lp" in tight[node].rules()
    gained = (tight[node].lower - bounds[node].lower) + (bounds[node].upper - tight[node].upper)
    assert gained.max() > 1e-6
    again = refine(query, tight, Budget(), 1000)
    assert torch.equal(again[node].lower.gt(tight[node].lower + 1e-6), torch.zeros_like(again[node].lower).bool())


def test_refinement_within_its_budget() -> None:
    query = network_query("residual")
    bounds, _ = bounded(query)
    untouched = refine(query, bounds, Budget(0.0), 100)
    assert all(torch.equal(untouched[n].lower, bounds[n].lower) for n in bounds)
    chosen = most_influential(query, bounds, 5)
    assert (torch.cat([m.long().sum(1, keepdim=True) for m in chosen.values()], 1).sum(1) <= 5).all()
    report = LpRefineStage(neurons=5, workers=0).run(query, bounds, Budget())
    plain = LpStage(workers=0).run(query, bounds, Budget())
    assert report.lower is not None and plain.lower is not None
    rules = {rule for interval in report.bounds.values() for rule in interval.rules()}
    assert (report.lower >= plain.lower - 1e-6).all() and "lp" in rules
    torch.testing.assert_close(
        dual_bound(query, report.bounds, multipliers_of(report.evidence)), report.lower, rtol=1e-9, atol=1e-9
    )
