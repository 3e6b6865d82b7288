"""Unions of input sets: their protocol, and verdicts on them against brute force and against their members."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from helpers.models import small_mlp
from torch import Tensor, nn

from properties import Box, InputSet, L1Ball, L2Ball, LinfBall, Specification, Union, robustness
from verifier import Certificate, InputError, Reason, Result, Trust, Verdict, Verifier, import_torch, verify
from verifier.forms import Dense
from verifier.stages.base import Stage
from verifier.stages.dual import DualStage
from verifier.union import UnionCertificate

BATCH = 10


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(inputs: int = 2, seed: int = 0, batch: int = BATCH) -> Tensor:
    return torch.rand(batch, inputs, generator=generator(seed))


def cross(x: Tensor, long: float, short: float) -> Union:
    """Two crossed bars around x [B, 2]: not convex."""
    wide = torch.tensor([long, short])
    return Union([Box(x - wide, x + wide, x), Box(x - wide.flip(0), x + wide.flip(0), x)])


def balls(x: Tensor, eps: float) -> Union:
    return Union([LinfBall(x, 0.6 * eps), L2Ball(x, eps), L1Ball(x, 1.3 * eps)])


def grid(inputs: InputSet, count: int = 31) -> Tensor:  # [P, B, 2]
    """Points of the sets' boxes, dense in them, with the corners."""
    low, high = inputs.box()
    steps = torch.linspace(0, 1, count, dtype=torch.float64)
    pairs = torch.cartesian_prod(steps, steps)
    return low + pairs.unsqueeze(1) * (high - low)


def lowest(network: nn.Module, inputs: InputSet, spec: Specification) -> Tensor:  # [B]
    """The worst clause at all points of a grid that are members."""
    values = []
    for x in grid(inputs):
        with torch.no_grad():
            worst = spec.worst(spec.values(network.double()(x)))
        values.append(torch.where(inputs.contains(x), worst, torch.inf))
    network.float()
    return torch.stack(values).amin(0)


def own(network: nn.Module, x: Tensor) -> Specification:
    """The network's answers must not change."""
    with torch.no_grad():
        y = network(x)
    return robustness(y.argmax(1), y.shape[1])


def test_protocol_against_the_members() -> None:
    x = points(3).double()
    members = (LinfBall(x, 0.1), L2Ball(x, 0.15), Box(x - 0.4, x - 0.3))
    union, form = Union(members), Dense(torch.randn(BATCH, 5, 3, generator=generator(1), dtype=torch.float64))
    assert torch.equal(union.support(form), torch.stack([m.support(form) for m in members]).amax(0))
    assert torch.equal(union.minimum(form), torch.stack([m.minimum(form) for m in members]).amin(0))
    low, high = union.range(form, form.times(0.5))
    assert torch.equal(high, torch.stack([m.range(form, form.times(0.5))[1] for m in members]).amax(0))
    assert torch.equal(low, torch.stack([m.range(form, form.times(0.5))[0] for m in members]).amin(0))
    assert torch.equal(union.center(), members[0].center()) and union.shape == (3,) and union.batch == BATCH
    assert torch.equal(union.box()[0], members[2].box()[0]) and torch.equal(union.box()[1], members[1].box()[1])
    found = [union.sample(generator(seed)) for seed in range(30)]
    for m in members:
        assert any(m.contains(m.inside(y, torch.float64)).any() for y in found)
    for seed in range(20):
        y = x + 0.3 * torch.randn(BATCH, 3, generator=generator(seed), dtype=torch.float64)
        assert torch.equal(union.contains(y), torch.stack([m.contains(y) for m in members]).any(0))
        distance = (union.project(y) - y).norm(dim=1)
        torch.testing.assert_close(distance, torch.stack([(m.project(y) - y).norm(dim=1) for m in members]).amin(0))
        ascent = (union.steepest_ascent(y, y, 0.2) * y).sum(1)
        steps = torch.stack([(m.steepest_ascent(y, y, 0.2) * y).sum(1) for m in members])
        torch.testing.assert_close(ascent, steps.amax(0))
        normal = union.separate(y)
        bound = union.support(Dense(normal.unsqueeze(1)))[:, 0]
        for z in found:
            assert ((normal * z).sum(1) <= bound + 1e-9).all()
    assert union.describe() == {"kind": "union", "members": [m.describe() for m in members]}
    assert json.loads(json.dumps(union.describe()))
    assert union.to(torch.device("cpu")).describe() == union.describe()
    assert torch.equal(union.select(torch.tensor([3, 1])).center(), x[[3, 1]])


def test_inside_moves_by_roundings_only() -> None:
    """A member of the second set stays where it is, though the first would accept its own clamp of it."""
    x = points(3).double()
    union = Union([LinfBall(x, 0.1), L2Ball(x, 1.0)])
    far = x + torch.tensor([0.9, 0.0, 0.0])
    assert torch.equal(union.inside(far, torch.float64), far)
    near = union.inside(x + 0.1, torch.float32)
    assert union.contains(near).all() and (near - (x + 0.1)).abs().max() < 1e-6


def test_what_makes_no_union() -> None:
    x = points()
    with pytest.raises(ValueError, match="at least one member"):
        Union([])
    with pytest.raises(ValueError, match="member 0 has 10 x"):
        Union([LinfBall(x, 0.1), LinfBall(x[:3], 0.1)])
    with pytest.raises(ValueError, match="one shape"):
        Union([LinfBall(x, 0.1), LinfBall(points(3), 0.1)])
    with pytest.raises(ValueError, match="made of input sets, got float"):
        Union([LinfBall(x, 0.1), 0.1])
    ball = LinfBall(x, 0.1)
    assert Union([Union([ball, ball]), ball]).members == (ball, ball, ball)
    with pytest.raises(InputError, match="takes inputs of shape"):
        Verifier(small_mlp(3), points(3)).run(Union([ball]), robustness(torch.zeros(BATCH, dtype=torch.int64), 4))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["cross", "balls"])
def test_verdicts_against_brute_force(seed: int, kind: str) -> None:
    network, x = small_mlp(2, 8, 3, seed), 3 * points(seed=seed) - 1.5
    with torch.no_grad():  # no class wins everywhere
        network[2].bias.sub_(network(x).mean(0))
    union = cross(x, 0.3, 0.02) if kind == "cross" else balls(x, 0.12)
    spec = own(network, x)
    verifier = Verifier(network, x)
    result, truth = verifier.run(union, spec), lowest(network, union, spec)
    alone = [verifier.run(member, spec) for member in union.members]
    assert {Verdict.VERIFIED, Verdict.FALSIFIED} <= set(result.verdict)
    for i, verdict in enumerate(result.verdict):
        members = [r.verdict[i] for r in alone]
        if verdict is Verdict.VERIFIED:
            assert truth[i] > 0 and all(v is Verdict.VERIFIED for v in members)
            assert truth[i] >= result.margins[i].min() - 1e-5 and result.margins[i].min() > 0
        elif verdict is Verdict.FALSIFIED:
            point = result.counterexample[i]
            assert point is not None and union.select(torch.tensor([i])).contains(point[None]).all()
            assert network(point[None]).argmax() != spec.label[i]
            assert Verdict.FALSIFIED in members and result.attack_margin[i] < 0
        else:
            assert Verdict.UNKNOWN in members
        assert (result.reason[i] is None) == (verdict is not Verdict.UNKNOWN)
    assert (result.seconds > 0).all() and result.prediction.tolist() == spec.label.tolist()


def test_members_are_bounded_alone() -> None:
    """The convex hull of crossed bars holds points that break the network; the bars do not."""
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    with torch.no_grad():  # logits 1.5 - |x1| - |x2| and 0 near the positive quadrant
        network[0].weight.copy_(torch.eye(2)), network[0].bias.zero_()
        network[2].weight.copy_(torch.tensor([[-1.0, -1.0], [0.0, 0.0]])), network[2].bias.copy_(torch.tensor([1.2, 0]))
    x = torch.zeros(1, 2)
    union, spec = cross(x, 1.0, 0.1), robustness(torch.tensor([0]), 2)
    hull = Box(*union.box(), x)
    names = ["dual"]
    assert Verifier(network, x, stages=names).run(hull, spec).verdict == (Verdict.UNKNOWN,)
    result = Verifier(network, x, stages=names).run(union, spec)
    assert result.verdict == (Verdict.VERIFIED,) and result.decided_by == ("dual",)
    assert result.margins[0, 1] == pytest.approx(0.1, abs=1e-4) and result.margins[0, 0] == torch.inf


def test_margins_trust_and_costs_are_the_members() -> None:
    network, x = small_mlp(4), points(4)
    union, spec = balls(x, 0.05), own(network, x)
    verifier = Verifier(network, x, stages=["interval", "dual"])
    result = verifier.run(union, spec)
    alone = [Verifier(network, x, stages=["interval", "dual"]).run(m, spec) for m in union.members]
    torch.testing.assert_close(result.margins, torch.stack([r.margins for r in alone]).amin(0))
    assert [v is Verdict.VERIFIED for v in result.verdict] == torch.stack([r.verified for r in alone]).all(0).tolist()
    for i, verdict in enumerate(result.verdict):
        if verdict is Verdict.VERIFIED:
            assert result.trust[i] == min(r.trust[i] for r in alone)
            by = [r.decided_by[i] for r in alone]
            assert result.decided_by[i] == ("dual" if "dual" in by else "interval")
    assert [c.name for c in result.stages].count("interval") == len(union.members)


def test_union_of_one_is_the_set_itself() -> None:
    network, x = small_mlp(4), points(4)
    spec = own(network, x)
    for ball in (LinfBall(x, 0.1), L2Ball(x, 0.1)):
        alone, union = (Verifier(network, x).run(s, spec) for s in (ball, Union([ball])))
        assert union.verdict == alone.verdict and union.decided_by == alone.decided_by
        assert torch.equal(union.margins, alone.margins) and torch.equal(union.attack_margin, alone.attack_margin)


def certified(network: nn.Module, x: Tensor, union: Union, spec: Specification, stages: list[str | Stage]) -> Result:
    result = Verifier(network, x, stages=stages).run(union, spec)
    for i, certificate in enumerate(result.certificate):
        assert (certificate is not None) == (result.verdict[i] is Verdict.VERIFIED)
    assert Verdict.VERIFIED in result.verdict
    return result


def test_certificates_are_recomputed() -> None:
    network, x = small_mlp(4), points(4)
    union = balls(x, 0.05)
    graph = import_torch(network, x[:1])
    result = certified(network, x, union, own(network, x), ["clean", "dual", "attack"])
    for i, certificate in enumerate(result.certificate):
        if certificate is None:
            continue
        assert isinstance(certificate, UnionCertificate) and isinstance(certificate, Certificate)
        assert len(certificate.members) == len(union.members) and certificate.stage == "dual"
        assert certificate.trust is result.trust[i] is Trust.CHECKED
        assert isinstance(certificate.inputs, Union) and torch.equal(certificate.inputs.center(), x[i : i + 1].double())
        again = certificate.recompute(graph)
        assert (again > 0).all() and (again - certificate.lower).abs().max() < 1e-3
        for member, kept in zip(certificate.members, union.members, strict=True):
            assert type(member.inputs) is type(kept) and (member.recompute() >= again).all()
    with torch.no_grad():
        network[0].weight.add_(1.0)
    certificate = next(c for c in result.certificate if c is not None)
    with pytest.raises(InputError, match="another network"):
        certificate.recompute(import_torch(network, x[:1]))


def test_members_may_prove_a_clause_by_different_rows() -> None:
    network, x = nn.Linear(1, 2).eval(), torch.zeros(1, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0], [-1.0]])), network.bias.zero_()
    either = Specification(torch.eye(2)[None].double(), torch.zeros(1, 2).double(), torch.tensor([0, 0]))
    union = Union([Box(x + 1, x + 2), Box(x - 2, x - 1)])
    result = certified(network, x, union, either, ["dual"])
    certificate = result.certificate[0]
    assert isinstance(certificate, UnionCertificate) and certificate.recompute().amax() < 0
    assert [int(m.recompute().argmax()) for m in certificate.members] == [0, 1]
    assert all(m.recompute().amax() > 0 for m in certificate.members)


def test_what_is_not_bounded_has_no_margin() -> None:
    """A counterexample in one member says nothing of the others: no bound over the union is claimed."""
    network, x = small_mlp(4), points(4)
    spec = own(network, x)
    result = Verifier(network, x, stages=["attack", "dual"]).run(balls(x, 5.0), spec)
    assert set(result.verdict) == {Verdict.FALSIFIED} and set(result.decided_by) == {"attack"}
    other = torch.arange(4) != spec.label[:, None]
    assert (result.margins[other] == -torch.inf).all() and (result.margins[~other] == torch.inf).all()
    assert (result.attack_margin < 0).all() and all(result.float32_agrees)


def test_a_union_with_an_open_member_is_unknown() -> None:
    network, x = small_mlp(4), points(4)
    union, spec = Union([LinfBall(x, 1e-3), LinfBall(x, 5.0)]), own(network, x)
    result = Verifier(network, x, stages=["dual"]).run(union, spec)
    assert set(result.verdict) == {Verdict.UNKNOWN} and set(result.reason) == {Reason.BOUNDS}
    assert set(result.certificate) == {None} and set(result.trust) == {None}


def test_budgets() -> None:
    network, x = small_mlp(4), points(4)
    union, spec = balls(x, 0.05), own(network, x)
    for budgets in ({"budget": 0.0}, {"example_budget": 0.0}):
        result = Verifier(network, x).run(union, spec, **budgets)
        assert set(result.verdict) == {Verdict.UNKNOWN} and set(result.reason) == {Reason.BUDGET}
    assert Verdict.VERIFIED in Verifier(network, x).run(union, spec, budget=None, example_budget=None).verdict
    assert Verdict.VERIFIED in verify(network, x, input_set=union, budget=60.0).verdict


def test_open_rows_of_one_member_do_not_leak_into_another() -> None:
    """Every member is asked the whole question: one with all rows proved settles nothing for the next."""

    seen: list[Tensor] = []

    class Watched(DualStage):
        def run(self, query, bounds, budget):  # type: ignore[no-untyped-def]
            seen.append(query.open.clone())
            return super().run(query, bounds, budget)

    network, x = small_mlp(4), points(4)
    Verifier(network, x, stages=[Watched()]).run(Union([LinfBall(x, 1e-4), LinfBall(x, 0.01)]), own(network, x))
    assert all(rows.all() for rows in seen) and sum(len(rows) == BATCH for rows in seen) >= 2


def test_no_examples() -> None:
    network, x = small_mlp(4), points(4)
    nothing = torch.tensor([], dtype=torch.int64)
    spec = own(network, x)
    result = Verifier(network, x).run(balls(x, 0.1).select(nothing), replace(spec).select(nothing))
    assert len(result) == 0 and result.margins.shape == (0, 4)
