"""HiGHS through highspy: arrays in, many questions of one loaded program, callbacks while it solves.

Settings that matter for what an answer means:
- one thread; linear programs by the serial dual simplex method, without presolve, so that the basis survives a
  question, and without scaling: the weights of a network are of one size, and scaling makes it several times slower;
- `small_matrix_value` 1e-12, the least that HiGHS takes. Smaller entries are dropped without a word: one more reason
  why nothing that it says is a proof;
- integer programs to a gap of 1e-6 absolute and 0 relative (the default of 1e-4 relative could decide a verdict).
"""

from __future__ import annotations

import functools
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solvers.base import Backend, Basis, OnIncumbent, Session, SolveResult, SolveStatus, checked_cost, register
from solvers.program import Program, Vector

Setting = str | int | float | bool

COMMON: dict[str, Setting] = {"output_flag": False, "threads": 1, "parallel": "off", "small_matrix_value": 1e-12}
CONTINUOUS: dict[str, Setting] = {
    "solver": "simplex",
    "simplex_strategy": 1,
    "simplex_scale_strategy": 0,
    "presolve": "off",
}
#: of integer programs: an answer is worth what this leaves of it (`Backend.tolerance`)
FEASIBILITY = 1e-8
INTEGER: dict[str, Setting] = {
    "presolve": "on",
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 1e-6,
    "mip_feasibility_tolerance": FEASIBILITY,
    "primal_feasibility_tolerance": FEASIBILITY,
}

#: by name, so that a status that a later HiGHS adds is FAILED here
STATUS = {
    "kOptimal": SolveStatus.OPTIMAL,
    "kModelEmpty": SolveStatus.OPTIMAL,
    "kInfeasible": SolveStatus.INFEASIBLE,
    "kUnbounded": SolveStatus.UNBOUNDED,
    "kObjectiveBound": SolveStatus.BOUND_REACHED,
    "kTimeLimit": SolveStatus.LIMIT,
    "kIterationLimit": SolveStatus.LIMIT,
    "kSolutionLimit": SolveStatus.LIMIT,
    "kMemoryLimit": SolveStatus.LIMIT,
    "kInterrupt": SolveStatus.INTERRUPTED,
    "kHighsInterrupt": SolveStatus.INTERRUPTED,
}


@register
class Highs(Backend):
    """HiGHS. `options` are its own options by name and come over the settings of this module.

    Raises:
        ValueError: from `load`, where HiGHS does not know an option or refuses its value.
    """

    name = "highs"
    tolerance = 10 * FEASIBILITY  # presolve and scaling lose some of it
    warm_start = True
    interruptible = True

    def __init__(self, **options: Setting) -> None:
        self.options = options

    def available(self) -> bool:
        return find_spec("highspy") is not None

    def load(self, program: Program) -> Session:
        kind = HighsInteger if program.integer.any() else HighsLinear
        return kind(program, self.options)


class HighsSession(Session):
    """What linear and integer programs share: the arrays, the limits, the questions one after the other."""

    settings: dict[str, Setting]

    def __init__(self, program: Program, options: dict[str, Setting]) -> None:
        self.columns = np.arange(program.columns, dtype=np.int32)
        self.interrupted = False
        self.solver: Any = _silent()()
        for option, value in {**COMMON, **self.settings, **options}.items():
            self._set(option, value)
        self._check(self.solver.passModel(*_arrays(program)), "the program")

    def minimise(
        self,
        cost: Vector,
        *,
        seconds: float | None = None,
        stop_above: float | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> SolveResult:
        start = time.monotonic()
        cost = checked_cost(cost, self.columns.size)
        self._check(self.solver.changeColsCost(len(cost), self.columns, cost), "the costs")
        # the clock of HiGHS runs over all questions
        self._set("time_limit", math.inf if seconds is None else self.solver.getRunTime() + max(seconds, 0.0))
        answer = self._solve(cost, stop_above, on_incumbent)
        self.interrupted = False
        return replace(answer, seconds=time.monotonic() - start)

    def set_bounds(self, columns: NDArray[np.integer], lower: Vector, upper: Vector) -> None:
        self._check(
            self.solver.changeColsBounds(
                len(columns),
                np.ascontiguousarray(columns, np.int32),
                np.ascontiguousarray(lower, np.float64),
                np.ascontiguousarray(upper, np.float64),
            ),
            "the bounds",
        )

    def interrupt(self) -> None:
        self.interrupted = True

    def close(self) -> None:
        self.solver = None

    def _solve(self, cost: Vector, stop_above: float | None, on_incumbent: OnIncumbent | None) -> SolveResult:
        raise NotImplementedError

    def _set(self, option: str, value: Setting) -> None:
        self._check(self.solver.setOptionValue(option, value), f"the option {option}={value!r}")

    def _check(self, status: Any, what: str) -> None:
        if status.name == "kError":
            raise ValueError(f"HiGHS {self.solver.version()} rejects {what}")


class HighsLinear(HighsSession):
    """Linear programs. Starts from the basis given; else, for the cost of the last question, from its basis; else from
    the slacks.

    After a change of bounds the last basis is still dual feasible. After a change of cost it saves a quarter of the
    pivots, at best, but each takes several times longer: its factors carry the network's weights.
    """

    settings = CONTINUOUS

    def __init__(self, program: Program, options: dict[str, Setting]) -> None:
        super().__init__(program, options)
        self.last: Vector | None = None  # the cost of the question that the basis is from
        self.started = False  # whether the basis was given

    def start(self, basis: Basis) -> None:
        import highspy

        status = highspy.HighsBasisStatus
        names = [status.kLower, status.kBasic, status.kUpper]
        hint = highspy.HighsBasis()
        hint.col_status = [names[s + 1] for s in basis.columns.tolist()]
        hint.row_status = [names[s + 1] for s in basis.rows.tolist()]
        hint.valid = True
        self.started = self.solver.setBasis(hint).name != "kError"  # one that does not fit is refused

    def _solve(self, cost: Vector, stop_above: float | None, on_incumbent: OnIncumbent | None) -> SolveResult:
        if self.interrupted:
            return SolveResult(SolveStatus.INTERRUPTED)
        self._set("objective_bound", math.inf if stop_above is None else stop_above)
        if not self.started and (self.last is None or not np.array_equal(cost, self.last)):
            self.solver.setBasis()
        self.last, self.started = cost.copy(), False
        ran = self.solver.run()
        status, word = _status(self.solver, ran)
        info, solution = self.solver.getInfo(), self.solver.getSolution()
        value = float(info.objective_function_value)
        solved = status is SolveStatus.OPTIMAL
        return SolveResult(
            status,
            dual_bound=value if solved or status is SolveStatus.BOUND_REACHED else -math.inf,
            incumbent=value if solved else math.inf,
            primal=np.array(solution.col_value) if solved else None,
            row_duals=np.array(solution.row_dual) if solution.dual_valid else None,
            iterations=max(int(info.simplex_iteration_count), 0),
            message=word,
        )


class HighsInteger(HighsSession):
    settings = INTEGER

    def _solve(self, cost: Vector, stop_above: float | None, on_incumbent: OnIncumbent | None) -> SolveResult:
        watch = Watch(self, math.inf if stop_above is None else stop_above, on_incumbent)
        with watch.signals(), watch:
            ran = self.solver.run()
        status, word = _status(self.solver, ran)
        info = self.solver.getInfo()
        bound = float(info.mip_dual_bound)
        if status is SolveStatus.INTERRUPTED and bound > watch.stop_above:
            status = SolveStatus.BOUND_REACHED
        known = status in (SolveStatus.OPTIMAL, SolveStatus.BOUND_REACHED, SolveStatus.LIMIT, SolveStatus.INTERRUPTED)
        found = known and info.primal_solution_status == 2  # a feasible point
        return SolveResult(
            status,
            dual_bound=bound if known and not math.isnan(bound) else -math.inf,
            incumbent=float(info.objective_function_value) if found else math.inf,
            primal=np.array(self.solver.getSolution().col_value) if found else None,
            iterations=max(int(info.simplex_iteration_count), 0),
            nodes=max(int(info.mip_node_count), 0),
            message=word,
        )


class Watch:
    """The callbacks of one integer program. An exception in them stops the solve and is raised after it."""

    def __init__(self, session: HighsSession, stop_above: float, on_incumbent: OnIncumbent | None) -> None:
        import highspy

        self.session, self.stop_above, self.on_incumbent = session, stop_above, on_incumbent
        self.error: BaseException | None = None
        self.tick = highspy.cb.HighsCallbackType.kCallbackMipInterrupt
        self.improved = highspy.cb.HighsCallbackType.kCallbackMipImprovingSolution

    def __enter__(self) -> Watch:
        solver = self.session.solver
        solver.setCallback(self._call, None)
        solver.startCallback(self.tick)
        if self.on_incumbent is not None:
            solver.startCallback(self.improved)
        return self

    def __exit__(self, *exc: object) -> None:
        solver = self.session.solver
        solver.stopCallback(self.tick)
        solver.stopCallback(self.improved)
        solver.setCallback(None, None)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Inside, what the handler of a signal raises stops the solve too, and is raised after it.

        Python calls handlers before the first line of `_call` as well, where nothing can catch what they raise: HiGHS
        takes it for an error of its own, and Ctrl-C is lost. Only the main thread handles signals.
        """
        before: dict[int, Any] = {}

        def handle(number: int, frame: FrameType | None) -> None:
            try:
                before[number](number, frame)
            except BaseException as error:
                self.error = error

        try:
            if threading.current_thread() is threading.main_thread():
                for number in signal.valid_signals():
                    if callable(handler := signal.getsignal(number)):
                        before[number] = handler
                        signal.signal(number, handle)
            yield
        finally:
            for changed, handler in before.items():
                signal.signal(changed, handler)
            if self.error is not None:
                raise self.error

    def _call(self, kind: int, text: str, seen: Any, wish: Any, data: None) -> None:
        try:
            if kind == int(self.improved) and self.on_incumbent is not None and not self.session.interrupted:
                point = np.array(seen.mip_solution)
                if self.on_incumbent(float(seen.objective_function_value), point):
                    self.session.interrupted = True
            stop = self.session.interrupted or seen.mip_dual_bound > self.stop_above
        except BaseException as error:  # HiGHS would lose it, or end the process
            self.error = error
        # written only to stop: other callbacks of the same solve share the field
        if self.error is not None or stop:
            wish.user_interrupt = True


@functools.cache
def _silent() -> Any:
    """HiGHS as a class that says nothing from the start: version 1.16 has a banner, which comes with its callbacks."""
    import highspy

    class Silent(highspy.Highs):
        def enableCallbacks(self) -> None:
            self.silent()
            super().enableCallbacks()

    return Silent


def _arrays(program: Program) -> tuple[Any, ...]:
    """The arguments of passModel."""
    matrix = program.matrix
    doubles = (program.lower, program.upper, program.row_lower, program.row_upper)
    rowwise, minimise, offset = 2, 1, 0.0
    return (
        program.columns,
        program.rows,
        matrix.nnz,
        rowwise,
        minimise,
        offset,
        np.zeros(program.columns),
        *(np.ascontiguousarray(v, np.float64) for v in doubles),
        np.ascontiguousarray(matrix.indptr, np.int32),
        np.ascontiguousarray(matrix.indices, np.int32),
        np.ascontiguousarray(matrix.data, np.float64),
        program.integer.astype(np.int32),
    )


def _status(solver: Any, ran: Any) -> tuple[SolveStatus, str]:
    """Our status, and the word of HiGHS for it."""
    word = solver.getModelStatus().name
    return (SolveStatus.FAILED if ran.name == "kError" else STATUS.get(word, SolveStatus.FAILED)), word
