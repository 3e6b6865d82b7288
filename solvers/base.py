"""The protocol of a backend: load a program once, ask many questions about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from solvers import stdout
from solvers.program import Program, Vector
from verifier.registry import Registry


class SolveStatus(Enum):
    """How a solve ended. Whatever a backend says that is not on this list is FAILED."""

    OPTIMAL = "optimal"  #: solved to the backend's tolerances
    INFEASIBLE = "infeasible"  #: the backend says that there is no point: a word, never a proof
    UNBOUNDED = "unbounded"
    BOUND_REACHED = "bound reached"  #: stopped because the dual bound passed `stop_above`
    LIMIT = "limit"  #: seconds, iterations or nodes ran out
    INTERRUPTED = "interrupted"  #: `on_incumbent` asked to stop
    FAILED = "failed"  #: numerical trouble, an error of the backend, or a status that we do not know


@dataclass(frozen=True)
class SolveResult:
    """What one solve found. Nothing in here is proved: see `solvers.safe`.

    `dual_bound` <= minimum <= `incumbent` is the backend's claim; -inf and inf where it claims nothing.
    """

    status: SolveStatus
    dual_bound: float = float("-inf")
    incumbent: float = float("inf")
    primal: Vector | None = None  # [n]: the point behind `incumbent`
    row_duals: Vector | None = None  # [m], linear programs: d minimum / d (right-hand side of the row)
    seconds: float = 0.0
    iterations: int = 0  #: of the simplex method
    nodes: int = 0  #: of branch and bound
    message: str = ""  #: the backend's own word for how it ended, or its error


@dataclass(frozen=True)
class Basis:
    """Where a simplex method starts: per column and per row -1 at its lower limit, 0 basic, 1 at its upper limit.

    As many are basic as the program has rows. A hint: whatever it says, the answer is the same.
    """

    columns: NDArray[np.int8]  # [n]
    rows: NDArray[np.int8]  # [m]


#: asked with (objective value, point [n]) at every new incumbent; True stops the solve
OnIncumbent = Callable[[float, Vector], bool]


def checked_cost(cost: Vector, columns: int) -> Vector:
    """A cost [n] as solvers take it. Raises ValueError where it is of another length or not finite."""
    cost = np.ascontiguousarray(cost, np.float64)
    if cost.shape != (columns,) or not np.isfinite(cost).all():
        raise ValueError(f"costs must be {columns} finite numbers")
    return cost


def _quieten(kind: type, *names: str) -> None:
    """Those of the methods that the class defines itself, kept off the standard output."""
    for name in names:
        if name in vars(kind):
            setattr(kind, name, stdout.quiet(vars(kind)[name]))


class Session(ABC):
    """One program in one solver. Not thread-safe; close it (or use `with`) to free the solver's memory.

    Native code may write to the standard output in any of these methods: it ends on the standard error.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _quieten(cls, "minimise", "set_bounds", "start", "close")

    @abstractmethod
    def minimise(
        self,
        cost: Vector,
        *,
        seconds: float | None = None,
        stop_above: float | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> SolveResult:
        """Minimise one cost over the program. What the last question left may speed it up.

        The caller computes its own bound from `row_duals` (linear programs) or holds the claims against known points
        (integer ones); no field of the result decides anything by itself.

        Args:
            cost: [n], finite, one number per column.
            seconds: wall-clock limit of this question.
            stop_above: a dual bound above this is good enough. A backend may go on regardless.
            on_incumbent: integer programs; a backend that has no way to call back calls it once, at the end.

        Returns:
            How it ended, with `dual_bound` <= minimum <= `incumbent`; where nothing is known, -inf and inf. A limit is
            `LIMIT`, never `OPTIMAL`; a status that the backend's file does not know is `FAILED`. `primal` [n] is the
            point behind `incumbent`, `row_duals` [m] are for linear programs alone.

        Raises:
            ValueError: a cost of another length, with NaN or infinite numbers, or one that the solver rejects. Callers
            that
                solve for a stage take any exception for `FAILED`.
        """

    @abstractmethod
    def set_bounds(self, columns: NDArray[np.integer], lower: Vector, upper: Vector) -> None:
        """New bounds of some columns for the questions to come.

        Args:
            columns: [k] indices, each once.
            lower, upper: [k]; -inf and inf for none.
        """

    def start(self, basis: Basis) -> None:  # noqa: B027
        """A basis for the next question to start from, in place of the last one's.

        Args:
            basis: of the program's n columns and m rows. A hint: backends without one ignore it.
        """

    def interrupt(self) -> None:  # noqa: B027
        """Asks the running question, or else the next one, to end as INTERRUPTED. May come from another thread.

        A backend that cannot stop does nothing.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees the solver's memory. Further questions raise."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Backend(ABC):
    """A solver. Stateless: all state is in its sessions.

    What its native code writes to the standard output, from its constructor on, ends on the standard error.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _quieten(cls, "__init__", "available", "load")

    name: ClassVar[str]
    #: solves programs with integer columns
    integers: ClassVar[bool] = True
    #: linear programs come with row duals
    duals: ClassVar[bool] = True
    #: how far a point that it calls feasible or integral may be from it
    tolerance: ClassVar[float] = 2e-6
    #: continues from the last basis
    warm_start: ClassVar[bool] = False
    #: looks at its limits while it solves, and in an integer program at signals and at `Session.interrupt` too; what
    #: does not is given a process of its own, which can be ended, wherever a process would find it
    interruptible: ClassVar[bool] = False

    @classmethod
    def examples(cls) -> Sequence[Backend]:
        """Backends that cover the class's options; the conformance tests run on those that are available."""
        return [cls()]

    @abstractmethod
    def available(self) -> bool:
        """Whether its library or program is installed: asked before it is offered or loaded. Must not raise."""

    @abstractmethod
    def load(self, program: Program) -> Session:
        """A session on a program. The program is loaded once, and asked many questions.

        Args:
            program: sparse rows with ranges, column bounds, integer columns; no cost.

        Returns:
            A session of its own: two of them share nothing.

        Raises:
            ValueError: the backend cannot hold the program, such as integer columns where `integers` is False.
        """


#: makers of the backends that a user can name
REGISTRY: Registry[Callable[[], Backend]] = Registry("solver", "solvers", "verifier.backends")
register = REGISTRY.register


def backend(name: str) -> Backend:
    """The backend of that name: one of REGISTRY, or "package.module:factory" for one of your own.

    Raises:
        ValueError: no such backend, or its library is not installed; the message lists those that are there.
    """
    module, colon, factory = name.partition(":")
    if colon:
        with stdout.away():
            made: Backend = getattr(import_module(module), factory)()
        return made

    if name in REGISTRY and (known := REGISTRY[name]()).available():
        return known
    there = [n for n in sorted(REGISTRY) if REGISTRY[n]().available()]
    state = "is not installed" if name in REGISTRY else "does not exist"
    raise ValueError(f"the solver {name!r} {state}; there are: {', '.join(there)}" + REGISTRY.hint(name))
