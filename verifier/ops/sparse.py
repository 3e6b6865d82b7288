"""Matrices of affine operators, for linear programs. scipy is loaded when the first one is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: numbers that the dense columns of one chunk may have
_CHUNK = 2**22


def diagonal(values: Tensor) -> csr_array:
    """The square matrix with `values` (of any shape) on its diagonal."""
    import numpy as np
    from scipy.sparse import csr_array

    data = values.detach().double().cpu().flatten().numpy()
    steps = np.arange(len(data) + 1, dtype=np.int32)
    return csr_array((data, steps[:-1], steps), shape=(len(data), len(data)))


def picks(source: Tensor, size: int, values: Tensor | None = None) -> csr_array:
    """Row i reads entry source[i] of `size` entries, times values[i] (default 1); a negative source reads nothing."""
    import numpy as np
    from scipy.sparse import csr_array

    index = source.flatten().cpu().numpy()
    weights = np.ones(len(index)) if values is None else values.detach().double().cpu().flatten().numpy()
    there = index >= 0
    ends = np.concatenate([[0], np.cumsum(there)]).astype(np.int32)
    return csr_array((weights[there], index[there].astype(np.int32), ends), shape=(len(index), size))


def taps(source: Tensor, weights: Tensor, size: int) -> csr_array:
    """Row i is the sum over k of weights[i, k] times entry source[i, k]; a negative source adds nothing."""
    import numpy as np
    from scipy.sparse import csr_array

    index, data = source.cpu().numpy(), weights.detach().double().cpu().numpy()
    there = index >= 0
    ends = np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int32)
    matrix = csr_array((data[there], index[there].astype(np.int32), ends), shape=(len(index), size))
    matrix.sort_indices()
    return matrix


def from_columns(linear: Callable[[Tensor], Tensor], size: int, outputs: int) -> csr_array:
    """The matrix [outputs, size] of a linear function of batches, from its values at unit vectors [k, size]."""
    import numpy as np
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
