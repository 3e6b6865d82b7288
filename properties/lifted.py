"""Input sets as images of polytopes, for linear and integer programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # scipy is imported where one is made
    from scipy.sparse import csr_array

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Lifted:
    """{matrix @ c + bias + r : lower <= c <= upper, row_lower <= rows @ c <= row_upper, |r| <= spare}, c the columns.

    Every member of the set, in exact arithmetic, is such a point; beyond the set there is at most what rounding limits
    outward and the roundings that the set allows for amount to.
    """

    lower: Vector  # [n], finite
    upper: Vector  # [n]
    matrix: csr_array  # [size, n]
    bias: Vector  # [size]
    rows: csr_array  # [m, n]
    row_lower: Vector  # [m], -inf where there is none
    row_upper: Vector  # [m]
    clean: Vector  # [n]: columns of the clean input
    spare: Vector  # [size]: how far an entry may be off, >= 0, mostly tiny
    #: the first so many rows are equalities, row k says what column k is by columns after them, with coefficient 1
    tied: int = 0
    #: whether the set's support function knows of the rows (up to the end of a search)
    supported: bool = True

    def without_rows(self) -> Lifted:
        """The image of the columns' box, a larger set."""
        return Lifted(
            self.lower, self.upper, self.matrix, self.bias, self.rows[:0], self.row_lower[:0], self.row_upper[:0],
            self.clean, self.spare,
        )  # fmt: skip

    @property
    def thin(self) -> bool:
        """Whether `spare` is next to nothing beside what the columns move."""
        return float(self.spare.sum()) <= 1e-3 * float((abs(self.matrix) @ (self.upper - self.lower)).sum())


class Batched(Protocol):
    """What there are several of: every input set."""

    @property
    def batch(self) -> int:
        """How many."""


def one_example(inputs: Batched) -> None:
    """Raises ValueError where there is more than one."""
    if inputs.batch != 1:
        raise ValueError(f"this is about one example, not about {inputs.batch}: select one")


def sparse(entries: Vector | float, rows: NDArray[Any], columns: NDArray[Any], shape: tuple[int, int]) -> csr_array:
    """The matrix of that shape with those entries [k], or one number for all, at (rows [k], columns [k])."""
    from scipy.sparse import csr_array

    values = np.broadcast_to(np.asarray(entries, dtype=np.float64), len(rows))
    made = csr_array((values, (rows.astype(np.int32), columns.astype(np.int32))), shape=shape)
    made.sort_indices()
    return made
