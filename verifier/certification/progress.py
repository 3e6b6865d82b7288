"""The counts of a run of `certify` (verifier.progress shows them)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from verifier.certification.example import ExampleOutcome, ExampleRow
from verifier.certification.report import is_unbroken


@dataclass(frozen=True)
class Tally:
    """Running counts of a run."""

    total: int
    done: int = 0
    clean: int = 0
    attacked: int = 0  #: correctly classified and not broken by an attack
    verified: int = 0
    errors: int = 0
    stage: str = ""  #: that is at work

    def plus(self, examples: Iterable[ExampleRow]) -> Tally:
        new = tuple(examples)
        return replace(
            self,
            done=self.done + len(new),
            clean=self.clean + sum(e.correct for e in new),
            attacked=self.attacked + sum(map(is_unbroken, new)),
            verified=self.verified + sum(e.outcome is ExampleOutcome.VERIFIED for e in new),
            errors=self.errors + sum(e.outcome is ExampleOutcome.ERROR for e in new),
        )

    def text(self) -> str:
        """For example "clean 98.1 %  attacked 95.0 %  verified 93.2 %"."""
        named = (("clean", self.clean), ("attacked", self.attacked), ("verified", self.verified))
        text = "  ".join(f"{name} {100 * count / max(self.done, 1):.1f} %" for name, count in named)
        return text + (f"  errors {self.errors}" if self.errors else "")


#: is called with the counts: at the start, after every example, and where a stage begins
Listener = Callable[[Tally], None]
