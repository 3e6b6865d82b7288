"""Laws that hold for every network: on one random network of each kind (verifier.testing.networks)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers.differences import slope
from torch import Tensor, nn

from properties import LinfBall, Specification, robustness
from verifier import InternalError, Trust, Verdict, Verifier, verify
from verifier.bound_map import Bounds, Interval, Provenance
from verifier.budget import Budget
from verifier.forms import Dense
from verifier.graph import Graph
from verifier.graph.torch_import import import_torch
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.backward import OneSided, Relaxation, bound
from verifier.relaxation.dual import specification_rows
from verifier.relaxation.plan import PassPlan
from verifier.stages import Stage, StageReport, stage
from verifier.stages.dual import DualStage
from verifier.testing.networks import KINDS, RandomNetwork, random_network
from verifier.testing.stages import roundoff

NAMES = list(KINDS)
STAGES = ["interval", "dual", "dual-adaptive"]
IMAGES = [n for n in NAMES if KINDS[n][1]]


def every_pair(classes: int, batch: int) -> Specification:
    """All differences of two logits and all single logits, one clause each."""
    rows = [torch.eye(classes)[i] - torch.eye(classes)[j] for i, j in itertools.permutations(range(classes), 2)]
    table = torch.stack([*rows, *torch.eye(classes)]).double().expand(batch, -1, -1)
    return Specification(table, torch.zeros(table.shape[:2]).double(), torch.arange(table.shape[1]))


def ball(net: RandomNetwork, eps: float | None = None, clip: tuple[float, float] | None = None) -> LinfBall:
    return LinfBall(net.x, net.eps if eps is None else eps, clip)


def query_of(net: RandomNetwork, eps: float | None = None, graph: Graph | None = None) -> Query:
    graph = import_torch(net.model, net.x[:1]).to() if graph is None else graph
    return Query.of(graph, ball(net, eps), every_pair(4, len(net.x)))


def run(chosen: Stage | str, query: Query, known: Bounds | None = None) -> StageReport:
    chosen = stage(chosen) if isinstance(chosen, str) else chosen
    with torch.no_grad():
        return chosen.run(query, known or Bounds(), Budget())


def lower_of(report: StageReport) -> Tensor:
    assert report.lower is not None
    return report.lower


def members(inputs: LinfBall, count: int = 1500) -> Tensor:
    """[count, B, *input]: random members, corners, faces, and corners of the steepest kind."""
    generator = torch.Generator().manual_seed(0)
    low, high = inputs.lower, inputs.upper
    u = torch.rand(count, *low.shape, generator=generator, dtype=torch.float64)
    u[: count // 3] = u[: count // 3].round()
    third = slice(count // 3, 2 * count // 3)
    u[third] = torch.where(u[third] < 0.3, 0.0, torch.where(u[third] > 0.7, 1.0, u[third]))
    u[0], u[1] = 0.0, 1.0
    return low + u * (high - low)


@pytest.mark.parametrize("name", NAMES)
def test_sampled_soundness(name: str) -> None:
    """Every pre-activation of every sampled point lies in its interval, every row above its bound."""
    for seed, dtype in ((0, torch.float64), (1, torch.float64), (0, torch.float32)):
        net = random_network(name, seed)
        exact = import_torch(net.model, net.x[:1]).to()
        query = query_of(net, graph=exact.to(dtype=dtype))
        points = members(query.inputs).flatten(0, 1)  # type: ignore[arg-type]
        with torch.no_grad():
            values = exact.values(points)
        batch = len(net.x)
        rows = torch.einsum("bso,nbo->nbs", query.spec.rows, values[-1].unflatten(0, (-1, batch)))
        relative = 1e-9 if dtype is torch.float64 else 2e-5
        for chosen in STAGES:
            report = run(chosen, query)
            for node, interval in report.bounds.items():
                seen, off = values[node].unflatten(0, (-1, batch)), roundoff(values[node], relative)
                assert (seen.amin(0) >= interval.lower - off).all(), f"{chosen}: node {query.graph.nodes[node]}"
                assert (seen.amax(0) <= interval.upper + off).all(), f"{chosen}: node {query.graph.nodes[node]}"
            assert set(report.bounds) == set(exact.pre_activations)
            low = lower_of(report)
            assert (rows.amin(0) >= low - roundoff(rows, relative)).all(), chosen
            assert low.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_attack_stays_above_the_bounds(name: str) -> None:
    """Signed gradient steps on every row, a far better search than sampling, never get below a bound."""
    net = random_network(name, 2)
    query = query_of(net)
    low = torch.stack([lower_of(run(s, query)) for s in STAGES]).amax(0)
    inputs = query.inputs
    assert isinstance(inputs, LinfBall)
    for s in range(query.spec.rows.shape[1]):
        x = inputs.center().clone()
        for step in range(12):
            x.requires_grad_()
            value = (query.graph.forward(x) * query.spec.rows[:, s]).sum(1)
            assert (value.detach() >= low[:, s] - roundoff(value.detach())).all()
            (gradient,) = torch.autograd.grad(value.sum(), x)
            x = inputs.project(x.detach() + inputs.steepest_ascent(x.detach(), -gradient, 2.0 if step < 2 else 0.4))


@pytest.mark.parametrize("name", NAMES)
def test_radius_zero_is_the_forward_pass(name: str) -> None:
    net = random_network(name)
    query = query_of(net, eps=0.0)
    with torch.no_grad():
        rows = query.spec.values(query.graph.forward(net.x).flatten(1))
    for chosen in STAGES:
        torch.testing.assert_close(lower_of(run(chosen, query)), rows, rtol=1e-9, atol=float(roundoff(rows)))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_alone_and_in_a_batch(name: str) -> None:
    net = random_network(name, batch=5, dtype=torch.float32)
    query = query_of(net)
    for chosen in STAGES:
        together = lower_of(run(chosen, query))
        for i in range(5):
            alone = lower_of(run(chosen, query.select(torch.tensor([i]))))
            torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=float(roundoff(together[i], 1e-5)))


@pytest.mark.parametrize("name", ["dense", "conv", "residual", "sigmoid"])
def test_permuting_classes_permutes_margins(name: str) -> None:
    net = random_network(name)
    order = torch.tensor([2, 0, 3, 1])
    label = net.model(net.x).argmax(1)
    before = verify(net.model, net.x, net.eps, label=label, stages=["interval", "dual"])
    last = [m for m in net.model.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.copy_(last.weight[order])
        last.bias.copy_(last.bias[order])
    after = verify(net.model, net.x, net.eps, label=order.argsort()[label], stages=["interval", "dual"])
    assert after.verdict == before.verdict
    torch.testing.assert_close(after.margins, before.margins[:, order], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_known_bounds_only_tighten(name: str) -> None:
    """Every interval of a later stage lies inside what was known; a longer cascade's margins are never lower."""
    net = random_network(name, 3)
    query = query_of(net)
    known = Bounds()
    for chosen in [*STAGES, "dual", "interval"]:
        merged = known.intersect(run(chosen, query, known).bounds)
        for node, before in known.items():
            assert (merged[node].lower >= before.lower).all() and (merged[node].upper <= before.upper).all()
            assert (merged[node].lower <= merged[node].upper).all()
        known = merged
    # not a theorem: that a stage does better with tighter intermediate bounds (its slopes change with them); but what
    # a cascade has proved, a longer one has proved as well
    before = torch.full(query.open.shape, -torch.inf, dtype=torch.float64)
    for length in range(1, len(STAGES) + 1):
        result = Verifier(net.model, net.x, stages=STAGES[:length]).run(query.inputs, query.spec)
        assert (result.margins >= before).all(), STAGES[:length]
        assert [c.name for c in result.stages] == STAGES[: len(result.stages)]
        before = result.margins
    first, lower = Verifier(net.model, net.x, stages=STAGES[:1]).run(query.inputs, query.spec), run("interval", query)
    paid = lower_of(lower) - first.margins  # for their rounding: no margin is above what the network has
    assert ((paid >= 0) & (paid <= roundoff(lower_of(lower), 1e-9))).all()


def everywhere(monkeypatch: pytest.MonkeyPatch, patches: bool) -> None:
    """Force the structure of every backward pass: patches where there are any, or full-size dense rows."""

    def use(self: PassPlan, node: int, rows: int) -> bool:
        return patches and self.patch_cost(node) is not None

    monkeypatch.setattr(PassPlan, "use_patches", use)


@pytest.mark.parametrize("rule", list(SlopeRule))
@pytest.mark.parametrize("name", IMAGES)
def test_patches_equal_dense_backward_propagation(name: str, rule: SlopeRule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same slopes, same intermediate bounds: the structure of a form changes nothing but the time."""
    for seed in range(2):
        net = random_network(name, seed)
        query = query_of(net)
        reports = []
        for patches in (True, False):
            everywhere(monkeypatch, patches)
            reports.append(run(DualStage(rule), query))
        low = lower_of(reports[0])
        torch.testing.assert_close(low, lower_of(reports[1]), rtol=1e-9, atol=float(roundoff(low)))
        for node, interval in reports[1].bounds.items():
            other = reports[0].bounds[node]
            off = float(roundoff(interval.upper))
            # patches bound all neurons, selected rows the unstable ones: equal there, tighter or equal elsewhere
            unstable = (interval.lower < 0) & (interval.upper > 0)
            for mine, theirs, side in ((other.lower, interval.lower, 1.0), (other.upper, interval.upper, -1.0)):
                torch.testing.assert_close(mine[unstable], theirs[unstable], rtol=1e-9, atol=off)
                assert (side * (mine - theirs) >= -off).all()


@pytest.mark.parametrize("rule", list(SlopeRule))
@pytest.mark.parametrize("name", NAMES)
def test_every_neuron_against_a_row_of_its_own(name: str, rule: SlopeRule) -> None:
    """Bounds of pre-activations equal one-row dense passes with the relaxations of the same run."""
    net = random_network(name, 1, batch=2)
    query = query_of(net)
    stage_ = DualStage(rule)
    with torch.no_grad():
        tight, relaxations = stage_.tighten(query, Bounds(), PassPlan(query.graph, 2**29))
        for node, interval in tight.items():
            size = query.graph.nodes[node].size
            picks = torch.linspace(0, size - 1, min(size, 6)).long()
            eye = torch.eye(size, dtype=torch.float64)[picks].unflatten(1, query.graph.nodes[node].shape)
            for sign, kept in ((1.0, interval.lower), (-1.0, -interval.upper)):
                start = OneSided(Dense((sign * eye).unsqueeze(0)))
                alone = bound(query.graph, query.inputs, relaxations, node, start, net.x)
                kept = kept.flatten(1)[:, picks]
                chosen = _from(interval, sign, picks)
                torch.testing.assert_close(
                    alone.expand_as(kept)[chosen], kept[chosen], rtol=1e-9, atol=float(roundoff(kept))
                )


def _from(interval: Interval, sign: float, picks: Tensor) -> Tensor:
    """Which of the picked entries rest on a dual bound, by their provenance."""
    origin = interval.lower_origin if sign > 0 else interval.upper_origin
    dual = torch.tensor([s.rule.startswith("dual") for s in interval.sources])
    return dual[origin.flatten(1)[:, picks].long()]


@pytest.mark.parametrize("rule", list(SlopeRule))
@pytest.mark.parametrize("name", ["dense", "skip", "conv", "strided", "residual", "concat", "branches", "max pool"])
def test_a_tiny_memory_budget_changes_nothing(name: str, rule: SlopeRule) -> None:
    net = random_network(name, batch=4)
    query = query_of(net)
    large = run(DualStage(rule), query)
    for memory in (1, 3000, 200_000):
        small = run(DualStage(rule, memory=memory), query)
        low = lower_of(large)
        # patches bound stable neurons as well, dense rows only unstable ones: only those may differ
        torch.testing.assert_close(lower_of(small), low, rtol=1e-9, atol=float(roundoff(low)))


@pytest.mark.parametrize("name", ["dense", "conv", "tanh", "residual"])
def test_clipping_tightens(name: str) -> None:
    """A clipped ball is a subset: no support grows, and the interval bounds (monotone in the box) tighten."""
    net = random_network(name)
    net = RandomNetwork(name, net.model, net.x.clamp(0, 1), 0.3)
    graph, spec = import_torch(net.model, net.x[:1]).to(), every_pair(4, len(net.x))
    whole = run("interval", Query.of(graph, ball(net), spec))
    clipped = run("interval", Query.of(graph, ball(net, clip=(0.0, 1.0)), spec))
    assert (lower_of(clipped) >= lower_of(whole) - 1e-10).all() and (lower_of(clipped) > lower_of(whole)).any()
    for node, interval in clipped.bounds.items():
        assert (interval.lower >= whole.bounds[node].lower - 1e-10).all()
        assert (interval.upper <= whole.bounds[node].upper + 1e-10).all()


@pytest.mark.parametrize("rule", list(SlopeRule))
@pytest.mark.parametrize("name", ["conv", "residual", "strided", "sigmoid", "batch norm", "max pool"])
def test_gradients_of_the_bounds(name: str, rule: SlopeRule) -> None:
    """d(lower bounds) / d(weights) along random directions against central differences, in float64."""
    net = random_network(name, batch=2)
    spec, inputs = robustness(torch.tensor([0, 1]), 4), ball(net)
    parameters = [p for p in net.model.parameters() if p.requires_grad]
    graph = import_torch(net.model, net.x[:1])  # its tensors are the model's own
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(2, 3, generator=generator, dtype=torch.float64)

    def loss() -> Tensor:
        report = DualStage(rule).run(Query.of(graph, inputs, spec), Bounds(), Budget())
        return (lower_of(report) * weights).sum()

    gradients = torch.autograd.grad(loss(), parameters)
    assert all(g.isfinite().all() for g in gradients)
    for _ in range(3):
        direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
        expected = float(sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)))
        difference = float(slope(loss, parameters, direction))
        assert math.isclose(difference, expected, rel_tol=2e-4, abs_tol=1e-5), (difference, expected)


@pytest.mark.parametrize("stages", [["interval"], ["dual"], ["dual-adaptive"], ["interval", "dual", "dual-adaptive"]])
@pytest.mark.parametrize("name", ["dense", "leaky", "sigmoid", "conv", "residual", "concat", "max pool", "batch norm"])
def test_certificates_prove_what_they_say(name: str, stages: list[str]) -> None:
    """Recomputed from the certificate alone, every clause is proved; by one stage alone, the margins are equal."""
    found = 0
    for seed in range(2):
        net = random_network(name, seed, batch=6)
        result = verify(net.model, net.x, net.eps / 5, stages=stages)
        graph = import_torch(net.model, net.x[:1]).to()
        for i, certificate in enumerate(result.certificate):
            assert (certificate is not None) == (result.verdict[i] is Verdict.VERIFIED)
            if certificate is None:
                continue
            found += 1
            again = certificate.recompute(graph)
            others = torch.arange(4) != result.label[i]
            margins = result.margins[i][others]
            assert torch.equal(certificate.lower, margins)
            assert certificate.spec.worst(again[None]) > 0, f"{certificate.stage}: {again} does not prove {margins}"
            if len(stages) == 1:
                torch.testing.assert_close(again, margins, rtol=1e-9, atol=float(roundoff(margins)))
            for node, slopes in certificate.slopes(graph).items():
                assert slopes.shape == graph.nodes[node].shape and slopes.isfinite().all()
                if type(graph.nodes[node].op).__name__ in ("ReLU", "LeakyReLU"):
                    assert (slopes >= 0).all() and (slopes <= 1).all()
            assert certificate.trust is Trust.CHECKED
            assert certificate.stage in stages
            assert set(certificate.bounds) == set(graph.pre_activations)
            assert bool(certificate.inputs.contains(net.x[i : i + 1])) and certificate.inputs.batch == 1
    assert found >= 2, "no certificate was tested"


@pytest.mark.parametrize("name", ["dense", "conv", "branches"])
def test_provenance_names_the_rule_of_every_bound(name: str) -> None:
    net = random_network(name)
    query = query_of(net)
    intervals, dual = run("interval", query), run("dual", query)
    assert all(i.rules() == {"interval"} for i in intervals.bounds.values())
    seen: set[str] = set()
    for node, interval in dual.bounds.items():
        seen |= interval.rules()
        other = intervals.bounds[node]
        for side in ("lower", "upper"):
            origin = getattr(interval, f"{side}_origin")
            rules = [s.rule for s in interval.sources]
            from_dual = torch.tensor([r == "dual" for r in rules])[origin.long()]
            if rules != ["interval"]:
                moved = (getattr(interval, side) - getattr(other, side)).abs() > 1e-9
                assert from_dual[moved].all() or node != dual_first(dual)  # later nodes: intervals from tighter ones
        assert (interval.trusts() == int(Trust.FLOAT if name == "branches" else Trust.CHECKED)).all()
    assert seen == {"interval", "dual"}


def dual_first(report: StageReport) -> int:
    """The first node that any dual bound tightened."""
    return min(n for n, i in report.bounds.items() if "dual" in i.rules())


def test_intersection_keeps_the_tighter_side_with_its_own_provenance() -> None:
    weak, strong = Provenance("weak", Trust.PROBABILISTIC), Provenance("strong", Trust.CHECKED)
    a = Interval.of(torch.tensor([[0.0, -1.0, 2.0]]), torch.tensor([[1.0, 3.0, 4.0]]), weak)
    b = Interval.of(torch.tensor([[0.5, -2.0, 2.0]]), torch.tensor([[2.0, 2.0, 4.0]]), strong)
    for first, second in ((a, b), (b, a)):
        both = first.intersect(second)
        assert both.lower.tolist() == [[0.5, -1.0, 2.0]] and both.upper.tolist() == [[1.0, 2.0, 4.0]]
        rules = [s.rule for s in both.sources]
        assert [rules[i] for i in both.lower_origin[0, :2].tolist()] == ["strong", "weak"]
        assert [rules[i] for i in both.upper_origin[0, :2].tolist()] == ["weak", "strong"]
        assert both.trusts().tolist() == [int(Trust.PROBABILISTIC)] and both.rules() == {"weak", "strong"}
    assert Bounds({1: b}).intersect({2: b}).trusts(1) == [Trust.CHECKED]
    assert Bounds({1: a}).intersect({2: b}).trusts(1) == [Trust.PROBABILISTIC]


def test_disjoint_bounds_of_the_same_values_are_an_error() -> None:
    source = Provenance("x", Trust.FLOAT)
    a = Interval.of(torch.tensor([[0.0]]), torch.tensor([[1.0]]), source)
    with pytest.raises(InternalError, match="disjoint"):
        a.intersect(Interval.of(torch.tensor([[1.1]]), torch.tensor([[2.0]]), source))
    touching = a.intersect(Interval.of(torch.tensor([[1.0000001]]), torch.tensor([[2.0]]), source))
    assert touching.lower <= 1.0 and touching.upper >= 1.0000001, "a crossing by rounding keeps both ends"


@pytest.mark.parametrize("name", ["dense", "conv", "tanh"])
def test_any_slopes_are_sound(name: str) -> None:
    """Weak duality: random slopes in [0, 1] at every activation give valid bounds too."""
    net = random_network(name)
    query = query_of(net)
    points = members(query.inputs, 300)  # type: ignore[arg-type]
    with torch.no_grad():
        rows = torch.stack([query.spec.values(query.graph.forward(p).flatten(1)) for p in points]).amin(0)
        tight = run("dual", query).bounds
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            lines = {}
            for node in query.graph.activations:
                kept = tight[query.graph.nodes[node].parents[0]]
                slope = torch.rand(kept.lower.shape, generator=generator, dtype=torch.float64)
                lines[node] = Relaxation.of(query.graph.nodes[node].op.relax(kept.lower, kept.upper, slope))  # type: ignore[union-attr]
            low = specification_rows(query, lines, PassPlan(query.graph, 2**20))
            assert (low <= rows + roundoff(rows)).all()
