"""All backends keep the laws of verifier.testing; what HiGHS alone can do; safe bounds hold for any duals."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from helpers.fake_backends import LIES, Fake, registered
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

import solvers
from solvers import Program, SolveResult, SolveStatus
from solvers.highs import Highs
from solvers.safe import safe_bound
from verifier.testing import check_backend
from verifier.testing.backends import FREE, INF, TOLERANCE, Known, exact, program, solve
from verifier.testing.programs import hard, random_program

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pulp")


@pytest.mark.parametrize("name", sorted(solvers.REGISTRY))
def test_conformance(name: str) -> None:
    made = solvers.REGISTRY[name]
    if not made().available():
        pytest.skip(f"{name} is not installed")
    check_backend(made)


def test_every_file_of_the_package_was_loaded() -> None:
    assert len(solvers.REGISTRY) >= 3 and not solvers.REGISTRY.failures


def test_a_wrong_backend_is_noticed() -> None:
    for lie in ("optimal, bound too high", "duals of the wrong sign", "primal outside", "bare infeasible"):
        with pytest.raises(AssertionError) as broken:
            check_backend(lambda lie=lie: Fake(LIES[lie]))
        assert any("breaks a law" in note for note in broken.value.__notes__)


class Boasts(Highs):
    """Says that it stops, and looks at nothing."""

    def load(self, program: Program) -> solvers.Session:
        session = super().load(program)
        whole, session.interrupt = session.minimise, lambda: None  # type: ignore[method-assign]

        def minimise(cost: np.ndarray, *, seconds: float | None = None, **rest: Any) -> SolveResult:
            return whole(cost, seconds=seconds and min(seconds, 1.0), **rest)

        session.minimise = minimise  # type: ignore[assignment]
        return session


def test_a_backend_that_does_not_stop_as_it_says_is_noticed() -> None:
    with pytest.raises(AssertionError) as broken:
        check_backend(Boasts)
    assert any("interruptible" in note for note in broken.value.__notes__)


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
