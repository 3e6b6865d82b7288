"""Branch and bound on neurons: against the exhaustive oracle, and every part of its evidence by itself."""

from __future__ import annotations

import functools
import operator
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.evidence import tree_of
from helpers.oracle import TinyNetwork, exact_minimum, random_piecewise, random_tiny
from helpers.tiny_torch import TinyModule
from torch import Tensor

from properties import Box, L2Ball, LinfBall, robustness
from verifier import Trust, Verdict, verify
from verifier.bound_map import Bounds
from verifier.branching.ascent import SUBDOMAINS, ascend
from verifier.branching.dual import SubdomainDual
from verifier.branching.further import FurtherSteps
from verifier.branching.leaf import intervals, linear_programs, with_multipliers
from verifier.branching.matrices import Matrices
from verifier.branching.queue import Queue
from verifier.branching.refine import Effort, neuron_bounds
from verifier.branching.search import CounterexampleSearch, SearchSettings, SubdomainSearch
from verifier.branching.split import Halved, TriedGains, estimated_gains, places
from verifier.branching.subdomains import STEPS, Subdomains
from verifier.branching.tree import SplitTree
from verifier.budget import Budget
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.relaxation.dual import DEFAULT_MEMORY, intermediate
from verifier.relaxation.optimised import BY_SUBDOMAINS, condensed, specification
from verifier.relaxation.plan import PassPlan
from verifier.stages.base import StageReport
from verifier.stages.branch import BranchStage
from verifier.stages.dual_cases import DualCasesStage
from verifier.testing.networks import KINDS, RandomNetwork, random_network

NETWORKS = [random_network(name) for name in KINDS]


def tiny_query(network: TinyNetwork, generator: np.random.Generator) -> tuple[Query, np.ndarray, np.ndarray]:
    """A query in float64 about a tiny network, and its box."""
    center, radius = generator.normal(size=network.inputs), 0.2 + generator.random(network.inputs)
    low, high = center - radius, center + radius
    box = Box(torch.from_numpy(low).unsqueeze(0), torch.from_numpy(high).unsqueeze(0))
    graph = import_torch(TinyModule(network).eval(), box.center()).to(dtype=torch.float64)
    return Query.of(graph, box, robustness(torch.tensor([0]), 3)), low, high


def network_query(network: RandomNetwork) -> Query:
    graph = import_torch(network.model, network.x[:1]).to(dtype=torch.float64)
    x = network.x[:1].double()
    label = graph.forward(x).flatten(1).argmax(1)
    return Query.of(graph, LinfBall(x, network.eps), robustness(label, graph.forward(x)[0].numel()))


def searched(query: Query) -> tuple[Bounds, Tensor, SplitTree]:
    report = BranchStage().run(query, Bounds(), Budget())
    assert report.lower is not None
    return report.bounds, report.lower[0], tree_of(report.evidence)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("kind", [random_tiny, random_piecewise])
def test_decides_as_the_oracle_does(kind, seed: int) -> None:
    generator = np.random.default_rng(seed)
    network = kind(generator)
    query, low, high = tiny_query(network, generator)
    truth = []
    for row in query.spec.rows[0].numpy():
        truth.append(exact_minimum(network, row, 0.0, low, high).value)
    report = BranchStage().run(query, Bounds(), Budget())
    assert report.lower is not None and report.candidates is not None
    lower = report.lower[0].numpy()
    assert (lower <= np.array(truth) + 1e-9).all(), "a bound above the exact minimum"
    worst = float(query.spec.worst(query.spec.values(query.graph.forward(report.candidates)))[0])
    assert worst >= min(truth) - 1e-9
    if min(truth) > 1e-6:
        assert (lower > 0).all(), "the search is complete"
    elif min(truth) < -1e-6:
        assert worst < 0, "and finds what there is to find"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30, 630))
def test_decides_hundreds_more(seed: int) -> None:
    test_decides_as_the_oracle_does(random_piecewise if seed % 2 else random_tiny, seed)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_matrices_are_the_network(network: RandomNetwork) -> None:
    """At any point of the set the pre-activations and the rows are those that the matrices give."""
    query = network_query(network)
    net = Matrices.of(query, intermediate(query, Bounds()))
    x = query.inputs.sample(torch.Generator().manual_seed(1))
    values = query.graph.values(x)
    z, y = [], []
    for block in net.blocks:
        parent = query.graph.nodes[block.node].parents[0]
        z.append(values[parent].flatten()[block.entries])
        y.append(values[block.node].flatten()[block.neurons])
    post = torch.cat([net.bias[:0], *y])
    pre = net.to_input @ x.flatten() + net.to_free @ post + net.bias
    torch.testing.assert_close(pre, torch.cat([net.bias[:0], *z]))
    rows = net.row_input @ x.flatten() + net.row_free @ post + net.row_bias
    torch.testing.assert_close(rows, query.spec.values(values[-1].flatten(1))[0])
    for block in net.blocks:  # nothing is read but what comes before
        assert (net.to_free[block.reads, block.part.start :] == 0).all()
    assert ((net.lower - 1e-9 <= pre) & (pre <= net.upper + 1e-9)).all()


def dual_of(query: Query) -> SubdomainDual:
    return SubdomainDual.of(Matrices.of(query, intermediate(query, Bounds())), query.spec.clause)


def members(query: Query, dual: SubdomainDual, count: int) -> tuple[Tensor, Tensor]:
    """Pre-activations of the free neurons [X, M] and rows [X, S] at random points of the set."""
    generator = torch.Generator().manual_seed(2)
    x = torch.cat([query.inputs.sample(generator) for _ in range(count)])
    values = query.graph.values(x)
    blocks = dual.net.blocks
    pre = torch.cat([values[query.graph.nodes[b.node].parents[0]].flatten(1)[:, b.entries] for b in blocks], 1)
    return pre, query.spec.select(torch.zeros(len(x), dtype=torch.int64)).values(values[-1].flatten(1))


def grouped(query: Query) -> Query:
    """The same rows, all in one clause."""
    spec = query.spec
    return replace(query, spec=replace(spec, clause=torch.zeros_like(spec.clause)))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_any_case_at_any_variables_is_a_bound(network: RandomNetwork, together: bool) -> None:
    """Random splits, slopes, weights, multipliers: no member of the subdomain is below its bound."""
    query = grouped(network_query(network)) if together else network_query(network)
    dual = dual_of(query)
    halved = Halved.of(dual)
    pre, rows = members(query, dual, 100)
    generator = torch.Generator().manual_seed(3)
    subdomains = dual.start(torch.tensor([0]), torch.tensor([0]))
    checked = 0
    for _ in range(4):
        at = places(dual, halved, subdomains)
        if not (~at.isnan()).any(1).all():
            break
        neuron = torch.multinomial((~at.isnan()).double(), 1, generator=generator).squeeze(1)
        subdomains = subdomains.halves(neuron, at.gather(1, neuron.unsqueeze(1)).squeeze(1))
        size = subdomains.gamma.shape
        sign = subdomains.lowered.double() * torch.rand(size, generator=generator)
        sign -= subdomains.raised.double() * torch.rand(size, generator=generator)
        weight = torch.rand(subdomains.weight.shape, generator=generator) if together else subdomains.weight
        slope = torch.randint(0, STEPS + 1, subdomains.slope.shape, generator=generator).to(torch.uint8)
        some = replace(subdomains, slope=slope, weight=weight, gamma=sign.float())
        found = dual.at(some).bound
        combined = (rows[:, dual.clauses[0]].unsqueeze(1) * weight.double()).sum(2)  # [X, D]
        for k in range(len(some)):
            lower, upper = intervals(dual, some.select(torch.tensor([k])))
            inside = ((pre >= lower) & (pre <= upper)).all(1)
            if inside.any():
                assert float(found[k]) <= float(combined[inside, k].min()) + 1e-9
                checked += 1
    assert checked


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_gradients_are_those_of_the_bound(network: RandomNetwork) -> None:
    """By differences: slopes and multipliers, at a point where the bound is smooth."""
    query = network_query(network)
    dual = dual_of(query)
    if dual.net.free < 2:
        return
    subdomains = dual.start(torch.tensor([0]), torch.tensor([0]))
    for _ in range(2):
        at = places(dual, Halved.of(dual), subdomains)
        neuron = at.isnan().logical_not().double().argmax(1)
        subdomains = subdomains.halves(neuron, at.gather(1, neuron.unsqueeze(1)).squeeze(1))
    generator = torch.Generator().manual_seed(4)
    lines, weight = dual.relaxation(subdomains), subdomains.weight.double()
    t = 0.2 + 0.6 * torch.rand(subdomains.slope.shape, generator=generator, dtype=torch.float64)
    gamma = (2 * subdomains.lowered.double() - subdomains.raised.double()) * 0.1  # of both sides: never at its kink
    backward = dual.backward(subdomains, lines, t, weight, gamma)
    primal = dual.forward(backward)
    way_t, way_g = (torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in (t, gamma))
    own = (dual.slope_gradient(lines, backward, primal) * way_t).sum(1)
    own += (dual.gamma_gradient(subdomains, lines, gamma, primal) * way_g).sum(1)
    step = 1e-7
    ends = [dual.backward(subdomains, lines, t + s * way_t, weight, gamma + s * way_g).bound for s in (step, -step)]
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), own, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["residual", "gated"])
def test_estimates_are_no_less_than_what_lines_alone_gain(name: str) -> None:
    query = network_query(next(n for n in NETWORKS if n.name == name))
    dual = dual_of(query)
    halved, subdomains = Halved.of(dual), dual.start(torch.tensor([0]), torch.tensor([0]))
    backward = dual.at(subdomains)
    below, above = estimated_gains(dual, halved, backward, dual.forward(backward), dual.slopes(subdomains))
    at = places(dual, halved, subdomains)
    for neuron in (~at[0].isnan()).nonzero().squeeze(1).tolist():
        both = subdomains.halves(torch.tensor([neuron]), at[:, neuron])
        gained = dual.at(both).bound - backward.bound
        assert float(gained[0]) <= float(below[0, neuron]) + 1e-9
        assert float(gained[1]) <= float(above[0, neuron]) + 1e-9
    neuron, place = TriedGains(4).choose(dual, halved, subdomains, backward)
    both = subdomains.halves(neuron, place)
    assert (dual.at(both).bound >= backward.bound - 1e-9).all() and (dual.at(both).bound > backward.bound).any()


@pytest.mark.parametrize("network", NETWORKS[:4], ids=lambda n: n.name)
def test_splits_where_both_halves_promise_most(network: RandomNetwork) -> None:
    """No entry has a larger product of estimates, none of which counts beyond what closes its half."""
    dual = dual_of(network_query(network))
    halved, subdomains = Halved.of(dual), dual.start(torch.tensor([0]), torch.tensor([0]))
    backward = dual.at(subdomains)
    gap = float(backward.bound.neg().clamp(min=1e-6))
    below, above = estimated_gains(dual, halved, backward, dual.forward(backward), dual.slopes(subdomains))
    neuron, place = TriedGains(1).choose(dual, halved, subdomains, backward)
    possible = ~places(dual, halved, subdomains)[0].isnan()
    promised = below[0].clamp(0, gap) * above[0].clamp(0, gap)
    assert possible[neuron] and not place.isnan()
    # what gains nothing counts for a thousandth, so that ones beside nothing are told apart
    assert float(promised[neuron]) >= float(promised[possible].max()) - 2.1e-3 * gap**2


def test_more_steps_are_tried_now_and_then_and_go_on_where_they_close_enough() -> None:
    further = FurtherSteps()
    assert further.wanted()
    further.note(10, 9)
    assert [further.wanted() for _ in range(8)] == 7 * [False] + [True]
    further.note(10, 5)
    assert all(further.wanted() for _ in range(20))
    further.note(10, 10)
    assert not all(further.wanted() for _ in range(2))


def test_a_weight_weighs_the_whole_row() -> None:
    """Whatever a solver said of a row that is a clause of its own."""
    dual = dual_of(network_query(next(n for n in NETWORKS if n.name == "residual")))
    subdomain = dual.start(torch.tensor([0]), torch.tensor([0]))
    half = replace(subdomain, weight=0.5 * subdomain.weight)
    torch.testing.assert_close(dual.at(half).bound, 0.5 * dual.at(subdomain).bound)


def test_a_lost_case_leaves_its_clause_open() -> None:
    query = hard_query()
    dual = dual_of(query)

    class Forgetful(SubdomainSearch):
        def _divide(self, part: Subdomains, counterexamples: CounterexampleSearch) -> bool:
            return len(part) > 1 and super()._divide(part.select(torch.arange(1, len(part))), counterexamples)

    every = torch.arange(len(dual.clauses))
    found = Forgetful(dual, torch.zeros(len(dual.net.row_bias), dtype=torch.float64), SearchSettings()).run(
        every, NoCounterexamples(), torch.inf, lambda: False
    )
    whole = SubdomainSearch(dual, torch.zeros(len(dual.net.row_bias), dtype=torch.float64), SearchSettings()).run(
        every, NoCounterexamples(), torch.inf, lambda: False
    )
    assert (whole.lower > 0).all() and not (found.lower > 0).all()


def test_a_set_that_is_no_box_in_the_last_resort() -> None:
    """The program of a subdomain over a ball, with planes or none."""
    network = next(n for n in NETWORKS if n.name == "residual")
    query = network_query(network)
    dual = dual_of(replace(query, inputs=L2Ball(query.inputs.center(), 2 * network.eps)))
    assert dual.net.free > 0
    subdomain = dual.start(torch.tensor([0]), torch.tensor([0]))
    before = float(dual.at(subdomain).bound)
    best = [float(dual.at(better).bound) for better, _ in linear_programs(dual, subdomain, 10.0) if better is not None]
    assert max(best) >= before - 1e-6


def test_ascent_never_loses_and_keeps_what_it_reports() -> None:
    query = grouped(network_query(next(n for n in NETWORKS if n.name == "residual")))
    dual = dual_of(query)
    start = dual.start(torch.tensor([0]), torch.tensor([0]))
    before = dual.at(start).bound
    done = ascend(dual, start, replace(SUBDOMAINS, steps=30), torch.full_like(before, torch.inf))
    assert (done.bound > before + 1e-3).all()
    # slopes and multipliers are kept roughly
    torch.testing.assert_close(dual.at(done).bound, done.bound, atol=1e-2, rtol=0)
    assert (done.gamma == 0).all() and (done.weight >= 0).all()
    torch.testing.assert_close(done.weight.sum(1), torch.ones(1))


def test_any_multipliers_can_be_kept() -> None:
    """What a linear program says becomes variables of a subdomain, whatever it is."""
    query = network_query(next(n for n in NETWORKS if n.name == "residual"))
    dual = dual_of(query)
    subdomain = dual.start(torch.tensor([0]), torch.tensor([0]))
    nu = torch.randn(dual.net.free, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = dual.at(with_multipliers(dual, subdomain, nu, *intervals(dual, subdomain)))
    torch.testing.assert_close(found.nu[0], nu, atol=1e-6, rtol=1e-6)
    assert float(found.bound[0]) <= float(members(query, dual, 100)[1][:, 0].min())


def test_a_queue_gives_back_everything_once() -> None:
    dual = dual_of(network_query(NETWORKS[0]))
    for memory in (2**30, 1):  # with room, and without: then the newest first
        queue = Queue(memory)
        for first in (0, 5):
            nodes = torch.arange(first, first + 5)
            queue.put(replace(dual.start(torch.zeros_like(nodes), nodes), bound=-nodes.double()))
        taken = [queue.take(3).node.tolist() for _ in range(3)]
        rest = queue.rest()
        assert rest is not None and len(queue) == 1
        assert sorted([*functools.reduce(operator.iadd, taken, []), *rest.node.tolist()]) == list(range(10))
        assert taken[0] == ([4, 3, 2] if memory > 1 else [9, 8, 7])


@functools.cache
def hard_query(seed: int = 3) -> Query:
    """A query that takes a tree of some size and is verified in the end."""
    for k in range(seed, seed + 400):
        generator = np.random.default_rng(k)
        query, _, _ = tiny_query(random_tiny(generator), generator)
        report = BranchStage().run(query, Bounds(), Budget())
        assert report.lower is not None
        tree = tree_of(report.evidence)
        if (report.lower > 0).all() and len(tree.neuron) >= 3 + len(tree.roots):
            return query
    raise AssertionError("no such query")


def test_leaves_cover_the_set_and_prove_what_is_reported() -> None:
    query = hard_query()
    bounds, lower, tree = searched(query)
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([query.inputs.sample(generator) for _ in range(500)])
    values = query.graph.values(x)
    pre = torch.cat(
        [values[query.graph.nodes[i].parents[0]].flatten(1)[:, n] for i, n in tree.reads.items()], 1
    )  # fmt: skip
    assert any(len(list(tree.leaves(row))) > 1 for row in range(len(lower)))
    for row in range(len(lower)):
        covered = torch.zeros(len(x), dtype=torch.bool)
        for leaf in tree.leaves(row):  # one row per clause
            assert leaf is not None
            inside = torch.ones(len(x), dtype=torch.bool)
            for neuron, at in leaf.lower.items():
                inside &= pre[:, neuron] >= at
            for neuron, at in leaf.upper.items():
                inside &= pre[:, neuron] <= at
            covered |= inside
        assert covered.all()
        # the whole graph walked for every leaf, nothing of the condensed network
        assert tree.recompute(query, bounds, row) == pytest.approx(float(lower[row]), abs=1e-9)


def test_a_tree_with_a_leaf_open_proves_nothing() -> None:
    query = hard_query()
    bounds, lower, tree = searched(query)
    row = max(range(len(lower)), key=lambda r: len(list(tree.leaves(r))))
    proofs = tree.proof.clone()
    first = next(root for r, root in tree.roots if r == row)
    node = first
    while int(tree.neuron[node]) >= 0:
        node = int(tree.below[node])
    proofs[node] = -1
    broken = replace(tree, proof=proofs)
    assert broken.recompute(query, bounds, row) == -torch.inf
    spoilt = replace(tree, weight=torch.full_like(tree.weight, torch.nan))
    assert spoilt.recompute(query, bounds, row) == -torch.inf
    negative = replace(tree, weight=-tree.weight)
    assert negative.recompute(query, bounds, row) == -torch.inf
    larger = replace(tree, weight=1000 * tree.weight)  # weights are made to sum to one
    assert larger.recompute(query, bounds, row) == pytest.approx(float(lower[row]), abs=1e-9)
    wrong = replace(tree, slope=STEPS - tree.slope)  # any slopes are valid, but they prove less
    assert wrong.recompute(query, bounds, row) < float(lower[row])


class NoCounterexamples:
    """Finds nothing, and remembers what it was shown."""

    value = torch.inf

    def __init__(self) -> None:
        self.points: list[Tensor] = []

    def follow(self, forms: Tensor) -> bool:
        return False

    def look(self, points: Tensor) -> bool:
        self.points += list(points)
        return False


def test_no_time_no_proof() -> None:
    query = hard_query()
    report = BranchStage().run(query, Bounds(), Budget(0))
    assert report.exhausted and report.lower is not None
    assert (report.lower == -torch.inf).all()
    one_case = BranchStage(most=1).run(query, Bounds(), Budget())
    assert one_case.exhausted and one_case.lower is not None and not (one_case.lower > 0).all()


def test_a_search_stops_when_told() -> None:
    query = hard_query()
    dual = dual_of(query)
    stop = threading.Event()
    stop.set()
    search = SubdomainSearch(dual, torch.full_like(dual.net.row_bias, 1e9), SearchSettings())  # never enough
    found = search.run(torch.arange(len(dual.clauses)), NoCounterexamples(), time.monotonic() + 60, stop.is_set)
    assert found.exhausted and (found.lower <= 0).all()


def test_an_unreachable_target_ends_without_a_proof() -> None:
    """Every neuron split and still not enough: the rows stay open, and the search ends by itself."""
    query = hard_query()
    dual = dual_of(query)
    settings = SearchSettings(last=replace(SUBDOMAINS, steps=20))
    search = SubdomainSearch(dual, torch.full_like(dual.net.row_bias, 1e9), settings)
    found = search.run(torch.tensor([0]), NoCounterexamples(), torch.inf, lambda: False)
    assert not found.exhausted and (found.lower <= 0).all()


class GraphModule(torch.nn.Module):
    """A graph as a module again."""

    def __init__(self, query: Query) -> None:
        super().__init__()
        self.graph = query.graph

    def forward(self, x: Tensor) -> Tensor:
        return self.graph.forward(x)


def test_verify_by_branching_alone_with_a_certificate() -> None:
    query = hard_query()
    model = GraphModule(query).eval()
    result = verify(model, query.inputs.center(), input_set=query.inputs, spec=query.spec, stages=["branch"])
    assert result.verdict == (Verdict.VERIFIED,) and result.trust == (Trust.CHECKED,)
    certificate = result.certificate[0]
    assert certificate is not None and tree_of(certificate.proofs[-1].evidence) is not None
    assert certificate.dual_variables() == {}
    torch.testing.assert_close(certificate.recompute(), certificate.lower, atol=1e-9, rtol=0)


class TestBoundsOfNeuronsByCases:
    """The stage `dual-cases`: every undecided neuron's two bounds by a tree of subdomains each."""

    @staticmethod
    def reported(query: Query) -> StageReport:
        return DualCasesStage(share=1.0).run(query, Bounds(), Budget())

    @pytest.mark.parametrize("seed", range(6))
    def test_hold_at_every_point_of_the_set(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        network = random_piecewise(generator)
        query, low, high = tiny_query(network, generator)
        report = self.reported(query)
        assert report.lower is not None
        truth = [exact_minimum(network, row, 0.0, low, high).value for row in query.spec.rows[0].numpy()]
        assert (report.lower[0].numpy() <= np.array(truth) + 1e-9).all()
        points = torch.from_numpy(low + generator.random((4096, len(low))) * (high - low))
        values = query.graph.values(points)
        for node, interval in report.bounds.items():
            assert (values[node] >= interval.lower - 1e-9).all() and (values[node] <= interval.upper + 1e-9).all()

    def test_are_tighter_than_by_lines_and_never_exceed_what_a_deep_network_does(self) -> None:
        query = deep_query()
        report, before = self.reported(query), intermediate(query, Bounds())
        by_cases = [node for node, i in report.bounds.items() if BY_SUBDOMAINS.rule in i.rules()]
        assert by_cases, "neurons of later layers have been bounded by subdomains"
        for node in by_cases:
            new, old = report.bounds[node], before[node]
            assert float((new.upper - new.lower).sum()) < 0.95 * float((old.upper - old.lower).sum())
        low, high = query.inputs.box()
        corners = low + torch.randint(0, 2, (20_000, *low.shape[1:])).double() * (high - low)
        values = query.graph.values(corners)
        for node, interval in report.bounds.items():
            assert (values[node] >= interval.lower - 1e-9).all() and (values[node] <= interval.upper + 1e-9).all()
        assert report.lower is not None
        assert (query.spec.values(values[-1].flatten(1)).amin(0) >= report.lower[0] - 1e-9).all()

    def test_a_deadline_that_has_passed_leaves_sound_bounds(self) -> None:
        query = deep_query()
        bounds = intermediate(query, Bounds())
        network = condensed(query, bounds, PassPlan(query.graph, DEFAULT_MEMORY))
        rows = specification(query, network).both_signs()
        matrices = Matrices.joined(network.inputs, network.unknowns, rows)
        late, long = (neuron_bounds(matrices, Effort(leaves=8), time.monotonic() + s) for s in (-1.0, 60.0))
        assert late.isfinite().all()
        assert (long >= late - 1e-9).all() and float(long.sum()) > float(late.sum())


def deep_query() -> Query:
    """A network of four layers at a radius where lines are loose, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = [torch.nn.Linear(4, 10), torch.nn.ReLU()]
        for _ in range(3):
            layers += [torch.nn.Linear(10, 10), torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(10, 3)).double().eval()
        for parameter in model.parameters():
            parameter.data *= 2.0
        x = torch.randn(1, 4, dtype=torch.float64)
    graph = import_torch(model, x)
    return Query.of(graph, LinfBall(x, 0.8), robustness(graph.forward(x).argmax(1), 3))
