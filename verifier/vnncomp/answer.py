"""What became of an instance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from verifier.certificate import Certificate


class InstanceStatus(Enum):
    """The words of the competition. The property in the file describes counterexamples: sat where there is one."""

    SAT = "sat"  #: a counterexample was found, and replayed in onnxruntime
    UNSAT = "unsat"  #: proved: there is none
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"
    ERROR = "error"  #: the files cannot be used

    @property
    def solved(self) -> bool:
        return self in (InstanceStatus.SAT, InstanceStatus.UNSAT)


@dataclass(frozen=True)
class Witness:
    """A counterexample: float32 inputs and the outputs that onnxruntime computes for them, as exact float64 values."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    case: int
    clause: int
    #: of the entry of x that is furthest from its interval in the file; 0 but for intervals without float32 numbers
    distance: float = 0.0


@dataclass(frozen=True)
class InstanceAnswer:
    """How an instance was decided, or why it was not."""

    status: InstanceStatus
    seconds: float
    witness: Witness | None = None
    reason: str = ""  #: of an UNKNOWN or TIMEOUT
    advice: str = ""  #: what would help then; empty where nothing is known to
    decided_by: Sequence[str | None] = ()  #: per case, the stage that decided it
    #: case -> the evidence of its proof; of an UNSAT every case has one
    certificates: Mapping[int, Certificate] = field(default_factory=dict, repr=False)
    #: number of inputs whose interval holds no float32 number: the answer is about their hull (properties.vnnlib_hull)
    widened: int = 0

    def after(self, seconds: float) -> InstanceAnswer:
        return replace(self, seconds=seconds)
