"""The evidence of a VERIFIED, as `verify` returns it: what it proves again, and the file that it makes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from properties import InputSet, Specification
from verifier.bound_map import Bounds
from verifier.certificate.build import CertificateBuilder
from verifier.certificate.files import write_document
from verifier.certificate.proof import ExampleProof, SetProofs, StageRun
from verifier.checker.check import Check, check
from verifier.checker.document import Document
from verifier.evidence import DualVariables
from verifier.graph import Graph
from verifier.graph.canonical import canonical
from verifier.verdict import Trust


class Certificate(ABC):
    """Evidence for one example. Which kind there is says what it is about: one set, a union of sets, a cascade."""

    trust: Trust  #: the least of what it rests on
    lower: Tensor  # [S] float64: best lower bound found of every row of the specification

    @property
    @abstractmethod
    def sets(self) -> tuple[SetProofs, ...]:
        """What was proved, set by set."""

    @property
    @abstractmethod
    def inputs(self) -> InputSet:
        """The input set, a batch of 1."""

    @abstractmethod
    def recompute(self, graph: Graph | None = None) -> Tensor:
        """The proved rows' lower bounds [S] again, in float64, each from its own proof; -inf for the other rows.

        Args:
            graph: the network as imported again, to check this against; default the one that was verified.

        Raises:
            InputError: the graph is not the one that the certificate is about.
        """

    @abstractmethod
    def recompute_clauses(self, graph: Graph | None = None) -> Tensor:
        """Lower bounds [C] of the clauses' largest rows again, in float64, from the proofs of rows and of clauses.

        Args, Raises: as of `recompute`.
        """

    @property
    def proofs(self) -> tuple[ExampleProof, ...]:
        """The proofs of all sets, in their order."""
        return tuple(proof for part in self.sets for proof in part.proofs)

    @property
    def stage(self) -> str:
        """The stage that decided."""
        return self.sets[-1].last.stage

    @property
    def spec(self) -> Specification:
        """The specification, a batch of 1."""
        return self.sets[-1].last.spec

    def document(
        self, graph: Graph | None = None, semantics: str | None = None, about: Mapping[str, Any] | None = None
    ) -> Document:
        """The certificate as its file has it, accepted by the checker. What was made with no arguments is kept.

        Args:
            graph: as of `recompute`.
            semantics: "real", or "float32" for the network in float32 arithmetic; default what was verified.
            about: free information for the file's head, JSON values.

        Raises:
            CertificateError: the evidence does not make a certificate that holds in rigorous arithmetic.
        """
        if graph is None and semantics is None and about is None:
            return self._document
        last = self.sets[-1].last
        builder = CertificateBuilder(last.graph(graph), semantics or last.run.query.semantics.value)
        return self.built_by(builder, about)

    def built_by(self, builder: CertificateBuilder, about: Mapping[str, Any] | None = None) -> Document:
        """As `document`, by a builder that is there already: it does what it can of the network once for many."""
        return builder.build(self.sets, about, known=self.known_document)

    @property
    def known_document(self) -> Document | None:
        """What the checker accepted already, when the example was verified."""
        return None

    @cached_property
    def _document(self) -> Document:
        return self.document(about={})

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write it to a file that `verifier check` reads; returns how many bytes. Raises as `document`."""
        return write_document(self.document(), path)

    def check(self, graph: Graph | None = None) -> Check:
        """What the checker says of it, for the network as it is now. Raises as `document`."""
        return check(canonical(self.sets[-1].last.graph(graph)).network, self.document())


@dataclass(frozen=True)
class SetCertificate(Certificate):
    """Evidence for one example of one network over one input set."""

    evidence: SetProofs
    lower: Tensor = field(repr=False)  # [S] float64
    trust: Trust
    built: Document | None = field(default=None, repr=False, compare=False)

    @property
    def sets(self) -> tuple[SetProofs, ...]:
        return (self.evidence,)

    @property
    def known_document(self) -> Document | None:
        return self.built

    @property
    def helpers(self) -> tuple[tuple[StageRun, int], ...]:
        """Runs that proved bounds of neurons, with the example's index in each."""
        return self.evidence.helpers

    @property
    def inputs(self) -> InputSet:
        return self.evidence.last.inputs

    @property
    def bounds(self) -> Bounds:
        """Of the deciding proof: intervals of every pre-activation with their provenance, a batch of 1."""
        return self.evidence.last.bounds

    def slopes(self, graph: Graph | None = None) -> dict[int, Tensor]:
        """Of the deciding proof: the lower-line slope of every activation node, [*shape]."""
        return self.evidence.last.slopes(graph)

    def dual_variables(self, graph: Graph | None = None) -> dict[int, DualVariables]:
        """Of the deciding proof: nu-hat and nu of every activation node."""
        return self.evidence.last.dual_variables(graph)

    def recompute(self, graph: Graph | None = None) -> Tensor:  # [S]
        lower = torch.full(self.lower.shape, -torch.inf, dtype=torch.float64)
        for proof in self.evidence.proofs:
            lower[proof.rows] = proof.recompute(graph).cpu()[proof.rows]
        return lower

    def recompute_clauses(self, graph: Graph | None = None) -> Tensor:  # [C]
        lower = self.spec.per_clause(self.recompute(graph).to(self.spec.rows.device).unsqueeze(0))[0].cpu()
        for proof in self.evidence.proofs:
            if len(proof.clauses):
                again = proof.recompute_clauses(graph).cpu()
                lower[proof.clauses] = torch.maximum(lower[proof.clauses], again[proof.clauses])
        return lower
