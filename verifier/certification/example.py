"""What a run records of one example, as values and as a row of the store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import safetensors.torch
from torch import Tensor

from verifier.result import Result
from verifier.verdict import Reason, StageCost, Trust, Verdict, network_named


class ExampleOutcome(Enum):
    """A verdict, or ERROR for an example that raised."""

    VERIFIED = "verified"
    FALSIFIED = "falsified"
    UNKNOWN = "unknown"
    ERROR = "error"

    @classmethod
    def of(cls, verdict: Verdict) -> ExampleOutcome:
        return cls(verdict.value)


@dataclass(frozen=True)
class ExampleRow:
    """One row of a store: everything recorded of one example except its counterexample."""

    index: int
    label: int
    outcome: ExampleOutcome
    prediction: int | None = None
    margin: float | None = None  #: smallest proven margin: over the other classes, or `verifier.Result.margin`
    margins: tuple[float, ...] | None = None  #: proven margin per class, infinite at the label
    attack_margin: float | None = None  #: smallest margin that an attack reached
    stage: str | None = None  #: the stage that decided
    trust: Trust | None = None
    reason: Reason | None = None  #: why UNKNOWN
    seconds: float = 0.0
    float32_agrees: bool | None = None
    #: on one line, type and message of what was raised; of an UNKNOWN, where a function's domain may be left
    error: str | None = None
    traceback: str | None = None
    #: the stages that it was given to, in order, and its share of their seconds; of all attempts
    spent: tuple[tuple[str, float], ...] = ()
    attempts: int = 1  #: how often it was tried (`certify(..., retry=...)`)
    session: int = 0  #: in which of the run's sessions it was tried last

    @property
    def network(self) -> int | None:
        """Of a cascade of networks, which of them decided."""
        return network_named(self.stage or "")

    @property
    def correct(self) -> bool:
        """Whether the clean input is classified as its label."""
        return self.prediction == self.label


@dataclass(frozen=True)
class ExampleRecord:
    """An `ExampleRow` on its way into the store, with its counterexample [*input] where it has one."""

    example: ExampleRow
    counterexample: Tensor | None = None


#: columns of the table `examples`, in order
COLUMNS = (
    "idx",
    "label",
    "prediction",
    "verdict",
    "margin",
    "margins",
    "attack_margin",
    "stage",
    "trust",
    "reason",
    "seconds",
    "float32_agrees",
    "error",
    "traceback",
    "spent",
    "attempts",
    "session",
    "counterexample",
)


def to_row(record: ExampleRecord) -> tuple[object, ...]:
    """Values in the order of COLUMNS. NaN becomes NULL: SQLite has no NaN; infinities are kept."""
    e = record.example
    return (
        e.index,
        e.label,
        e.prediction,
        e.outcome.value,
        e.margin,
        None if e.margins is None else np.asarray(e.margins, dtype="<f8").tobytes(),
        e.attack_margin,
        e.stage,
        None if e.trust is None else e.trust.name.lower(),
        None if e.reason is None else e.reason.name.lower(),
        e.seconds,
        None if e.float32_agrees is None else int(e.float32_agrees),
        e.error,
        e.traceback,
        json.dumps(e.spent),
        e.attempts,
        e.session,
        None if record.counterexample is None else pack(record.counterexample),
    )


def from_row(row: tuple[object, ...]) -> ExampleRow:
    """Inverse of `to_row`, without the last column.

    Raises:
        ValueError, TypeError, KeyError: values that it never writes.
    """
    values = dict(zip(COLUMNS[:-1], row, strict=True))
    margins, agrees = values.pop("margins"), values.pop("float32_agrees")
    trust, reason = values.pop("trust"), values.pop("reason")
    spent = json.loads(str(values.pop("spent")))
    return ExampleRow(
        index=values.pop("idx"),  # type: ignore[arg-type]
        outcome=ExampleOutcome(values.pop("verdict")),
        margins=None if margins is None else tuple(np.frombuffer(margins, dtype="<f8").tolist()),  # type: ignore[call-overload]
        trust=None if trust is None else Trust[str(trust).upper()],
        reason=None if reason is None else Reason[str(reason).upper()],
        float32_agrees=None if agrees is None else bool(agrees),
        spent=tuple((str(name), float(seconds)) for name, seconds in spent),
        **values,  # type: ignore[arg-type]
    )


def pack(x: Tensor) -> bytes:  # [*shape]
    """A tensor as bytes that carry its dtype and shape (safetensors)."""
    return safetensors.torch.save({"x": x.detach().cpu().contiguous()})


def unpack(blob: bytes) -> Tensor:  # [*shape]
    return safetensors.torch.load(blob)["x"]


def records(result: Result, indices: Sequence[int]) -> list[ExampleRecord]:
    """The rows of a run's `result` on the examples `indices`, in their order."""
    smallest = result.margin.tolist()
    margins, attacks = result.margins.tolist(), result.attack_margin.tolist()
    labels, predictions = result.label.tolist(), result.prediction.tolist()
    seconds = result.seconds.tolist()
    return [
        ExampleRecord(
            ExampleRow(
                index=index,
                label=labels[b],
                outcome=ExampleOutcome.of(result.verdict[b]),
                prediction=predictions[b],
                margin=smallest[b],
                margins=tuple(margins[b]),
                attack_margin=attacks[b],
                stage=result.decided_by[b],
                trust=result.trust[b],
                reason=result.reason[b],
                seconds=seconds[b],
                float32_agrees=result.float32_agrees[b],
                error=None if result.outside[b] is None else str(result.outside[b]),
                spent=tuple(result.spent[b].items()),
            ),
            result.counterexample[b],
        )
        for b, index in enumerate(indices)
    ]


#: the answers, from the least to the best
_ORDER = (ExampleOutcome.ERROR, ExampleOutcome.UNKNOWN, ExampleOutcome.FALSIFIED, ExampleOutcome.VERIFIED)


def joined(old: ExampleRow, new: ExampleRecord) -> ExampleRecord:
    """The row of an example that has been tried again: the better answer, and what all attempts took.

    Of two UNKNOWN it has the better of either's bounds and attacks, and the later one's reason.

    Args:
        old: UNKNOWN or ERROR: nothing that is decided is tried again.
    """
    now = new.example
    best = now if _ORDER.index(now.outcome) >= _ORDER.index(old.outcome) else old
    if old.outcome is now.outcome is ExampleOutcome.UNKNOWN and old.margins and now.margins:
        margins = tuple(map(max, old.margins, now.margins))
        whole = [m for m in (old.margin, now.margin) if m is not None]
        best = replace(best, margins=margins, margin=max(min(margins), *whole))
    attacks = [m for m in (old.attack_margin, now.attack_margin) if m is not None]
    spent = dict(old.spent)
    for name, seconds in now.spent:
        spent[name] = spent.get(name, 0.0) + seconds
    best = replace(
        best, attack_margin=min(attacks, default=None), seconds=old.seconds + now.seconds, spent=tuple(spent.items()),
        attempts=old.attempts + now.attempts, session=now.session,
    )  # fmt: skip
    return ExampleRecord(best, new.counterexample if best.outcome is now.outcome else None)


def stage_costs(examples: Iterable[ExampleRow]) -> tuple[StageCost, ...]:
    """What each stage did, from the rows of the examples: the longest way through the stages says their order."""
    decided: dict[str, int] = {}
    attempted: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for e in sorted(examples, key=lambda e: -len(e.spent)):
        for name, share in e.spent:
            attempted[name] = attempted.get(name, 0) + 1
            seconds[name] = seconds.get(name, 0.0) + share
        if e.stage is not None:
            decided[e.stage] = decided.get(e.stage, 0) + 1
    return tuple(StageCost(name, decided.get(name, 0), attempted[name], seconds[name]) for name in attempted)
