"""Every threat model through every stage: no bound above a member's value, no verdict against a witness."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from properties import (
    InputSet,
    L1Ball,
    L2Ball,
    LinfBall,
    Polytope,
    Threat,
    Union,
    WassersteinBall,
    Zonotope,
    robustness,
)
from properties.image import BiasField, Brightness, Contrast
from properties.input_set import threats
from verifier import Verdict, Verifier, certified_radius, verify
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.graph.torch_import import import_torch
from verifier.query import Query
from verifier.stages import REGISTRY, stage
from verifier.testing.networks import RandomNetwork, random_network

#: networks on images and on vectors
NETWORKS = ("conv", "residual", "dense")
PROVING = [name for name in REGISTRY if stage(name).trust is not None]
Make = Callable[[Tensor], InputSet]


def polytope(x: Tensor) -> InputSet:
    """A box with two corners cut off."""
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(1, 2, *x.shape[1:], generator=generator, dtype=torch.float64)
    reach = (a * x.unsqueeze(1)).flatten(2).sum(2) + 0.02 * a.abs().flatten(2).sum(2)
    return Polytope(a, reach, x - 0.05, x + 0.05, x)


def zonotope(x: Tensor) -> InputSet:
    generator = torch.Generator().manual_seed(4)
    return Zonotope(x, 0.05 * torch.randn(len(x), 3, *x.shape[1:], generator=generator, dtype=torch.float64))


SETS: dict[str, Make] = {
    "l2": lambda x: L2Ball(x, 0.15),
    "l2 in a range": lambda x: L2Ball(x, 0.3, (0, 1)),
    "l1": lambda x: L1Ball(x, 0.3),
    "l1 in a range": lambda x: L1Ball(x, 0.5, (0, 1)),
    "polytope": polytope,
    "zonotope": zonotope,
    "brightness": lambda x: Brightness(x, 0.1),
    "contrast": lambda x: Contrast(x, 0.2),
    "union": lambda x: Union([LinfBall(x, 0.02), L2Ball(x, 0.1)]),
    "bias field": lambda x: BiasField(x, 0.1),
    "wasserstein": lambda x: WassersteinBall(x, 0.02, (0, 1)),
}
IMAGE_SETS = ("bias field", "wasserstein")


def network(name: str, seed: int = 0) -> RandomNetwork:
    net = random_network(name, seed)
    low, high = net.x.min(), net.x.max()
    return RandomNetwork(net.name, net.model, (net.x - low) / (high - low), net.eps)


def cases() -> list[tuple[str, str]]:
    few = ("l2 in a range", "l1", "zonotope", "union")  # on the largest network
    return [
        (n, s)
        for n in NETWORKS
        for s in SETS
        if (n != "residual" or s in few) and (n != "dense" or s not in IMAGE_SETS)
    ]


def members(inputs: InputSet, query: Query, count: int = 60) -> Tensor:
    """[N, B, *input]: samples, and points on the way down each row."""
    generator = torch.Generator().manual_seed(0)
    found = [inputs.center(), *(inputs.sample(generator) for _ in range(count))]
    for s in range(query.spec.rows.shape[1]):
        x = inputs.center()
        for step in (1.0, 0.5, 0.25, 0.1):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                value = query.spec.values(query.graph.forward(x).flatten(1))[:, s].sum()
                (gradient,) = torch.autograd.grad(value, x)
            x = inputs.project(x.detach() + inputs.steepest_ascent(x.detach(), -gradient, step))
            found.append(x)
    points = torch.stack(found)
    inside = torch.stack([inputs.inside(p, torch.float64) for p in points])
    held = torch.stack([inputs.contains(p) for p in inside])
    assert held.float().mean() > 0.9
    return torch.where(held.reshape(*held.shape, *(1,) * len(inputs.shape)), inside, inputs.center())


@pytest.mark.parametrize(("name", "kind"), cases())
def test_no_stage_bounds_above_a_member(name: str, kind: str) -> None:
    net = network(name)
    inputs = SETS[kind](net.x)
    graph = import_torch(net.model, net.x[:1]).to()
    query = Query.of(graph, inputs, robustness(net.model(net.x).argmax(1), 4))
    points = members(inputs, query)
    with torch.no_grad():
        values = [v.unflatten(0, points.shape[:2]) for v in graph.values(points.flatten(0, 1))]
        rows = torch.einsum("bso,nbo->nbs", query.spec.rows, values[-1])
    ran = 0
    for chosen in PROVING:
        if not stage(chosen).supports(query) or chosen.startswith("milp"):
            continue
        with torch.no_grad():
            report = stage(chosen).run(query, Bounds(), Budget(1.0))
        assert report.lower is not None
        off = 1e-7 * (1 + rows.abs().amax())
        assert (rows.amin(0) >= report.lower - off).all(), chosen
        for node, interval in report.bounds.items():
            assert (values[node].amin(0) >= interval.lower - off).all(), (chosen, node)
            assert (values[node].amax(0) <= interval.upper + off).all(), (chosen, node)
        ran += 1
    assert ran >= 5


@pytest.mark.parametrize(("name", "kind"), cases())
def test_no_verdict_against_a_witness(name: str, kind: str) -> None:
    """The whole ladder: a counterexample lies in the set and changes the answer; nothing seen contradicts a proof."""
    net = network(name, 1)
    label = net.model(net.x).argmax(1)
    inputs = SETS[kind](net.x)
    result = verify(net.model, net.x, input_set=inputs, label=label, example_budget=2.0)
    query = Query.of(import_torch(net.model, net.x[:1]).to(), inputs, robustness(label, 4))
    points = members(inputs, query)
    with torch.no_grad():
        answers = net.model(points.flatten(0, 1)).argmax(1).unflatten(0, points.shape[:2])
    for i, verdict in enumerate(result.verdict):
        if verdict is Verdict.VERIFIED:
            assert (answers[:, i] == label[i]).all()
            certificate = result.certificate[i]
            assert certificate is not None
        if verdict is Verdict.FALSIFIED:
            point = result.counterexample[i]
            assert point is not None
            assert bool(inputs.select(torch.tensor([i])).contains(point.unsqueeze(0)))
            assert int(net.model(point.unsqueeze(0)).argmax(1)) != int(label[i])


@pytest.mark.parametrize("kind", list(SETS))
def test_larger_sets_are_not_easier(kind: str) -> None:
    """A set of one point is decided like the point: everything is proved at radius zero."""
    x = network("conv").x
    model = network("conv").model
    zero: dict[str, Make] = {
        "l2": lambda x: L2Ball(x, 0.0), "l2 in a range": lambda x: L2Ball(x, 0.0, (0, 1)),
        "l1": lambda x: L1Ball(x, 0.0), "l1 in a range": lambda x: L1Ball(x, 0.0, (0, 1)),
        "polytope": lambda x: Polytope(torch.ones(1, 1, *x.shape[1:]), torch.full((1, 1), 1e3), x, x, x),
        "zonotope": lambda x: Zonotope(x, torch.zeros(len(x), 1, *x.shape[1:])),
        "brightness": lambda x: Brightness(x, 0.0), "contrast": lambda x: Contrast(x, 0.0),
        "union": lambda x: Union([LinfBall(x, 0.0), L2Ball(x, 0.0)]), "bias field": lambda x: BiasField(x, 0.0),
        "wasserstein": lambda x: WassersteinBall(x, 0.0, (0, 1)),
    }  # fmt: skip
    result = Verifier(model, x, stages=["dual"]).run(zero[kind](x), robustness(model(x).argmax(1), 4))
    assert all(v is Verdict.VERIFIED for v in result.verdict)


def test_every_named_threat_makes_sets_of_its_kind() -> None:
    assert {"linf", "l2", "l1", "wasserstein", "brightness", "contrast"} <= set(threats())
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name, kind in threats().items():
        made = kind.around(x, 0.1)
        assert made.describe()["kind"] == name and made.batch == 2
        assert torch.equal(made.center(), x)


@pytest.mark.parametrize(
    "text", ["linf", "5*l2", "linf+1000004.0*l2", "5.0000001*l2+l1", "1e-07*l1", "1e30*wasserstein"]
)
def test_a_threat_is_written_as_it_is_read(text: str) -> None:
    """A store tells runs apart by this text: no two threats may share one."""
    threat = Threat.of(text)
    assert Threat.of(str(threat)) == threat and len(str(threat)) <= len(text) + 1
    assert str(threat) != str(Threat.of("linf+1000000*l2"))


def test_radii_of_other_threats() -> None:
    net = network("conv")
    found = {t: certified_radius(net.model, net.x, threat=t).radius for t in ("linf", "l2", "l1", "linf+l2")}
    assert (found["linf"] > 0).all()
    assert (found["l2"] >= 0.999 * found["linf"]).all() and (found["l1"] >= 0.99 * found["l2"]).all()
    assert (found["linf+l2"] <= 1.01 * found["linf"]).all()


def test_a_range_without_an_end_is_a_range() -> None:
    """clip = (0, inf): entries stay >= 0, and nothing else."""
    x = network("conv").x
    model = network("conv").model
    for kind in (LinfBall, L2Ball, L1Ball, WassersteinBall, Brightness, Contrast):
        inputs = kind(x, 0.001, (0, torch.inf))
        spec = robustness(model(x).argmax(1), 4)
        result = Verifier(model, x, stages=["dual"]).run(inputs, spec)
        assert all(v is Verdict.VERIFIED for v in result.verdict), kind
