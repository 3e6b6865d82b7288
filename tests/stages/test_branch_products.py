"""Branch and bound on the factors of products: against samples; its certificates, and what is changed in them."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from helpers.evidence import tree_of
from torch import Tensor, nn

from properties import LinfBall, robustness
from verifier import Trust, Verdict, verify
from verifier.bound_map import Bounds
from verifier.branching.dual import SubdomainDual
from verifier.branching.matrices import Matrices
from verifier.branching.split import Halved, TriedGains, divided
from verifier.budget import Budget
from verifier.certificate.certificate import SetCertificate
from verifier.checker.check import check
from verifier.graph.canonical import canonical
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.relaxation.dual import intermediate
from verifier.result import Result
from verifier.stages import stage
from verifier.stages.branch import BranchStage
from verifier.stages.dual_cases import DualCasesStage


class GatedMLP(nn.Module):
    """One hidden layer times another, the gates."""

    def __init__(self, inputs: int, hidden: int, gate: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.gate = nn.Linear(inputs, hidden), nn.Linear(inputs, hidden), gate
        self.out = nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs] -> [B, 3]
        return self.out(self.gate(self.a(x)) * self.b(x))


class SqueezeExcite(nn.Module):
    """Features times gates that are computed from their means; each gate serves a whole channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gates, self.out = nn.Linear(16, 12), nn.Linear(3, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:  # [B, 16] -> [B, 3]
        h = torch.relu(self.a(x)).unflatten(1, (3, 4))
        return self.out((h * torch.sigmoid(self.gates(h.mean(2))).unsqueeze(2)).flatten(1))


GATES: dict[str, nn.Module] = {"ReLU": nn.ReLU(), "sigmoid": nn.Sigmoid(), "SiLU": nn.SiLU(), "none": nn.Identity()}


def made(kind: str, inputs: int, hidden: int, seed: int) -> tuple[nn.Module, Tensor]:
    """A network with drawn weights, and an input [1, inputs]."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SqueezeExcite() if kind == "squeeze" else GatedMLP(inputs, hidden, GATES[kind])
        return model.eval(), torch.randn(1, inputs)


def query_of(model: nn.Module, x: Tensor, eps: float) -> Query:  # x [1, n]
    graph = import_torch(model, x).to(dtype=torch.float64)
    return Query.of(graph, LinfBall(x.double(), eps), robustness(graph.forward(x.double()).argmax(1), 3))


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
@pytest.mark.parametrize("kind", list(GATES))
def test_decides_as_dense_samples_do(kind: str, seed: int) -> None:
    """Of three inputs: 41 points on each of their axes."""
    model, x = made(kind, 3, 4, seed)
    query = query_of(model, x, eps := 0.35)
    axes = [torch.linspace(-eps, eps, 41, dtype=torch.float64)] * 3
    values = query.graph.forward(x.double() + torch.cartesian_prod(*axes))
    least = (values @ query.spec.rows[0].double().T + query.spec.offset[0]).amin(0)
    report = BranchStage(most=2000, share=1.0).run(query, Bounds(), Budget(10))
    assert report.lower is not None and report.candidates is not None
    assert (report.lower[0] <= least + 1e-9).all(), "a bound above what a point reaches"
    result = verify(model, x, eps, stages=("dual-adaptive", "branch"))
    if float(least.min()) > 0.01:
        assert (report.lower > 0).all() and result.verdict == (Verdict.VERIFIED,)
        assert result.trust == (Trust.CHECKED,)
    elif float(least.min()) < -1e-6:
        worst = query.spec.worst(query.spec.values(query.graph.forward(report.candidates)))
        assert float(worst[0]) < 0 and result.verdict == (Verdict.FALSIFIED,)


#: seeds of networks with so many inputs that halving boxes is hopeless, and radii that optimised slopes do not reach
WIDE = {"ReLU": (0, 0.28), "sigmoid": (0, 0.113), "SiLU": (0, 0.22), "none": (0, 0.19), "squeeze": (3, 0.22)}


@functools.cache
def proved(kind: str) -> tuple[Result, Query]:
    seed, eps = WIDE[kind]
    model, x = made(kind, 16, 8, seed)
    return verify(model, x, eps, stages=("branch",)), query_of(model, x, eps)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in ("SiLU", "sigmoid") else []) for kind in WIDE]
)
def test_only_splits_decide_it(kind: str) -> None:
    result, query = proved(kind)
    with torch.no_grad():
        by_slopes = stage("dual-optimised").run(query, Bounds(), Budget())
    assert by_slopes.lower is not None and not (by_slopes.lower > 0).all()
    assert result.verdict == (Verdict.VERIFIED,)
    assert result.trust == (Trust.CHECKED,)
    certificate = result.certificate[0]
    assert isinstance(certificate, SetCertificate) and certificate.check().valid
    torch.testing.assert_close(certificate.recompute_clauses(), certificate.lower, atol=1e-9, rtol=0)
    tree = tree_of(certificate.proofs[-1].evidence)
    assert (tree.neuron >= 0).any()


@pytest.mark.parametrize("name", ["at", "below", "reads", "slope", "gamma"])
def test_a_changed_certificate_is_invalid(name: str) -> None:
    result, _ = proved("none")
    certificate = result.certificate[0]
    assert isinstance(certificate, SetCertificate)
    document = certificate.document()
    (part,) = document.head["parts"]
    record = next(proof["cases"] for proof in part["proofs"] if "cases" in proof)
    arrays = dict(document.arrays)
    if name == "at":  # another place for every split
        arrays[record["at"]] = arrays[record["at"]] + 0.5
    elif name == "below":  # halves exchanged
        arrays[record["below"]], arrays[record["above"]] = arrays[record["above"]], arrays[record["below"]]
    elif name == "reads":  # the ends are of other factors
        (factors,) = record["reads"].values()
        arrays[factors] = arrays[factors][::-1].copy()
    else:
        arrays[record[name]] = (255 - arrays[record[name]]) if name == "slope" else -arrays[record[name]]
    network = canonical(certificate.proofs[0].graph()).network
    assert check(network, document).valid
    assert not check(network, replace(document, arrays=arrays)).valid


def test_a_factor_of_many_products_is_one_entry() -> None:
    model, x = made("squeeze", 16, 8, 0)
    query = query_of(model, x, 0.3)
    net = Matrices.of(query, intermediate(query, Bounds()))
    block = next(b for b in net.blocks if b.factors is not None)
    assert block.factors is not None
    assert len(block.entries.unique()) == len(block.entries) == len(block.neurons) + 3
    shared = torch.bincount(block.factors.flatten())
    assert int(shared.max()) > 1
    dual = SubdomainDual.of(net, query.spec.clause)
    start = dual.start(torch.tensor([0]), torch.tensor([0]))
    gate = block.reads.start + int(shared.argmax())
    middle = 0.5 * (net.lower + net.upper)[[gate]]
    before = dual.relaxation(start).blocks[net.blocks.index(block)]
    after = dual.relaxation(start.halves(torch.tensor([gate]), middle)).blocks[net.blocks.index(block)]
    positive, t = torch.ones(1, len(block.neurons), dtype=torch.bool), torch.full((1, len(block.neurons)), 0.5).double()
    moved = (before.sided(positive, t)[1] != after.sided(positive, t)[1]).any(0)
    assert int(moved.sum()) == int(shared.max()), "one split narrows all products of a gate"


def test_halves_start_no_lower_than_the_whole() -> None:
    """Where a half has planes of the same slope on the other factor, it starts with no less; few have none."""
    query = query_of(*made("none", 16, 8, 0), 0.2)
    dual = SubdomainDual.of(Matrices.of(query, intermediate(query, Bounds())), query.spec.clause)
    start = dual.start(torch.tensor([0, 1]), torch.tensor([0, 1]))
    here = dual.at(start)
    new = divided(dual, Halved.of(dual), replace(start, bound=here.bound), here, TriedGains(8))
    assert len(new.part) == 2
    assert (dual.at(new.halves).bound > here.bound.repeat(2) - 1e-6).all()


class TwoGates(nn.Module):
    """A gated layer on a gated layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GatedMLP(8, 6, nn.ReLU()), GatedMLP(3, 6, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:  # [B, 8] -> [B, 3]
        return self.second(self.first(x))


def test_bounds_of_factors_by_cases() -> None:
    """The stage `dual-cases`: factors of later products are bounded by splits of earlier ones."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        query = query_of(TwoGates().eval(), torch.randn(1, 8), 0.8)
    with torch.no_grad():
        found = DualCasesStage(share=1.0, leaves=(4,)).run(query, Bounds(), Budget(60))
        before = stage("dual-optimised").run(query, Bounds(), Budget(60)).bounds
    points = torch.cat([query.inputs.sample(torch.Generator().manual_seed(s)) for s in range(500)])
    values, narrower = query.graph.values(points), 0
    for node, interval in found.bounds.items():
        assert (values[node] >= interval.lower - 1e-9).all() and (values[node] <= interval.upper + 1e-9).all()
        narrower += int((interval.upper - interval.lower < 0.99 * (before[node].upper - before[node].lower)).sum())
    assert narrower > 0
