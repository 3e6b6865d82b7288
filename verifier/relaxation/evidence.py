"""Evidence by linear relaxations: intervals, slopes by a rule, multipliers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.evidence import DualVariables, Evidence, NoEvidence, Record, RecordRequest
from verifier.ops.base import Activation, Nonlinear, SlopeRule
from verifier.ops.product import Product
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.activations import activation_over, relaxed
from verifier.relaxation.backward import Lowering, OneSided, State, bound
from verifier.relaxation.dual import start_form
from verifier.relaxation.multipliers import as_slopes, multiplied
from verifier.relaxation.neuron_slopes import NeuronSlopes
from verifier.relaxation.products import plane_positions
from verifier.relaxation.recorded_slopes import RecordedSlopes
from verifier.relaxation.touching import touched


class IntervalEvidence(Evidence):
    """Interval arithmetic: nothing is kept but the bounds that it goes on from."""

    kind: ClassVar[str] = "intervals"

    @property
    def rule(self) -> str:
        return "interval"

    def recompute(self, query: Query, bounds: Bounds) -> Tensor:  # [B, S]
        with torch.no_grad():
            ranges = interval.resumed(query, bounds)
            return touched(query, interval.specification_bound(query, ranges), ranges[query.graph.output])

    def select(self, example: int) -> Self:
        return self

    def proof(self, asked: RecordRequest) -> list[Record] | None:
        return [{"rule": self.rule, "rows": asked.rows}]


class BackwardEvidence(Evidence):
    """One dual solution per row: a backward pass with relaxations that are kept, or follow from the bounds.

    nu-hat comes by adjoints from the specification's rows, and nu from nu-hat by what `lowering` says.
    """

    @abstractmethod
    def lowering(self, op: Nonlinear, lower: Tensor, upper: Tensor, node: int) -> Lowering:
        """What bounds an activation from below in the pass: over [lower, upper] ([B, *shape]), at its node."""

    def recompute(self, query: Query, bounds: Bounds) -> Tensor:  # [B, S]
        return self._backward(query, bounds)[0]

    def dual_variables(self, query: Query, bounds: Bounds) -> dict[int, DualVariables]:
        return self._backward(query, bounds)[1]

    def _backward(self, query: Query, bounds: Bounds) -> tuple[Tensor, dict[int, DualVariables]]:
        """Pull the specification's rows back to the input, noting the forms around each activation.

        Returns:
            Bounds [B, S] of the rows, and the dual variables of a batch of 1.
        """
        graph, found = query.graph, {}

        def note(node: int, after: State, before: State) -> None:
            forms = (after.one_sided().form.dense()[0], before.one_sided().form.dense()[0])
            found[node] = DualVariables(*forms)

        rows = query.spec.rows
        with torch.no_grad():
            start = OneSided(start_form(graph, rows))
            lowerings = {}
            for node in graph.activations:
                lowerings[node] = self.lowering(*activation_over(graph, bounds, node), node)
            values = bound(graph, query.inputs, lowerings, graph.output, start, rows, note)
        return values + query.spec.offset, found

    def proof(self, asked: RecordRequest) -> list[Record] | None:
        return _slope_records(asked, [(self._slopes(asked), np.arange(asked.query.spec.rows.shape[1]))])

    def _planes(self, asked: RecordRequest, node: int, dual: DualVariables) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """The t of a product's planes, as `_slopes` has slopes; none where the checker's rule has the same ones."""
        return {}

    def _slopes(self, asked: RecordRequest) -> RecordedSlopes:
        """The slopes that the dual variables of the rows amount to, at the unstable neurons."""
        at: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for node, dual in self.dual_variables(asked.query, asked.bounds).items():
            op, known = asked.graph.nodes[node].op, asked.bounds[asked.graph.nodes[node].parents[0]]
            if not isinstance(op, Activation):  # planes by the rule, or those of `_planes`
                at |= self._planes(asked, node, dual)
                continue
            free = op.unstable(known.lower[0], known.upper[0]).flatten().nonzero().squeeze(1)
            nu_hat, nu = (t.flatten(1)[:, free].double() for t in (dual.nu_hat, dual.nu))
            at[asked.canonical.activations[node]] = free.cpu().numpy(), as_slopes(nu_hat, nu).cpu().numpy()
        return RecordedSlopes(at)


@dataclass(frozen=True)
class SlopeRuleEvidence(BackwardEvidence):
    """Slopes that follow from the bounds by a rule: Fast-Lin (Wong & Kolter 2018) or CROWN (Zhang et al. 2018)."""

    kind: ClassVar[str] = "slope rule"
    slopes: SlopeRule

    @property
    def rule(self) -> str:
        return self.slopes.value

    def lowering(self, op: Nonlinear, lower: Tensor, upper: Tensor, node: int) -> Lowering:  # [B, *shape]
        return relaxed(op, lower, upper, self.slopes)

    def select(self, example: int) -> Self:
        return self


@dataclass(frozen=True)
class MultiplierEvidence(BackwardEvidence):
    """Multipliers at every activation, any values: of optimised slopes, of a linear program, of learned zonotopes."""

    kind: ClassVar[str] = "multipliers"
    #: activation node -> [B, S, *shape] (verifier.relaxation.multipliers)
    multipliers: Mapping[int, Tensor] = field(repr=False)
    #: slopes of rows that were found with the multipliers, which certificates hold as they are
    rows: Sequence[NeuronSlopes] = field(default=(), repr=False)

    def lowering(self, op: Nonlinear, lower: Tensor, upper: Tensor, node: int) -> Lowering:  # [B, *shape]
        return multiplied(op, lower, upper, self.multipliers[node].to(lower))

    def _planes(self, asked: RecordRequest, node: int, dual: DualVariables) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        (op, lower, upper), nu = activation_over(asked.graph, asked.bounds, node), self.multipliers[node][0]
        assert isinstance(op, Product)
        t = plane_positions(op, lower, upper, dual.nu_hat, nu)
        return {asked.canonical.activations[node]: (np.arange(t.shape[1]), t.cpu().numpy())}

    def select(self, example: int) -> MultiplierEvidence:
        one = {i: nu[example : example + 1] for i, nu in self.multipliers.items()}
        return MultiplierEvidence(one, _of(self.rows, example))

    def on(self, device: torch.device) -> MultiplierEvidence:
        return MultiplierEvidence({i: nu.to(device) for i, nu in self.multipliers.items()}, self.rows)

    def proof(self, asked: RecordRequest) -> list[Record] | None:
        kept = [(line.placed(asked.canonical), line.neuron.numpy()) for line in self.rows]
        every = np.arange(asked.query.spec.rows.shape[1])
        return _slope_records(asked, [*kept, (self._slopes(asked), every)])


@dataclass(frozen=True)
class OwnSlopesEvidence(NoEvidence):
    """Slopes of rows over smooth activations, whose lines no multipliers stand for: only the checker works them out."""

    kind: ClassVar[str] = "slopes"
    rows: Sequence[NeuronSlopes] = field(default=(), repr=False)

    def select(self, example: int) -> OwnSlopesEvidence:
        return OwnSlopesEvidence(_of(self.rows, example))

    def proof(self, asked: RecordRequest) -> list[Record] | None:
        kept = ((line.placed(asked.canonical), line.neuron.numpy()) for line in self.rows)
        return _slope_records(asked, kept)


def _of(rows: Sequence[NeuronSlopes], example: int) -> tuple[NeuronSlopes, ...]:
    return tuple(line.of_example(0) for line in rows if line.example == example)


def _slope_records(
    asked: RecordRequest,
    found: Iterable[tuple[RecordedSlopes, np.ndarray]],
) -> list[Record] | None:
    """The records of those slopes that are about all rows asked for; each comes with the numbers of its rows."""
    records = []
    for slopes, known in found:
        place = {int(row): k for k, row in enumerate(known)}
        if all(int(row) in place for row in asked.rows):
            chosen = slopes.select(np.array([place[int(row)] for row in asked.rows]))
            records.append({"slopes": chosen.coded(asked.canonical.network, asked.code), "rows": asked.rows})
    return records or None
