"""Calls end when their time is over, with what they have; what does not fit into the memory is UNKNOWN and says so."""

from __future__ import annotations

import time
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from properties import InputSet, LinfBall, Zonotope, robustness
from verifier import Result, Verifier
from verifier.bound_map import Bounds
from verifier.budget import Budget, OutOfTime, checkpoint
from verifier.policy import Ladder
from verifier.query import Query
from verifier.relaxation.dual import DualPass
from verifier.stages import REGISTRY, Stage, StageReport, stage
from verifier.testing import check_cut_short, check_limits
from verifier.testing.limits import DeepBlocks
from verifier.verdict import Reason, Verdict


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_limits(name: str) -> None:
    check_limits(REGISTRY[name])


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_cut_short(name: str) -> None:
    check_cut_short(REGISTRY[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_cut_short_at_many_moments(name: str) -> None:
    check_cut_short(REGISTRY[name], moments=40, networks=4)


class Endless(Stage):
    """Looks at the clock in the middle of what has no end."""

    name: ClassVar[str] = "endless"
    cost_rank: ClassVar[int] = 1

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        while True:
            checkpoint()
            time.sleep(0.001)


class Huge(Endless):
    """Asks for more memory than there is on any machine."""

    name: ClassVar[str] = "huge"

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        return StageReport(torch.ones(2**55, dtype=torch.float64))


class Broken(Endless):
    """Fails for a reason of its own."""

    name: ClassVar[str] = "broken"

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        raise RuntimeError("a reason of its own")


@pytest.fixture(scope="module")
def deep() -> tuple[Verifier, Tensor]:
    """A network whose intervals say nothing at the radius 0.2, made ready, and an input [1, 1, 6, 6]."""
    torch.manual_seed(0)
    x = torch.rand(1, 1, 6, 6)
    return Verifier(DeepBlocks(4).eval(), x), x


def run(deep: tuple[Verifier, Tensor], stages: list[Stage], inputs: InputSet, budget: Budget | None = None) -> Result:
    verifier, x = deep
    spec = robustness(verifier.predict(x).argmax(1), 4)
    return verifier.climb(Ladder(stages, adapts=False), inputs, spec, budget or Budget())


def test_a_stage_that_never_looks_at_its_budget_is_interrupted(deep: tuple[Verifier, Tensor]) -> None:
    ball = LinfBall(deep[1], 0.2)
    assert run(deep, [stage("interval")], ball).reason[0] is Reason.BOUNDS
    for budget in (Budget(0.1), Budget(None, per_example=0.1)):
        found = run(deep, [Endless()], ball, budget)
        assert found.verdict[0] is Verdict.UNKNOWN and found.reason[0] is Reason.BUDGET


def test_outside_of_a_limit_nothing_is_interrupted() -> None:
    checkpoint()
    with pytest.raises(OutOfTime), Budget(0.0).enforced():
        time.sleep(0.01)
        with Budget(60.0).enforced():  # the nearer end counts
            checkpoint()
    checkpoint()


def test_what_does_not_fit_into_the_memory_is_unknown_for_that_reason(deep: tuple[Verifier, Tensor]) -> None:
    intervals = stage("interval")
    for stages in ([intervals, Huge()], [Huge(), intervals]):
        found = run(deep, stages, LinfBall(deep[1], 0.2))
        assert found.verdict[0] is Verdict.UNKNOWN and found.reason[0] is Reason.MEMORY
    assert run(deep, [Huge(), intervals], LinfBall(deep[1], 0.0)).verdict[0] is Verdict.VERIFIED
    with pytest.raises(RuntimeError, match="of its own"):
        run(deep, [Broken()], LinfBall(deep[1], 0.2))


def test_an_attack_keeps_to_the_seconds_of_its_example(deep: tuple[Verifier, Tensor]) -> None:
    inputs = Zonotope(deep[1], 1e-3 * torch.randn(1, 80, 1, 6, 6))
    found = run(deep, [stage("attack")], inputs, Budget(None, per_example=0.001))
    assert found.verdict[0] is Verdict.UNKNOWN and found.reason[0] is Reason.BUDGET


class Ticks:
    """A clock that moves on by a second whenever it is looked at."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_bounds_that_are_finished_stay_when_the_time_is_over(
    deep: tuple[Verifier, Tensor], monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """The neurons that were bounded before the end have the bounds that they have without a limit."""
    verifier, x = deep
    clock = Ticks()
    monkeypatch.setattr("verifier.budget.time", clock)
    query = Query.of(verifier.graph, LinfBall(x, 0.02), robustness(verifier.predict(x).argmax(1), 4))
    with torch.no_grad():
        whole = DualPass().rigorous_bounds(query, Bounds(), Budget())
        cut = DualPass().rigorous_bounds(query, Bounds(), Budget(share * clock.now))
    reached, left = 0, 0
    for node, interval in cut.bounds.items():
        best = whole.bounds[node]
        equal = (interval.lower == best.lower) & (interval.upper == best.upper)
        assert (equal | ((interval.lower <= best.lower) & (interval.upper >= best.upper))).all()
        reached, left = reached + int(equal.sum()), left + int((~equal).sum())
    assert not whole.exhausted and cut.exhausted and reached > 0 and left > 0
