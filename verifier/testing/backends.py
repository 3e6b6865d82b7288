"""Conformance of solver backends: programs of known solutions, duals that prove, limits that are told.

A backend is held to its own claims alone: one that solves no integer programs (`integers`) or gives no duals (`duals`)
is not asked for them.
"""

from __future__ import annotations

import _thread
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from solvers import Backend, Program, Session, SolveResult, SolveStatus
from solvers.base import Basis
from solvers.highs import Highs
from solvers.safe import safe_bound
from verifier.testing.laws import Law, examples_of, hold, named
from verifier.testing.programs import hard, random_program

INF = math.inf
#: seconds for a question that is to be interrupted, and in how many of them it has to be over once it is
_LONG, _SOON = 10.0, 5.0
TOLERANCE = 3e-6  # HiGHS lets rows of integer programs be broken by 1e-6


def check_backend(part: Callable[..., Backend]) -> None:
    """Every law of backends on all examples of a class, or on what a function makes, that are installed.

    Raises:
        AssertionError: one is broken; its notes say which.
        ValueError: none of them is installed.
    """
    there = [backend for backend in examples_of(part) if backend.available()]
    if not there:
        raise ValueError(f"{named(part)} is not installed: nothing can be checked")
    for backend in there:
        assert backend.name, "a backend has a name"
        hold(f"the solver {backend.name} {vars(backend) or ''}", LAWS, backend)


def near(value: float | np.ndarray, expected: float | np.ndarray, off: float = TOLERANCE) -> bool:
    """Whether all entries are within `off`; infinities must be the same."""
    a, b = np.asarray(value, float), np.asarray(expected, float)
    return bool(a.shape == b.shape and np.isclose(a, b, rtol=1e-6, atol=off).all())


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


def solve(backend: Backend, case: Known) -> SolveResult:
    with backend.load(case.program) as session:
        return session.minimise(np.array(case.cost, float))


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


def known_programs_have_their_solutions(backend: Backend) -> None:
    """Programs of known solutions are solved: value, point, duals, or that there is none."""
    for case in CASES:
        if backend.integers or not case.program.integer.any():
            _check_known(backend, case)


def _check_known(backend: Backend, case: Known) -> None:
    answer, said = solve(backend, case), case.name
    if case.status is SolveStatus.UNBOUNDED:  # some backends cannot tell it from infeasible
        assert answer.status is not SolveStatus.OPTIMAL, said
        assert answer.dual_bound == -INF and answer.primal is None, said
        return
    assert answer.status is case.status, (said, answer.status, answer.message)
    if case.status is not SolveStatus.OPTIMAL:
        assert answer.primal is None and answer.dual_bound == -INF and answer.incumbent == INF, said
        return
    cost = np.array(case.cost, float)
    assert near(answer.dual_bound, case.value) and near(answer.incumbent, case.value), (said, answer)
    assert answer.primal is not None and case.program.violation(answer.primal) < TOLERANCE, said
    assert near(answer.primal @ cost, case.value), said
    if case.primal is not None:
        assert near(answer.primal, np.array(case.primal)), (said, answer.primal)
    if case.program.integer.any():
        assert answer.row_duals is None, said
    elif backend.duals:
        assert answer.row_duals is not None and answer.row_duals.shape == (case.program.rows,), said
        if case.duals is not None:
            assert near(answer.row_duals, np.array(case.duals)), (said, answer.row_duals)
        if np.isfinite([case.program.lower, case.program.upper]).all():
            assert near(safe_bound(case.program, cost, answer.row_duals), case.value), said


def bounds_may_change_between_questions(backend: Backend) -> None:
    """A session answers question after question, with other costs and other bounds, and duals that prove them."""
    for seed in range(4):
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
                assert answer.status is SolveStatus.OPTIMAL and near(answer.dual_bound, value)
                if backend.duals:
                    # weak duality: the duals have the right signs, and their reduced costs explain the whole optimum
                    assert value - 1e-5 < safe_bound(p, cost, answer.row_duals) <= value + 1e-6


def duals_are_derivatives(backend: Backend) -> None:
    """A row's dual is the derivative of the minimum by the row's right-hand side."""
    for seed in range(3 if backend.duals else 0):
        p = random_program(seed)
        cost = np.random.default_rng(seed).normal(size=p.columns)
        duals = solve(backend, Known("", p, list(cost))).row_duals
        assert duals is not None
        step = 1e-4
        for row in np.flatnonzero(np.abs(duals) > 1e-6):
            shift = np.where(np.arange(p.rows) == row, step, 0.0)
            up, down = (
                exact(replace(p, row_lower=p.row_lower + s, row_upper=p.row_upper + s), cost) for s in (shift, -shift)
            )
            assert near(duals[row], (up - down) / (2 * step), 1e-3)


def integer_programs_agree(backend: Backend) -> None:
    """Integer programs have the optimum that HiGHS finds, and incumbents are told."""
    for seed in range(3 if backend.integers else 0):
        p = random_program(seed, rows=6, whole=True)
        cost = np.random.default_rng(seed).normal(size=p.columns)
        seen: list[float] = []

        def note(value: float, x: np.ndarray, seen: list[float] = seen) -> bool:
            seen.append(value)
            return False

        with backend.load(p) as session:
            answer = session.minimise(cost, on_incumbent=note)
        reference = solve(Highs(), Known("", p, list(cost)))
        assert answer.status is SolveStatus.OPTIMAL
        assert near(answer.dual_bound, reference.dual_bound, 1e-5)
        assert near(min(seen), answer.incumbent)


def running_out_of_time_is_never_optimal(backend: Backend) -> None:
    """A question that runs out of its seconds ends as LIMIT, soon."""
    if not backend.integers:
        return
    p, cost = hard()
    with backend.load(p) as session:
        for _ in range(2):  # the limit is of each question
            answer = session.minimise(cost, seconds=0.3)
            assert answer.status is SolveStatus.LIMIT
            assert answer.dual_bound <= answer.incumbent and answer.seconds < 5


def what_is_interruptible_stops(backend: Backend) -> None:
    """A backend that is `interruptible` ends at its seconds, at `Session.interrupt` and when a signal's handler raises.

    Signals are sent where the check runs in the main thread: no other handles any.
    """
    if not backend.interruptible:
        return
    p = random_program(0, rows=200, columns=300)
    with backend.load(p) as session:
        assert session.minimise(np.ones(300), seconds=0.0).status is SolveStatus.LIMIT, "a linear program has no limit"
    if not backend.integers:
        return
    with backend.load(hard()[0]) as session:
        answer, took = _disturbed(session, session.interrupt)
        assert isinstance(answer, SolveResult) and answer.status is SolveStatus.INTERRUPTED, answer
        assert took < _SOON, f"it ended {took:.1f} s after `interrupt`"
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            answer, took = _disturbed(session, _thread.interrupt_main)
        finally:
            signal.signal(signal.SIGINT, before)
        assert isinstance(answer, KeyboardInterrupt), f"a signal was lost: {answer}"
        assert took < _SOON, f"it ended {took:.1f} s after the signal"


def _disturbed(session: Session, disturb: Callable[[], None]) -> tuple[SolveResult | BaseException, float]:
    """What `hard` ends with when it is disturbed as it is solved, and how many seconds after that."""
    moment: list[float] = []

    def act() -> None:
        moment.append(time.monotonic())
        disturb()

    timer = threading.Timer(0.2, act)
    found: SolveResult | BaseException
    timer.start()
    try:
        found = session.minimise(hard()[1], seconds=_LONG)
    except (Exception, KeyboardInterrupt) as error:
        found = error
    ended = time.monotonic()
    timer.join()
    return found, ended - moment[0]


def what_cannot_be_asked_raises(backend: Backend) -> None:
    """Costs of another length or not finite are refused, and so is a session that was closed."""
    p = random_program(0)
    with backend.load(p) as session:
        for bad in (np.zeros(9), np.full(10, np.nan), np.full(10, INF)):
            assert isinstance(_raised(partial(session.minimise, bad)), ValueError), bad
    assert _raised(lambda: session.minimise(np.zeros(10))) is not None, "a closed session answers"


def _raised(call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def a_given_start_is_a_hint(backend: Backend) -> None:
    """Whatever basis is given to start from, the answer is the same."""
    p, cost = random_program(2), np.random.default_rng(2).normal(size=10)
    value = exact(p, cost)
    sizes = p.columns, p.rows
    odd = [Basis(*(np.full(n, s, np.int8) for n in sizes)) for s in (-1, 0, 1)]
    short = Basis(np.zeros(3, np.int8), np.zeros(2, np.int8))
    with backend.load(p) as session:
        for basis in (*odd, short):
            session.start(basis)
            assert near(session.minimise(cost).dual_bound, value)


LAWS: tuple[Law, ...] = (
    known_programs_have_their_solutions,
    bounds_may_change_between_questions,
    duals_are_derivatives,
    integer_programs_agree,
    running_out_of_time_is_never_optimal,
    what_is_interruptible_stops,
    what_cannot_be_asked_raises,
    a_given_start_is_a_hint,
)
