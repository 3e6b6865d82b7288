"""Evidence: what a stage gives with its bounds, so that something simpler can work them out again.

One class per kind of proof, in the room that makes it. Whoever asks - a certificate, its file, a test - asks any of
them alike, and decides nothing by the name of a stage. A new kind of proof is one new class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.graph import Graph
from verifier.graph.canonical import Canonical
from verifier.query import Query

#: part of a certificate's file: JSON values, with arrays in them
Record = dict[str, Any]


@dataclass(frozen=True)
class DualVariables:
    """Multipliers at one activation for every row of a proof: Wong & Kolter (2018), eq. 6-7, with the sign changed."""

    nu_hat: Tensor  # [rows, *shape]: coefficients on the activation's output
    nu: Tensor  # [rows, *shape]: coefficients on its input


@dataclass(frozen=True)
class RecordRequest:
    """What a certificate asks of the evidence of one example: the proof of some clauses, in the certificate's terms."""

    canonical: Canonical  #: how the certificate numbers the network's nodes
    query: Query  #: the example alone, on the graph in float64
    bounds: Bounds  #: of pre-activations, as the evidence rests on them; a batch of 1 in float64
    clauses: Sequence[int]  #: what is to be proved
    rows: np.ndarray  # [r] int64: rows that prove these clauses, where each is proved by one row
    code: type[np.generic]  #: the type that slopes are written in

    @property
    def graph(self) -> Graph:
        return self.query.graph


class Evidence(ABC):
    """What proves the lower bounds of a batch of B examples, given bounds of their pre-activations."""

    #: what it is, for people and for the files of runs
    kind: ClassVar[str]
    #: whether a certificate can hold it at all
    recordable: ClassVar[bool] = True
    #: whether it rests on bounds of pre-activations
    rests_on_bounds: ClassVar[bool] = True

    @property
    def rule(self) -> str | None:
        """The checker's rule ("interval", "fixed", "adaptive") by which alone the bounds of the rows follow, if any."""
        return None

    @abstractmethod
    def recompute(self, query: Query, bounds: Bounds) -> Tensor:
        """Lower bounds [B, S] of all rows in float64, worked out anew; -inf where the evidence proves nothing.

        Args:
            query: of the same examples, on the graph in float64. bounds: of every pre-activation, in float64.
        """

    def clauses(self, query: Query, bounds: Bounds) -> Tensor:
        """Lower bounds [B, C] of each clause's largest row, likewise. Default: by one row each."""
        return query.spec.per_clause(self.recompute(query, bounds))

    @abstractmethod
    def select(self, example: int) -> Self:
        """The evidence of one example, as of a batch of 1."""

    def on(self, device: torch.device) -> Self:
        """The same on another device, as far as it has tensors of the batch's."""
        return self

    def dual_variables(self, query: Query, bounds: Bounds) -> dict[int, DualVariables]:
        """nu-hat and nu of every activation, for all rows of one example. Arguments as of `recompute`, a batch of 1.

        Empty where the proof is not one dual solution per row: by intervals, by subdomains, by a solver.
        """
        return {}

    def proof(self, asked: RecordRequest) -> list[Record] | None:
        """What a certificate says of the clauses asked for, in several pieces perhaps, of which any one will do.

        For a batch of 1. None where this evidence has no record of them; the certificate then has rules alone to try.
        """
        return None


class NeuronEvidence(Protocol):
    """What proves bounds of neurons of one example that no rule does: a step of a certificate."""

    @property
    def example(self) -> int:
        """Of the stage's query."""

    @property
    def node(self) -> int:
        """The pre-activation that it is about."""

    @property
    def size(self) -> int:
        """Bytes of memory."""

    def of_example(self, example: int) -> NeuronEvidence:
        """The same, said of another place in a batch."""

    def step(self, canonical: Canonical, graph: Graph, bounds: Bounds, code: type[np.generic]) -> Record | None:
        """As a certificate has it; None where the certificate's network does not have the node.

        Args:
            bounds: of pre-activations, as the run ended with them: a batch of 1 in float64.
            code: the type that slopes are written in.
        """


class NoEvidence(Evidence):
    """A stage's bare word: it says what it is trusted, and nothing can be worked out again."""

    kind: ClassVar[str] = "none"
    rests_on_bounds: ClassVar[bool] = False

    def recompute(self, query: Query, bounds: Bounds) -> Tensor:  # [B, S]
        return torch.full_like(query.open, -torch.inf, dtype=torch.float64)

    def select(self, example: int) -> Self:
        return self


#: of reports that give none
NO_EVIDENCE = NoEvidence()


@dataclass(frozen=True)
class SolverEvidence(NoEvidence):
    """A solver's word, and what it was asked."""

    kind: ClassVar[str] = "solver"
    recordable: ClassVar[bool] = False

    solver: str  #: the backend
    asked: Mapping[str, str]  #: how the program was made
