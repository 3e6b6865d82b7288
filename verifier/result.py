"""What a verification run answers: verdicts, how far each is to be trusted, and the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from verifier.certificate.batch import Certificates


class Verdict(Enum):
    """The three answers. A verdict starts as UNKNOWN and leaves it only with evidence."""

    VERIFIED = "verified"  #: proved: no point of the input set violates the specification
    FALSIFIED = "falsified"  #: a replayed counterexample lies in the input set
    UNKNOWN = "unknown"  #: neither; `reason` says why


class Trust(IntEnum):
    """How far a VERIFIED is to be trusted; the minimum over everything that it rests on."""

    PROBABILISTIC = 0  #: holds with a stated probability
    SOLVER = 1  #: rests on the word of an external solver
    FLOAT = 2  #: our own arithmetic, rounding not rigorously accounted for
    CHECKED = 3  #: our own arithmetic, with every rounding error accounted for


class Semantics(Enum):
    """What a verdict is about: which function the network is taken for."""

    #: the network over the real numbers, with its weights as they are
    REAL = "real"
    #: the network as float32 hardware executes it, every operation rounded: any order of summation, blocked sums, fused
    #: multiply-adds; not Winograd's or FFT convolutions, nor TF32
    FLOAT32 = "float32"


class Reason(Enum):
    """Why a verdict is UNKNOWN."""

    BOUNDS = "bounds too loose"  #: no stage proved it and no attack broke it
    BUDGET = "budget spent"
    NUMERICAL = "numerically too close"  #: the bound, or the attack, is within its rounding error of zero
    UNCERTIFIED = "no network of the cascade certifies its answer"
    UNSUPPORTED = "unsupported"  #: no requested stage supports this network with this input set


@dataclass(frozen=True)
class StageCost:
    """What one stage did in a run."""

    name: str
    decided: int  #: examples that this stage decided
    attempted: int  #: examples that it was given
    seconds: float


@dataclass(frozen=True, repr=False)
class Result:
    """Outcome of `verify` for a batch of B examples; `semantics` says what its verdicts are about.

    `margins[b, j]` is the best proven lower bound of logit[label] - logit[j] over the input set of example b
    (infinite at j = label). With a specification of one's own, the columns are its rows.
    """

    verdict: tuple[Verdict, ...]
    margins: Tensor  # [B, classes] float64
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

    def __len__(self) -> int:
        return len(self.verdict)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.summary().items())
        return f"Result({len(self)} examples: {counts})"

    @property
    def verified(self) -> Tensor:  # [B] bool
        return torch.tensor([v is Verdict.VERIFIED for v in self.verdict])

    def summary(self) -> Mapping[str, int]:
        """Number of examples per verdict."""
        return {v.value: sum(x is v for x in self.verdict) for v in Verdict}
