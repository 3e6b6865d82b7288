"""One example's answer as people read it, and tables of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from verifier.certificate.certificate import Certificate
from verifier.files import plain
from verifier.tables import as_html
from verifier.verdict import Outside, Reason, Trust, Verdict


@dataclass(frozen=True)
class Answer:
    """What `verify` answers about one example: what `Result` says of a batch in the fields of these names."""

    index: int  #: its place in the batch
    verdict: Verdict
    label: int  #: -1 where the specification names none
    prediction: int
    margins: Tensor  # [classes] float64
    decided_by: str | None
    reason: Reason | None
    trust: Trust | None
    attack_margin: float
    seconds: float
    float32_agrees: bool | None
    counterexample: Tensor | None  # [*input]
    certificate: Certificate | None
    outside: Outside | None
    margin: float  #: the smallest proven margin, and of a clause of several rows its largest (`Result.margin`)

    def row(self) -> dict[str, Any]:
        """All of it that is one number or one word."""
        long = ("margins", "counterexample", "certificate", "outside")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in long}

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: `row`, the margins, and the counterexample as nested lists where there is one."""
        point = None if self.counterexample is None else self.counterexample.tolist()
        outside = None if self.outside is None else str(self.outside)
        return plain({**self.row(), "margins": self.margins.tolist(), "counterexample": point, "outside": outside})

    def _repr_html_(self) -> str:
        rows = [(name, value) for name, value in self.row().items() if value is not None]
        return as_html(f"example {self.index}", ("", ""), rows)


def table_of(title: str, answers: Iterable[Answer]) -> str:
    """A small table for a notebook."""
    rows = [answer.row() for answer in answers]
    columns = [c for c in (rows[0] if rows else {}) if any(row[c] is not None for row in rows)]
    return as_html(title, columns, [[row[c] for c in columns] for row in rows])
