"""A program under construction: columns and rows are only ever added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array

from solvers import Program
from verifier.encoding.placement import PlacedProducts, Placement
from verifier.encoding.value import ColumnForm, Indices, Vector


@dataclass(frozen=True)
class Shares:
    """Rows of the program in which the pre-activation of some neurons of one activation node takes part.

    By weak duality the multiplier of "z is the value of the activation's parent" (verifier.relaxation.multipliers) is
    minus the sum over these rows of dual times the factor that z has in the row.
    """

    node: int  #: the activation
    neurons: Indices  # [k]
    rows: Indices  # [k]
    factors: Vector  # [k]


@dataclass
class ProgramBuilder:
    """Collects columns and rows. Everything that it hands out stays valid while more is added."""

    columns: int = 0
    rows: int = 0
    _lower: list[Vector] = field(default_factory=list)
    _upper: list[Vector] = field(default_factory=list)
    _integer: list[bool] = field(default_factory=list)
    _data: list[Vector] = field(default_factory=list)
    _indices: list[Indices] = field(default_factory=list)
    _counts: list[Indices] = field(default_factory=list)
    _row_lower: list[Vector] = field(default_factory=list)
    _row_upper: list[Vector] = field(default_factory=list)
    shares: list[Shares] = field(default_factory=list)
    hulls: list[Placement | PlacedProducts] = field(default_factory=list)  #: in the order in which they were added

    def add_columns(self, lower: Vector, upper: Vector, integer: bool = False) -> Indices:
        """New columns with bounds [k]; returns their numbers."""
        first, self.columns = self.columns, self.columns + len(lower)
        self._lower.append(np.asarray(lower, dtype=np.float64))
        self._upper.append(np.asarray(upper, dtype=np.float64))
        self._integer.append(integer)
        return np.arange(first, self.columns, dtype=np.int64)

    def unit(self, columns: Indices) -> ColumnForm:
        """The value of columns, one per row."""
        ends = np.arange(len(columns) + 1, dtype=np.int32)
        matrix = csr_array((np.ones(len(columns)), columns.astype(np.int32), ends), shape=(len(columns), self.columns))
        return ColumnForm(matrix, np.zeros(len(columns)))

    def add_rows(
        self,
        lower: Vector,
        upper: Vector,
        terms: Sequence[tuple[Indices, Vector | float]],
        value: ColumnForm | None = None,
        factor: Vector | float = 1.0,
    ) -> Indices:
        """New rows  lower <= factor * value + sum over terms of coefficient * column <= upper; returns their numbers.

        Args:
            lower, upper: [k], infinite where there is none.
            terms: (columns [k], coefficients [k] or one number); columns that no other term and no entry of `value`
                uses in the same row. value: of k rows; its bias may be anything.
        """
        k, e = len(lower), len(terms)
        data = np.stack([np.broadcast_to(c, k) for _, c in terms], 1).ravel() if terms else np.zeros(0)
        indices = np.stack([c for c, _ in terms], 1).ravel() if terms else np.zeros(0, dtype=np.int64)
        counts = np.full(k, e)
        if value is not None:
            own = np.diff(value.matrix.indptr)
            factors = np.broadcast_to(np.asarray(factor, dtype=np.float64), k)
            ends = np.repeat(value.matrix.indptr[1:], e)
            data = np.insert(value.matrix.data * np.repeat(factors, own), ends, data)
            indices = np.insert(value.matrix.indices, ends, indices)
            counts = counts + own
            lower, upper = lower - factors * value.bias, upper - factors * value.bias
        first, self.rows = self.rows, self.rows + k
        self._data.append(data)
        self._indices.append(indices)
        self._counts.append(counts)
        self._row_lower.append(np.asarray(lower, dtype=np.float64))
        self._row_upper.append(np.asarray(upper, dtype=np.float64))
        return np.arange(first, self.rows, dtype=np.int64)

    def share(self, node: int, neurons: Indices, rows: Indices, factors: Vector | float) -> None:
        """Note that the pre-activations of `neurons` [k] of activation `node` are in `rows` [k] with these factors."""
        factors = np.broadcast_to(np.asarray(factors, dtype=np.float64), len(rows))
        self.shares.append(Shares(node, neurons, rows, factors))

    def program(self) -> Program:
        """The program of everything added so far."""
        none = np.zeros(0)
        integer = [np.full(len(c), i) for c, i in zip(self._lower, self._integer, strict=True)]
        ends = np.cumsum(np.concatenate([[0], *self._counts]), dtype=np.int32)
        indices = np.concatenate([none, *self._indices]).astype(np.int32)
        matrix = csr_array((np.concatenate([none, *self._data]), indices, ends), shape=(self.rows, self.columns))
        matrix.sort_indices()
        return Program(
            matrix,
            np.concatenate([none, *self._row_lower]),
            np.concatenate([none, *self._row_upper]),
            np.concatenate([none, *self._lower]),
            np.concatenate([none, *self._upper]),
            np.concatenate([np.zeros(0, dtype=bool), *integer]),
        )
