"""The bilinear form that bounds how far a row moves: slopes against directions of the input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.rounding import gamma
from verifier.sdp.spectrum import TINY, UNIT
from verifier.sdp.two_layer import TwoLayer


@dataclass(frozen=True)
class Coupling:
    """S rows v . act(W x + b) + g . x of one network.

    Between x and x + d every neuron has a slope s_i in [low, high] with act(z') - act(z) = s_i (z' - z). With
    s = middle + half tau, tau in [-1, 1]^m, the row moves by

        (1, tau)^T B d,   B = [g + middle W^T v, half diag(v) W]   [1 + m, n].

    For slopes in [0, 1], g = 0 and |d_j| <= eps this is eq. 6-7 of Raghunathan et al. (2018): M(v, W) of eq. 8 is
    twice [[0, B^T], [B, 0]], in another order. Since B(-v, -g) = -B(v, g), and the signs of d are free, a row and its
    negative have the same maximum: one problem per pair of classes.
    """

    network: TwoLayer
    v: Tensor  # [S, m]
    g: Tensor  # [S, n]
    first: Tensor  # [S, n]: the first row of each B
    rest: Tensor  # [S, m]: half v

    @classmethod
    def of(cls, network: TwoLayer, functionals: Tensor) -> Coupling:  # [S, outputs]
        v, g = network.rows(functionals)
        return cls(network, v, g, g + network.middle * (v @ network.weights), network.half * v)

    def select(self, index: Tensor) -> Coupling:  # [k] int64 or [S] bool
        return Coupling(self.network, self.v[index], self.g[index], self.first[index], self.rest[index])

    def transposed(self, left: Tensor) -> Tensor:  # [1 + m, S, k] -> [n, S, k]
        """B^T times vectors, for all rows in one product with W."""
        scaled = left[1:] * self.rest.T.unsqueeze(2)
        through = self.network.weights.T @ scaled.flatten(1)
        return through.unflatten(1, left.shape[1:]).addcmul_(self.first.T.unsqueeze(2), left[:1])

    def times(self, right: Tensor) -> Tensor:  # [n, S, k] -> [1 + m, S, k]
        """B times vectors, for all rows in one product with W."""
        through = (self.network.weights @ right.flatten(1)).unflatten(1, right.shape[1:])
        top = (self.first.T.unsqueeze(2) * right).sum(0, keepdim=True)
        return torch.cat([top, through.mul_(self.rest.T.unsqueeze(2))])

    def matrix(self, row: int) -> Tensor:  # [1 + m, n]
        """B of one row, written out: its first row sums of products, the others two roundings from exact."""
        return torch.cat([self.first[row : row + 1], self.rest[row].unsqueeze(1) * self.network.weights])

    def first_error(self, row: int) -> Tensor:  # [n]
        """Rounding error of the first row of `matrix`."""
        m = len(self.v[row])
        size = self.g[row].abs() + abs(self.network.middle) * (self.v[row].abs() @ self.network.weights.abs())
        return 1.01 * gamma(m + 6, UNIT) * size + torch.where(size > 0, 4 * m * TINY, 0.0)
