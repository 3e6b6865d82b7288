"""All backends answer shared programs of known solutions alike; safe bounds hold for any duals."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from helpers.fake_backends import LIES, Fake, registered
from helpers.programs import hard, random_program
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import csr_array

import solvers
from solvers import Backend, Program, SolveResult, SolveStatus
from solvers.base import Basis
from solvers.highs import Highs
from solvers.pulp import PuLP
from solvers.safe import safe_bound
from solvers.scipy import SciPy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pulp")

INF = math.inf
TOLERANCE = 3e-6  # HiGHS lets rows of integer programs be broken by 1e-6
BACKENDS = [b for b in (Highs(), SciPy(), PuLP(), PuLP("HiGHS")) if b.available()]


def label(backend: Backend) -> str:
    return f"{backend.name} {backend.solver}" if isinstance(backend, PuLP) else backend.name


@pytest.fixture(params=BACKENDS, ids=label)
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


def program(
    rows: list[list[float]], ranges: list[tuple[float, float]], bounds: list[tuple[float, float]], whole: str = ""
) -> Program:
    """`whole` has an i for each integer column."""
    matrix = csr_array(np.array(rows, float).reshape(len(rows), len(bounds)))
    row_lower, row_upper = np.array(ranges, float).reshape(-1, 2).T
    lower, upper = np.array(bounds, float).T
    integer = np.array([c == "i" for c in whole.ljust(len(bounds))])
    return Program(matrix, row_lower.copy(), row_upper.copy(), lower.copy(), upper.copy(), integer)


@dataclass(frozen=True)
class Known:
    """A program, a cost, and what is known about the answer."""

    name: str
    program: Program
    cost: list[float]
    status: SolveStatus = SolveStatus.OPTIMAL
    value: float = 0.0
    primal: list[float] | None = None  # where it is unique
    duals: list[float] | None = None  # where they are unique


UNIT = (0.0, 1.0)
POSITIVE = (0.0, INF)
FREE = (-INF, INF)
CASES = [
    # Dantzig's: the multipliers are the known (0, 3/2, 1), negated by minimising
    Known(
        "textbook",
        program([[1, 0], [0, 2], [3, 2]], [(-INF, 4), (-INF, 12), (-INF, 18)], [POSITIVE] * 2),
        [-3, -5],
        value=-36,
        primal=[2, 6],
        duals=[0, -1.5, -1],
    ),
    Known(
        "equality",
        program([[1, 1], [1, -1]], [(2, 2), (-INF, 1)], [POSITIVE] * 2),
        [1, 3],
        value=3,
        primal=[1.5, 0.5],
        duals=[2, -1],
    ),
    Known(
        "ranged, at its lower end",
        program([[1, 2]], [(2, 5)], [(0, 1), (0, 4)]),
        [3, 1],
        value=1,
        primal=[0, 1],
        duals=[0.5],
    ),
    Known(
        "ranged, at its upper end",
        program([[1, 2]], [(2, 5)], [(0, 1), (0, 4)]),
        [3, -1],
        value=-2.5,
        primal=[0, 2.5],
        duals=[-0.5],
    ),
    Known(
        "free column", program([[1, 1], [1, -1]], [(1, INF), (-3, INF)], [FREE] * 2), [3, 1], value=-1, primal=[-1, 2]
    ),
    Known(
        "degenerate",
        program([[1, 1], [1, 0], [0, 1], [1, 2]], [(-INF, 1), (-INF, 1), (-INF, 1), (-INF, 2)], [POSITIVE] * 2),
        [0, -1],
        value=-1,
        primal=[0, 1],
    ),
    Known(
        "fixed columns",
        program([[1, 1, 1]], [(0, 4)], [(2, 2), (0, 9), (-1, -1)]),
        [1, -1, 1],
        value=-2,
        primal=[2, 3, -1],
    ),
    Known(
        "empty row",
        program([[0, 0], [1, 1]], [(-1, 1), (1, INF)], [(0, 3)] * 2),
        [1, 2],
        value=1,
        primal=[1, 0],
        duals=[0, 1],
    ),
    Known("empty column", program([[1, 0]], [(0.5, INF)], [UNIT, (-2, 3)]), [1, -1], value=-2.5, primal=[0.5, 3]),
    Known("no rows", program([], [], [(-1, 2), (-3, 4)]), [1, -1], value=-5, primal=[-1, 4], duals=[]),
    Known("no cost", program([[1, 1]], [(1, 1)], [UNIT] * 2), [0, 0], value=0),
    Known(
        "free row", program([[1, 1], [1, 0]], [(-INF, INF), (0.25, INF)], [UNIT] * 2), [1, 1], value=0.25, duals=[0, 1]
    ),
    Known("infeasible", program([[1, 1]], [(3, INF)], [UNIT] * 2), [1, 1], SolveStatus.INFEASIBLE),
    Known(
        "infeasible equations", program([[1, 1], [2, 2]], [(1, 1), (3, 3)], [FREE] * 2), [0, 0], SolveStatus.INFEASIBLE
    ),
    Known("infeasible empty row", program([[0, 0]], [(1, 2)], [UNIT] * 2), [1, 1], SolveStatus.INFEASIBLE),
    Known("unbounded", program([[1, -1]], [(0, 1)], [POSITIVE] * 2), [-1, 0], SolveStatus.UNBOUNDED),
    # values 10, 13, 7, 8, weights 5, 6, 4, 3, room 10: the second and the third
    Known(
        "knapsack",
        program([[5, 6, 4, 3]], [(-INF, 10)], [UNIT] * 4, "iiii"),
        [-10, -13, -7, -8],
        value=-21,
        primal=[0, 1, 0, 1],
    ),
    Known(
        "mixed",
        program([[1, 1], [1, -1]], [(1.5, INF), (-INF, 0.25)], [(0, 3)] * 2, "i"),
        [2, 1],
        value=1.5,
        primal=[0, 1.5],
    ),
    Known(
        "integers below zero", program([[2, 2]], [(-7, -3)], [(-5, 5)] * 2, "ii"), [1, 1.5], value=-5.5, primal=[2, -5]
    ),
    Known("no integer between", program([[2]], [(1, 1)], [(0, 1)], "i"), [1], SolveStatus.INFEASIBLE),
    Known("integers infeasible", program([[2, 2]], [(3, 3)], [(0, 5)] * 2, "ii"), [1, 0], SolveStatus.INFEASIBLE),
]


def skip_without_integers(backend: Backend, p: Program) -> None:
    if p.integer.any() and not backend.integers:
        pytest.skip("solves no integer programs")


def solve(backend: Backend, case: Known) -> SolveResult:
    with backend.load(case.program) as session:
        return session.minimise(np.array(case.cost, float))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_known_programs(backend: Backend, case: Known) -> None:
    skip_without_integers(backend, case.program)
    answer = solve(backend, case)
    if case.status is SolveStatus.UNBOUNDED:  # some backends cannot tell it from infeasible
        assert answer.status is not SolveStatus.OPTIMAL and answer.dual_bound == -INF and answer.primal is None
        return
    assert answer.status is case.status
    if case.status is not SolveStatus.OPTIMAL:
        assert answer.primal is None and answer.dual_bound == -INF and answer.incumbent == INF
        return
    assert answer.dual_bound == pytest.approx(case.value, abs=TOLERANCE)
    assert answer.incumbent == pytest.approx(case.value, abs=TOLERANCE)
    assert answer.primal is not None and case.program.violation(answer.primal) < TOLERANCE
    assert answer.primal @ case.cost == pytest.approx(case.value, abs=TOLERANCE)
    if case.primal is not None:
        assert answer.primal == pytest.approx(np.array(case.primal), abs=TOLERANCE)
    if case.program.integer.any():
        assert answer.row_duals is None
    elif backend.duals:
        assert answer.row_duals is not None and answer.row_duals.shape == (case.program.rows,)
        if case.duals is not None:
            assert answer.row_duals == pytest.approx(np.array(case.duals), abs=TOLERANCE)
        if np.isfinite([case.program.lower, case.program.upper]).all():
            assert safe_bound(case.program, np.array(case.cost, float), answer.row_duals) == pytest.approx(
                case.value, abs=TOLERANCE
            )


def exact(p: Program, cost: np.ndarray) -> float:
    """The optimum of the relaxation by SciPy's interior point method, which shares no code path with our sessions."""
    matrix = p.matrix.toarray()
    up, down = np.isfinite(p.row_upper), np.isfinite(p.row_lower)
    result = linprog(
        cost,
        np.vstack([matrix[up], -matrix[down]]),
        np.concatenate([p.row_upper[up], -p.row_lower[down]]),
        bounds=np.stack([p.lower, p.upper], axis=1),
        method="highs-ipm",
    )
    assert result.status == 0
    return float(result.fun)


@pytest.mark.parametrize("seed", range(4))
def test_many_questions_with_bounds_changed_between(backend: Backend, seed: int) -> None:
    p, rng = random_program(seed), np.random.default_rng(seed)
    with backend.load(p) as session:
        for _ in range(4):
            columns = rng.permutation(p.columns)[:3]
            lower, upper = p.lower.copy(), p.upper.copy()
            lower[columns], upper[columns] = -rng.random(3), rng.random(3)
            session.set_bounds(columns, lower[columns], upper[columns])
            p = replace(p, lower=lower, upper=upper)
            cost = rng.normal(size=p.columns)
            answer, value = session.minimise(cost), exact(p, cost)
            assert answer.status is SolveStatus.OPTIMAL and answer.dual_bound == pytest.approx(value, abs=TOLERANCE)
            # weak duality: the duals have the right signs, and their reduced costs explain the whole optimum
            assert value - 1e-5 < safe_bound(p, cost, answer.row_duals) <= value + 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_duals_are_derivatives(backend: Backend, seed: int) -> None:
    p = random_program(seed)
    cost = np.random.default_rng(seed).normal(size=p.columns)
    duals = solve(backend, Known("", p, list(cost))).row_duals
    assert duals is not None
    step = 1e-4
    for row in np.flatnonzero(np.abs(duals) > 1e-6):
        shift = np.where(np.arange(p.rows) == row, step, 0.0)
        moved = [exact(replace(p, row_lower=p.row_lower + s, row_upper=p.row_upper + s), cost) for s in (shift, -shift)]
        assert duals[row] == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_integer_programs_agree(backend: Backend, seed: int) -> None:
    p = random_program(seed, rows=6, whole=True)
    skip_without_integers(backend, p)
    cost = np.random.default_rng(seed).normal(size=p.columns)
    seen: list[float] = []
    with backend.load(p) as session:
        answer = session.minimise(cost, on_incumbent=lambda value, x: seen.append(value) or False)  # type: ignore[func-returns-value]
    reference = solve(Highs(), Known("", p, list(cost)))
    assert answer.status is SolveStatus.OPTIMAL
    assert answer.dual_bound == pytest.approx(reference.dual_bound, abs=1e-5)
    assert min(seen) == pytest.approx(answer.incumbent, abs=TOLERANCE)


def test_running_out_of_time_is_never_optimal(backend: Backend) -> None:
    p, cost = hard()
    skip_without_integers(backend, p)
    with backend.load(p) as session:
        for _ in range(2):  # the limit is of each question
            answer = session.minimise(cost, seconds=0.3)
            assert answer.status is SolveStatus.LIMIT
            assert answer.dual_bound <= answer.incumbent and answer.seconds < 5


def test_highs_limit_of_a_linear_program() -> None:
    p = random_program(0, rows=200, columns=300)
    cost = np.random.default_rng(0).normal(size=300)
    with Highs().load(p) as session:
        assert session.minimise(cost, seconds=0.0).status is SolveStatus.LIMIT
        answer = session.minimise(cost)
    assert answer.status is SolveStatus.OPTIMAL


def test_highs_stops_at_a_bound() -> None:
    p, cost = random_program(1), np.random.default_rng(1).normal(size=10)
    with Highs().load(p) as session:
        value = session.minimise(cost).dual_bound
        early = session.minimise(cost, stop_above=value - 5)
        assert (
            early.status in (SolveStatus.BOUND_REACHED, SolveStatus.OPTIMAL)
            and value - 5 <= early.dual_bound <= value + 1e-6
        )
        assert safe_bound(p, cost, early.row_duals) == pytest.approx(early.dual_bound, abs=1e-5)
        assert session.minimise(cost, stop_above=value + 5).status is SolveStatus.OPTIMAL
        assert session.minimise(cost).status is SolveStatus.OPTIMAL  # the limit is gone

    p, cost = hard()
    with Highs().load(p) as session:
        answer = session.minimise(cost, stop_above=-25.0, seconds=20)
    assert answer.status is SolveStatus.BOUND_REACHED and -25 < answer.dual_bound <= answer.incumbent


def test_highs_stops_at_an_incumbent_and_by_interrupt() -> None:
    p, cost = hard()
    points: list[tuple[float, np.ndarray]] = []

    def good(value: float, x: np.ndarray) -> bool:
        points.append((value, x))
        return value < -10

    with Highs().load(p) as session:
        answer = session.minimise(cost, seconds=20, on_incumbent=good)
        assert answer.status is SolveStatus.INTERRUPTED and answer.seconds < 10
        assert [v for v, _ in points[:-1] if v < -10] == []
        for value, x in points:
            assert cost @ x == pytest.approx(value) and p.violation(x) < TOLERANCE
        session.interrupt()
        assert session.minimise(cost, seconds=20).status is SolveStatus.INTERRUPTED
        assert session.minimise(cost, seconds=0.2).status is SolveStatus.LIMIT  # one interrupt, one question


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_in_a_callback_comes_out(error: type[BaseException]) -> None:
    def broken(value: float, x: np.ndarray) -> bool:
        raise error

    p, cost = hard()
    with Highs().load(p) as session:
        with pytest.raises(error):
            session.minimise(cost, seconds=20, on_incumbent=broken)
        assert session.minimise(cost, seconds=0.2).status is SolveStatus.LIMIT


def test_what_cannot_be_loaded_raises(backend: Backend) -> None:
    p = random_program(0)
    with backend.load(p) as session:
        for bad in (np.zeros(9), np.full(10, np.nan), np.full(10, INF)):
            with pytest.raises(ValueError, match="costs"):
                session.minimise(bad)
    with pytest.raises(Exception):  # noqa: B017
        session.minimise(np.zeros(10))  # closed


def test_highs_rejects_options_and_entries() -> None:
    p = random_program(0)
    for wrong in ({"no_such_option": 1}, {"simplex_strategy": 99}):
        with pytest.raises(ValueError, match="rejects the option"):
            Highs(**wrong).load(p)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rejects the program"):
        Highs().load(replace(p, matrix=csr_array(p.matrix * 1e300)))


def test_names() -> None:
    assert solvers.backend("highs").name == "highs"
    assert solvers.backend("solvers.highs:Highs").name == "highs"
    with pytest.raises(ValueError, match=r"does not exist; there are: .*highs"):
        solvers.backend("no such solver")


@pytest.mark.parametrize("name", LIES)
def test_lies_do_not_pass_for_bounds(name: str) -> None:
    p, cost = random_program(3), np.random.default_rng(3).normal(size=10)
    with registered("liar", Fake(LIES[name])) as liar, solvers.backend(liar).load(p) as session:
        try:
            answer = session.minimise(cost)
        except (RuntimeError, FloatingPointError):
            return
        assert safe_bound(p, cost, answer.row_duals) <= exact(p, cost) + 1e-6
    assert "liar" not in solvers.REGISTRY


number = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3), st.floats(-1e-12, 1e-12))
dual = st.one_of(number, st.sampled_from([math.nan, INF, -INF, 1e300, -1e300, 5e-324]))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_safe_bound_is_below_every_point(data: st.DataObject) -> None:
    """In exact arithmetic: feasible by construction, as the rows' ranges are laid around a point."""
    rows, columns = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 4))
    matrix = np.array(data.draw(st.lists(number, min_size=rows * columns, max_size=rows * columns))).reshape(
        rows, columns
    )
    x, cost = (np.array(data.draw(st.lists(number, min_size=columns, max_size=columns))) for _ in range(2))
    below, above = (
        data.draw(st.lists(st.sampled_from([0.0, 1.0, INF]), min_size=columns, max_size=columns)) for _ in range(2)
    )
    lower, upper = (np.array([v + s * w for v, w in zip(x, ws, strict=True)]) for ws, s in ((below, -1), (above, 1)))
    activity = [sum((Fraction(a) * Fraction(v) for a, v in zip(r, x, strict=True)), Fraction()) for r in matrix]
    slack = data.draw(st.lists(st.sampled_from([0.0, 0.5, INF]), min_size=2 * rows, max_size=2 * rows))
    row_lower = np.array([outward(a, -s, -INF) for a, s in zip(activity, slack[:rows], strict=True)])
    row_upper = np.array([outward(a, s, INF) for a, s in zip(activity, slack[rows:], strict=True)])
    p = Program(csr_array(matrix), row_lower, row_upper, lower, upper, np.zeros(columns, bool))
    y = np.array(data.draw(st.lists(dual, min_size=rows, max_size=rows)))
    bound = safe_bound(p, cost, y)
    assert not math.isnan(bound) and bound < INF
    if bound > -INF:
        assert Fraction(bound) <= sum((Fraction(c) * Fraction(v) for c, v in zip(cost, x, strict=True)), Fraction())


def outward(value: Fraction, slack: float, end: float) -> float:
    """value + slack, rounded towards `end`."""
    if math.isinf(slack):
        return end
    near = float(value)
    if Fraction(near) != value:
        near = math.nextafter(near, end)
    return math.nextafter(near + slack, end) if slack else near


def test_safe_bound_is_exact_enough_and_refuses() -> None:
    p = program([[1, 1]], [(1, INF)], [(0, INF), (0, INF)])
    cost = np.array([1.0, 2.0])
    assert safe_bound(p, cost, np.array([1.0])) == pytest.approx(1.0, abs=1e-12)
    assert safe_bound(p, cost, np.array([1.5])) == -INF  # a reduced cost of -1/2 where the column has no end
    assert safe_bound(p, cost, np.array([-1.0])) == pytest.approx(0.0, abs=1e-12)  # the wrong sign counts as 0
    for nothing in (None, np.zeros(0), np.zeros(2), np.array([math.nan]), np.array([INF])):
        assert safe_bound(p, cost, nothing) == -INF
    free = program([[0.1], [0.2]], [(1, 1), (-INF, INF)], [FREE])
    assert safe_bound(free, np.array([0.1]), np.array([1.0, 0.0])) == pytest.approx(1.0, abs=1e-12)
    assert safe_bound(free, np.array([0.3]), np.array([3.0, 0.0])) == -INF  # 0.3 - 3 * 0.1 is not 0 in binary


def test_small_entries_are_not_dropped() -> None:
    """Above 1e-12; a default HiGHS drops what is below 1e-9, and finds this program infeasible."""
    p = program([[1e-10, 1.0]], [(0.5, INF)], [(0, 1e10), (0, 0.1)])
    with Highs(small_matrix_value=1e-9).load(p) as session:
        assert session.minimise(np.zeros(2)).status is SolveStatus.INFEASIBLE
    assert solve(Highs(), Known("", p, [0.0, 0.0])).status is not SolveStatus.INFEASIBLE


def test_new_bounds_continue_from_the_last_basis() -> None:
    p, cost = random_program(5, rows=60, columns=80), np.random.default_rng(5).normal(size=80)
    with Highs().load(p) as session:
        first = session.minimise(cost)
        session.set_bounds(np.array([3]), np.array([-1.9]), np.array([2.9]))
        again = session.minimise(cost)
    assert again.status is SolveStatus.OPTIMAL and again.iterations < first.iterations / 3


def test_a_given_start_is_a_hint(backend: Backend) -> None:
    p, cost = random_program(2), np.random.default_rng(2).normal(size=10)
    value = exact(p, cost)
    sizes = p.columns, p.rows
    odd = [Basis(*(np.full(n, s, np.int8) for n in sizes)) for s in (-1, 0, 1)]
    short = Basis(np.zeros(3, np.int8), np.zeros(2, np.int8))
    with backend.load(p) as session:
        for basis in (*odd, short):
            session.start(basis)
            assert session.minimise(cost).dual_bound == pytest.approx(value, abs=TOLERANCE)


def test_scaling_is_exact_and_undone() -> None:
    """Points and costs of the scaled program are those of the program, bit for bit; entries end up near one."""
    from solvers.scaling import Scaled

    generator = np.random.default_rng(0)
    sizes = 10.0 ** generator.integers(-8, 9, 6)
    matrix = csr_array(generator.normal(size=(4, 6)) * (10.0 ** generator.integers(-6, 7, 4))[:, None] / sizes)
    lower, upper = -sizes * generator.random(6), sizes * generator.random(6)
    integer = np.array([False] * 5 + [True])
    program = Program(matrix, np.full(4, -np.inf), np.ones(4), lower, upper, integer)
    scaled = Scaled.of(program)
    assert scaled.columns[5] == 1 and (np.log2(scaled.columns) % 1 == 0).all()
    x = lower + generator.random(6) * (upper - lower)
    inner, cost = x / scaled.columns, generator.normal(size=6)
    assert (scaled.point(inner) == x).all()
    assert scaled.cost(cost) @ inner == pytest.approx(cost @ x, rel=1e-12)
    ratio = (scaled.program.matrix @ inner) / (matrix @ x)
    np.testing.assert_allclose(ratio, scaled.program.row_upper)
    largest = abs(scaled.program.matrix).max(axis=1).toarray()
    assert (largest >= 0.5).all() and (largest <= 2).all()
