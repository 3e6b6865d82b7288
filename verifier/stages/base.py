"""The protocol of a stage, and the register of stages."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from verifier.bounds import Bounds
from verifier.query import Query
from verifier.result import Trust

#: factories of the stages that a user can name
REGISTRY: dict[str, Callable[[], Stage]] = {}


class Budget:
    """Seconds that may still be spent; `None` means without end. Starts when made.

    Args:
        seconds: for everything. per_example: for each single example of a query, [B] or one number for all.
    """

    def __init__(self, seconds: float | None = None, per_example: Sequence[float] | float | None = None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._per_example = per_example

    @property
    def left(self) -> float:
        return float("inf") if self._end is None else self._end - time.monotonic()

    @property
    def spent(self) -> bool:
        return self.left <= 0

    def example(self, index: int) -> float:
        """Seconds that example `index` of the query may still take, whatever is left in all."""
        if self._per_example is None:
            return self.left
        own = self._per_example
        return min(self.left, own if isinstance(own, (int, float)) else own[index])


@dataclass(frozen=True)
class StageReport:
    """What one stage found for the B examples of a query.

    Nothing in here is a verdict: the cascade draws those from lower bounds above zero and from replayed candidates.
    """

    lower: Tensor | None = None  # [B, S] proven lower bounds of the specification's rows; -inf where none
    bounds: Bounds = field(default_factory=Bounds)  #: of pre-activations: those that `lower` rests on
    candidates: Tensor | None = None  # [B, *input] possible counterexamples, to be replayed
    trust: Trust = Trust.PROBABILISTIC  #: of `lower`, given the bounds
    evidence: dict[str, str] = field(default_factory=dict)  #: how to recompute `lower` from the bounds
    #: activation node -> [B, S, *shape]: multipliers that prove `lower` from the bounds (verifier.stages.multipliers)
    multipliers: Mapping[int, Tensor] | None = None
    exhausted: bool = False  #: the budget ended before the stage did


class Stage(ABC):
    """One way to bound or to attack. Stateless: nothing is written to the model, the graph or the query."""

    name: ClassVar[str]
    #: position in the default order; cheaper first
    cost_rank: ClassVar[int]

    @abstractmethod
    def supports(self, query: Query) -> bool:
        """Whether `run` can say anything about this query."""

    @abstractmethod
    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        """Work on every example of the query, with the bounds known so far."""


def register(factory: Callable[[], Stage], name: str) -> None:
    """Make a stage known by name."""
    REGISTRY[name] = factory


def stage(name: str) -> Stage:
    """The stage of that name.

    Raises:
        ValueError: no such stage; the message lists those that exist.
    """
    if name not in REGISTRY:
        raise ValueError(f"no stage is called {name!r}; there are: {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]()
