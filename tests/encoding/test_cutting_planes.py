"""Linear and integer programs over input sets that are no boxes: laws, the truth, and that no member is cut off."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from helpers.ball_program import BallProgram
from helpers.evidence import multipliers_of
from helpers.oracle import TinyNetwork, random_tiny
from helpers.tiny_torch import TinyModule
from scipy.optimize import linprog
from torch import Tensor, nn

from properties import Box, InputSet, L1Ball, L2Ball, Polytope, robustness
from properties.input_set import REGISTRY as SETS
from solvers import Program
from solvers.inline import Inline
from verifier import Verdict, Verifier
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.encoding import Encoder, Encoding
from verifier.encoding import cutting as cutting_planes
from verifier.encoding.clock import Clock
from verifier.encoding.cutting import Rounds, dual_forms, planes_of, questions
from verifier.encoding.exact import encode, unstable
from verifier.encoding.exact_programs import LOOSE
from verifier.encoding.exact_rows import exact_rows
from verifier.encoding.final_layers import MARGIN
from verifier.encoding.planes import Planes, around
from verifier.encoding.refinement import refine
from verifier.encoding.relaxed_rows import lp_rows, solve_rows
from verifier.encoding.sources import at_input, at_zonotope
from verifier.forms import Dense
from verifier.graph.cuts import layers
from verifier.graph.torch_import import import_torch
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.multipliers import dual_bound
from verifier.stages import stage
from verifier.stages.dual import DualStage
from verifier.stages.lp import LpRefineStage, LpStage
from verifier.stages.milp import MilpStage
from verifier.testing.networks import random_network
from verifier.verdict import Trust

Array = np.ndarray
BALLS = [L2Ball, L1Ball]
KINDS_OF_SETS = {name: kind for name, kind in SETS.items() if not kind.is_box and kind.__module__[:10] == "properties"}
SEEDS = range(4)


def bounded(query: Query) -> tuple[Bounds, Tensor]:
    """The adaptive dual's bounds, and its lower bounds of the rows."""
    with torch.no_grad():
        report = DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget())
    assert report.lower is not None
    return report.bounds, report.lower


def query_of(name: str, kind: type[InputSet], scale: float = 1.5, batch: int = 2, seed: int = 0) -> Query:
    """Margins of a random network on balls whose size is about that of the boxes that it is made for."""
    net = random_network(name, seed, batch)
    graph = import_torch(net.model, net.x[:1]).to(dtype=torch.float64)
    inputs = kind.around(net.x, scale * net.eps * net.x[0].numel() ** 0.5)
    return Query.of(graph, inputs, robustness(net.model(net.x).argmax(1), 4))


@cache
def tiny_network(seed: int) -> tuple[TinyNetwork, TinyModule]:
    """A network on two numbers."""
    generator = np.random.default_rng(seed)
    while (network := random_tiny(generator)).inputs != 2:
        pass
    return network, TinyModule(network).eval()


@cache
def tiny(seed: int, kind: type[InputSet], size: float | None = None) -> Query:
    _, model = tiny_network(seed)
    generator = np.random.default_rng(1000 + seed)
    center = torch.from_numpy(np.round(generator.normal(size=2) * 16) / 16)[None]
    eps = float(np.ldexp(1.0, -int(generator.integers(0, 4)))) if size is None else size
    graph = import_torch(model, center).to(dtype=torch.float64)
    inputs = kind.around(center, eps, (float(center.min()) - 0.1, float(center.max()) + 2) if seed % 2 else None)
    return Query.of(graph, inputs, robustness(model(center).argmax(1), 3))


@cache
def truth(seed: int, kind: type[InputSet], size: float | None = None) -> Array:
    """Minima [S] of the rows of a tiny query: on a grid, refined around its lowest places. Never too low."""
    query = tiny(seed, kind, size)
    low, high = (t.flatten(1) for t in query.inputs.box())
    best = np.full(query.spec.rows.shape[1], np.inf)
    for row in range(len(best)):
        centers, radius = 0.5 * (low + high), 0.5 * (high - low)
        for count in (101, *[7] * 12):
            steps = torch.linspace(-1, 1, count, dtype=torch.float64)
            grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), 2).reshape(-1, 2)
            points = (centers.unsqueeze(1) + grid * radius).reshape(-1, 2)
            many = query.inputs.select(torch.zeros(len(points), dtype=torch.int64))
            points = many.project(points)
            values = query.graph.forward(points) @ query.spec.rows[0, row].double() + query.spec.offset[0, row]
            lowest = values.argsort()[:16]
            best[row] = min(best[row], float(values[lowest[0]]))
            centers, radius = points[lowest], radius * (0.05 if count == 101 else 0.5)
    return best


def members(inputs: InputSet, count: int, seed: int = 0) -> list[Tensor]:
    """Random members of each set, and the ends of it in random directions, [B, *input] each."""
    generator = torch.Generator().manual_seed(seed)
    found = [inputs.sample(generator) for _ in range(count)]
    for _ in range(count):
        away = inputs.center() + 100 * torch.randn(inputs.center().shape, generator=generator, dtype=torch.float64)
        found.append(inputs.project(away))
    return [inputs.inside(x, torch.float64) for x in found]


# -- planes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BALLS)
def test_planes_hold_every_member(kind: type[InputSet]) -> None:
    x = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for inputs in (kind.around(x, 0.3), kind.around(x, 0.3, (0.0, 1.0)), kind.around(x, 0.0)):
        forms = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        forms = forms * 10.0 ** torch.arange(-10, 10).reshape(-1, 1, 1)
        forms[3, 0] *= 1e-14
        forms[4] = 0
        planes = Planes.of_forms(inputs, forms)
        assert len(planes) == 19
        for member in members(inputs, 50):
            assert (planes.normals @ member.flatten().numpy() >= planes.limits).all()
        # and they touch the set
        assert (planes.limits + 1e-9 >= inputs.minimum(Dense(torch.from_numpy(planes.normals).reshape(1, -1, 3, 4)))
                [0].numpy()).all()  # fmt: skip


@pytest.mark.parametrize("kind", BALLS)
def test_points_outside_are_cut_off_and_members_are_not(kind: type[InputSet]) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(1, 6, generator=generator, dtype=torch.float64)
    inputs = kind.around(x, 0.3, (0.0, 1.0))
    low, high = inputs.box()
    points = low + torch.rand(40, 6, generator=generator, dtype=torch.float64) * (high - low)
    points[30:] = x + 0.3 * (points[30:] - x)
    forms = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    planes, cut = around(inputs, points, forms, 1e-6)
    many = inputs.select(torch.zeros(40, dtype=torch.int64))
    assert np.array_equal(cut, ~many.contains(points).numpy()) and cut.sum() > 10
    assert (planes.normals @ points[torch.from_numpy(cut)].numpy().T < planes.limits[:, None]).any(0).all()


@pytest.mark.parametrize("name", ["dense", "skip", "strided", "max pool"])
@pytest.mark.parametrize("before", ["relaxation", "zonotope"])
def test_no_member_is_cut_off(name: str, before: str) -> None:
    """The network at any member is a point of every program, with all the planes that rounds of cutting found."""
    query = query_of(name, L2Ball, batch=1)
    bounds, _ = bounded(query)
    encoder = Encoder(query.graph)
    planes = found_planes(query, bounds, Rounds(most=5, share=-1.0, sign=False))
    assert len(planes) > 12
    final = layers(query.graph)[: None if before == "relaxation" else 1]
    exact = unstable(encoder, bounds, [i for layer in final for i in layer.activations])
    for x in members(query.inputs, 3):
        moved = Box(*query.inputs.box(), x)  # only its nominal point is used
        start = at_input(moved) if before == "relaxation" else at_zonotope(query.graph, moved, bounds, final[-1].cut)
        program = encode(encoder, start.source, bounds, exact)
        point = program.point(start.clean, query.graph.values(x))
        cut = program.encoding.cut(planes, LOOSE)
        assert cut.program.rows > program.program.rows
        assert cut.program.violation(point) < 1e-9
        np.testing.assert_allclose(cut.input_of(point), x[0], atol=1e-9)


def found_planes(query: Query, bounds: Bounds, rounds: Rounds) -> Planes:
    """All planes of the last round."""
    encoder, found = Encoder(query.graph), None
    asked = questions(query, bounds, encoder, lambda _: 1e9)
    with torch.no_grad():
        for solved in cutting_planes.minima(query, bounds, query.graph.output, asked, Inline(), lambda _: 1e9, rounds):
            found = solved.asked.planes
    assert found is not None
    return found


def test_entries_that_cannot_move_have_no_column() -> None:
    """A set whose hull is flat in some entries: planes are written on the others, with the constants moved."""
    query = query_of("dense", L2Ball, batch=1)
    x = query.inputs.center()
    low, high = x - 0.2, x + 0.2
    low[0, 1] = high[0, 1] = x[0, 1]
    low[0, 3] = high[0, 3] = x[0, 3]
    a = torch.tensor([[[1.0, 2.0, -1.0, 0.5, 0.3], [-1.0, 1.0, 1.0, 1.0, 1.0]]], dtype=torch.float64)
    b = torch.einsum("bmi,bi->bm", a, x) + 0.05
    flat = Query.of(query.graph, Polytope(a, b, low, high, x), query.spec)
    bounds, dual = bounded(flat)
    encoding = Encoder(query.graph).relaxed(flat.inputs, bounds)
    assert encoding.inputs.stop == 3
    found = lp_rows(flat, bounds)
    assert (found.lower >= dual - 1e-6).all()
    np.testing.assert_allclose(found.optimum[0], full_program(flat, bounds), atol=1e-6)
    values = [flat.spec.values(query.graph.forward(m).flatten(1)) for m in members(flat.inputs, 100)]
    assert (found.lower <= torch.stack(values).amin(0) + 1e-9).all()


# -- linear programs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("name", ["dense", "hardtanh", "skip", "strided", "max pool"])
def test_never_looser_than_the_dual(name: str, kind: type[InputSet]) -> None:
    """dual <= LP <= every member's value, with and without rounds; the multipliers alone prove it."""
    query = query_of(name, kind)
    bounds, dual = bounded(query)
    report = LpStage(workers=0).run(query, bounds, Budget())
    once = solve_rows(query, bounds, Clock(Budget(), query.batch), Inline(), Rounds(most=0))
    full = lp_rows(query, bounds)
    assert report.lower is not None and report.candidates is not None
    scale = 1 + full.lower.abs().max()
    for lower in (once.lower, report.lower, full.lower):
        assert (lower >= dual - 1e-6 * scale).all()
    assert (full.lower >= once.lower - 1e-9 * scale).all()
    assert (once.lower >= once.optimum - 1e-6 * scale).all() and (full.lower >= full.optimum - 1e-6 * scale).all()
    torch.testing.assert_close(
        dual_bound(query, report.bounds, multipliers_of(report.evidence)), report.lower, rtol=1e-9, atol=1e-9
    )
    values = [query.spec.values(query.graph.forward(m).flatten(1)) for m in members(query.inputs, 50)]
    assert (full.lower <= torch.stack(values).amin(0) + 1e-9 * scale).all()
    inside = query.inputs.inside(report.candidates, torch.float64)
    assert query.inputs.contains(inside).all()


@pytest.mark.parametrize("kind", BALLS)
def test_between_the_dual_and_the_truth(kind: type[InputSet]) -> None:
    for seed in SEEDS:
        query = tiny(seed, kind)
        bounds, dual = bounded(query)
        found, exact = lp_rows(query, bounds), truth(seed, kind)
        slack = 1e-6 * (1 + np.abs(exact).max())
        lower = found.lower[0].numpy()
        assert (dual[0].numpy() <= lower + slack).all() and (lower <= exact + slack).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_rounds_reach_the_relaxation_over_the_ball(seed: int) -> None:
    """The best bound of many rounds is the minimum over hulls and ball, found by another method."""
    query = tiny(seed, L2Ball)
    bounds, _ = bounded(query)
    encoding = Encoder(query.graph).relaxed(query.inputs, bounds)
    expected = [over_ball(encoding, query, row) for row in range(2)]
    rounds = Rounds(most=60, share=-1.0, sign=False)
    found = solve_rows(query, bounds, Clock(Budget(), 1), Inline(), rounds)
    np.testing.assert_allclose(found.lower[0], expected, rtol=1e-4, atol=1e-4)


def over_ball(encoding: Encoding, query: Query, row: int) -> float:
    """min of a row over the program of the box and the ball, by an interior point method that proves its own error."""
    rows, offset = query.spec.rows[0, row : row + 1].double().numpy(), query.spec.offset[0, row : row + 1].numpy()
    cost, constant = encoding.cost(rows, offset)
    program, ball = encoding.program, query.inputs
    assert isinstance(ball, L2Ball)
    dense, value, unit = program.matrix.toarray(), encoding.source.values[0], np.eye(program.columns)
    at = np.pad(value.matrix.toarray(), ((0, 0), (0, program.columns - value.matrix.shape[1])))
    equal, fixed = program.row_lower == program.row_upper, program.lower == program.upper
    up, down = (~equal & np.isfinite(limit) for limit in (program.row_upper, program.row_lower))
    below, above = BallProgram(
        equal=np.vstack([dense[equal], unit[fixed]]),
        ends=np.concatenate([program.row_lower[equal], program.lower[fixed]]),
        above=np.vstack([dense[up], -dense[down]]),
        limits=np.concatenate([program.row_upper[up], -program.row_lower[down]]),
        low=np.where(fixed, program.lower - 1, program.lower),
        high=np.where(fixed, program.upper + 1, program.upper),
        at=at, center=ball.center()[0].numpy() - value.bias, eps=float(ball.eps[0]),
    ).minimum(cost[0])  # fmt: skip
    return (below + above) / 2 + float(constant[0])


def test_the_oracle_knows_a_ball_in_a_box_with_a_plane() -> None:
    """Two minima by hand: the ball's own, and on the circle where a plane cuts it."""
    whole = np.zeros((0, 3)), np.zeros(0)
    cut = np.array([[0.0, 0.0, 1.0]]), np.array([0.28])
    center, box = np.array([1.0, 2.0, 0.0]), np.full(3, 5.0)
    for equal, value in ((whole, 1 + 2 * 2 - np.sqrt(5)), (cut, 1 + 2 * 2 - 0.96 * np.sqrt(5))):
        found = BallProgram(*equal, *whole, -box, box, np.eye(3), center, 1.0).minimum(np.array([1.0, 2.0, 0.0]))
        assert found[0] <= value <= found[1] <= found[0] + 1e-6


def test_rounds_never_loosen_and_decided_rows_are_left_alone() -> None:
    query = query_of("dense", L2Ball, 3.0)
    bounds, _ = bounded(query)
    every = [Rounds(most=most, share=-1.0, sign=False) for most in (0, 1, 3, 10)]
    found = [solve_rows(query, bounds, Clock(Budget(), query.batch), Inline(), r).lower for r in every]
    assert all((after >= before - 1e-9).all() for before, after in itertools.pairwise(found))
    first = found[0]
    assert (found[-1] > first + 1e-3).any()
    asked: dict[int, int] = {}

    class Counting(Inline):
        def solve(self, task, decide=None):  # type: ignore[no-untyped-def]
            asked[len(asked)] = len(task.costs)
            return super().solve(task, decide)

    solve_rows(query, bounds, Clock(Budget(), query.batch), Counting(), Rounds())
    sure = int((first > 1e-2).sum())
    assert sure > 0 and sum(list(asked.values())[query.batch :]) <= 12 * (first.numel() - sure)


def test_boxes_are_solved_once_and_ask_for_no_support(monkeypatch: pytest.MonkeyPatch) -> None:
    net = random_network("dense", 0, 2)
    graph = import_torch(net.model, net.x[:1]).to(dtype=torch.float64)
    query = Query.of(graph, Box(net.x - 0.3, net.x + 0.3), robustness(net.model(net.x).argmax(1), 4))
    bounds, _ = bounded(query)

    def never(*_: object) -> None:
        raise AssertionError("a box needs no planes")

    for name in ("of_forms", "of_inequalities", "on_columns"):
        monkeypatch.setattr(Planes, name, never)
    for kind in (LpStage, LpRefineStage, MilpStage):
        assert kind(workers=0).run(query, bounds, Budget()).lower is not None


def polytope(query: Query, seed: int = 0) -> Query:
    """The query on a polytope around the same inputs: a box less what four half-spaces cut off."""
    generator = torch.Generator().manual_seed(seed)
    x = query.inputs.center()
    a = torch.randn(len(x), 4, *x.shape[1:], generator=generator, dtype=torch.float64)
    b = torch.einsum("bmi,bi->bm", a.flatten(2), x.flatten(1)) + 0.3 * a.flatten(2).norm(dim=2) * 0.2
    return Query.of(query.graph, Polytope(a, b, x - 0.2, x + 0.2, x), query.spec)


def full_program(query: Query, bounds: Bounds) -> list[float]:
    """Minima of the rows of the first example, by scipy on the program with the polytope's rows written by hand."""
    index = torch.tensor([0])
    encoding = Encoder(query.graph).relaxed(query.inputs.select(index), bounds.select(index))
    own = query.inputs.inequalities()
    assert own is not None
    a, b = own[0][0].flatten(1).numpy(), own[1][0].numpy()
    value, program = encoding.source.values[0], encoding.program
    rows = np.pad(a @ value.matrix.toarray(), ((0, 0), (0, program.columns - value.matrix.shape[1])))
    program = program.with_rows(rows, np.full(len(b), -np.inf), b - a @ value.bias)
    cost, constant = encoding.cost(query.spec.rows[0].double().numpy(), query.spec.offset[0].numpy())
    return [solved(program, c) + k for c, k in zip(cost, constant, strict=True)]


def solved(program: Program, cost: Array) -> float:
    dense = program.matrix.toarray()
    equal = program.row_lower == program.row_upper
    above, below = ~equal & np.isfinite(program.row_upper), ~equal & np.isfinite(program.row_lower)
    result = linprog(cost, np.concatenate([dense[above], -dense[below]]),
                     np.concatenate([program.row_upper[above], -program.row_lower[below]]), dense[equal],
                     program.row_lower[equal], list(zip(program.lower, program.upper, strict=True)))  # fmt: skip
    assert result.status == 0
    return float(result.fun)


@pytest.mark.parametrize("name", ["dense", "abs", "skip"])
def test_polytopes_are_in_the_program(name: str) -> None:
    query = polytope(query_of(name, L2Ball))
    bounds, dual = bounded(query)
    found = lp_rows(query, bounds)
    np.testing.assert_allclose(found.lower[0], full_program(query, bounds), rtol=1e-6, atol=1e-6)
    assert (found.lower >= dual - 1e-6).all()


@pytest.mark.parametrize("name", sorted(KINDS_OF_SETS))
def test_every_kind_of_set(name: str) -> None:
    """Whatever the set: dual <= LP <= every member's value, integer programs as well, and the point is a member."""
    for inputs in KINDS_OF_SETS[name].examples()[:2]:
        torch.manual_seed(0)
        size = math.prod(inputs.shape)
        model = nn.Sequential(nn.Flatten(), nn.Linear(size, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        model = model.double().eval().requires_grad_(False)
        graph = import_torch(model, inputs.center()[:1].double()).to(dtype=torch.float64)
        query = Query.of(graph, inputs, robustness(model(inputs.center().double()).argmax(1), 3))
        bounds, dual = bounded(query)
        lp = LpStage(workers=0).run(query, bounds, Budget(20))
        milp = MilpStage(workers=0).run(query, bounds, Budget(1))
        assert lp.lower is not None and lp.candidates is not None
        assert (lp.lower >= dual - 1e-6 * (1 + dual.abs())).all()
        values = [query.spec.values(graph.forward(m).flatten(1)) for m in members(inputs, 30)]
        least = torch.stack(values).amin(0)
        assert (lp.lower <= least + 1e-6).all()
        assert milp.lower is None or (milp.lower <= least + 1e-6).all()


@pytest.mark.parametrize("kind", BALLS)
def test_a_radius_of_zero(kind: type[InputSet]) -> None:
    query = query_of("dense", kind, 0.0)
    bounds, _ = bounded(query)
    values = query.spec.values(query.graph.forward(query.inputs.center()).flatten(1))
    torch.testing.assert_close(lp_rows(query, bounds).lower, values, rtol=1e-9, atol=1e-9)
    report = MilpStage(workers=0).run(query, bounds, Budget())
    assert report.lower is None or (report.lower <= values + 1e-9).all()


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("name", ["dense", "strided"])
def test_refinement(name: str, kind: type[InputSet]) -> None:
    """Refined bounds are tighter than the dual's and hold at every member."""
    query = query_of(name, kind, 3.0 if name == "dense" else 1.0)
    bounds, _ = bounded(query)
    tight = refine(query, bounds, Budget(), 1000)
    gained = 0.0
    for node in bounds:
        assert (tight[node].lower >= bounds[node].lower).all() and (tight[node].upper <= bounds[node].upper).all()
        gained += float((tight[node].lower - bounds[node].lower).sum() + (bounds[node].upper - tight[node].upper).sum())
        for x in members(query.inputs, 30):
            value = query.graph.values(x)[node]
            assert (value >= tight[node].lower - 1e-9).all() and (value <= tight[node].upper + 1e-9).all()
    assert gained > 0 or name == "strided"  # of 72 inputs, a few planes know too little
    report = LpRefineStage(workers=0).run(query, bounds, Budget())
    plain = LpStage(workers=0).run(query, bounds, Budget())
    assert report.lower is not None and plain.lower is not None
    torch.testing.assert_close(
        dual_bound(query, report.bounds, multipliers_of(report.evidence)), report.lower, rtol=1e-9, atol=1e-9
    )


def test_no_time_and_little_time() -> None:
    query = query_of("dense", L2Ball, 3.0)
    for name in ("lp", "lp-refine", "milp"):
        report = stage(name).run(query, bounded(query)[0], Budget(0.0))
        assert report.exhausted and report.lower is not None and (report.lower == -torch.inf).all()
    report = LpStage(workers=0).run(query, bounded(query)[0], Budget(60.0, 30.0, [31.0, 0.0]))
    assert report.lower is not None and report.lower.isfinite().all(1).tolist() == [False, True]


def test_dual_forms_are_the_forms_of_the_dual() -> None:
    query = query_of("skip", L2Ball, batch=1)
    bounds, _ = bounded(query)
    forms = dual_forms(query, bounds, query.graph.output, query.spec.rows[0].double())
    assert forms is not None and forms.shape == (3, 5)
    planes = planes_of(query, bounds, query.graph.output, query.spec.rows[0].double())
    assert len(planes) == 3
    least = query.inputs.minimum(Dense(forms.unsqueeze(0)))[0].numpy()
    scale = np.abs(forms.numpy()).max(1) / np.abs(planes.normals).max(1)
    np.testing.assert_allclose(planes.limits * scale, least, rtol=1e-12, atol=1e-12)


# -- integer programs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("seed", SEEDS)
def test_integer_programs_find_the_truth(seed: int, kind: type[InputSet]) -> None:
    query = tiny(seed, kind)
    bounds, _ = bounded(query)
    found, exact = exact_rows(query, bounds, workers=0), truth(seed, kind)
    known = ~np.isnan(found.value[0].numpy())
    assert known.all()
    np.testing.assert_allclose(found.value[0].numpy(), exact, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", BALLS)
def test_integer_programs_decide_rightly(kind: type[InputSet]) -> None:
    seen = set()
    for seed in range(8):
        network, model = tiny_network(seed)
        query = tiny(seed, kind, 0.3)
        verifier = Verifier(model, torch.zeros(1, 2, dtype=torch.float64), stages=[MilpStage(workers=0)])
        result = verifier.run(query.inputs, query.spec)
        verdict, exact = result.verdict[0], float(truth(seed, kind, 0.3).min())
        if abs(exact) > 2e-3:
            assert verdict is (Verdict.VERIFIED if exact > 0 else Verdict.FALSIFIED), (seed, exact, result.reason)
        if verdict is Verdict.VERIFIED:
            assert exact > 0 and result.trust[0] in (Trust.SOLVER, Trust.CHECKED)
        if verdict is Verdict.FALSIFIED:
            point = result.counterexample[0]
            assert point is not None and query.inputs.contains(point[None].double()).all()
            logits = network.forward(point.double().numpy())
            assert logits.argmax() != int(query.spec.label[0])
        seen.add(verdict)
    assert {Verdict.VERIFIED, Verdict.FALSIFIED} <= seen


@pytest.mark.parametrize("before", ["relaxation", "zonotope"])
def test_final_layers_over_balls(before: str) -> None:
    """A bound with some layers exact is below every member's value, and decides what the relaxation does not."""
    gained = 0
    for seed in (1, 2):
        query = query_of("dense", L2Ball, 4.0, batch=1, seed=seed)
        bounds, _ = bounded(query)
        values = [query.spec.values(query.graph.forward(m).flatten(1)) for m in members(query.inputs, 100)]
        least = torch.stack(values).amin(0)
        relaxed = lp_rows(query, bounds).lower
        for depth in (1, None):
            report = MilpStage(depth, before=before, workers=0).run(query, bounds, Budget())  # type: ignore[arg-type]
            assert report.lower is not None and (report.lower <= least + 1e-9).all()
            gained += int(((report.lower > 0) & (relaxed <= 0)).sum())
    assert gained > 0 or before == "zonotope"


def test_a_solver_that_lies_about_a_ball_is_not_believed() -> None:
    from helpers.fake_backends import LIES, Fake, registered

    query = tiny(3, L2Ball)
    bounds, _ = bounded(query)
    exact = truth(3, L2Ball)
    for lie, answer in LIES.items():
        with registered("liar", Fake(answer)) as name:
            for kind in (LpStage, LpRefineStage):
                report = kind(backend=name, workers=0).run(query, bounds, Budget())
                assert report.lower is not None and (report.lower[0].numpy() <= exact + 1e-9).all(), lie


def test_margins_are_wider_than_what_planes_are_loosened_by() -> None:
    from solvers.base import REGISTRY

    assert MARGIN > 2 * LOOSE
    assert all(2 * make().tolerance <= LOOSE for name, make in REGISTRY.items() if name != "liar")


@pytest.mark.parametrize("kind", BALLS)
def test_branch_and_bound_over_balls(kind: type[InputSet]) -> None:
    """Verdicts of the search with its leaf programs agree with the truth."""
    for seed in range(8):
        _, model = tiny_network(seed)
        query = tiny(seed, kind, 0.3)
        verifier = Verifier(model, torch.zeros(1, 2, dtype=torch.float64), stages=["branch"])
        verdict, exact = verifier.run(query.inputs, query.spec).verdict[0], float(truth(seed, kind, 0.3).min())
        assert verdict is not (Verdict.FALSIFIED if exact > 1e-6 else Verdict.VERIFIED) or abs(exact) < 1e-6
