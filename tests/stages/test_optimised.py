"""The optimised and the free dual: laws of duality, the oracle, and what a user sees of early stops and budgets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.evidence import multipliers_of
from helpers.oracle import exact_minimum, triangle_minimum
from helpers.real_data import images, wong_kolter_small
from test_laws import lower_of, members, query_of
from test_oracle import Case, case, values_before_relus

from properties import LinfBall, robustness
from verifier.bound_map import Bounds, Interval, Provenance
from verifier.budget import Budget
from verifier.graph.torch_import import import_torch
from verifier.ops.base import REGISTRY as OPERATORS
from verifier.ops.base import Activation, SlopeRule
from verifier.query import Query
from verifier.relaxation.activations import relaxations
from verifier.relaxation.ascent import Schedule
from verifier.relaxation.evidence import MultiplierEvidence
from verifier.relaxation.multipliers import dual_bound
from verifier.relaxation.optimised import (
    by_relaxations,
    free_rows,
    optimised_rows,
    optimised_rows_of_whole,
    piecewise_linear,
    tighten,
)
from verifier.stages import stage
from verifier.stages.dual import DualStage
from verifier.stages.optimised import OptimisedDualStage
from verifier.testing.networks import KINDS, random_network
from verifier.testing.stages import roundoff
from verifier.verdict import Trust

#: of the sizes of bounds, what rounding in float32 may cost them, paid for the worst order of sums
PAID = 2e-3

NAMES = list(KINDS)
#: their lines are computed by bisection at every step
SMOOTH = ["sigmoid", "tanh", "branches"]
FEW = ["dense", "relu6", "abs", "max pool", "residual"]
SHORT = Schedule(steps=8, rate=0.25, decay=0.9)
#: long enough for the linear program's value to three digits on the oracle's networks
LONG = Schedule(steps=800, rate=0.5, decay=0.99, look=1000)


def stages_for(name: str) -> tuple[str, ...]:
    """The free dual takes hundreds of steps: on one kind of network only."""
    return ("dual-optimised", "dual-free") if name == "dense" else ("dual-optimised",)


def adaptive(query: Query) -> Bounds:
    with torch.no_grad():
        return DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget()).bounds


def tiny(seed: int, shrunk: float = 1.0) -> tuple[Case, Query, Bounds]:
    """One of the oracle's cases; bounds of pre-activations, shrunk around their middles to that share."""
    c = case(seed)
    graph = import_torch(c.model.double(), torch.zeros(1, c.network.inputs, dtype=torch.float64)).to()
    query = Query.of(graph, c.inputs, robustness(torch.tensor([c.label]), 3))
    known = adaptive(query)
    if shrunk == 1.0:
        return c, query, known
    source, tight = Provenance("test", Trust.FLOAT), {}
    for node, interval in known.items():
        middle, radius = (interval.upper + interval.lower) / 2, shrunk * (interval.upper - interval.lower) / 2
        tight[node] = Interval.of(middle - radius, middle + radius, source)
    return c, query, Bounds(tight)


def linear_programs(c: Case, query: Query, bounds: Bounds) -> torch.Tensor:
    """The triangle relaxation's minima with these bounds, [1, S]."""
    given = {
        value: (bounds[node].lower[0].numpy(), bounds[node].upper[0].numpy())
        for value, node in values_before_relus(c.network, query.graph).items()
    }
    return torch.tensor([[triangle_minimum(c.network, k, 0.0, c.lower, c.upper, given) for k in c.costs]])


def everything(query: Query) -> dict[int, torch.Tensor]:
    shapes = {i: query.graph.nodes[i].shape for i in query.graph.activations}
    return {i: torch.ones(query.batch, *shape, dtype=torch.bool) for i, shape in shapes.items()}


@pytest.mark.parametrize("name", NAMES)
def test_optimised_is_at_least_every_rule(name: str) -> None:
    """With the same intermediate bounds, in both precisions; and intervals only tighten.

    Bounds by multipliers pay for their roundings, those by lines do not.
    """
    for dtype, relative in ((torch.float64, 1e-9), (torch.float32, PAID)):
        net = random_network(name)
        query = query_of(net, graph=import_torch(net.model, net.x[:1]).to(dtype=dtype))
        known = adaptive(query)
        steps = replace(SHORT, steps=3 if name in SMOOTH else SHORT.steps)
        found = optimised_rows(query, known, steps)
        with torch.no_grad():
            for rule in SlopeRule:
                simple = by_relaxations(query, relaxations(query.graph, known, rule)).lower
                assert (found.lower >= simple - roundoff(simple, relative)).all(), rule
        tight, _, _ = tighten(query, known, steps)
        for node, b in tight.items():
            assert (b.lower >= known[node].lower).all() and (b.upper <= known[node].upper).all()


@pytest.mark.parametrize("name", ["dense", "conv", "gated", "sigmoid"])
def test_the_whole_network_gives_what_the_condensed_one_gives(name: str) -> None:
    """Slopes that are optimised over the graph as it is, which is how it goes where condensing does not fit."""
    net = random_network(name, 1)
    query = query_of(net, graph=import_torch(net.model, net.x[:1]).to())
    known, steps = adaptive(query), replace(SHORT, steps=3)
    condensed, whole = optimised_rows(query, known, steps), optimised_rows_of_whole(query, known, steps)
    off = roundoff(condensed.lower, 1e-6)
    assert ((whole.lower - condensed.lower).abs() <= off).all()
    assert len(whole.evidence) == len(condensed.evidence)
    small = OptimisedDualStage(memory=2**15).run(query, known, Budget())
    with torch.no_grad():
        simple = by_relaxations(query, relaxations(query.graph, known, SlopeRule.ADAPTIVE)).lower
    assert (small.lower >= simple - roundoff(simple, 1e-9)).all()


@pytest.mark.parametrize("name", NAMES)
def test_sampled_soundness(name: str) -> None:
    """Bounds of neurons, of the slopes and of the free multipliers against members of the sets."""
    for seed, dtype, relative in ((0, torch.float64, 1e-9), (1, torch.float32, 2e-5)):
        net = random_network(name, seed)
        exact = import_torch(net.model, net.x[:1]).to()
        query = query_of(net, graph=exact.to(dtype=dtype))
        points = members(query.inputs, 600).flatten(0, 1)  # type: ignore[arg-type]
        with torch.no_grad():
            values = exact.values(points)
        batch = len(net.x)
        rows = torch.einsum("bso,nbo->bns", query.spec.rows, values[-1].unflatten(0, (-1, batch))).amin(1)
        steps = replace(SHORT, steps=3 if name in SMOOTH else SHORT.steps)
        tight, network, _ = tighten(query, adaptive(query), steps)
        for node, interval in tight.items():
            seen, off = values[node].unflatten(0, (-1, batch)), roundoff(values[node], relative)
            assert (seen.amin(0) >= interval.lower - off).all() and (seen.amax(0) <= interval.upper + off).all()
        slopes = optimised_rows(query, tight, steps, network=network)
        free = slopes if query.graph.has_products else free_rows(query, tight, steps, slopes.multipliers)
        for found in (slopes.lower, free.lower):
            assert found.isfinite().all() and (rows >= found - roundoff(rows, relative)).all()
        if piecewise_linear(query.graph):
            assert (free.lower >= slopes.lower - roundoff(rows, relative)).all()


@pytest.mark.parametrize("name", FEW)
def test_multipliers_reproduce_the_reported_bounds(name: str) -> None:
    """In float64, from what the stages report of a float32 run and nothing else."""
    net = random_network(name, 3)
    query = query_of(net, graph=import_torch(net.model, net.x[:1]).to(dtype=torch.float32))
    precise = replace(query, graph=query.graph.to(dtype=torch.float64))
    with torch.no_grad():
        for chosen in stages_for(name):
            report = stage(chosen).run(query, Bounds(), Budget())
            low = lower_of(report)
            assert isinstance(report.evidence, MultiplierEvidence) == piecewise_linear(query.graph)
            if isinstance(report.evidence, MultiplierEvidence):
                again = dual_bound(precise, report.bounds.to(torch.float64), multipliers_of(report.evidence))
                # what float32 paid for its roundings, float64 need not pay
                assert (again >= low.double() - roundoff(low, 1e-5)).all()
                assert (again <= low.double() + roundoff(low, PAID)).all()


@pytest.mark.parametrize("seed", range(8))
def test_between_the_linear_program_and_the_truth(seed: int) -> None:
    """slopes <= free <= LP <= exact, with the bounds of the slopes' own relaxation."""
    c, query, known = tiny(seed)
    tight, _, _ = tighten(query, known)
    programs = linear_programs(c, query, tight)
    off = 1e-7 * (1 + programs.abs())
    slopes = optimised_rows(query, tight)
    free = free_rows(query, tight, SHORT, slopes.multipliers, everything(query))
    assert (slopes.lower <= free.lower + off).all() and (free.lower <= programs + off).all()
    assert (programs[0].numpy() <= c.exact + 1e-6 * (1 + np.abs(c.exact))).all()
    for value, node in values_before_relus(c.network, query.graph).items():
        assert len(tight[node].lower[0]) > 0
        if value != 1:
            continue
        for j in range(len(tight[node].lower[0])):  # the first layer's neurons, one by one
            step = c.network.steps[0]
            row = step.terms[0][1][j]  # type: ignore[union-attr]
            middle = row @ (c.lower + c.upper) / 2 + step.bias[j]  # type: ignore[union-attr]
            radius = np.abs(row) @ (c.upper - c.lower) / 2
            assert float(tight[node].lower[0, j]) <= middle - radius + 1e-9
            assert float(tight[node].upper[0, j]) >= middle + radius - 1e-9


@pytest.mark.parametrize("seed", range(20, 23))
def test_the_stage_against_the_truth(seed: int) -> None:
    c, query, _ = tiny(seed)
    with torch.no_grad():
        for chosen in ("dual-optimised", "dual-free"):
            low = lower_of(stage(chosen).run(query, Bounds(), Budget()))
            assert (low[0].numpy() <= c.exact + 1e-8 * (1 + np.abs(c.exact))).all()
    assert exact_minimum(c.network, c.costs[0], 0.0, c.lower, c.upper).value == c.exact[0]


@pytest.mark.parametrize("seed", [1, 4])
def test_the_free_dual_reaches_the_linear_program(seed: int) -> None:
    """With intermediate bounds that no relaxation implies, slopes stay below the LP and free multipliers do not."""
    c, query, tight = tiny(seed, shrunk=0.8)
    programs = linear_programs(c, query, tight)
    size = 1 + programs.abs()
    slopes = optimised_rows(query, tight, Schedule(300, 0.25, 0.98))
    free = free_rows(query, tight, LONG, slopes.multipliers, everything(query))
    assert ((programs - free.lower) / size).abs().max() < 1e-3
    assert ((programs - slopes.lower) / size).max() > 4e-3


def test_a_split_counts_where_its_neurons_are_named() -> None:
    """Two halves of one neuron's interval as two entries of a batch: their smaller bound is at least the whole's."""
    net = random_network("dense", 5)
    query = query_of(net)
    whole, known = query.select(torch.tensor([0])), adaptive(query.select(torch.tensor([0])))
    base = optimised_rows(whole, known)
    node = query.graph.activations[1]
    parent = query.graph.nodes[node].parents[0]
    b = known[parent]
    at = int((b.upper.clamp(min=0) * -b.lower.clamp(max=0)).argmax())
    low, high = b.lower.repeat(2, 1), b.upper.repeat(2, 1)
    low[0, at], high[1, at] = 0.0, 0.0
    halves = query.select(torch.tensor([0, 0]))
    domains = Bounds({**known.select(torch.tensor([0, 0])), parent: Interval.of(low, high, b.sources[0])})
    ops = {i: query.graph.nodes[i].op for i in query.graph.activations}
    free = {}
    for i, op in ops.items():
        assert isinstance(op, Activation)
        k = known[query.graph.nodes[i].parents[0]]
        free[i] = op.unstable(k.lower, k.upper).repeat(2, *[1] * (k.lower.dim() - 1))
    start = {i: m.repeat(2, *[1] * (m.dim() - 1)) for i, m in base.multipliers.items()}
    split = free_rows(halves, domains, LONG, start, free)
    # the start is at least the whole's bound in both halves: their hulls lie inside it
    assert (split.lower.amin(0) >= base.lower[0] - 1e-9).all()
    assert (split.lower.amin(0) > base.lower[0] + 1e-6).any()
    again = dual_bound(halves, domains, split.multipliers, free)
    torch.testing.assert_close(again, split.lower)


@pytest.mark.parametrize("name", FEW)
def test_an_example_alone_and_in_a_batch(name: str) -> None:
    net = random_network(name, batch=3)
    query = query_of(net)
    for chosen in stages_for(name):
        with torch.no_grad():
            together = lower_of(stage(chosen).run(query, Bounds(), Budget()))
            alone = lower_of(stage(chosen).run(query.select(torch.tensor([0])), Bounds(), Budget()))
        torch.testing.assert_close(alone[0], together[0], rtol=1e-5, atol=float(roundoff(together[0], 1e-5)))


@pytest.mark.parametrize("name", ["dense", "conv", "residual"])
def test_early_stops_prove_the_same_rows(name: str) -> None:
    """Rows that are dropped when they are proved, against all rows taken to the end."""
    for seed in range(2):
        net = random_network(name, seed)
        query = query_of(net)
        known = adaptive(query)
        full = optimised_rows(query, known)
        early = optimised_rows(query, known, done=lambda values: values > 1e-9)
        assert torch.equal(full.lower > 1e-9, early.lower > 1e-9)
        assert (early.lower <= full.lower + roundoff(full.lower)).all()


def test_rows_that_are_not_open_are_left_alone() -> None:
    query = query_of(random_network("dense"))
    some = torch.zeros_like(query.open)
    some[:, 2] = True
    with torch.no_grad():
        low = lower_of(stage("dual-optimised").run(replace(query, open=some), Bounds(), Budget()))
    assert low[~some].isneginf().all() and low[some].isfinite().all()


def test_a_spent_budget_is_reported() -> None:
    query = query_of(random_network("conv"))
    for chosen in ("dual-optimised", "dual-free"):
        with torch.no_grad():
            nothing = stage(chosen).run(query, Bounds(), Budget(0.0))
            none_each = stage(chosen).run(query, Bounds(), Budget(per_example=0.0))
        for report in (nothing, none_each):
            assert report.exhausted and lower_of(report).isneginf().all()
    cut = optimised_rows(query, adaptive(query), budget=Budget(0.0))
    full = optimised_rows(query, adaptive(query))
    assert cut.exhausted and not full.exhausted
    assert (cut.lower <= full.lower + roundoff(full.lower)).all() and cut.lower.isfinite().all()


def test_too_little_memory_leaves_the_adaptive_lines() -> None:
    query = query_of(random_network("conv"))
    known = adaptive(query)
    with torch.no_grad():
        report = OptimisedDualStage(memory=1000).run(query, Bounds(), Budget())
        simple = lower_of(DualStage(SlopeRule.ADAPTIVE).run(query, known, Budget()))
        again = dual_bound(query, report.bounds, multipliers_of(report.evidence))
    torch.testing.assert_close(lower_of(report), simple)
    torch.testing.assert_close(again, simple)


def test_nan_bounds_are_no_bounds() -> None:
    query = query_of(random_network("dense"))
    known = adaptive(query)
    node = query.graph.pre_activations[1]
    b = known[node]
    broken = Bounds({**known, node: replace(b, lower=torch.full_like(b.lower, torch.nan))})
    assert optimised_rows(query, broken, SHORT).lower.isneginf().all()
    assert free_rows(query, broken, SHORT).lower.isneginf().all()


def test_activations_are_elementwise() -> None:
    """What the condensed network rests on: relaxing some neurons is relaxing all of them, for any shape."""
    for operator in OPERATORS.values():
        if not issubclass(operator, Activation):
            continue
        for op in (e.op for e in operator.examples()):
            assert isinstance(op, Activation)
            low = torch.linspace(-2, 1, 24, dtype=torch.float64).reshape(2, 12)
            high = low + torch.linspace(0, 2, 12, dtype=torch.float64)
            first, last = op.facts.domain
            low, high = (t.clamp(first + 0.05, last - 0.05) for t in (low, high))
            index = torch.tensor([3, 0, 7])
            for t in (0.0, 0.3, 1.0):
                whole = op.relax(low, high, torch.full_like(low, t))
                some = op.relax(low[:, None, index], high[:, None, index], torch.full((2, 1, 3), t).double())
                for name in ("lower_slope", "lower_bias", "upper_slope", "upper_bias"):
                    torch.testing.assert_close(getattr(some, name)[:, 0], getattr(whole, name)[:, index])


def test_wong_kolter_small() -> None:
    """Four images: optimised above adaptive, free above optimised, more neurons stable."""
    x, label = images("mnist", 4)
    graph = import_torch(wong_kolter_small("wk_mnist"), x[:1]).to(dtype=torch.float32)
    query = Query.of(graph, LinfBall(x, 0.1), robustness(label, 10))
    known = adaptive(query)
    with torch.no_grad():
        simple = lower_of(DualStage(SlopeRule.ADAPTIVE).run(query, known, Budget()))
    tight, network, _ = tighten(query, known)
    slopes = optimised_rows(query, tight, network=network)
    free = free_rows(query, tight, SHORT, slopes.multipliers)
    assert (slopes.lower >= simple - 1e-4).all() and (slopes.lower - simple).mean() > 0.1
    assert (free.lower >= slopes.lower - 1e-4).all()
