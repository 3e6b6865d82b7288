"""Values of nodes as sparse affine functions of a program's columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from torch import Tensor

Vector = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ColumnForm:
    """matrix @ columns + bias; one row per entry of a node, flattened.

    A program under construction gains columns: a value may know of fewer columns than the program has.
    """

    matrix: csr_array  # [k, n]
    bias: Vector  # [k]

    @property
    def size(self) -> int:
        return len(self.bias)

    def rows(self, index: Indices) -> ColumnForm:
        """The value of some entries."""
        return ColumnForm(self.matrix[index], self.bias[index])


def numbers(value: Tensor) -> Vector:  # [1, *shape] -> [size]
    """The entries of a tensor of one example, flattened."""
    return value.detach().double().cpu().numpy().ravel()


def widened(matrix: csr_array, columns: int) -> csr_array:
    """The same matrix with `columns` columns, of which the new ones are empty. Shares its arrays."""
    if matrix.shape[1] == columns:
        return matrix
    return csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], columns))


def spread(matrix: csr_array, rows: Indices, size: int) -> csr_array:
    """The matrix [k, n] as rows number `rows` (ascending) of one with `size` rows, the others empty."""
    if len(rows) == size:
        return matrix
    counts = np.zeros(size + 1, dtype=matrix.indptr.dtype)
    counts[rows + 1] = np.diff(matrix.indptr)
    ends = np.cumsum(counts, dtype=matrix.indptr.dtype)
    return csr_array((matrix.data, matrix.indices, ends), shape=(size, matrix.shape[1]))


def merged(blocks: Sequence[tuple[Indices, csr_array]], size: int, columns: int) -> csr_array:
    """Rows given in blocks, each (row numbers, matrix), as one matrix; rows in none of them are empty."""
    blocks = [(rows, matrix) for rows, matrix in blocks if len(rows)]
    if not blocks:
        return csr_array((size, columns))
    if len(blocks) == 1:
        return widened(spread(blocks[0][1], blocks[0][0], size), columns)
    # all blocks below each other and one empty row for those in none; then every row is picked once
    order = np.full(size, sum(len(rows) for rows, _ in blocks))
    order[np.concatenate([rows for rows, _ in blocks])] = np.arange(order[0] if size else 0)
    data = np.concatenate([m.data for _, m in blocks])
    indices = np.concatenate([m.indices for _, m in blocks])
    counts = np.concatenate([[0], *(np.diff(m.indptr) for _, m in blocks), [0]])
    pile = csr_array((data, indices, np.cumsum(counts, dtype=np.int32)), shape=(len(counts) - 1, columns))
    return pile[order]


def stacked(parts: Sequence[ColumnForm]) -> ColumnForm:
    """The entries of values on the same columns, one value after the other."""
    matrix = csr_array(vstack([part.matrix for part in parts], format="csr"))
    return ColumnForm(matrix, np.concatenate([part.bias for part in parts]))


def scaled(rows: csr_array, factor: Vector) -> csr_array:
    """rows @ diag(factor), without the entries that a factor of 0 leaves."""
    return _relabelled(rows, factor, None, rows.shape[1])


def product(rows: csr_array, matrix: csr_array) -> csr_array:
    """rows @ matrix; where the matrix only moves and scales entries, without multiplying it out."""
    counts = np.diff(matrix.indptr)
    if matrix.nnz > matrix.shape[0] or (matrix.nnz and (counts.max() > 1 or np.bincount(matrix.indices).max() > 1)):
        return rows @ matrix
    factor, target = np.zeros(matrix.shape[0]), np.zeros(matrix.shape[0], dtype=np.int32)
    factor[counts > 0], target[counts > 0] = matrix.data, matrix.indices
    return _relabelled(rows, factor, target, matrix.shape[1])


def _relabelled(rows: csr_array, factor: Vector, target: Indices | None, columns: int) -> csr_array:
    """Each entry times the factor of its column, moved to the column's target, which no other column has."""
    data = rows.data * factor[rows.indices]
    left, indices = data != 0, rows.indices if target is None else target[rows.indices]
    if left.all():
        return csr_array((data, indices, rows.indptr), shape=(rows.shape[0], columns))
    ends = np.concatenate([[0], np.cumsum(left)])[rows.indptr].astype(np.int32)
    return csr_array((data[left], indices[left], ends), shape=(rows.shape[0], columns))
