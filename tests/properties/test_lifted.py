"""Sets as images of polytopes: they hold every member, and programs over them are exact in one solve."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from helpers.evidence import multipliers_of
from scipy.optimize import OptimizeResult, linprog
from scipy.sparse import csr_array, hstack, identity, vstack
from torch import Tensor, nn

from properties import Box, BrightnessContrast, InputSet, L1Ball, L2Ball, LinearImages, Union, WassersteinBall, Zonotope
from properties import robustness as margins
from properties.input_set import REGISTRY
from properties.lifted import Lifted
from solvers.inline import Inline
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.encoding import Encoder
from verifier.encoding.clock import Clock
from verifier.encoding.cutting import Rounds, questions
from verifier.encoding.encoder import ProgramSource
from verifier.encoding.exact import encode, unstable
from verifier.encoding.exact_programs import ExactPlan
from verifier.encoding.final_layers import Work
from verifier.encoding.relaxed_rows import lp_rows, solve_rows
from verifier.encoding.sources import at_input
from verifier.forms import Dense
from verifier.graph.torch_import import import_torch
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.multipliers import dual_bound
from verifier.stages.dual import DualStage
from verifier.stages.lp import LpRefineStage, LpStage
from verifier.stages.milp import MilpStage
from verifier.testing.networks import random_network
from verifier.verdict import Trust

Array = np.ndarray
LIFTED = sorted(name for name, kind in REGISTRY.items() if any(s.select(torch.tensor([0])).lifted() is not None
                                                              for s in kind.examples()))  # fmt: skip


def singles(name: str) -> list[InputSet]:
    """Each example of each instance that a kind of set brings."""
    return [s.select(torch.tensor([b])) for s in REGISTRY[name].examples() for b in range(s.batch)]


def image(seed: int, *shape: int) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


#: sets on images of 1 x 3 x 3, with and without a valid range that matters
SETS = {
    "l1": lambda: L1Ball(image(0, 1, 3, 3), 0.4),
    "l1, clipped": lambda: L1Ball(image(0, 1, 3, 3).round(decimals=1), 1.5, (0, 1)),
    "zonotope": lambda: Zonotope(image(1, 1, 3, 3), image(2, 4, 1, 3, 3) - 0.5, reach=0.3),
    "zonotope, clipped": lambda: Zonotope(0.2 + 0.6 * image(1, 1, 3, 3), image(2, 4, 1, 3, 3) - 0.5, (0, 1), reach=0.5),
    "brightness and contrast": lambda: BrightnessContrast(0.2 + 0.6 * image(3, 1, 3, 3), 0.2, 0.3, (0, 1)),
    "one direction, clipped": lambda: LinearImages(image(4, 1, 3, 3), image(5, 1, 1, 3, 3) - 0.5, 0.5, (0, 1)),
    "wasserstein": lambda: WassersteinBall(image(6, 1, 3, 3), 0.1),
    "wasserstein, capped": lambda: WassersteinBall((1.4 * image(6, 1, 3, 3)).clamp(max=1), 0.2, (0, 1), window=3),
}
#: those whose support function is exact: not that of several terms within a valid range, nor that of full pixels
EXACT = ["l1", "l1, clipped", "zonotope", "one direction, clipped", "wasserstein"]


@cache
def query_of(name: str) -> Query:
    inputs = SETS[name]()
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))
    model = model.double().eval().requires_grad_(False)
    for layer in (model[0], model[3]):
        layer.weight *= 3
    graph = import_torch(model, inputs.center()).to(dtype=torch.float64)
    return Query.of(graph, inputs, margins(model(inputs.center()).argmax(1), 3))


def bounded(query: Query) -> tuple[Bounds, Tensor]:
    with torch.no_grad():
        report = DualStage(SlopeRule.ADAPTIVE).run(query, Bounds(), Budget())
    assert report.lower is not None
    return report.bounds, report.lower


def lifted_of(inputs: InputSet) -> Lifted:
    found = inputs.lifted()
    assert found is not None
    return found


def members(inputs: InputSet, count: int, seed: int = 0) -> list[Tensor]:
    """Proven members: random ones, and those near points far away."""
    generator = torch.Generator().manual_seed(seed)
    found = [inputs.sample(generator) for _ in range(count)]
    for _ in range(count):
        away = torch.randn(inputs.center().shape, generator=generator, dtype=torch.float64)
        found.append(inputs.project(inputs.center() + 10 * away))
    found = [inputs.inside(x, torch.float64) for x in found]
    return [x for x in found if inputs.contains(x).all()]


def least(lifted: Lifted, cost: Array, equal: tuple[csr_array, Array] | None = None) -> OptimizeResult:
    """min of cost . (columns, r) by scipy; `equal`: more rows on (columns, r)."""
    n = len(lifted.spare)
    rows = hstack([lifted.rows, csr_array((lifted.rows.shape[0], n))])
    below, above = np.isfinite(lifted.row_lower), np.isfinite(lifted.row_upper)
    rows = csr_array(rows)
    inequalities = vstack([rows[above], -rows[below]])
    limits = np.concatenate([lifted.row_upper[above], -lifted.row_lower[below]])
    ends = np.stack([np.concatenate([lifted.lower, -lifted.spare]), np.concatenate([lifted.upper, lifted.spare])], 1)
    matrix, value = (None, None) if equal is None else equal
    return linprog(cost, inequalities, limits, matrix, value, ends, method="highs",
                   options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10})  # fmt: skip


# -- the polytopes ------------------------------------------------------------------------------------------------


def test_which_sets_are_lifted() -> None:
    assert {"L1Ball", "Zonotope", "Brightness", "BiasField", "WassersteinBall"} <= set(LIFTED)
    x = image(0, 2, 3)
    for inputs in (Box(x, x + 1), L2Ball(x, 0.1), Union([L1Ball(x, 0.1)])):
        assert inputs.lifted() is None


@pytest.mark.parametrize("name", LIFTED)
def test_every_member_is_a_point(name: str) -> None:
    """The clean input by its columns, other members by some that a linear program finds."""
    for inputs in singles(name):
        lifted = lifted_of(inputs)
        assert (lifted.lower <= lifted.clean).all() and (lifted.clean <= lifted.upper).all()
        values = lifted.rows @ lifted.clean
        assert (lifted.row_lower <= values + 1e-12).all() and (values - 1e-12 <= lifted.row_upper).all()
        np.testing.assert_array_equal(lifted.matrix @ lifted.clean + lifted.bias, inputs.center().flatten().numpy())
        on_all = csr_array(hstack([lifted.matrix, identity(len(lifted.spare))]))
        for x in members(inputs, 2):
            # members of sets without an inside are points up to the roundings of float64
            allowed = Lifted(lifted.lower, lifted.upper, lifted.matrix, lifted.bias, lifted.rows, lifted.row_lower,
                             lifted.row_upper, lifted.clean, lifted.spare + 1e-12)  # fmt: skip
            cost = np.zeros(on_all.shape[1])
            found = least(allowed, cost, (on_all, x.flatten().numpy() - lifted.bias))
            assert found.status == 0, (inputs.describe(), found.message)


@pytest.mark.parametrize("name", LIFTED)
def test_the_support_function_is_that_of_the_polytope(name: str) -> None:
    """Up to what the support function does not see: then it is larger."""
    for inputs in singles(name):
        lifted = lifted_of(inputs)
        forms = torch.randn(4, *inputs.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        support = inputs.support(Dense(forms.unsqueeze(0)))[0].numpy()
        for c, bound in zip(forms.flatten(1).numpy(), support, strict=True):
            found = -least(lifted, -np.concatenate([lifted.matrix.T @ c, c])).fun + c @ lifted.bias
            slack = 1e-7 + 2 * np.abs(c) @ lifted.spare  # the valid range of roundings is not in the polytope
            assert found <= bound + slack
            full = inputs.describe()["kind"] == "wasserstein" and inputs.describe()["clip"] is not None
            if lifted.supported and not full:
                assert found >= bound - slack


def test_a_valid_range_is_exact_where_the_support_function_is_not() -> None:
    inputs = SETS["zonotope, clipped"]()
    lifted = lifted_of(inputs)
    assert not lifted.supported and len(lifted.row_upper) > 0
    forms = torch.randn(20, 1, 3, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    support = inputs.support(Dense(forms.unsqueeze(0)))[0].numpy()
    exact = np.array([-least(lifted, -np.concatenate([lifted.matrix.T @ c, c])).fun + c @ lifted.bias
                      for c in forms.flatten(1).numpy()])  # fmt: skip
    assert (exact <= support + 1e-6).all() and (exact < support - 1e-2).any()
    outer = lifted.without_rows()
    loose = np.array([-least(outer, -np.concatenate([lifted.matrix.T @ c, c])).fun + c @ lifted.bias
                      for c in forms.flatten(1).numpy()])  # fmt: skip
    assert (loose >= support - 1e-9).all()


def test_one_example_only() -> None:
    for kind in ("L1Ball", "Zonotope", "WassersteinBall"):
        with pytest.raises(ValueError, match="one example"):
            REGISTRY[kind].examples()[0].lifted()


# -- linear programs ----------------------------------------------------------------------------------------------


def by_hand(query: Query, bounds: Bounds, row: int) -> float:
    """min of a row over triangles and the set, by scipy on a program of its own: every value a variable."""
    inputs, graph = lifted_of(query.inputs), query.graph
    n = len(inputs.lower)
    blocks, lower, upper = [], [inputs.lower, -inputs.spare], [inputs.upper, inputs.spare]
    sizes = [n, len(inputs.spare)]
    value = csr_array(hstack([inputs.matrix, identity(len(inputs.spare))])), inputs.bias
    rows = [(csr_array(hstack([inputs.rows, csr_array((len(inputs.row_lower), len(inputs.spare)))])),
             inputs.row_lower, inputs.row_upper)]  # fmt: skip
    encoder = Encoder(graph)
    for i, node in enumerate(graph.nodes[1:], 1):
        if i not in graph.activations:
            m = encoder.matrices(i)[0]
            value = csr_array(m @ value[0]), m @ value[1] + encoder.bias(i)
            continue
        low, high = (t.flatten().numpy() for t in (bounds[node.parents[0]].lower, bounds[node.parents[0]].upper))
        k, total = len(low), sum(sizes)
        z, b = csr_array((value[0].data, value[0].indices, value[0].indptr), shape=(k, total)), value[1]
        own = identity(k)
        rows.append((csr_array(hstack([-z, own])), b, np.full(k, np.inf)))  # y >= z
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(high <= 0, 0.0, np.where(low >= 0, 1.0, high / (high - low)))
        top = np.where((low < 0) & (high > 0), -slope * low, 0.0)
        scaled = csr_array(z * slope[:, None])
        rows.append((csr_array(hstack([-scaled, own])), np.full(k, -np.inf), slope * b + top))
        sizes.append(k)
        lower.append(np.zeros(k))
        upper.append(np.full(k, np.inf))
        value = csr_array(hstack([csr_array((k, total)), own])), np.zeros(k)
    total = sum(sizes)
    for m, low, high in rows:
        m = csr_array((m.data, m.indices, m.indptr), shape=(m.shape[0], total))
        blocks.append((m, low, high))
    matrix = csr_array(vstack([b[0] for b in blocks]))
    low, high = (np.concatenate([b[k] for b in blocks]) for k in (1, 2))
    below, above = np.isfinite(low), np.isfinite(high)
    spec = query.spec.rows[0, row].double().numpy()
    cost = np.zeros(total)
    cost[: value[0].shape[1]] = spec @ value[0].toarray()
    ends = np.stack([np.concatenate(lower), np.concatenate(upper)], 1)
    found = linprog(cost, vstack([matrix[above], -matrix[below]]), np.concatenate([high[above], -low[below]]),
                    bounds=ends, method="highs")  # fmt: skip
    assert found.status == 0, found.message
    return float(found.fun + spec @ value[1] + float(query.spec.offset[0, row]))


@pytest.mark.parametrize("name", EXACT)
def test_linear_programs_are_exact(name: str) -> None:
    """One solve gives what another program of the same relaxation gives, and our own multipliers prove it."""
    query = query_of(name)
    bounds, dual = bounded(query)
    report = LpStage(workers=0).run(query, bounds, Budget())
    assert report.lower is not None
    expected = [by_hand(query, bounds, row) for row in range(query.open.shape[1])]
    lower = report.lower[query.open].numpy()
    np.testing.assert_allclose(lower, np.array(expected)[query.open[0]], rtol=1e-5, atol=1e-5)
    assert (report.lower >= dual - 1e-6).all()
    torch.testing.assert_close(
        dual_bound(query, report.bounds, multipliers_of(report.evidence)), report.lower, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", sorted(SETS))
def test_between_the_dual_and_the_members(name: str) -> None:
    query = query_of(name)
    bounds, dual = bounded(query)
    values = [query.spec.values(query.graph.forward(x).flatten(1)) for x in members(query.inputs, 10)]
    assert len(values) > 10
    lowest = torch.stack(values).amin(0)
    for stage in (LpStage(workers=0), LpRefineStage(workers=0), MilpStage(workers=0)):
        lower = stage.run(query, bounds, Budget()).lower
        assert lower is not None and (lower <= lowest + 1e-9).all()
        if not isinstance(stage, MilpStage):  # integer programs end at the sign
            assert (lower >= dual - 1e-3 * (1 + dual.abs())).all()


@pytest.mark.parametrize("name", ["l1, clipped", "wasserstein"])
def test_many_rounds_of_cutting_come_near(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query = query_of(name)
    bounds, _ = bounded(query)
    whole = lp_rows(query, bounds)
    monkeypatch.setattr(ProgramSource, "of_set", ProgramSource.of_inputs)
    rounds = Rounds(most=60, share=-1.0, sign=False)
    cut = solve_rows(query, bounds, Clock(Budget(), 1), Inline(), rounds)
    assert (cut.lower[query.open] <= whole.lower[query.open] + 1e-6).all()
    torch.testing.assert_close(cut.lower[query.open], whole.lower[query.open], rtol=1e-2, atol=1e-2)


def test_one_solve_and_no_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    from verifier.encoding.planes import Planes

    def never(*_: object) -> None:
        raise AssertionError("a lifted set needs no planes")

    for method in ("of_forms", "of_inequalities", "on_columns"):
        monkeypatch.setattr(Planes, method, never)
    for name in SETS:
        query = query_of(name)
        bounds, _ = bounded(query)
        for stage in (LpStage(workers=0), LpRefineStage(workers=0), MilpStage(workers=0)):
            assert stage.run(query, bounds, Budget()).lower is not None


@pytest.mark.parametrize("name", sorted(SETS))
def test_a_basis_to_start_from_changes_nothing(name: str) -> None:
    """It has as many basic variables as rows, the solver takes it, and the optimum is the same."""
    from solvers import backend

    query = query_of(name)
    bounds, _ = bounded(query)
    (asked,) = questions(query, bounds, Encoder(query.graph), lambda _: 1e9)
    costs, _ = asked.encoding.cost(asked.functionals, asked.offset)
    program = asked.encoding.program
    for cost, basis in zip(costs, asked.encoding.starts(costs), strict=True):
        assert (basis.columns == 0).sum() + (basis.rows == 0).sum() == program.rows
        values = []
        for start in (None, basis):
            with backend("highs").load(program) as session:
                if start is not None:
                    session.start(start)
                values.append(session.minimise(cost).dual_bound)
        assert values[0] == pytest.approx(values[1], rel=1e-7, abs=1e-7)


def test_roundings_are_columns_where_they_matter() -> None:
    x = image(0, 1, 3, 3)
    inputs = Zonotope(x, 1e-9 * torch.ones(1, 1, 1, 3, 3), rounding=1e-3)
    assert len(ProgramSource.of_set(inputs).lower) == 10
    assert len(ProgramSource.of_set(SETS["zonotope"]()).lower) == 4
    assert len(at_input(SETS["zonotope"]()).source.lower) == 13


# -- integer programs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SETS))
def test_members_are_points_of_integer_programs(name: str) -> None:
    """The network at any member, with the columns that a linear program finds for it."""
    query = query_of(name)
    bounds, _ = bounded(query)
    encoder, start, lifted = Encoder(query.graph), at_input(query.inputs), lifted_of(query.inputs)
    program = encode(encoder, start.source, bounds, unstable(encoder, bounds, query.graph.activations))
    on_all = csr_array(hstack([lifted.matrix, identity(len(lifted.spare))]))
    for x in [query.inputs.center(), *members(query.inputs, 3)]:
        found = least(lifted, np.zeros(on_all.shape[1]), (on_all, x.flatten().numpy() - lifted.bias))
        columns = start.clean if found.x is None else found.x[: len(start.clean)]
        point = program.point(columns, query.graph.values(x))
        if found.x is not None:
            assert program.program.violation(point) < 1e-7
    point = program.point(start.clean, query.graph.values(query.inputs.center()))
    assert program.program.violation(point) < 1e-12


def minimum_found(query: Query, row: int, starts: int = 4, steps: int = 20) -> float:
    """The lowest value of a row that linear programs on ever smaller boxes find: hardly below the minimum."""
    lifted, shape = lifted_of(query.inputs), query.inputs.shape
    normal, best = query.spec.rows[0, row].double(), np.inf
    generator = torch.Generator().manual_seed(0)

    def at(columns: Array) -> tuple[float, Array]:
        x = torch.from_numpy(lifted.matrix @ columns + lifted.bias).reshape(1, *shape).requires_grad_()
        value = (query.graph.forward(x).flatten(1) @ normal)[0] + query.spec.offset[0, row]
        (slope,) = torch.autograd.grad(value, x)
        return float(value.detach()), lifted.matrix.T @ slope.flatten().numpy()

    above, below = np.isfinite(lifted.row_upper), np.isfinite(lifted.row_lower)
    rows = vstack([lifted.rows[above], -lifted.rows[below]])
    limits = np.concatenate([lifted.row_upper[above], -lifted.row_lower[below]])
    for start in range(starts):
        cost = torch.randn(len(lifted.lower), generator=generator, dtype=torch.float64).numpy()
        ends = np.stack([lifted.lower, lifted.upper], 1)
        columns = lifted.clean if start == 0 else linprog(cost, rows, limits, bounds=ends, method="highs").x
        (value, cost), size = at(columns), 0.5
        for _ in range(steps):
            moved = size * (lifted.upper - lifted.lower)
            near = np.stack([np.maximum(lifted.lower, columns - moved), np.minimum(lifted.upper, columns + moved)], 1)
            found = linprog(cost, rows, limits, bounds=near, method="highs").x
            new = (value, cost) if found is None else at(found)
            if new[0] < value - 1e-9:
                columns, (value, cost) = found, new
            else:
                size /= 3
        best = min(best, value)
    return best


@pytest.mark.parametrize("name", sorted(SETS))
def test_integer_programs_find_the_minimum(name: str) -> None:
    """A member reaches their value, and no search finds one below; the stage decides as it says."""
    query = query_of(name)
    bounds, _ = bounded(query)
    stage = MilpStage(workers=0)
    work = Work(ExactPlan(stage.final(query), None, "relaxation"), query, bounds, Budget(), None)
    work.run(Inline())
    assert query.inputs.contains(work.point).all()
    report = stage.run(query, bounds, Budget())
    assert report.lower is not None and report.candidates is not None and report.trust is Trust.SOLVER
    worst = float(query.spec.worst(query.spec.values(query.graph.forward(report.candidates).flatten(1)))[0])
    for row in query.open[0].nonzero().squeeze(1).tolist():
        value = float(work.exact[0, row])
        assert value == pytest.approx(float(work.seen[0, row]), abs=1e-4)
        assert value <= minimum_found(query, row, 3, 12) + 1e-5
        assert float(report.lower[0, row]) <= value + 1e-6
        if value > 2e-3 and worst > 0:
            assert float(report.lower[0, row]) > 0
    if float(work.exact[query.open].min()) < -2e-3:
        assert worst < 0 and query.inputs.contains(report.candidates).all()


@pytest.mark.parametrize("kind", [L1Ball, L2Ball])
def test_final_layers_after_a_zonotope_are_cut_as_before(kind: type[InputSet]) -> None:
    net = random_network("dense", 1, 1)
    graph = import_torch(net.model, net.x[:1]).to(dtype=torch.float64)
    query = Query.of(graph, kind.around(net.x, float(4 * net.eps)), margins(net.model(net.x).argmax(1), 4))
    bounds, _ = bounded(query)
    report = MilpStage(1, before="zonotope", workers=0).run(query, bounds, Budget())
    values = [query.spec.values(query.graph.forward(x).flatten(1)) for x in members(query.inputs, 20)]
    assert report.lower is not None and (report.lower <= torch.stack(values).amin(0) + 1e-9).all()
    assert report.lower.isfinite().any()
