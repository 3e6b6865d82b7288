"""Integer programs on the final layers: encoding, cuts, laws, limits, and what a lying solver can do."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from helpers.fake_backends import LIES, Fake, registered, says
from helpers.oracle import AffineStep, ReluStep, Step, TinyNetwork, exact_minimum
from helpers.real_data import images, wong_kolter_small
from helpers.tiny_torch import TinyModule
from torch import Tensor, nn

from properties import Box, LinfBall, Specification, robustness
from solvers import SolveResult, SolveStatus, backend
from solvers.inline import Adaptive, Inline
from verifier import Verdict, Verifier, verify
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.encoding.builder import ProgramBuilder
from verifier.encoding.encoder import Encoder
from verifier.encoding.exact import Segments, encode, unstable
from verifier.encoding.exact_programs import ExactPlan
from verifier.encoding.exact_rows import CUTOFF, cutoffs, exact_rows
from verifier.encoding.final_layers import Work
from verifier.encoding.placement import NeuronBatch
from verifier.encoding.questions import Question
from verifier.encoding.sources import at_input, at_zonotope
from verifier.graph import Graph
from verifier.graph.cuts import cuts, layers
from verifier.graph.torch_import import import_torch
from verifier.ops.base import REGISTRY as OPERATORS
from verifier.ops.base import Activation, SlopeRule
from verifier.ops.jumps import Jump
from verifier.query import Query
from verifier.relaxation.influence import influences
from verifier.result import Result
from verifier.stages import stage
from verifier.stages.dual import DualStage
from verifier.stages.milp import MilpStage
from verifier.testing.networks import random_network
from verifier.verdict import Trust

POLYLINES = sorted(name for name, kind in OPERATORS.items() if issubclass(kind, Activation) and kind.piecewise_linear)


@cache
def graph_of(name: str, seed: int = 0) -> tuple[Graph, Tensor, float]:
    network = random_network(name, seed, batch=2)
    return import_torch(network.model, network.x[:1]).to("cpu", torch.float64), network.x, network.eps


def query_of(name: str, seed: int = 0, scale: float = 1.0) -> tuple[Query, Bounds]:
    graph, x, eps = graph_of(name, seed)
    label = graph.forward(x).flatten(1).argmax(1)
    query = Query.of(graph, LinfBall(x, scale * eps), robustness(label, 4))
    return query, known(query)


def known(query: Query) -> Bounds:
    with torch.no_grad():
        return DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget()).bounds


def minima(query: Query, bounds: Bounds, k: int | None, cap: int | None, before: str = "relaxation") -> Tensor:
    """Lower bounds [B, S] of all rows with the last k layers exact."""

    work = Work(ExactPlan(layers(query.graph)[:k], cap, before), query, bounds, Budget(), None)
    for number, answers in Inline().run(work.tasks(), work.decide):
        assert answers[0].status is SolveStatus.OPTIMAL
        work.take(number, answers[0])
    return work.lower


# -- cuts ---------------------------------------------------------------------------------------------------------


def test_cuts_of_a_sequential_network() -> None:
    graph, _, _ = graph_of("dense")
    assert cuts(graph) == list(range(len(graph.nodes)))[::-1]
    assert [layer.activations for layer in layers(graph)] == [(i,) for i in graph.activations[::-1]]
    assert [layer.cut for layer in layers(graph)] == [graph.nodes[i].parents[0] for i in graph.activations[::-1]]


@pytest.mark.parametrize("name", ["dense", "skip", "residual", "branches", "max pool"])
def test_what_comes_after_a_cut_sees_the_input_through_it(name: str) -> None:
    """Overwriting a cut node's value by that of another input gives that input's output; other nodes do not do that."""
    graph, x, _ = graph_of(name)
    found, values, other = cuts(graph), graph.values(x), graph.values(x + 1.0)
    assert found[0] == graph.output and found[-1] == 0

    def replayed(node: int) -> Tensor:
        changed = [other[0]]
        for i, n in enumerate(graph.nodes[1:], 1):
            assert n.op is not None
            changed.append(values[i] if i == node else n.op.apply(*(changed[p] for p in n.parents)))
        return changed[-1]

    for node in range(1, graph.output):
        cut_off = bool((replayed(node) == values[-1]).all())
        assert cut_off == (node in found), (name, node)


@pytest.mark.parametrize("name", ["dense", "skip", "residual", "branches", "max pool"])
def test_layers_are_between_cuts(name: str) -> None:
    graph, _, _ = graph_of(name)
    all_of_them = [i for layer in layers(graph) for i in layer.activations]
    assert sorted(all_of_them) == list(graph.activations)
    for layer in layers(graph):
        assert layer.cut in cuts(graph)
        assert all(layer.cut in graph.ancestors[i] and i > layer.cut for i in layer.activations)


# -- the encoding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLYLINES)
def test_the_program_of_a_neuron_is_its_graph(name: str) -> None:
    """At any z in [l, u] the program leaves one y, f(z); without integrality all between the hull's two sides."""
    generator = torch.Generator().manual_seed(len(name))
    for example in OPERATORS[name].examples():
        op = example.op
        assert isinstance(op, Activation)
        ends = 3 * torch.randn(2, 1, 6, generator=generator, dtype=torch.float64)
        lower, upper = ends.amin(0), ends.amax(0)
        if name == "Clip" and op.low is not None and op.high == op.low:
            continue
        pieces = op.pieces(lower, upper)
        x, y = pieces.x[:, 0].numpy(), pieces.y[:, 0].numpy()
        builder, segments = ProgramBuilder(), Segments()
        z = builder.unit(builder.add_columns(lower[0].numpy(), upper[0].numpy()))
        out = segments.add(builder, NeuronBatch(1, np.arange(6), z, x, y, True))
        program, matrix = builder.program(), out.matrix.toarray()
        matrix = np.pad(matrix, ((0, 0), (0, program.columns - matrix.shape[1])))
        for share in (0.0, 0.3, 0.55, 1.0):
            at = (lower + share * (upper - lower))[0].numpy()
            expected = op.apply(torch.from_numpy(at)[None])[0].numpy()
            point = np.zeros(program.columns)
            point[:6] = at
            segments.placed[0].fill(at, expected, point)
            assert program.violation(point) < 1e-9
            np.testing.assert_allclose(matrix @ point + out.bias, expected, atol=1e-9)
            fixed = replace(program, lower=program.lower.copy(), upper=program.upper.copy())
            fixed.lower[:6] = fixed.upper[:6] = at
            with backend("highs").load(fixed) as session:
                for sign in (1.0, -1.0):
                    value = session.minimise(sign * matrix.sum(0)).dual_bound
                    assert value + sign * out.bias.sum() == pytest.approx(sign * expected.sum(), abs=1e-5)
            relaxed = replace(fixed, integer=np.zeros_like(program.integer))
            with backend("highs").load(relaxed) as session:
                for sign in (1.0, -1.0):
                    value = session.minimise(sign * matrix.sum(0)).dual_bound + sign * out.bias.sum()
                    hull = sum(_hull(sign, a, x[:, j], sign * y[:, j]) for j, a in enumerate(at))
                    assert value == pytest.approx(hull, abs=1e-6)


JUMPS = sorted(name for name, kind in OPERATORS.items() if issubclass(kind, Jump))


@pytest.mark.parametrize("name", JUMPS)
def test_the_program_of_a_neuron_that_jumps_is_its_graph_with_both_limits(name: str) -> None:
    """Away from jumps the program leaves one y, f(z); at a jump all values next to it, and f(z)."""
    ends = torch.tensor([[-2.6, 2.3], [-0.4, 0.4], [0.0, 1.7], [-1.5, 0.0], [0.2, 0.4], [-0.5, 0.5]]).double()
    lower, upper = ends[None, :, 0], ends[None, :, 1]
    for example in OPERATORS[name].examples():
        op = example.op
        assert isinstance(op, Activation)
        walked = op.polyline(lower, upper)
        assert walked is not None and walked.exact
        at = np.flatnonzero(op.unstable(lower, upper)[0].numpy())
        x, y = walked.x[:, 0, at].numpy(), walked.y[:, 0, at].numpy()
        builder, segments = ProgramBuilder(), Segments()
        z = builder.unit(builder.add_columns(lower[0, at].numpy(), upper[0, at].numpy()))
        out = segments.add(builder, NeuronBatch(1, np.arange(len(at)), z, x, y, True))
        program, matrix = builder.program(), out.matrix.toarray()
        matrix = np.pad(matrix, ((0, 0), (0, program.columns - matrix.shape[1])))
        for share in (0.0, 0.17, 0.5, 0.81, 1.0):
            place = (lower + share * (upper - lower))[0, at]
            place = torch.where(place.abs() < 1e-9, 0.0, place)
            value = op.apply(place)
            point = np.zeros(program.columns)
            point[: len(at)] = place.numpy()
            segments.placed[0].fill(place.numpy(), value.numpy(), point)
            assert program.violation(point) < 1e-9
            np.testing.assert_allclose(matrix @ point + out.bias, value.numpy(), atol=1e-9)
            fixed = replace(program, lower=program.lower.copy(), upper=program.upper.copy())
            fixed.lower[: len(at)] = fixed.upper[: len(at)] = place.numpy()
            near = [op.apply((place + side).clamp(lower[0, at], upper[0, at])) for side in (-1e-3, 0.0, 1e-3)]
            with backend("highs").load(fixed) as session:
                least, most = (sign * session.minimise(sign * matrix.sum(0)).dual_bound for sign in (1.0, -1.0))
            assert least + out.bias.sum() == pytest.approx(float(torch.stack(near).amin(0).sum()), abs=1e-5)
            assert most + out.bias.sum() == pytest.approx(float(torch.stack(near).amax(0).sum()), abs=1e-5)


def test_neurons_with_very_many_jumps_stay_relaxed() -> None:
    lower, upper = torch.tensor([[-100.0, 0.1]]).double(), torch.tensor([[100.0, 1.2]]).double()
    walked = OPERATORS["Floor"].examples()[0].op.polyline(lower, upper)  # type: ignore[union-attr]
    assert walked is not None and walked.x.isfinite().all(0).tolist() == [[False, True]]


def _hull(sign: float, at: float, x: np.ndarray, y: np.ndarray) -> float:
    """The lower side of the convex hull of points, at one place: the lowest chord over it."""
    best = math.inf
    for i in range(len(x)):
        for j in range(len(x)):
            if x[i] - 1e-12 <= at <= x[j] + 1e-12:
                share = (at - x[i]) / (x[j] - x[i]) if x[j] > x[i] else 0.0
                best = min(best, y[i] + share * (y[j] - y[i]))
    return best


KINDS = ["leaky", "hardtanh", "abs", "skip", "max pool", "residual", "branches", "tanh"]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("before", ["relaxation", "zonotope"])
def test_the_network_at_any_input_is_a_point_of_the_program(name: str, before: str) -> None:
    query, bounds = query_of(name)
    encoder = Encoder(query.graph)
    for example in range(query.batch):
        index = torch.tensor([example])
        part, own = query.select(index), bounds.select(index)
        final = layers(query.graph)[: None if before == "relaxation" else 1]
        exact = unstable(encoder, own, [i for layer in final for i in layer.activations])
        for x in (part.inputs.center(), part.inputs.sample(torch.Generator().manual_seed(1))):
            box = Box(*part.inputs.box(), x)  # the same set with another nominal point
            whole = before == "relaxation"
            start = at_input(box) if whole else at_zonotope(query.graph, box, own, final[-1].cut)
            program = encode(encoder, start.source, own, exact)
            values = query.graph.values(x)
            point = program.point(start.clean, values)
            assert program.program.violation(point) < 1e-9
            np.testing.assert_allclose(program.encoding.input_of(point), x[0], atol=1e-12)
            cost, constant = program.encoding.cost(part.spec.rows[0].numpy(), part.spec.offset[0].numpy())
            rows = part.spec.values(values[-1].flatten(1))[0]
            np.testing.assert_allclose(cost @ point + constant, rows, rtol=1e-9, atol=1e-9)


# -- laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense", "leaky", "hardtanh", "abs", "skip", "relu6"])
def test_more_layers_and_more_binaries_never_loosen(name: str) -> None:
    """LP <= last layer <= ... <= all layers <= every value in the set; the same for growing caps."""
    query, bounds = query_of(name, scale=2.0)
    inside = query.spec.values(query.graph.forward(query.inputs.sample(torch.Generator().manual_seed(0))).flatten(1))
    chains = [[minima(query, bounds, None, 0), minima(query, bounds, 1, None), minima(query, bounds, None, None)]]
    capped = [minima(query, bounds, None, cap) for cap in (0, 3, 8)]
    chains.append([*capped, chains[0][-1]])
    for chain in chains:
        for looser, tighter in zip(chain, [*chain[1:], inside], strict=True):
            assert (looser <= tighter + 1e-4 * (1 + tighter.abs())).all(), (name, looser, tighter)
    assert (chains[0][0] < chains[0][-1] - 1e-3).any(), "nothing to tell the two apart by"


@pytest.mark.parametrize("name", ["dense", "leaky", "hardtanh", "skip"])
def test_a_zonotope_start_is_sound_and_looser(name: str) -> None:
    """Zonotope start <= complete program; and the more layers are exact behind it, the tighter."""
    query, bounds = query_of(name, scale=2.0)
    complete = minima(query, bounds, None, None)
    found = [minima(query, bounds, k, None, "zonotope") for k in range(1, len(layers(query.graph)) + 1)]
    for looser, tighter in zip(found, [*found[1:], complete], strict=True):
        assert (looser <= complete + 1e-4 * (1 + complete.abs())).all()
        assert (looser <= tighter + 1e-4 * (1 + tighter.abs())).all()


def test_smooth_activations_stay_relaxed() -> None:
    query, bounds = query_of("tanh")
    assert not MilpStage().supports(query) and not MilpStage().complete(query)
    found = exact_rows(query, bounds, workers=0)
    assert found.value.isnan().all() and all(s is None for row in found.status for s in row)
    mixed, bounds = query_of("branches", scale=0.5)
    assert MilpStage().supports(mixed) and not MilpStage().complete(mixed)
    report = MilpStage(None, 4, workers=0).run(mixed, bounds, Budget())
    point = mixed.spec.values(mixed.graph.forward(mixed.inputs.sample()).flatten(1))
    assert report.lower is not None and (report.lower <= point).all()
    ordinary, _ = query_of("residual")
    assert MilpStage().complete(ordinary) and not MilpStage(1).complete(ordinary)
    assert not MilpStage(None, 30).complete(ordinary)


def test_names_and_settings() -> None:
    assert [(stage(n).name, stage(n).cost_rank) for n in ("milp-1", "milp-2", "milp")] == [
        ("milp-1", 80), ("milp-2", 82), ("milp", 90)]  # fmt: skip
    with pytest.raises(ValueError, match="before"):
        MilpStage(before="nothing")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layers"):
        MilpStage(0)


def test_influence_is_the_upper_lines_share() -> None:
    """-l u / (u - l) times the coefficient where it is negative, next to nothing where positive, none where stable."""
    verifier = hat(0.7)
    query = Query.of(verifier.graph, LinfBall(torch.zeros(1, 2), 1.0), robustness(torch.tensor([0]), 2))
    lower, scores = influences(query, known(query))
    report = DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget())
    assert report.lower is not None and torch.allclose(lower, report.lower, atol=1e-12)
    (score,) = scores.values()  # intervals [-1, 1] with coefficients -1/2, [-3/2, 1/2] with 1/2
    torch.testing.assert_close(score[0, 0], torch.tensor([0.25] * 4 + [0.01 * 0.1875] * 4, dtype=torch.float64))
    ball = LinfBall(torch.full((1, 2), 5.0), 1.0)
    _, scores = influences(replace(query, inputs=ball), known(replace(query, inputs=ball)))
    assert all((s == 0).all() for s in scores.values())


# -- the stage ----------------------------------------------------------------------------------------------------


class Hat(nn.Module):
    """Logits (bias - min(|x|, 1/2) / 2 - min(|y|, 1/2) / 2, 0), made of ReLUs."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 8).double(), nn.Linear(8, 2).double()
        signs = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        with torch.no_grad():
            self.first.weight.copy_(torch.cat([signs, signs]))
            self.first.bias.copy_(torch.tensor([0.0] * 4 + [-0.5] * 4))
            self.last.weight.copy_(torch.tensor([[-0.5] * 4 + [0.5] * 4, [0.0] * 8]))
            self.last.bias.copy_(torch.tensor([bias, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


@cache
def hat(bias: float, backend_name: str = "highs") -> Verifier:
    """Over [-1, 1]^2 the margin's minimum is bias - 1/2 (bias - 1 in the relaxation); at the center it is bias."""
    stages = [MilpStage(backend=backend_name, workers=0)]
    return Verifier(Hat(bias).eval(), torch.zeros(1, 2, dtype=torch.float64), stages=stages)


def ask(bias: float, backend_name: str = "highs") -> Result:
    return hat(bias, backend_name).run(LinfBall(torch.zeros(1, 2), 1.0), robustness(torch.tensor([0]), 2))


def test_both_doors() -> None:
    holds, breaks = ask(0.7), ask(0.3)
    assert holds.verdict[0] is Verdict.VERIFIED and holds.trust[0] in (Trust.SOLVER, Trust.CHECKED)
    assert 0 < float(holds.margins[0, 1]) <= CUTOFF  # asked below the cut-off: no more is known
    assert breaks.verdict[0] is Verdict.FALSIFIED and breaks.counterexample[0] is not None
    query = Query.of(hat(0.7).graph, LinfBall(torch.zeros(1, 2), 1.0), robustness(torch.tensor([0]), 2))
    assert float(exact_rows(query, known(query), workers=0).value[0, 0]) == pytest.approx(0.2, abs=1e-5)
    assert float(minima(query, known(query), None, 0)[0, 0]) == pytest.approx(-0.3, abs=1e-4)


@pytest.mark.parametrize("bias", [0.5 + 0.5 * CUTOFF, 0.5])
def test_minima_about_zero(bias: float) -> None:
    """Between zero and the cut-off the bound itself decides; at zero nothing can be said."""
    result = ask(bias)
    assert result.verdict[0] is (Verdict.VERIFIED if bias > 0.5 else Verdict.UNKNOWN)


def test_time_limits_prove_nothing() -> None:
    query, bounds = query_of("conv", scale=3.0)
    for budget in (Budget(0.0), Budget(None, 0.0), Budget(None, 60.0, [60.0, 60.0]), Budget(60.0, 1e-9)):
        report = MilpStage(workers=0).run(query, bounds, budget)
        assert report.exhausted and report.lower is not None and (report.lower == -torch.inf).all()
        assert report.candidates is not None and torch.equal(report.candidates, query.inputs.center())
    late = hat(0.7).run(LinfBall(torch.zeros(1, 2), 1.0), robustness(torch.tensor([0]), 2), 0.0)
    assert late.verdict[0] is Verdict.UNKNOWN


def test_one_example_out_of_time_does_not_stop_the_next() -> None:
    query, bounds = query_of("dense", scale=2.0)
    report = MilpStage(workers=0).run(query, bounds, Budget(None, 60.0, [60.0, 0.0]))
    assert report.exhausted and report.lower is not None
    assert (report.lower[0] == -torch.inf).all() and (report.lower[1] > -torch.inf).any()


def test_bounds_are_found_where_none_are_given() -> None:
    query, bounds = query_of("dense")
    alone, given = (MilpStage(workers=0).run(query, b, Budget()) for b in (Bounds(), bounds))
    assert alone.lower is not None and given.lower is not None
    assert torch.equal(alone.lower > 0, given.lower > 0)
    assert set(alone.bounds) == set(query.graph.pre_activations)


def test_worker_processes_give_the_same_verdicts() -> None:
    query, bounds = query_of("dense", scale=2.0)
    here, there = (_pooled(query, bounds, pooled) for pooled in (False, True))
    assert torch.equal(here[0] > 0, there[0] > 0) and torch.equal(here[1] < 0, there[1] < 0)


def _pooled(query: Query, bounds: Bounds, pooled: bool) -> tuple[Tensor, Tensor]:

    work = Work(ExactPlan(layers(query.graph), None, "relaxation"), query, bounds, Budget(), cutoffs(query, bounds))
    with Adaptive(1 if pooled else 0, "highs", patience=0.0) as executor:
        for number, answers in executor.run(work.tasks(), work.decide):
            work.take(number, answers[0])
    return work.lower, work.worst


def test_rows_of_one_clause() -> None:
    """One row of each clause suffices: the other rows of a proved clause are not asked about."""
    query, bounds = query_of("dense")
    rows = query.spec.rows
    both = Specification(torch.cat([rows, -rows], 1), torch.zeros(2, 6), torch.arange(3).repeat(2), query.spec.label)
    work = Work(ExactPlan(layers(query.graph), None, "relaxation"), Query.of(query.graph, query.inputs, both), bounds,
                Budget(), torch.full((2, 6), CUTOFF))  # fmt: skip

    for number, answers in Inline().run(work.tasks(), work.decide):
        work.take(number, answers[0])
    clean = both.values(query.graph.forward(query.inputs.center()).flatten(1))
    assert (work.lower <= clean).all()
    plain = MilpStage(workers=0).run(query, bounds, Budget()).lower
    assert plain is not None
    assert torch.equal(plain > 0, (work.lower > 0).unflatten(1, (2, 3)).any(1))


# -- solvers that lie ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(LIES))
@pytest.mark.parametrize("bias", [0.3, -0.5])
def test_liars_prove_nothing_false_beyond_their_word(name: str, bias: float) -> None:
    """A false margin: UNKNOWN or FALSIFIED. VERIFIED only on an "infeasible" that nothing contradicts, labelled."""
    with registered("liar", Fake(LIES[name])):
        result = ask(bias, "liar")
    if result.verdict[0] is Verdict.VERIFIED:
        assert result.trust[0] is Trust.SOLVER and "infeasible" in name and bias > 0
    else:
        assert result.verdict[0] is Verdict.FALSIFIED or bias > 0


@pytest.mark.parametrize("name", list(LIES))
def test_liars_without_a_cutoff_give_no_exact_value_above_the_truth(name: str) -> None:
    verifier = hat(0.3)
    query = Query.of(verifier.graph, LinfBall(torch.zeros(1, 2), 1.0), robustness(torch.tensor([0]), 2))
    with registered("liar", Fake(LIES[name])):
        value = float(exact_rows(query, known(query), backend="liar", workers=0).value[0, 0])
    assert math.isnan(value) or value == pytest.approx(-0.2, abs=1e-4)


def test_incumbents_that_lie() -> None:
    """Points of no sense from a solver: none becomes a counterexample of what holds, or a candidate outside its set."""
    points = [
        (-5.0, lambda n: np.full(n, np.nan)), (-5.0, lambda n: np.full(n, 1e9)), (-5.0, lambda n: np.zeros(n - 1)),
        (-np.inf, lambda n: np.zeros(n)), (np.nan, lambda n: np.full(n, -0.5)),
    ]  # fmt: skip
    for value, make in points:
        fake = Fake(says(SolveStatus.LIMIT, -1.0), lambda program, v=value, m=make: [(v, m(program.columns))])
        with registered("liar", fake):
            result = ask(0.7, "liar")
        assert result.verdict[0] is Verdict.UNKNOWN and result.counterexample[0] is None


def question(cutoff: float | None, feasible: bool = True) -> Question:
    verifier = hat(0.3)
    inputs = LinfBall(torch.zeros(1, 2), 1.0)
    query = Query.of(verifier.graph, inputs, robustness(torch.tensor([0]), 2))
    encoder, bounds = Encoder(query.graph), known(query)
    program = encode(encoder, at_input(inputs).source, bounds, unstable(encoder, bounds, query.graph.activations))
    cost, constant = program.encoding.cost(query.spec.rows[0].numpy(), query.spec.offset[0].numpy())
    return Question(0, 0, program, cost[0], float(constant[0]), cutoff, feasible)


def test_what_an_answer_is_worth() -> None:
    """The smallest value seen is 0.3, the cut-off 0.1; only what is not contradicted counts, less the tolerance."""
    asked, plain, broken = question(0.1), question(None), question(0.1, feasible=False)
    c = asked.constant

    def worth(q: Question, status: SolveStatus, bound: float = -math.inf, incumbent: float = math.inf) -> float:
        return q.bound(SolveResult(status, bound - c, incumbent - c), 0.3)

    for status in SolveStatus:
        assert worth(broken, status, 0.05, 0.07) == -math.inf
        assert worth(asked, status, math.nan) == (
            -math.inf if status is not SolveStatus.INFEASIBLE else pytest.approx(0.1, abs=1e-4)
        )
    assert worth(plain, SolveStatus.INFEASIBLE) == -math.inf
    assert asked.bound(SolveResult(SolveStatus.INFEASIBLE), 0.1) == -math.inf  # a member is below the cut-off
    for status in (SolveStatus.FAILED, SolveStatus.UNBOUNDED, SolveStatus.INTERRUPTED):
        assert worth(asked, status, 0.05, 0.06) == worth(plain, status, 0.05, 0.06) == -math.inf
    for status in (SolveStatus.OPTIMAL, SolveStatus.LIMIT, SolveStatus.BOUND_REACHED):
        assert worth(plain, status, 0.05, 0.06) == pytest.approx(0.05, abs=1e-4)
        assert worth(plain, status, 0.05, 0.06) < 0.05
        assert worth(plain, status, 0.9) == -math.inf  # above a member's value
        assert worth(plain, status, 0.07, 0.06) == -math.inf  # above its own point's
        assert worth(asked, status, 0.2) == pytest.approx(0.1, abs=1e-4)  # beyond the cut-off nothing was asked
        assert worth(plain, status, math.inf) == worth(plain, status, math.nan) == -math.inf
        assert worth(plain, status, 0.05, math.nan) == -math.inf


# -- a real network -----------------------------------------------------------------------------------------------


def test_an_image_that_bounds_leave_open() -> None:
    """Test image 406 of wk17a_mnist: no dual bound proves it, the complete program does."""
    model, (x, y) = wong_kolter_small("wk17a_mnist"), images("mnist", 407)
    verifier = Verifier(model, x[:1], stages=["dual-adaptive", MilpStage(workers=0)])
    result = verifier.run(LinfBall(x[406:], 0.1, (0, 1)), robustness(y[406:], 10), 60.0)
    assert result.verdict[0] is Verdict.VERIFIED
    assert result.decided_by[0] == "milp" and result.trust[0] in (Trust.SOLVER, Trust.CHECKED)


@pytest.mark.parametrize("seed", [4036, 4047, 4082, 4147, 4167, 4172, 4204, 4219])
def test_networks_rescaled_by_powers_of_two_are_not_proved_wrongly(seed: int) -> None:
    """The same function in other units: a solver's absolute tolerances must not decide what holds by a thousandth."""
    g = np.random.default_rng(seed)
    sizes = [(4, 3), (4, 4), (3, 4)]
    layers = [(np.round(g.normal(size=s) * 16) / 16, np.round(g.normal(size=s[0]) * 8) / 16) for s in sizes]
    center, radius = (np.round(g.uniform(*ends, 3) * 64) / 64 for ends in ((-1, 1), (0.1, 1.2)))
    row = np.round(g.normal(size=3) * 8) / 8
    g.choice(10)  # the draws that these seeds were found with
    units = [2.0 ** g.integers(-17, 18, size) for size in (3, 4, 4)] + [np.ones(3)]

    def network(scales: list[np.ndarray]) -> TinyNetwork:
        steps: list[Step] = []
        for k, (weight, bias) in enumerate(layers):
            scaled = scales[k + 1][:, None] * weight / scales[k]
            steps.append(AffineStep(((2 * k, scaled),), bias * scales[k + 1]))
            steps.append(ReluStep(2 * k + 1))
        return TinyNetwork(3, tuple(steps[:-1]))

    plain = network([np.ones(3), np.ones(4), np.ones(4), np.ones(3)])
    least = exact_minimum(plain, row, 0.0, center - radius, center + radius).value
    box = Box(*(torch.from_numpy(end * units[0]).unsqueeze(0) for end in (center - radius, center + radius)))
    model = TinyModule(network(units)).eval()
    for gap in (-1e-2, -1e-3, -1e-4):
        offset = torch.tensor([[gap - least]], dtype=torch.float64)
        spec = Specification(torch.from_numpy(row)[None, None], offset, torch.tensor([0]))
        for tried in (MilpStage(workers=0), MilpStage(1, 2, workers=0), MilpStage(backend="scipy", workers=0)):
            result = verify(model, box.center(), input_set=box, spec=spec, stages=[tried])
            assert result.verdict[0] is not Verdict.VERIFIED, f"the minimum is {gap}"
