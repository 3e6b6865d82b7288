"""Products that are summed in runs, as those of a matrix product are: pulled back without writing them out per row.

The products of A [.., I, J] and B [.., J, K] are a_ij b_jk, and their sums over j are A B. Below the sums, a form has
one coefficient for each i, k, not i, j, k. On a_ij it becomes the sum over k of that coefficient times the plane's
slope, which is a product of matrices for each i; on b_jk one for each k. Planes stay those of each product by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.ops.base import LinearRelaxation
from verifier.ops.product import Product


@dataclass(frozen=True)
class MatrixProduct:
    """M = L I K J products in this order: [l, i, :, j] have one left factor, and [l, :, k, j] one right factor."""

    op: Product
    lead: int
    rows: int
    columns: int
    inner: int

    @classmethod
    def of(cls, op: Product, inner: int) -> MatrixProduct | None:
        """The products as those of matrices, summed over runs of `inner`; None where they are none."""
        left, right = (index.reshape(-1, inner) for index in (op.left, op.right))
        columns = _equal(left)
        if len(left) % columns:
            return None
        rows = _equal(right.reshape(len(left) // columns, -1))
        if len(left) % (rows * columns):
            return None
        found = cls(op, len(left) // (rows * columns), rows, columns, inner)
        left, right = (index.view(found.shape) for index in (op.left, op.right))
        same = (left == left[:, :, :1]).all() & (right == right[:, :1]).all()
        return found if bool(same) else None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.lead, self.rows, self.columns, self.inner

    def below(self, lines: LinearRelaxation, nu_hat: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """nu [B, S, size] on the node of the factors, and the constants [B, S], for planes that all rows share.

        Args:
            lines: slopes [B, 2, M], biases [B, M]. nu_hat: [B or 1, S, L I K], of the sums.
        """
        sides = nu_hat.clamp(min=0), nu_hat.clamp(max=0)
        biases = (b.unflatten(1, (-1, self.inner)).sum(2).unsqueeze(1) for b in (lines.lower_bias, lines.upper_bias))
        constant = sum((torch.linalg.vecdot(s, b) for s, b in zip(sides, biases, strict=True)), nu_hat.new_zeros(()))
        planes = [s.unflatten(2, self.shape) for s in (lines.lower_slope, lines.upper_slope)]  # [B, 2, L, I, K, J]
        signed = [s.unflatten(2, self.shape[:3]) for s in sides]  # [B, S, L, I, K]
        if lines.parallel:
            planes, signed = planes[:1], [nu_hat.unflatten(2, self.shape[:3])]
        left = torch.cat([s.permute(0, 2, 3, 1, 4) for s in signed], 4) @ torch.cat([p[:, 0] for p in planes], 3)
        columns = [p[:, 1].transpose(2, 3) for p in planes]  # [B, L, K, I, J]
        right = torch.cat([s.permute(0, 2, 4, 1, 3) for s in signed], 4) @ torch.cat(columns, 3)
        nu = left.new_zeros(left.shape[0], left.shape[3], size)
        for index, part in (
            (self.op.left.view(self.shape)[:, :, 0], left),
            (self.op.right.view(self.shape)[:, 0], right),
        ):
            nu = nu.index_add(2, index.flatten(), part.permute(0, 3, 1, 2, 4).flatten(2))
        return nu, constant


def _equal(rows: Tensor) -> int:  # [n, m]
    """How many of the first rows are equal."""
    other = (rows != rows[:1]).any(1).nonzero()
    return len(rows) if len(other) == 0 else int(other[0, 0])
