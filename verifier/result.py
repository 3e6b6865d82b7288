"""What a verification run answers: verdicts, how far each is to be trusted, and the evidence."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from verifier.answers import Answer, table_of
from verifier.certificate.batch import Certificates
from verifier.certificate.certificate import Certificate
from verifier.tables import as_frame
from verifier.verdict import Outside, Reason, Semantics, StageCost, Trust, Verdict

if TYPE_CHECKING:
    import pandas


@dataclass
class ExampleResult:
    """What is known of one example. It starts as UNKNOWN, and leaves that with evidence alone."""

    verdict: Verdict = Verdict.UNKNOWN
    decided_by: str | None = None
    reason: Reason | None = None  #: why UNKNOWN
    trust: Trust | None = None  #: of a VERIFIED
    certificate: Certificate | None = None
    counterexample: Tensor | None = None  # [*input], in the input's dtype
    float32_agrees: bool | None = None  #: whether the model in its own precision is fooled as well
    attack_margin: float = float("inf")  #: the smallest margin that any attack reached
    seconds: float = 0.0
    outside: Outside | None = None  #: of an UNKNOWN, where what a function is applied to may leave its domain
    spent: dict[str, float] = field(default_factory=dict)  #: seconds by stage, of those that it was given to, in order

    def verified(self, by: str | None, certificate: Certificate) -> None:
        """Proved by a stage, with this evidence."""
        self.verdict, self.decided_by, self.reason, self.outside = Verdict.VERIFIED, by, None, None
        self.certificate, self.trust = certificate, certificate.trust

    def spend(self, stage: str, seconds: float) -> None:
        """Account for its share of a stage's time."""
        self.spent[stage] = self.spent.get(stage, 0.0) + seconds

    def falsified(self, by: str | None, point: Tensor, agrees: bool | None = None) -> None:
        """Broken by a counterexample [*input], which a stage found and a judge has replayed."""
        self.verdict, self.decided_by, self.reason, self.outside = Verdict.FALSIFIED, by, None, None
        self.counterexample, self.float32_agrees = point, agrees


@dataclass(frozen=True, repr=False)
class Result:
    """Outcome of `verify` for a batch of B examples; `semantics` says what its verdicts are about.

    `margins[b, j]` is the best proven lower bound of logit[label] - logit[j] over the input set of example b
    (infinite at j = label). With a specification of one's own, the columns are its rows. Each has paid for the
    rounding of its own computation, rigorously or by an estimate (verifier.rounding), so that none is above the exact
    minimum: of a proved one it is the bound that decided, else the best one; a certificate's checker says what it
    proves itself. Where a network ends in a softmax or a sigmoid, questions about which output is larger are answered
    on the values before it, as `Verifier.explain` says: margins are then differences of those, not of probabilities;
    those in `attack_margin` are of the outputs as they are.
    """

    verdict: tuple[Verdict, ...]
    margins: Tensor  # [B, classes] float64; of the values before a last softmax or sigmoid
    label: Tensor  # [B] int64; -1 where the specification names no label
    prediction: Tensor  # [B] int64: argmax at the clean input
    decided_by: tuple[str | None, ...]
    reason: tuple[Reason | None, ...]
    trust: tuple[Trust | None, ...]  #: of each VERIFIED; None otherwise
    counterexample: tuple[Tensor | None, ...]  # each [*input], in the input's dtype
    attack_margin: Tensor  # [B] float64: the smallest margin any attack reached (float64 replay)
    float32_agrees: tuple[bool | None, ...]  #: whether the model in its own precision is fooled as well
    certificate: Certificates
    seconds: Tensor  # [B] float64: share of the run's time spent on each example
    stages: tuple[StageCost, ...] = field(default=())
    semantics: Semantics = Semantics.REAL
    #: of each UNKNOWN where what a function is applied to may leave its domain: where, and what to do about it
    outside: tuple[Outside | None, ...] = field(default=())
    trust_limit: str = ""  #: of a VERIFIED that is FLOAT because of the network, why; empty where there is none
    #: where some interval holds no number of the network's precision, so that the answer is about the sets' hull
    #: (`InputSet.representable`): says so, and how far outside of their sets the counterexamples are; empty otherwise
    hull: str = ""
    #: of each example, the stages that it was given to, in order, with its share of their seconds
    spent: tuple[Mapping[str, float], ...] = field(default=())
    #: [columns] int64, where some columns of `margins` are rows of one clause: the clause of each
    clause: Tensor | None = None

    @classmethod
    def of(
        cls,
        examples: Sequence[ExampleResult],
        margins: Tensor,
        label: Tensor | None,
        prediction: Tensor,
        stages: Sequence[StageCost],
        semantics: Semantics = Semantics.REAL,
        clause: Tensor | None = None,
    ) -> Result:
        """From a record per example.

        Args:
            margins: [B, classes], or the rows of a specification that names no label.
            label: [B] int64; None where the specification names none. prediction: [B] int64.
            clause: [rows] int64: which rows are of one clause; None where each is one.
        """
        numbers = [(e.attack_margin, e.seconds) for e in examples]
        attack, seconds = torch.tensor(numbers, dtype=torch.float64).reshape(-1, 2).unbind(1)
        return cls(
            verdict=tuple(e.verdict for e in examples),
            margins=margins,
            label=torch.full((len(examples),), -1) if label is None else label,
            prediction=prediction,
            decided_by=tuple(e.decided_by for e in examples),
            reason=tuple(e.reason for e in examples),
            trust=tuple(e.trust for e in examples),
            counterexample=tuple(e.counterexample for e in examples),
            attack_margin=attack.clone(),
            float32_agrees=tuple(e.float32_agrees for e in examples),
            certificate=Certificates(e.certificate for e in examples),
            seconds=seconds.clone(),
            stages=tuple(stages),
            semantics=semantics,
            outside=tuple(e.outside for e in examples),
            spent=tuple(dict(e.spent) for e in examples),
            clause=clause,
        )

    @property
    def margin(self) -> Tensor:
        """[B] float64: what is proved of each example: the smallest margin; of a clause of several rows its largest.

        NaN where there are no rows. A clause may hold by another row at each point: an example that is VERIFIED so has
        a margin that is not above zero.
        """
        values = self.margins
        if not values.shape[1]:
            return values.new_full((len(self),), torch.nan)
        if self.clause is not None:
            lowest = values.new_full((len(self), int(self.clause.max()) + 1), -torch.inf)
            values = lowest.scatter_reduce(1, self.clause.expand_as(values), values, "amax")
        return values.amin(1)

    def example(self, index: int) -> ExampleResult:
        """What is said of one example."""
        return ExampleResult(
            self.verdict[index], self.decided_by[index], self.reason[index], self.trust[index],
            self.certificate[index], self.counterexample[index], self.float32_agrees[index],
            float(self.attack_margin[index]), float(self.seconds[index]),
            self.outside[index], dict(self.spent[index]),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.verdict)

    def __getitem__(self, index: int) -> Answer:
        """What is said of one example; negative numbers count from the end."""
        i = range(len(self))[operator.index(index)]
        return Answer(
            i, self.verdict[i], int(self.label[i]), int(self.prediction[i]), self.margins[i], self.decided_by[i],
            self.reason[i], self.trust[i], float(self.attack_margin[i]), float(self.seconds[i]), self.float32_agrees[i],
            self.counterexample[i], self.certificate[i], self.outside[i] if self.outside else None,
            float(self.margin[i]),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Answer]:
        return (self[i] for i in range(len(self)))

    def to_dict(self) -> dict[str, Any]:
        """All answers and what each stage did, as JSON has it: `json.dumps(result.to_dict())`."""
        stages = [asdict(cost) for cost in self.stages]
        return {
            "semantics": self.semantics.value, "summary": dict(self.summary()), "stages": stages, "hull": self.hull,
            "trust_limit": self.trust_limit, "examples": [answer.to_dict() for answer in self],
        }  # fmt: skip

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a row per example (extra `pandas`): `Answer.row`, by index."""
        return as_frame([answer.row() for answer in self], "index")

    def _repr_html_(self) -> str:
        return table_of(repr(self), self)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.summary().items())
        return f"Result({len(self)} examples: {counts}{'; ' * bool(self.hull)}{self.hull})"

    @property
    def verified(self) -> Tensor:  # [B] bool
        return torch.tensor([v is Verdict.VERIFIED for v in self.verdict])

    def summary(self) -> Mapping[str, int]:
        """Number of examples per verdict."""
        return {v.value: sum(x is v for x in self.verdict) for v in Verdict}
