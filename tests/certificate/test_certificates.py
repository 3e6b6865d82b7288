"""What each stage proves becomes a file that the checker accepts, about this network, this set and this label alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from properties import Box, InputSet, L2Ball, LinfBall, Specification, Union, robustness
from verifier import InputError, verify
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.certificate import SetCertificate, SetProofs, StageRun
from verifier.certificate.build import CertificateBuilder
from verifier.certificate.candidates import Candidates
from verifier.checker.check import check
from verifier.checker.document import Document, claim_digest
from verifier.errors import CertificateError
from verifier.graph import Graph
from verifier.graph.canonical import canonical
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.stages import REGISTRY, Stage
from verifier.verdict import Trust


def mlp(activation: Callable[[], nn.Module], sizes: tuple[int, ...] = (4, 10, 8, 3), seed: int = 0) -> Graph:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, (n, m) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(n, m), *([activation()] if i < len(sizes) - 2 else [])]
    return import_torch(nn.Sequential(*layers).eval(), torch.zeros(1, sizes[0]))


def convolution() -> Graph:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, 2, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, 6),
        nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip
    with torch.no_grad():
        model[1].running_mean.uniform_(-0.3, 0.3)
        model[1].running_var.uniform_(0.5, 2)
    return import_torch(model.eval(), torch.zeros(1, 1, 4, 4))


@dataclass(frozen=True)
class Proved:
    """What one stage alone proved of one example, and how far the set reaches."""

    certificate: SetCertificate
    eps: float
    share: float  #: the worst bound, as a share of the clean margin


def run(stage: Stage, graph: Graph, inputs: InputSet, spec: Specification) -> SetCertificate | None:
    """The certificate of one stage alone, in float64; None where it proves not everything."""
    query = Query.of(graph.to("cpu", torch.float64), inputs, spec)
    report = stage.run(query, Bounds(), Budget(20))
    assert report.lower is not None
    made = StageRun(stage.name, report.evidence, query, report.bounds, graph, graph.digest(), tuple(report.neurons))
    lower = report.lower[0].detach().double()
    source = torch.where(lower > 0, 0, -1)
    clauses = torch.full((spec.clauses,), -1)
    best = spec.per_clause(lower.unsqueeze(0))[0]
    if report.clauses is not None:
        clauses = torch.where(report.clauses[0] > 0, 0, -1)
        best = torch.maximum(best, report.clauses[0])
    proofs = SetProofs.of([made], [0], source, clauses, report.trust)
    return SetCertificate(proofs, best, report.trust) if bool((best > 0).all()) else None


def at_the_limit(
    name: str, graph: Graph, ball: Callable[[Tensor, float], InputSet] = LinfBall, steps: int = 6, high: float = 0.6
) -> Proved:
    """What the stage proves at nearly the largest eps at which it proves everything."""
    stage = REGISTRY[name]()
    x = torch.rand(1, *graph.input_shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y = graph.to("cpu", torch.float64).forward(x)
    spec = robustness(y.argmax(1), y.shape[1])
    clean, low, best = float(spec.worst(spec.values(y))), 0.0, None
    for _ in range(steps):
        eps = 0.5 * (low + high)
        found = run(stage, graph, ball(x, eps), spec)
        if found is None:
            high = eps
        else:
            low, best = eps, Proved(found, eps, float(found.lower.min()) / clean)
    assert best is not None
    return best


NETS: dict[str, Callable[[], Graph]] = {
    "relu": lambda: mlp(nn.ReLU), "tanh": lambda: mlp(nn.Tanh, (3, 5, 4, 3)), "clip": lambda: mlp(nn.Hardtanh),
    "leaky": lambda: mlp(lambda: nn.LeakyReLU(0.2)), "conv": convolution, "one": lambda: mlp(nn.ReLU, (4, 12, 3)),
}  # fmt: skip
CASES = {
    "relu": (
        "interval", "dual", "dual-adaptive", "zonotope", "zonotope-learned", "dual-optimised", "dual-free", "lp",
        "lp-refine", "branch", "branch-input", "dual-cases",
    ),
    "tanh": ("interval", "dual-adaptive", "dual-optimised"),
    "clip": ("dual-adaptive", "branch"),
    "leaky": ("dual-optimised", "branch"),
    "conv": ("dual-adaptive", "dual-optimised"),
}  # fmt: skip


@pytest.mark.parametrize(("net", "stage"), [(net, stage) for net, stages in CASES.items() for stage in stages])
def test_what_a_stage_proves(net: str, stage: str, tmp_path: Path) -> None:
    """At an eps at which it proves hardly more than nothing, so that no weaker argument would do."""
    high = {"conv": 4.0, "tanh": 1.6, "clip": 1.2, "leaky": 0.8}.get(net, 0.6)
    high = 0.4 if stage == "interval" and net == "tanh" else high
    proved = at_the_limit(stage, NETS[net](), steps=2 if net == "tanh" else 3, high=high)
    assert proved.share < 0.45
    size = proved.certificate.save(tmp_path / "a.cert")
    document = Document.read(tmp_path / "a.cert")
    found = check(canonical(proved.certificate.proofs[0].graph()).network, document)
    assert found.valid, found.reason
    assert size == (tmp_path / "a.cert").stat().st_size < 20_000
    assert document.head["about"]["stage"] == stage
    assert (proved.certificate.document().head, found.parts) == (document.head, 1)


def test_semidefinite_proofs() -> None:
    """Where no rule is better, its weights are written."""
    proved = at_the_limit("sdp", NETS["one"](), steps=5, high=0.12)
    assert proved.share < 0.3
    builder = CertificateBuilder(proved.certificate.proofs[0].graph())
    evidence = Candidates(builder.canonical, builder.graph, proved.certificate.evidence)
    steps = next(evidence.ladder(np.uint8))
    proofs = evidence.proofs(steps, np.full(2, -np.inf), np.uint8)
    assert proofs is not None and list(proofs[0]) == ["sdp", "rows"]
    record = proved.certificate.inputs.record()
    part = {"set": {"kind": record.kind, **record.options, **record.arrays}, "bounds": [], "proofs": proofs}
    document = builder.document([part], proved.certificate.document().head["specification"], {})
    found = check(builder.network, document)
    assert found.valid, found.reason
    assert np.allclose(found.lower, proved.certificate.lower.numpy(), rtol=1e-6)


def round_ball(x: Tensor, eps: float) -> InputSet:
    return L2Ball(x, 2 * eps)


def lopsided(x: Tensor, eps: float) -> InputSet:
    return Box(x - eps, x + 2 * eps)


@pytest.mark.parametrize(("stage", "ball"), [("dual-adaptive", round_ball), ("branch", lopsided)])
def test_other_sets(stage: str, ball: Callable[[Tensor, float], InputSet]) -> None:
    assert at_the_limit(stage, mlp(nn.ReLU, (4, 6, 5, 3)), ball, steps=2).certificate.check().valid


@pytest.fixture(scope="module")
def proved() -> Proved:
    return at_the_limit("dual-optimised", NETS["relu"]())


def changed(document: Document, **parts: object) -> Document:
    """A document whose head says something else, its claim made up to fit."""
    head = {**document.head, **parts}
    return Document({**head, "claim": claim_digest(head, document.arrays)}, document.arrays)


def test_it_is_about_this_network_this_set_and_this_label(proved: Proved) -> None:
    graph, document = proved.certificate.proofs[0].graph(), proved.certificate.document()
    network, head = canonical(graph).network, document.head
    assert check(network, changed(document)).valid  # nothing was changed
    other = canonical(graph.map_tensors(lambda t: t * (1 + 2.0**-20))).network
    assert "another network" in check(other, document).reason
    moved = check(other, changed(document, network=other.digest))  # the same proof may hold of a network so near
    assert moved.lower.shape == (2,)
    label = head["specification"]["label"]
    swapped = changed(document, specification={"kind": "robustness", "label": (label + 1) % 3, "classes": 3})
    assert "not proved" in check(network, swapped).reason
    part = head["parts"][0]
    for name, value in (("eps", 1.5 * proved.eps), ("eps", 100.0)):
        wider = changed(document, parts=[{**part, "set": {**part["set"], name: value}}])
        assert "not proved" in check(network, wider).reason
    assert "claim" in check(network, replace(document, head={**head, "semantics": "float32"})).reason
    points = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    other_point = points[graph.forward(points).argmax(1) != label][0].numpy()
    far = {**document.arrays, part["set"]["x"]: other_point}
    assert "claim" in check(network, Document(head, far)).reason
    assert "not proved" in check(network, changed(Document(head, far))).reason


def test_without_its_slopes_it_proves_nothing(proved: Proved) -> None:
    """What was proved at the limit of optimised slopes needs them."""
    document = proved.certificate.document()
    part = document.head["parts"][0]
    weaker = changed(document, parts=[{**part, "bounds": [], "proofs": [{**part["proofs"][0], "rule": "interval"}]}])
    assert not check(canonical(proved.certificate.proofs[0].graph()).network, weaker).valid


def test_a_network_that_has_changed_since(proved: Proved) -> None:
    other = proved.certificate.proofs[0].graph().map_tensors(lambda t: 2 * t)
    with pytest.raises(ValueError, match="another network"):
        proved.certificate.document(other)


def test_float32_semantics() -> None:
    """The same evidence for the network in float32: valid where the margin allows, an error that says so elsewhere."""
    graph = NETS["relu"]()
    x = torch.rand(1, 4, generator=torch.Generator().manual_seed(5))
    spec = robustness(graph.forward(x).argmax(1), 3)
    certificate = run(REGISTRY["dual-adaptive"](), graph, LinfBall(x, 0.05), spec)
    assert certificate is not None
    document = certificate.document(semantics="float32", about={"index": 7})
    found = check(canonical(graph).network, document)
    exact = check(canonical(graph).network, certificate.document())
    assert found.valid and document.head["about"]["index"] == 7
    assert (found.clauses < exact.clauses).all() and (exact.clauses - found.clauses < 1e-4).all()


def test_unions_are_proved_member_by_member(tmp_path: Path) -> None:
    """And the whole way from `verify` to a file."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(2, 4)
    result = verify(model, x, input_set=Union([LinfBall(x, 0.02), L2Ball(x, 0.03)]))
    certificate = result.certificate[1]
    assert certificate is not None
    certificate.save(tmp_path / "a.cert")
    document = Document.read(tmp_path / "a.cert")
    network = canonical(import_torch(model, x[:1])).network
    found = check(network, document)
    assert found.valid and found.parts == 2
    assert [part["set"]["kind"] for part in document.head["parts"]] == ["linf", "l2"]
    one = changed(document, parts=[document.head["parts"][0], {**document.head["parts"][1], "proofs": []}])
    assert "not proved" in check(network, one).reason


def test_a_clause_of_several_rows() -> None:
    """No row is positive everywhere: |h| > 0 in two cases."""
    graph = mlp(nn.ReLU, (2, 6, 6, 2), seed=4)
    x = torch.rand(1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = graph.to("cpu", torch.float64).forward(x)[0]
    rows = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    offset = torch.stack([0.02 - y[0], 0.02 + y[0], 0.5 - y[1]]).unsqueeze(0)
    spec = Specification(rows, offset, torch.tensor([0, 0, 1]))
    for name in ("branch", "branch-input"):
        certificate = run(REGISTRY[name](), graph, LinfBall(x, 0.1), spec)
        assert certificate is not None
        found = certificate.check()
        assert found.valid, found.reason
        assert found.clauses.shape == (2,) and found.lower.shape == (3,)


def test_a_solver_has_no_certificate(proved: Proved) -> None:
    graph = proved.certificate.proofs[0].graph()
    for trust, words in ((Trust.SOLVER, "a solver's word"), (Trust.PROBABILISTIC, "a probability")):
        with pytest.raises(CertificateError, match=f"{words} has no certificate; .*'branch'"):
            CertificateBuilder(graph).build((replace(proved.certificate.evidence, trust=trust),), search=0)


def test_a_search_of_our_own_in_place_of_a_solver() -> None:
    graph = mlp(nn.ReLU, (4, 6, 6, 3))
    x = torch.rand(1, 4, generator=torch.Generator().manual_seed(5))
    spec = robustness(graph.forward(x).argmax(1), 3)
    certificate = run(REGISTRY["milp"](), graph, LinfBall(x, 0.1), spec)
    assert certificate is not None and certificate.trust is Trust.SOLVER
    assert certificate.check().valid


def test_evidence_that_proves_too_little() -> None:
    """A bound that floating point alone puts above zero: no certificate, and an error that says how far it is."""
    found = at_the_limit("dual-adaptive", NETS["relu"]())
    only = found.certificate.proofs[0]
    wrong = replace(only.run, query=replace(only.run.query, inputs=LinfBall(only.inputs.center(), 2 * found.eps)))
    with pytest.raises(CertificateError, match=r"the checker accepts no .*'dual-adaptive'.* by adaptive slopes"):
        replace(found.certificate, evidence=SetProofs((replace(only, run=wrong),), Trust.FLOAT)).document()


class TestBatch:
    """`result.certificate`: one per example, and a short way to save that of a single one."""

    @pytest.fixture
    def sum_and_difference(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(2, 2))
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
            model[0].bias.copy_(torch.tensor([1.0, 0.0]))
        return model.eval()

    def test_a_single_example_is_saved_at_once(self, sum_and_difference: nn.Module, tmp_path: Path) -> None:
        result = verify(sum_and_difference, torch.zeros(1, 2), 0.01, label=[0])
        size = result.certificate.save(tmp_path / "one.cert")
        assert size == (tmp_path / "one.cert").stat().st_size
        saved, kept = Document.read(tmp_path / "one.cert"), result.certificate[0]
        assert kept is not None and saved.head["claim"] == kept.document().head["claim"]

    def test_several_are_not_and_the_message_says_how(self, sum_and_difference: nn.Module, tmp_path: Path) -> None:
        result = verify(sum_and_difference, torch.zeros(3, 2), 0.01, label=[0] * 3)
        with pytest.raises(InputError, match=r"3 examples .*certificate\[i\].save"):
            result.certificate.save(tmp_path / "all.cert")

    def test_what_is_not_verified_has_none(self, sum_and_difference: nn.Module, tmp_path: Path) -> None:
        result = verify(sum_and_difference, torch.zeros(1, 2), 0.01, label=[1])
        with pytest.raises(InputError, match="not VERIFIED"):
            result.certificate.save(tmp_path / "one.cert")
        assert not list(tmp_path.iterdir())
