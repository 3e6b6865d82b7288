"""The semidefinite programs themselves, solved in low rank.

Not by the ascent of verifier.relaxation.ascent: each half of the vectors has its optimum in closed form while the other
half stays, so that there is no gradient, no step length and nothing to project.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.sdp.coupling import Coupling

#: sweeps between two looks at the gain
_STRIDE = 20


@dataclass(frozen=True)
class Ascent:
    """Where the ascent for S rows stands; the vectors are all that it takes to go on from here."""

    vectors: Tensor  # [1 + m, S, k]: unit vectors of the slopes
    left: Tensor  # [S, 1 + m]: dual variables of the slopes, >= 0
    right: Tensor  # [S, n]: dual variables of the inputs, >= 0
    value: Tensor  # [S]: reached by a feasible point, up to rounding: no dual bound can be lower
    finished: Tensor  # [S] bool: the last sweeps gained next to nothing, or there were enough of them


def rank(neurons: int, inputs: int) -> int:
    """Enough columns: k (k + 1) / 2 > number of constraints (Barvinok 1995; Pataki 1998)."""
    return min(neurons + inputs + 1, math.isqrt(2 * (neurons + inputs + 1)) + 1)


def begin(coupling: Coupling, seed: int = 0) -> Tensor:
    """Random unit vectors to start with, [1 + m, S, k]."""
    m, n = coupling.network.weights.shape
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(m + 1, 1, rank(m, n), generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=2).repeat(1, len(coupling.v), 1)


def ascend(
    coupling: Coupling, vectors: Tensor, until: float = math.inf, sweeps: int = 1000, gain: float = 1e-7
) -> Ascent:
    """Maximise sum_ij B_ij u_i . w_j over unit vectors: max <M, P> / 4 over P >= 0 with diag(P) = 1, P = Y Y^T.

    The mixing method (Wang, Chang & Kolter 2017): each vector in turn goes where the sum over the others points. Here
    inputs are coupled to slopes only, so that all inputs' vectors move at once, then all slopes'. At a fixed point the
    lengths of those sums are dual optimal: p_i = |sum_j B_ij w_j| and q_j = |sum_i B_ij u_i|.

    Args:
        vectors: [1 + m, S, k], of `begin`, or of an ascent that was stopped. until: a time of `time.monotonic`.
        sweeps: at most.
        gain: a row is finished when `_STRIDE` sweeps raised its value by a smaller share.
    """
    left = coupling.v.new_zeros(vectors.shape[1], vectors.shape[0])
    right, value = torch.zeros_like(coupling.g), coupling.v.new_zeros(len(coupling.v))
    finished, vectors = torch.zeros_like(value, dtype=torch.bool), vectors.clone()
    active, part, moving = torch.arange(len(value)), coupling, vectors
    for sweep in range(1, sweeps + 1):
        inputs, q = _unit(part.transposed(moving))
        moving, p = _unit(part.times(inputs), moving)
        looking, late = sweep % _STRIDE == 0, time.monotonic() > until
        if not (looking or late or sweep == sweeps):
            continue
        reached = p.sum(0)
        done = ~(reached - value[active] > gain * reached) & looking | (sweep == sweeps)
        vectors[:, active], value[active], finished[active] = moving, reached, done
        left[active], right[active] = p.T, q.T
        if bool(done.any()):
            active, part, moving = active[~done], part.select(~done), moving[:, ~done]
        if len(active) == 0 or late:
            break
    # the inputs' dual variables that belong to the last slopes
    return Ascent(vectors, left, coupling.transposed(vectors).norm(dim=2).T, value, finished)


def _unit(vectors: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Vectors [k, S, rank] at length 1 and their lengths [k, S]; where the length is 0, those `before`."""
    length = vectors.norm(dim=2)
    if before is None:
        return vectors / length.unsqueeze(2).where(length.unsqueeze(2) > 0, 1.0), length
    return torch.where(length.unsqueeze(2) > 0, vectors / length.unsqueeze(2), before), length
