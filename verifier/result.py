"""What a verification run answers: verdicts, how far each is to be trusted, and the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifier.verdict import Reason, Semantics, StageCost, Trust, Verdict

if TYPE_CHECKING:
    from verifier.certificate.batch import Certificates


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


__all__ = ["Reason", "Result", "Semantics", "StageCost", "Trust", "Verdict"]
