"""Ctrl-C at any moment of an integer program that is solved in this process: KeyboardInterrupt, never an answer."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.environment import importing

#: interrupts a solve at its given call or return of a function: in a process of its own, which an abort would end
SCRIPT = """
import signal, sys
import numpy as np
import scipy.sparse as sp
from solvers import Program, backend
from solvers.inline import Inline
from solvers.pool import Task

rng = np.random.default_rng(0)
n, m = 30, 15
program = Program(
    matrix=sp.csr_array(rng.integers(1, 60, (m, n)).astype(float)),
    row_lower=np.full(m, -np.inf), row_upper=np.full(m, 300.0) + rng.integers(0, 50, m),
    lower=np.zeros(n), upper=np.ones(n), integer=np.ones(n, bool),
)
task = Task(program, -rng.integers(5, 60, (1, n)).astype(float))
Inline("highs").solve(task)


class Moment:
    def __init__(self, number):
        self.number, self.count, self.inside = number, 0, False

    def __call__(self, frame, event, argument):
        name = frame.f_code.co_name  # from where the solver first calls back to the end of the solve
        self.inside = (self.inside or name == "_call") and name != "_solve"
        self.count += self.inside
        if self.inside and self.count == self.number:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)


def calls(number):
    moment = Moment(number)
    sys.setprofile(moment)
    try:
        answer = Inline("highs").solve(task)[0]
        return moment.count, answer
    finally:
        sys.setprofile(None)


number, answer = calls(0)
assert answer.status.name == "OPTIMAL"
for moment in [max(1, int(float(share) * number)) for share in sys.argv[1].split()]:
    try:
        print("lost", moment, calls(moment))
    except KeyboardInterrupt:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        print("interrupted")
"""


def interrupted(shares: list[float]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, " ".join(map(str, shares))],
        env=importing(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0 and ended.stdout.split() == ["interrupted"] * len(shares), ended.stdout + ended.stderr


def test_ctrl_c_as_the_solver_calls_back() -> None:
    interrupted([0.0])  # the first call, before the first line of what it calls


@pytest.mark.slow
def test_ctrl_c_at_many_moments_of_a_solve() -> None:
    interrupted([k / 60 for k in range(60)])
