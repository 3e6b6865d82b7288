"""The linear program of one case: where nothing is left to split it is exact, and ascent need not reach it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_array, hstack, vstack
from torch import Tensor

from solvers import Program, Status, backend
from verifier.branching.dual import Domains, Hulls, evaluate
from verifier.branching.matrices import Matrices
from verifier.encoding.hull import Facet, facets
from verifier.encoding.planes import Planes, around

#: programs of one case at most, on a set that is no box
ROUNDS = 8
#: a plane has to cut off this share of what it reaches across the box
MARGIN = 1e-6


def linear_programs(net: Matrices, domain: Domains, seconds: float) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """What `linear_program` gives for one case: once on a box, else again and again with planes that cut it off."""
    if net.inputs.is_box:
        yield linear_program(net, domain, seconds)
        return
    ends = time.monotonic() + seconds
    with torch.no_grad():
        form = evaluate(net, Hulls.of(net, domain), domain.row, domain.alpha, domain.gamma).on_input
    planes = Planes.of_inequalities(net.inputs).joined(Planes.of_forms(net.inputs, _shaped(net, form)))
    for _ in range(ROUNDS):
        nu, point = linear_program(net, domain, ends - time.monotonic(), planes)
        yield nu, point
        if nu is None or point is None or time.monotonic() > ends:
            return
        form = net.row_input[domain.row] + nu @ net.to_input
        more, cut = around(net.inputs, _shaped(net, point.unsqueeze(0)), _shaped(net, form), MARGIN)
        if not cut.any():
            return
        planes = planes.joined(more)


def _shaped(net: Matrices, flat: Tensor) -> Tensor:  # [k, n] -> [k, *input]
    return flat.unflatten(1, net.inputs.shape)


def linear_program(
    net: Matrices, domain: Domains, seconds: float, planes: Planes | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Multipliers nu [1, M] and a minimiser [n] of one case over a box, by HiGHS; None for what it does not give.

    The multipliers are the solver's word. They are worth what `bound_at` makes of them.

    Args:
        net, domain: in float64; the domain holds one case.
        planes: half-spaces that hold the set, where it is no box.
    """
    low, high = (t.flatten().numpy() for t in net.inputs.box(torch.float64))
    pieces = Hulls.of(net, domain).pieces
    x, y = (np.concatenate([_padded(getattr(p, axis)[:, 0].numpy(), pieces) for p in pieces], 1) for axis in "xy")
    sides = facets(x, y)
    on_input, on_free = csr_array(net.to_input.numpy()), csr_array(net.to_free.numpy())
    ends = domain.lower[0].numpy() - net.bias.numpy(), domain.upper[0].numpy() - net.bias.numpy()
    blocks = [hstack([on_input, on_free])]
    lower, upper = [ends[0]], [ends[1]]
    for side in sides:
        at = np.flatnonzero(side.valid)
        blocks.append(_side(side, at, on_input, on_free))
        limit = side.bias[at] + side.slope[at] * net.bias.numpy()[at]
        none = np.full(len(at), np.inf)
        lower.append(limit if side.below else -none)
        upper.append(none if side.below else limit)
    program = Program(
        csr_array(vstack(blocks)), np.concatenate(lower), np.concatenate(upper),
        np.concatenate([low, y.min(0)]), np.concatenate([high, y.max(0)]), np.zeros(len(low) + len(y[0]), dtype=bool),
    )  # fmt: skip
    if planes is not None:
        rows, limits = planes.on_columns(np.eye(len(low)), np.zeros(len(low)), (low, high))
        rows = np.pad(rows, ((0, 0), (0, len(y[0]))))
        program = program.with_rows(rows, limits, np.full(len(limits), np.inf))
    row = int(domain.row[0])
    with backend("highs").load(program) as session:
        answer = session.minimise(torch.cat([net.row_input[row], net.row_free[row]]).numpy(), seconds=seconds)
    if answer.status is not Status.OPTIMAL or answer.row_duals is None or answer.primal is None:
        return None, None
    nu, first = -answer.row_duals[: net.free], net.free
    for side in sides:
        at = np.flatnonzero(side.valid)
        nu[at] += answer.row_duals[first : first + len(at)] * side.slope[at]
        first += len(at)
    return torch.from_numpy(nu).unsqueeze(0), torch.from_numpy(answer.primal[: len(low)])


def _padded(points: np.ndarray, pieces: tuple) -> np.ndarray:
    """Points [K, m] with the last one repeated, up to the most of any block."""
    most = max(len(p.x) for p in pieces)
    return np.concatenate([points, np.repeat(points[-1:], most - len(points), 0)])


def _side(side: Facet, at: np.ndarray, on_input: csr_array, on_free: csr_array) -> csr_array:
    """The rows y - slope z of one side, for the neurons `at`."""
    slope = csr_array((side.slope[at], (np.arange(len(at)), at)), shape=(len(at), len(side.slope)))
    own = csr_array((np.ones(len(at)), (np.arange(len(at)), at)), shape=slope.shape)
    return hstack([-(slope @ on_input), own - slope @ on_free])
