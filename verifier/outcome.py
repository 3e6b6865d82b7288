"""What is known of a batch while a cascade works on it: a record per example, tables of rows and clauses, the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from properties import Specification
from verifier.certificate.certificate import SetCertificate
from verifier.certificate.proof import SetProofs, StageRun
from verifier.query import Query
from verifier.result import ExampleResult, Result
from verifier.stages import Stage
from verifier.verdict import Reason, StageCost, Trust, Verdict


@dataclass
class RowTable:
    """Every row of every example: its best lower bound, and what proved it. Tensors [B, S] on the CPU."""

    lower: Tensor  # float64: best lower bound
    above: Tensor  # float64: the same less the rounding error it has not paid; what is > 0 as judged is proved
    sound: Tensor  # float64: the best of these so far, whatever was proved by which
    error: Tensor  # float64: estimated rounding error of the latest lower bounds; 0 where nobody needs it
    trust: Tensor  # float64: of the bound behind `above`
    run: Tensor  # int64: index of the run that proved the row; -1 where none did

    @classmethod
    def unknown(cls, batch: int, rows: int) -> RowTable:
        nothing = torch.full((batch, rows), -torch.inf, dtype=torch.float64)
        zero = torch.zeros_like(nothing)
        return cls(nothing, nothing.clone(), nothing.clone(), zero, zero.clone(), torch.full(nothing.shape, -1))

    def margins(self, spec: Specification, examples: slice = slice(None)) -> Tensor:
        """What is reported of rows, [k, S]: bounds less what they had to pay for rounding.

        Of a proved row it is the bound that proved it, of the others the best one.

        Args:
            spec: of those examples.
        """
        above = self.above[examples]
        return torch.where(spec.judged(above) > 0, above, self.sound[examples])


@dataclass
class ClauseTable:
    """Every clause that was proved as a whole, on each part of a set by another row. Tensors [B, C] on the CPU."""

    trust: Tensor  # float64: of the proof
    run: Tensor  # int64: index of the run that proved it; -1 where none did

    @classmethod
    def unknown(cls, batch: int, clauses: int) -> ClauseTable:
        return cls(torch.zeros(batch, clauses, dtype=torch.float64), torch.full((batch, clauses), -1))


@dataclass
class BatchRun:
    """What one stage did, and for which examples of the batch."""

    run: StageRun
    examples: Tensor  # [k] int64, in increasing order
    stage: Stage

    def index(self, example: int) -> int | None:
        """The example's place in the run's batch; None where it was not in it."""
        place = int(torch.searchsorted(self.examples, example))
        return place if place < len(self.examples) and int(self.examples[place]) == example else None


@dataclass(frozen=True)
class StageStep:
    """How far a stage got with a batch."""

    name: str
    decided: int
    attempted: int
    seconds: float
    lowest: float  #: bound of the examples that are open after it, by all stages so far; above 0 is a proof
    closed: (
        float | None
    )  #: share of its search that is closed, on average of what is open; None where it splits nothing

    @property
    def open(self) -> int:
        return self.attempted - self.decided


class StageWatch(Protocol):
    """Is told of the stages of a cascade as they run."""

    def begins(self, stage: str) -> None: ...

    def ended(self, step: StageStep) -> None: ...


class RunWatch(StageWatch, Protocol):
    """Is told of a run as it goes: of its stages, and of its examples as soon as they are settled."""

    def settled(self, places: Sequence[int], result: Result) -> None:
        """Of some examples the answer is known: their places in the batch, and the result of them alone.

        Each is told of at most once; of those that are told of at no time the run's own result says the answer.
        """


@dataclass
class Outcome:
    """What a cascade found for B examples."""

    examples: list[ExampleResult]
    rows: RowTable
    clauses: ClauseTable
    dtype: torch.dtype  #: of bounds, where neither a stage nor a close call wants another
    runs: list[BatchRun] = field(default_factory=list)
    costs: list[StageCost] = field(default_factory=list)

    @classmethod
    def unknown(cls, query: Query) -> Outcome:
        b, rows = query.open.shape
        examples = [ExampleResult(reason=Reason.UNSUPPORTED) for _ in range(b)]
        tables = RowTable.unknown(b, rows), ClauseTable.unknown(b, query.spec.clauses)
        return cls(examples, *tables, query.graph.dtype)

    def open(self) -> Tensor:
        """Indices [k] int64 of the undecided examples."""
        left = [i for i, example in enumerate(self.examples) if example.verdict is Verdict.UNKNOWN]
        return torch.tensor(left, dtype=torch.int64)

    def seconds(self, which: Tensor) -> list[float]:
        """What the examples `which` [k] have taken of their own so far."""
        return [self.examples[i].seconds for i in which.tolist()]

    def certify(self, example: int, trust: Trust) -> SetCertificate:
        """The evidence that the runs so far have for one example."""
        index = [r.index(example) for r in self.runs]
        source, clauses = self.rows.run[example], self.clauses.run[example]
        found = SetProofs.of([r.run for r in self.runs], index, source, clauses, trust)
        lower = self.rows.margins(found.last.spec, slice(example, example + 1))[0]
        return SetCertificate(found, lower, trust)

    def reopen(self, example: int) -> None:
        """Forget what was proved of an example without error bounds: it did not hold with them."""
        loose = self.rows.trust[example] < Trust.CHECKED
        self.rows.above[example, loose], self.rows.run[example, loose] = -torch.inf, -1
        self.rows.sound[example, loose] = -torch.inf
        self.clauses.run[example, self.clauses.trust[example] < Trust.CHECKED] = -1
        self.examples[example].reason = Reason.NUMERICAL

    def open_rows(self, query: Query) -> Tensor:
        """Rows of clauses that nothing has proved yet: [B, S] bool, on the query's device."""
        proved = torch.where(query.spec.judged(self.rows.above) > 0, 1.0, -1.0)
        clauses = query.spec.per_clause(proved.to(query.open.device))
        whole = (self.clauses.run >= 0).to(query.open.device)
        return ((clauses < 0) & ~whole)[:, query.spec.clause]
