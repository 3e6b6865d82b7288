"""Backends that lie, fail, hang and die, to show that nothing a solver says decides a verdict.

In one process: `with registered("liar", Fake(LIES["optimal, bound too high"])): ...` or `Fake(...)` itself.
In a pool's workers: by the names "helpers.fake_backends:Crash" and so on.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import numpy as np

from solvers import base
from solvers.base import Backend, Basis, OnIncumbent, Session, SolveResult, SolveStatus
from solvers.highs import Highs
from solvers.program import Program, Vector

#: what a fake answers to (program, cost [n])
Lie = Callable[[Program, Vector], SolveResult]

HIGH = 1e6  # above all that tests ask about


class Fake(Backend):
    """Answers as told. `points` are reported as incumbents before the answer, with the value that they are given."""

    name = "fake"
    interruptible = True

    def __init__(self, lie: Lie, points: Callable[[Program], list[tuple[float, Vector]]] = lambda program: []) -> None:
        self.lie, self.points = lie, points

    def available(self) -> bool:
        return True

    def load(self, program: Program) -> Session:
        return FakeSession(self, program)


class FakeSession(Session):
    def __init__(self, fake: Fake, program: Program) -> None:
        self.fake, self.program = fake, program

    def minimise(
        self,
        cost: Vector,
        *,
        seconds: float | None = None,
        stop_above: float | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> SolveResult:
        for value, point in self.fake.points(self.program):
            if on_incumbent is not None and on_incumbent(value, point):
                return SolveResult(SolveStatus.INTERRUPTED)
        return self.fake.lie(self.program, cost)

    def set_bounds(self, columns: np.ndarray, lower: Vector, upper: Vector) -> None:
        lows, highs = self.program.lower.copy(), self.program.upper.copy()
        lows[columns], highs[columns] = lower, upper
        self.program = replace(self.program, lower=lows, upper=highs)

    def close(self) -> None:
        pass


@contextmanager
def registered(name: str, fake: Backend) -> Iterator[str]:
    """The fake under that name in the registry of backends, inside the `with` only."""
    assert name not in base.REGISTRY
    with base.REGISTRY.standing_in({name: lambda: fake}):
        yield name


def says(status: SolveStatus, bound: float = HIGH) -> Lie:
    """That status, with a bound, a point and duals of the right sizes that mean nothing."""

    def lie(program: Program, cost: Vector) -> SolveResult:
        rng = np.random.default_rng(0)
        middle = (np.nan_to_num(program.lower) + np.nan_to_num(program.upper)) / 2
        return SolveResult(status, bound, bound, middle, rng.normal(size=program.rows) * 100)

    return lie


def honest(program: Program, cost: Vector) -> SolveResult:
    with Highs().load(program) as session:
        return session.minimise(cost)


def changed(**fields: Callable[[SolveResult], object]) -> Lie:
    """The honest answer with some fields replaced."""

    def lie(program: Program, cost: Vector) -> SolveResult:
        answer = honest(program, cost)
        return replace(answer, **{name: change(answer) for name, change in fields.items()})  # type: ignore[arg-type]

    return lie


def raises(error: BaseException) -> Lie:
    def lie(program: Program, cost: Vector) -> SolveResult:
        raise error

    return lie


def _duals(a: SolveResult) -> Vector:
    return np.zeros(0) if a.row_duals is None else a.row_duals


def _primal(a: SolveResult) -> Vector:
    return np.zeros(0) if a.primal is None else a.primal


#: A stage that is given any of these must not prove what is false. (It may prove what is true: some carry good duals.)
LIES: dict[str, Lie] = {
    **{f"says {status.value}": says(status) for status in SolveStatus},
    **{f"says {status.value}, bound inf": says(status, np.inf) for status in SolveStatus},
    **{f"says {status.value}, bound nan": says(status, np.nan) for status in SolveStatus},
    "optimal, bound too high": changed(dual_bound=lambda a: HIGH, incumbent=lambda a: HIGH),
    "duals of the wrong sign": changed(row_duals=lambda a: -_duals(a), dual_bound=lambda a: HIGH),
    "duals nan": changed(row_duals=lambda a: _duals(a) * np.nan),
    "duals infinite": changed(row_duals=lambda a: np.full(_duals(a).shape, np.inf)),
    "duals huge": changed(row_duals=lambda a: _duals(a) * 1e300),
    "duals too short": changed(row_duals=lambda a: _duals(a)[:-1]),
    "duals too long": changed(row_duals=lambda a: np.append(_duals(a), 1.0)),
    "duals missing": changed(row_duals=lambda a: None, dual_bound=lambda a: HIGH),
    "primal nan": changed(primal=lambda a: _primal(a) * np.nan),
    "primal too short": changed(primal=lambda a: _primal(a)[:-1]),
    "primal outside": changed(primal=lambda a: _primal(a) + HIGH, incumbent=lambda a: -HIGH),
    "primal missing": changed(primal=lambda a: None),
    "bound nan": changed(dual_bound=lambda a: np.nan, incumbent=lambda a: np.nan),
    "bare infeasible": lambda program, cost: SolveResult(SolveStatus.INFEASIBLE),
    "infeasible, bound inf": lambda program, cost: SolveResult(SolveStatus.INFEASIBLE, dual_bound=np.inf),
    "raises": raises(RuntimeError("the solver broke")),
    "raises arithmetic": raises(FloatingPointError("overflow")),
}


class _Acts(Fake):
    """Does something to its process at questions whose first cost is negative; honest at the others."""

    def __init__(self) -> None:
        super().__init__(self._answer)

    def _answer(self, program: Program, cost: Vector) -> SolveResult:
        if cost[0] < 0:
            self.act()
        return honest(program, cost)

    def act(self) -> None:
        raise NotImplementedError


class Crash(_Acts):
    name = "crash"

    def act(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Hang(_Acts):
    """Hangs without a look at its limit, and leaves a child process as a solver that is a program would."""

    name = "hang"

    def act(self) -> None:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)  # child of a hanging solver"])
        time.sleep(60)


class Deaf(Fake):
    """Looks at no limit and at no signal."""

    name = "deaf"
    interruptible = False

    def __init__(self) -> None:
        super().__init__(self._sleeps)

    @staticmethod
    def _sleeps(program: Program, cost: Vector) -> SolveResult:
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            with suppress(KeyboardInterrupt):  # as native code, which Python's handlers wait for
                time.sleep(1)
        return honest(program, cost)


class SlowToLoad(Fake):
    """Takes a minute to take a program."""

    name = "slow to load"
    interruptible = False

    def __init__(self) -> None:
        super().__init__(honest)

    def load(self, program: Program) -> Session:
        time.sleep(60)
        return super().load(program)


class Raise(_Acts):
    name = "raise"

    def act(self) -> None:
        raise RuntimeError("the solver broke")


class Print(_Acts):
    """Writes to the standard output, from Python and from below it."""

    name = "print"

    def act(self) -> None:
        print("noise", flush=True)
        os.write(1, b"more noise\n")


class WhoAmI(_Acts):
    """Its bound is the number of its process; its duals say what it has imported (torch, the caller's script)."""

    name = "who"

    def _answer(self, program: Program, cost: Vector) -> SolveResult:
        seen = [float("torch" in sys.modules), float(hasattr(sys.modules["__main__"], "guard_was_missing"))]
        return SolveResult(SolveStatus.OPTIMAL, float(os.getpid()), row_duals=np.array(seen))


def shout(word: str) -> None:
    """What native code may do: write to descriptor 1 at once, and through the buffer of the C library."""
    with suppress(OSError):  # it is closed
        os.write(1, f"NOISE {word}\n".encode())
    ctypes.CDLL(None).printf(f"NOISE {word}, held back\n".encode())


class Noisy(Backend):
    """A backend of the registry that also writes to descriptor 1 whenever it is made, loaded, set and asked."""

    name = "noisy"

    def __init__(self, real: str = "highs") -> None:
        self.real = base.REGISTRY[real]()
        self.integers, self.duals, self.tolerance = self.real.integers, self.real.duals, self.real.tolerance  # type: ignore[misc]
        self.interruptible = self.real.interruptible  # type: ignore[misc]
        shout("made")

    def available(self) -> bool:
        shout("available")
        return self.real.available()

    def load(self, program: Program) -> Session:
        shout("loaded")
        return NoisySession(self.real.load(program))


class NoisySession(Session):
    def __init__(self, real: Session) -> None:
        self.real = real

    def minimise(
        self,
        cost: Vector,
        *,
        seconds: float | None = None,
        stop_above: float | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> SolveResult:
        shout("asked")
        answer = self.real.minimise(cost, seconds=seconds, stop_above=stop_above, on_incumbent=on_incumbent)
        shout("answered")
        return answer

    def set_bounds(self, columns: np.ndarray, lower: Vector, upper: Vector) -> None:
        shout("set")
        self.real.set_bounds(columns, lower, upper)

    def start(self, basis: Basis) -> None:
        shout("started")
        self.real.start(basis)

    def close(self) -> None:
        shout("closed")
        self.real.close()


#: what stands in for the rest of this process
_STAND_INS = ExitStack()


def noisy_in_place_of_highs(real: str) -> None:
    """From now on stages, which ask for "highs", get the backend called `real`, with noise."""
    made = Noisy(real)
    _STAND_INS.enter_context(base.REGISTRY.standing_in({"highs": lambda: made}))
