"""The protocol of a method that is compared, and the register of these methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from verifier.bound_map import Bounds
from verifier.query import Query
from verifier.registry import Registry


@dataclass(frozen=True)
class ComparisonProblem:
    """What all methods are asked: every row of `query` with these intermediate bounds."""

    query: Query  #: graph in float64, on the CPU; sets are boxes
    bounds: Bounds  #: of every pre-activation
    exact_seconds: float  #: for each row of an exact method; 0: it is not asked
    workers: int | None  #: processes of the solvers; 0: none, None: one per core

    def select(self, index: Tensor) -> ComparisonProblem:  # [k] int64
        return replace(self, query=self.query.select(index), bounds=self.bounds.select(index))


class Role(Enum):
    """What a method's values are, as far as laws are concerned."""

    LOWER = "at most the row anywhere in the set"
    RELAXED = "the minimum over a relaxation that holds every neuron's convex hull"
    LP = "the minimum over those hulls"
    EXACT = "the minimum over the set"
    UPPER = "the row at some point of the set"


@dataclass(frozen=True)
class ComparisonMethod:
    """One way to bound rows: one value per row from intermediate bounds that it is given; it must use those alone."""

    name: str
    run: Callable[[ComparisonProblem], Tensor]  #: -> [B, S] float64; NaN where it did not finish, if it is `partial`
    roles: frozenset[Role]
    together: int = 16  #: examples that are worked on in one call
    tolerance: float = 0.0  #: relative accuracy of its values, beyond rounding
    partial: bool = False  #: whether it may leave rows without a value


#: what the others are compared with
REFERENCE = "lp"

#: in the order of tables: those of this project first
METHODS: Registry[ComparisonMethod] = Registry(
    "comparison method", "verifier.comparison.methods", "verifier.comparison_methods"
)
register = METHODS.register
