"""Top eigenvectors of symmetric matrices that are known by their products with vectors only."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

#: how far below all eigenvalues directions that were not taken are on an accelerator, as a share of their bound
_APART = 1e-3


@torch.no_grad()
def top_eigenvectors(
    times: Callable[[Tensor], Tensor], start: Tensor, steps: int = 20
) -> tuple[Tensor, Tensor]:  # -> [S], [S, N]
    """The largest eigenvalue of each of S symmetric matrices, and a unit vector that belongs to it, by Lanczos.

    Both are estimates from the Krylov space of the start: the value is the vector's Rayleigh quotient, at most the
    eigenvalue (up to rounding), and nearer to it the more of the eigenvector is in the start.

    Args:
        times: [S, N] -> [S, N], vector s times matrix s.
        start: [S, N], no row zero: vectors of an earlier call are good ones.
        steps: products, one after another; N of them are exact.
    """
    count, size = start.shape
    steps = min(steps, size)
    basis = start.new_zeros(count, steps, size)
    alpha, beta = start.new_zeros(count, steps), start.new_zeros(count, steps)
    vector, largest = F.normalize(start, dim=1), start.new_zeros(count)
    for k in range(steps):
        basis[:, k] = vector
        found = basis[:, : k + 1]
        moved = times(vector)
        alpha[:, k] = (moved * vector).sum(1)
        for _ in range(2):  # against the whole basis, twice: rounding would lose orthogonality otherwise
            moved = moved - _combined(found, (moved.unsqueeze(1) @ found.mT).squeeze(1))
        length = moved.norm(dim=1)
        largest = torch.maximum(largest, alpha[:, k].abs() + length)
        # a space that the matrix maps into itself is complete; all that follows is zero
        goes_on = length > 4 * size * torch.finfo(start.dtype).eps * largest
        beta[:, k] = torch.where(goes_on, length, 0.0)
        vector = torch.where(goes_on.unsqueeze(1), moved / length.unsqueeze(1), 0.0)
    # below all eigenvalues, so that directions that were not taken do not count
    bound = alpha.abs().amax(1) + 2 * beta.amax(1)
    never = -(bound + 1) if start.device.type == "cpu" else -(1 + _APART) * bound
    taken = torch.cat([torch.ones_like(beta[:, :1], dtype=torch.bool), beta[:, :-1] > 0], 1).cummin(1).values
    small = torch.diag_embed(torch.where(taken, alpha, never.unsqueeze(1)))
    if steps > 1:
        beside = torch.diag_embed(beta[:, :-1], 1)
        small = small + beside + beside.mT
    if start.device.type == "cpu":
        values, vectors = torch.linalg.eigh(small)
        value, vector = values[:, -1], vectors[:, :, -1]
    else:
        value, vector = _top_by_squares(small, -never)
    return value, F.normalize(_combined(basis, vector), dim=1)


def _top_by_squares(small: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:  # [S, K, K], [S] -> [S], [S, K]
    """The top eigenvalues and vectors of matrices whose eigenvalues are above -shift.

    By squaring until all others are rounding errors: `eigh` of an accelerator waits to see whether it went well.
    """
    power = small + torch.diag_embed(shift.unsqueeze(1).expand(small.shape[:2]))
    tiny = torch.finfo(small.dtype).tiny
    for _ in range(1 - int(math.log2(torch.finfo(small.dtype).eps))):
        power = power / power.abs().amax((1, 2), keepdim=True).clamp(min=tiny)
        power = power @ power
    column = power.norm(dim=1).argmax(1).reshape(-1, 1, 1).expand(-1, small.shape[1], 1)
    vector = F.normalize(power.gather(2, column).squeeze(2), dim=1)
    return (_combined(small, vector) * vector).sum(1), vector


def _combined(basis: Tensor, coefficients: Tensor) -> Tensor:  # [S, K, N], [S, K] -> [S, N]
    # a row vector times a matrix: the other way round, and torch.einsum, take ten times as long on a CPU
    return (coefficients.unsqueeze(1) @ basis).squeeze(1)
