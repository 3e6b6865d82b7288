"""Branch and bound on neurons: against the exhaustive oracle, and every part of its evidence by itself."""

from __future__ import annotations

import functools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.oracle import TinyNetwork, exact_minimum, random_piecewise, random_tiny
from helpers.random_networks import KINDS, RandomNetwork, random_network
from helpers.tiny_torch import TinyModule
from torch import Tensor

from properties import Box, LinfBall, robustness
from verifier import Trust, Verdict, verify
from verifier.bounds import Bounds
from verifier.branching.ascent import Schedule, ascend
from verifier.branching.dual import Domains, Hulls, bound_at, evaluate
from verifier.branching.matrices import Matrices
from verifier.branching.search import Search, Settings
from verifier.branching.split import halves, kinks
from verifier.branching.tree import Tree
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.stages import Budget
from verifier.stages.branch import BranchStage
from verifier.stages.dual import intermediate

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


def searched(query: Query) -> tuple[Bounds, Tensor, Tree]:
    report = BranchStage().run(query, Bounds(), Budget())
    assert report.lower is not None and report.trees is not None and report.trees[0] is not None
    return report.bounds, report.lower[0], report.trees[0]


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
        z.append(values[parent].flatten()[block.neurons])
        y.append(values[block.node].flatten()[block.neurons])
    post = torch.cat([net.bias[:0], *y])
    pre = net.to_input @ x.flatten() + net.to_free @ post + net.bias
    torch.testing.assert_close(pre, torch.cat([net.bias[:0], *z]))
    rows = net.row_input @ x.flatten() + net.row_free @ post + net.row_bias
    torch.testing.assert_close(rows, query.spec.values(values[-1].flatten(1))[0])
    assert (net.to_free == net.to_free.tril(-1)).all()
    assert ((net.lower - 1e-9 <= pre) & (pre <= net.upper + 1e-9)).all()


@pytest.mark.parametrize("network", [n for n in NETWORKS if n.name not in ("sigmoid", "tanh")], ids=lambda n: n.name)
def test_any_case_at_any_variables_is_a_bound(network: RandomNetwork) -> None:
    """Random splits, random slopes, random multipliers: no member of the case is below its bound."""
    query = network_query(network)
    net = Matrices.of(query, intermediate(query, Bounds()))
    generator = torch.Generator().manual_seed(2)
    x = torch.cat([query.inputs.sample(generator) for _ in range(100)])
    values = query.graph.values(x)
    pre = torch.cat([values[query.graph.nodes[b.node].parents[0]].flatten(1)[:, b.neurons] for b in net.blocks], 1)
    rows = query.spec.select(torch.zeros(len(x), dtype=torch.int64)).values(values[-1].flatten(1))
    domains = Domains.root(net, torch.tensor([0]))
    checked = 0
    for _ in range(3):
        at = kinks(net, domains)
        can = ~at.isnan()
        if not can.any(1).all():
            break
        neuron = torch.multinomial(can.double(), 1, generator=generator).squeeze(1)
        domains = halves(domains, neuron, at.gather(1, neuron.unsqueeze(1)).squeeze(1))
        size = domains.alpha.shape
        alpha = torch.rand(size, generator=generator, dtype=torch.float64)
        gamma = torch.randn(size, generator=generator, dtype=torch.float64)
        hulls = Hulls.of(net, domains)
        for some in (torch.zeros_like(gamma), gamma):
            found = evaluate(net, hulls, domains.row, alpha, some)
            again = bound_at(net, hulls, domains.row, found.nu)
            torch.testing.assert_close(again, found.bound)
            inside = ((pre.unsqueeze(1) >= domains.lower) & (pre.unsqueeze(1) <= domains.upper)).all(2)  # [X, D]
            least = torch.where(inside, rows[:, domains.row], torch.inf).amin(0)
            assert (found.bound <= least + 1e-9).all()
            checked += int(inside.any(0).sum())
    assert checked


def test_ascent_never_loses_and_keeps_what_it_reports() -> None:
    query = network_query(next(n for n in NETWORKS if n.name == "residual"))
    net = Matrices.of(query, intermediate(query, Bounds()))
    start = Domains.root(net, torch.arange(len(net.row_bias)))
    before = evaluate(net, Hulls.of(net, start), start.row, start.alpha, start.gamma).bound
    never = torch.full_like(before, torch.inf)
    done = ascend(net, start, Schedule(steps=30), never)
    assert (done.bound >= before).all() and (done.bound > before + 1e-3).any()
    again = evaluate(net, Hulls.of(net, done), done.row, done.alpha, done.gamma).bound
    torch.testing.assert_close(again, done.bound)
    assert ((done.alpha >= 0) & (done.alpha <= 1)).all() and (done.gamma == 0).all()


@functools.cache
def hard_query(seed: int = 3) -> Query:
    """A query that takes a tree of some size and is verified in the end."""
    for k in range(seed, seed + 400):
        generator = np.random.default_rng(k)
        query, _, _ = tiny_query(random_tiny(generator), generator)
        report = BranchStage().run(query, Bounds(), Budget())
        assert report.lower is not None and report.trees is not None and report.trees[0] is not None
        if (report.lower > 0).all() and len(report.trees[0].neuron) >= 3 + len(report.trees[0].roots):
            return query
    raise AssertionError("no such query")


def test_leaves_cover_the_set_and_prove_what_is_reported() -> None:
    query = hard_query()
    bounds, lower, tree = searched(query)
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([query.inputs.sample(generator) for _ in range(500)])
    values = query.graph.values(x)
    pre = torch.cat(
        [values[query.graph.nodes[i].parents[0]].flatten(1)[:, n] for i, n in tree.neurons.items()], 1
    )  # fmt: skip
    assert any(len(list(tree.leaves(row))) > 1 for row in range(len(lower)))
    for row in range(len(lower)):
        covered = torch.zeros(len(x), dtype=torch.bool)
        for leaf in tree.leaves(row):
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
    spoilt = replace(tree, nu=torch.full_like(tree.nu, torch.nan))
    assert spoilt.recompute(query, bounds, row) == -torch.inf
    wrong = replace(tree, nu=tree.nu + 0.5)  # any multipliers are valid, but they prove less
    assert wrong.recompute(query, bounds, row) < float(lower[row])


class NoHunt:
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
    net = Matrices.of(query, intermediate(query, Bounds()))
    stop = threading.Event()
    stop.set()
    search = Search(net, torch.full_like(net.row_bias, 1e9), Settings())  # never enough
    found = search.run(torch.arange(len(net.row_bias)), NoHunt(), time.monotonic() + 60, stop.is_set)
    assert found.exhausted and (found.lower <= 0).all()


def test_an_unreachable_target_ends_without_a_proof() -> None:
    """Every neuron split and still not enough: the rows stay open, and the search ends by itself."""
    query = hard_query()
    net = Matrices.of(query, intermediate(query, Bounds()))
    settings = Settings(last=Schedule(steps=20))
    search = Search(net, torch.full_like(net.row_bias, 1e9), settings)
    found = search.run(torch.tensor([0]), NoHunt(), torch.inf, lambda: False)
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
    assert result.verdict == (Verdict.VERIFIED,) and result.trust == (Trust.FLOAT,)
    certificate = result.certificate[0]
    assert certificate is not None and certificate.proofs[-1].tree is not None
    assert certificate.dual_variables() == {}
    torch.testing.assert_close(certificate.recompute(), certificate.lower, atol=1e-9, rtol=0)
