"""Products with a matrix from both sides, rows that are nearly empty as what they are.

A neuron of an early convolution reads a window of the image. Of its row in a condensed network's matrix one or two per
cent are not zero, and a product with those alone takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from verifier.quiet import quiet_warnings

#: share of entries that are not zero below which products with them alone are faster, also where rows are long
_THIN = 0.06
#: entries below which a matrix is left as it is
_SMALL = 100_000


class TwoSided:
    """A matrix [Z, n], whose rows come in groups.

    Args:
        matrix: [Z, n]. groups: of rows, of which each is kept whole or as what is not zero of it.
    """

    def __init__(self, matrix: Tensor, groups: Sequence[slice]) -> None:
        thin = torch.zeros(len(matrix), dtype=torch.bool)
        for rows in groups:
            part = matrix[rows]
            thin[rows] = part.numel() > _SMALL and int((part != 0).sum()) < _THIN * part.numel()
        self.thin, self.full = thin.nonzero().squeeze(1), (~thin).nonzero().squeeze(1)
        self.matrix = matrix if len(self.thin) == 0 else matrix[self.full]
        if len(self.thin):
            self.rows, self.columns = _compressed(matrix[self.thin]), _compressed(matrix[self.thin].T)

    def onto(self, base: Tensor, nu: Tensor) -> Tensor:  # [D, n] and [D, Z] -> [D, n]
        """base + nu A."""
        if len(self.thin) == 0:
            return torch.addmm(base, nu, self.matrix)
        found = torch.addmm(base, nu[:, self.full], self.matrix)
        return found.add_((self.columns @ nu[:, self.thin].T).T)

    def along(self, base: Tensor, x: Tensor) -> Tensor:  # [Z] and [D, n] -> [D, Z]
        """base + A x."""
        if len(self.thin) == 0:
            return torch.addmm(base, x, self.matrix.T)
        found = base.repeat(len(x), 1)
        found[:, self.full] += x @ self.matrix.T
        found[:, self.thin] += (self.rows @ x.T).T
        return found


def _compressed(matrix: Tensor) -> Tensor:  # [k, n]
    """By rows, without the zeros."""
    _warned()
    return matrix.contiguous().to_sparse_csr()


@cache
def _warned() -> None:
    """torch says once that these tensors are a beta: now, when nobody hears it."""
    with quiet_warnings():
        torch.zeros(1, 1).to_sparse_csr()
