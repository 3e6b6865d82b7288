"""How far each stage got with an instance, in lines for stderr, and what would help where none of them decided it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verifier.outcome import StageStep


@dataclass
class InstanceProgress:
    """Is told what happens and says it; what is going on can be asked from another thread.

    Args:
        say: takes a line.
    """

    say: Callable[[str], None]
    steps: list[StageStep] = field(default_factory=list)  #: of the stages that have ended
    running: str = ""  #: the stage that is at work
    _since: float = 0.0

    def __call__(self, line: str) -> None:
        self.say(line)

    def begins(self, stage: str) -> None:
        self.running, self._since = stage, time.monotonic()

    def ended(self, step: StageStep) -> None:
        self.running = ""
        self.steps.append(step)
        self.say(described(step))

    def where(self) -> str:
        """What the end of the time interrupts."""
        if not self.running:
            return "the time is up, before the stages" if not self.steps else "the time is up, between two stages"
        return f"the time is up, {time.monotonic() - self._since:.1f} s into {self.running}"

    def advice(self) -> str:
        """What would help where the time was not enough, as far as it can be told from what the stages reached."""
        searched = [step for step in self.steps if step.closed is not None and step.open]
        if self.running or not searched:
            return "what may help: more time (--timeout), or a property of smaller boxes"
        last = searched[-1]
        assert last.closed is not None
        if last.closed < 0.001:
            return (
                f"what may help: a property of smaller boxes; {last.name} closed next to nothing in "
                f"{last.seconds:.1f} s, so that more time alone is not likely to"
            )
        return (
            f"what may help: more time (--timeout), since {last.name} closed {_percent(last.closed)} of its search in "
            f"{last.seconds:.1f} s, or a property of smaller boxes"
        )


def described(step: StageStep) -> str:
    """A stage's line: what it decided, and how far it got with the rest."""
    line = f"{step.name}: decided {step.decided} of {step.attempted} in {step.seconds:.2f} s"
    if step.open and math.isfinite(step.lowest):
        line += f"; the lowest bound of what is open is {step.lowest:.4g}, above 0 is a proof"
    if step.open and step.closed is not None:
        line += f"; {_percent(step.closed)} of its search is closed"
    return line


def _percent(share: float) -> str:
    """Never 100 % of what is not whole."""
    return f"{math.floor(1000 * share) / 10:.1f} %"
