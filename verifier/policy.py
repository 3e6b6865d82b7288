"""Which stage comes next, and whether a stage is worth its price on this network."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from verifier.bound_map import Bounds
from verifier.query import Query
from verifier.stages import Stage
from verifier.verdict import StageCost

#: examples that a stage is tried on before it is judged
PATIENCE = 32
#: a stage that takes a smaller share of all the time is not worth judging
NEGLIGIBLE = 0.05


@dataclass(frozen=True)
class Rung:
    """One stage of a ladder and what it has done so far."""

    stage: Stage
    attempted: int  #: examples that it was given
    decided: int
    seconds: float
    moved_back: bool

    @property
    def price(self) -> float:
        """Seconds per example."""
        return self.seconds / self.attempted if self.attempted else 0.0


class Ladder:
    """An order of stages that learns from what they cost and decide.

    A stage saves what the stages behind it would have spent on the examples that it decides. One that costs more than
    it saves is moved behind the others. Where a stage stands changes which stage decides an example and when, never
    what is decided: every stage's answers are sound by themselves.

    Args:
        stages: in the order to start with.
        adapts: False keeps that order.
    """

    def __init__(self, stages: Sequence[Stage], *, adapts: bool) -> None:
        self.stages, self.adapts = tuple(stages), adapts
        self._costs = {i: StageCost(s.name, 0, 0, 0.0) for i, s in enumerate(self.stages)}
        self._back: list[int] = []
        self._lock = threading.Lock()

    def order(self) -> tuple[Stage, ...]:
        """The stages in the order to try them now."""
        return tuple(self.stages[i] for i in self._places())

    def rungs(self) -> tuple[Rung, ...]:
        """The same with what each has done."""
        costs = ((i, self._costs[i]) for i in self._places())
        return tuple(Rung(self.stages[i], c.attempted, c.decided, c.seconds, i in self._back) for i, c in costs)

    def price(self, stage: Stage) -> float:
        """Seconds per example that a stage of this ladder has taken so far; 0 where it has had none."""
        cost = next((self._costs[i] for i, s in enumerate(self.stages) if s is stage), None)
        return cost.seconds / cost.attempted if cost is not None and cost.attempted else 0.0

    def alone(self, query: Query, bounds: Bounds, behind: Sequence[Stage]) -> list[bool]:
        """For which examples of a query the stage in hand may take all the time that is left.

        Those that none of the stages behind it is expected to decide where branch and bound does not. In an order that
        was given, only the last stage.

        Args:
            bounds: that are known in the stage's precision. behind: the stages that come after it.
        """
        if not behind or not self.adapts:
            return [not behind] * query.batch
        hope = torch.zeros(query.batch, dtype=torch.bool)
        for stage in behind:
            if not hope.all() and query.semantics in stage.semantics and stage.supports(query):
                hope |= stage.hopes(query, bounds)
        return (~hope).tolist()

    def record(self, costs: Sequence[StageCost]) -> None:
        """Learn from one run; costs as the run lists them, with stages of this ladder."""
        with self._lock:
            for cost in costs:
                i = next(i for i, s in enumerate(self.stages) if s.name == cost.name)
                old = self._costs[i]
                self._costs[i] = StageCost(
                    cost.name, old.decided + cost.decided, old.attempted + cost.attempted, old.seconds + cost.seconds
                )
            if self.adapts:
                self._judge()

    def _places(self) -> list[int]:
        return [i for i in range(len(self.stages)) if i not in self._back] + self._back

    def _judge(self) -> None:
        """Move back the first stage that costs more than it saves."""
        places = [i for i in self._places() if i not in self._back]
        total = sum(c.seconds for c in self._costs.values())
        for at, i in enumerate(places[:-1]):
            cost, behind = self._costs[i], [self._costs[k] for k in places[at + 1 :]]
            passed = cost.attempted - cost.decided
            if self.stages[i].trust is None or cost.attempted < PATIENCE or passed == 0:
                continue  # what looks for counterexamples stays: an example that it decides is not like the others
            if cost.seconds < NEGLIGIBLE * total:
                continue
            saved = cost.decided * sum(c.seconds for c in behind) / passed
            if saved < cost.seconds and any(c.decided for c in behind):
                self._back.append(i)
                return
