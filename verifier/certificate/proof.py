"""What a run keeps of what its stages proved, and what of it is about one example and one input set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from properties import InputSet, Specification
from verifier.bound_map import Bounds
from verifier.errors import InputError, InternalError
from verifier.evidence import DualVariables, Evidence, NeuronEvidence
from verifier.graph import Graph
from verifier.ops.base import Nonlinear, SlopeRule
from verifier.query import Query
from verifier.verdict import Trust


@dataclass(frozen=True)
class StageRun:
    """What one stage did for a batch: what it was asked, the bounds it ended with, and how it got its margins.

    One example's part is cut out when somebody asks for it: most certificates of a large run are never looked at.
    """

    stage: str
    evidence: Evidence = field(repr=False)
    query: Query = field(repr=False)
    bounds: Bounds = field(repr=False)
    graph: Graph = field(repr=False)  #: of the network, with its own weights
    model: str  #: digest of that graph when the run was made
    neurons: Sequence[NeuronEvidence] = field(default=(), repr=False)  #: as in StageReport


@dataclass(frozen=True)
class ExampleProof:
    """What one stage proved of one example.

    The intermediate bounds with the evidence - a rule for the free slopes, multipliers, trees - determine the whole
    dual network: nu = slope * nu-hat, and nu-hat by adjoints from the specification's rows. The word of a solver (trust
    SOLVER) has nothing that could be recomputed, nor have, in this version, the optimised lines of smooth activations.
    """

    run: StageRun
    index: int  #: of the example in the run's batch
    rows: Tensor = field(repr=False)  # [r] int64: the rows of the specification that it proved
    clauses: Tensor = field(repr=False)  # [c] int64: the clauses that it proved by no row alone

    @property
    def stage(self) -> str:
        return self.run.stage

    @cached_property
    def evidence(self) -> Evidence:
        """Of this example alone, as of a batch of 1."""
        return self.run.evidence.select(self.index)

    @property
    def _one(self) -> Tensor:  # [1] int64
        return torch.tensor([self.index], device=self.run.query.open.device)

    @cached_property
    def bounds(self) -> Bounds:
        """Intervals of every pre-activation with their provenance, a batch of 1."""
        return self.run.bounds.select(self._one)

    @cached_property
    def inputs(self) -> InputSet:
        """The input set, a batch of 1."""
        return self.run.query.inputs.select(self._one)

    @cached_property
    def spec(self) -> Specification:
        """The specification, a batch of 1."""
        return self.run.query.spec.select(self._one)

    def graph(self, given: Graph | None = None) -> Graph:
        """The network that this is about: `given`, or the one kept here, if it is still that network.

        Raises:
            InputError: another network, or its weights have changed since.
        """
        graph = self.run.graph if given is None else given
        if not isinstance(graph, Graph):
            kind = type(graph).__name__
            raise InputError(f"a graph is needed, not a {kind}: give import_torch(model, example), or nothing")
        if graph.digest() != self.run.model:
            raise InputError(
                "the certificate is about another network, or its weights have changed since: "
                f"its digest is {self.run.model[:16]}..., the network's {graph.digest()[:16]}..."
            )
        return graph

    def slopes(self, graph: Graph | None = None) -> dict[int, Tensor]:
        """Lower-line slope of every activation node, [*shape]: the alpha of Wong & Kolter (2018), eq. 7.

        Of products [2, M].

        Those of the fixed rule where the proof is of another kind: each row or subdomain then has its own.
        """
        graph, lines = self.graph(graph), {}
        self._check_bounds(graph)
        known = {rule.value: rule for rule in SlopeRule}
        rule = known.get(self.evidence.rule or "", SlopeRule.FIXED)
        for node in graph.activations:
            op, interval = graph.nodes[node].op, self.bounds[graph.nodes[node].parents[0]]
            assert isinstance(op, Nonlinear)
            lines[node] = op.relax(interval.lower, interval.upper, rule).lower_slope[0]
        return lines

    def recompute(self, graph: Graph | None = None) -> Tensor:
        """Lower bounds [S] of all rows in float64, from what is kept here alone; -inf where that proves nothing."""
        return self.evidence.recompute(*self.asked(graph))[0]

    def recompute_clauses(self, graph: Graph | None = None) -> Tensor:
        """Lower bounds [C] of every clause's largest row in float64, from what is kept here alone."""
        return self.evidence.clauses(*self.asked(graph))[0]

    def dual_variables(self, graph: Graph | None = None) -> dict[int, DualVariables]:
        """nu-hat and nu of every activation, for all rows of the specification.

        Empty for a proof that is not one dual solution per row: by intervals, by subdomains, by a solver.
        """
        return self.evidence.dual_variables(*self.asked(graph))

    def asked(self, graph: Graph | None = None) -> tuple[Query, Bounds]:
        """The example alone, on a float64 copy of the graph, and the bounds that its evidence rests on.

        Raises: as of `graph`; InputError as well where bounds are missing.
        """
        graph = self.graph(graph).to(self.run.query.open.device, torch.float64)
        if self.evidence.rests_on_bounds:
            self._check_bounds(graph)
        return Query.of(graph, self.inputs, self.spec), self.bounds.to(torch.float64)

    def _check_bounds(self, graph: Graph) -> None:
        missing = set(graph.pre_activations) - set(self.bounds)
        if missing:
            raise InputError(f"stage {self.stage!r} left no bounds of nodes {sorted(missing)} to recompute from")


@dataclass(frozen=True)
class SetProofs:
    """Proofs that together cover every clause of the specification of one example, on one input set."""

    proofs: tuple[ExampleProof, ...]  #: in the order they were found, at least one; the last one decided
    trust: Trust  #: the least that they rest on
    #: runs that proved bounds of neurons by slopes or trees of their own, with the example's index in each
    helpers: tuple[tuple[StageRun, int], ...] = field(default=(), repr=False)

    @classmethod
    def of(
        cls, runs: Sequence[StageRun], index: Sequence[int | None], source: Tensor, clauses: Tensor, trust: Trust
    ) -> SetProofs:
        """From the runs of a cascade.

        Args:
            index: of the example in each run's batch; None where it was not in it.
            source: [S] int64, which run proved each row; -1 for rows that none did.
            clauses: [C] int64, which run proved each clause as a whole; -1 for those that none did.

        Raises:
            InternalError: a run is to have proved something of an example that was not in it.
        """
        proofs = []
        for r in sorted({*source.tolist(), *clauses.tolist()} - {-1}):
            at = index[r]
            if at is None:
                raise InternalError(f"stage {runs[r].stage!r} proved something of an example that it was not given")
            rows, whole = ((of == r).nonzero().squeeze(1) for of in (source, clauses))
            proofs.append(ExampleProof(runs[r], at, rows, whole))
        helpers = tuple((run, i) for run, i in zip(runs, index, strict=True) if run.neurons and i is not None)
        return cls(tuple(proofs), trust, helpers)

    @property
    def last(self) -> ExampleProof:
        """The proof that decided."""
        return self.proofs[-1]
