"""The protocol of a stage, and the register of stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from verifier.bounds import Bounds
from verifier.budget import Budget
from verifier.evidence import NO_EVIDENCE, Evidence, NeuronEvidence
from verifier.query import Query
from verifier.registry import Registry
from verifier.verdict import Semantics, Trust

#: makers of the stages that a user can name; each is named as the stage that it makes
REGISTRY: Registry[Callable[[], Stage]] = Registry(
    "stage", "verifier.stages", "verifier.stages",
    named=lambda make: make().name, aliased=lambda make: make().aliases,
)  # fmt: skip
register = REGISTRY.register


@dataclass(frozen=True)
class StageReport:
    """What one stage found for the B examples of a query.

    Nothing in here is a verdict: the cascade draws those from lower bounds above zero and from replayed candidates.
    """

    lower: Tensor | None = None  # [B, S] proven lower bounds of the specification's rows; -inf where none
    bounds: Bounds = field(default_factory=Bounds)  #: of pre-activations: those that `lower` rests on
    candidates: Tensor | None = None  # [B, *input] possible counterexamples, to be replayed
    trust: Trust = Trust.PROBABILISTIC  #: of `lower`, given the bounds
    evidence: Evidence = NO_EVIDENCE  #: what proves `lower` and `clauses` from the bounds
    #: [B, C] proven lower bounds of the largest row of each clause, which row it is differing from point to point;
    #: -inf where none
    clauses: Tensor | None = None
    #: what proves those of `bounds` that no rule does, from those of earlier nodes; for certificates
    neurons: Sequence[NeuronEvidence] = ()
    #: per example, what it took of its own; None: all took their share of the stage's time
    seconds: Sequence[float] | None = None
    exhausted: bool = False  #: the budget ended before the stage did
    starved: bool = False  #: there was not enough memory for it
    #: [B] float64, of stages that split: which share of an example's search is closed, the two sides of a split being
    #: half of it each; says how far a stage got and decides nothing
    closed: Tensor | None = None

    def on(self, device: torch.device) -> StageReport:
        """The same with its tensors on another device: of stages that work on the CPU whatever the query is on.

        Evidence that is no tensor of the batch's stays where it is.
        """

        def moved(tensor: Tensor | None) -> Tensor | None:  # [B, ...]
            return None if tensor is None else tensor.to(device)

        return replace(
            self, lower=moved(self.lower), bounds=self.bounds.on(device), candidates=moved(self.candidates),
            clauses=moved(self.clauses), evidence=self.evidence.on(device), closed=moved(self.closed),
        )  # fmt: skip


class Stage(ABC):
    """One way to bound or to attack. Stateless: nothing is written to the model, the graph or the query."""

    name: ClassVar[str]
    #: other names by which users may ask for it, the field's above all; records always have `name`. Not inherited
    aliases: ClassVar[tuple[str, ...]] = ()
    #: position in the default order; cheaper first
    cost_rank: ClassVar[int]
    #: the precision that the stage wants the graph in; None: whatever the user chose
    precision: ClassVar[torch.dtype | None] = None
    #: the most that its proofs can be trusted; None: it proves nothing, it looks for counterexamples
    trust: ClassVar[Trust | None] = Trust.FLOAT
    #: what it can say anything about; the cascade asks it about nothing else
    semantics: ClassVar[frozenset[Semantics]] = frozenset({Semantics.REAL})
    #: it works on one example after another, or might as well: where there are several processes, each may have its own
    by_example: ClassVar[bool] = False
    #: in the ladder of those who name no stages
    default: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.aliases = cls.__dict__.get("aliases", ())

    def summary(self) -> str:
        """What it does, in a line: the first sentence of its documentation."""
        return " ".join((self.__doc__ or "").split()).partition(". ")[0].rstrip(".")

    @abstractmethod
    def supports(self, query: Query) -> bool:
        """Whether `run` can say anything about this query.

        Asked before every run, with the examples and rows that are open then; must be cheap.
        """

    def hopes(self, query: Query, bounds: Bounds) -> Tensor:
        """Which examples it may decide although branch and bound on neurons, with all of their time, does not.

        By default all of them. Decides nothing but who has how much time; must be cheap.

        Args:
            query: that it supports. bounds: [B, *shape] each, perhaps not of every pre-activation.

        Returns:
            [B] bool, on the CPU.
        """
        return torch.ones(query.batch, dtype=torch.bool)

    @abstractmethod
    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        """Work on every example of the query, with the bounds known so far.

        Args:
            query: B examples on one graph, in the stage's `precision` and on the graph's device. Only rows that are
                `open` [B, S] need an answer.
            bounds: intervals of pre-activations, [B, *shape] each, that earlier stages proved in this precision;
                perhaps of no node at all. They may be used, and go into what the stage's own bounds rest on.
            budget: seconds; asked inside the stage's loops. A stage that runs out of them returns what it has, with
                `exhausted` set. Where it does not, its passes through the network are interrupted by `OutOfTime` a
                little later (verifier.budget), which it may catch to return what is finished; if nobody does, the
                cascade takes it that nothing was found.

        Returns:
            A `StageReport`. The cascade then

            - keeps `bounds` where they are tighter;
            - takes `lower` [B, S] as proofs of the rows above zero (beyond the rounding error, where `trust` is less
              than CHECKED), and `clauses` [B, C] of whole clauses, and keeps `evidence` for their certificates;
            - has `candidates` [B, *input] replayed in the original model: they decide nothing by themselves;
            - counts `seconds`, or equal shares of the whole, against each example's budget.

        Raises:
            InternalError: what it computes contradicts itself. Never for a query that it does `supports`.
        """


def canonical(stages: Sequence[str | Stage]) -> tuple[str | Stage, ...]:
    """The same stages, those that are named by their names proper: records have no others.

    Raises:
        ValueError: no such stage.
    """
    return tuple(REGISTRY.canonical(s) if isinstance(s, str) else s for s in stages)


def stage(name: str) -> Stage:
    """A stage by its name, or by one of its other names.

    Raises:
        ValueError: no such stage; the message lists those that exist.
    """
    return REGISTRY.named_part(name)()
