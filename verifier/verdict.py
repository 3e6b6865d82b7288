"""The words of an answer: verdicts, how far to trust them, what they are about, why there is none; a stage's cost."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum


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
    MEMORY = "too large for the memory"  #: some stage found no room for the network's bounds, the others did not do
    NUMERICAL = "numerically too close"  #: the bound, or the attack, is within its rounding error of zero
    DOMAIN = "outside of a function's domain"  #: as far as bounds tell; `outside` of the result says where
    UNCERTIFIED = "no network of the cascade certifies its answer"
    UNSUPPORTED = "unsupported"  #: no requested stage supports this network with this input set


@dataclass(frozen=True)
class Outside:
    """Where the bounds that were found of a value reach beyond the domain of the function that is applied to it.

    Nothing can be bounded behind such a node. It need not be that the value itself leaves the domain: tighter bounds,
    of a smaller set say, may stay within.
    """

    node: str  #: with its operator, where in the model it is from, and its shape
    function: str  #: "log(x)"
    lower: float  #: bounds of x, of the worst entry
    upper: float
    forbidden: str  #: "x <= 0"
    advice: str  #: what to do about it

    def __str__(self) -> str:
        return (
            f"{self.node} computes {self.function}, which has no bounds for {self.forbidden}, and x is only known to "
            f"lie in [{self.lower:.6g}, {self.upper:.6g}]: {self.advice}"
        )


@dataclass(frozen=True)
class StageCost:
    """What one stage did in a run: in one call, or over all batches so far."""

    name: str
    decided: int  #: examples that this stage decided
    attempted: int  #: examples that it was given
    seconds: float


def total_costs(costs: Iterable[StageCost]) -> list[StageCost]:
    """One entry per stage, in order of first appearance."""
    totals: dict[str, StageCost] = {}
    for c in costs:
        t = totals.get(c.name, StageCost(c.name, 0, 0, 0.0))
        totals[c.name] = StageCost(c.name, t.decided + c.decided, t.attempted + c.attempted, t.seconds + c.seconds)
    return list(totals.values())


def of_network(k: int, what: str) -> str:
    """What a stage of one of several networks is called, or says: as `network_named` reads it."""
    return f"network {k}: {what}"


def network_named(text: str) -> int | None:
    """Which network a text of `of_network` is about; None: it is about none of several."""
    told = re.match(r"network (\d+): ", text)
    return None if told is None else int(told[1])
