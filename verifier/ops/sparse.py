"""Matrices of affine operators, for linear programs. scipy is loaded when the first one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from verifier.errors import UnsupportedError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: numbers that the dense columns of one chunk may have
_CHUNK = 2**22


def diagonal(values: Tensor) -> csr_array:  # [...] -> [n, n]
    """The square matrix with `values` (of any shape) on its diagonal."""
    from scipy.sparse import csr_array

    data = values.detach().double().cpu().flatten().numpy()
    steps = np.arange(len(data) + 1, dtype=np.int32)
    return csr_array((data, steps[:-1], steps), shape=(len(data), len(data)))


def picks(source: Tensor, size: int, values: Tensor | None = None) -> csr_array:
    """Row i reads entry source[i] of `size` entries, times values[i] (default 1); a negative source reads nothing."""
    from scipy.sparse import csr_array

    index = source.flatten().cpu().numpy()
    weights = np.ones(len(index)) if values is None else values.detach().double().cpu().flatten().numpy()
    there = index >= 0
    ends = np.concatenate([[0], np.cumsum(there)]).astype(np.int32)
    return csr_array((weights[there], index[there].astype(np.int32), ends), shape=(len(index), size))


def taps(source: Tensor, weights: Tensor, size: int) -> csr_array:
    """Row i is the sum over k of weights[i, k] times entry source[i, k]; a negative source adds nothing."""
    from scipy.sparse import csr_array

    index, data = source.cpu().numpy(), weights.detach().double().cpu().numpy()
    there = index >= 0
    ends = np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int32)
    matrix = csr_array((data[there], index[there].astype(np.int32), ends), shape=(len(index), size))
    matrix.sort_indices()
    return matrix


def from_columns(linear: Callable[[Tensor], Tensor], size: int, outputs: int) -> csr_array:
    """The matrix [outputs, size] of a linear function of batches, from its values at unit vectors [k, size]."""
    from scipy.sparse import coo_array, csr_array

    rows, columns, data = [], [], []
    for part in torch.arange(size).split(max(1, _CHUNK // max(outputs, size, 1))):
        units = torch.zeros(len(part), size, dtype=torch.float64)
        units[torch.arange(len(part)), part] = 1
        with torch.no_grad():
            values = linear(units).reshape(len(part), outputs)
        column, row = values.nonzero(as_tuple=True)
        rows.append(row.numpy())
        columns.append((column + int(part[0])).numpy())
        data.append(values[column, row].numpy())
    if not data:
        return csr_array((outputs, size))
    entries = (np.concatenate(data), (np.concatenate(rows), np.concatenate(columns)))
    return csr_array(coo_array(entries, shape=(outputs, size)))


def triplets(matrices: Sequence[csr_array]) -> dict[str, np.ndarray]:
    """Matrices side by side as row, column (int64, in the order of rows, then columns) and value, without zeros."""
    from scipy.sparse import csr_array, hstack

    whole = csr_array(hstack(matrices, format="csr"))
    whole.sum_duplicates()  # sorts; `to_sparse` has no duplicates, so that nothing is added
    whole.eliminate_zeros()
    rows = np.repeat(np.arange(whole.shape[0], dtype=np.int64), np.diff(whole.indptr))
    return {"row": rows, "column": whole.indices.astype(np.int64), "value": whole.data.astype(np.float64)}


def diagonal_triplets(values: Tensor) -> dict[str, np.ndarray]:  # [...] -> [k] each
    """`triplets` of `diagonal`, without scipy."""
    data = values.detach().double().cpu().flatten().numpy()
    there = np.flatnonzero(data)
    return {"row": there, "column": there.copy(), "value": data[there]}


def check_normal(arrays: Mapping[str, np.ndarray], what: str) -> None:
    """Raises UnsupportedError where computed numbers are so small that their relative error is not known."""
    for name in ("value", "bias_size"):
        size = np.abs(arrays.get(name, np.ones(1)))
        if not (size[size > 0] >= 1e-290).all():
            raise UnsupportedError(
                f"{what} has a {name} below 1e-290, or NaN: certificates cannot tell how exact it is"
            )
