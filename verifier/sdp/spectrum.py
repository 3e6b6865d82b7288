"""Upper bounds of spectral norms that hold whatever the rounding errors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verifier.rounding import gamma, unit_roundoff

UNIT = unit_roundoff(torch.float64)
#: what a sum loses at most by gradual underflow, per product
TINY = torch.finfo(torch.float64).tiny


def up(value: float, operations: int) -> float:
    """A computed number >= 0, made at least the exact one: `operations` roundings, all of numbers >= 0."""
    return value * (1 + 2 * gamma(operations + 2, UNIT)) if math.isfinite(value) else math.inf


def frobenius_bound(matrix: Tensor) -> float:  # [m, n]
    """Upper bound of the Frobenius norm, which is one of the spectral norm."""
    if matrix.numel() == 0:
        return 0.0
    size = float(matrix.abs().max())
    if size == 0 or not math.isfinite(size):
        return 0.0 if size == 0 else math.inf
    total = float((matrix / size).square().sum()) + matrix.numel() * TINY
    return up(size * math.sqrt(total), matrix.numel() + 4)


def norm_bound(matrix: Tensor) -> float:
    """Upper bound of the spectral norm of a float64 matrix [r, c] exactly as given; infinite where it is not finite.

    With the Gram matrix G = K K^T (of the shorter side), a number t and any matrix R,

        G = t I - R R^T + E,   so   ||K||^2 = lambda_max(G) <= t + ||E||_F,

    for R R^T is positive semidefinite. Computed eigenvectors V and eigenvalues l of G give t = max l and
    R = V sqrt(t - l), hence a small E; but nothing is taken on their word, or on that of LAPACK: a wrong R makes E
    large, and E is evaluated. A computed product of matrices errs by at most gamma_n |A| |B|, in whatever order its
    sums are done (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.5), in norm by at most
    gamma_n ||A||_F ||B||_F. The trick is that of residual bounds for eigenvalues (Rump 2006, "Verification of positive
    definiteness", does it with a Cholesky factor). It costs about n u in relative precision.
    """
    crude = frobenius_bound(matrix)
    if crude == 0 or not math.isfinite(crude):
        return crude
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    short = short[(short != 0).any(1)]
    scale = 2.0 ** (math.frexp(float(short.abs().max()))[1] - 1)  # a power of two: only underflow rounds
    short = short / scale
    rows, columns = short.shape
    gram = short @ short.T
    gram = (gram + gram.T) / 2
    try:
        values, vectors = torch.linalg.eigh(gram)
    except RuntimeError:  # it did not converge
        return crude
    top = max(0.0, float(values.max()))
    root = vectors * (top - values).clamp(min=0).sqrt()
    negative = root @ root.T
    residual = gram + negative
    residual.diagonal().sub_(top)
    error = gamma(columns + 3, UNIT) * frobenius_bound(short) ** 2  # of the Gram matrix
    error += gamma(rows + 2, UNIT) * frobenius_bound(root) ** 2
    error += gamma(4, UNIT) * (frobenius_bound(gram) + frobenius_bound(negative) + top * math.sqrt(rows))
    error += 4 * rows * columns * columns * TINY
    found = up(scale * math.sqrt(top + frobenius_bound(residual) + 2 * error), 16)
    return min(found, crude) if math.isfinite(found) else crude
