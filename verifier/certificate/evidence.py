"""The evidence of a VERIFIED: what was bounded, by which rule, and the slopes that prove the margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from properties import InputSet, Specification
from verifier.bounds import Bounds
from verifier.errors import InputError
from verifier.evidence import Witness
from verifier.graph import Graph
from verifier.ops.base import Activation, SlopeRule
from verifier.query import Query
from verifier.verdict import Trust

if TYPE_CHECKING:
    import os

    from verifier.branching.inputs_tree import BoxTree
    from verifier.branching.tree import SplitTree
    from verifier.checker.check import Check
    from verifier.checker.document import Document
    from verifier.relaxation.backward import Lowering
    from verifier.relaxation.neuron_slopes import NeuronSlopes


@dataclass(frozen=True)
class StageRun:
    """What one stage did for a batch: what it was asked, the bounds it ended with, and how it got its margins.

    One example's part is cut out when somebody asks for it: most certificates of a large run are never looked at.
    """

    stage: str
    evidence: Mapping[str, str]  #: rule and slope rule
    query: Query = field(repr=False)
    bounds: Bounds = field(repr=False)
    graph: Graph = field(repr=False)  #: of the network, with its own weights
    model: str  #: digest of that graph when the run was made
    multipliers: Mapping[int, Tensor] | None = field(default=None, repr=False)  #: as in StageReport
    trees: Sequence[SplitTree | None] | None = field(default=None, repr=False)  #: as in StageReport
    witness: Witness | None = field(default=None, repr=False)  #: as in StageReport
    boxes: Sequence[BoxTree | None] | None = field(default=None, repr=False)  #: as in StageReport
    lines: Sequence[NeuronSlopes] = field(default=(), repr=False)  #: as in StageReport


@dataclass(frozen=True)
class DualVariables:
    """Multipliers at one activation for every row of a proof: Wong & Kolter (2018), eq. 6-7, with the sign changed."""

    nu_hat: Tensor  # [rows, *shape]: coefficients on the activation's output
    nu: Tensor  # [rows, *shape]: coefficients on its input


@dataclass(frozen=True)
class ExampleProof:
    """What one stage proved of one example.

    The intermediate bounds with the rule of the free slopes, or with the multipliers that are kept here, determine the
    whole dual network: nu = slope * nu-hat, and nu-hat by adjoints from the specification's rows. A proof by cases has
    a tree, with multipliers at each leaf. The word of a solver (trust SOLVER) has nothing that could be recomputed, nor
    have, in this version, the optimised lines of smooth activations.
    """

    run: StageRun
    index: int  #: of the example in the run's batch
    rows: Tensor = field(repr=False)  # [r] int64: the rows of the specification that it proved
    clauses: Tensor = field(repr=False)  # [c] int64: the clauses that it proved by no row alone

    @property
    def stage(self) -> str:
        return self.run.stage

    @property
    def _one(self) -> Tensor:
        return torch.tensor([self.index], device=self.run.query.open.device)

    @property
    def tree(self) -> SplitTree | None:
        """The proof by cases, where it is one."""
        return None if self.run.trees is None else self.run.trees[self.index]

    @property
    def boxes(self) -> BoxTree | None:
        """The proof by cases on the input, where it is one."""
        return None if self.run.boxes is None else self.run.boxes[self.index]

    @property
    def _rule(self) -> SlopeRule | None:
        """How slopes follow from the bounds; None where they do not."""
        known = {rule.value: rule for rule in SlopeRule}
        return known.get(self.run.evidence.get("slopes", ""))

    @property
    def _by_lines(self) -> bool:
        return self.run.multipliers is not None or self._rule is not None

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

        Those of the fixed rule where the proof is of another kind: each row or case then has its own.
        """
        graph, lines = self.graph(graph), {}
        self._check_bounds(graph)
        for node in graph.activations:
            op, interval = graph.nodes[node].op, self.bounds[graph.nodes[node].parents[0]]
            assert isinstance(op, Activation)
            lines[node] = op.relax(interval.lower, interval.upper, self._rule or SlopeRule.FIXED).lower_slope[0]
        return lines

    def recompute(self, graph: Graph | None = None) -> Tensor:
        """Lower bounds [S] of all rows in float64, from what is kept here alone; -inf where that proves nothing."""
        from verifier.relaxation import interval

        query, bounds = self._query(graph)
        with torch.no_grad():
            if self.run.evidence.get("rule") == "interval":
                return interval.specification_bound(query, interval.resumed(query, bounds))[0]
            if self.run.witness is not None:
                return self.run.witness.again(query)[0]
            if self.boxes is not None or self.tree is not None:
                clauses = self.recompute_clauses(graph).to(query.open.device)
                return query.spec.alone(clauses.unsqueeze(0))[0]
            if not self._by_lines:
                return torch.full_like(query.open[0], -torch.inf, dtype=torch.float64)
        return self._pull_back(query, bounds)[0]

    def recompute_clauses(self, graph: Graph | None = None) -> Tensor:
        """Lower bounds [C] of every clause's largest row in float64, from what is kept here alone."""
        if self.boxes is None and self.tree is None:
            return self.spec.per_clause(self.recompute(graph).unsqueeze(0))[0]
        query, bounds = self._query(graph)
        with torch.no_grad():
            if self.boxes is not None:
                return self.boxes.recompute(query, bounds)
            assert self.tree is not None
            values = [self.tree.recompute(query, bounds, clause) for clause in range(query.spec.clauses)]
            return torch.tensor(values, dtype=torch.float64)

    def dual_variables(self, graph: Graph | None = None) -> dict[int, DualVariables]:
        """nu-hat and nu of every activation, for all rows of the specification.

        Empty for a proof that is not one dual solution per row: by intervals, by cases (see `tree`), by a solver.
        """
        return self._pull_back(*self._query(graph))[1] if self._by_lines else {}

    def _query(self, graph: Graph | None) -> tuple[Query, Bounds]:
        """The example alone, on a float64 copy of the graph."""
        graph = self.graph(graph).to(self.run.query.open.device, torch.float64)
        if self.run.witness is None:
            self._check_bounds(graph)
        return Query.of(graph, self.inputs, self.spec), self.bounds.to(torch.float64)

    def _check_bounds(self, graph: Graph) -> None:
        missing = set(graph.pre_activations) - set(self.bounds)
        if missing:
            raise InputError(f"stage {self.stage!r} left no bounds of nodes {sorted(missing)} to recompute from")

    def _pull_back(self, query: Query, bounds: Bounds) -> tuple[Tensor, dict[int, DualVariables]]:
        """Pull the specification's rows back to the input, noting the forms around each activation."""
        from verifier.relaxation.backward import OneSided, State, bound
        from verifier.relaxation.dual import start_form

        graph, found = query.graph, {}

        def note(node: int, after: State, before: State) -> None:
            forms = (after.one_sided().form.dense()[0], before.one_sided().form.dense()[0])
            found[node] = DualVariables(*forms)

        rows = query.spec.rows
        with torch.no_grad():
            start = OneSided(start_form(graph, rows))
            lowerings = {node: self._lowering(graph, bounds, node) for node in graph.activations}
            values = bound(graph, query.inputs, lowerings, graph.output, start, rows, note)
        return (values + query.spec.offset)[0], found

    def _lowering(self, graph: Graph, bounds: Bounds, node: int) -> Lowering:
        """What proves an activation: the multipliers that are kept, or the lines of the rule."""
        from verifier.relaxation.backward import Relaxation
        from verifier.relaxation.multipliers import Multipliers

        op, kept = graph.nodes[node].op, bounds[graph.nodes[node].parents[0]]
        assert isinstance(op, Activation)
        if self.run.multipliers is not None:
            nu = self.run.multipliers[node][self._one].to(kept.lower)
            return Multipliers.of(op, kept.lower, kept.upper, nu)
        assert self._rule is not None
        return Relaxation.of(op.relax(kept.lower, kept.upper, self._rule))


@dataclass(frozen=True)
class Certificate:
    """Evidence for one example: proofs that together cover every clause of its specification."""

    proofs: tuple[ExampleProof, ...]  #: in the order they were found; the last one decided
    lower: Tensor = field(repr=False)  # [S] float64: best lower bound found of every row of the specification
    trust: Trust
    #: runs that proved bounds of neurons by slopes of their own, with the example's index in each
    helpers: tuple[tuple[StageRun, int], ...] = field(default=(), repr=False)
    built: Document | None = field(default=None, repr=False, compare=False)  #: what the checker accepted already

    @classmethod
    def of(
        cls, runs: list[StageRun], index: list[int], source: Tensor, clauses: Tensor, lower: Tensor, trust: Trust
    ) -> Certificate:
        """From the runs of a cascade.

        Args:
            index: of the example in each run's batch.
            source: [S] int64, which run proved each row; -1 for rows that none did.
            clauses: [C] int64, which run proved each clause as a whole; -1 for those that none did.
        """
        used = sorted({*source.tolist(), *clauses.tolist()} - {-1})
        proofs = (
            ExampleProof(runs[r], index[r], (source == r).nonzero().squeeze(1), (clauses == r).nonzero().squeeze(1))
            for r in used
        )
        helpers = tuple((run, i) for run, i in zip(runs, index, strict=True) if run.lines)
        return cls(tuple(proofs), lower, trust, helpers)

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
        from verifier.certificate.build import build

        if graph is None and semantics is None and about is None:
            return self._document
        return build(self, graph, semantics, about)

    @cached_property
    def _document(self) -> Document:
        from verifier.certificate.build import build

        return build(self)

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write it to a file that `verifier check` reads; returns how many bytes. Raises as `document`."""
        from verifier.certificate.files import write_document

        return write_document(self.document(), path)

    def check(self, graph: Graph | None = None) -> Check:
        """What the checker says of it, for the network as it is now. Raises as `document`."""
        from verifier.certificate.canonical import canonical
        from verifier.checker.check import check

        return check(canonical(self.proofs[-1].graph(graph)).network, self.document())

    @property
    def stage(self) -> str:
        """The stage that decided."""
        return self.proofs[-1].stage

    @property
    def inputs(self) -> InputSet:
        return self.proofs[-1].inputs

    @property
    def spec(self) -> Specification:
        return self.proofs[-1].spec

    @property
    def bounds(self) -> Bounds:
        """Of the deciding proof: intervals of every pre-activation with their provenance, a batch of 1."""
        return self.proofs[-1].bounds

    def slopes(self, graph: Graph | None = None) -> dict[int, Tensor]:
        """Of the deciding proof: the lower-line slope of every activation node, [*shape]."""
        return self.proofs[-1].slopes(graph)

    def dual_variables(self, graph: Graph | None = None) -> dict[int, DualVariables]:
        """Of the deciding proof: nu-hat and nu of every activation node."""
        return self.proofs[-1].dual_variables(graph)

    def recompute(self, graph: Graph | None = None) -> Tensor:
        """The proved rows' lower bounds [S] again, in float64, each from its own proof; -inf for the other rows.

        Args:
            graph: the network as imported again, to check this against; default the one that was verified.

        Raises:
            InputError: the graph is not the one that the certificate is about.
        """
        lower = torch.full(self.lower.shape, -torch.inf, dtype=torch.float64)
        for proof in self.proofs:
            lower[proof.rows] = proof.recompute(graph).cpu()[proof.rows]
        return lower

    def recompute_clauses(self, graph: Graph | None = None) -> Tensor:
        """Lower bounds [C] of the clauses' largest rows again, in float64, from the proofs of rows and of clauses.

        Args, Raises: as of `recompute`.
        """
        lower = self.spec.per_clause(self.recompute(graph).to(self.spec.rows.device).unsqueeze(0))[0].cpu()
        for proof in self.proofs:
            if len(proof.clauses):
                again = proof.recompute_clauses(graph).cpu()
                lower[proof.clauses] = torch.maximum(lower[proof.clauses], again[proof.clauses])
        return lower
