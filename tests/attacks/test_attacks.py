"""Attacks: closed forms on linear networks, members only, targets, restarts, starts, losses, unions, the stage."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from helpers.models import labelled, small_mlp
from torch import Tensor, nn
from torch.nn import functional as F

from properties import Box, InputSet, L1Ball, L2Ball, LinfBall, Specification, Union, robustness
from verifier import InputError, Verdict, Verifier, attack, import_torch
from verifier.attacks import (
    FGSM,
    MSD,
    PGD,
    REGISTRY,
    STARTS,
    Attack,
    AttackLoss,
    AttackPoints,
    AttackProblem,
    CrossEntropy,
    Diversified,
    HingeAttack,
    LeakyPGD,
    LogitRatio,
    MarginLoss,
    OneAfterAnother,
    Random,
    WorstMember,
    make,
)
from verifier.attacks.leaky import leaking
from verifier.attacks.pgd import descend
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.forms import Dense
from verifier.query import Query
from verifier.stages.attack import AttackStage
from verifier.testing import check_attack

N = 12

#: sets around x [B, N] in [0, 1]
GEOMETRIES: dict[str, Callable[[Tensor], InputSet]] = {
    "linf": lambda x: LinfBall(x, 0.1),
    "clipped linf": lambda x: LinfBall(x, 0.3, (0.0, 1.0)),
    "box": lambda x: Box(x - torch.linspace(0, 0.3, N), x + 0.1),
    "l2": lambda x: L2Ball(x, 0.5),
    "clipped l2": lambda x: L2Ball(x, 0.7, (0.0, 1.0)),
    "l1": lambda x: L1Ball(x, 1.0),
    "clipped l1": lambda x: L1Ball(x, 1.0, (0.0, 1.0)),
    "union": lambda x: Union([LinfBall(x, 0.1), L2Ball(x, 0.4), L1Ball(x, 1.0)]),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quick(method: str, steps: int = 6) -> Attack:
    """An attack by name, with few steps where it has any number."""
    if method == "max":
        return WorstMember(PGD(steps, 2))
    if method == "hinges":
        return HingeAttack(50, steps)
    if method == "leaky-pgd":
        return LeakyPGD(4, steps)
    if method == "carlini-wagner":
        return make(method, steps=5 * steps, searches=3)
    return make(method, steps=steps, restarts=2) if isinstance(make(method), PGD) else make(method)


def linear(classes: int = 2, seed: int = 0) -> nn.Linear:
    network = nn.Linear(N, classes).double()
    with torch.no_grad():
        network.weight.copy_(torch.randn(classes, N, generator=generator(seed), dtype=torch.float64))
    return network


def problem(network: nn.Module, inputs: InputSet, label: Tensor, target: Tensor | None = None) -> AttackProblem:
    with torch.no_grad():
        classes = network(inputs.center().to(next(network.parameters()).dtype)).shape[1]
    return AttackProblem(network, inputs, robustness(label, classes), next(network.parameters()).dtype, target)


def clean(count: int = 6, seed: int = 1) -> Tensor:
    return torch.rand(count, N, generator=generator(seed), dtype=torch.float64)


def lowest_margins(network: nn.Linear, inputs: InputSet, label: Tensor) -> Tensor:  # [B]
    """min over the sets of the worst margin, from the support function."""
    spec = robustness(label, len(network.weight))
    rows = torch.einsum("bso,on->bsn", spec.rows, network.weight.detach())
    offset = torch.einsum("bso,o->bs", spec.rows, network.bias.detach())
    return (inputs.minimum(Dense(rows)) + offset).amin(1)


@pytest.mark.parametrize("name", ["linf", "clipped linf", "box"])
@pytest.mark.parametrize("classes", [2, 5])
def test_fgsm_is_exact_on_a_linear_network(name: str, classes: int) -> None:
    network, x = linear(classes), clean()
    inputs = GEOMETRIES[name](x)
    label = network(x).argmax(1)
    targets = range(classes - 1)
    found = [
        FGSM(2.0, MarginLoss()).run(problem(network, inputs, label, torch.full((len(x),), t))).value for t in targets
    ]
    torch.testing.assert_close(torch.stack(found).amin(0), lowest_margins(network, inputs, label))
    if name == "linf" and classes == 2:  # from the center, one radius is enough
        one = FGSM(1.0).run(problem(network, inputs, label)).value
        torch.testing.assert_close(one, lowest_margins(network, inputs, label))


@pytest.mark.parametrize("name", sorted(GEOMETRIES))
@pytest.mark.parametrize(("classes", "loss"), [(4, MarginLoss()), (2, CrossEntropy()), (2, LogitRatio())])
def test_pgd_reaches_the_optimum_of_a_linear_network(name: str, classes: int, loss: AttackLoss) -> None:
    network, x = linear(classes), clean()
    inputs = GEOMETRIES[name](x)
    label = network(x).argmax(1)
    best = lowest_margins(network, inputs, label)
    descent = PGD(steps=60, restarts=4, loss=loss, targeted=True, stop=-torch.inf)
    found = WorstMember(descent).run(problem(network, inputs, label))
    assert (found.value >= best - 1e-9).all()
    with torch.no_grad():
        margin = network(x).sort(1).values[:, -2:].diff(dim=1)[:, 0]
    # steps in the l1 ball move several entries at once, and the optimum is one entry
    slack = 0.1 if "l1" in name or name == "union" else 1e-3
    assert (found.value - best <= slack * (margin - best)).all()


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_conformance(name: str) -> None:
    check_attack(REGISTRY[name])


def test_every_file_of_the_package_was_loaded() -> None:
    assert len(REGISTRY) >= 5 and not REGISTRY.failures


class _Outside(FGSM):
    """Its points are no members of small sets."""

    def run(self, problem: AttackProblem, *given: object, **options: object) -> AttackPoints:
        found = super().run(problem, *given, **options)  # type: ignore[arg-type]
        return AttackPoints(found.points + 1, found.value)


def test_a_broken_attack_is_noticed_and_the_law_is_named() -> None:
    with pytest.raises(AssertionError) as broken:
        check_attack(_Outside)
    assert any("breaks a law" in note for note in broken.value.__notes__)


@pytest.mark.parametrize("method", sorted(REGISTRY))
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_results_are_members_and_replayed(method: str, clip: tuple[float, float] | None) -> None:
    network = small_mlp(N)
    x, label = labelled(network, (N,), 20)
    for inputs in (LinfBall(x, 0.2, clip), L2Ball(x, 0.5, clip), Union([LinfBall(x, 0.1, clip), L1Ball(x, 1.0, clip)])):
        found = attack(network, x, input_set=inputs, label=label, method=quick(method), batch=7)
        assert found.points.dtype is torch.float32 and inputs.contains(found.points).all()
        outputs = network.double()(found.points.double()).detach()
        network.float()
        spec = robustness(label, 4)
        torch.testing.assert_close(found.margins, spec.worst(spec.values(outputs)))
        assert torch.equal(found.success, found.margins < 0) and found.success[::10].all()
        assert found.error == found.success.double().mean()
        again = attack(network, x, input_set=inputs, label=label, method=quick(method), batch=7)
        assert torch.equal(again.points, found.points)


def test_a_targeted_attack_attacks_its_class() -> None:
    network = small_mlp(N)
    x = torch.rand(30, N, generator=generator(2))
    label = network(x).argmax(1)
    free = attack(network, x, 0.3, label=label, steps=10, restarts=2)
    for shift in (1, 2, 3):
        target = (label + shift) % 4
        found = attack(network, x, 0.3, label=label, target=target, steps=10, restarts=2)
        outputs = network(found.points).detach()
        asked = (outputs.gather(1, label[:, None]) - outputs.gather(1, target[:, None])).squeeze(1)
        torch.testing.assert_close(asked.double(), found.margins, rtol=1e-4, atol=1e-5)
        other = network(free.points).detach()
        reached = (other.gather(1, label[:, None]) - other.gather(1, target[:, None])).squeeze(1)
        assert asked.mean() < reached.mean() - 0.01
        assert found.success.any()
        assert (outputs.gather(1, target[:, None]) > outputs.gather(1, label[:, None]))[found.success].all()
    with pytest.raises(InputError, match="no other class than the label"):
        attack(network, x, 0.3, label=label, target=label)


def test_losses_are_what_they_are_called() -> None:
    logits = torch.randn(50, 5, generator=generator(3), dtype=torch.float64)
    label = torch.randint(5, (50,), generator=generator(4))
    spec = robustness(label, 5)
    clauses = spec.per_clause(spec.values(logits))
    target = torch.randint(4, (50,), generator=generator(5))
    wanted = target + (target >= label)  # the class of that clause
    torch.testing.assert_close(CrossEntropy()(clauses), -F.cross_entropy(logits, label, reduction="none"))
    torch.testing.assert_close(CrossEntropy()(clauses, target), F.cross_entropy(logits, wanted, reduction="none"))
    right = logits.gather(1, label[:, None])
    others = logits.scatter(1, label[:, None], -torch.inf).amax(1)
    torch.testing.assert_close(MarginLoss()(clauses), right[:, 0] - others)
    torch.testing.assert_close(MarginLoss()(clauses, target), (right - logits.gather(1, wanted[:, None]))[:, 0])
    order = logits.sort(1, descending=True).values
    ratio = (right[:, 0] - others) / (order[:, 0] - order[:, 2])
    torch.testing.assert_close(LogitRatio()(clauses), ratio)
    torch.testing.assert_close(LogitRatio()(1000 * clauses), ratio)
    assert LogitRatio()(torch.zeros(3, 4)).isfinite().all()
    assert torch.equal(LogitRatio()(clauses[:, :1]), clauses[:, 0])


@pytest.mark.parametrize("name", sorted(STARTS))
@pytest.mark.parametrize("geometry", ["clipped linf", "l2", "clipped l1", "union"])
def test_starts_are_members_whoever_is_left(name: str, geometry: str) -> None:
    inputs = GEOMETRIES[geometry](clean(8))
    asked = problem(small_mlp(N).double(), inputs, torch.zeros(8, dtype=torch.int64))
    start, everyone = STARTS[name](), torch.arange(8)
    points = start.points(asked, everyone, generator(0))
    assert inputs.contains(inputs.inside(points, torch.float64)).all()
    some = torch.tensor([1, 4, 5])
    torch.testing.assert_close(start.points(asked, some, generator(0)), points[some])
    assert torch.equal(start.points(asked, everyone, generator(0)), points)
    other = start.points(asked, everyone, generator(1))
    assert torch.equal(other, points) is (name == "center")


def test_diversified_starts_are_diverse_in_the_outputs() -> None:
    network, x = small_mlp(N).double(), clean(8)
    asked = problem(network, LinfBall(x, 0.2), torch.zeros(8, dtype=torch.int64))
    spread = {}
    for start in (Random(), Diversified()):
        points = [start.points(asked, torch.arange(8), generator(seed)) for seed in range(20)]
        spread[start.name] = torch.stack([network(p).detach() for p in points]).std(0).mean()
    assert spread["diversified"] > 1.5 * spread["random"]


@pytest.mark.parametrize("method", ["pgd", "msd"])
def test_restarts_only_improve(method: str) -> None:
    network, x = small_mlp(N).double(), clean(20)
    inputs = GEOMETRIES["union"](x)
    asked = problem(network, inputs, network(x).argmax(1))
    values = [make(method, steps=5, restarts=r, stop=-torch.inf).run(asked).value for r in range(1, 8)]
    for before, after in pairwise(values):
        assert (after <= before).all()
    assert (values[-1] < values[0] - 1e-9).any()


def thin_shell(x: Tensor) -> Tensor:  # [B, 3] -> [B, 3]
    """Waves in every input: a clause that asks all three to be small is broken on a thin set."""
    return torch.stack([(5 * x).sin().sum(1), (7 * x * x.roll(1, 1)).cos().sum(1), (x * x).sum(1)], 1)


def test_conjunctions_are_broken_row_by_row() -> None:
    """The rows -d < y - c < d of one clause hold together on a tiny part of the box, at an unknown place."""
    bound, eye = 3e-3, torch.eye(3, dtype=torch.float64)
    at = torch.tensor([[0.31, -0.62, 0.85]], dtype=torch.float64)
    middle = thin_shell(at)[0]
    rows, offset = torch.cat([eye, -eye]), torch.cat([-middle - bound, middle - bound])
    spec = Specification(rows.unsqueeze(0), offset.unsqueeze(0), torch.zeros(6, dtype=torch.int64))
    box = Box(-torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64))
    asked = AttackProblem(thin_shell, box, spec, torch.float64)
    found = HingeAttack().run(asked)
    assert found.value < 0 and spec.worst(spec.values(thin_shell(found.points))) < 0
    assert make("pgd").run(asked).value > 0


def test_hinges_of_single_rows_break_what_descent_breaks() -> None:
    network, x = small_mlp(N).double(), clean(20)
    asked = problem(network, LinfBall(x, 0.3), network(x).argmax(1))
    broken = PGD(restarts=4).run(asked).value < 0
    assert broken.any()
    assert (HingeAttack(200, 20).run(asked).value[broken] < 0).all()


def plateau() -> nn.Sequential:
    """Two classes: the first is 1, the second is above it only where a neuron fires that no ordinary input reaches."""
    network = nn.Sequential(nn.Linear(N, 1), nn.ReLU(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        for parameter, values in zip(
            network.parameters(), ([[1.0] * N], [-0.9], [[0.0], [100.0]], [1.0, 0.0]), strict=True
        ):
            parameter.copy_(torch.tensor(values))
    return network.eval()


def test_leaking_gradients_leave_a_plateau() -> None:
    """The sum of twelve inputs in [-0.1, 0.1] must be above 0.9: nothing that the gradient shows where it is below."""
    network, x = plateau(), torch.zeros(1, N, dtype=torch.float64)
    graph = import_torch(network, x)
    asked = AttackProblem.of(Query.of(graph, LinfBall(x, 0.1), robustness(torch.zeros(1, dtype=torch.int64), 2)))
    assert PGD(50, 30).run(asked).value == LeakyPGD(leak=0.0).run(asked).value == 1
    found = LeakyPGD().run(asked)
    assert found.value < 0 and network(found.points).argmax(1) == 1


def test_a_sure_softmax_and_signs_are_no_obstacle() -> None:
    """Outputs of 1 and 0 to the last digit, of logits that are sums of signs: no gradient anywhere but by leaks."""

    class Signs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.last = nn.Linear(N, 20), nn.Linear(20, 3)
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator(4)))
                self.last.weight.mul_(100)

        def forward(self, x: Tensor) -> Tensor:  # [B, N] -> [B, 3]
            return self.last(self.hidden(x).sign()).softmax(1)

    network, x = Signs().double().eval(), clean(20)
    query = Query.of(import_torch(network, x[:1]), LinfBall(x, 0.2), robustness(network(x).argmax(1), 3))
    by_gradient = LeakyPGD(16, 30, leak=0.0).run(AttackProblem.of(query)).points
    by_leaks = LeakyPGD(16, 30).run(AttackProblem.of(query)).points
    fallen = [(network(p).argmax(1) != network(x).argmax(1)).sum() for p in (by_gradient, by_leaks)]
    assert fallen[1] > 1.5 * fallen[0]


def test_leaking_changes_gradients_alone() -> None:
    network, x = small_mlp(N).double().eval(), clean(6).requires_grad_()
    graph, share = import_torch(network, x[:1].detach()), torch.tensor([0.0, 0.0, 0.0, 0.3, 1.0, 2.0]).double()
    own, leaky = graph.forward(x), leaking(graph, share)(x)
    assert torch.equal(own, leaky)
    (before,), (after,) = (torch.autograd.grad(y.sum(), x) for y in (own, leaky))
    assert torch.equal(before[:3], after[:3]) and not torch.isclose(before[3:], after[3:]).any()


def test_many_starts_break_what_descent_breaks_and_fit_a_cost() -> None:
    network, x = small_mlp(N).double().eval(), clean(20)
    graph = import_torch(network, x[:1])
    asked = AttackProblem.of(Query.of(graph, LinfBall(x, 0.3), robustness(network(x).argmax(1), 4)))
    broken = PGD(restarts=4).run(asked).value < 0
    assert broken.any()
    assert (LeakyPGD(16, 20).run(asked).value[broken] < 0).all()
    few, many = (LeakyPGD.within(products, graph, 20, steps=20) for products in (1e7, 1e9))
    assert few is None or few.starts < 32
    assert many is not None and many.starts == 32 and LeakyPGD.within(1e3, graph, 20) is None


def test_what_is_found_is_left_alone() -> None:
    """With the default `stop`, an example that fell in the first run has the first run's point."""
    network, x = small_mlp(N).double(), clean(20)
    asked = problem(network, LinfBall(x, 0.04), network(x).argmax(1))
    first, all_runs = PGD(restarts=1).run(asked), PGD(restarts=8).run(asked)
    fell = first.value < 0
    assert fell.any() and not fell.all()
    assert torch.equal(first.points[fell], all_runs.points[fell])
    assert ((all_runs.value < first.value)[~fell]).any()


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.0, "targeted": True}, {"loss": CrossEntropy()}, {"start": Diversified()}]
)
def test_same_seed_same_points(options: dict[str, object]) -> None:
    network, x = small_mlp(N).double(), clean(10)
    asked = problem(network, LinfBall(x, 0.05), network(x).argmax(1))
    found = [make("pgd", steps=4, restarts=4, seed=seed, **options).run(asked).points for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_attacks_on_a_union() -> None:
    """By the losses after the steps better than by gradients alone; separate attacks beat each member's own."""
    multi, joint, alone, single = [], [], [], []
    options = {"steps": 12, "restarts": 2, "stop": -torch.inf}
    for seed in range(5):
        network, x = small_mlp(N, seed=seed).double(), clean(20, seed)
        label = network(x).argmax(1)
        members = (LinfBall(x, 0.18), L2Ball(x, 0.55), L1Ball(x, 1.2))
        whole = problem(network, Union(members), label)
        multi.append(MSD(**options).run(whole).value)
        joint.append(WorstMember(PGD(**options)).run(whole).value)
        alone.append(PGD(**options).run(whole).value)
        single.append(torch.stack([PGD(**options).run(problem(network, m, label)).value for m in members]))
    by_member = torch.stack(single).mean((0, 2))
    assert torch.stack(multi).mean() < torch.stack(alone).mean() < by_member.mean()
    # the separate attacks share one generator, so that only the first is the very same run
    assert (torch.stack(joint) <= torch.stack(single)[:, 0] + 1e-12).all()
    assert torch.stack(joint).mean() < by_member.min() - 0.01


def test_on_one_member_multi_steepest_descent_is_pgd() -> None:
    network, x = small_mlp(N).double(), clean(10)
    label = network(x).argmax(1)
    for member in (LinfBall(x, 0.1), L2Ball(x, 0.4), L1Ball(x, 1.2)):
        plain = PGD(10, 3).run(problem(network, member, label)).points
        for asked in (problem(network, member, label), problem(network, Union([member]), label)):
            assert torch.equal(MSD(10, 3).run(asked).points, plain)
            assert torch.equal(WorstMember(PGD(10, 3)).run(asked).points, plain)


def test_one_after_another_attacks_only_what_stands() -> None:
    network, x = small_mlp(N).double(), clean(20)
    asked = problem(network, LinfBall(x, 0.04), network(x).argmax(1))
    first, both = FGSM().run(asked), OneAfterAnother([FGSM(), PGD()]).run(asked)
    fell = first.value < 0
    assert fell.any() and torch.equal(both.points[fell], first.points[fell])
    assert (both.value <= first.value).all() and (both.value < first.value).any()
    with pytest.raises(ValueError, match="at least one attack"):
        OneAfterAnother([])


def test_perturb_takes_a_live_network() -> None:
    """For training: weights keep their gradients, nothing flows through the points, the loss goes up."""
    network = small_mlp(N).train()
    x = torch.rand(40, N, generator=generator(6))
    label = network(x).argmax(1)
    spec, before = robustness(label, 4), F.cross_entropy(network(x), label)
    for name in REGISTRY:
        draws = generator(7)
        first = quick(name).perturb(network, LinfBall(x, 0.1), spec, draws)
        second = quick(name).perturb(network, LinfBall(x, 0.1), spec, draws)
        assert not first.requires_grad and all(p.grad is None for p in network.parameters())
        assert all(p.requires_grad for p in network.parameters())
        assert F.cross_entropy(network(first), label) > before + 0.01, name
        drawn = name not in ("fgsm", "ddn", "carlini-wagner")  # these begin at the inputs themselves
        assert torch.equal(first, second) is not drawn, "each call has its own starts"
    graph = import_torch(network.eval(), x[:1])
    points = make("fgsm").perturb(graph.forward, LinfBall(x, 0.1), spec)
    torch.testing.assert_close(points, make("fgsm").perturb(network, LinfBall(x, 0.1), spec))


def test_clauses_of_several_rows() -> None:
    """A counterexample brings every row of one clause below zero, not only the lowest row."""
    network = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        network.weight.copy_(torch.eye(2))
    rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    offset = torch.tensor([[0.5, 0.1]], dtype=torch.float64)
    one = Specification(rows, offset, torch.tensor([0, 0]))
    x = torch.zeros(1, 2, dtype=torch.float64)
    for eps, breaks in ((0.4, False), (0.6, True)):
        found = PGD().run(AttackProblem(network, LinfBall(x, eps), one, torch.float64))
        assert bool(found.value < 0) is breaks
        assert found.value == pytest.approx(max(0.5 - eps, 0.1 - eps), abs=0.02)


def test_the_stage_attacks_only_who_is_left_and_stops_in_time() -> None:
    network = small_mlp(N)
    x, label = labelled(network, (N,), 12)
    query = Query.of(import_torch(network, x[:1]), LinfBall(x, 0.3), robustness(label, 4))
    report = AttackStage().run(query, Bounds(), Budget())
    assert report.lower is None and not report.exhausted and report.candidates is not None
    assert LinfBall(x, 0.3).contains(report.candidates).all()
    spent = AttackStage(steps=10**6).run(query, Bounds(), Budget(0.0))
    assert spent.exhausted and spent.candidates is not None
    torch.testing.assert_close(spent.candidates, x)
    short = AttackStage(steps=10**6, restarts=1).run(query, Bounds(), Budget(0.2))
    assert short.exhausted and short.candidates is not None and not torch.equal(short.candidates, x)
    result = Verifier(network, x, stages=[AttackStage(attack=FGSM())]).run(LinfBall(x, 0.3), robustness(label, 4))
    by_fgsm = attack(network, x, 0.3, label=label, method="fgsm")
    assert [v is Verdict.FALSIFIED for v in result.verdict] == by_fgsm.success.tolist()
    point, value = descend(query, x, steps=5, step=0.3)
    assert torch.equal(value, query.spec.worst(query.spec.values(network(point).detach())))


def test_bad_arguments_are_told() -> None:
    network, x = small_mlp(N), clean(3).float()
    for wrong, message in (
        ({"eps": 0.1, "method": "pdg"}, "no attack is called 'pdg'; there are: carlini-wagner, ddn, fgsm"),
        ({"eps": 0.1, "method": "fgsm", "restarts": 3}, "attack 'fgsm' cannot be made"),
        ({"eps": 0.1, "method": PGD(), "restarts": 3}, "options go with an attack's name"),
        ({"eps": 0.1, "restarts": 0}, "steps and restarts must be at least 1"),
        ({"eps": 0.1, "step": 0.0}, "step must be > 0"),
        ({}, "give eps or input_set"),
        ({"eps": 0.1, "input_set": LinfBall(x, 0.1)}, "not both"),
        ({"input_set": LinfBall(x, 0.1), "clip": (0, 1)}, "clip and threat go with eps"),
        ({"input_set": LinfBall(x[:2], 0.1)}, "2 input sets, but specifications for 3 examples"),
        ({"eps": 0.1, "spec": robustness(torch.zeros(3, dtype=torch.int64), 4), "label": [0, 0, 0]}, "not both"),
        ({"eps": 0.1, "target": [9, 9, 9]}, "no other class"),
        ({"eps": -1.0}, "eps must be"),
        ({"eps": 0.1, "batch": 0}, "batch must be at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            attack(network, x, **wrong)
    with pytest.raises(ValueError, match="one clause per example"):
        AttackProblem(
            network, LinfBall(x, 0.1), robustness(torch.zeros(3, dtype=torch.int64), 4), target=torch.zeros(2)
        )
