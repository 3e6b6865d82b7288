"""What was asked of the device, and by which line of ours."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("verifier", "solvers", "properties", "training")
_OURS = tuple(f"{ROOT / package}{'/'}" for package in PACKAGES)


@dataclass
class Account:
    """Of one stretch of work. Keys of the counters: file, line and function of ours, and what it did.

    On a real device nothing is counted, and `counted` is False: budgets have nothing to hold then.
    """

    counted: bool = True
    syncs: Counter[str] = field(default_factory=Counter)  #: the host waits for the device, to see a value or a size
    up: Counter[str] = field(default_factory=Counter)  #: copies to the device
    down: Counter[str] = field(default_factory=Counter)  #: copies from it; the host waits for these, too
    mixes: Counter[str] = field(default_factory=Counter)  #: what CUDA refuses
    launches: int = 0  #: operators on the device that are no mere views; one may be several kernels

    @property
    def waits(self) -> int:
        """How often the host waited in all."""
        return self.syncs.total() + self.down.total()

    def told(self, most: int = 12) -> str:
        """Several lines: totals, and the lines that make the host wait most often."""
        lines = [
            f"{self.launches} launches, {self.syncs.total()} syncs, {self.up.total()} up, {self.down.total()} down"
        ]
        for name in ("mixes", "syncs", "down", "up"):
            lines += [f"  {name:5} {times:6} {key}" for key, times in getattr(self, name).most_common(most)]
        return "\n".join(lines)


def site(what: str) -> str:
    """The innermost line of ours that the call came from, and what it did."""
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return f"outside: {what}"
    code = frame.f_code
    return f"{Path(code.co_filename).relative_to(ROOT)}:{frame.f_lineno} {code.co_name}: {what}"
