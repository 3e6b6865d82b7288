"""Branch and bound that goes on: after a pause, under tighter bounds of neurons, in turns with tightening them."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from properties import LinfBall, robustness
from verifier import Trust, Verdict, verify
from verifier.bound_map import Bounds
from verifier.branching.dual import SubdomainDual
from verifier.branching.matrices import Matrices
from verifier.branching.narrowed import Narrowing
from verifier.branching.plan import Efforts
from verifier.branching.refine import Effort, bounds_by_cases
from verifier.branching.search import SearchSettings, SubdomainSearch
from verifier.budget import Budget
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.relaxation.dual import DEFAULT_MEMORY, intermediate
from verifier.stages.branch import BranchStage


class NoCounterexamples:
    """What searches ask for, without any."""

    value = math.inf

    def follow(self, forms: Tensor) -> bool:
        return False

    look = follow


class Deep(torch.nn.Module):
    """A network of four layers, of ReLUs or of leaky ones."""

    def __init__(self, activation: type[torch.nn.Module]) -> None:
        super().__init__()
        layers = [torch.nn.Linear(4, 12), activation()]
        for _ in range(3):
            layers += [torch.nn.Linear(12, 12), activation()]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@functools.cache
def deep(activation: type[torch.nn.Module]) -> tuple[torch.nn.Module, Query]:
    """A network and a question about it that takes a tree of a hundred nodes and more, and holds."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = Deep(activation).double().eval()
        for parameter in model.parameters():
            parameter.data *= 1.6
        x = torch.randn(1, 4, dtype=torch.float64)
    graph = import_torch(model, x)
    eps = 0.5 if activation is torch.nn.Tanh else 1.0
    return model, Query.of(graph, LinfBall(x, eps), robustness(graph.forward(x).argmax(1), 3))


def planted(query: Query, bounds: Bounds, batch: int = 32) -> SubdomainSearch:
    dual = SubdomainDual.of(Matrices.of(query, bounds), query.spec.clause)
    search = SubdomainSearch(dual, torch.zeros(len(dual.net.row_bias), dtype=torch.float64), SearchSettings(batch))
    search.begin(torch.arange(len(dual.clauses)), math.inf)
    return search


def ended(search: SubdomainSearch, most: float = math.inf) -> bool:
    """Go on until so many subdomains have been split."""
    return search.go_on(NoCounterexamples(), math.inf, lambda: False, lambda s: s.divided >= most)


def test_a_search_that_pauses_finds_what_one_without_pauses_does() -> None:
    _, query = deep(torch.nn.ReLU)
    bounds = intermediate(query, Bounds())
    whole, parts = (planted(query, bounds, batch=4) for _ in range(2))
    assert ended(whole)
    pauses = 0
    while not ended(parts, parts.divided + 3):
        assert not (parts.found().lower > 0).all()
        pauses += 1
    one, other = whole.found(), parts.found()
    assert pauses > 3 and bool((one.lower > 0).all())
    torch.testing.assert_close(one.lower, other.lower, atol=0, rtol=0)
    assert torch.equal(one.tree.neuron, other.tree.neuron) and torch.equal(one.tree.slope, other.tree.slope)


@pytest.mark.parametrize(
    ("activation", "split"),
    [
        (torch.nn.ReLU, 1),
        (torch.nn.ReLU, 10**9),
        (torch.nn.LeakyReLU, 1),
        pytest.param(torch.nn.Tanh, 1, marks=pytest.mark.slow),
        pytest.param(torch.nn.Tanh, 10**9, marks=pytest.mark.slow),
    ],
)
def test_under_tighter_bounds_a_search_goes_on_where_it_was(activation: type[torch.nn.Module], split: int) -> None:
    """Its tree proves what it reports under those bounds, also what was closed before, and splits no stable neuron."""
    _, query = deep(activation)
    before = intermediate(query, Bounds())
    old = planted(query, before)
    assert ended(old, split) == (split > 1)
    bounds = bounds_by_cases(query, before, Effort(leaves=8), math.inf, Budget(), DEFAULT_MEMORY).bounds
    new = planted(query, bounds)
    assert new.dual.net.free < old.dual.net.free or activation is torch.nn.Tanh, "some neurons have become stable"
    narrowing = Narrowing.of(old.dual.net, new.dual, query.graph, bounds)
    search = old.under(new.dual, new.enough, narrowing, math.inf)
    if split == 1:
        assert len(search.queue) <= len(old.queue) + 2 * sum(map(len, old.tree.closed))
    assert ended(search)
    found = search.found()
    assert (found.lower > 0).all() and found.closed == 1.0
    for clause in range(len(found.lower)):
        proved = found.tree.recompute(query, bounds, clause)
        assert proved == pytest.approx(float(found.lower[clause]), abs=1e-9)


def test_a_deadline_leaves_what_was_closed_open() -> None:
    """What has not been proved anew under other bounds is no proof."""
    _, query = deep(torch.nn.ReLU)
    before = intermediate(query, Bounds())
    old = planted(query, before)
    assert ended(old)
    bounds = bounds_by_cases(query, before, Effort(leaves=8), math.inf, Budget(), DEFAULT_MEMORY).bounds
    new = planted(query, bounds)
    late = old.under(new.dual, new.enough, Narrowing.of(old.dual.net, new.dual, query.graph, bounds), -math.inf)
    found = late.found()
    for clause in range(len(found.lower)):
        if found.lower[clause] > 0:
            assert found.tree.recompute(query, bounds, clause) > 0


@pytest.mark.parametrize(
    ("activation", "trial"),
    [(torch.nn.ReLU, 0.0), (torch.nn.ReLU, 10.0), pytest.param(torch.nn.LeakyReLU, 0.0, marks=pytest.mark.slow)],
)
def test_turns_end_in_a_certificate(activation: type[torch.nn.Module], trial: float) -> None:
    model, query = deep(activation)
    stage = BranchStage(efforts=Efforts(2, 2, most=4, least=1, patience=0.0, trial=trial, gain=0.0))
    report = stage.run(query, Bounds(), Budget())
    assert "dual-cases" in {rule for i in report.bounds.values() for rule in i.rules()}, "bounds were tightened"
    result = verify(model, query.inputs.center(), input_set=query.inputs, spec=query.spec, stages=[stage])
    assert result.verdict == (Verdict.VERIFIED,) and result.trust == (Trust.CHECKED,)
    certificate = result.certificate[0]
    assert certificate is not None
    torch.testing.assert_close(certificate.recompute(), certificate.lower, atol=1e-9, rtol=0)
