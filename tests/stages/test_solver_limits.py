"""Programs end at their limit whatever the solver does with it, and while they are built; and on Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers.fake_backends import registered
from torch import Tensor, nn

from properties import LinfBall, robustness
from solvers import Program, Session
from solvers.highs import Highs
from verifier import Reason, Verdict, Verifier, verify
from verifier.budget import Budget
from verifier.policy import Ladder
from verifier.stages import Stage, stage
from verifier.stages.lp import LpRefineStage, LpStage
from verifier.stages.milp import MilpStage

#: solvers that do not look at a clock for a minute: once they have the program, and while they take it
DEAF, SLOW = "helpers.fake_backends:Deaf", "helpers.fake_backends:SlowToLoad"
#: seconds in which a call is back that was given half a second: on a machine that others use as well
SOON = 20.0


def model() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)]
    return nn.Sequential(*layers).eval(), torch.rand(1, 4)


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """What the first call imports takes longer than the limits."""
    net, x = model()
    verify(net, x, eps=0.5, stages=["lp", "lp-refine", "milp-1"])


@pytest.mark.parametrize(
    "part",
    [LpStage(DEAF), LpStage(SLOW, workers=0), LpRefineStage(backend=DEAF), MilpStage(1, 30, backend=SLOW, workers=0)],
    ids=lambda part: part.name,
)
def test_a_solver_that_does_not_look_at_the_clock_is_ended(part: Stage) -> None:
    net, x = model()
    began = time.monotonic()
    found = verify(net, x, eps=0.5, stages=[part], budget=0.5)
    assert time.monotonic() - began < SOON
    assert found.verdict[0] is Verdict.UNKNOWN and found.reason[0] is Reason.BUDGET


def test_ctrl_c_ends_a_solver_that_does_not_look_at_signals() -> None:
    net, x = model()
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        verify(net, x, eps=0.5, stages=[MilpStage(backend=DEAF)], budget=None)
    assert time.monotonic() - began < SOON
    assert verify(net, x, eps=1e-4, stages=["interval", MilpStage()]).verdict[0] is Verdict.VERIFIED


@pytest.mark.parametrize("workers", [None, 0])
@pytest.mark.parametrize("make", [LpStage, partial(MilpStage, 1)], ids=["lp", "milp"])
def test_a_solver_of_this_process_alone_works(make: Callable[..., Stage], workers: int | None) -> None:
    """As of a notebook: no worker would find it, so it solves here, though nothing could end it."""

    class Mine(Highs):
        interruptible = False

        def load(self, program: Program) -> Session:
            here.append(os.getpid())
            return super().load(program)

    here: list[int] = []
    net, x = model()
    with registered("mine", Mine()):
        found = verify(net, x, eps=1e-4, stages=[make(backend="mine", workers=workers)], budget=60)
    expected = verify(net, x, eps=1e-4, stages=[make(backend="highs", workers=0)], budget=60)
    assert here and set(here) == {os.getpid()}
    assert expected.verdict[0] is Verdict.VERIFIED and found.verdict[0] is Verdict.VERIFIED
    torch.testing.assert_close(found.margins, expected.margins)


@pytest.mark.parametrize("name", ["lp", pytest.param("milp-1", marks=pytest.mark.slow)])
def test_a_program_that_takes_long_to_write_ends_at_the_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide convolution, whose program alone takes seconds. All in processor time: others use the machine as well."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 96, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96 * 64 * 64, 10)).eval()
    x = torch.rand(1, 3, 64, 64)
    verifier = Verifier(net, x)
    spec, limit = robustness(verifier.predict(x).argmax(1), 10), 0.7
    monkeypatch.setattr("verifier.budget.time", SimpleNamespace(monotonic=time.process_time))
    began = time.process_time()
    found = verifier.climb(Ladder([stage(name)], adapts=False), LinfBall(x, 0.2), spec, Budget(limit))
    took = time.process_time() - began
    assert took <= 1.1 * limit + 1.0, f"{took:.2f} s of processor time for {limit} s"
    assert found.verdict[0] is Verdict.UNKNOWN and found.reason[0] is Reason.BUDGET
