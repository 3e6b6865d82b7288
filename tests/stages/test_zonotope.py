"""Zonotopes: bands, regions, learned slopes, against the paper's formulas, plain propagation, samples and oracles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.evidence import multipliers_of
from helpers.oracle import ReluStep, exact_minimum, triangle_minimum
from helpers.real_data import images, wong_kolter_small
from test_oracle import case, values_before_relus
from torch import Tensor

from properties import LinfBall, robustness
from verifier import verify
from verifier.bound_map import Bounds, Interval
from verifier.budget import Budget
from verifier.errors import InputError
from verifier.forms import Dense
from verifier.graph import Graph
from verifier.graph.ir import GraphBuilder
from verifier.graph.torch_import import import_torch
from verifier.ops.base import REGISTRY as OPERATORS
from verifier.ops.base import Activation, Affine, SlopeRule
from verifier.ops.elementwise import Add, Subtract
from verifier.ops.linear import Linear
from verifier.ops.relu import ReLU
from verifier.ops.smooth import Tanh
from verifier.query import Query
from verifier.relaxation.backward import OneSided, State, bound
from verifier.relaxation.evidence import SlopeRuleEvidence
from verifier.relaxation.multipliers import Multipliers, dual_bound
from verifier.stages import StageReport, stage
from verifier.stages.zonotope import LearnedZonotopeStage, ZonotopeStage
from verifier.testing.networks import KINDS, RandomNetwork, random_network
from verifier.zonotope import Band, ZonotopeRegion, bands, fixed_rows, learned_rows, region

NAMES = list(KINDS)
#: networks whose slopes are one number for each neuron
ELEMENTWISE = [name for name in NAMES if name != "gated"]
SMOOTH = {"sigmoid", "tanh", "branches"}


def random_slopes(graph: Graph, batch: int, seed: int = 0) -> dict[int, Tensor]:
    """Any lambda in [0, 1] for every neuron, many of them at the ends."""
    generator = torch.Generator().manual_seed(seed)
    return {
        i: (torch.rand(batch, *graph.nodes[i].shape, generator=generator, dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)
        for i in graph.activations
    }


@dataclass(frozen=True)
class Case:
    """A random network with bounds of its own."""

    net: RandomNetwork
    graph: Graph
    query: Query
    bounds: Bounds

    @classmethod
    @cache
    def of(cls, name: str, seed: int = 0, batch: int = 3, dtype: torch.dtype = torch.float64) -> Case:
        net = random_network(name, seed, batch)
        graph = import_torch(net.model, net.x[:1]).to(dtype=dtype)
        label = torch.arange(batch) % 4
        query = Query.of(graph, LinfBall(net.x, net.eps), robustness(label, 4))
        return cls(net, graph, query, run(ZonotopeStage(), query).bounds)

    def region(self, node: int | None = None, slopes: dict[int, Tensor] | None = None) -> ZonotopeRegion:
        node = self.graph.output if node is None else node
        with torch.no_grad():
            return region(self.graph, self.query.inputs, self.bounds, node, slopes)

    @property
    def rows(self) -> Tensor:  # [B, S, *output]
        return self.query.spec.rows.unflatten(2, self.graph.output_shape)


def run(chosen: ZonotopeStage, query: Query, known: Bounds | None = None, budget: Budget | None = None) -> StageReport:
    with torch.no_grad():
        return chosen.run(query, known or Bounds(), budget or Budget())


def lower_of(report: StageReport) -> Tensor:
    assert report.lower is not None
    return report.lower


def members(inputs: LinfBall, count: int = 600) -> Tensor:  # [count, B, *input]
    """Random members and corners."""
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(count, *inputs.lower.shape, generator=generator, dtype=torch.float64)
    u[: count // 2] = u[: count // 2].round()
    return inputs.lower + u * (inputs.upper - inputs.lower)


# ---------------------------------------------------------------- bands


def test_the_band_of_a_relu_is_the_papers() -> None:
    """mu = max(-lambda l, (1 - lambda) u) / 2 as offset and as radius; at DeepZ's slope -u l / (2 (u - l))."""
    generator = torch.Generator().manual_seed(0)
    lower, upper = -torch.rand(500, generator=generator).double() - 1e-3, torch.rand(500, generator=generator).double()
    upper = upper + 1e-3
    slope = torch.rand(500, generator=generator, dtype=torch.float64)
    slope[:100] = slope[:100].round()
    band = Band.sloped(ReLU(), lower, upper, slope)
    mu = torch.maximum(-slope * lower, (1 - slope) * upper) / 2
    torch.testing.assert_close(band.offset, mu, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(band.radius, mu, rtol=1e-12, atol=1e-15)
    fixed, greedy = Band.fixed(ReLU(), lower, upper), upper / (upper - lower)
    torch.testing.assert_close(fixed.slope, greedy, rtol=1e-12, atol=0)
    torch.testing.assert_close(fixed.radius, -upper * lower / (upper - lower) / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(fixed.offset, fixed.radius, rtol=1e-12, atol=0)
    same = Band.sloped(ReLU(), lower, upper, greedy)
    torch.testing.assert_close(same.radius, fixed.radius, rtol=1e-10, atol=1e-15)
    assert (fixed.radius <= band.radius + 1e-15).all(), "DeepZ's slope makes the narrowest band"


def activations() -> list[Activation]:
    examples = [e.op for kind in OPERATORS.values() for e in kind.examples()]
    return [op for op in examples if isinstance(op, Activation)]


@pytest.mark.parametrize("op", activations(), ids=str)
def test_bands_hold_the_graph_for_any_slope(op: Activation) -> None:
    generator = torch.Generator().manual_seed(1)
    lower = 3 * torch.randn(400, generator=generator, dtype=torch.float64)
    width = 4 * torch.rand(400, generator=generator, dtype=torch.float64)
    width[:20], lower[20:30] = 0.0, 0.0
    first, last = op.facts.domain
    lower, upper = (t.clamp(first + 1e-3, last - 1e-3) for t in (lower, lower + width))
    width = upper - lower
    slope = 3 * torch.rand(400, generator=generator, dtype=torch.float64) - 1.5
    x = lower + torch.linspace(0, 1, 101, dtype=torch.float64).unsqueeze(1) * width
    for band in (Band.fixed(op, lower, upper), Band.sloped(op, lower, upper, slope)):
        value = op.apply(x)
        gap = ((value - band.slope * x - band.offset).abs() - band.radius) / (1 + value.abs() + band.radius)
        assert (gap <= 1e-12).all(), float(gap.max())
    stable = ~op.unstable(lower, upper)
    assert torch.equal(Band.sloped(op, lower, upper, slope).slope[stable], Band.fixed(op, lower, upper).slope[stable])


def test_nan_bounds_make_nan_bands() -> None:
    nan, one = torch.tensor([torch.nan]), torch.tensor([1.0])
    for lower, upper in ((nan, one), (-one, nan)):
        for band in (Band.fixed(ReLU(), lower, upper), Band.sloped(ReLU(), lower, upper, one)):
            assert (band.slope + band.offset + band.radius).isnan().all()


# ---------------------------------------------------------------- regions


@pytest.mark.parametrize("name", NAMES)
def test_values_lie_in_the_regions(name: str) -> None:
    """Every node's value at members of the set: inside the interval, and on every functional above its minimum."""
    c = Case.of(name)
    assert isinstance(c.query.inputs, LinfBall)
    points = members(c.query.inputs)
    with torch.no_grad():
        values = c.graph.values(points.flatten(0, 1))
    generator = torch.Generator().manual_seed(2)
    for slopes in (None, random_slopes(c.graph, 3)):
        for node in {*c.graph.pre_activations, c.graph.output, c.graph.activations[-1]}:
            value = values[node].unflatten(0, points.shape[:2])
            off = 1e-9 * (1 + value.abs().max())
            found = c.region(node, slopes)
            low, high = found.interval()
            assert (value.amin(0) >= low - off).all() and (value.amax(0) <= high + off).all(), c.graph.nodes[node]
            shape = c.graph.nodes[node].shape
            rows = torch.randn(3, 6, *shape, generator=generator, dtype=torch.float64)
            least = torch.einsum("bsn,pbn->pbs", rows.flatten(2), value.flatten(2)).amin(0)
            assert (least >= found.minimum(rows) - off * rows[0, 0].numel()).all(), c.graph.nodes[node]


def plainly(c: Case, upto: int, slopes: dict[int, Tensor] | None = None) -> tuple[Tensor, dict[int, Tensor]]:
    """Center, and generators origin -> [B, neurons, *shape], by carrying all of them forward node by node."""
    graph, lines = c.graph, bands(c.graph, c.bounds, c.graph.output, slopes)
    low, high = c.query.inputs.box(torch.float64)
    centers = [(low + high) / 2]
    generators = [{0: torch.diag_embed(((high - low) / 2).flatten(1)).unflatten(2, graph.input_shape)}]
    for i, node in enumerate(graph.nodes[1 : upto + 1], 1):
        if isinstance(node.op, Activation):
            band, (parent,) = lines[i], node.parents
            centers.append(band.slope * centers[parent] + band.offset)
            grown = {o: g * band.slope.unsqueeze(1) for o, g in generators[parent].items()}
            generators.append({**grown, i: torch.diag_embed(band.radius.flatten(1)).unflatten(2, node.shape)})
            continue
        assert isinstance(node.op, Affine)
        centers.append(node.op.apply(*(centers[p] for p in node.parents)))
        grown = {}
        for origin in sorted({o for p in node.parents for o in generators[p]}):
            count = next(generators[p][origin].shape[1] for p in node.parents if origin in generators[p])
            parts = [
                generators[p].get(origin, torch.zeros(3, count, *graph.nodes[p].shape, dtype=torch.float64))
                for p in node.parents
            ]
            grown[origin] = node.op.linear(*(g.flatten(0, 1) for g in parts)).unflatten(0, (3, count))
        generators.append(grown)
    return centers[upto], generators[upto]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_structured_generators_are_those_of_plain_propagation(name: str) -> None:
    c = Case.of(name)
    for slopes in (None, random_slopes(c.graph, 3, 1)):
        for node in {*c.graph.pre_activations, c.graph.output, c.graph.activations[0]}:
            with torch.no_grad():
                center, generators = plainly(c, node, slopes)
            found = c.region(node, slopes)
            scale = 1e-12 * (1 + center.abs().max())
            assert (found.center - center).abs().max() <= scale
            reach = sum(g.abs().sum(1) for g in generators.values())
            low, high = found.interval()
            assert ((high - low) / 2 - reach).abs().max() <= scale
            parts = found.generators.split([g.count for g in found.groups], 1)
            seen = {g.origin: torch.zeros_like(generators[g.origin]) for g in found.groups}
            for group, part in zip(found.groups, parts, strict=True):
                index, live = group.neurons, group.terms[1]
                for b in range(3):
                    seen[group.origin][b, index[b, live[b]]] = part[b, live[b]]
                    assert not part[b, ~live[b]].any(), "padding is zero"
            for origin, plain in generators.items():
                assert (seen.get(origin, torch.zeros_like(plain)) - plain).abs().max() <= scale, origin


def test_a_convolutions_generators_are_patches() -> None:
    """No form of two convolutions' features is dense, and error terms are those of the unstable neurons."""
    c = Case.of("conv")
    first, second = c.graph.activations[:2]
    found = c.region(c.graph.nodes[second].parents[0])
    assert [g.origin for g in found.groups] == [0, first]
    assert not any(isinstance(g.form, Dense) for g in found.groups)
    interval, op = c.bounds[c.graph.nodes[first].parents[0]], c.graph.nodes[first].op
    assert isinstance(op, Activation)
    unstable = op.unstable(interval.lower, interval.upper).flatten(1).sum(1)
    assert torch.equal(found.groups[1].terms[1].sum(1), unstable)
    assert found.errors == found.groups[0].count + int(unstable.max()) == found.generators.shape[1]
    last = c.region().groups[1]  # behind dense layers only the columns of unstable neurons are kept
    assert isinstance(last.form, Dense) and last.form.dense().shape[2] == int(unstable.max())


@pytest.mark.parametrize("op", [ReLU(), Tanh()], ids=str)
def test_skip_connections_share_their_error_terms(op: Activation) -> None:
    """x - x is exactly zero, (a x + x) - a x is as wide as x, also when x is a relaxed activation."""
    generator = torch.Generator().manual_seed(0)
    builder = GraphBuilder((3,))
    weight = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    hidden = builder.add(op, (builder.add(Linear(weight), (0,)),))
    zero = builder.add(Subtract(), (hidden, hidden))
    scaled = builder.add(Linear(2 * torch.eye(4, dtype=torch.float64)), (hidden,))
    back = builder.add(Subtract(), (builder.add(Add(), (scaled, hidden)), scaled))
    graph = builder.build(builder.add(Add(), (back, zero)))
    inputs = LinfBall(torch.randn(2, 3, generator=generator, dtype=torch.float64), 0.5)
    found = run(ZonotopeStage(), Query.of(graph, inputs, robustness(torch.zeros(2, dtype=torch.int64), 4))).bounds
    assert op.unstable(found[1].lower, found[1].upper).any()
    nothing = region(graph, inputs, found, zero)
    assert not nothing.center.any() and not nothing.generators.any()
    assert all(not end.any() for end in nothing.interval())
    for ours, direct in zip(region(graph, inputs, found, back).interval(),
                            region(graph, inputs, found, hidden).interval(), strict=True):  # fmt: skip
        torch.testing.assert_close(ours, direct, rtol=1e-12, atol=1e-12)


def test_points_of_a_region() -> None:
    """`at` is center + generators e; its ends are the interval's; samples lie inside; gradients are the generators'."""
    for name in ("conv", "residual", "max pool", "tanh"):
        c = Case.of(name)
        for node in c.graph.pre_activations:
            found = c.region(node)
            low, high = found.interval()
            flat = found.generators.flatten(2)  # [B, k, n]
            errors = (
                torch.rand(3, found.errors, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
            )
            point = found.center.flatten(1) + torch.einsum("bk,bkn->bn", errors, flat)
            torch.testing.assert_close(found.at(errors).flatten(1), point, rtol=1e-10, atol=1e-12)
            last = flat[:, :, -1]
            torch.testing.assert_close(found.at(last.sign()).flatten(1)[:, -1], high.flatten(1)[:, -1])
            torch.testing.assert_close(found.at(-last.sign()).flatten(1)[:, -1], low.flatten(1)[:, -1])
            some = found.sample(torch.Generator().manual_seed(1))
            assert ((some >= low - 1e-12) & (some <= high + 1e-12)).all() and not torch.equal(some, found.center)
            errors.requires_grad_()
            (gradient,) = torch.autograd.grad(found.at(errors).flatten(1)[:, 0].sum(), errors)
            torch.testing.assert_close(gradient, flat[:, :, 0], rtol=1e-10, atol=1e-12)


def test_the_region_of_the_input_is_its_box() -> None:
    c = Case.of("conv")
    for ours, ends in zip(c.region(0).interval(), c.query.inputs.box(), strict=True):
        torch.testing.assert_close(ours, ends, rtol=0, atol=1e-15)
    exact = LinfBall(c.net.x, 0.0)
    point = region(c.graph, exact, run(ZonotopeStage(), Query.of(c.graph, exact, c.query.spec)).bounds, c.graph.output)
    assert point.errors == 0 and point.generators.shape == (3, 0, 4)
    torch.testing.assert_close(point.at(torch.zeros(3, 0).double()), c.graph.forward(c.net.x), rtol=1e-12, atol=1e-12)


def test_missing_bounds_are_named() -> None:
    c = Case.of("dense")
    with pytest.raises(InputError, match="no bounds of node 1"):
        region(c.graph, c.query.inputs, Bounds(), c.graph.output)
    assert region(c.graph, c.query.inputs, Bounds(), 1).errors == 5  # nothing is relaxed below


def test_gradients_reach_weights_bounds_and_slopes() -> None:
    """The width and the position of a region, differentiated, against finite differences in one weight."""
    net = random_network("conv")
    live = import_torch(net.model, net.x[:1])
    inputs, spec = LinfBall(net.x, net.eps), robustness(torch.zeros(3, dtype=torch.int64), 4)
    weight = next(net.model.parameters())

    def loss() -> Tensor:
        found = ZonotopeStage().run(Query.of(live, inputs, spec), Bounds(), Budget()).bounds
        shape = region(live, inputs, found, live.output)
        return shape.interval()[1].sum() + shape.at(torch.ones(3, shape.errors, dtype=torch.float64)).square().sum()

    loss().backward()
    assert weight.grad is not None
    step, where = 1e-6, (1, 0, 2, 1)
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight[where] += sign * step
            values.append(float(loss()))
            weight[where] -= sign * step
    assert float(weight.grad[where]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)
    c = Case.of("conv")
    slopes = {i: s.requires_grad_() for i, s in random_slopes(c.graph, 3).items()}
    region(c.graph, inputs, c.bounds, c.graph.output, slopes).interval()[0].sum().backward()
    assert all(s.grad is not None and s.grad.any() for s in slopes.values())


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_forwards_and_backwards_agree(name: str) -> None:
    """A row's minimum over the output's region is the bound pulled backwards: fixed slopes, and each row's learned."""
    c = Case.of(name)
    with torch.no_grad():
        fixed = fixed_rows(c.query, c.bounds)
    torch.testing.assert_close(c.region().minimum(c.rows), fixed, rtol=1e-10, atol=1e-10)
    learned = learned_rows(c.query, c.bounds, steps=8)
    slopes = slopes_of(c, learned.multipliers)
    for s in range(3):
        forwards = c.region(None, {i: v[:, s] for i, v in slopes.items()}).minimum(c.rows[:, s : s + 1])
        torch.testing.assert_close(forwards[:, 0], learned.lower[:, s], rtol=1e-8, atol=1e-8)


def slopes_of(c: Case, multipliers: dict[int, Tensor]) -> dict[int, Tensor]:
    """lambda = nu / nu-hat of every row, activation node -> [B, S, *shape]; 0 where there is no coefficient."""
    lowerings, found = {}, {}
    for i in c.graph.activations:
        op, known = c.graph.nodes[i].op, c.bounds[c.graph.nodes[i].parents[0]]
        assert isinstance(op, Activation)
        lowerings[i] = Multipliers.of(op, known.lower, known.upper, multipliers[i])

    def visit(i: int, after: State, before: State) -> None:
        nu_hat, nu = after.one_sided().form.dense(), before.one_sided().form.dense()
        found[i] = torch.where(nu_hat != 0, nu / torch.where(nu_hat != 0, nu_hat, 1.0), 0.0)

    bound(c.graph, c.query.inputs, lowerings, c.graph.output, OneSided(Dense(c.rows)), c.rows, visit)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_learned_rows_are_sound_and_reproduced_by_their_multipliers(name: str) -> None:
    c = Case.of(name)
    learned = learned_rows(c.query, c.bounds, steps=10)
    assert isinstance(c.query.inputs, LinfBall)
    points = members(c.query.inputs)
    with torch.no_grad():
        values = c.graph.forward(points.flatten(0, 1)).unflatten(0, points.shape[:2]).flatten(2)
        fixed = fixed_rows(c.query, c.bounds)
    seen = torch.einsum("bso,pbo->pbs", c.query.spec.rows, values).amin(0)
    off = 1e-9 * (1 + seen.abs().max())
    assert (learned.lower <= seen + off).all()
    assert torch.equal(dual_bound(c.query, c.bounds, learned.multipliers), learned.lower)
    if name not in SMOOTH:
        assert (learned.lower >= fixed - off).all(), "the slopes of DeepZ are the start"
        assert (learned.lower > fixed + off).any(), "and are not the best"


def test_slopes_stay_in_their_range() -> None:
    """Whatever the rate: lambda of a ReLU in [0, 1], and the chord's where the coefficient is negative."""
    c = Case.of("conv")
    slopes = slopes_of(c, learned_rows(c.query, c.bounds, steps=5, rate=30.0).multipliers)
    for i, slope in slopes.items():
        assert (slope >= -1e-9).all() and (slope <= 1 + 1e-9).all(), i


def test_zonotopes_lie_below_the_triangle_program() -> None:
    """fixed <= learned <= LP of the same intervals <= exact, on tiny networks; often strictly."""
    gains = losses = 0
    for seed in range(16):
        tiny = case(seed)
        graph = import_torch(tiny.model.double(), torch.zeros(1, tiny.network.inputs).double()).to()
        query = Query.of(graph, tiny.inputs, robustness(torch.tensor([tiny.label]), 3))
        found = run(ZonotopeStage(), query)
        fixed, learned = lower_of(found)[0].numpy(), learned_rows(query, found.bounds, 40).lower[0].numpy()
        known = {
            value: (found.bounds[node].lower[0].numpy(), found.bounds[node].upper[0].numpy())
            for value, node in values_before_relus(tiny.network, graph).items()
        }
        for k, cost in enumerate(tiny.costs):
            lp = triangle_minimum(tiny.network, cost, 0.0, tiny.lower, tiny.upper, known)
            off = 1e-6 * (1 + abs(lp))
            assert fixed[k] <= learned[k] + off and learned[k] <= lp + off and lp <= tiny.exact[k] + off
            gains += learned[k] > fixed[k] + off
            losses += learned[k] < lp - 1e-3 * (1 + abs(lp))
    assert gains > 2
    assert losses < 8, "the learned slopes come near the linear program, which these intervals nearly imply"


# ---------------------------------------------------------------- stages


@pytest.mark.parametrize("name", ["zonotope", "zonotope-learned"])
def test_stages_tighten_what_they_know(name: str) -> None:
    """Bounds never get looser, name their rule, and those of one example do not depend on the others."""
    chosen = stage(name)
    assert isinstance(chosen, ZonotopeStage)
    for kind in ("conv", "skip", "tanh"):
        c = Case.of(kind, seed=4, batch=11)
        known = run(stage("interval"), c.query).bounds  # type: ignore[arg-type]
        report = run(chosen, c.query, known)
        assert set(report.bounds) == set(c.graph.pre_activations)
        for node, interval in report.bounds.items():
            assert (interval.lower >= known[node].lower).all() and (interval.upper <= known[node].upper).all()
        assert "zonotope" in set().union(*(i.rules() for i in report.bounds.values()))
        lower, one = lower_of(report), torch.tensor([7])
        alone = run(chosen, c.query.select(one), known.select(one))
        # an ascent that divides gradients by their size makes much of rounding
        off = 1e-9 if name == "zonotope" else 1e-5
        torch.testing.assert_close(lower_of(alone), lower[one], rtol=off, atol=off)


def test_tighter_known_bounds_are_used_and_kept() -> None:
    c = Case.of("conv")
    node = c.graph.pre_activations[1]
    old = c.bounds[node]
    middle = 0.5 * (old.lower + old.upper)
    tight = Interval(middle - 1e-3, middle + 1e-3, old.lower_origin, old.upper_origin, old.sources)
    report = run(ZonotopeStage(), c.query, Bounds({node: tight}))
    assert (report.bounds[node].lower >= tight.lower).all() and (report.bounds[node].upper <= tight.upper).all()
    later = c.graph.pre_activations[2]
    width = (i[later].upper - i[later].lower for i in (report.bounds, c.bounds))
    assert (next(width) < next(width)).all(), "what follows is relaxed over them"


def test_reported_multipliers_reproduce_the_float32_margins() -> None:
    c = Case.of("conv", dtype=torch.float32, batch=5)
    report = run(LearnedZonotopeStage(margin=torch.inf), c.query)
    exact = Query.of(c.graph.to(dtype=torch.float64), c.query.inputs, c.query.spec)
    again = dual_bound(exact, report.bounds.to(torch.float64), multipliers_of(report.evidence))
    torch.testing.assert_close(again, lower_of(report).double(), rtol=5e-3, atol=1e-3)
    assert (lower_of(report) < again).all(), "float32 has paid for its roundings"
    fixed = run(ZonotopeStage(), c.query)
    assert (
        fixed.evidence == SlopeRuleEvidence(SlopeRule.FIXED) and fixed.evidence.rule == "fixed"
    )  # a rule that certificates know
    assert (lower_of(report) >= lower_of(fixed) - 1e-5).all()


def test_learning_stops_early_and_leaves_closed_rows_alone() -> None:
    c = Case.of("conv", batch=9)
    full, early = (lower_of(run(LearnedZonotopeStage(margin=m), c.query)) for m in (torch.inf, 2.0))
    assert torch.equal(full > 0, early > 0)
    proved = lower_of(run(ZonotopeStage(), c.query)) > 1e-6
    assert proved.any() and (full[proved] > early[proved]).any()
    query = Query(c.query.graph, c.query.inputs, c.query.spec, c.query.open.clone())
    query.open[:, 1] = False
    closed = lower_of(run(LearnedZonotopeStage(), query))
    assert closed[:, 1].isneginf().all()
    torch.testing.assert_close(closed[:, [0, 2]], early[:, [0, 2]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["zonotope", "zonotope-learned"])
def test_a_spent_budget_claims_nothing(name: str) -> None:
    c = Case.of("conv", batch=9)
    report = stage(name).run(c.query, Bounds(), Budget(0.0))
    assert report.exhausted and lower_of(report).isneginf().all()
    if name == "zonotope-learned":
        assert all(m.shape[:2] == (9, 3) and not m.any() for m in multipliers_of(report.evidence).values())


def test_a_budget_that_ends_during_the_ascent_keeps_what_was_found() -> None:
    c = Case.of("conv")
    budget = SimpleNamespace(spent=True, left=0.0)
    rows = learned_rows(c.query, c.bounds, budget=budget)  # type: ignore[arg-type]
    assert rows.exhausted
    with torch.no_grad():
        assert (rows.lower >= fixed_rows(c.query, c.bounds) - 1e-9).all()


def test_nan_weights_prove_nothing() -> None:
    c = Case.of("dense")
    first = c.graph.nodes[1].op
    assert isinstance(first, Linear)
    spoiled = c.graph.map_tensors(lambda t: t.where(t != first.weight[0, 0], torch.nan) if t.dim() == 2 else t)
    query = Query.of(spoiled, c.query.inputs, c.query.spec)
    for name in ("zonotope", "zonotope-learned"):
        assert not (lower_of(run(stage(name), query)) > -torch.inf).any()  # type: ignore[arg-type]
    rows = learned_rows(query, c.bounds)
    assert rows.lower.isneginf().all()


def test_little_memory_splits_the_work_and_then_leaves_out_the_learning() -> None:
    for kind in ("conv", "max pool"):
        c = Case.of(kind, batch=5)
        whole, pieces = (lower_of(run(ZonotopeStage(memory=m), c.query)) for m in (2**30, 2**16))
        torch.testing.assert_close(pieces, whole, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(lower_of(run(LearnedZonotopeStage(memory=2**16), c.query)), whole)
        little = learned_rows(c.query, c.bounds, memory=1)
        assert torch.equal(little.lower, dual_bound(c.query, c.bounds, little.multipliers))
        with torch.no_grad():
            torch.testing.assert_close(little.lower, fixed_rows(c.query, c.bounds), rtol=1e-9, atol=1e-9)


def test_verify_by_name() -> None:
    """The stages serve `verify`, and agree with an oracle about who is safe."""
    tiny = [case(seed) for seed in range(6)]
    for c in tiny:
        assert isinstance(c.network.steps[1], ReluStep)
        middle = torch.from_numpy((c.lower + c.upper) / 2)[None]
        result = verify(
            c.model, middle.float(), input_set=c.inputs, label=torch.tensor([c.label]),
            stages=["interval", "zonotope", "zonotope-learned"],
        )  # fmt: skip
        exact = min(exact_minimum(c.network, k, 0.0, c.lower, c.upper).value for k in c.costs)
        assert not bool(result.verified[0]) or exact > -1e-9
    assert any(bool(np.all(c.exact > 0.05)) for c in tiny)


def test_the_published_network() -> None:
    """Wong & Kolter's network on images: learned slopes verify more, and structure costs less than dense generators."""
    model = wong_kolter_small("wk17a_mnist")
    x, label = images("mnist", 40)
    query = Query.of(import_torch(model, x[:1]).to(), LinfBall(x, 0.1, (0, 1)), robustness(label, 10))
    fixed = run(ZonotopeStage(), query)
    left = ~(lower_of(fixed) > 0).all(1)
    assert 0 < int(left.sum()) <= 4
    part, known = query.select(left), fixed.bounds.select(left)
    learned = run(LearnedZonotopeStage(), part, known)
    still = lower_of(fixed)[left] <= 0
    assert (lower_of(learned)[still] > lower_of(fixed)[left][still] + 0.05).all()
    result = verify(model, x[left], 0.1, label=label[left], clip=(0, 1), stages=["zonotope", "zonotope-learned"])
    assert result.verified.any() and set(result.decided_by) <= {"zonotope-learned", None}
    for certificate in result.certificate:
        assert certificate is None or (certificate.recompute() > 0).all()
    with torch.no_grad():
        features = region(query.graph, part.inputs, known, query.graph.pre_activations[1])
    assert features.errors < 784 + 200  # of 784 pixels and 3136 neurons
    assert not any(isinstance(g.form, Dense) for g in features.groups)
